//! Tells when somebody removed a bridge of ours.

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

    /// Waits until a bridge of ours, or the pair of the admission, has gone.
    pub async fn removed(&mut self) -> Result<()> {
        let Watcher { listener, instance } = self;
        listener.wait_for(|bytes| is_removal(bytes, instance)).await
    }
}

fn is_removal(bytes: &[u8], instance: &Instance) -> bool {
    let mut rest = bytes;
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
        let length = (message.header.length as usize).next_multiple_of(4);
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) = message.payload {
            let is_ours = link.attributes.iter().any(|attribute| match attribute {
                LinkAttribute::IfName(name) => instance.is_lasting(name),
                _ => false,
            });
            if is_ours {
                return true;
            }
        }
        match rest.get(length..) {
            Some(tail) if length > 0 && !tail.is_empty() => rest = tail,
            _ => break,
        }
    }
    false
}
