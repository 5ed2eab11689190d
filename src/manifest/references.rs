//! What a manifest says of other containers. Pure.

use super::model::{Container, NetworkMode};
use super::network::Link;
use super::scalar::Name;

impl Container {
    /// Whether it names this container.
    pub fn refers_to(&self, name: &Name) -> bool {
        let named = [&self.after, &self.requires, &self.wants, &self.conflicts];
        named.into_iter().flatten().any(|other| other == name)
            || self.joined().contains(name)
            || self.links().any(|link| link.container == name.as_str())
    }

    /// The same, but of a container that has another name now; nothing where it does not
    /// name it.
    pub fn referring(&self, from: &Name, to: &Name) -> Option<Container> {
        if !self.refers_to(from) {
            return None;
        }
        let mut other = self.clone();
        let Container { after, requires, wants, conflicts, .. } = &mut other;
        let named = [after, requires, wants, conflicts].into_iter().flatten();
        for name in named.filter(|name| *name == from) {
            to.clone_into(name);
        }
        let network = match &mut other.network.mode {
            Some(NetworkMode::Container(name)) => Some(name),
            _ => None,
        };
        let shared = other.namespaces.owners_mut();
        for name in network.into_iter().chain(shared).filter(|name| *name == from) {
            to.clone_into(name);
        }
        for link in other.network.networks.iter_mut().flat_map(|member| &mut member.link) {
            link.follow(from.as_str(), to.as_str());
        }
        Some(other)
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        self.network.networks.iter().flat_map(|member| &member.link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::model::{Ipc, Member, Sharing};

    #[test]
    fn each_way_to_name_another_follows_its_new_name() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let mut container = Container {
            after: vec![name("a"), name("x")],
            requires: vec![name("a")],
            wants: vec![name("a")],
            conflicts: vec![name("y")],
            ..Container::default()
        };
        container.network.mode = Some(NetworkMode::Container(name("a")));
        let linked: Link = "a:alias".parse().unwrap();
        container.network.networks = vec![Member { link: vec![linked], ..Member::of("back") }];
        container.namespaces.pid = Sharing::Container(name("a"));
        container.namespaces.ipc = Ipc::Container(name("z"));
        let other = container.referring(&name("a"), &name("b")).unwrap();
        assert_eq!(other.joined(), [name("b"), name("z")].into());
        assert!(container.refers_to(&name("z")));
        assert_eq!(other.after, [name("b"), name("x")]);
        assert_eq!((&other.requires, &other.wants), (&vec![name("b")], &vec![name("b")]));
        assert_eq!(other.network.networks[0].link[0].to_string(), "b:alias");
        assert_eq!(other.conflicts, [name("y")]);
        assert_eq!(other.network_mode(), NetworkMode::Container(name("b")));
        assert!(container.refers_to(&name("y")) && !container.refers_to(&name("b")));
    }
}
