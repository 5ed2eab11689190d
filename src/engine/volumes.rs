//! Volumes that nobody named: those that an image wants, and how they are told from
//! others. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::handle::Event;
use crate::image::Digest;
use crate::manifest::model::{Container, Mount, MountKind};

/// Whether Berth made the name up: 64 hexadecimal digits.
pub fn is_anonymous(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The volumes that an image's `Volumes` ask for and the manifest does not say
/// otherwise. Their names follow from the container's id, so that each launch finds
/// the same and nothing has to be written down.
pub fn of_image(id: &str, manifest: &Container, wanted: &[PathBuf]) -> Vec<Mount> {
    let free = |target: &&PathBuf| {
        target.is_absolute() && manifest.mounts.iter().all(|mount| mount.target != **target)
    };
    wanted
        .iter()
        .filter(free)
        .map(|target| Mount {
            source: Some(Digest::of(format!("{id}\n{}", target.display()).as_bytes()).hex()),
            target: target.clone(),
            subpath: None,
            kind: Some(MountKind::Volume),
            read_only: false,
            size: None,
            mode: None,
            options: BTreeMap::new(),
            no_copy: false,
        })
        .collect()
}

/// Says at this time, in Unix nanoseconds, that a volume was made (`create`) or is no more
/// (`destroy`).
pub fn event(time: i64, action: &str, name: &str) -> Event {
    Event {
        time: time.unsigned_abs(),
        kind: "volume".to_owned(),
        action: action.to_owned(),
        name: name.to_owned(),
        id: name.to_owned(),
        attributes: BTreeMap::from([("driver".to_owned(), "local".to_owned())]),
    }
}

/// Adds [`of_image`] to a manifest.
pub fn add(id: &str, manifest: &mut Arc<Container>, wanted: &[PathBuf]) {
    let more = of_image(id, manifest, wanted);
    if !more.is_empty() {
        Arc::make_mut(manifest).mounts.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_of_the_manifest_goes_first_and_names_stay() {
        let mut manifest = Container::default();
        let wanted = [PathBuf::from("/data"), PathBuf::from("/cache"), PathBuf::from("rel")];
        let made = of_image("abc", &manifest, &wanted);
        assert_eq!(made.len(), 2);
        assert!(made.iter().all(|m| is_anonymous(m.source.as_deref().unwrap())));
        assert_eq!(made, of_image("abc", &manifest, &wanted));
        assert_ne!(made[0].source, of_image("abd", &manifest, &wanted)[0].source);
        manifest.mounts.push(made[0].clone());
        assert_eq!(of_image("abc", &manifest, &wanted).len(), 1);
        assert!(!is_anonymous("data") && !is_anonymous(&"g".repeat(64)));
    }
}
