//! Listening sockets that containers are handed: `publish = [{ host = 80, hold = true }]`.
//! The keeper holds them, so they outlive the container and the engine: a client that
//! comes meanwhile waits in the backlog. With `start = "on-demand"` the first one starts
//! the container.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::Interest;

use super::reconcile::{Event, Phase};
use super::run::{Effect, Engine};
use crate::manifest::model::{Container, Start};
use crate::manifest::publish::{PortMapping, Protocol};
use crate::manifest::scalar::Name;
use crate::network::ports;

/// A socket that is held for a container.
#[derive(Debug)]
pub(super) struct Held {
    /// What it is held under, behind the container's name.
    key: String,
    port: u16,
    protocol: Protocol,
    socket: OwnedFd,
}

/// What is held for one container, and who waits for its first client.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    held: Vec<Held>,
    waiting: Option<tokio::task::AbortHandle>,
    watching: Option<tokio::task::AbortHandle>,
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for task in [self.waiting.take(), self.watching.take()].into_iter().flatten() {
            task.abort();
        }
    }
}

/// Each held port of a manifest: its key, where it listens.
fn wanted(manifest: &Container) -> Vec<(String, PortMapping, u16)> {
    let held = manifest.network.publish.iter().filter(|one| one.hold);
    held.flat_map(|one| one.mapping.pairs().map(move |(host, _)| (one.mapping, host)))
        .filter_map(|(mapping, host)| {
            let port = host?;
            let at = match mapping.address {
                None => "*".to_owned(),
                Some(IpAddr::V4(address)) => address.to_string(),
                // As short as a tag must be.
                Some(IpAddr::V6(address)) => hex::encode(address.octets()),
            };
            Some((format!("{at}.{port}.{}", mapping.protocol), mapping, port))
        })
        .collect()
}

fn bind(mapping: PortMapping, port: u16) -> Result<OwnedFd, String> {
    let bind = |address: IpAddr| -> std::io::Result<OwnedFd> {
        let at = SocketAddr::new(address, port);
        Ok(match mapping.protocol {
            Protocol::Tcp => TcpListener::bind(at)?.into(),
            Protocol::Udp => UdpSocket::bind(at)?.into(),
        })
    };
    let all = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let bound = match (mapping.address, bind(mapping.address.unwrap_or(all))) {
        // A host without IPv6.
        (None, Err(error)) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            bind(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        }
        (_, bound) => bound,
    };
    bound.map_err(|error| {
        let owner = ports::owner(port, mapping.protocol);
        let owner = owner.map(|owner| format!("; {owner} has it")).unwrap_or_default();
        format!("network.publish: listening on {port}/{}: {error}{owner}", mapping.protocol)
    })
}

impl Engine {
    /// Sockets that the keeper held for an engine before us.
    pub(super) fn take_sockets(&mut self, held: &mut HashMap<String, OwnedFd>) {
        for (tag, socket) in held.extract_if(|tag, _| tag.starts_with("s/")) {
            let mut parts = tag.splitn(3, '/').skip(1);
            let name = parts.next().and_then(|name| name.parse::<Name>().ok());
            let (Some(name), Some(key)) = (name, parts.next()) else { continue };
            let mut words = key.rsplit('.');
            let protocol = match words.next() {
                Some("udp") => Protocol::Udp,
                _ => Protocol::Tcp,
            };
            let port = words.next().and_then(|port| port.parse().ok()).unwrap_or(0);
            let held = Held { key: key.to_owned(), port, protocol, socket };
            self.sockets.entry(name).or_default().held.push(held);
        }
    }

    /// Makes what a manifest wants held be held, and nothing else.
    ///
    /// # Errors
    /// A port is in use, and by whom.
    pub(super) fn hold_sockets(&mut self, name: &Name, manifest: &Container) -> Result<(), String> {
        let wanted = wanted(manifest);
        let mut all = self.sockets.remove(name).unwrap_or_default();
        let mut outcome = Ok(());
        let held = std::mem::take(&mut all.held);
        let (kept, gone): (Vec<Held>, Vec<Held>) =
            held.into_iter().partition(|held| wanted.iter().any(|(key, ..)| *key == held.key));
        for gone in gone {
            self.hold(&format!("s/{name}/{}", gone.key), None)?;
        }
        all.held = kept;
        for (key, mapping, port) in wanted {
            if all.held.iter().any(|held| held.key == key) {
                continue;
            }
            match bind(mapping, port) {
                Ok(socket) => {
                    self.hold(&format!("s/{name}/{key}"), Some(&socket))?;
                    all.held.push(Held { key, port, protocol: mapping.protocol, socket });
                }
                Err(error) => outcome = Err(error),
            }
        }
        if !all.held.is_empty() {
            self.sockets.insert(name.clone(), all);
        }
        outcome
    }

    /// Copies of what is held for a launch, with their names (sd_listen_fds(3)).
    pub(super) fn sockets_of(&mut self, name: &Name) -> Vec<(OwnedFd, String)> {
        let Some(sockets) = self.sockets.get_mut(name) else { return Vec::new() };
        if let Some(waiting) = sockets.waiting.take() {
            waiting.abort();
        }
        let copies = sockets.held.iter().filter_map(|held| {
            Some((held.socket.try_clone().ok()?, format!("{}-{}", held.port, held.protocol)))
        });
        copies.collect()
    }

    /// Whoever rests waits for a client, or lets its sockets go.
    pub(super) fn rest_sockets(&mut self, changed: &[Name]) {
        for name in changed {
            let Some(record) = self.observed.record(name) else {
                self.release_sockets(name);
                continue;
            };
            let Some(manifest) = record.last_good.clone() else { continue };
            let is_idle = match &record.phase {
                Phase::Created | Phase::Exited(_) => {
                    manifest.start == Start::OnDemand && record.held.is_none()
                }
                Phase::Removing { .. } | Phase::Dead { .. } => false,
                _ => continue,
            };
            match is_idle {
                true => self.await_client(name, &manifest),
                false => self.release_sockets(name),
            }
        }
    }

    fn release_sockets(&mut self, name: &Name) {
        if let Some(sockets) = self.sockets.remove(name) {
            for held in &sockets.held {
                if let Err(error) = self.hold(&format!("s/{name}/{}", held.key), None) {
                    tracing::warn!("{error}");
                }
            }
        }
    }

    /// Starts a container when somebody connects.
    fn await_client(&mut self, name: &Name, manifest: &Container) {
        if let Err(error) = self.hold_sockets(name, manifest) {
            tracing::error!("{name}: {error}");
        }
        let Some(sockets) = self.sockets.get_mut(name) else { return };
        if let Some(watching) = sockets.watching.take() {
            watching.abort();
        }
        if sockets.waiting.is_some() {
            return;
        }
        let mut copies = Vec::new();
        for held in &sockets.held {
            let watched = held
                .socket
                .try_clone()
                .and_then(|copy| crate::sys::readiness::watch(copy, Interest::READABLE));
            match watched {
                Ok(watched) => copies.push(watched),
                Err(error) => tracing::error!("{name}: waiting for a client: {error}"),
            }
        }
        let (name, effects) = (name.clone(), self.effects.clone());
        let task = tokio::task::spawn_local(async move {
            let mut any: futures_util::stream::FuturesUnordered<_> =
                copies.iter().map(|copy| async { copy.readable().await.is_ok() }).collect();
            if futures_util::StreamExt::next(&mut any).await == Some(true) {
                let _ = effects.send(Effect::Event(Event::Demanded { name }));
            }
        });
        sockets.waiting = Some(task.abort_handle());
    }

    /// Stops a container that was started by a client when nobody was connected for
    /// long.
    pub(super) fn watch_idle(&mut self, name: &Name, incarnation: u64) {
        let manifest = self.observed.record(name).and_then(|record| record.applied.clone());
        let idle = manifest
            .filter(|manifest| manifest.start == Start::OnDemand)
            .and_then(|manifest| manifest.idle_timeout);
        let Some(sockets) = self.sockets.get_mut(name) else { return };
        if let Some(watching) = sockets.watching.take() {
            watching.abort();
        }
        let Some(idle) = idle else { return };
        let ports: Vec<u16> = sockets
            .held
            .iter()
            .filter(|held| held.protocol == Protocol::Tcp)
            .map(|held| held.port)
            .collect();
        if ports.is_empty() {
            return;
        }
        let (name, effects) = (name.clone(), self.effects.clone());
        let task = tokio::task::spawn_local(async move {
            // The kernel tells nobody when a connection ends: it is looked at, only
            // while such a container runs.
            let pause = (idle / 4).clamp(Duration::from_millis(250), Duration::from_secs(30));
            let mut quiet_since = tokio::time::Instant::now();
            loop {
                tokio::time::sleep(pause).await;
                if ports::connections(&ports) > 0 {
                    quiet_since = tokio::time::Instant::now();
                } else if quiet_since.elapsed() >= idle {
                    let _ = effects.send(Effect::Event(Event::Idle { name, incarnation }));
                    return;
                }
            }
        });
        sockets.watching = Some(task.abort_handle());
    }

    /// At the start: containers that wait for a client go on doing so.
    pub(super) fn recover_sockets(&mut self) {
        let all: Vec<Name> = self.observed.records().map(|record| record.name.clone()).collect();
        let without: Vec<Name> =
            self.sockets.keys().filter(|name| !all.contains(name)).cloned().collect();
        for name in &without {
            self.release_sockets(name);
        }
        self.rest_sockets(&all);
        for name in &all {
            let Some(record) = self.observed.record(name) else { continue };
            if let (Phase::Running(_), incarnation) = (&record.phase, record.incarnation) {
                self.watch_idle(name, incarnation);
            }
        }
    }
}
