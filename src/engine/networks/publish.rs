//! Published ports: each is bound as long as it is published, so that nobody else
//! takes it, and its name is known when somebody wants to.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{State, Wanted, told};
use crate::manifest::publish::{PortMapping, Protocol};
use crate::network::disk::{self, Lasting};
use crate::network::forward;
use crate::network::ipam::Lease;
use crate::network::ports;

/// A port of the host that is published.
#[derive(Debug)]
pub(super) struct Claim {
    pub address: Option<IpAddr>,
    pub port: u16,
    pub protocol: Protocol,
    pub to_port: u16,
    pub bypass: bool,
    /// Whether the kernel chose the port.
    pub is_free_choice: bool,
    socket: OwnedFd,
    /// Carries connections to `[::1]`, and where to.
    carrier: Option<(SocketAddr, tokio::task::AbortHandle)>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some((_, carrier)) = &self.carrier {
            carrier.abort();
        }
    }
}

impl Claim {
    /// Leads what the kernel does not translate to the container.
    pub fn point_to(&mut self, target: Lease, runtime: &tokio::runtime::Handle) {
        let loopback = IpAddr::V6(Ipv6Addr::LOCALHOST);
        if self.address.is_some_and(|address| address != loopback) {
            return;
        }
        let to = target.v6.map_or(IpAddr::V4(target.v4), IpAddr::V6);
        let to = SocketAddr::new(to, self.to_port);
        if self.carrier.as_ref().is_some_and(|(now, _)| *now == to) {
            return;
        }
        if let Some((_, carrier)) = self.carrier.take() {
            carrier.abort();
        }
        let Ok(copy) = self.socket.try_clone() else { return };
        let _entered = runtime.enter();
        let task = match self.protocol {
            Protocol::Tcp => {
                let listener = std::net::TcpListener::from(copy);
                let ready = listener.set_nonblocking(true).is_ok();
                let listener = tokio::net::TcpListener::from_std(listener).ok();
                listener.filter(|_| ready).map(|listener| runtime.spawn(forward::tcp(listener, to)))
            }
            Protocol::Udp => {
                let socket = std::net::UdpSocket::from(copy);
                let ready = socket.set_nonblocking(true).is_ok();
                let socket = tokio::net::UdpSocket::from_std(socket).ok();
                socket.filter(|_| ready).map(|socket| runtime.spawn(forward::udp(socket, to)))
            }
        };
        self.carrier = task.map(|task| (to, task.abort_handle()));
    }
}

fn none_free(mapping: &PortMapping) -> String {
    let outside = mapping.outside().unwrap_or_default();
    let at = mapping.address.map(|ip| format!(" of {ip}")).unwrap_or_default();
    format!("network.publish: every port of {outside}/{}{at} is in use", mapping.protocol)
}

/// Why a container does not get a port.
enum Refused {
    /// Another container of ours has it: a sentence.
    Published(String),
    /// What the system said.
    Unbound(ports::Unbound),
}

impl Refused {
    fn is_in_use(&self) -> bool {
        match self {
            Refused::Published(_) => true,
            Refused::Unbound(unbound) => unbound.is_in_use(),
        }
    }

    /// Who has it: looks through all processes, so it takes a while.
    fn explain(self) -> String {
        match self {
            Refused::Published(sentence) => sentence,
            Refused::Unbound(unbound) => format!("network.publish: {}", told(unbound.explain())),
        }
    }
}

/// Free ports that were chosen, as they are kept for the next engine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Chosen {
    address: Option<IpAddr>,
    container: u16,
    protocol: String,
    port: u16,
}

impl State {
    pub(super) fn ports_file(&self, name: &str) -> PathBuf {
        self.run_dir.join(format!("{name}.json"))
    }

    /// Binds what a container publishes; what it has already is kept.
    pub(super) fn claim(
        &self,
        wanted: &Wanted<'_>,
        target: Option<Lease>,
        old: &mut Vec<Claim>,
    ) -> Result<Vec<Claim>, String> {
        let chosen = self.read_ports(wanted.name);
        let mut kept = Vec::new();
        let mut made = Vec::new();
        for publish in wanted.manifest.network.publish.iter().filter(|one| !one.hold) {
            let mapping = publish.mapping;
            for (host, to_port) in mapping.pairs() {
                let is_it = |claim: &Claim| {
                    claim.address == mapping.address
                        && claim.protocol == mapping.protocol
                        && match host {
                            Some(port) => claim.port == port,
                            None => {
                                let fits =
                                    mapping.among().is_none_or(|all| all.contains(&claim.port));
                                claim.is_free_choice && claim.to_port == to_port && fits
                            }
                        }
                };
                if let Some(at) = old.iter().position(is_it) {
                    kept.push((at, to_port, publish.bypass));
                    continue;
                }
                let before = chosen.iter().find(|one| {
                    one.address == mapping.address
                        && one.container == to_port
                        && one.protocol == mapping.protocol.to_string()
                        && mapping.among().is_none_or(|all| all.contains(&one.port))
                });
                let port = host.or(before.map(|one| one.port)).unwrap_or(0);
                let bind = |port| self.bind(wanted.name, mapping.address, port, mapping.protocol);
                let socket = match (mapping.among(), host) {
                    (Some(all), _) => {
                        let made_here = |port: &u16| {
                            made.iter().any(|claim: &Claim| {
                                claim.port == *port && claim.protocol == mapping.protocol
                            })
                        };
                        let first = before.map(|one| one.port);
                        let mut free = first.into_iter().chain(all).filter(|one| !made_here(one));
                        let tried = free.find_map(|port| match bind(port) {
                            Err(refused) if refused.is_in_use() => None,
                            other => Some(other),
                        });
                        tried.ok_or_else(|| none_free(&mapping))?
                    }
                    // What was chosen before is somebody else's now.
                    (None, None) if port != 0 => bind(port).or_else(|_| bind(0)),
                    (None, _) => bind(port),
                };
                let socket = socket.map_err(Refused::explain)?;
                let bound = rustix::net::getsockname(socket.as_fd())
                    .ok()
                    .and_then(|bound| SocketAddr::try_from(bound).ok())
                    .map_or(port, |bound| bound.port());
                made.push(Claim {
                    address: mapping.address,
                    port: bound,
                    protocol: mapping.protocol,
                    to_port,
                    bypass: publish.bypass,
                    is_free_choice: host.is_none(),
                    socket,
                    carrier: None,
                });
            }
        }
        // Nothing was refused: from here on the old ones are changed.
        let mut all: Vec<Option<Claim>> = std::mem::take(old).into_iter().map(Some).collect();
        for (at, to_port, bypass) in kept {
            if let Some(mut claim) = all.get_mut(at).and_then(Option::take) {
                (claim.to_port, claim.bypass) = (to_port, bypass);
                made.push(claim);
            }
        }
        if let Some(target) = target {
            for claim in &mut made {
                claim.point_to(target, &self.runtime);
            }
        }
        Ok(made)
    }

    fn bind(
        &self,
        name: &str,
        address: Option<IpAddr>,
        port: u16,
        protocol: Protocol,
    ) -> Result<OwnedFd, Refused> {
        let meets = |claim: &&Claim| {
            claim.port == port
                && claim.protocol == protocol
                && (claim.address.is_none() || address.is_none() || claim.address == address)
        };
        let others = self.joined.iter().filter(|(other, _)| *other != name);
        for (other, joined) in others {
            if let Some(claim) = joined.claims.iter().find(meets) {
                let other = joined.called(other);
                let at = claim.address.map(|ip| format!(" of {ip}")).unwrap_or_default();
                return Err(Refused::Published(format!(
                    "network.publish: the port {port}/{protocol}{at} is published by the \
                     container {other} already"
                )));
            }
        }
        ports::claim(address, port, protocol).map_err(Refused::Unbound)
    }

    /// Notes the free ports that were chosen, for the next engine.
    pub(super) fn write_ports(&self, name: &str) -> Result<(), String> {
        let path = self.ports_file(name);
        let claims = self.joined.get(name).map(|joined| joined.claims.as_slice());
        let chosen: Vec<Chosen> = claims
            .unwrap_or_default()
            .iter()
            .filter(|claim| claim.is_free_choice)
            .map(|claim| Chosen {
                address: claim.address,
                container: claim.to_port,
                protocol: claim.protocol.to_string(),
                port: claim.port,
            })
            .collect();
        if chosen.is_empty() {
            let _ = fs::remove_file(path);
            return Ok(());
        }
        serde_json::to_vec(&chosen)
            .map_err(std::io::Error::from)
            .and_then(|text| disk::replace(&path, &text, 0o600, Lasting::Boot))
            .map_err(|error| format!("writing {}: {error}", path.display()))
    }

    fn read_ports(&self, name: &str) -> Vec<Chosen> {
        let bytes = fs::read(self.ports_file(name)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }
}
