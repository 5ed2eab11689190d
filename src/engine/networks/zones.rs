//! Who is found by which name.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;

use super::State;
use super::joined::Joined;
use crate::network::dns::{Guest, Names, Zone};

/// The names of every network.
pub(super) type All = BTreeMap<String, Arc<Names>>;

impl State {
    /// See [`super::Networks::set_running`].
    pub(super) fn set_running(&mut self, name: &str, id: &str, incarnation: u64, runs: bool) {
        if let Some(joined) = self.joined.get_mut(name)
            && joined.id == id
            && joined.incarnation == incarnation
            && joined.runs != runs
        {
            joined.runs = runs;
            self.answer_names();
        }
    }

    /// Gives every resolver what it answers from now on.
    pub(super) fn answer_names(&mut self) {
        let mut names: BTreeMap<&str, Names> = BTreeMap::new();
        // A host name is nobody else's name.
        let mut hostnames: BTreeMap<&str, Names> = BTreeMap::new();
        for joined in self.joined.values().filter(|joined| joined.runs) {
            for place in &joined.endpoints {
                let own = joined.names.iter().chain(&place.aliases).map(|name| (name, true));
                let all = own.chain(joined.hostnames.iter().map(|name| (name, false)));
                for (name, is_own) in all {
                    let all = if is_own { &mut names } else { &mut hostnames };
                    let here = all.entry(&place.network).or_default();
                    // As with Docker, also with the network's name.
                    let whole = format!("{name}.{}", place.network);
                    let v6 = place.lease.v6.map(IpAddr::V6);
                    for address in [Some(IpAddr::V4(place.lease.v4)), v6].into_iter().flatten() {
                        here.add(name, address);
                        here.add(&whole, address);
                    }
                }
            }
        }
        for (network, hostnames) in hostnames {
            names.entry(network).or_default().fill_with(hostnames);
        }
        let names: All =
            names.into_iter().map(|(name, names)| (name.to_owned(), Arc::new(names))).collect();
        for (network, up) in &self.up {
            let zone = Zone {
                names: names.get(network).cloned().unwrap_or_default(),
                guests: self.guests(network, &names),
                clients: up.spec.subnets().collect(),
                outside: !up.spec.internal,
                ..Zone::default()
            };
            replace(&up.zone, zone);
        }
        for joined in self.joined.values() {
            if let Some(inside) = &joined.inside {
                replace(&inside.zone, self.inside_zone(joined, &names));
            }
        }
    }

    /// Containers that are on other networks too, or have servers of their own.
    fn guests(&self, network: &str, names: &All) -> BTreeMap<IpAddr, Guest> {
        let mut guests = BTreeMap::new();
        for joined in self.joined.values() {
            let Some(place) = joined.endpoints.iter().find(|place| place.network == network) else {
                continue;
            };
            let links = self.links(joined);
            if joined.endpoints.len() == 1 && joined.servers.is_empty() && links == Names::default()
            {
                continue;
            }
            let others = joined.endpoints.iter().filter(|place| place.network != network);
            let guest = Guest {
                names: others.filter_map(|place| names.get(&place.network).cloned()).collect(),
                links: Arc::new(links),
                servers: joined.servers.clone(),
                outside: joined
                    .endpoints
                    .iter()
                    .any(|place| self.up.get(&place.network).is_some_and(|up| !up.spec.internal)),
            };
            let v6 = place.lease.v6.map(IpAddr::V6);
            for address in [Some(IpAddr::V4(place.lease.v4)), v6].into_iter().flatten() {
                guests.insert(address, guest.clone());
            }
        }
        guests
    }

    /// The names that a container alone knows others by, on any of its networks.
    pub(super) fn links(&self, joined: &Joined) -> Names {
        let links = joined
            .endpoints
            .iter()
            .flat_map(|place| place.links.iter().map(move |link| (place.network.as_str(), link)));
        let mut names = Names::default();
        for (network, link) in links {
            let is_meant = |other: &&Joined| {
                other.runs
                    && (other.names.first() == Some(&link.container)
                        || link.container.len() >= 12 && other.id.starts_with(&link.container))
            };
            let other = self.joined.values().find(is_meant);
            let place = other
                .and_then(|other| other.endpoints.iter().find(|place| place.network == network));
            let Some(place) = place else { continue };
            let v6 = place.lease.v6.map(IpAddr::V6);
            for address in [Some(IpAddr::V4(place.lease.v4)), v6].into_iter().flatten() {
                names.add(&link.alias, address);
            }
        }
        names
    }
}

fn replace(answered: &watch::Sender<Arc<Zone>>, zone: Zone) {
    answered.send_if_modified(|now| {
        let changed = **now != zone;
        if changed {
            *now = Arc::new(zone);
        }
        changed
    });
}
