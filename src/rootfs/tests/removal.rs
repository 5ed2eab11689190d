//! Removal, and many at once.

use super::*;

#[test]
fn many_at_once_do_not_disturb_one_another() {
    let bed = Bed::new();
    std::thread::scope(|scope| {
        for number in 0..16 {
            let bed = &bed;
            scope.spawn(move || {
                let root = bed.of_directory(&format!("c{number}"));
                write(&root, "/name", &number.to_string()).unwrap();
                assert_eq!(read(&root, "/name"), Ok(number.to_string()));
            });
        }
    });
    let gone = sweep(&bed.state(), &BTreeSet::from(["c3".to_owned()])).unwrap();
    assert_eq!(gone.len(), 15);
    let left: Vec<_> = fs::read_dir(bed.state().join("roots")).unwrap().collect();
    assert_eq!(left.len(), 1);
    empty_trash(&bed.state()).unwrap();
    assert_eq!(fs::read_dir(bed.state().join("trash")).unwrap().count(), 0);
}

#[test]
fn discarding_takes_deep_and_locked_trees_away() {
    let bed = Bed::new();
    let root = bed.of_directory("web");
    write(&root, "/locked", "x").unwrap();
    let writable = Writable::at(&bed.state(), "web").unwrap();
    drop(root);
    let locked = fs::File::open(writable.upper().join("locked")).unwrap();
    rustix::fs::ioctl_setflags(&locked, rustix::fs::IFlags::IMMUTABLE).unwrap();
    // Deeper than any path may be long.
    let mut at = rustix::fs::open(
        writable.upper(),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .unwrap();
    for _ in 0..900 {
        mkdirat(&at, "deep", Mode::from(0o700)).unwrap();
        mkdirat(&at, "beside", Mode::empty()).unwrap();
        at = rustix::fs::openat(
            &at,
            "deep",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
    }
    drop(at);
    // A link out of the tree is deleted, not followed.
    let outside = bed.temp.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "").unwrap();
    symlink(&outside, writable.upper().join("link")).unwrap();

    discard(&writable).unwrap();
    assert!(!writable.folder().exists());
    discard(&writable).unwrap();
    empty_trash(&bed.state()).unwrap();
    assert_eq!(fs::read_dir(bed.state().join("trash")).unwrap().count(), 0);
    assert!(outside.join("kept").exists());
}

#[test]
fn a_folder_that_is_a_mount_has_a_trash_of_its_own() {
    with_mounts(|| {
        let bed = Bed::new();
        let folder = bed.folder("state/volumes");
        mount_tmpfs(folder.to_str().unwrap(), c"mode=700");
        let volumes = Volumes::open(&bed.state()).unwrap();
        volumes.for_mount("data", &Options::default()).unwrap();
        fs::create_dir_all(volumes.data("data").unwrap().join("a/b/c")).unwrap();
        assert!(volumes.remove("data").unwrap());
        assert!(!volumes.remove("data").unwrap());
        assert!(volumes.list().unwrap().is_empty());
        let trash = || fs::read_dir(folder.join(".trash")).unwrap().count();
        assert_eq!(trash(), 1);
        empty_trash(&bed.state()).unwrap();
        assert_eq!(trash(), 0);
        assert!(Volumes::open(&bed.state()).unwrap().list().unwrap().is_empty());
    });
}
