//! Containers come onto networks and leave them (`connect`, `disconnect`).

use bollard_stubs::models::{NetworkConnectRequest, NetworkDisconnectRequest};
use hyper::StatusCode;
use hyper::body::Incoming;

use super::super::endpoints::{docker_name, member, put_on};
use super::super::events::tell;
use super::super::respond::{Answer, empty, failure, refused};
use super::super::settled::settled;
use super::super::{body, model};
use super::{WITHOUT, missing, named};
use crate::engine::handle::{Handle, Refusal, View};
use crate::engine::networks::NetworkView;
use crate::manifest::model::{Container, Member, NetworkMode};

pub async fn connect(handle: &Handle, which: &str, body: Incoming) -> Answer {
    let asked: NetworkConnectRequest = match body::read(body).await {
        Ok(asked) => asked,
        Err(answer) => return *answer,
    };
    if WITHOUT.iter().any(|(name, _)| *name == which) {
        return no_network(which);
    }
    let Some(name) = named(handle, which) else { return missing(which) };
    let (network, container) = (name.clone(), asked.container.clone());
    let changed = async {
        let settings = asked.endpoint_config.clone().unwrap_or_default();
        let wanted =
            Member { name: name.clone(), ..member(&name, &settings).map_err(Refusal::Invalid)? };
        let view = handle.find(&asked.container).await?;
        change(handle, view, move |members| {
            if members.iter().any(|member| member.name == name) {
                return Err(Refusal::Forbidden(format!(
                    "endpoint with name {} already exists in network {}",
                    asked.container,
                    docker_name(&name)
                )));
            }
            members.push(wanted);
            Ok(())
        })
        .await
    };
    match changed.await {
        Ok(()) => {
            // Who rests comes onto it with its start, which says so.
            if handle.find(&container).await.is_ok_and(|view| model::is_running(&view)) {
                moved(handle, "connect", &network, &container).await;
            }
            empty()
        }
        Err(refusal) => refused(refusal),
    }
}

pub async fn disconnect(handle: &Handle, which: &str, body: Incoming) -> Answer {
    let asked: NetworkDisconnectRequest = match body::read(body).await {
        Ok(asked) => asked,
        Err(answer) => return *answer,
    };
    if WITHOUT.iter().any(|(name, _)| *name == which) {
        return no_network(which);
    }
    let Some(name) = named(handle, which) else { return missing(which) };
    let (network, container) = (name.clone(), asked.container.clone());
    let changed = async {
        let container = asked.container.clone();
        let view = handle.find(&container).await?;
        change(handle, view, move |members| {
            let before = members.len();
            members.retain(|member| member.name != name);
            match before == members.len() {
                true => Err(Refusal::Conflict(format!(
                    "container {container} is not connected to network {}",
                    docker_name(&name)
                ))),
                false => Ok(()),
            }
        })
        .await
    };
    match changed.await {
        Ok(()) => {
            moved(handle, "disconnect", &network, &container).await;
            empty()
        }
        Err(refusal) => refused(refusal),
    }
}

fn no_network(which: &str) -> Answer {
    let message = format!(
        "container cannot be disconnected from {which} network or connected to {which} network"
    );
    failure(StatusCode::BAD_REQUEST, &message)
}

/// Tells that a container came onto a network, or left it.
async fn moved(handle: &Handle, action: &str, network: &str, container: &str) {
    let seen = handle.networks.seen();
    let view = seen.networks.get(network);
    let id = view.map(|view| view.id.as_str()).unwrap_or_default();
    let kind = view.map(NetworkView::driver).unwrap_or_default();
    let container = handle.find(container).await.map(|view| view.id).unwrap_or_default();
    let attributes = [("container", container.as_str()), ("type", kind)];
    tell(handle, ("network", action), (id, network), attributes);
}

/// The same container on other networks. Without any it has loopback alone; what it
/// publishes is kept until it is on one again, as Docker's daemon does.
fn with_members(
    manifest: &Container,
    edit: impl FnOnce(&mut Vec<Member>) -> Result<(), Refusal>,
) -> Result<Container, Refusal> {
    let mut manifest = manifest.clone();
    let mut members = match manifest.network_mode() {
        NetworkMode::Bridge => manifest.network.members(),
        NetworkMode::None => Vec::new(),
        other => {
            let why = format!(
                "container sharing network namespace with another container or host cannot be \
                 connected to any other network: it has the network mode {other}"
            );
            return Err(Refusal::Invalid(why));
        }
    };
    edit(&mut members)?;
    let network = &mut manifest.network;
    if members.is_empty() && network.publish.iter().any(|one| one.hold) {
        let why = "it is handed sockets of the host (hold), which need a network";
        return Err(Refusal::Conflict(why.to_owned()));
    }
    // They were the first member's; another one is first now.
    (network.ip, network.ip6, network.mac) = (None, None, None);
    put_on(&mut manifest, members).map_err(Refusal::Failed)?;
    Ok(manifest)
}

/// Changes the networks of a container that a client made, and waits until it is on
/// them.
async fn change(
    handle: &Handle,
    view: View,
    edit: impl FnOnce(&mut Vec<Member>) -> Result<(), Refusal> + Send + 'static,
) -> Result<(), Refusal> {
    let runs = model::is_running(&view);
    let changed = handle.change(view.which(), move |manifest| {
        let changed = with_members(manifest, edit)?;
        // The files in `/etc` would have to be others for that.
        if runs && manifest.image.is_none() && manifest.network_mode() != changed.network_mode() {
            let why = "without an image it can't leave its last network, or come onto its first \
                       one, while it runs; stop it first";
            return Err(Refusal::Conflict(why.to_owned()));
        }
        Ok(changed)
    });
    let changed = changed.await?;
    let mut wanted: Vec<String> =
        changed.network.networks.into_iter().map(|member| member.name).collect();
    wanted.sort_unstable();
    let is_so = |view: &View| {
        let mut on: Vec<&str> = view.endpoints.iter().map(|place| place.network.as_str()).collect();
        on.sort_unstable();
        on == wanted
    };
    settled(handle, &view, "the choice of networks", is_so).await.map_err(Refusal::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Container {
        toml::from_str(text).unwrap()
    }

    fn leave(name: &'static str) -> impl FnOnce(&mut Vec<Member>) -> Result<(), Refusal> {
        move |members| {
            members.retain(|member| member.name != name);
            Ok(())
        }
    }

    #[test]
    fn ports_outlast_the_time_without_a_network() {
        let on = read(
            "image = \"x\"\n[network]\nnetworks = [\"a\"]\npublish = [\"8080:80\", \"53:53/udp\"]\n",
        );
        let off = with_members(&on, leave("a")).unwrap();
        assert_eq!(off.network_mode(), NetworkMode::None);
        assert_eq!(crate::manifest::objections(&off), Vec::<String>::new());
        let back = with_members(&off, |members| {
            members.push(Member::of("b"));
            Ok(())
        })
        .unwrap();
        assert_eq!(back.network_mode(), NetworkMode::Bridge);
        let ports = |of: &Container| {
            let all = of.network.publish.iter().map(|one| one.mapping.to_string());
            all.collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(ports(&back), ports(&on));
        assert!(back.docker.is_empty(), "{:?}", back.docker);
    }

    #[test]
    fn what_the_first_network_had_does_not_go_to_the_next() {
        let two = read("image = \"x\"\n[network]\nip = \"10.0.0.9\"\nnetworks = [\"a\", \"b\"]\n");
        let one = with_members(&two, leave("a")).unwrap();
        assert_eq!(one.network.members(), [Member::of("b")]);
        let first = with_members(&two, leave("b")).unwrap();
        assert_eq!(first.network.members()[0].ip, Some("10.0.0.9".parse().unwrap()));
    }

    #[test]
    fn who_has_another_s_network_or_held_sockets_is_told() {
        let host = read("image = \"x\"\n[network]\nmode = \"host\"\n");
        assert!(matches!(with_members(&host, leave("a")), Err(Refusal::Invalid(_))));
        let held = read(
            "image = \"x\"\n[network]\nnetworks = [\"a\"]\npublish = [{ host = 80, hold = true }]\n",
        );
        assert!(matches!(with_members(&held, leave("a")), Err(Refusal::Conflict(_))));
    }
}
