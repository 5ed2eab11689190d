//! Kernel settings of the calling thread's network namespace (`/proc/sys/net`): set
//! only where they are something else, and told.

use std::fs;
use std::io;

use super::error::{Error, Result};

/// Sets `net/KEY`; gives the sentence to log if it was something else before.
pub(super) fn set(key: &str, value: &str) -> Result<Option<String>> {
    let path = format!("/proc/sys/net/{key}");
    let failed = |error| {
        Error::new("set", format!("net.{}", key.replace('/', ".")), error)
            .with_remedy("is /proc/sys mounted read-only?")
    };
    let before = fs::read_to_string(&path).map_err(failed)?;
    if before.trim() == value {
        return Ok(None);
    }
    fs::write(&path, value).map_err(failed)?;
    Ok(Some(format!("net.{} was {}, is {value}", key.replace('/', "."), before.trim())))
}

/// The same where the kernel may lack the setting.
pub(super) fn set_if_there(key: &str, value: &str) -> Result<Option<String>> {
    match set(key, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other,
    }
}

/// Whether the calling thread's network has IPv6: the kernel may be booted with
/// `ipv6.disable=1`, or an administrator have switched it off.
pub fn has_ipv6() -> bool {
    let off = fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6");
    off.is_ok_and(|off| off.trim() == "0")
}

/// Lets packets be forwarded, which networks with an outside need. A machine that
/// forwards IPv6 ignores router advertisements unless told otherwise (`accept_ra`),
/// and would lose its own default route when that expires: interfaces that listened
/// to them go on doing so.
pub(super) fn forward(v6: bool) -> Result<Vec<String>> {
    let mut changes: Vec<String> = set("ipv4/ip_forward", "1")?.into_iter().collect();
    if !v6 {
        return Ok(changes);
    }
    let all = "ipv6/conf/all/forwarding";
    let is_on = fs::read_to_string(format!("/proc/sys/net/{all}")).is_ok_and(|on| on.trim() == "1");
    if !is_on {
        for entry in fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| !["all", "lo"].contains(name)) else {
                continue;
            };
            let key = format!("ipv6/conf/{name}/accept_ra");
            if fs::read_to_string(format!("/proc/sys/net/{key}")).is_ok_and(|on| on.trim() == "1") {
                changes.extend(set_if_there(&key, "2")?);
            }
        }
    }
    changes.extend(set(all, "1")?);
    Ok(changes)
}
