//! What a container may do, in Docker's words. Pure.

use bollard_stubs::models::HostConfig;

use crate::manifest::model::{Container, Userns};

pub(super) fn security(
    host: &HostConfig,
    container: &mut Container,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    let security = &mut container.security;
    // Docker's default; a manifest's is the other way round.
    security.no_new_privileges = false;
    security.read_only = host.readonly_rootfs.unwrap_or(false);
    security.cap_add = host.cap_add.clone().unwrap_or_default();
    security.cap_drop = host.cap_drop.clone().unwrap_or_default();
    for (what, names) in [("CapAdd", &security.cap_add), ("CapDrop", &security.cap_drop)] {
        for name in names {
            let bare = name.to_ascii_uppercase();
            let bare = bare.strip_prefix("CAP_").unwrap_or(&bare);
            if bare != "ALL" && crate::spec::capabilities::number(bare).is_none() {
                return Err(format!("invalid {what}: unknown capability: \"CAP_{bare}\""));
            }
        }
    }
    // What `systempaths=unconfined` is when Docker's command sends it.
    let hides_nothing = |paths: &Option<Vec<String>>| paths.as_ref().is_some_and(Vec::is_empty);
    security.unmask = hides_nothing(&host.masked_paths) && hides_nothing(&host.readonly_paths);
    match host.userns_mode.as_deref() {
        None | Some("") => {}
        Some("host") => security.userns = Userns::Host,
        Some(other) => return Err(format!("invalid USER mode: {other}")),
    }
    for option in host.security_opt.iter().flatten() {
        let (key, value) = option.split_once(['=', ':']).unwrap_or((option, "true"));
        match (key, value) {
            ("no-new-privileges", value) => security.no_new_privileges = value != "false",
            ("seccomp", "unconfined") => security.seccomp = "unconfined".to_owned(),
            ("seccomp", "builtin" | "default") => {}
            // Docker's command sends the file's content.
            ("seccomp", text) if text.starts_with(['/', '{']) => security.seccomp = text.to_owned(),
            ("seccomp", _) => {
                return Err(format!("Decoding seccomp profile failed: {value:?} is not JSON"));
            }
            ("systempaths", "unconfined") => security.unmask = true,
            ("apparmor" | "label" | "writable-cgroups", _) => {
                warnings.push(format!("security option {key:?} has no effect in Berth"));
            }
            _ => return Err(format!("invalid --security-opt 2: {option:?}")),
        }
    }
    if host.privileged == Some(true) {
        security.userns = Userns::Host;
        security.unmask = true;
        security.cap_add = vec!["ALL".to_owned()];
        security.cap_drop = Vec::new();
        // A profile that is named holds all the same, as with Docker.
        if security.seccomp == "default" {
            security.seccomp = "unconfined".to_owned();
        }
        warnings.push(
            "privileged: it has all capabilities and the host's ids; devices are those that \
             --device names"
                .to_owned(),
        );
    }
    Ok(())
}
