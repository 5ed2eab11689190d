//! Tells when an interface of ours was removed, and when the host got an address or a
//! route.

use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressScope;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::error::Result;
use super::listener::Listener;
use super::names::Instance;

/// `RTNLGRP_LINK`, and those of IPv4 and IPv6 addresses and routes (rtnetlink(7)).
const GROUPS: [u32; 5] = [1, 5, 9, 7, 11];

/// What was heard of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Heard {
    /// Interfaces of ours that are gone. Containers' own come and go by us, too.
    pub gone: Vec<String>,
    /// The host got an address or a route.
    pub placed: bool,
    /// Too much came at once: any of that may be so.
    pub lost: bool,
}

/// Hears of every interface that comes, changes or goes.
#[derive(Debug)]
pub struct Watcher {
    listener: Listener,
    instance: Instance,
}

impl Watcher {
    /// Listens in the calling thread's network namespace; within a tokio runtime.
    pub fn open(instance: &Instance) -> Result<Watcher> {
        let listener = Listener::open(NETLINK_ROUTE, &GROUPS, "changes of links")?;
        Ok(Watcher { listener, instance: instance.clone() })
    }

    /// Waits until something of that is so.
    pub async fn heard(&mut self) -> Result<Heard> {
        let Watcher { listener, instance } = self;
        let mut heard = Heard::default();
        listener
            .wait_for(|bytes| {
                let now = match bytes {
                    [] => Heard { lost: true, ..Heard::default() },
                    bytes => read(bytes, instance),
                };
                let matters = now != Heard::default();
                heard.gone.extend(now.gone);
                heard.placed |= now.placed;
                heard.lost |= now.lost;
                matters
            })
            .await?;
        Ok(heard)
    }
}

fn read(bytes: &[u8], instance: &Instance) -> Heard {
    let mut rest = bytes;
    let mut heard = Heard::default();
    let ports = instance.port_prefix();
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
        let length = (message.header.length as usize).next_multiple_of(4);
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                heard.gone.extend(link.attributes.into_iter().find_map(|one| match one {
                    LinkAttribute::IfName(name) => {
                        (instance.is_lasting(&name) || name.starts_with(&ports)).then_some(name)
                    }
                    _ => None,
                }));
            }
            // Every interface that comes has an address of its own link.
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(address)) => {
                heard.placed |= address.header.scope == AddressScope::Universe;
            }
            // Those that follow from addresses are the kernel's.
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
                heard.placed |= route.header.protocol != RouteProtocol::Kernel;
            }
            _ => {}
        }
        match rest.get(length..) {
            Some(tail) if length > 0 && !tail.is_empty() => rest = tail,
            _ => break,
        }
    }
    heard
}
