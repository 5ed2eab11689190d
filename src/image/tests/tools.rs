//! Other tools on our layout, and ours on theirs.

use std::process::Command;

use super::support::*;
use crate::image::Reference;

pub fn skopeo(arguments: &[&str]) -> Option<String> {
    if !std::path::Path::new("/usr/bin/skopeo").exists() {
        eprintln!("skipped: skopeo is not installed");
        return None;
    }
    let done = Command::new("skopeo").args(["--insecure-policy"]).args(arguments).output().unwrap();
    assert!(
        done.status.success(),
        "skopeo {arguments:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Some(String::from_utf8_lossy(&done.stdout).into_owned())
}

#[test]
fn skopeo_reads_the_layout_by_full_references() {
    let (dir, store) = store();
    let made = image(&store, "registry.example:5000/a/b:1", &[busybox_layer()], Compress::Gzip);
    let oci = format!("oci:{}:registry.example:5000/a/b:1", store.layout().display());
    let Some(told) = skopeo(&["inspect", &oci]) else { return };
    assert!(told.contains(&made.manifest.layers[0].digest.to_string()), "{told}");
    let to = dir.path().join("copy");
    skopeo(&["copy", &oci, &format!("dir:{}", to.display())]);
    assert!(to.join("manifest.json").exists());
}

#[test]
fn what_skopeo_copies_in_is_found_and_kept() {
    let (_dir, from) = store();
    let made = image(&from, "app:1", &[busybox_layer()], Compress::Zstd);
    let (_b, to) = store();
    let source = format!("oci:{}:docker.io/library/app:1", from.layout().display());
    let target = format!("oci:{}:docker.io/library/app:2", to.layout().display());
    if skopeo(&["copy", &source, &target]).is_none() {
        return;
    }
    let name: Reference = "app:2".parse().unwrap();
    let found = to.find(&name).unwrap().unwrap();
    assert_eq!(found.id, made.id);
    to.unpack_missing(&found).unwrap();
    assert_whole(&to);
}
