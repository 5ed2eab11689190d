//! Tells when an interface of ours was removed, and when the host got an address or a
//! route.

use std::collections::BTreeSet;

use ipnet::IpNet;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressScope};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteProtocol};
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
    /// What the host got addresses of, or routes to: also again what it had, as with each
    /// word of an IPv6 router.
    pub placed: BTreeSet<IpNet>,
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
                heard.placed.extend(now.placed);
                if heard.placed.len() > MOST {
                    heard.placed.clear();
                    heard.lost = true;
                }
                heard.lost |= now.lost;
                matters
            })
            .await?;
        Ok(heard)
    }
}

/// So many at once are too many to look at each.
const MOST: usize = 1024;

fn net(to: &RouteAddress, length: u8) -> Option<IpNet> {
    match to {
        RouteAddress::Inet(ip) => IpNet::new((*ip).into(), length).ok(),
        RouteAddress::Inet6(ip) => IpNet::new((*ip).into(), length).ok(),
        _ => None,
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
                let length = address.header.prefix_len;
                let is_wide = address.header.scope == AddressScope::Universe;
                heard.placed.extend(address.attributes.iter().filter_map(|one| match one {
                    AddressAttribute::Address(ip) if is_wide => IpNet::new(*ip, length).ok(),
                    _ => None,
                }));
            }
            // Those that follow from addresses are the kernel's.
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
                let length = route.header.destination_prefix_length;
                let is_others = route.header.protocol != RouteProtocol::Kernel;
                heard.placed.extend(route.attributes.iter().filter_map(|one| match one {
                    RouteAttribute::Destination(to) if is_others => net(to, length),
                    _ => None,
                }));
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
