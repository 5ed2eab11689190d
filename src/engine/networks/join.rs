//! A container comes onto its networks, and leaves them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::publish::Claim;
use super::resolvers::Inside;
use super::{Etc, State, Wanted, told};
use crate::engine::run::Effect;
use crate::manifest::model::{Member, Sharing};
use crate::manifest::network::Link;
use crate::network::NetworkSpec;
use crate::network::firewall::{Plan, Port, Published};
use crate::network::host::{self, Endpoint};
use crate::network::ipam::{Lease, Refusal, Wish};
use crate::network::spec::Driver;

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

/// A container on a network that changes.
struct Guest {
    name: String,
    place: Place,
    netns: Arc<OwnedFd>,
}

impl Place {
    fn endpoint<'a>(&'a self, container: &'a str) -> Endpoint<'a> {
        Endpoint {
            container,
            interface: &self.interface,
            lease: self.lease,
            link_local: &self.link_local,
            is_default_route: self.is_default_route,
        }
    }
}

impl State {
    /// See [`super::Networks::join`].
    pub(super) fn join(&mut self, wanted: &Wanted<'_>) -> Result<Etc, String> {
        self.open()?;
        let is_later = |now: &Joined| now.id == wanted.id && now.incarnation > wanted.incarnation;
        if self.joined.get(wanted.name).is_some_and(is_later) {
            return Err("it was launched again meanwhile".to_owned());
        }
        let members = wanted.manifest.network.members();
        for member in &members {
            self.raise(&member.name)?;
        }
        let places = self.places(wanted, &members)?;
        let netns = wanted.netns.try_clone_to_owned().map_err(|error| format!("dup: {error}"))?;
        let target = places.iter().find(|place| place.is_default_route).or(places.first());
        let target = target.map(|place| place.lease);
        let before = self.joined.remove(wanted.name);
        let is_this_launch = |before: &Joined| {
            before.id == wanted.id && before.incarnation == wanted.incarnation && !wanted.anew
        };
        // In a namespace that it had before, an interface stacked on the host's own would be
        // in the way: of one hardware address there is one for each parent.
        if let Some(before) = before.as_ref().filter(|one| !is_same(&one.netns, wanted.netns)) {
            for place in &before.endpoints {
                self.detach(wanted.name, place, before.netns.as_fd());
            }
        }
        let needs_inside = self.needs_inside(&places);
        let keeps_inside = needs_inside && before.as_ref().is_some_and(is_this_launch);
        let (mut old, before_places, mut inside) = match before {
            Some(before) => (before.claims, before.endpoints, before.inside),
            None => (Vec::new(), Vec::new(), None),
        };
        if !keeps_inside {
            // What comes next takes the place of the rules.
            let stays = (!needs_inside).then_some(wanted.netns);
            self.stop_inside(wanted.name, inside.take(), stays);
        }
        let claimed = self.claim(wanted, target, &mut old);
        let (claims, mut outcome) = match claimed {
            Ok(claims) => (claims, Ok(())),
            // What it has stays as it was.
            Err(error) => (std::mem::take(&mut old), Err(error)),
        };
        drop(old);
        let manifest = wanted.manifest;
        let mut names = vec![wanted.called.to_owned()];
        // As in its own `/etc/hosts`: with a domain, also without. That of another container
        // is found there.
        let own = manifest.hostname.iter().filter(|_| manifest.namespaces.uts == Sharing::Private);
        let short = own.clone().filter_map(|name| name.split_once('.'));
        let short = short.map(|(short, _)| short.to_owned());
        let hostnames = own.cloned().chain(short).collect();
        names.extend(manifest.network.alias.iter().cloned());
        names.extend(wanted.id.get(..12).map(str::to_owned));
        let joined = Joined {
            id: wanted.id.to_owned(),
            incarnation: wanted.incarnation,
            names,
            hostnames,
            endpoints: places.clone(),
            claims,
            servers: manifest.network.dns.clone(),
            runs: true,
            netns: Arc::new(netns),
            inside,
        };
        self.joined.insert(wanted.name.to_owned(), joined);
        // Whatever can't be had: the rest is as it is to be.
        outcome = outcome.and(self.write_ports(wanted.name));
        for gone in &before_places {
            if !places.iter().any(|place| place.network == gone.network) {
                self.detach(wanted.name, gone, wanted.netns);
            }
        }
        for place in &places {
            let was = before_places.iter().find(|before| before.network == place.network);
            let moved = was.is_some_and(|was| {
                was.interface != place.interface
                    || was.is_default_route != place.is_default_route
                    || was.sysctls != place.sysctls
            });
            outcome = outcome.and(self.attach(wanted, place, moved));
        }
        // With its interfaces its loopback is up.
        let has_inside = self.joined.get(wanted.name).is_some_and(|now| now.inside.is_some());
        if needs_inside && !has_inside && outcome.is_ok() {
            self.serve_inside(wanted.name);
        }
        // The rules come last (`Networks::join`): nothing gets in by half a set-up.
        self.generation += 1;
        self.answer_names();
        self.sweep_networks();
        outcome.map(|()| self.etc(wanted.name, manifest, &places))
    }

    /// Interfaces and addresses, the leases on disk.
    fn places(&mut self, wanted: &Wanted<'_>, members: &[Member]) -> Result<Vec<Place>, String> {
        let before: Vec<Place> =
            self.joined.get(wanted.name).map(|joined| joined.endpoints.clone()).unwrap_or_default();
        let kept = |network: &str| before.iter().find(|place| place.network == network);
        let asked = members.iter().map(|member| (member.name.as_str(), member.priority));
        let way_out = self.way_out(asked);
        let mut found = Vec::new();
        for member in members {
            found.push(match kept(&member.name) {
                Some(place) => (Some(place.interface.clone()), None),
                None => match self.found(wanted, member) {
                    Some((interface, address)) => (Some(interface), address),
                    None => (None, None),
                },
            });
            if let (Some(named), Some((interface, _))) = (member.interface(), found.last_mut()) {
                *interface = Some(named.to_owned());
            }
        }
        let mut used: Vec<String> =
            found.iter().filter_map(|(interface, _)| interface.clone()).collect();
        let mut places = Vec::new();
        for (member, (interface, address)) in members.iter().zip(found) {
            let interface = interface.unwrap_or_else(|| {
                let free = (0..).map(|n| format!("eth{n}")).find(|name| !used.contains(name));
                let free = free.unwrap_or_default();
                used.push(free.clone());
                free
            });
            let wish = Wish { v4: member.ip, v6: member.ip6, mac: member.mac.map(|mac| mac.0) };
            let asked = Wish { v4: wish.v4.or(address), ..wish };
            let lease = match self.lease(wanted.name, &member.name, asked) {
                // Its network is another one since it was launched: it keeps what it got
                // then.
                Err(why) if self.recovering => {
                    tracing::warn!("{}: {why}; it keeps what it has", wanted.name);
                    let mac = self.leased(wanted.name, &member.name).map(|lease| lease.mac);
                    let has = Wish { v4: address, v6: None, mac: mac.or(wish.mac) };
                    self.lease(wanted.name, &member.name, has)?
                }
                asked => asked?,
            };
            places.push(Place {
                network: member.name.clone(),
                interface,
                lease,
                wish,
                aliases: member.alias.clone(),
                links: member.link.clone(),
                link_local: member.link_local.clone(),
                is_default_route: way_out.as_ref() == Some(&member.name),
                priority: member.priority,
                sysctls: member.sysctls()?,
            });
        }
        for (at, place) in places.iter().enumerate() {
            if places[..at].iter().any(|other| other.interface == place.interface) {
                return Err(format!("two of its interfaces are to be called {}", place.interface));
            }
        }
        Ok(places)
    }

    /// Of these networks, by name and priority, the one that is the way outside: the first of
    /// the highest.
    fn way_out<'a>(&self, networks: impl Iterator<Item = (&'a str, i64)>) -> Option<String> {
        let leads_out = |name: &str| self.up.get(name).is_some_and(|up| !up.spec.internal);
        let mut best: Option<(&str, i64)> = None;
        for (name, priority) in networks.filter(|(name, _)| leads_out(name)) {
            if best.is_none_or(|(_, highest)| priority > highest) {
                best = Some((name, priority));
            }
        }
        best.map(|(name, _)| name.to_owned())
    }

    fn leased(&self, container: &str, network: &str) -> Option<Lease> {
        self.up.get(network)?.leases.of(container).copied()
    }

    /// Whether a container has an address on one of its networks that nothing notes.
    pub(super) fn has_unnoted(&self, wanted: &Wanted<'_>) -> bool {
        let members = wanted.manifest.network.members();
        members
            .iter()
            .filter(|member| self.leased(wanted.name, &member.name).is_none())
            .any(|member| self.found(wanted, member).is_some())
    }

    /// The interface of a container that an engine before us brought onto a network, and
    /// its address if its lease was lost.
    fn found(&self, wanted: &Wanted<'_>, member: &Member) -> Option<(String, Option<Ipv4Addr>)> {
        if !self.recovering {
            return None;
        }
        let up = self.up.get(&member.name)?;
        let lease = up.leases.of(wanted.name).map(|lease| lease.v4);
        let (interface, address) = match host::found(&up.spec, lease, wanted.netns) {
            Ok(found) => found?,
            Err(error) => {
                tracing::warn!("{}: {error}", wanted.name);
                return None;
            }
        };
        Some((interface, Some(address).filter(|_| lease.is_none())))
    }

    /// A container's addresses on a network, on disk before they are used. One that rests
    /// gives way to who asks for its address: Compose starts the next one of a service
    /// before it removes the last.
    fn lease(&mut self, container: &str, network: &str, wish: Wish) -> Result<Lease, String> {
        let own = self.host_addresses(network)?;
        let up = self.up.get(network).ok_or("the network is not made")?;
        let mut leases = up.leases.clone();
        let before = leases.of(container).copied();
        // While an engine finds out who runs, nobody is known to rest.
        let rests = |by: &str| !self.recovering && !self.joined.contains_key(by);
        let mut others = self.wishes.of_others(container, network);
        others.extend(own);
        let lease = loop {
            match leases.lease(&self.instance, &up.spec, container, wish, &others) {
                Ok(lease) => break lease,
                Err(Refusal::Held(by)) if rests(&by) && leases.release(&by) => {
                    tracing::info!("{by}, which rests, gives way to {container} on {network}");
                }
                Err(refusal) => {
                    let asked = wish.v4.map(|ip| format!("{ip} ")).unwrap_or_default();
                    return Err(format!("no address {asked}on the network {network}: {refusal}"));
                }
            }
        };
        if before != Some(lease) {
            self.commit_leases(network, leases)?;
        }
        Ok(lease)
    }

    /// The host's own addresses on a network that it is a member of as containers are.
    fn host_addresses(&mut self, network: &str) -> Result<Vec<IpAddr>, String> {
        let spec = self.up.get(network).map(|up| &up.spec);
        match spec.and_then(|spec| spec.parent.clone()) {
            Some(parent) => self.kernel()?.host.links().addresses(&parent).map_err(told),
            None => Ok(Vec::new()),
        }
    }

    fn attach(&mut self, wanted: &Wanted<'_>, place: &Place, moved: bool) -> Result<(), String> {
        let spec = self.up.get(&place.network).map(|up| up.spec.clone());
        let spec = spec.ok_or("the network is not made")?;
        let host = &mut self.kernel()?.host;
        let endpoint = place.endpoint(wanted.name);
        let is_there = !wanted.anew
            && !moved
            && host.is_attached(&spec, &endpoint, wanted.netns).unwrap_or(false);
        match is_there {
            true => Ok(()),
            false => self.make_place(wanted.name, place, wanted.netns),
        }
    }

    /// Makes a container's interface, in place of one that is there.
    pub(super) fn make_place(
        &mut self,
        container: &str,
        place: &Place,
        netns: BorrowedFd<'_>,
    ) -> Result<(), String> {
        let spec = self.up.get(&place.network).map(|up| up.spec.clone());
        let spec = spec.ok_or("the network is not made")?;
        let host = &mut self.kernel()?.host;
        if spec.driver != Driver::Bridge {
            let _ = host.detach_inside(&place.interface, netns);
        }
        host.attach(&spec, &place.endpoint(container), netns).map_err(told)?;
        host::set_inside(netns, &place.interface, &place.sysctls).map_err(told)
    }

    fn detach(&mut self, container: &str, place: &Place, netns: BorrowedFd<'_>) {
        let Some(up) = self.up.get(&place.network) else { return };
        let Some(kernel) = &mut self.kernel else { return };
        let done = match up.spec.driver {
            Driver::Bridge => kernel.host.detach(&up.spec, container),
            Driver::Macvlan | Driver::Ipvlan => kernel.host.detach_inside(&place.interface, netns),
        };
        if let Err(error) = done {
            tracing::warn!("{error}");
        }
    }

    /// See [`super::Networks::leave`].
    pub(super) fn leave(&mut self, name: &str, id: &str, incarnation: u64) {
        let is_it = |joined: &Joined| joined.id == id && joined.incarnation <= incarnation;
        if self.joined.get(name).is_some_and(is_it) {
            self.take_off(name);
        }
    }

    /// Takes whoever has this name off its networks.
    pub(super) fn take_off(&mut self, name: &str) {
        let Some(mut joined) = self.joined.remove(name) else { return };
        self.stop_inside(name, joined.inside.take(), Some(joined.netns.as_fd()));
        // First the rules, so that nobody else is ever let through by them.
        if let Err(error) = self.apply() {
            tracing::error!("{error}");
        }
        self.answer_names();
        for place in &joined.endpoints {
            self.detach(name, place, joined.netns.as_fd());
        }
        let _ = fs::remove_file(self.ports_file(name));
        self.sweep_networks();
    }

    /// See [`super::Networks::forget`].
    pub(super) fn forget(&mut self, name: &str) {
        self.take_off(name);
        self.each_leases(|leases| leases.release(name));
    }

    /// See [`super::Networks::call`].
    pub(super) fn call(&mut self, name: &str, called: &str, id: &str) {
        let Some(joined) = self.joined.get_mut(name).filter(|joined| joined.id == id) else {
            return;
        };
        let Some(first) = joined.names.first_mut().filter(|first| *first != called) else {
            return;
        };
        called.clone_into(first);
        self.answer_names();
    }

    /// See [`super::Networks::follow`].
    pub(super) fn follow(&mut self, from: &str, to: &str) {
        for place in self.joined.values_mut().flat_map(|joined| &mut joined.endpoints) {
            for link in &mut place.links {
                link.follow(from, to);
            }
        }
        self.answer_names();
    }

    /// See [`super::Networks::rename`].
    pub(super) fn rename(&mut self, name: &str, to: &str, id: &str) {
        self.leave(name, id, u64::MAX);
        self.each_leases(|leases| leases.rename(name, to));
    }

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
            outcome = outcome.and(moved.map_err(|why| format!("{}: {why}", guest.name)));
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

    /// Makes the firewall what follows from all that is here.
    pub(super) fn apply(&mut self) -> Result<(), String> {
        let Some(kernel) = &mut self.kernel else { return Ok(()) };
        let mut ports = Vec::new();
        let mut published = Vec::new();
        for (name, joined) in &self.joined {
            for place in &joined.endpoints {
                let bridged =
                    self.up.get(&place.network).is_some_and(|up| up.spec.driver == Driver::Bridge);
                if bridged {
                    let host_end = self.instance.port(name, &place.network);
                    ports.push(Port { host_end, lease: place.lease });
                }
            }
            let Some(to) = joined.target() else { continue };
            published.extend(joined.claims.iter().map(|claim| Published {
                host: claim.address,
                port: claim.port,
                protocol: claim.protocol,
                to,
                to_port: claim.to_port,
                bypass: claim.bypass,
            }));
        }
        if kernel.admission.is_none() && published.iter().any(|one| !one.bypass) {
            kernel.admission = Some(kernel.host.ensure_admission().map_err(told)?);
        }
        let plan = Plan {
            instance: self.instance.clone(),
            networks: self.up.values().map(|up| up.spec.clone()).collect(),
            ports,
            published,
            admission: kernel.admission,
        };
        if kernel.firewall.apply(&plan).map_err(told)? {
            kernel.flows.follow(plan, &self.runtime);
        }
        self.settled = self.generation;
        Ok(())
    }
}

/// Whether two descriptors are of one namespace.
fn is_same(one: &OwnedFd, other: BorrowedFd<'_>) -> bool {
    let id = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    match (id(one.as_fd()), id(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::networks::Networks;
    use crate::engine::paths::Paths;

    /// A container, on one network, that runs.
    fn joined(name: &str, last: u8, links: &[&str]) -> Joined {
        let v4 = Ipv4Addr::new(10, 0, 0, last);
        let place = Place {
            network: "shop".to_owned(),
            interface: "eth0".to_owned(),
            lease: Lease { v4, v6: None, mac: "02:00:00:00:00:01".parse().unwrap() },
            wish: Wish::default(),
            aliases: Vec::new(),
            links: links.iter().map(|link| link.parse().unwrap()).collect(),
            link_local: Vec::new(),
            is_default_route: true,
            priority: 0,
            sysctls: Vec::new(),
        };
        Joined {
            id: name.to_owned(),
            incarnation: 1,
            names: vec![name.to_owned()],
            hostnames: Vec::new(),
            endpoints: vec![place],
            claims: Vec::new(),
            servers: Vec::new(),
            runs: true,
            netns: Arc::new(fs::File::open("/dev/null").unwrap().into()),
            inside: None,
        }
    }

    #[tokio::test]
    async fn a_link_follows_a_container_that_gets_another_name_while_it_rests() {
        let root = tempfile::tempdir().unwrap();
        let (effects, _told) = tokio::sync::mpsc::unbounded_channel();
        let networks = Networks::new(&Paths::new(root.path()), effects);
        networks.locked(|state| {
            state.joined.insert("app".to_owned(), joined("app", 2, &["db:data"]));
        });
        networks.follow("db", "store");
        networks.locked(|state| {
            state.joined.insert("store".to_owned(), joined("store", 3, &[]));
            let app = state.joined.get("app").unwrap();
            assert_eq!(app.endpoints[0].links[0].to_string(), "store:data");
            assert_ne!(state.links(app), crate::network::dns::Names::default());
        });
    }
}
