//! Docker's legacy links (`--link db:database`): another name for a container, seen by
//! this one alone. Pure.

use bollard_stubs::models::ContainerCreateBody;

use super::Surroundings;
use crate::manifest::model::{Container, NetworkMode};

/// Adds what is needed for each link to be found: nothing where the resolver knows the
/// name, otherwise a line of `/etc/hosts`. The address is kept by the other container
/// until it is removed.
///
/// # Errors
/// There is no such container.
pub(super) fn links(
    body: &ContainerCreateBody,
    container: &mut Container,
    surroundings: &Surroundings<'_>,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    if container.network_mode() != NetworkMode::Bridge {
        return Ok(());
    }
    let host = body.host_config.iter().flat_map(|host| host.links.iter().flatten());
    let endpoints = body.networking_config.iter().flat_map(|c| c.endpoints_config.iter().flatten());
    let endpoints = endpoints.flat_map(|(_, settings)| settings.links.iter().flatten());
    let must_be = host.map(|link| (link, true)).chain(endpoints.map(|link| (link, false)));
    for (link, must_be) in must_be {
        // Also as inspect tells it: /db:/web/database.
        let (which, alias) = link.split_once(':').unwrap_or((link, link));
        let which = which.trim_start_matches('/');
        let alias = alias.rsplit('/').next().unwrap_or(alias);
        let Some((name, other)) = (surroundings.container)(which) else {
            // Not 404: Docker's command would look for a missing image.
            if must_be {
                return Err(format!("could not get container for {which}: No such container"));
            }
            warnings.push(format!("link to {which}: it is not there yet, so {alias} is not known"));
            continue;
        };
        let theirs = other.network.members();
        let ours = container.network.members();
        let shared = theirs.iter().filter(|one| ours.iter().any(|own| own.name == one.name));
        let mut known = shared.flat_map(|one| &one.alias).chain(&other.network.alias);
        let hosts = &container.network.extra_hosts;
        let said = || hosts.iter().any(|extra| extra.name == alias);
        if alias == name || known.any(|known| known == alias) || said() {
            continue;
        }
        match (surroundings.address)(&name) {
            Some(address) => {
                container.network.extra_hosts.push(format!("{alias}:{address}").parse()?);
            }
            None => warnings.push(format!(
                "link to {name}: it has no address yet, so {alias} is not known; start it first"
            )),
        }
    }
    Ok(())
}
