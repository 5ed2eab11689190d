//! Addresses: who has which. A pure allocator over a small state, and its file.
//!
//! A container keeps its lease until it is released, running or not, so its
//! addresses are the same after every restart. A lease is on disk before its
//! address is used: whoever dies between the two leaks nothing, the next `lease`
//! of that container finds it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::disk::{self, Lasting};
use super::error::{Error, Result};
use super::names::{Instance, Mac};
use super::spec::NetworkSpec;

/// The version of the file's form.
const VERSION: u32 = 1;

/// What a container has on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address, if the network has such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Ipv6Addr>,
    /// Its hardware address.
    pub mac: Mac,
}

/// What a container asks for; nothing is chosen for it where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish {
    /// This IPv4 address and no other.
    pub v4: Option<Ipv4Addr>,
    /// This IPv6 address and no other.
    pub v6: Option<Ipv6Addr>,
    /// This hardware address and no other.
    pub mac: Option<Mac>,
}

/// Why there is no lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The wished address is another container's.
    Held(String),
    /// The wished address is not a host of the subnet, or the gateway's.
    Unusable(IpAddr),
    /// Every address is given out.
    Full,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Held(by) => write!(f, "the address is the container {by}'s"),
            Refusal::Unusable(address) => {
                write!(
                    f,
                    "{address} is not a host's address in the subnet, or is the gateway's, or \
                     reserved"
                )
            }
            Refusal::Full => f.write_str("every address of it is given out"),
        }
    }
}

/// The leases of one network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Leases {
    by_container: BTreeMap<String, Lease>,
}

impl Leases {
    /// All leases, by container.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Lease)> {
        self.by_container.iter().map(|(name, lease)| (name.as_str(), lease))
    }

    /// A container's lease.
    pub fn of(&self, container: &str) -> Option<&Lease> {
        self.by_container.get(container)
    }

    /// Gives a container its addresses: those that it has, if they still fit the
    /// network and the wish, or new ones that nobody has. `others` are what other containers
    /// wish for, running or not: chosen only where nothing else is left.
    pub fn lease(
        &mut self,
        instance: &Instance,
        network: &NetworkSpec,
        container: &str,
        wish: Wish,
        others: &BTreeSet<IpAddr>,
    ) -> std::result::Result<Lease, Refusal> {
        let before = self.by_container.get(container).copied();
        let usable = |address: &Ipv4Addr| {
            network.subnet.contains(address)
                && *address != network.subnet.network()
                && *address != network.subnet.broadcast()
                && *address != network.gateway
                && !network.reserved.values().any(|reserved| *reserved == IpAddr::V4(*address))
        };
        let holder = |leases: &Leases, address: Ipv4Addr| {
            leases
                .by_container
                .iter()
                .find(|(name, lease)| lease.v4 == address && *name != container)
                .map(|(name, _)| name.clone())
        };
        let v4 = match wish.v4 {
            Some(address) if !usable(&address) => return Err(Refusal::Unusable(address.into())),
            Some(address) => match holder(self, address) {
                Some(by) => return Err(Refusal::Held(by)),
                None => address,
            },
            None => match before.map(|lease| lease.v4).filter(usable) {
                Some(address) => address,
                None => self.free(instance, network, container, usable, others)?,
            },
        };
        let mac = match wish.mac {
            Some(mac) => match self
                .by_container
                .iter()
                .find(|(name, lease)| lease.mac == mac && *name != container)
            {
                Some((by, _)) => return Err(Refusal::Held(by.clone())),
                None => mac,
            },
            // From the address, so that it is as unique as that.
            None => Mac::derived(instance.seed(&["mac", &network.name, &v4.to_string()])),
        };
        let v6 = self.v6(network, container, v4, wish.v6, others)?;
        let lease = Lease { v4, v6, mac };
        self.by_container.insert(container.to_owned(), lease);
        Ok(lease)
    }

    /// The IPv6 address beside an IPv4 one, if the network has such: the one that is asked
    /// for, the one that it has, or the same host's number in the other subnet. Where that is the router's, or
    /// was asked for by another container, the number gets bits that no IPv4 host has.
    fn v6(
        &self,
        network: &NetworkSpec,
        container: &str,
        v4: Ipv4Addr,
        wish: Option<Ipv6Addr>,
        others: &BTreeSet<IpAddr>,
    ) -> std::result::Result<Option<Ipv6Addr>, Refusal> {
        let holder = |address: Ipv6Addr| {
            let mut others = self.by_container.iter().filter(|(name, _)| *name != container);
            others.find(|(_, lease)| lease.v6 == Some(address)).map(|(name, _)| name.clone())
        };
        let usable = |address: Ipv6Addr| {
            network.subnet6.is_some_and(|net| net.contains(&address) && net.network() != address)
                && network.gateway6() != Some(address)
                && !network.reserved.values().any(|reserved| *reserved == IpAddr::V6(address))
        };
        if let Some(address) = wish {
            return match (usable(address), holder(address)) {
                (false, _) => Err(Refusal::Unusable(address.into())),
                (true, Some(by)) => Err(Refusal::Held(by)),
                (true, None) => Ok(Some(address)),
            };
        }
        let Some(net) = network.subnet6 else { return Ok(None) };
        let before = self.by_container.get(container).and_then(|lease| lease.v6);
        let fits = |address: &Ipv6Addr| {
            let is_in_range = network.range6.is_none_or(|range| range.contains(address));
            is_in_range && usable(*address) && holder(*address).is_none()
        };
        if let Some(address) = before.filter(fits) {
            return Ok(Some(address));
        }
        let bits = 32 - u32::from(network.subnet.prefix_len());
        let host = u128::from(u32::from(v4) & u32::from(network.subnet.hostmask()));
        // At most as many are in the way as there are other leases, a router, and those
        // that others have or wish for.
        let in_the_way = self.by_container.len() + network.reserved.len() + others.len();
        let tries = 0..=in_the_way as u128 + 2;
        let base = u128::from(network.range6.unwrap_or(net).network());
        let mut free = tries
            .map(|beyond| match network.range6 {
                None => base | host | beyond << bits,
                // A range may have less room than the other subnet: the next one, round
                // and round.
                Some(range) => base | (host + beyond) & u128::from(range.hostmask()),
            })
            .map(Ipv6Addr::from)
            .filter(|address| usable(*address) && holder(*address).is_none());
        let any = free.clone().next();
        free.find(|address| !others.contains(&IpAddr::V6(*address)))
            .or(any)
            .map(Some)
            .ok_or(Refusal::Full)
    }

    fn free(
        &self,
        instance: &Instance,
        network: &NetworkSpec,
        container: &str,
        usable: impl Fn(&Ipv4Addr) -> bool,
        others: &BTreeSet<IpAddr>,
    ) -> std::result::Result<Ipv4Addr, Refusal> {
        let range = network.range.unwrap_or(network.subnet);
        let base = u32::from(range.network());
        let size = 1u32.checked_shl(32 - u32::from(range.prefix_len())).unwrap_or(u32::MAX);
        // Begin where this name hashes to: the same name tends to the same address
        // even after its lease was released, and addresses are not re-used at once.
        let seed = instance.seed(&["v4", &network.name, container]);
        let start = u32::from_le_bytes([seed[0], seed[1], seed[2], seed[3]]) % size;
        let used: BTreeSet<Ipv4Addr> = self.by_container.values().map(|lease| lease.v4).collect();
        let mut free = (0..size)
            .map(|step| Ipv4Addr::from(base + (start + step) % size))
            .filter(|address| usable(address) && !used.contains(address));
        let any = free.clone().next();
        free.find(|address| !others.contains(&IpAddr::V4(*address))).or(any).ok_or(Refusal::Full)
    }

    /// Takes a container's addresses back; says whether it had any.
    pub fn release(&mut self, container: &str) -> bool {
        self.by_container.remove(container).is_some()
    }

    /// A container has another name, which no other container bears; says whether it had
    /// any addresses. What a container that is gone left under the new name is released.
    pub fn rename(&mut self, container: &str, to: &str) -> bool {
        match self.by_container.remove(container) {
            Some(lease) => {
                self.by_container.insert(to.to_owned(), lease);
                true
            }
            None => false,
        }
    }

    /// Takes back what containers have that are not in `known`; says whose.
    pub fn release_unknown(&mut self, known: impl Fn(&str) -> bool) -> Vec<String> {
        let gone: Vec<String> =
            self.by_container.keys().filter(|name| !known(name)).cloned().collect();
        for name in &gone {
            self.by_container.remove(name);
        }
        gone
    }
}

#[derive(Serialize, Deserialize)]
struct File<T> {
    version: u32,
    leases: T,
}

/// What a network's file of leases says.
#[derive(Debug)]
pub enum Read {
    /// These; none if there is no file yet.
    Leases(Leases),
    /// It is torn or of another version, for this reason.
    Torn(String),
}

/// Reads a network's leases.
///
/// # Errors
/// The disk's: what can't be read now must not be taken for none.
pub fn load(path: &Path) -> Result<Read> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Read::Leases(Leases::default()));
        }
        other => other
            .map_err(|error| Error::new("read the leases", path.display().to_string(), error))?,
    };
    Ok(match serde_json::from_slice::<File<Leases>>(&bytes) {
        Ok(file) if file.version == VERSION => Read::Leases(file.leases),
        Ok(file) => Read::Torn(format!("it is of version {}", file.version)),
        Err(error) => Read::Torn(error.to_string()),
    })
}

/// Replaces a network's leases on disk; when it returns they outlive a power cut.
pub fn save(path: &Path, leases: &Leases) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(&File { version: VERSION, leases })?;
        text.push(b'\n');
        disk::replace(path, &text, 0o600, Lasting::Disk)
    };
    write().map_err(|error| Error::new("save the leases", path.display().to_string(), error))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(prefix: u8) -> NetworkSpec {
        NetworkSpec::bridge(
            "n",
            format!("10.1.2.0/{prefix}").parse().unwrap(),
            Some("fd00:1::/64".parse().unwrap()),
        )
    }

    fn lease(
        leases: &mut Leases,
        prefix: u8,
        name: &str,
        wish: Wish,
    ) -> std::result::Result<Lease, Refusal> {
        leases.lease(&Instance::of_root("/"), &network(prefix), name, wish, &BTreeSet::new())
    }

    #[derive(Debug, Clone)]
    enum Step {
        Lease(u8),
        Fixed(u8, u8),
        Fixed6(u8, u8),
        Release(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u8..20).prop_map(Step::Lease),
            (0u8..20, any::<u8>()).prop_map(|(name, host)| Step::Fixed(name, host)),
            (0u8..20, any::<u8>()).prop_map(|(name, host)| Step::Fixed6(name, host)),
            (0u8..20).prop_map(Step::Release),
        ]
    }

    #[test]
    fn addresses_come_from_the_range_and_none_that_is_reserved_is_given() {
        let instance = Instance::of_root("/");
        let mut network = NetworkSpec::bridge("n", "10.1.0.0/24".parse().unwrap(), None);
        network.range = Some("10.1.0.128/30".parse().unwrap());
        network.reserved = [("router".to_owned(), "10.1.0.129".parse().unwrap())].into();
        let mut leases = Leases::default();
        let none = BTreeSet::new();
        let mut lease =
            |name: &str, wish: Wish| leases.lease(&instance, &network, name, wish, &none);
        let mut given: Vec<Ipv4Addr> =
            ["a", "b", "c"].map(|name| lease(name, Wish::default()).unwrap().v4).into();
        given.sort_unstable();
        let all = [128, 130, 131].map(|last| Ipv4Addr::new(10, 1, 0, last));
        assert_eq!(given, all);
        assert_eq!(lease("d", Wish::default()), Err(Refusal::Full));
        let asked = |last| Wish { v4: Some(Ipv4Addr::new(10, 1, 0, last)), ..Wish::default() };
        assert!(lease("d", asked(129)).is_err());
        // Whoever asks for one of the rest of the subnet gets it.
        assert!(lease("d", asked(7)).is_ok());
    }

    #[test]
    fn what_another_wishes_for_is_chosen_last() {
        let instance = Instance::of_root("/");
        let others: BTreeSet<IpAddr> =
            [2, 3].map(|last| IpAddr::from(Ipv4Addr::new(10, 1, 2, last))).into();
        let other6: IpAddr = "fd00:1::4".parse().unwrap();
        let others = others.into_iter().chain([other6]).collect();
        for name in ["a", "b", "c", "d"] {
            // 6 addresses less the gateway: 2 to 6.
            let mut leases = Leases::default();
            let mut lease =
                |name: &str, wish: Wish| leases.lease(&instance, &network(29), name, wish, &others);
            let free = [name, "x", "y"].map(|name| lease(name, Wish::default()).unwrap());
            let last = free.map(|lease| lease.v4.octets()[3]);
            assert!(last.iter().all(|last| (4..=6).contains(last)), "{last:?}");
            assert!(free.iter().all(|lease| lease.v6.map(IpAddr::from) != Some(other6)));
            let asked = Wish { v4: Some(Ipv4Addr::new(10, 1, 2, 2)), ..Wish::default() };
            assert!(lease("fixed", asked).is_ok());
            assert_eq!(lease("z", Wish::default()).unwrap().v4, Ipv4Addr::new(10, 1, 2, 3));
            assert_eq!(lease("none", Wish::default()), Err(Refusal::Full));
        }
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice_and_none_leaks(steps in prop::collection::vec(step(), 0..120)) {
            let mut leases = Leases::default();
            for step in steps {
                match step {
                    Step::Lease(name) => {
                        let name = name.to_string();
                        let before = leases.of(&name).copied();
                        match lease(&mut leases, 28, &name, Wish::default()) {
                            Ok(now) => prop_assert!(before.is_none_or(|before| before.v4 == now.v4)),
                            Err(refusal) => {
                                prop_assert_eq!(refusal, Refusal::Full);
                                // 16 addresses less network, broadcast and gateway.
                                prop_assert_eq!(leases.all().count(), 13);
                            }
                        }
                    }
                    Step::Fixed(name, host) => {
                        let v4 = Ipv4Addr::new(10, 1, 2, host);
                        let wish = Wish { v4: Some(v4), ..Wish::default() };
                        if let Ok(now) = lease(&mut leases, 28, &name.to_string(), wish) {
                            prop_assert_eq!(now.v4, v4);
                        }
                    }
                    Step::Fixed6(name, host) => {
                        let v6 = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, host.into());
                        let wish = Wish { v6: Some(v6), ..Wish::default() };
                        if let Ok(now) = lease(&mut leases, 28, &name.to_string(), wish) {
                            prop_assert_eq!(now.v6, Some(v6));
                        }
                    }
                    Step::Release(name) => {
                        leases.release(&name.to_string());
                    }
                }
                let all: Vec<Lease> = leases.all().map(|(_, lease)| *lease).collect();
                let v4: BTreeSet<_> = all.iter().map(|lease| lease.v4).collect();
                let v6: BTreeSet<_> = all.iter().map(|lease| lease.v6).collect();
                let mac: BTreeSet<_> = all.iter().map(|lease| lease.mac).collect();
                prop_assert_eq!((v4.len(), v6.len(), mac.len()), (all.len(), all.len(), all.len()));
                for lease in &all {
                    prop_assert!(network(28).subnet.contains(&lease.v4));
                    prop_assert!(lease.v4 != network(28).gateway);
                    prop_assert!(lease.v6 != network(28).gateway6());
                }
            }
        }
    }

    /// Several IPv4 numbers fall on one of a small range.
    #[test]
    fn an_ipv6_address_stays_when_the_one_before_it_is_released() {
        let instance = Instance::of_root("/");
        let mut network = network(24);
        network.range6 = Some("fd00:1::8/125".parse().unwrap());
        let mut leases = Leases::default();
        let lease = |leases: &mut Leases, name: &str, last: u8| {
            let wish = Wish { v4: Some(Ipv4Addr::new(10, 1, 2, last)), ..Wish::default() };
            leases.lease(&instance, &network, name, wish, &BTreeSet::new()).unwrap()
        };
        let first = lease(&mut leases, "a", 17);
        let second = lease(&mut leases, "b", 25);
        assert_ne!(first.v6, second.v6);
        leases.release("a");
        assert_eq!(lease(&mut leases, "b", 25), second);
        network.range6 = Some("fd00:1::10/125".parse().unwrap());
        let wish = Wish { v4: Some(second.v4), ..Wish::default() };
        let moved = leases.lease(&instance, &network, "b", wish, &BTreeSet::new()).unwrap();
        assert_eq!(moved.v6, "fd00:1::11".parse().ok());
    }

    #[test]
    fn leases_come_back_from_disk_and_a_torn_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("networks/n.leases.json");
        let read = |path: &Path| match load(path).unwrap() {
            Read::Leases(leases) => Ok(leases),
            Read::Torn(why) => Err(why),
        };
        assert_eq!(read(&path), Ok(Leases::default()));
        let mut leases = Leases::default();
        let first = lease(&mut leases, 24, "web", Wish::default()).unwrap();
        save(&path, &leases).unwrap();
        let mut again = read(&path).unwrap();
        assert_eq!(lease(&mut again, 24, "web", Wish::default()), Ok(first));
        assert_eq!(again.release_unknown(|_| false), ["web"]);
        fs::write(&path, b"{\"version\":1,").unwrap();
        assert!(read(&path).is_err());
        fs::write(&path, b"{\"version\":9,\"leases\":{\"by_container\":{}}}").unwrap();
        assert!(read(&path).unwrap_err().contains("version 9"));
        // What can't be read at all is an error, and never taken for none.
        assert!(load(dir.path()).is_err());
    }

    #[test]
    fn a_rename_takes_the_addresses_along_and_none_is_held_twice() {
        let mut leases = Leases::default();
        let old = lease(&mut leases, 24, "old", Wish::default()).unwrap();
        lease(&mut leases, 24, "gone", Wish::default()).unwrap();
        assert!(leases.rename("old", "gone"));
        assert_eq!(leases.all().collect::<Vec<_>>(), [("gone", &old)]);
        assert!(!leases.rename("old", "other"));
    }

    #[test]
    fn a_fixed_address_is_given_or_refused_with_its_holder() {
        let mut leases = Leases::default();
        let v4 = Ipv4Addr::new(10, 1, 2, 77);
        let mac = "02:00:00:00:00:07".parse().ok();
        let wish = Wish { v4: Some(v4), mac, v6: "fd00:1::77:1".parse().ok() };
        assert_eq!(lease(&mut leases, 24, "a", wish).unwrap().v4, v4);
        assert_eq!(lease(&mut leases, 24, "b", wish), Err(Refusal::Held("a".into())));
        let gateway = Wish { v4: Some(Ipv4Addr::new(10, 1, 2, 1)), ..Wish::default() };
        assert!(matches!(lease(&mut leases, 24, "b", gateway), Err(Refusal::Unusable(_))));
        assert_eq!(leases.of("a").unwrap().v6, wish.v6);
        let six = |text: &str| Wish { v6: text.parse().ok(), ..Wish::default() };
        assert_eq!(
            lease(&mut leases, 24, "b", six("fd00:1::77:1")),
            Err(Refusal::Held("a".into()))
        );
        for wrong in ["fd00:1::1", "fd00:1::", "fd00:2::5"] {
            let refused = lease(&mut leases, 24, "b", six(wrong));
            assert!(matches!(refused, Err(Refusal::Unusable(_))), "{wrong}");
        }
    }
}
