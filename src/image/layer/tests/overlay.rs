//! Layers below a real overlay, changed in it, and made layers again.

use super::*;
use crate::rootfs::{Lower, Root, Writable, prepare};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;

struct Container {
    root: Root,
    writable: Writable,
}

impl Container {
    fn new(bed: &Bed, id: &str, layers: &[&Path]) -> Container {
        let writable = Writable::at(&bed.folder("state"), id).unwrap();
        let layers = layers.iter().map(|path| path.to_path_buf()).collect();
        let root = prepare(&Lower::Layers(layers), &writable, None).unwrap();
        Container { root, writable }
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.root.mounts.root.as_raw_fd()))
    }

    fn tree(&self) -> (Packed, Vec<u8>) {
        let mut bytes = Vec::new();
        let packed = pack_tree(self.root.mounts.root.as_fd(), None, &mut bytes).unwrap();
        (packed, bytes)
    }
}

fn base() -> Tar {
    Tar::default()
        .dir("etc", "755")
        .file("etc/passwd", b"root")
        .file("etc/gone", b"1")
        .file("etc/same", b"1")
        .dir("opt", "755")
        .dir("opt/tool", "755")
        .file("opt/tool/a", b"1")
        .file("opt/tool/b", b"2")
        .dir("var", "755")
        .file("var/f", b"3")
        .dir("untouched", "755")
        .file("untouched/f", b"3")
        .dir("tofile", "755")
        .file("tofile/f", b"3")
}

fn change(c: &Container) {
    fs::write(c.path("etc/passwd"), "root, changed").unwrap();
    fs::remove_file(c.path("etc/gone")).unwrap();
    // Opened for writing, and left as it was.
    drop(fs::OpenOptions::new().write(true).open(c.path("etc/same")).unwrap());
    fs::remove_dir_all(c.path("opt/tool")).unwrap();
    fs::create_dir(c.path("opt/tool")).unwrap();
    fs::write(c.path("opt/tool/b"), "new").unwrap();
    fs::create_dir_all(c.path("new/dir")).unwrap();
    fs::write(c.path("new/dir/f"), "new").unwrap();
    fs::hard_link(c.path("new/dir/f"), c.path("new/g")).unwrap();
    set_xattr(&c.path("new/dir/f"), "user.a", b"1");
    fs::set_permissions(c.path("var"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .unwrap();
    fs::remove_dir_all(c.path("tofile")).unwrap();
    fs::write(c.path("tofile"), "now").unwrap();
    // Made and taken away again: nothing of it is to be told.
    fs::write(c.path("brief"), "").unwrap();
    fs::remove_file(c.path("brief")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(c.path("new/s")).unwrap());
    // One time for all, so that two containers' bytes can be compared.
    for name in [
        "etc/passwd",
        "etc",
        "opt/tool/b",
        "opt/tool",
        "opt",
        "new/dir/f",
        "new/dir",
        "new",
        "var",
        "tofile",
        "",
    ] {
        let time = crate::archive::make::times(crate::archive::Time { seconds: 9, nanoseconds: 7 });
        rustix::fs::utimensat(rustix::fs::CWD, c.path(name), &time, rustix::fs::AtFlags::empty())
            .unwrap();
    }
}

fn packed(c: &Container, lower: &Path) -> (Packed, Vec<u8>) {
    let mut bytes = Vec::new();
    let packed = pack(&c.writable.upper(), Some(&[lower]), &Points::default(), &mut bytes).unwrap();
    (packed, bytes)
}

#[test]
fn changed_told_packed_and_unpacked_again() {
    let bed = Bed::new();
    bed.unpack(base()).unwrap();
    let lower = bed.layer();
    let c = Container::new(&bed, "one", &[&lower]);
    change(&c);
    let told: Vec<String> = changes(&c.writable.upper(), &[&lower], &Points::default())
        .unwrap()
        .iter()
        .map(|change| format!("{} {}", change.kind.letter(), change.path.display()))
        .collect();
    let expected = [
        "C /etc",
        "D /etc/gone",
        "C /etc/passwd",
        "A /new",
        "A /new/dir",
        "A /new/dir/f",
        "A /new/g",
        "A /new/s",
        "C /opt",
        "C /opt/tool",
        "D /opt/tool/a",
        "C /opt/tool/b",
        "C /tofile",
        "D /tofile/f",
        "C /var",
    ];
    assert_eq!(told, expected);

    let (first, bytes) = packed(&c, &lower);
    assert_eq!(first.size, bytes.len() as u64);
    let listed = listing(&bytes);
    for name in ["etc/.wh.gone", "opt/tool/.wh..wh..opq", "new/g link to new/dir/f"] {
        assert!(listed.contains(name), "{listed}");
    }
    assert!(!listed.contains("new/s") && !listed.contains("brief"), "{listed}");
    assert!(!listed.contains("new/.wh") && !listed.contains("dir/.wh"), "{listed}");

    // Another container that comes to the same has the same digest.
    let other = Container::new(&bed, "two", &[&lower]);
    change(&other);
    assert_eq!(packed(&other, &lower).0, first);

    let second = bed.folder("second");
    let done = unpack(&mut bytes.as_slice(), &second, &Limits::default()).unwrap();
    assert!(done.below.is_empty());
    let again = Container::new(&bed, "again", &[&second, &lower]);
    fs::remove_file(c.path("new/s")).unwrap();
    let time = crate::archive::make::times(crate::archive::Time { seconds: 9, nanoseconds: 7 });
    rustix::fs::utimensat(rustix::fs::CWD, c.path("new"), &time, rustix::fs::AtFlags::empty())
        .unwrap();
    let (whole, merged) = c.tree();
    assert_eq!(listing(&again.tree().1), listing(&merged));
    assert_eq!(again.tree().0, whole);
    umoci(&bed, &[&base().end(), &bytes], &merged);
}

/// umoci makes the same of the two layers.
fn umoci(bed: &Bed, layers: &[&[u8]], merged: &[u8]) {
    if Command::new("umoci").arg("--version").output().is_err() {
        println!("umoci is not installed");
        return;
    }
    let run = |args: &[&str]| {
        let done = Command::new("umoci").current_dir(bed.temp.path()).args(args).output().unwrap();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    run(&["init", "--layout", "oci"]);
    run(&["new", "--image", "oci:t"]);
    for layer in layers {
        fs::write(bed.temp.path().join("layer.tar"), layer).unwrap();
        run(&["raw", "add-layer", "--image", "oci:t", "layer.tar"]);
    }
    run(&["raw", "unpack", "--image", "oci:t", "theirs"]);
    let theirs = open(&bed.temp.path().join("theirs")).unwrap();
    let mut bytes = Vec::new();
    pack_tree(theirs.place(), None, &mut bytes).unwrap();
    assert_eq!(listing(&bytes), listing(merged));
}

/// What GNU tar says is in an archive.
pub(super) fn listing(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let done = Command::new("tar")
        .args(["--xattrs", "--numeric-owner", "--full-time", "-tvvf"])
        .arg(file.path())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn a_file_that_changes_its_size_leaves_the_archive_whole() {
    let bed = Bed::new();
    fs::write(bed.path("log"), vec![b'x'; 300_000]).unwrap();
    fs::write(bed.path("zlast"), "end").unwrap();
    let log = bed.path("log");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = fs::OpenOptions::new().write(true).open(&log).unwrap();
            let mut length = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                length = (length + 77_777) % 400_000;
                file.set_len(length).unwrap();
            }
        });
        for _ in 0..50 {
            let mut bytes = Vec::new();
            pack(&bed.layer(), None, &Points::default(), &mut bytes).unwrap();
            let listed = listing(&bytes);
            assert!(listed.contains("log\n") && listed.contains("zlast\n"), "{listed}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
