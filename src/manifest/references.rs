//! What a manifest says of other containers. Pure.

use super::model::{Container, NetworkMode};
use super::scalar::Name;

impl Container {
    /// Whether it names this container.
    pub fn refers_to(&self, name: &Name) -> bool {
        self.referring(name, name).is_some()
    }

    /// The same, but of a container that has another name now; nothing where it does not
    /// name it.
    pub fn referring(&self, from: &Name, to: &Name) -> Option<Container> {
        let mut other = self.clone();
        let Container { after, requires, wants, conflicts, .. } = &mut other;
        let named = [after, requires, wants, conflicts].into_iter().flatten();
        let mut found = false;
        for name in named.filter(|name| *name == from) {
            to.clone_into(name);
            found = true;
        }
        if let Some(NetworkMode::Container(name)) = &mut other.network.mode
            && name == from
        {
            to.clone_into(name);
            found = true;
        }
        found.then_some(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let other = container.referring(&name("a"), &name("b")).unwrap();
        assert_eq!(other.after, [name("b"), name("x")]);
        assert_eq!((&other.requires, &other.wants), (&vec![name("b")], &vec![name("b")]));
        assert_eq!(other.conflicts, [name("y")]);
        assert_eq!(other.network_mode(), NetworkMode::Container(name("b")));
        assert!(container.refers_to(&name("y")) && !container.refers_to(&name("b")));
    }
}
