//! The store by itself: names, garbage, crashes, several at once.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use super::*;
use crate::image::tests::support::{Compress, assert_whole, busybox_layer, image, store, tar_of};
use crate::image::{Kind, Reference};

fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

fn collect_all(store: &Store, pins: &Pins) -> Collected {
    store.collect(pins, Keep::nothing()).unwrap()
}

#[test]
fn names_move_and_go() {
    let (_dir, store) = store();
    let one = image(&store, "app:1", &[busybox_layer()], Compress::Gzip);
    let two = image(&store, "app:2", &[busybox_layer(), tar_of(&[("x", b"x")])], Compress::Gzip);
    store.tag(&one, &name("quay.io/other:1")).unwrap();
    assert_eq!(store.resolve("quay.io/other:1").unwrap().id, one.id);
    assert_eq!(store.resolve(&one.id.to_string()).unwrap().id, one.id);
    assert_eq!(store.resolve(&one.id.hex()[..20]).unwrap().id, one.id);
    assert_eq!(store.resolve(&two.descriptor.digest.to_string()).unwrap().id, two.id);
    assert_eq!(store.resolve("nothing").unwrap_err().kind(), Kind::NotFound);
    // A name that moves leaves its image without one, or with the others.
    store.tag(&one, &name("app:2")).unwrap();
    assert_eq!(store.list().unwrap().len(), 2);
    assert_eq!(store.resolve(&two.id.hex()).unwrap().id, two.id);
    let error = store.remove(&one, &Pins::default(), false).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    let gone = store.untag(&name("app:1"), &Pins::default()).unwrap();
    assert_eq!(gone.images, []);
    store.untag(&name("app:2"), &Pins::default()).unwrap();
    let gone = store.untag(&name("quay.io/other:1"), &Pins::default()).unwrap();
    assert_eq!(gone.images, [one.id]);
    assert_eq!(store.untag(&name("app:1"), &Pins::default()).unwrap_err().kind(), Kind::NotFound);
    collect_all(&store, &Pins::default());
    assert!(store.list().unwrap().is_empty());
    let usage = store.usage().unwrap();
    assert_eq!((usage.total(), usage.images.len()), (0, 0));
}

/// A layer with a file of its own below `bin/`, and one hard link to a lower layer.
fn linking_layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    tar.append_data(&mut header, "bin/own", &b"own"[..]).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    tar.append_link(&mut header, "here", "bin/below").unwrap();
    tar.into_inner().unwrap()
}

/// A layer with `bin/` of this mode and `bin/below` with this content.
fn base_layer(mode: u32, content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(mode);
    header.set_uid(5);
    tar.append_data(&mut header, "bin/", &b""[..]).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    tar.append_data(&mut header, "bin/below", content).unwrap();
    tar.into_inner().unwrap()
}

/// The same layer on two bases is two directories, each with the files and modes of
/// what is below it.
#[test]
fn a_layer_that_takes_from_those_below_it_belongs_to_its_chain() {
    use std::os::unix::fs::MetadataExt;
    let (_dir, store) = store();
    let (top, red, blue) = (linking_layer(), base_layer(0o711, b"red"), base_layer(0o700, b"blue"));
    let one = image(&store, "one", &[red.clone(), top.clone()], Compress::Gzip);
    let two = image(&store, "two", &[blue, top.clone()], Compress::No);
    let (diff_id, chain_id) = (one.layers()[1], one.config.rootfs.chain_ids()[1]);
    assert_eq!(store.layer_path(diff_id), None);
    assert!(store.layer_path(chain_id).is_some());
    for (image, content, mode) in [(&one, "red", 0o711), (&two, "blue", 0o700)] {
        let layers = store.root_layers(image).unwrap();
        assert_eq!(fs::read_to_string(layers[0].join("here")).unwrap(), content);
        let bin = fs::metadata(layers[0].join("bin")).unwrap();
        assert_eq!((bin.mode() & 0o7777, bin.uid()), (mode, 5));
        // The link is one: both names are the same file.
        let (here, below) = (layers[0].join("here"), layers[0].join("bin/below"));
        assert_eq!(fs::metadata(here).unwrap().ino(), fs::metadata(below).unwrap().ino());
    }
    assert!(store.verify(false, None).unwrap().is_empty());
    collect_all(&store, &Pins::default());
    assert!(store.root_layers(&one).is_ok() && store.root_layers(&two).is_ok());
    // Torn away, it comes again from the blob.
    fs::remove_dir_all(store.layers().join(chain_id.hex())).unwrap();
    assert!(store.root_layers(&one).is_err());
    store.unpack_missing(&one).unwrap();
    assert!(store.root_layers(&one).is_ok());
    let usage = store.usage().unwrap();
    assert_eq!(usage.unreferenced, 0);
    store.untag(&name("one:latest"), &Pins::default()).unwrap();
    collect_all(&store, &Pins::default());
    assert_eq!(store.layer_path(chain_id), None);
    assert!(store.root_layers(&two).is_ok());
    // Nothing below has the file.
    let (digest, _) = {
        let lease = store.lease().unwrap();
        let mut blob = store.stage_blob().unwrap();
        std::io::Write::write_all(&mut blob, &top).unwrap();
        blob.finish(&lease).unwrap()
    };
    let lease = store.lease().unwrap();
    let unpacked = store.unpack_blob(digest, Digest::of(&top)).unwrap();
    assert!(unpacked.depends());
    let error = unpacked.finish(chain_id, &[], &lease).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("bin/below"), "{error}");
    assert!(super::list(&store.staging()).unwrap().is_empty());
}

#[test]
fn a_layer_that_hides_all_below_it_is_the_lowest_of_a_root() {
    let (_dir, store) = store();
    let hides = tar_of(&[(".wh..wh..opq", b""), ("new", b"new")]);
    let layers = [tar_of(&[("old", b"old")]), hides, tar_of(&[("top", b"top")])];
    let made = image(&store, "made", &layers, Compress::Gzip);
    let layers = store.root_layers(&made).unwrap();
    assert_eq!(layers.len(), 2);
    assert!(layers[0].join("top").exists() && layers[1].join("new").exists());
}

#[test]
fn what_is_held_is_not_collected() {
    let (_dir, store) = store();
    let base = busybox_layer();
    let kept = image(&store, "kept", std::slice::from_ref(&base), Compress::Gzip);
    let pinned = image(&store, "pinned", &[base.clone(), tar_of(&[("p", b"p")])], Compress::Gzip);
    let mounted = image(&store, "mounted", &[tar_of(&[("m", b"m")])], Compress::Gzip);
    let pins = Pins {
        images: BTreeSet::from([pinned.id]),
        layers: BTreeSet::from([mounted.layers()[0]]),
        unknown: Vec::new(),
    };
    assert_eq!(store.remove(&pinned, &pins, true).unwrap_err().kind(), Kind::Conflict);
    assert_eq!(store.untag(&name("pinned"), &pins).unwrap().images, []);
    store.remove(&mounted, &pins, true).unwrap();
    let lease = store.lease().unwrap();
    let leased = store.put(&lease, b"being pulled").unwrap();
    let collected = collect_all(&store, &pins);
    // Manifest, configuration and layer of `mounted`; its unpacked layer stays.
    assert_eq!((collected.blobs, collected.layers), (3, 0));
    assert!(store.has_blob(leased, 12).unwrap());
    assert!(store.layer_path(mounted.layers()[0]).is_some());
    assert_eq!(store.resolve(&pinned.id.hex()).unwrap().id, pinned.id);
    assert_whole(&store);
    // Young blobs that another tool wrote stay, too.
    drop(lease);
    let patient = Keep { young: Duration::from_secs(600), ..Keep::nothing() };
    assert_eq!(store.collect(&pins, patient).unwrap().blobs, 0);
    let collected = collect_all(&store, &Pins::default());
    assert_eq!((collected.images.len(), collected.layers), (1, 2));
    assert!(!store.has_blob(leased, 12).unwrap());
    assert_eq!(store.find(&name("kept")).unwrap().unwrap().id, kept.id);
    assert_whole(&store);
}

#[test]
fn where_it_is_not_known_what_is_held_nothing_goes() {
    let (_dir, store) = store();
    let made = image(&store, "app", &[busybox_layer()], Compress::Gzip);
    store.remove(&made, &Pins::default(), true).unwrap();
    let pins = Pins { unknown: vec!["a record is torn".to_owned()], ..Pins::default() };
    let error = store.collect(&pins, Keep::nothing()).unwrap_err();
    assert!(error.to_string().contains("a record is torn"), "{error}");
    assert!(store.layer_path(made.layers()[0]).is_some());
    assert!(store.blob_path(made.id).exists());

    // A manifest that can't be read now is not one that needs nothing.
    let kept = image(&store, "kept", &[tar_of(&[("k", b"k")])], Compress::Gzip);
    let manifest = store.blob_path(kept.descriptor.digest);
    let aside = manifest.with_extension("aside");
    fs::rename(&manifest, &aside).unwrap();
    fs::create_dir(&manifest).unwrap();
    store.collect(&Pins::default(), Keep::nothing()).unwrap_err();
    assert!(store.layer_path(kept.layers()[0]).is_some());
    fs::remove_dir(&manifest).unwrap();
    fs::rename(&aside, &manifest).unwrap();
    collect_all(&store, &Pins::default());
    assert!(store.layer_path(made.layers()[0]).is_none());
    assert_whole(&store);
}

#[test]
fn shared_parts_are_counted_once() {
    let (_dir, store) = store();
    let base = busybox_layer();
    image(&store, "a", std::slice::from_ref(&base), Compress::Gzip);
    image(&store, "b", &[base, tar_of(&[("b", &[7; 100_000])])], Compress::Gzip);
    let usage = store.usage().unwrap();
    let sizes: u64 = usage.images.iter().map(|image| image.size).sum();
    assert!(sizes > usage.blobs + usage.layers);
    assert!(usage.images.iter().all(|image| 0 < image.unique && image.unique < image.size));
    assert_eq!(usage.unreferenced, 0);
}

#[test]
fn a_crash_leaves_nothing_that_a_start_does_not_sweep() {
    let (dir, store) = store();
    let kept = image(&store, "app", &[busybox_layer()], Compress::Gzip);
    // What a killed process leaves: files without their locks.
    fs::write(store.work("tmp").join("blob-dead"), b"half").unwrap();
    fs::write(store.work("leases").join("lease-dead"), b"").unwrap();
    fs::create_dir_all(store.staging().join("layer-dead/fs/a/b")).unwrap();
    fs::create_dir(store.layers().join("f".repeat(64))).unwrap();
    // And what one at work has.
    let living = store.stage_layer().unwrap();
    let lease = store.lease().unwrap();
    let mut blob = store.stage_blob().unwrap();
    let again = Store::open(dir.path()).unwrap();
    assert!(!store.work("tmp").join("blob-dead").exists());
    assert!(!store.staging().join("layer-dead").exists());
    assert!(!store.layers().join("f".repeat(64)).exists());
    assert!(living.fs().exists());
    std::io::Write::write_all(&mut blob, b"whole").unwrap();
    let (digest, size) = blob.finish(&lease).unwrap();
    assert!(again.has_blob(digest, size).unwrap());
    assert_eq!(again.list().unwrap()[0].image.id, kept.id);
}

#[test]
fn layers_of_a_lost_boot_are_unpacked_again() {
    let (dir, store) = store();
    let made = image(&store, "app", &[busybox_layer()], Compress::Gzip);
    store.settle().unwrap();
    let diff_id = made.layers()[0];
    let path = store.layers().join(diff_id.hex());
    // As after a reboot: another boot's id in the marker.
    let marker = fs::read_to_string(path.join("layer.json")).unwrap();
    let boot = marker.split("\"boot\":\"").nth(1).unwrap()[..36].to_owned();
    fs::write(path.join("layer.json"), marker.replace(&boot, "another")).unwrap();
    assert!(Store::open(dir.path()).unwrap().layer_path(diff_id).is_some());
    fs::remove_file(path.join("settled")).unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.layer_path(diff_id), None);
    store.unpack_missing(&made).unwrap();
    assert_whole(&store);
}

#[test]
fn a_torn_index_is_set_aside() {
    let (dir, store) = store();
    image(&store, "app", &[busybox_layer()], Compress::Gzip);
    fs::write(store.index_path(), "{\"schemaVersion\":2,\"mani").unwrap();
    assert!(store.list().is_err());
    let store = Store::open(dir.path()).unwrap();
    assert!(store.list().unwrap().is_empty());
    assert!(store.work("damaged").join("index.json").exists());
}

#[test]
fn many_change_the_index_at_once() {
    let (dir, store) = store();
    let made = image(&store, "app", &[busybox_layer()], Compress::Gzip);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (path, made) = (dir.path(), &made);
            scope.spawn(move || {
                let store = Store::open(path).unwrap();
                for n in 0..8 {
                    store.tag(made, &name(&format!("app:{thread}-{n}"))).unwrap();
                    store.collect(&Pins::default(), Keep::nothing()).unwrap();
                }
            });
        }
    });
    assert_eq!(store.list().unwrap()[0].names.len(), 33);
    assert_whole(&store);
}

/// What lost its name goes by itself after its time; what never had one is somebody's.
#[test]
fn an_image_that_lost_its_name_goes_by_itself() {
    let (_dir, store) = store();
    let old = image(&store, "app:1", &[tar_of(&[("old", b"old")])], Compress::Gzip);
    let held = image(&store, "app:2", &[tar_of(&[("held", b"held")])], Compress::Gzip);
    for name in ["app:1", "app:2"] {
        image(&store, name, &[tar_of(&[("new", name.as_bytes())])], Compress::Gzip);
    }
    let nameless = {
        let lease = store.lease().unwrap();
        let made = image(&store, "app:4", &[tar_of(&[("never", b"named")])], Compress::Gzip);
        store.remove(&made, &Pins::default(), true).unwrap();
        store.enter(&lease, &made.descriptor, None, None).unwrap()
    };
    // Somebody entered it again without a name: it is nobody's leftover any more.
    let again = {
        let lease = store.lease().unwrap();
        let made = image(&store, "app:5", &[tar_of(&[("a", b"gain")])], Compress::Gzip);
        image(&store, "app:5", &[tar_of(&[("other", b"one")])], Compress::Gzip);
        store.enter(&lease, &made.descriptor, None, None).unwrap()
    };
    let pins = Pins { images: BTreeSet::from([held.id]), ..Pins::default() };
    let has = |image: &Image| store.resolve(&image.id.to_string()).is_ok();
    // Not within its time.
    store.collect(&pins, Keep::by_itself()).unwrap();
    assert!([&old, &held, &nameless].into_iter().all(has));
    let now = Untagged::Lost(Duration::ZERO);
    store.collect(&pins, Keep { untagged: now, ..Keep::nothing() }).unwrap();
    assert!(!has(&old));
    assert!(has(&held) && has(&nameless) && has(&again));
    // Its container is gone.
    store.collect(&Pins::default(), Keep { untagged: now, ..Keep::nothing() }).unwrap();
    assert!(!has(&held) && has(&nameless));
    assert_whole(&store);
}
