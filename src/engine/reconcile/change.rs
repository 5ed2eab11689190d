//! What differs between two versions of a manifest, and what that costs.

use serde_json::Value;

use crate::manifest::model::{Container, NetworkMode, Publish};

/// The keys that change without a new incarnation. Everything else replaces the
/// container: it is stopped, and launched with a fresh writable layer, as Docker's
/// users know it from compose.
const IN_PLACE: [&str; 14] = [
    "start",
    "idle-timeout",
    "resources",
    "restart",
    "log",
    "stop",
    "health",
    "signals",
    "labels",
    "docker",
    "after",
    "requires",
    "wants",
    "conflicts",
];

/// The way from one version of a manifest to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// They mean the same.
    None,
    /// All of these keys can change in the running container.
    InPlace {
        /// `resources.memory`, `labels.team`, …
        keys: Vec<String>,
    },
    /// At least one of these keys needs a new incarnation.
    Replace {
        /// Those that do.
        keys: Vec<String>,
    },
}

impl Change {
    /// From `old` to `new`.
    pub fn between(old: &Container, new: &Container) -> Change {
        if old == new {
            return Change::None;
        }
        let mut keys = changed_keys(old, new);
        // Where there is an interface already, all that is on it changes live; and one that
        // comes or goes, where the files in `/etc` are of Berth's making in either case.
        let bridged = |manifest: &Container| manifest.network_mode() == NetworkMode::Bridge;
        let apart = |manifest: &Container| {
            manifest.image.is_some()
                && matches!(manifest.network_mode(), NetworkMode::Bridge | NetworkMode::None)
        };
        let same_network = (bridged(old) && bridged(new)) || (apart(old) && apart(new));
        let same_sockets = held(old).eq(held(new));
        if old.network_mode() != new.network_mode() && !keys.iter().any(|key| key == "network.mode")
        {
            keys.push("network.mode".to_owned());
        }
        let is_live = |key: &str| match key.strip_prefix("network.") {
            Some("mode") => same_network,
            Some("publish") => same_network && same_sockets,
            Some(_) => same_network,
            None => is_in_place(key),
        };
        let replace: Vec<String> = keys.iter().filter(|key| !is_live(key)).cloned().collect();
        match (keys.is_empty(), replace.is_empty()) {
            (true, _) => Change::None,
            (false, true) => Change::InPlace { keys },
            (false, false) => Change::Replace { keys: replace },
        }
    }
}

/// The listening sockets that it is handed at its launch.
fn held(container: &Container) -> impl Iterator<Item = &Publish> {
    container.network.publish.iter().filter(|one| one.hold)
}

fn is_in_place(key: &str) -> bool {
    let top = key.split('.').next().unwrap_or(key);
    IN_PLACE.contains(&top)
}

/// The keys that differ, a second level dotted where both have the table.
pub(in crate::engine) fn changed_keys(old: &Container, new: &Container) -> Vec<String> {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) =
        (serde_json::to_value(old), serde_json::to_value(new))
    else {
        return Vec::new();
    };
    let mut keys = Vec::new();
    for key in union(&old, &new) {
        match (old.get(key), new.get(key)) {
            (Some(Value::Object(old)), Some(Value::Object(new))) => keys.extend(
                union(old, new)
                    .into_iter()
                    .filter(|inner| old.get(*inner) != new.get(*inner))
                    .map(|inner| format!("{key}.{inner}")),
            ),
            (old, new) if old != new => keys.push(key.to_owned()),
            _ => {}
        }
    }
    keys
}

type Table = serde_json::Map<String, Value>;

fn union<'a>(old: &'a Table, new: &'a Table) -> Vec<&'a str> {
    let added = new.keys().filter(|key| !old.contains_key(*key));
    old.keys().chain(added).map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::scalar::Size;

    #[test]
    fn limits_change_in_place_and_a_command_replaces() {
        let old = Container::default();
        let mut new = old.clone();
        new.resources.memory = Some(Size(1 << 20));
        new.labels.insert("team".into(), "shop".into());
        assert_eq!(
            Change::between(&old, &new),
            Change::InPlace { keys: vec!["resources.memory".into(), "labels.team".into()] }
        );
        new.command = vec!["true".into()];
        assert_eq!(Change::between(&old, &new), Change::Replace { keys: vec!["command".into()] });
        assert_eq!(Change::between(&new, &new.clone()), Change::None);
    }

    #[test]
    fn ports_and_networks_change_in_place_where_there_is_a_bridge() {
        let read = |text: &str| -> Container { toml::from_str(text).unwrap() };
        let old = read("image = \"x\"\n");
        let new = read("image = \"x\"\n[network]\npublish = [\"80:80\"]\nnetworks = [\"a\"]\n");
        let keys = vec!["network.publish".to_owned(), "network.networks".to_owned()];
        assert_eq!(Change::between(&old, &new), Change::InPlace { keys });
        let none = read("rootfs = \"/\"\n");
        let published = read("rootfs = \"/\"\n[network]\npublish = [\"80:80\"]\n");
        let keys = vec!["network.publish".to_owned(), "network.mode".to_owned()];
        assert_eq!(Change::between(&none, &published), Change::Replace { keys });
        let held = read("image = \"x\"\n[network]\npublish = [{ host = 80, hold = true }]\n");
        assert!(matches!(Change::between(&old, &held), Change::Replace { .. }));
        // The last network is left, and another one joined.
        let alone = read("image = \"x\"\nnetwork.mode = \"none\"\n");
        let host = read("image = \"x\"\nnetwork.mode = \"host\"\n");
        for (old, new) in [(&old, &alone), (&alone, &new)] {
            assert!(matches!(Change::between(old, new), Change::InPlace { .. }));
        }
        assert!(matches!(Change::between(&alone, &host), Change::Replace { .. }));
    }

    #[test]
    fn a_table_that_is_new_is_named_as_a_whole() {
        let old = Container::default();
        let new = Container { health: Some(Default::default()), ..Container::default() };
        assert_eq!(Change::between(&old, &new), Change::InPlace { keys: vec!["health".into()] });
    }
}
