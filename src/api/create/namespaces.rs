//! Namespaces that are shared, in Docker's words. Pure.

use bollard_stubs::models::{HostConfig, HostConfigCgroupnsModeEnum};

use super::{Surroundings, some};
use crate::manifest::model::{Cgroupns, Container, Ipc, Isolation, Sharing};
use crate::manifest::scalar::Name;

pub(super) fn namespaces(
    host: &HostConfig,
    container: &mut Container,
    surroundings: &Surroundings<'_>,
) -> Result<(), String> {
    let shared = &mut container.namespaces;
    let another = |kind: &str, mode: &str| -> Result<Option<(Name, Container)>, String> {
        let Some(which) = mode.strip_prefix("container:").filter(|which| !which.is_empty()) else {
            return match mode.starts_with("container") {
                true => Err(format!("invalid {kind} mode: {mode}")),
                false => Ok(None),
            };
        };
        let missing = || format!("No such container: {which}");
        let (name, other) = (surroundings.container)(which).ok_or_else(missing)?;
        if other.isolation == Isolation::None {
            return Err(format!("the {kind} namespace of {name} is the host's: say \"host\""));
        }
        Ok(Some((name.parse()?, other)))
    };
    for (kind, mode, sharing) in
        [("PID", &host.pid_mode, &mut shared.pid), ("UTS", &host.uts_mode, &mut shared.uts)]
    {
        let Some(mode) = some(mode.clone()) else { continue };
        *sharing = match another(kind, &mode)? {
            Some((name, _)) => Sharing::Container(name),
            None if mode == "host" => Sharing::Host,
            None => return Err(format!("invalid {kind} mode: {mode}")),
        };
    }
    if let Some(mode) = some(host.ipc_mode.clone()) {
        shared.ipc = match another("IPC", &mode)? {
            Some((name, other)) if !other.namespaces.ipc.can_be_joined() => {
                return Err(format!(
                    "can't join IPC of container {name}: non-shareable IPC (hint: use \
                     IpcMode:shareable for the donor container)"
                ));
            }
            Some((name, _)) => Ipc::Container(name),
            None => mode.parse().map_err(|_: String| format!("invalid IPC mode: {mode}"))?,
        };
    }
    if host.cgroupns_mode == Some(HostConfigCgroupnsModeEnum::HOST) {
        shared.cgroup = Cgroupns::Host;
    }
    if container.hostname.is_some() && shared.uts != Sharing::Private {
        return Err("conflicting options: hostname and the UTS mode".to_owned());
    }
    Ok(())
}
