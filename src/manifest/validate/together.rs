//! Containers against each other: who is missing, who waits in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Objection, objection};
use crate::manifest::model::{Container, Isolation, MountKind};
use crate::manifest::scalar::Name;

/// Checks containers against each other; by name.
pub fn together(containers: &BTreeMap<Name, Arc<Container>>) -> Vec<(Name, Objection)> {
    let mut found = Vec::new();
    for (name, container) in containers {
        for required in &container.requires {
            if !containers.contains_key(required) {
                found.push((
                    name.clone(),
                    objection(
                        "requires",
                        format!("there is no container {required}"),
                        "use `after` or `wants` for one that may be missing",
                    ),
                ));
            }
        }
        for owner in container.joined() {
            if !containers.contains_key(&owner) || owner == *name {
                let message = format!("there is no other container {owner}");
                found.push((name.clone(), objection(joining(container, &owner), message, "")));
            }
        }
        if let Some(owner) = container.namespaces.ipc.owner()
            && let Some(other) = containers.get(owner)
            && other.isolation == Isolation::Full
            && !other.namespaces.ipc.can_be_joined()
        {
            let message = format!("the IPC namespace of {owner} is its own");
            let hint = "write namespaces.ipc = \"shareable\" there";
            found.push((name.clone(), objection("namespaces.ipc", message, hint)));
        }
    }
    found.extend(hosts(containers));
    found.extend(volumes(containers));
    found.extend(cycles(containers));
    found
}

/// Who shares the namespace of a container that has none of its own.
fn hosts(containers: &BTreeMap<Name, Arc<Container>>) -> Vec<(Name, Objection)> {
    let mut found = Vec::new();
    for (name, container) in containers {
        let namespaces = &container.namespaces;
        for (key, owner) in [
            ("namespaces.pid", namespaces.pid.owner()),
            ("namespaces.ipc", namespaces.ipc.owner()),
            ("namespaces.uts", namespaces.uts.owner()),
        ] {
            if let Some(owner) = owner
                && containers.get(owner).is_some_and(|other| other.isolation == Isolation::None)
            {
                let message = format!("{owner} has isolation = \"none\": its is the host's");
                let hint = "write \"host\" if that is meant";
                found.push((name.clone(), objection(key, message, hint)));
            }
        }
    }
    found
}

/// Whoever says what a volume is made with says the same as the others.
fn volumes(containers: &BTreeMap<Name, Arc<Container>>) -> Vec<(Name, Objection)> {
    let mut known = BTreeMap::new();
    let mut found = Vec::new();
    for (name, container) in containers {
        for mount in &container.mounts {
            let (MountKind::Volume, Some(volume), false) =
                (mount.kind(), &mount.source, mount.options.is_empty())
            else {
                continue;
            };
            let (first, options) = known.entry(volume).or_insert((name, &mount.options));
            if **options != mount.options {
                let key = format!("mount {}", mount.target.display());
                let message = format!("{first} makes the volume {volume} with other `options`");
                let hint = "say the same in both, or in one of them alone";
                found.push((name.clone(), objection(&key, message, hint)));
            }
        }
    }
    found
}

/// Whom a container waits for.
fn awaited(container: &Container) -> impl Iterator<Item = Name> {
    // A target is reached when what it wants has been tried.
    let wanted = container.is_target().then_some(&container.wants).into_iter().flatten();
    container
        .after
        .iter()
        .chain(&container.requires)
        .chain(wanted)
        .cloned()
        .chain(container.joined())
}

/// The key by which a container is in a namespace of another.
fn joining(container: &Container, other: &Name) -> &'static str {
    let namespaces = &container.namespaces;
    if namespaces.pid.owner() == Some(other) {
        "namespaces.pid"
    } else if namespaces.ipc.owner() == Some(other) {
        "namespaces.ipc"
    } else if namespaces.uts.owner() == Some(other) {
        "namespaces.uts"
    } else {
        "network.mode"
    }
}

/// The key by which a container waits for another.
fn naming(container: &Container, other: &Name) -> &'static str {
    if container.after.contains(other) {
        "after"
    } else if container.requires.contains(other) {
        "requires"
    } else if container.is_target() && container.wants.contains(other) {
        "wants"
    } else {
        joining(container, other)
    }
}

/// Each cycle once, told at its first name. Iterative: a chain may be long.
fn cycles(containers: &BTreeMap<Name, Arc<Container>>) -> Vec<(Name, Objection)> {
    let mut done = BTreeSet::new();
    let mut found = Vec::new();
    for start in containers.keys() {
        if done.contains(start) {
            continue;
        }
        let mut path: Vec<(Name, Vec<Name>)> = Vec::new();
        let next = |name: &Name| -> Vec<Name> {
            containers.get(name).map(|container| awaited(container).collect()).unwrap_or_default()
        };
        path.push((start.clone(), next(start)));
        while let Some((name, rest)) = path.last_mut() {
            let Some(other) = rest.pop() else {
                done.insert(name.clone());
                path.pop();
                continue;
            };
            if let Some(at) = path.iter().position(|(name, _)| *name == other) {
                let round: Vec<&str> = path[at..]
                    .iter()
                    .map(|(name, _)| name.as_str())
                    .chain([other.as_str()])
                    .collect();
                let message = format!("they wait for each other: {}", round.join(" → "));
                let next = path.get(at + 1).map_or(&other, |(name, _)| name);
                let key = containers.get(&other).map_or("after", |this| naming(this, next));
                found.push((other.clone(), objection(key, message, "take one of them out")));
            } else if !done.contains(&other) && containers.contains_key(&other) {
                let further = next(&other);
                path.push((other, further));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(text: &str) -> Container {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn cycles_are_printed() {
        let make = |after: &str| {
            Arc::new(container(&format!("rootfs = \"/\"\ncommand = [\"x\"]\nafter = [{after}]")))
        };
        let mut all = BTreeMap::new();
        all.insert("a".parse().unwrap(), make("\"b\""));
        all.insert("b".parse().unwrap(), make("\"c\", \"nobody\""));
        all.insert("c".parse().unwrap(), make("\"a\""));
        let found = together(&all);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].1.message.contains("a → b → c → a"), "{}", found[0].1.message);
    }

    #[test]
    fn a_volume_is_made_in_one_way() {
        let make = |options: &str| {
            Arc::new(container(&format!(
                "rootfs = \"/\"\ncommand = [\"x\"]\n[[mount]]\nsource = \"v\"\ntarget = \"/v\"\n\
                 options = {{ {options} }}"
            )))
        };
        let tmpfs = "type = \"tmpfs\", device = \"tmpfs\"";
        let mut all = BTreeMap::new();
        all.insert("a".parse().unwrap(), make(tmpfs));
        all.insert("b".parse().unwrap(), make(""));
        all.insert("c".parse().unwrap(), make(tmpfs));
        assert_eq!(together(&all), []);
        all.insert("d".parse().unwrap(), make(&format!("{tmpfs}, o = \"size=1m\"")));
        let found = together(&all);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].0.as_str(), found[0].1.key.as_str()), ("d", "mount /v"));
    }

    #[test]
    fn who_has_no_namespace_of_its_own_shares_none() {
        let mut all = BTreeMap::new();
        let plain = "isolation = \"none\"\ncommand = [\"x\"]";
        all.insert("a".parse().unwrap(), Arc::new(container(plain)));
        for kind in ["pid", "ipc", "uts"] {
            let text = format!(
                "rootfs = \"/\"\ncommand = [\"x\"]\nnamespaces = {{ {kind} = \"container:a\" }}"
            );
            all.insert("b".parse().unwrap(), Arc::new(container(&text)));
            let found = together(&all);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].1.key, format!("namespaces.{kind}"));
        }
    }

    #[test]
    fn a_circle_is_told_at_the_key_that_makes_it() {
        let mut all = BTreeMap::new();
        all.insert("t".parse().unwrap(), Arc::new(container("type = \"target\"\nwants = [\"u\"]")));
        let other = "rootfs = \"/\"\ncommand = [\"x\"]\nafter = [\"t\"]";
        all.insert("u".parse().unwrap(), Arc::new(container(other)));
        let found = together(&all);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].1.key, "wants");
    }
}
