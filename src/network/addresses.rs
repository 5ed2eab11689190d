//! Which addresses a namespace has, and which ranges lead somewhere.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};

use super::error::{Error, Result};
use super::link::Links;
use super::spec::Taken;

impl Links {
    /// Addresses and routed ranges of this namespace, but those of the interfaces
    /// that `ours` names: what a new network must not overlap.
    pub fn taken(&mut self, ours: impl Fn(&str) -> bool) -> Result<Vec<Taken>> {
        let names: Vec<(u32, String)> =
            self.all()?.into_iter().map(|link| (link.index, link.name)).collect();
        let name = |index| names.iter().find(|(i, _)| *i == index).map(|(_, name)| name.as_str());
        let mut taken = BTreeSet::new();
        for message in self.all_addresses()? {
            let Some(name) = name(message.header.index).filter(|name| !ours(name)) else {
                continue;
            };
            for attribute in &message.attributes {
                if let AddressAttribute::Address(address) = attribute
                    && let Ok(net) = ipnet::IpNet::new(*address, message.header.prefix_len)
                {
                    taken.insert((net.trunc(), format!("the address {net} of {name}")));
                }
            }
        }
        let routes = self
            .netlink
            .get(Message::GetRoute(RouteMessage::default()), true)
            .map_err(|error| Error::new("list", "the routes", error))?;
        for message in routes {
            let Message::NewRoute(message) = message else { continue };
            // The default route covers everything and means nothing here; nor do
            // broadcast and local ones, which follow from addresses.
            let length = message.header.destination_prefix_length;
            if length == 0 || message.header.kind != RouteType::Unicast {
                continue;
            }
            let (mut to, mut out) = (None, None);
            for attribute in &message.attributes {
                match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                        to = Some(IpAddr::V4(*address));
                    }
                    RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                        to = Some(IpAddr::V6(*address));
                    }
                    RouteAttribute::Oif(index) => out = name(*index),
                    _ => {}
                }
            }
            if out.is_some_and(&ours) {
                continue;
            }
            if let Some(net) = to.and_then(|to| ipnet::IpNet::new(to, length).ok()) {
                let by = format!("the route to {net} by {}", out.unwrap_or("another table"));
                taken.insert((net.trunc(), by));
            }
        }
        Ok(taken.into_iter().map(|(net, by)| Taken { net, by }).collect())
    }

    /// Every address of this namespace.
    pub(super) fn own_addresses(&mut self) -> Result<BTreeSet<IpAddr>> {
        let mut found = BTreeSet::new();
        for message in self.all_addresses()? {
            found.extend(message.attributes.iter().filter_map(|attribute| match attribute {
                AddressAttribute::Address(address) | AddressAttribute::Local(address) => {
                    Some(*address)
                }
                _ => None,
            }));
        }
        Ok(found)
    }

    /// The addresses of one interface.
    pub fn addresses(&mut self, name: &str) -> Result<Vec<IpAddr>> {
        let index = self.index(name)?;
        let mut found = Vec::new();
        for message in self.all_addresses()? {
            if message.header.index == index {
                found.extend(message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                }));
            }
        }
        Ok(found)
    }

    fn all_addresses(&mut self) -> Result<Vec<AddressMessage>> {
        let messages = self
            .netlink
            .get(Message::GetAddress(AddressMessage::default()), true)
            .map_err(|error| Error::new("list", "the addresses", error))?;
        let address = |message| match message {
            Message::NewAddress(message) => Some(message),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(address).collect())
    }
}
