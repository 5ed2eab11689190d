//! A network is made anew under the containers that are on it.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::joined::Place;
use super::{State, told};
use crate::engine::run::Effect;
use crate::network::NetworkSpec;
use crate::network::ipam::Wish;

/// A container on a network that changes.
struct Guest {
    name: String,
    place: Place,
    netns: Arc<OwnedFd>,
}

impl State {
    /// Makes a network anew, as its manifest says now, under the containers on it. What
    /// can't be made leaves it as it was: who runs stays reachable.
    pub(super) fn make_anew(&mut self, spec: &NetworkSpec) {
        let network = &spec.name;
        let Some(before) = self.up.get(network).map(|up| up.spec.clone()) else { return };
        let on_it: Vec<Guest> = self
            .joined
            .iter()
            .flat_map(|(name, joined)| {
                let here = joined.endpoints.iter().filter(|place| place.network == *network);
                here.map(|place| Guest {
                    name: name.clone(),
                    place: place.clone(),
                    netns: Arc::clone(&joined.netns),
                })
            })
            .collect();
        if let Err(error) = self.replace(spec, &on_it) {
            tracing::error!("changing the network {network}: {error}; it is put back as it was");
            if let Err(error) = self.replace(&before, &on_it) {
                tracing::error!("putting the network {network} back: {error}");
            }
        }
        if let Err(error) = self.apply() {
            tracing::error!("{error}");
        }
        for Guest { name, netns, .. } in &on_it {
            self.settle_inside(name, netns);
        }
        self.answer_names();
        // Their own addresses and who answers names for them may be others now.
        let moved = on_it.into_iter().map(|guest| guest.name).collect();
        let _ = self.effects.send(Effect::Moved(moved));
    }

    /// Makes a network as `spec` says, in place of what it is. All that can be done is,
    /// also when something can't.
    fn replace(&mut self, spec: &NetworkSpec, on_it: &[Guest]) -> Result<(), String> {
        for guest in on_it {
            self.detach(&guest.name, &guest.place, guest.netns.as_fd());
        }
        self.keep_resolver(&spec.name);
        self.lower(&spec.name, false);
        self.raise_as(spec)?;
        let mut outcome = Ok(());
        for guest in on_it {
            let moved = self.move_place(guest).and_then(|()| self.redirect(guest));
            outcome =
                outcome.and(moved.map_err(|why| format!("{}: {why}", self.called(&guest.name))));
        }
        outcome
    }

    /// A network of a container became internal, or is no longer: its way outside may be
    /// another one.
    fn redirect(&mut self, Guest { name, netns, .. }: &Guest) -> Result<(), String> {
        let Some(joined) = self.joined.get(name) else { return Ok(()) };
        let mut places = joined.endpoints.clone();
        let asked = places.iter().map(|place| (place.network.as_str(), place.priority));
        let way_out = self.way_out(asked);
        let mut changed = Vec::new();
        for place in &mut places {
            let is_default_route = way_out.as_ref() == Some(&place.network);
            if place.is_default_route != is_default_route {
                place.is_default_route = is_default_route;
                changed.push(place.clone());
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        if let Some(joined) = self.joined.get_mut(name) {
            joined.endpoints = places;
            if let Some(target) = joined.target() {
                for claim in &mut joined.claims {
                    claim.point_to(target, &self.runtime);
                }
            }
        }
        // The old way goes before the new one comes.
        changed.sort_by_key(|place| place.is_default_route);
        let mut outcome = Ok(());
        for place in &changed {
            outcome = outcome.and(self.make_place(name, place, netns.as_fd()));
        }
        outcome
    }

    fn move_place(&mut self, Guest { name, place, netns }: &Guest) -> Result<(), String> {
        let mut place = place.clone();
        let fits = |ip: &Ipv4Addr| {
            self.up
                .get(&place.network)
                .is_some_and(|up| up.spec.subnet.contains(ip) && up.spec.gateway != *ip)
        };
        let address = place.wish.v4.or(Some(place.lease.v4)).filter(fits);
        let subnet6 = self.up.get(&place.network).and_then(|up| up.spec.subnet6);
        let address6 = place.wish.v6.filter(|ip| subnet6.is_some_and(|net| net.contains(ip)));
        let wish = Wish { v4: address, v6: address6, mac: place.wish.mac };
        let network = place.network.clone();
        place.lease = self.lease(name, &network, wish)?;
        let spec = self.up.get(&place.network).map(|up| up.spec.clone());
        let spec = spec.ok_or("the network is not made")?;
        let host = &mut self.kernel()?.host;
        host.attach(&spec, &place.endpoint(name), netns.as_fd()).map_err(told)?;
        if let Some(joined) = self.joined.get_mut(name) {
            for other in &mut joined.endpoints {
                if other.network == place.network {
                    *other = place.clone();
                }
            }
            let target = joined.target();
            if let Some(target) = target {
                for claim in &mut joined.claims {
                    claim.point_to(target, &self.runtime);
                }
            }
        }
        Ok(())
    }
}
