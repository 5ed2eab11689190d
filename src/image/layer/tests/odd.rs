//! Archives that are odd but right.

use super::*;
use std::os::unix::fs::FileTypeExt;

#[test]
fn deletions_become_overlayfs_ones() {
    let bed = Bed::new();
    let done = bed
        .unpack(
            Tar::default()
                .dir("d", "755")
                .file("d/.wh.gone", b"")
                .dir("o", "755")
                .file("o/.wh..wh..opq", b"")
                .file("o/new", b"")
                // Its own files stay, wherever the deletion stands.
                .file("own", b"mine")
                .file(".wh.own", b"")
                .dir("dir", "755")
                .file(".wh.dir", b"")
                .file(".wh.later", b"")
                .dir("later", "750")
                .file(".wh.implied", b"")
                .file("implied/x", b""),
        )
        .unwrap();
    assert!(bed.whiteout("d/gone") && bed.opaque("o") && !bed.opaque("d"));
    assert_eq!(fs::read(bed.path("own")).unwrap(), b"mine");
    assert!(bed.opaque("dir") && bed.opaque("later") && bed.opaque("implied"));
    assert_eq!(fs::metadata(bed.path("later")).unwrap().mode() & 0o7777, 0o750);
    assert!(bed.path("implied/x").exists());
    assert!(!done.opaque && done.below.is_empty());
    let bed = Bed::new();
    assert!(bed.unpack(Tar::default().file(".wh..wh..opq", b"")).unwrap().opaque);
}

#[test]
fn later_entries_replace_earlier_ones() {
    let bed = Bed::new();
    let done = bed
        .unpack(
            Tar::default()
                .file("before/its/directory", b"1")
                .dir("before", "700")
                .dir("before/its", "711")
                .dir("d", "755")
                .dir("d/in", "700")
                .file("d/in/f", b"")
                .file("d", b"now a file")
                .file("f", b"")
                .dir("f", "500")
                .file("f/in", b"in a directory that forbids it")
                .file("twice", b"longer than")
                .hard_link("second", "twice")
                .file("twice", b"short"),
        )
        .unwrap();
    let mode = |name: &str| fs::metadata(bed.path(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("before"), mode("before/its"), mode("f")), (0o700, 0o711, 0o500));
    assert_eq!(fs::read(bed.path("d")).unwrap(), b"now a file");
    assert_eq!(fs::read(bed.path("twice")).unwrap(), b"short");
    assert_eq!(fs::read(bed.path("second")).unwrap(), b"longer than");
    assert_eq!(fs::metadata(bed.path("before")).unwrap().mtime(), 0o1234);
    assert!(done.below.is_empty(), "{:?}", done.below);
}

#[test]
fn every_kind_with_all_it_has() {
    let bed = Bed::new();
    // CAP_NET_BIND_SERVICE, permitted and effective, revision 2 (capabilities(7)).
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let name = "x".repeat(200);
    bed.unpack(
        Tar::default()
            .pax(&[("SCHILY.xattr.security.capability", capability), ("uid", b"1000")])
            .file("ping", b"elf")
            .pax(&[("mtime", b"1000000000.123456789"), ("uid", b"7"), ("gid", b"8")])
            .raw(Raw { name: b"su", mode: b"0006755\0", ..Raw::default() }, b"elf")
            .raw(Raw { name: b"pipe", kind: b'6', mode: b"0000622\0", ..Raw::default() }, b"")
            .pax(&[("mtime", b"5.5"), ("uid", b"9")])
            .symlink("link", "/nowhere")
            .pax(&[("path", name.as_bytes())])
            .raw(Raw { name: b"x", mode: b"0000777\0", ..Raw::default() }, b"")
            .dir("tmp", "1777"),
    )
    .unwrap();
    assert_eq!(xattr(&bed.path("ping"), "security.capability").unwrap(), capability);
    let su = fs::metadata(bed.path("su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid()), (0o6755, 7, 8));
    assert_eq!((su.mtime(), su.mtime_nsec()), (1_000_000_000, 123_456_789));
    let pipe = fs::symlink_metadata(bed.path("pipe")).unwrap();
    assert!(pipe.file_type().is_fifo() && pipe.mode() & 0o7777 == 0o622);
    let link = fs::symlink_metadata(bed.path("link")).unwrap();
    assert_eq!((link.uid(), link.mtime(), link.mtime_nsec()), (9, 5, 500_000_000));
    assert_eq!(fs::metadata(bed.path(&name)).unwrap().mode() & 0o7777, 0o777);
    assert_eq!(fs::metadata(bed.path("tmp")).unwrap().mode() & 0o7777, 0o1777);
}

#[test]
fn holes_stay_holes() {
    let bed = Bed::new();
    bed.unpack(
        Tar::default()
            .pax(&[("GNU.sparse.map", b"1048576,4096"), ("GNU.sparse.size", b"10485760")])
            .file("s", &[1; 4096]),
    )
    .unwrap();
    let there = fs::metadata(bed.path("s")).unwrap();
    assert_eq!(there.len(), 10 << 20);
    assert!(there.blocks() * 512 < 1 << 20);
    assert_eq!(fs::read(bed.path("s")).unwrap()[1 << 20], 1);
}

#[test]
fn entries_below_a_link_within_the_layer() {
    let bed = Bed::new();
    bed.unpack(
        Tar::default()
            .dir("usr/lib", "755")
            .symlink("lib", "usr/lib")
            .file("lib/a", b"")
            .symlink("abs", "/usr/lib")
            .file("abs/b", b""),
    )
    .unwrap();
    assert!(bed.path("usr/lib/a").exists() && bed.path("usr/lib/b").exists());
}

#[test]
fn links_to_lower_layers() {
    let bed = Bed::new();
    let (low, high) = (bed.folder("low"), bed.folder("high"));
    fs::create_dir_all(low.join("bin")).unwrap();
    fs::write(low.join("bin/a"), "low").unwrap();
    fs::write(low.join("bin/deleted"), "low").unwrap();
    std::os::unix::fs::chown(low.join("bin"), Some(5), Some(6)).unwrap();
    fs::create_dir(high.join("bin")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        high.join("bin/deleted"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::empty(),
        0,
    )
    .unwrap();
    std::os::unix::fs::chown(high.join("bin"), Some(7), Some(8)).unwrap();
    set_xattr(&low.join("bin/a"), "user.a", b"1");
    let tar = || Tar::default().hard_link("x/b", "bin/a").hard_link("c", "x/b");
    let done = bed.unpack(tar()).unwrap();
    assert_eq!(done.below.links(), 2);
    settle(&bed.layer(), &done.below, &[&high, &low]).unwrap();
    let a = fs::metadata(bed.path("bin/a")).unwrap();
    assert_eq!(a.nlink(), 3);
    assert_eq!(fs::read(bed.path("c")).unwrap(), b"low");
    assert_eq!(xattr(&bed.path("x/b"), "user.a").unwrap(), b"1");
    assert_eq!(fs::metadata(bed.path("bin")).unwrap().uid(), 7);
    // What is deleted in between is not there.
    let bed = Bed::new();
    let done = bed.unpack(Tar::default().hard_link("b", "bin/deleted")).unwrap();
    let error = settle(&bed.layer(), &done.below, &[&high, &low]).unwrap_err().to_string();
    assert!(error.contains("neither in the layer nor below it"), "{error}");
    // A link whose name was used again is no link.
    let bed = Bed::new();
    assert!(bed.unpack(tar().file("x/b", b"").file("c", b"")).unwrap().below.links() == 0);
}

#[test]
fn implied_directories_are_as_below() {
    let bed = Bed::new();
    let low = bed.folder("low");
    fs::create_dir(low.join("tmp")).unwrap();
    fs::set_permissions(low.join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777))
        .unwrap();
    let done = bed.unpack(Tar::default().file("tmp/f", b"").file("app/f", b"")).unwrap();
    assert!(!done.below.is_empty() && done.below.links() == 0);
    settle(&bed.layer(), &done.below, &[&low]).unwrap();
    assert_eq!(fs::metadata(bed.path("tmp")).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::metadata(bed.path("app")).unwrap().mode() & 0o7777, 0o755);
}
