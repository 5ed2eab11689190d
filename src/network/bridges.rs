//! Tells when an interface of ours was removed.

use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::error::Result;
use super::listener::Listener;
use super::names::Instance;

/// `RTNLGRP_LINK` (rtnetlink(7)).
const GROUP: u32 = 1;

/// Hears of every interface that comes, changes or goes.
#[derive(Debug)]
pub struct Watcher {
    listener: Listener,
    instance: Instance,
}

impl Watcher {
    /// Listens in the calling thread's network namespace; within a tokio runtime.
    pub fn open(instance: &Instance) -> Result<Watcher> {
        let listener = Listener::open(NETLINK_ROUTE, &[GROUP], "changes of links")?;
        Ok(Watcher { listener, instance: instance.clone() })
    }

    /// Waits until interfaces of ours are gone; gives their names. None are those that were
    /// too many to be heard of. Containers' own come and go by us, too.
    pub async fn removed(&mut self) -> Result<Vec<String>> {
        let Watcher { listener, instance } = self;
        let mut gone = Vec::new();
        listener
            .wait_for(|bytes| {
                let before = gone.len();
                gone.extend(removals(bytes, instance));
                gone.len() > before
            })
            .await?;
        Ok(gone)
    }
}

fn removals(bytes: &[u8], instance: &Instance) -> Vec<String> {
    let mut rest = bytes;
    let mut gone = Vec::new();
    let ports = instance.port_prefix();
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
        let length = (message.header.length as usize).next_multiple_of(4);
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) = message.payload {
            gone.extend(link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => {
                    (instance.is_lasting(&name) || name.starts_with(&ports)).then_some(name)
                }
                _ => None,
            }));
        }
        match rest.get(length..) {
            Some(tail) if length > 0 && !tail.is_empty() => rest = tail,
            _ => break,
        }
    }
    gone
}
