//! A container on its networks, as the state has it.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::publish::Claim;
use super::resolvers::Inside;
use crate::manifest::network::Link;
use crate::network::host::Endpoint;
use crate::network::ipam::{Lease, Wish};

/// A container on its networks.
#[derive(Debug)]
pub(super) struct Joined {
    /// Whose it is: of two containers of one name, one after the other, each counts its
    /// launches from one.
    pub id: String,
    pub incarnation: u64,
    /// What it is found by everywhere: its name first.
    pub names: Vec<String>,
    /// What it is found by where nobody has that for a name.
    pub hostnames: Vec<String>,
    pub endpoints: Vec<Place>,
    pub claims: Vec<Claim>,
    /// Its own servers for names.
    pub servers: Vec<IpAddr>,
    /// Whether its names are answered.
    pub runs: bool,
    pub netns: Arc<OwnedFd>,
    /// Who answers names within it, if that is nobody outside.
    pub inside: Option<Inside>,
}

impl Joined {
    /// Its name, unless it has none but what it is kept under.
    pub fn called<'a>(&'a self, name: &'a str) -> &'a str {
        self.names.first().map_or(name, String::as_str)
    }

    pub fn is_on(&self, network: &str) -> bool {
        self.endpoints.iter().any(|place| place.network == network)
    }

    /// Where published ports lead to: its way outside, if that is on a bridge.
    pub fn target(&self) -> Option<Lease> {
        let first = self.endpoints.iter().find(|place| place.is_default_route);
        first.or(self.endpoints.first()).map(|place| place.lease)
    }
}

/// A container's interface on a network.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Place {
    pub network: String,
    pub interface: String,
    pub lease: Lease,
    /// What its manifest fixes of that.
    pub wish: Wish,
    pub aliases: Vec<String>,
    pub links: Vec<Link>,
    pub link_local: Vec<Ipv4Addr>,
    pub is_default_route: bool,
    /// See [`Member::priority`].
    pub priority: i64,
    /// Files below `/proc/sys/net`, in which `IFNAME` stands for the interface, and values.
    pub sysctls: Vec<(String, String)>,
}

impl Place {
    pub fn endpoint<'a>(&'a self, container: &'a str) -> Endpoint<'a> {
        Endpoint {
            container,
            interface: &self.interface,
            lease: self.lease,
            link_local: &self.link_local,
            is_default_route: self.is_default_route,
        }
    }
}
