//! Interfaces: bridges, containers' ends, addresses, routes, and their removal.
//! Each maker has its remover beside it; `sweep` removes what a crash left.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use serde::{Deserialize, Serialize};

use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoPortData,
    InfoPortKind, InfoVeth, IpVlanMode, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    MacVlanMode, Stats64,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::error::{Error, Result};
use super::names::Mac;
use super::netlink::{Mode, Netlink};

/// One network namespace's interfaces, through a socket that was opened in it.
#[derive(Debug)]
pub struct Links {
    pub(super) netlink: Netlink,
}

/// What an interface counted (ip-link(8), "statistics").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Traffic {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets received with errors.
    pub rx_errors: u64,
    /// Packets received and dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets to be sent and dropped.
    pub tx_dropped: u64,
}

/// An interface as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index, the same until it is removed.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, if it has one of 6 bytes.
    pub mac: Option<Mac>,
    /// The index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// Whether it is set up.
    pub up: bool,
    /// What it counted.
    pub traffic: Traffic,
}

/// How a container's interface is joined to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join<'a> {
    /// A veth pair whose other end is a port of a bridge.
    Port {
        /// The name of the host's end.
        host_end: &'a str,
        /// The bridge.
        bridge: &'a str,
        /// Not reachable from other isolated ports.
        isolated: bool,
    },
    /// A macvlan of an interface of the host.
    Macvlan {
        /// That interface.
        parent: &'a str,
    },
    /// An ipvlan of an interface of the host.
    Ipvlan {
        /// That interface.
        parent: &'a str,
    },
}

impl Links {
    /// The interfaces of the calling thread's network namespace.
    pub fn open() -> Result<Links> {
        let netlink = Netlink::open()
            .map_err(|error| Error::new("open", "a netlink socket (rtnetlink(7))", error))?;
        Ok(Links { netlink })
    }

    /// All interfaces.
    pub fn all(&mut self) -> Result<Vec<Link>> {
        let messages = self
            .netlink
            .get(Message::GetLink(LinkMessage::default()), true)
            .map_err(|error| Error::new("list", "the interfaces", error))?;
        Ok(messages.iter().filter_map(read_link).collect())
    }

    /// One interface by name, if there is one.
    pub fn find(&mut self, name: &str) -> Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        match self.netlink.get(Message::GetLink(message), false) {
            Ok(messages) => Ok(messages.iter().find_map(read_link)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(Error::new("look up the interface", name, error)),
        }
    }

    fn existing(&mut self, name: &str) -> Result<Link> {
        self.find(name)?.ok_or_else(|| {
            Error::new("find the interface", name, io::Error::from_raw_os_error(libc::ENODEV))
        })
    }

    pub(super) fn index(&mut self, name: &str) -> Result<u32> {
        Ok(self.existing(name)?.index)
    }

    /// Makes a bridge or takes the one that exists, with this hardware address (a
    /// bridge would otherwise change its own as ports come and go), and sets it up.
    ///
    /// # Errors
    /// An interface of that name is not a bridge; the kernel has no bridges.
    pub fn ensure_bridge(&mut self, name: &str, mac: Mac, mtu: Option<u32>) -> Result<u32> {
        let failed = |error| Error::new("make the bridge", name, error);
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Bridge),
                // No forwarding delay: a port works at once, there are no loops.
                LinkInfo::Data(InfoData::Bridge(vec![
                    InfoBridge::ForwardDelay(0),
                    InfoBridge::MulticastSnooping(false),
                ])),
            ]),
        ];
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        match self.netlink.request(Message::NewLink(message), Mode::Create) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                if !self.is_bridge(name)? {
                    return Err(failed(error).with_remedy(format!(
                        "{name} is an interface of another kind, and not Berth's: rename it"
                    )));
                }
            }
            Err(error) => return Err(failed(error)),
        }
        let index = self.index(name)?;
        self.up(index, name, mtu)?;
        Ok(index)
    }

    fn is_bridge(&mut self, name: &str) -> Result<bool> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        let found = self
            .netlink
            .get(Message::GetLink(message), false)
            .map_err(|error| Error::new("look up the interface", name, error))?;
        Ok(found.iter().any(|message| match message {
            Message::NewLink(link) => link.attributes.iter().any(|attribute| {
                matches!(attribute, LinkAttribute::LinkInfo(info)
                    if info.contains(&LinkInfo::Kind(InfoKind::Bridge)))
            }),
            _ => false,
        }))
    }

    /// Makes a veth pair with both ends in this namespace.
    pub(super) fn ensure_pair(&mut self, one: &str, other: &str) -> Result<(Link, Link)> {
        if self.find(one)?.is_none() || self.find(other)?.is_none() {
            self.remove(one)?;
            let mut peer = LinkMessage::default();
            peer.attributes.push(LinkAttribute::IfName(other.into()));
            let message = veth(one, peer);
            self.netlink
                .request(Message::NewLink(message), Mode::Create)
                .map_err(|error| Error::new("make the veth pair", one, error))?;
        }
        for name in [one, other] {
            let link = self.existing(name)?;
            self.up(link.index, name, None)?;
        }
        Ok((self.existing(one)?, self.existing(other)?))
    }

    /// Makes a container's interface `name` in `netns`, still down, and joins it.
    /// If the host's end exists from an earlier time it is replaced.
    ///
    /// # Errors
    /// The bridge or parent is missing, the name is in use in `netns`, or the kernel
    /// lacks the kind of interface.
    pub fn join(
        &mut self,
        netns: BorrowedFd<'_>,
        name: &str,
        mac: Mac,
        mtu: Option<u32>,
        join: Join<'_>,
    ) -> Result<()> {
        let mut inner = LinkMessage::default();
        inner.attributes =
            vec![LinkAttribute::IfName(name.into()), LinkAttribute::NetNsFd(netns.as_raw_fd())];
        inner.attributes.extend(mtu.map(LinkAttribute::Mtu));
        let with_mac = |mut inner: LinkMessage| {
            inner.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
            inner
        };
        match join {
            Join::Port { host_end, bridge, isolated } => {
                self.remove(host_end)?;
                let mut message = veth(host_end, with_mac(inner));
                message.attributes.extend(mtu.map(LinkAttribute::Mtu));
                self.netlink
                    .request(Message::NewLink(message), Mode::Create)
                    .map_err(|error| Error::new("make the veth pair", host_end, error))?;
                self.plug(host_end, bridge, isolated)
            }
            Join::Macvlan { parent } => {
                let parent_index = self.index(parent)?;
                let data = InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)]);
                let message = stacked(with_mac(inner), parent_index, InfoKind::MacVlan, data);
                self.netlink
                    .request(Message::NewLink(message), Mode::Create)
                    .map_err(|error| Error::new("make the macvlan of", parent, error))
            }
            Join::Ipvlan { parent } => {
                let parent_index = self.index(parent)?;
                let data = InfoData::IpVlan(vec![InfoIpVlan::Mode(IpVlanMode::L2)]);
                let message = stacked(inner, parent_index, InfoKind::IpVlan, data);
                self.netlink
                    .request(Message::NewLink(message), Mode::Create)
                    .map_err(|error| Error::new("make the ipvlan of", parent, error))
            }
        }
    }

    /// Makes the host's end a port of the bridge and sets it up; also for a bridge
    /// that somebody deleted and that was made again.
    pub fn plug(&mut self, host_end: &str, bridge: &str, isolated: bool) -> Result<()> {
        let (port, master) = (self.index(host_end)?, self.index(bridge)?);
        let failed = |error| Error::new("make a port of the bridge of", host_end, error);
        let mut message = LinkMessage::default();
        message.header.index = port;
        message.attributes.push(LinkAttribute::Controller(master));
        self.netlink.request(Message::SetLink(message), Mode::Change).map_err(failed)?;
        // Hairpin: where br_netfilter is on, a container that reaches itself by a
        // published port is answered within the bridge, by the port it came from.
        let mut options = vec![InfoBridgePort::HairpinMode(true)];
        options.extend(isolated.then_some(InfoBridgePort::Isolated(true)));
        let mut message = LinkMessage::default();
        message.header.index = port;
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(options)),
        ]));
        self.netlink.request(Message::NewLink(message), Mode::Change).map_err(failed)?;
        self.up(port, host_end, None)
    }

    /// Sets an interface up.
    pub(super) fn up(&mut self, index: u32, name: &str, mtu: Option<u32>) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        self.netlink
            .request(Message::SetLink(message), Mode::Change)
            .map_err(|error| Error::new("set up the interface", name, error))
    }

    /// Gives an interface another hardware address.
    pub fn set_mac(&mut self, name: &str, mac: Mac) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(name)?;
        message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        self.netlink
            .request(Message::SetLink(message), Mode::Change)
            .map_err(|error| Error::new("set the hardware address of", name, error))
    }

    /// Removes an interface; the other end of a pair goes with it. That there is
    /// none is no failure.
    pub fn remove(&mut self, name: &str) -> Result<bool> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        match self.netlink.request(Message::DelLink(message), Mode::Change) {
            Ok(()) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(Error::new("remove the interface", name, error)),
        }
    }

    /// Gives an interface an address. IPv6 addresses work at once: whoever gave it
    /// out has made sure that nobody else has it, so the kernel need not ask.
    pub fn add_address(&mut self, name: &str, address: IpAddr, prefix: u8) -> Result<()> {
        let index = self.index(name)?;
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = prefix;
        message.attributes = vec![AddressAttribute::Local(address)];
        match address {
            IpAddr::V4(_) => {
                message.header.family = AddressFamily::Inet;
                message.attributes.push(AddressAttribute::Address(address));
            }
            IpAddr::V6(_) => {
                message.header.family = AddressFamily::Inet6;
                message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
        }
        self.netlink.request(Message::NewAddress(message), Mode::Replace).map_err(|error| {
            Error::new("give the address", format!("{address}/{prefix} to {name}"), error)
        })
    }

    /// Sets the default route of the address's family.
    pub fn add_default_route(&mut self, name: &str, gateway: IpAddr) -> Result<()> {
        let index = self.index(name)?;
        let mut message = RouteMessage::default();
        let (family, address) = match gateway {
            IpAddr::V4(address) => (AddressFamily::Inet, RouteAddress::Inet(address)),
            IpAddr::V6(address) => (AddressFamily::Inet6, RouteAddress::Inet6(address)),
        };
        message.header.address_family = family;
        message.header.table = libc::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![RouteAttribute::Gateway(address), RouteAttribute::Oif(index)];
        self.netlink.request(Message::NewRoute(message), Mode::Replace).map_err(|error| {
            Error::new("set the default route", format!("via {gateway} on {name}"), error)
        })
    }

    /// Has the kernel believe that every source of packets with this mark is behind an
    /// interface, when somebody checks that (`fib saddr . mark . iif` of nft(8), `rpfilter
    /// --validmark` of iptables). No packet is routed by it: such checks look the source
    /// up as if the host itself sent there.
    pub(super) fn expect_behind(&mut self, index: u32, mark: u32) -> Result<()> {
        let failed =
            |error| Error::new("add the routing rule of the mark", mark.to_string(), error);
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            match self.netlink.request(Message::NewRule(rule(family, mark)), Mode::Create) {
                Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
                    return Err(failed(error));
                }
                _ => {}
            }
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.protocol = RouteProtocol::Boot;
            message.header.scope = RouteScope::Link;
            message.header.kind = RouteType::Unicast;
            message.attributes = vec![RouteAttribute::Table(mark), RouteAttribute::Oif(index)];
            self.netlink.request(Message::NewRoute(message), Mode::Replace).map_err(failed)?;
        }
        Ok(())
    }

    /// Takes that back; the routes are gone with the interface.
    pub(super) fn forget_behind(&mut self, mark: u32) -> Result<()> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            match self.netlink.request(Message::DelRule(rule(family, mark)), Mode::Change) {
                // There is none, or the kernel has no such rules.
                Err(error)
                    if !matches!(
                        error.raw_os_error(),
                        Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT)
                    ) =>
                {
                    return Err(Error::new(
                        "remove the routing rule of the mark",
                        mark.to_string(),
                        error,
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Says which hardware address a neighbour has, for ever.
    pub(super) fn add_neighbour(&mut self, index: u32, address: IpAddr, mac: Mac) -> Result<()> {
        let mut message = NeighbourMessage::default();
        let (family, to) = match address {
            IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
            IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
        };
        message.header.family = family;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(to),
            NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
        ];
        self.netlink
            .request(Message::NewNeighbour(message), Mode::Replace)
            .map_err(|error| Error::new("add the neighbour", address.to_string(), error))
    }

    /// Removes every interface whose name begins with one of `prefixes` and is not
    /// in `wanted`; says which. For what an engine that died left behind.
    pub fn sweep(&mut self, prefixes: &[String], wanted: &BTreeSet<String>) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for link in self.all()? {
            let is_ours = prefixes.iter().any(|prefix| link.name.starts_with(prefix));
            if is_ours && !wanted.contains(&link.name) && self.remove(&link.name)? {
                removed.push(link.name);
            }
        }
        Ok(removed)
    }
}

fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENODEV)
}

/// See [`Links::expect_behind`].
fn rule(family: AddressFamily, mark: u32) -> RuleMessage {
    /// Before every rule of others, after the one of the host's own addresses.
    const PRIORITY: u32 = 50;
    let mut message = RuleMessage::default();
    message.header.family = family;
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::FwMark(mark),
        RuleAttribute::FwMask(u32::MAX),
        RuleAttribute::Iifname("lo".into()),
        RuleAttribute::Table(mark),
    ];
    message
}

fn veth(name: &str, peer: LinkMessage) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.into()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    message
}

fn stacked(mut message: LinkMessage, parent: u32, kind: InfoKind, data: InfoData) -> LinkMessage {
    message.attributes.push(LinkAttribute::Link(parent));
    message
        .attributes
        .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]));
    message
}

fn read_link(message: &Message) -> Option<Link> {
    let Message::NewLink(message) = message else { return None };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        master: None,
        up: message.header.flags.contains(LinkFlags::Up),
        traffic: Traffic::default(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => {
                link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac);
            }
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::Stats64(stats) => link.traffic = traffic(stats),
            _ => {}
        }
    }
    Some(link)
}

fn traffic(stats: &Stats64) -> Traffic {
    Traffic {
        rx_bytes: stats.rx_bytes,
        rx_packets: stats.rx_packets,
        rx_errors: stats.rx_errors,
        rx_dropped: stats.rx_dropped,
        tx_bytes: stats.tx_bytes,
        tx_packets: stats.tx_packets,
        tx_errors: stats.tx_errors,
        tx_dropped: stats.tx_dropped,
    }
}
