//! Listening sockets that containers are handed: `publish = [{ host = 80, hold = true }]`.
//! The keeper holds them, so they outlive the container and the engine: a client that
//! comes meanwhile waits in the backlog. With `start = "on-demand"` the first one starts
//! the container.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::Interest;

use super::reconcile::{Event, Phase, Rest, StopWhy};
use super::run::{Effect, Engine};
use crate::manifest::model::{Container, Start};
use crate::manifest::publish::{PortMapping, Protocol};
use crate::manifest::scalar::Name;
use crate::network::ports::{self, Ends, Port, Unbound};

/// After how long without any end connections are counted again.
const RECOUNT: Duration = Duration::from_secs(30);

/// A socket that is held for a container.
#[derive(Debug)]
pub(super) struct Held {
    /// What it is held under, behind the container's name.
    key: String,
    port: Port,
    socket: OwnedFd,
}

/// A socket that can't be held.
#[derive(Debug)]
pub(super) enum Unheld {
    Port(Unbound),
    Keeper(String),
}

impl Unheld {
    /// Why, in a sentence. It may take a while: not on the engine's loop.
    pub fn explain(self) -> String {
        match self {
            Unheld::Port(unbound) => format!("network.publish: {}", unbound.explain()),
            Unheld::Keeper(error) => error,
        }
    }
}

/// What is held for one container, and who waits for its first client.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    held: Vec<Held>,
    waiting: Option<tokio::task::AbortHandle>,
    watching: Option<tokio::task::AbortHandle>,
    /// Not all could be held: after which pause that is tried again, and who does.
    again: Option<(Duration, tokio::task::AbortHandle)>,
}

impl Drop for Sockets {
    fn drop(&mut self) {
        let again = self.again.take().map(|(_, task)| task);
        for task in [self.waiting.take(), self.watching.take(), again].into_iter().flatten() {
            task.abort();
        }
    }
}

/// Each held port of a manifest.
fn wanted(manifest: &Container) -> Vec<Port> {
    let held = manifest.network.publish.iter().filter(|one| one.hold);
    held.flat_map(|one| one.mapping.pairs().map(move |(host, _)| (one.mapping, host)))
        .filter_map(|(mapping, host)| {
            let PortMapping { address, protocol, .. } = mapping;
            Some(Port { address, number: host?, protocol })
        })
        .collect()
}

/// What a port is held under, as short as a tag must be: `*.80.tcp`.
fn key(port: Port) -> String {
    let at = match port.address {
        None => "*".to_owned(),
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => hex::encode(address.octets()),
    };
    format!("{at}.{}.{}", port.number, port.protocol)
}

/// The port of a key.
fn read_key(key: &str) -> Option<Port> {
    let mut words = key.rsplitn(3, '.');
    let protocol = match words.next()? {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    let number = words.next()?.parse().ok()?;
    let address = match words.next()? {
        "*" => None,
        at if at.contains('.') => Some(IpAddr::V4(at.parse().ok()?)),
        at => {
            let octets: [u8; 16] = hex::decode(at).ok()?.try_into().ok()?;
            Some(IpAddr::V6(octets.into()))
        }
    };
    Some(Port { address, number, protocol })
}

/// So many datagrams wait in a socket at most, about.
const WAITING: usize = 4096;

/// Whether what stopped for this reason is about to run again.
fn is_between(why: &StopWhy) -> bool {
    match why {
        StopWhy::Restart | StopWhy::Edited { .. } | StopWhy::Network { .. } | StopWhy::Lost => true,
        // It may be long until the other one is back: its clients need not wait for it.
        StopWhy::Dependency { .. } => false,
        StopWhy::ByHand
        | StopWhy::Removed
        | StopWhy::Conflict { .. }
        | StopWhy::Idle
        | StopWhy::NotReady
        | StopWhy::Watchdog
        | StopWhy::Shutdown => false,
    }
}

/// How long to wait before a port that could not be bound is tried again: whoever has it
/// does not say when it lets it go.
fn hold_again_after(before: Option<Duration>) -> Duration {
    before.map_or(Duration::from_secs(1), |pause| (2 * pause).min(Duration::from_secs(30)))
}

/// Waits until nobody was connected to these ports for so long.
async fn idleness(ports: Vec<Port>, idle: Duration) {
    let mut ends = Ends::open(ports.clone())
        .inspect_err(|error| tracing::warn!("{error}; connections are looked for now and then"))
        .ok();
    // Where the kernel does not tell of ends, connections are counted so often.
    let now_and_then = (idle / 4).clamp(Duration::from_millis(250), Duration::from_secs(30));
    let mut quiet_since = tokio::time::Instant::now();
    loop {
        let left = idle.saturating_sub(quiet_since.elapsed());
        let pause = if ends.is_some() { left } else { left.min(now_and_then) };
        if tokio::time::timeout(pause, end(&mut ends)).await.is_ok() {
            quiet_since = tokio::time::Instant::now();
            continue;
        }
        let looked_for = ports.clone();
        let counted = tokio::task::spawn_blocking(move || ports::connections(&looked_for));
        if counted.await.unwrap_or(0) > 0 {
            if ends.is_some() {
                // An end can be missed, but not for ever.
                let _ = tokio::time::timeout(idle.max(RECOUNT), end(&mut ends)).await;
            }
            quiet_since = tokio::time::Instant::now();
        } else if quiet_since.elapsed() >= idle {
            return;
        }
    }
}

/// Waits for the end of a connection; for ever where nobody tells of it.
async fn end(ends: &mut Option<Ends>) {
    let Some(told) = ends else { return std::future::pending().await };
    if let Err(error) = told.next().await {
        tracing::warn!("{error}; connections are looked for now and then");
        *ends = None;
    }
}

impl Engine {
    /// Sockets that the keeper held for an engine before us.
    pub(super) fn take_sockets(&mut self, held: &mut HashMap<String, OwnedFd>) {
        for (tag, socket) in held.extract_if(|tag, _| tag.starts_with("s/")) {
            let mut parts = tag.splitn(3, '/').skip(1);
            let name = parts.next().and_then(|name| name.parse::<Name>().ok());
            let (Some(name), Some(key)) = (name, parts.next()) else { continue };
            let Some(port) = read_key(key) else { continue };
            let held = Held { key: key.to_owned(), port, socket };
            self.sockets.entry(name).or_default().held.push(held);
        }
    }

    /// Makes what a manifest wants held be held, and nothing else.
    ///
    /// # Errors
    /// The first that can't be held; all others are.
    pub(super) fn hold_sockets(&mut self, name: &Name, manifest: &Container) -> Result<(), Unheld> {
        let wanted = wanted(manifest);
        let mut all = self.sockets.remove(name).unwrap_or_default();
        let held = std::mem::take(&mut all.held);
        let (kept, gone): (Vec<Held>, Vec<Held>) =
            held.into_iter().partition(|held| wanted.contains(&held.port));
        let mut changed = !gone.is_empty();
        for gone in &gone {
            self.close(name, gone);
        }
        all.held = kept;
        let mut outcome = Ok(());
        for port in wanted {
            if all.held.iter().any(|held| held.port == port) {
                continue;
            }
            let key = key(port);
            let held = port.bind().map_err(Unheld::Port).and_then(|socket| {
                self.hold(&format!("s/{name}/{key}"), Some(&socket)).map_err(Unheld::Keeper)?;
                Ok(Held { key, port, socket })
            });
            match held {
                Ok(held) => {
                    changed = true;
                    all.held.push(held);
                }
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        // Whoever waits, waits at others.
        if let Some(waiting) = all.waiting.take_if(|_| changed) {
            waiting.abort();
        }
        if !all.held.is_empty() || outcome.is_err() {
            self.sockets.insert(name.clone(), all);
        }
        outcome
    }

    /// Nobody listens there from now on, so that it can be bound otherwise, though the
    /// keeper closes its copy a little later.
    fn close(&mut self, name: &Name, held: &Held) {
        if held.port.protocol == Protocol::Tcp {
            let _ = rustix::net::shutdown(&held.socket, rustix::net::Shutdown::Both);
        }
        self.let_go(name, held);
    }

    fn let_go(&mut self, name: &Name, held: &Held) {
        if let Err(error) = self.hold(&format!("s/{name}/{}", held.key), None) {
            tracing::warn!("{error}");
        }
    }

    /// A container has another name, and its sockets go along: each is held under the
    /// new one before the old one lets it go.
    pub(super) fn rename_sockets(&mut self, name: &Name, to: &Name) {
        let Some(mut sockets) = self.sockets.remove(name) else { return };
        for held in &sockets.held {
            if let Err(error) = self.hold(&format!("s/{to}/{}", held.key), Some(&held.socket)) {
                tracing::warn!("{error}");
            }
            self.let_go(name, held);
        }
        self.sockets.entry(to.clone()).or_default().held.append(&mut sockets.held);
    }

    /// Copies of what is held for a launch, with their names (sd_listen_fds(3)).
    pub(super) fn sockets_of(&mut self, name: &Name) -> Vec<(OwnedFd, String)> {
        let Some(sockets) = self.sockets.get_mut(name) else { return Vec::new() };
        if let Some(waiting) = sockets.waiting.take() {
            waiting.abort();
        }
        let copies = sockets.held.iter().filter_map(|held| {
            Some((
                held.socket.try_clone().ok()?,
                format!("{}-{}", held.port.number, held.port.protocol),
            ))
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
                Phase::Created | Phase::Exited(_)
                    if manifest.start == Start::OnDemand && record.held.is_none() =>
                {
                    true
                }
                // It is launched again as soon as what was there is gone: till then its
                // clients wait.
                Phase::Exited(Rest::Stopped { why })
                    if is_between(why) && record.held.is_none() =>
                {
                    continue;
                }
                Phase::Created | Phase::Exited(_) => false,
                Phase::Removing { .. } | Phase::Dead { .. } => false,
                _ => continue,
            };
            let demanded = record.demanded;
            match is_idle {
                true => self.await_client(name, &manifest, demanded),
                false => self.release_sockets(name),
            }
        }
    }

    /// Whoever waits at a container's sockets is not served: what they wanted would start
    /// it over and over.
    pub(super) fn turn_away(&mut self, name: &Name) {
        let Some(sockets) = self.sockets.get_mut(name) else { return };
        let is_tcp = |held: &mut Held| held.port.protocol == Protocol::Tcp;
        // A listening socket is made anew: its clients hear that it was closed.
        let gone: Vec<Held> = sockets.held.extract_if(.., is_tcp).collect();
        for held in &sockets.held {
            let mut bytes = [0; 1];
            let take =
                || rustix::net::recv(&held.socket, &mut bytes, rustix::net::RecvFlags::DONTWAIT);
            // Whoever sends faster than this starts it once more.
            let _ = std::iter::repeat_with(take).take(WAITING).find(|taken| taken.is_err());
        }
        if let Some(waiting) = sockets.waiting.take() {
            waiting.abort();
        }
        for gone in &gone {
            self.close(name, gone);
        }
    }

    fn release_sockets(&mut self, name: &Name) {
        if let Some(sockets) = self.sockets.remove(name) {
            for held in &sockets.held {
                self.close(name, held);
            }
        }
    }

    /// Starts a container when somebody connects; one that a client waits for already
    /// is only held ready for it.
    fn await_client(&mut self, name: &Name, manifest: &Container, demanded: bool) {
        let outcome = self.hold_sockets(name, manifest);
        let Some(sockets) = self.sockets.get_mut(name) else { return };
        match outcome {
            Ok(()) => sockets.again = None,
            Err(unheld) => {
                let before = sockets.again.take();
                let pause = hold_again_after(before.as_ref().map(|(pause, _)| *pause));
                let (tried, effects) = (name.clone(), self.effects.clone());
                let task = tokio::task::spawn_local(async move {
                    tokio::time::sleep(pause).await;
                    let _ = effects.send(Effect::HoldAgain(tried));
                });
                sockets.again = Some((pause, task.abort_handle()));
                match before {
                    // Told once.
                    Some((_, before)) => before.abort(),
                    None => {
                        let called = self.observed.called(name);
                        tokio::task::spawn_blocking(move || {
                            tracing::error!("{called}: {}; it is tried again", unheld.explain());
                        });
                    }
                }
            }
        }
        if let Some(watching) = sockets.watching.take() {
            watching.abort();
        }
        let waits = sockets.waiting.as_ref().is_some_and(|waiting| !waiting.is_finished());
        if waits || demanded {
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
                Err(error) => {
                    let called = self.observed.called(name);
                    tracing::error!("{called}: waiting for a client: {error}");
                }
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
        let ports: Vec<Port> = sockets
            .held
            .iter()
            .map(|held| held.port)
            .filter(|port| port.protocol == Protocol::Tcp)
            .collect();
        if ports.is_empty() {
            return;
        }
        let (name, effects) = (name.clone(), self.effects.clone());
        let task = tokio::task::spawn_local(async move {
            idleness(ports, idle).await;
            let _ = effects.send(Effect::Event(Event::Idle { name, incarnation }));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_port() {
        for at in [None, Some("127.0.0.1"), Some("::1")] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let address = at.map(|text| text.parse().unwrap());
                let port = Port { address, number: 8080, protocol };
                assert_eq!(read_key(&key(port)), Some(port));
            }
        }
        for wrong in ["", "80.tcp", "*.x.tcp", "zz.80.tcp", "*.80.sctp"] {
            assert_eq!(read_key(wrong), None, "{wrong}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_connection_that_nobody_saw_keeps_a_container_up() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let port = Port { address: Some(at.ip()), number: at.port(), protocol: Protocol::Tcp };
        let idle = Duration::from_millis(600);
        let began = std::time::Instant::now();
        let watching = idleness(vec![port], idle);
        let clients = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(400)).await;
                // It comes and goes within a millisecond.
                drop(std::net::TcpStream::connect(at).unwrap());
                drop(listener.accept().unwrap());
            }
        };
        tokio::join!(watching, clients);
        assert!(began.elapsed() >= Duration::from_millis(1200) + idle, "{:?}", began.elapsed());
    }
}
