//! Archives: saved, loaded, imported, committed; by us and by others; and hostile.

use std::fs;

use super::support::*;
use super::tools::skopeo;
use crate::image::archive::{Format, Import, import, import_file, load, save};
use crate::image::commit::{Commit, NewLayer, commit};
use crate::image::compression::Compression;
use crate::image::config::Process;
use crate::image::history::history;
use crate::image::store::{Image, Keep, Pins, Untagged};
use crate::image::{Digest, Kind, Platform, Reference, Store};

const CREATED: &str = "2026-01-02T03:04:05Z";

fn saved(store: &Store, names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut bytes = Vec::new();
    save(store, &names, Format::Both, &mut bytes).unwrap();
    bytes
}

fn two_layers(store: &Store, name: &str) -> Image {
    image(store, name, &[busybox_layer(), tar_of(&[("x", b"x")])], Compress::Gzip)
}

#[test]
fn what_is_saved_is_loaded() {
    let (_a, from) = store();
    let (_b, to) = store();
    let one = two_layers(&from, "app:1");
    let two = image(&from, "quay.io/other:2", &[busybox_layer()], Compress::Zstd);
    from.tag(&one, &"app:again".parse().unwrap()).unwrap();
    let archive = saved(&from, &["app:1", "app:again", "quay.io/other:2"]);
    assert!(archive == saved(&from, &["app:1", "app:again", "quay.io/other:2"]));
    let loaded = load(&to, &archive[..]).unwrap();
    assert_eq!(loaded.len(), 2);
    for (name, image) in [("app:1", &one), ("app:again", &one), ("quay.io/other:2", &two)] {
        assert_eq!(to.resolve(name).unwrap().id, image.id, "{name}");
    }
    assert_whole(&to);
    // Compressed archives, and images without names.
    let (_c, to) = store();
    let loaded = load(&to, &gzip(&saved(&from, &[&one.id.hex()]))[..]).unwrap();
    assert_eq!(loaded[0].names, []);
    assert_eq!(to.list().unwrap()[0].image.id, one.id);
    assert_whole(&to);
}

#[test]
fn both_kinds_go_through_skopeo_both_ways() {
    let (dir, from) = store();
    let made = two_layers(&from, "app:1");
    let path = |name: &str| dir.path().join(name).display().to_string();
    fs::write(path("saved.tar"), saved(&from, &["app:1"])).unwrap();
    for kind in ["docker-archive", "oci-archive"] {
        let source = format!("{kind}:{}", path("saved.tar"));
        let target = format!("oci:{}:x", path(kind));
        if skopeo(&["copy", &source, &target]).is_none() {
            return;
        }
        // And what skopeo writes is read here.
        let written = path(&format!("{kind}.tar"));
        let layout = format!("oci:{}:docker.io/library/app:1", from.layout().display());
        skopeo(&["copy", &layout, &format!("{kind}:{written}:docker.io/library/app:1")]);
        let (_b, to) = store();
        let loaded = load(&to, fs::File::open(&written).unwrap()).unwrap();
        assert_eq!(loaded.len(), 1);
        let found = to.find(&"app:1".parse().unwrap()).unwrap().unwrap();
        assert_eq!(found.layers(), made.layers(), "{kind}");
        assert_eq!(file_in(&to, &found, "x").unwrap(), b"x");
        assert_whole(&to);
    }
}

#[test]
fn the_old_format_with_links_is_loaded() {
    // As `docker save` wrote it before version 25: a folder for each layer, and a
    // symlink where a layer comes twice.
    let layer = busybox_layer();
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","config":{{"Cmd":["/bin/sh"]}},
        "rootfs":{{"type":"layers","diff_ids":["{0}","{0}"]}}}}"#,
        Digest::of(&layer)
    );
    let manifest =
        r#"[{"Config":"c.json","RepoTags":["old:1"],"Layers":["a/layer.tar","b/layer.tar"]}]"#;
    let mut tar = tar::Builder::new(Vec::new());
    let mut file = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content).unwrap();
    };
    file("a/VERSION", b"1.0");
    file("a/json", b"{}");
    file("a/layer.tar", &layer);
    file("c.json", config.as_bytes());
    file("manifest.json", manifest.as_bytes());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "b/layer.tar", "../a/layer.tar").unwrap();
    let (_dir, store) = store();
    let loaded = load(&store, &tar.into_inner().unwrap()[..]).unwrap();
    assert_eq!(loaded[0].names, ["old:1".parse::<Reference>().unwrap()]);
    assert_whole(&store);
    let left = store.collect(&Pins::default(), Keep::nothing()).unwrap();
    assert_eq!(left.blobs, 0, "something was kept that no image has");
}

#[test]
fn hostile_archives_change_nothing() {
    let (dir, store) = store();
    let good = {
        let (_b, from) = store_of_one();
        saved(&from, &["app:1"])
    };
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("no manifest", tar_of(&[("etc/passwd", b"x")])),
        ("torn", good[..good.len() / 2].to_vec()),
        ("lacks blobs", tar_of(&[("manifest.json", br#"[{"Config":"a","Layers":["b"]}]"#)])),
        (
            "outside",
            tar_of(&[("manifest.json", br#"[{"Config":"../../etc/passwd","Layers":[]}]"#)]),
        ),
        ("absolute", tar_of(&[("manifest.json", br#"[{"Config":"/etc/passwd","Layers":[]}]"#)])),
        ("not json", tar_of(&[("manifest.json", b"[")])),
        ("wrong digest", tar_of(&[(&format!("blobs/sha256/{}", "a".repeat(64)), b"x")])),
        ("large document", tar_of(&[("index.json", &vec![b' '; 5 << 20])])),
        ("not a tar", noise(100_000, 1)),
    ];
    for (what, bytes) in hostile {
        assert!(load(&store, &bytes[..]).is_err(), "{what}");
    }
    // A link that leads out, and a circle of them.
    for (name, target) in [("a", "../../../etc/passwd"), ("a", "/etc/passwd"), ("a", "a")] {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, name, target).unwrap();
        let document = br#"[{"Config":"a","Layers":[]}]"#;
        let mut header = tar::Header::new_gnu();
        header.set_size(document.len() as u64);
        tar.append_data(&mut header, "manifest.json", &document[..]).unwrap();
        let error = load(&store, &tar.into_inner().unwrap()[..]).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    }
    assert!(store.list().unwrap().is_empty());
    assert_whole(&store);
    store.collect(&Pins::default(), Keep::nothing()).unwrap();
    assert_eq!(store.usage().unwrap().total(), 0);
    assert!(dir.path().exists());
}

fn store_of_one() -> (tempfile::TempDir, Store) {
    let (dir, store) = store();
    two_layers(&store, "app:1");
    (dir, store)
}

#[test]
fn a_root_is_imported_as_it_comes() {
    let tar = busybox_layer();
    let zstd = zstd::encode_all(&tar[..], 3).unwrap();
    for bytes in [tar.clone(), gzip(&tar), zstd] {
        let (_dir, store) = store();
        let name: Reference = "root:1".parse().unwrap();
        let changes = ["CMD [\"/bin/sh\"]".to_owned(), "ENV A=b".to_owned()];
        let what = Import {
            name: Some(&name),
            changes: &changes,
            message: Some("imported"),
            platform: Platform::host(),
            created: CREATED,
        };
        let made = import(&store, &bytes[..], &what).unwrap();
        assert_eq!(made.layers(), [Digest::of(&tar)]);
        assert_eq!(made.manifest.layers[0].digest, Digest::of(&bytes));
        assert_eq!(made.config.config.env, ["A=b"]);
        assert_eq!(import(&store, &bytes[..], &what).unwrap().id, made.id, "not the same again");
        assert_whole(&store);
        assert!(import(&store, &bytes[..bytes.len() / 2], &what).is_err());
        let bad = Import { changes: &["FROM x".to_owned()], ..what };
        assert_eq!(import(&store, &bytes[..], &bad).unwrap_err().kind(), Kind::Invalid);
        assert_whole(&store);
        assert_eq!(store.usage().unwrap().temporary, 0);
    }
}

#[test]
fn a_commit_is_a_layer_upon_its_base() {
    let (dir, store) = store();
    let base = image(&store, "base", &[busybox_layer()], Compress::Gzip);
    let tar = tar_of(&[("new", b"new")]);
    let bytes = gzip(&tar);
    let lease = store.lease().unwrap();
    let digest = store.put(&lease, &bytes).unwrap();
    let name: Reference = "made:1".parse().unwrap();
    let layer = NewLayer {
        digest,
        size: bytes.len() as u64,
        compression: Compression::Gzip,
        diff_id: Digest::of(&tar),
    };
    let what = Commit {
        base: Some(&base),
        layer: Some(layer),
        process: Some(Process { env: vec!["RUN=1".into()], ..base.config.config.clone() }),
        changes: &["LABEL a=b".to_owned()],
        platform: Platform::host(),
        author: Some("me"),
        message: Some("why"),
        created_by: Some("/bin/sh"),
        created: CREATED,
        name: Some(&name),
    };
    let made = commit(&store, &lease, &what).unwrap();
    assert_eq!(made.id, commit(&store, &lease, &what).unwrap().id);
    drop(lease);
    assert_eq!(made.layers(), [base.layers()[0], Digest::of(&tar)]);
    assert_eq!(made.config.config.labels["a"], "b");
    assert_eq!(made.config.config.env, ["RUN=1"]);
    let steps = history(&store, &made);
    assert_eq!(steps.len(), 2);
    assert_eq!(steps[0].history.comment.as_deref(), Some("why"));
    assert_eq!(steps[0].layer, Some(Digest::of(&tar)));
    assert_eq!(steps[1].layer, Some(base.layers()[0]));
    // The base may go: its layers stay, as the new image has them.
    store.untag(&"base".parse().unwrap(), &Pins::default()).unwrap();
    store.collect(&Pins::default(), Keep::nothing()).unwrap();
    assert_whole(&store);
    let oci = format!("oci:{}:{name}", store.layout().display());
    let copied = format!("dir:{}", dir.path().join("copy").display());
    skopeo(&["copy", &oci, &copied]);
}

/// An archive is the image that it was imported as, and nobody else's with that layer.
#[test]
fn an_archive_is_its_own_image() {
    let (dir, store) = store();
    let path = dir.path().join("app.tar.gz");
    fs::write(&path, gzip(&busybox_layer())).unwrap();
    let made = import_file(&store, &path).unwrap().unwrap();
    let layer = NewLayer {
        digest: made.manifest.layers[0].digest,
        size: made.manifest.layers[0].size,
        compression: Compression::Gzip,
        diff_id: made.layers()[0],
    };
    let lease = store.lease().unwrap();
    let other = commit(
        &store,
        &lease,
        &Commit {
            base: None,
            layer: Some(layer),
            process: None,
            changes: &["ENTRYPOINT [\"/evil\"]".to_owned()],
            platform: Platform::host(),
            author: None,
            message: None,
            created_by: None,
            created: made.config.created.as_deref().unwrap(),
            name: None,
        },
    )
    .unwrap();
    assert_ne!(other.id, made.id);
    let pins = Pins::default();
    store.remove(&made, &pins, true).unwrap();
    let again = dir.path().join("again.tar.gz");
    fs::copy(&path, &again).unwrap();
    assert_eq!(import_file(&store, &again).unwrap().unwrap().id, made.id);
    // One that comes back is not what was superseded any more.
    store.supersede(&made).unwrap();
    import_file(&store, &again).unwrap();
    let keep = Keep::nothing();
    let lost = Untagged::Lost(std::time::Duration::ZERO);
    store.collect(&pins, Keep { untagged: lost, ..keep }).unwrap();
    store.resolve(&made.id.to_string()).unwrap();
    // What is remembered of archives goes with their images.
    let stamps = || fs::read_dir(dir.path().join("image-work/imports")).unwrap().count();
    assert_eq!(stamps(), 2);
    store.collect(&pins, keep).unwrap();
    assert_eq!(stamps(), 0);

    let folder = dir.path().join("folder.tar");
    fs::create_dir(&folder).unwrap();
    assert!(import_file(&store, &folder).unwrap().is_none());
    let fifo = dir.path().join("fifo.tar");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from(0o600),
        0,
    )
    .unwrap();
    let error = import_file(&store, &fifo).unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
}
