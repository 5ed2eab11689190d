//! Docker's legacy links (`--link db:database`) of the default network: another name for
//! a container, seen by this one alone, and variables that tell of it. Those of a named
//! network are its member's (`link`). Pure.

use std::collections::BTreeMap;

use bollard_stubs::models::ContainerCreateBody;

use serde_json::Value;

use super::{Surroundings, kept_of_host};
use crate::api::endpoints;
use crate::manifest::model::{Container, NetworkMode};
use crate::network::spec::DEFAULT_NETWORK;

/// Where the links that a client asked for are kept.
const KEPT_LINKS: &str = "HostConfig.Links";

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
    // Also as inspect tells it: /db:/web/database.
    let parts = |link: &'_ String| {
        let (which, alias) = link.split_once(':').unwrap_or((link, link));
        let alias = alias.rsplit('/').next().unwrap_or(alias);
        (which.trim_start_matches('/').to_owned(), alias.to_owned())
    };
    let asked = body.host_config.iter().flat_map(|host| host.links.iter().flatten()).map(parts);
    // Docker's command says those of a named network in both places.
    if let Some(first) = container.network.networks.first_mut()
        && first.name != DEFAULT_NETWORK
    {
        if first.link.is_empty() {
            let links = asked.map(|(which, alias)| format!("{which}:{alias}").parse());
            first.link = links.collect::<Result<_, _>>()?;
        }
        // The resolver knows names, and ids as a whole.
        for link in &mut first.link {
            if let Some((name, _)) = (surroundings.container)(&link.container) {
                link.container = name;
            }
        }
        return Ok(());
    }
    for (which, alias) in asked {
        let (which, alias) = (which.as_str(), alias.as_str());
        let Some((name, other)) = (surroundings.container)(which) else {
            // Not 404: Docker's command would look for a missing image.
            return Err(format!("could not get container for {which}: No such container: {which}"));
        };
        container.env.extend(variables(&name, alias, &other, surroundings));
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

/// The same container without a link of this name, if it has one. Its environment is not
/// touched: that of who runs can't be.
pub fn without_link(container: &Container, alias: &str) -> Option<Container> {
    let mut container = container.clone();
    let mut found = false;
    if let Some(Value::Array(mut links)) = kept_of_host(&container, "Links") {
        let before = links.len();
        links.retain(|link| {
            let link = link.as_str().unwrap_or_default();
            link.rsplit([':', '/']).next() != Some(alias)
        });
        found |= links.len() < before;
        container.docker.insert(KEPT_LINKS.to_owned(), Value::from(links).to_string());
        if found {
            container.network.extra_hosts.retain(|extra| extra.name != alias);
        }
    }
    for member in &mut container.network.networks {
        let before = member.link.len();
        member.link.retain(|link| link.alias != alias);
        found |= member.link.len() < before;
    }
    found.then_some(container)
}

/// What Docker's legacy links tell in a container's environment of another one.
fn variables(
    name: &str,
    alias: &str,
    other: &Container,
    surroundings: &Surroundings<'_>,
) -> BTreeMap<String, String> {
    let image = (surroundings.image)(name);
    let prefix = alias.to_uppercase().replace('-', "_");
    let mut told = BTreeMap::new();
    let mut tell = |key: String, value: String| drop(told.insert(format!("{prefix}_{key}"), value));
    tell("NAME".into(), format!("/{}/{alias}", surroundings.name));
    if let Some(address) = (surroundings.address)(name) {
        let mut ports: Vec<(u16, String)> = image
            .exposed_ports
            .iter()
            .cloned()
            .chain(endpoints::said_exposed(other))
            .chain(endpoints::exposed(other))
            .filter_map(|port| {
                let (number, protocol) = port.split_once('/').unwrap_or((&port, "tcp"));
                Some((number.parse().ok()?, protocol.to_owned()))
            })
            .collect();
        ports.sort();
        ports.dedup();
        for (at, (port, protocol)) in ports.iter().enumerate() {
            let whole = format!("{protocol}://{address}:{port}");
            if at == 0 {
                tell("PORT".into(), whole.clone());
            }
            let key = format!("PORT_{port}_{}", protocol.to_uppercase());
            tell(format!("{key}_ADDR"), address.to_string());
            tell(format!("{key}_PORT"), port.to_string());
            tell(format!("{key}_PROTO"), protocol.clone());
            tell(key, whole);
        }
    }
    let of_image = image.env.iter().filter_map(|variable| variable.split_once('='));
    let own = other.env.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    for (key, value) in of_image.chain(own).filter(|(key, _)| !matches!(*key, "HOME" | "PATH")) {
        tell(format!("ENV_{key}"), value.to_owned());
    }
    told
}
