//! Who answers names: a resolver at the gateway of each network, and one within each
//! container that is on no bridge.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use tokio::sync::watch;

use super::joined::{Joined, Place};
use super::{State, told};
use crate::engine::run::Effect;
use crate::network::NetworkSpec;
use crate::network::dns::{self, Zone, inside};
use crate::network::spec::Driver;

/// A resolver, and its sockets by what the keeper holds them under.
#[derive(Debug)]
pub(super) struct Resolver {
    task: tokio::task::AbortHandle,
    sockets: [(String, OwnedFd); 2],
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A resolver within a container.
#[derive(Debug)]
pub(super) struct Inside {
    pub zone: watch::Sender<Arc<Zone>>,
    resolver: Resolver,
}

pub(super) fn network_tags(network: &str) -> [String; 2] {
    [format!("n/{network}/u"), format!("n/{network}/t")]
}

/// No network's: it would have no name.
fn container_tags(container: &str) -> [String; 2] {
    [format!("n//{container}/u"), format!("n//{container}/t")]
}

impl State {
    /// Has the keeper hold nothing under these tags.
    pub(super) fn let_go(&self, tags: [String; 2]) {
        for tag in tags {
            let _ = self.effects.send(Effect::Hold { tag, fd: None });
        }
    }

    /// Answers names on sockets, which the keeper holds too: a query that comes while
    /// there is no engine waits in them for the next one.
    fn serve(
        &self,
        tags: [String; 2],
        sockets: [OwnedFd; 2],
        zone: watch::Receiver<Arc<Zone>>,
        within: Option<Arc<OwnedFd>>,
    ) -> io::Result<Resolver> {
        for (tag, socket) in tags.iter().zip(&sockets) {
            let fd = Some(socket.try_clone()?);
            let _ = self.effects.send(Effect::Hold { tag: tag.clone(), fd });
        }
        let _entered = self.runtime.enter();
        let [udp, tcp] = sockets;
        let kept = [udp.try_clone()?, tcp.try_clone()?];
        let sockets = dns::Sockets::of(udp, tcp)?;
        let upstream = Arc::clone(&self.upstream);
        let task = self.runtime.spawn(dns::serve(sockets, zone, upstream, within)).abort_handle();
        let ([udp, tcp], [udp_tag, tcp_tag]) = (kept, tags);
        Ok(Resolver { task, sockets: [(udp_tag, udp), (tcp_tag, tcp)] })
    }

    /// Serves a network's names at its gateway. A host where that can't be runs its
    /// containers all the same.
    pub(super) fn resolver(
        &mut self,
        spec: &NetworkSpec,
        zone: watch::Receiver<Arc<Zone>>,
    ) -> Option<Resolver> {
        let at = SocketAddr::new(IpAddr::V4(spec.gateway), 53);
        let tags = network_tags(&spec.name);
        let held = tags.each_ref().map(|tag| self.held.remove(tag));
        let sockets = match held {
            [Some(udp), Some(tcp)] if is_bound(&udp, at) => Ok([udp, tcp]),
            _ => bind(at),
        };
        sockets
            .and_then(|sockets| self.serve(tags, sockets, zone, None))
            .inspect_err(|error| {
                tracing::warn!(
                    "names of the network {} are not served at {at}: {error}; does another \
                     resolver listen on all addresses?",
                    spec.name
                );
            })
            .ok()
    }

    /// The resolver's sockets of a network that is about to be made anew: they are bound
    /// until the last copy is closed, so the next resolver can't bind its own.
    pub(super) fn keep_resolver(&mut self, network: &str) {
        let resolver = self.up.get_mut(network).and_then(|up| up.resolver.take());
        for (tag, socket) in resolver.iter().flat_map(|resolver| &resolver.sockets) {
            if let Ok(socket) = socket.try_clone() {
                self.held.insert(tag.clone(), socket);
            }
        }
    }

    /// Whether nobody answers names for a container on these networks but one within it:
    /// what is on a macvlan reaches no address of the host.
    pub(super) fn needs_inside(&self, places: &[Place]) -> bool {
        let is_bridged = |place: &Place| {
            self.up.get(&place.network).is_some_and(|up| up.spec.driver == Driver::Bridge)
        };
        !places.is_empty() && !places.iter().any(is_bridged)
    }

    /// Serves names within a container, in place of what served them there. One where
    /// that can't be has the host's servers, as if there were no names of ours.
    pub(super) fn serve_inside(&mut self, name: &str) {
        let Some(netns) = self.joined.get(name).map(|joined| Arc::clone(&joined.netns)) else {
            return;
        };
        let tags = container_tags(name);
        let held = tags.each_ref().map(|tag| self.held.remove(tag));
        let made = match held {
            [Some(udp), Some(tcp)] if inside::is_bound(&[&udp, &tcp]) => Ok([udp, tcp]),
            _ => inside::bind(netns.as_fd()).map_err(told),
        };
        let made = made.and_then(|sockets| {
            inside::lead(netns.as_fd(), Some(&sockets)).map_err(told)?;
            let (zone, receiver) = watch::channel(Arc::default());
            let resolver = self.serve(tags, sockets, receiver, Some(Arc::clone(&netns)));
            resolver
                .map(|resolver| Inside { zone, resolver })
                .map_err(|error| format!("cannot serve names: {error}"))
        });
        match made {
            Ok(made) => {
                if let Some(joined) = self.joined.get_mut(name) {
                    joined.inside = Some(made);
                }
            }
            Err(error) => {
                let _ = inside::lead(netns.as_fd(), None);
                let called = self.called(name);
                tracing::warn!("{called}: {error}; it is not told of others' names");
            }
        }
    }

    /// A network of the container's is of another driver now.
    pub(super) fn settle_inside(&mut self, name: &str, netns: &Arc<OwnedFd>) {
        let Some(joined) = self.joined.get(name) else { return };
        match (self.needs_inside(&joined.endpoints), joined.inside.is_some()) {
            (true, false) => self.serve_inside(name),
            (false, true) => {
                let inside = self.joined.get_mut(name).and_then(|joined| joined.inside.take());
                self.stop_inside(name, inside, Some(netns.as_fd()));
            }
            _ => {}
        }
    }

    /// Nobody serves names within a container any more, in its namespace if it goes on
    /// having that.
    pub(super) fn stop_inside(
        &self,
        name: &str,
        resolver: Option<Inside>,
        netns: Option<BorrowedFd<'_>>,
    ) {
        let Some(Inside { resolver, .. }) = resolver else { return };
        drop(resolver);
        self.let_go(container_tags(name));
        if let Some(Err(error)) = netns.map(|netns| inside::lead(netns, None)) {
            tracing::warn!("{}: {error}", self.called(name));
        }
    }

    /// What each resolver within a container answers.
    pub(super) fn inside_zone(&self, joined: &Joined, names: &super::zones::All) -> Zone {
        let mut all = joined.endpoints.iter().filter_map(|place| names.get(&place.network));
        let is_outside =
            |place: &Place| self.up.get(&place.network).is_some_and(|up| !up.spec.internal);
        Zone {
            names: all.next().cloned().unwrap_or_default(),
            more: all.cloned().collect(),
            links: Arc::new(self.links(joined)),
            outside: joined.endpoints.iter().any(is_outside),
            servers: joined.servers.clone(),
            ..Zone::default()
        }
    }
}

fn bind(at: SocketAddr) -> io::Result<[OwnedFd; 2]> {
    Ok([UdpSocket::bind(at)?.into(), TcpListener::bind(at)?.into()])
}

fn is_bound(socket: &OwnedFd, at: SocketAddr) -> bool {
    let bound = rustix::net::getsockname(socket.as_fd()).ok();
    bound.and_then(|bound| SocketAddr::try_from(bound).ok()) == Some(at)
}
