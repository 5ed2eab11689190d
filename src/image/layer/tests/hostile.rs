//! Archives that want out, or too much.

use super::*;

fn refused(tar: Tar) -> String {
    let bed = Bed::new();
    let error = bed.unpack(tar).expect_err("it was unpacked").to_string();
    bed.assert_untouched();
    error
}

#[test]
fn paths_that_lead_out() {
    assert!(refused(Tar::default().file("../outside", b"x")).contains("`..`"));
    assert!(refused(Tar::default().file("a/../../outside", b"x")).contains("`..`"));
    assert!(refused(Tar::default().dir("..", "755")).contains("`..`"));
    let bed = Bed::new();
    let absolute = bed.temp.path().join("outside");
    bed.unpack(Tar::default().file(absolute.to_str().unwrap(), b"x")).unwrap();
    bed.assert_untouched();
    assert!(bed.path(absolute.strip_prefix("/").unwrap().to_str().unwrap()).exists());
}

#[test]
fn a_link_first_and_a_file_through_it() {
    for target in ["..", "/..", "../../../../../..", "/proc/self/cwd", "/proc/1/root"] {
        let bed = Bed::new();
        let tar = Tar::default().symlink("out", target).file("out/outside", b"x");
        let done = bed.unpack(tar);
        bed.assert_untouched();
        if target.contains("proc") {
            assert!(done.unwrap_err().to_string().contains("link to nothing"));
        } else {
            // The top of the layer is its own parent, as `/` is.
            done.unwrap();
            assert_eq!(fs::read(bed.path("outside")).unwrap(), b"x");
        }
    }
    // A link under the file's own name is replaced, not written through.
    let bed = Bed::new();
    bed.unpack(Tar::default().symlink("f", "../outside").file("f", b"x")).unwrap();
    bed.assert_untouched();
    assert!(fs::symlink_metadata(bed.path("f")).unwrap().is_file());
    // Modes and times are not set through links either.
    let bed = Bed::new();
    bed.unpack(Tar::default().dir("d", "755").symlink("d", "..").dir("d/", "700")).unwrap();
    bed.assert_untouched();
}

#[test]
fn hard_links_that_lead_out() {
    assert!(refused(Tar::default().hard_link("l", "../outside")).contains("outside of the layer"));
    let bed = Bed::new();
    let done = bed.unpack(Tar::default().symlink("out", "..").hard_link("l", "out/outside"));
    bed.assert_untouched();
    assert_eq!(done.unwrap().below.links(), 1);
    // To a link, not through it.
    let bed = Bed::new();
    bed.unpack(Tar::default().symlink("s", "../outside").hard_link("l", "s")).unwrap();
    bed.assert_untouched();
    assert!(fs::symlink_metadata(bed.path("l")).unwrap().is_symlink());
    assert!(refused(Tar::default().hard_link("a", "./a")).contains("itself"));
    assert!(refused(Tar::default().dir("d", "755").hard_link("a", "d")).contains("directory"));
    assert!(refused(Tar::default().file(".wh.a", b"").hard_link("b", "a")).contains("deletes"));
}

#[test]
fn forged_overlay_metadata() {
    assert!(refused(Tar::default().device("a", b'3', 0, 0)).contains("0/0"));
    let bed = Bed::new();
    let done = bed
        .unpack(
            Tar::default()
                .pax(&[
                    ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
                    ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                    ("SCHILY.xattr.user.kept", b"1"),
                ])
                .dir("d", "755"),
        )
        .unwrap();
    assert_eq!(done.lost_xattrs, 2);
    assert_eq!(xattr(&bed.path("d"), "trusted.overlay.redirect"), None);
    assert!(!bed.opaque("d"));
    assert_eq!(xattr(&bed.path("d"), "user.kept").unwrap(), b"1");
}

#[test]
fn devices_as_the_limits_say() {
    let tar = || Tar::default().device("null", b'3', 1, 3).device("sda", b'4', 8, 0);
    let bed = Bed::new();
    bed.unpack(tar()).unwrap();
    assert_eq!(fs::metadata(bed.path("null")).unwrap().rdev(), rustix::fs::makedev(1, 3));
    let bed = Bed::new();
    let limits = Limits { devices: Devices::Skip, ..Limits::default() };
    assert_eq!(bed.unpack_with(tar(), &limits).unwrap().skipped, 2);
    let limits = Limits { devices: Devices::Refuse, ..Limits::default() };
    assert!(bed.unpack_with(tar(), &limits).is_err());
}

#[test]
fn bombs() {
    let limits = Limits { bytes: 10_000, entries: 5, depth: 4, path: 50, ..Limits::default() };
    let refused = |tar: Tar| {
        let bed = Bed::new();
        let error = bed.unpack_with(tar, &limits).unwrap_err();
        assert!(matches!(error, Error::Limit { .. }), "{error}");
        error.to_string()
    };
    assert!(refused(Tar::default().file("a", &[0; 20_000])).contains("10000 bytes of files"));
    let files = (0..6).fold(Tar::default(), |tar, n| tar.file(&n.to_string(), b""));
    assert!(refused(files).contains("5 entries"));
    let many = (0..3).fold(Tar::default(), |tar, n| tar.file(&n.to_string(), &[0; 3000]));
    assert!(refused(many).contains("bytes of stream"));
    assert!(refused(Tar::default().file("a/b/c/d/e", b"")).contains("one another"));
    assert!(refused(Tar::default().file(&"a".repeat(51), b"")).contains("bytes of a path"));
    let bed = Bed::new();
    let name = "n".repeat(256);
    assert!(bed.unpack(Tar::default().pax(&[("path", name.as_bytes())]).file("x", b"")).is_err());
    // A stream that never ends after the archive's end.
    let mut endless = std::io::Read::chain(&[0u8; 1024][..], std::io::repeat(0));
    assert!(unpack(&mut endless, &bed.layer(), &limits).is_err());
}

#[test]
fn deletions_of_what_may_not_be_deleted() {
    for name in [".wh.", ".wh...", ".wh..", "d/.wh.."] {
        let error = refused(Tar::default().file(name, b""));
        assert!(error.contains("nothing"), "{name}: {error}");
    }
    assert!(refused(Tar::default().file(".wh.a/b", b"")).contains("deletion's name"));
    let bed = Bed::new();
    let done = bed.unpack(Tar::default().file(".wh..wh.plnk/1.2", b"").file(".wh..wh.aufs", b""));
    assert_eq!(done.unwrap().skipped, 2);
    assert_eq!(fs::read_dir(bed.layer()).unwrap().count(), 0);
}
