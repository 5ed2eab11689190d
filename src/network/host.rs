//! The host's side of networks: each maker beside its remover, and what finds what a
//! crash left. All of it is idempotent: whoever died half way does it again.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use super::firewall::{ADMISSION_V4, ADMISSION_V6};
use super::ipam::Lease;
use super::link::{Join, Link, Links, Traffic};
use super::names::{Instance, Mac};
use super::netns;
use super::spec::{Driver, NetworkSpec, Taken};
use super::sysctl;

/// A container's interface on a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// The container.
    pub container: &'a str,
    /// The interface in it: `eth0`, `eth1`, …
    pub interface: &'a str,
    /// Its addresses.
    pub lease: Lease,
    /// More of them, which lead no further than the network (RFC 3927).
    pub link_local: &'a [Ipv4Addr],
    /// Whether this network's gateway is the container's default route.
    pub is_default_route: bool,
}

/// The host's interfaces, of the network namespace in which this was opened. Its
/// methods must be called on threads of that namespace.
#[derive(Debug)]
pub struct Host {
    instance: Instance,
    links: Links,
}

impl Host {
    /// Opens the calling thread's network namespace as the host.
    pub fn open(instance: Instance) -> Result<Host> {
        Ok(Host { instance, links: Links::open()? })
    }

    /// Which Berth this is.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The host's interfaces.
    pub fn links(&mut self) -> &mut Links {
        &mut self.links
    }

    fn is_ours(instance: &Instance, name: &str) -> bool {
        name == "berth0" && instance.table() == "berth"
            || name.starts_with(&instance.bridge_prefix())
            || name.starts_with(&instance.port_prefix())
            || name == instance.admission().0
            || name == instance.admission().1
    }

    /// Address ranges that the host uses but for our own networks.
    pub fn taken(&mut self) -> Result<Vec<Taken>> {
        let instance = self.instance.clone();
        self.links.taken(|name| Host::is_ours(&instance, name))
    }

    /// Whether a network could be made beside all that the host has. Not asked of one
    /// that stands: whatever came later, who is on it keeps their addresses.
    ///
    /// # Errors
    /// What is in the way: what it says of itself, its missing parent, or a range of the
    /// host's that it overlaps.
    pub fn check(&mut self, network: &NetworkSpec) -> Result<()> {
        let refused = |why: String| Error::refused("make the network", &network.name, why);
        if let Some(problem) = network.problems().into_iter().next() {
            return Err(refused(problem));
        }
        if let Some(parent) = &network.parent
            && self.links.find(parent)?.is_none()
        {
            return Err(refused(format!("its parent {parent} is no interface of the host")));
        }
        let taken = self.taken()?;
        match network.overlap(&taken) {
            Some(taken) => Err(refused(format!("{} overlaps {}", network.subnet, taken.by))
                .with_remedy("choose another subnet, or none: a free one is found then")),
            None => Ok(()),
        }
    }

    /// Makes a network, or completes one that exists: the bridge, its addresses, the
    /// settings that it needs. Gives the settings that were changed, to be said.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn ensure(&mut self, network: &NetworkSpec) -> Result<Vec<String>> {
        if network.driver != Driver::Bridge {
            return Ok(Vec::new());
        }
        let bridge = self.instance.bridge(&network.name);
        let mac = Mac::derived(self.instance.seed(&["bridge-mac", &network.name]));
        self.links.ensure_bridge(&bridge, mac, network.mtu)?;
        // Until its link-local address is found to be unique, two seconds from now, the
        // bridge could ask for no neighbour of a packet that it forwards. It follows
        // from a hardware address that we chose: nobody else has it.
        sysctl::set_if_there(&format!("ipv6/conf/{bridge}/accept_dad"), "0")?;
        self.links.add_address(&bridge, network.gateway.into(), network.subnet.prefix_len())?;
        let v6 = network.subnet6.zip(network.gateway6()).filter(|_| sysctl::has_ipv6());
        if let Some((subnet, gateway)) = v6 {
            self.links.add_address(&bridge, gateway.into(), subnet.prefix_len())?;
        }
        let mut changes = Vec::new();
        changes.extend(sysctl::set(&format!("ipv4/conf/{bridge}/route_localnet"), "1")?);
        sysctl::set_if_there(&format!("ipv6/conf/{bridge}/accept_ra"), "0")?;
        if !network.internal {
            changes.extend(sysctl::forward(v6.is_some())?);
        }
        Ok(changes)
    }

    /// Removes a network's bridge; containers that are on it lose it.
    pub fn remove(&mut self, network: &NetworkSpec) -> Result<bool> {
        match network.driver {
            Driver::Bridge => self.links.remove(&self.instance.bridge(&network.name)),
            Driver::Macvlan | Driver::Ipvlan => Ok(false),
        }
    }

    /// Makes the pair through which connections to published ports are admitted;
    /// gives the index of its sending end for [`super::firewall::Plan::admission`].
    pub fn ensure_admission(&mut self) -> Result<u32> {
        let (sending, receiving) = self.instance.admission();
        let (out, into) = self.links.ensure_pair(&sending, &receiving)?;
        let mac = into.mac.ok_or_else(|| {
            Error::refused("read the hardware address of", &receiving, "it has none")
        })?;
        // The route to the address that is only a name for the other end; and loose
        // checks of sources at the other end, which wants an address for that.
        let near = |last| IpAddr::V4(Ipv4Addr::new(169, 254, 77, last));
        self.links.add_address(&sending, near(1), 30)?;
        self.links.add_address(&receiving, near(6), 32)?;
        self.links.add_neighbour(out.index, ADMISSION_V4.into(), mac)?;
        sysctl::set(&format!("ipv4/conf/{receiving}/rp_filter"), "2")?;
        sysctl::set(&format!("ipv4/conf/{receiving}/forwarding"), "1")?;
        if sysctl::has_ipv6() {
            let near = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x77, 1);
            self.links.add_address(&sending, near.into(), 64)?;
            self.links.add_neighbour(out.index, ADMISSION_V6.into(), mac)?;
            sysctl::set_if_there(&format!("ipv6/conf/{receiving}/accept_ra"), "0")?;
        }
        // A host whose firewall does not check sources needs none of it, so a kernel
        // without such rules is good enough.
        if let Err(error) = self.links.expect_behind(into.index, self.instance.admission_mark()) {
            tracing::debug!("{error}; a firewall that checks sources drops published ports");
        }
        Ok(out.index)
    }

    /// Removes that pair.
    pub fn remove_admission(&mut self) -> Result<bool> {
        let (sending, _) = self.instance.admission();
        let removed = self.links.remove(&sending);
        self.links.forget_behind(self.instance.admission_mark())?;
        removed
    }

    /// Gives a container an interface on a network: made straight inside `netns`,
    /// with its addresses and routes, up. What an attempt before left is replaced.
    pub fn attach(
        &mut self,
        network: &NetworkSpec,
        endpoint: &Endpoint<'_>,
        netns: BorrowedFd<'_>,
    ) -> Result<()> {
        let host_end = self.instance.port(endpoint.container, &network.name);
        let bridge = self.instance.bridge(&network.name);
        let parent = network.parent.as_deref().unwrap_or_default();
        let join = match network.driver {
            Driver::Bridge => {
                Join::Port { host_end: &host_end, bridge: &bridge, isolated: network.isolated }
            }
            Driver::Macvlan => Join::Macvlan { parent },
            Driver::Ipvlan => Join::Ipvlan { parent },
        };
        self.links.join(netns, endpoint.interface, endpoint.lease.mac, network.mtu, join)?;
        netns::inside(netns, || configure(network, endpoint))
    }

    /// Whether a container has its interface on a network, with its addresses, up and
    /// joined to the network.
    pub fn is_attached(
        &mut self,
        network: &NetworkSpec,
        endpoint: &Endpoint<'_>,
        netns: BorrowedFd<'_>,
    ) -> Result<bool> {
        if network.driver == Driver::Bridge {
            let host_end = self.instance.port(endpoint.container, &network.name);
            let bridge = self.instance.bridge(&network.name);
            let (port, bridge) = (self.links.find(&host_end)?, self.links.find(&bridge)?);
            let joined = port
                .zip(bridge)
                .is_some_and(|(port, bridge)| port.up && port.master == Some(bridge.index));
            if !joined {
                return Ok(false);
            }
        }
        netns::inside(netns, || {
            let mut links = Links::open()?;
            let Some(link) = links.find(endpoint.interface)? else { return Ok(false) };
            let addresses = links.addresses(endpoint.interface)?;
            let has = |address: Option<IpAddr>| address.is_none_or(|a| addresses.contains(&a));
            let v6 = endpoint.lease.v6.filter(|_| sysctl::has_ipv6()).map(IpAddr::V6);
            let is_linked = endpoint.link_local.iter().all(|a| has(Some((*a).into())));
            let is_same = network.driver == Driver::Ipvlan || link.mac == Some(endpoint.lease.mac);
            Ok(link.up && is_same && has(Some(endpoint.lease.v4.into())) && has(v6) && is_linked)
        })
    }

    /// Takes an interface out of a container's namespace: for one that is not joined
    /// by a port of a bridge.
    pub fn detach_inside(&mut self, interface: &str, netns: BorrowedFd<'_>) -> Result<bool> {
        netns::inside(netns, || Links::open()?.remove(interface))
    }

    /// Takes a container's interface away, from its netns too; also when that has
    /// gone already.
    pub fn detach(&mut self, network: &NetworkSpec, container: &str) -> Result<bool> {
        // A macvlan or ipvlan is gone with the container's namespace.
        self.links.remove(&self.instance.port(container, &network.name))
    }

    /// Joins a container's interface to a bridge that was deleted and made again.
    pub fn reattach(&mut self, network: &NetworkSpec, container: &str) -> Result<()> {
        let host_end = self.instance.port(container, &network.name);
        let bridge = self.instance.bridge(&network.name);
        self.links.plug(&host_end, &bridge, network.isolated)
    }

    /// Whether a network's bridge is there, with its address.
    pub fn is_whole(&mut self, network: &NetworkSpec) -> Result<bool> {
        if let Some(parent) = &network.parent {
            return Ok(self.links.find(parent)?.is_some());
        }
        let bridge = self.instance.bridge(&network.name);
        match self.links.find(&bridge)? {
            Some(link) if link.up => {
                Ok(self.links.addresses(&bridge)?.contains(&network.gateway.into()))
            }
            _ => Ok(false),
        }
    }

    /// Removes every interface of ours that is none of these networks' bridges and
    /// none of these containers' (container, network); says which. For what an
    /// engine that died left.
    pub fn sweep<'a>(
        &mut self,
        networks: impl IntoIterator<Item = &'a str>,
        endpoints: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Vec<String>> {
        let mut wanted: BTreeSet<String> =
            networks.into_iter().map(|network| self.instance.bridge(network)).collect();
        wanted.extend(
            endpoints
                .into_iter()
                .map(|(container, network)| self.instance.port(container, network)),
        );
        let mut prefixes = vec![self.instance.port_prefix(), self.instance.bridge_prefix()];
        if self.instance.table() == "berth" {
            prefixes.push("berth0".into());
        }
        self.links.sweep(&prefixes, &wanted)
    }
}

/// The prefix of addresses for one link (RFC 3927, section 2.1).
const LINK_LOCAL: u8 = 16;

/// Inside the container's namespace: addresses, loopback, up, routes.
fn configure(network: &NetworkSpec, endpoint: &Endpoint<'_>) -> Result<()> {
    let mut links = Links::open()?;
    let name = endpoint.interface;
    links.add_address(name, endpoint.lease.v4.into(), network.subnet.prefix_len())?;
    for address in endpoint.link_local {
        links.add_address(name, (*address).into(), LINK_LOCAL)?;
    }
    let v6 = network.subnet6.zip(endpoint.lease.v6).filter(|_| sysctl::has_ipv6());
    if sysctl::has_ipv6() {
        // Addresses come from Berth, not from whoever advertises a router.
        sysctl::set_if_there(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
        sysctl::set_if_there(&format!("ipv6/conf/{name}/accept_dad"), "0")?;
    }
    if let Some((subnet, address)) = v6 {
        links.add_address(name, address.into(), subnet.prefix_len())?;
    }
    for name in ["lo", name] {
        if let Some(link) = links.find(name)? {
            set_up(&mut links, &link)?;
        }
    }
    if endpoint.is_default_route && !network.internal {
        links.add_default_route(name, network.gateway.into())?;
        if let Some(gateway) = v6.and_then(|_| network.gateway6()) {
            links.add_default_route(name, gateway.into())?;
        }
    }
    Ok(())
}

/// Sets an interface up. The kernel takes the interfaces of a namespace that ended away a
/// little later: a macvlan of the same hardware address is waited for so long.
fn set_up(links: &mut Links, link: &Link) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let began = Instant::now();
    loop {
        match links.up(link.index, &link.name, None) {
            Err(error) if error.errno() == Some(libc::EADDRINUSE) && began.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

/// The interface of a container that has this address, or any of the network's: for one
/// that runs already.
pub fn found(
    network: &NetworkSpec,
    lease: Option<Ipv4Addr>,
    netns: BorrowedFd<'_>,
) -> Result<Option<(String, Ipv4Addr)>> {
    netns::inside(netns, || {
        let mut links = Links::open()?;
        for link in links.all()? {
            let addresses = links.addresses(&link.name)?;
            let here = addresses.into_iter().find_map(|address| match (address, lease) {
                (IpAddr::V4(address), Some(lease)) => (address == lease).then_some(address),
                (IpAddr::V4(address), None) => {
                    Some(address).filter(|ip| network.subnet.contains(ip))
                }
                _ => None,
            });
            if let Some(address) = here {
                return Ok(Some((link.name, address)));
            }
        }
        Ok(None)
    })
}

/// Sets kernel parameters of an interface in a container: files below `/proc/sys/net`, in
/// which `IFNAME` stands for it, and values.
pub fn set_inside(
    netns: BorrowedFd<'_>,
    interface: &str,
    sysctls: &[(String, String)],
) -> Result<()> {
    if sysctls.is_empty() {
        return Ok(());
    }
    netns::inside(netns, || {
        for (key, value) in sysctls {
            sysctl::set(&key.replace("IFNAME", interface), value)?;
        }
        Ok(())
    })
}

/// What a container's interfaces counted, by name, but for its loopback.
pub fn traffic(netns: BorrowedFd<'_>) -> Result<Vec<(String, Traffic)>> {
    netns::inside(netns, || {
        let links = Links::open()?.all()?;
        Ok(links
            .into_iter()
            .filter(|link| link.name != "lo")
            .map(|link| (link.name, link.traffic))
            .collect())
    })
}
