//! Roots of directories and layers.

use super::*;

#[test]
fn writes_stay_in_the_upper_directory_owned_as_the_container_sees_them() {
    let bed = Bed::new();
    let root = bed.of_directory("web");
    assert_eq!(root.ids, Ids::Idmapped);
    assert!(root.unmapped.is_empty());

    write(&root, "/etc/passwd", "changed").unwrap();
    write(&root, "/etc/new", "new").unwrap();
    assert_eq!(read(&root, "/etc/passwd").as_deref(), Ok("changed"));
    let seen = stat(root.mounts.root.as_fd(), "/etc/new").unwrap();
    assert_eq!((seen.st_uid, seen.st_gid), (RANGE.first, RANGE.first));

    let writable = Writable::at(&bed.state(), "web").unwrap();
    let on_disk = fs::metadata(writable.upper().join("etc/new")).unwrap();
    assert_eq!((on_disk.uid(), on_disk.gid()), (0, 0));
    let below = fs::read_to_string(bed.rootfs().join("etc/passwd")).unwrap();
    assert_eq!(below, "root:x:0:0::/:/bin/sh\n");
    assert!(!bed.rootfs().join("etc/new").exists());
    for private in [writable.folder(), bed.state().join("roots")] {
        let there = fs::metadata(private).unwrap();
        assert_eq!((there.mode() & 0o7777, there.uid()), (0o700, 0));
    }

    // Another container of the same directory sees none of it.
    let other = bed.of_directory("db");
    assert_eq!(read(&other, "/etc/passwd").as_deref(), Ok("root:x:0:0::/:/bin/sh\n"));
}

#[test]
fn changes_outlive_the_mounts_and_another_range_of_ids() {
    let bed = Bed::new();
    let root = bed.of_directory("web");
    write(&root, "/kept", "kept").unwrap();
    drop(root);
    let range = IdRange { first: 900_000, count: 65536 };
    let userns = userns_with_range(range).unwrap();
    let ids = Some(IdMap { range, userns: userns.as_fd() });
    let writable = Writable::at(&bed.state(), "web").unwrap();
    let root = prepare(&Lower::Layers(vec![bed.rootfs()]), &writable, ids).unwrap();
    assert_eq!(read(&root, "/kept").as_deref(), Ok("kept"));
    assert_eq!(stat(root.mounts.root.as_fd(), "/kept").unwrap().st_uid, 900_000);
}

#[test]
fn without_ids_of_its_own_a_container_has_the_hosts() {
    let bed = Bed::new();
    let writable = Writable::at(&bed.state(), "web").unwrap();
    let root = prepare(&Lower::Layers(vec![bed.rootfs()]), &writable, None).unwrap();
    assert_eq!(root.ids, Ids::Host);
    assert_eq!(stat(root.mounts.root.as_fd(), "/etc/passwd").unwrap().st_uid, 0);
}

#[test]
fn a_file_system_that_cant_be_idmapped_has_shifted_owners() {
    let bed = Bed::new();
    let writable = Writable::at(&bed.state(), "web").unwrap();
    let mut branch = writable.branch(Path::new("/"), STANDARD).unwrap();
    branch.shift(RANGE.first).unwrap();
    let root = bed.of_directory("web");
    assert_eq!(root.ids, Ids::Shifted);
    write(&root, "/new", "x").unwrap();
    assert_eq!(stat(root.mounts.root.as_fd(), "/new").unwrap().st_uid, RANGE.first);
    assert_eq!(fs::metadata(writable.upper().join("new")).unwrap().uid(), RANGE.first);
    drop(root);
    // Its files are of that range for ever.
    let error = writable.branch(Path::new("/"), STANDARD).unwrap().shift(1).unwrap_err();
    assert!(error.to_string().contains("remove and create"), "{error}");
}

#[test]
fn many_layers_are_laid_over_one_another_in_order() {
    let bed = Bed::new();
    let mut layers = Vec::new();
    for number in 0..60 {
        let layer = bed.temp.path().join(format!("layer{number}"));
        fs::create_dir(&layer).unwrap();
        fs::write(layer.join("top"), number.to_string()).unwrap();
        fs::write(layer.join(format!("of{number}")), "").unwrap();
        layers.push(layer);
    }
    let writable = Writable::at(&bed.state(), "web").unwrap();
    let root = prepare(&Lower::Layers(layers), &writable, bed.ids()).unwrap();
    assert_eq!(read(&root, "/top").as_deref(), Ok("0"));
    assert_eq!(names(root.mounts.root.as_fd(), "/").unwrap().len(), 61);
}

#[test]
fn the_forms_for_older_kernels_work_too() {
    use rustix::mount::MountPropagationFlags;
    // On a machine whose mounts are shared nothing of it reaches the host either.
    for propagation in [MountPropagationFlags::PRIVATE, MountPropagationFlags::SHARED] {
        with_mounts_that_are(propagation, the_forms_for_older_kernels);
    }
}

fn the_forms_for_older_kernels() {
    let bed = Bed::new();
    for (id, form) in [("joined", Form::Joined), ("attached", Form::Attached)] {
        let branch =
            Writable::at(&bed.state(), id).unwrap().branch(Path::new("/"), STANDARD).unwrap();
        // Others' mounts may go meanwhile.
        let rootfs = bed.rootfs();
        let name = rootfs.parent().and_then(Path::file_name).unwrap().to_str().unwrap();
        let ours = || {
            let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            table.lines().filter(|line| line.contains(name)).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(ours(), Vec::<String>::new());
        let lower = clone_of(&bed.rootfs(), false).unwrap();
        let upper = clone_of(&branch.folder, false).unwrap();
        let more: Vec<OwnedFd> =
            (0..50).map(|n| clone_of(&bed.folder(&format!("layer{n}")), false).unwrap()).collect();
        for mount in [&lower, &upper] {
            crate::sys::mount::idmap(mount.as_fd(), bed.userns.as_fd(), false).unwrap();
        }
        let layers = Layers {
            lowers: [&lower].into_iter().chain(&more).map(OwnedFd::as_fd).collect(),
            branch: Some(upper.as_fd()),
            root: RANGE.first,
        };
        let mount = match mount_as(&layers, form) {
            Ok(mount) => mount,
            // Linux 6.1 wants its layers attached.
            Err(e) if form == Form::Joined && e.error.raw_os_error() == Some(libc::EINVAL) => {
                continue;
            }
            Err(e) => panic!("{form:?}: {e:?}"),
        };
        drop((lower, upper));
        write_at(mount.as_fd(), "/etc/new", "x").unwrap();
        assert_eq!(stat(mount.as_fd(), "/etc/new").unwrap().st_uid, RANGE.first);
        assert_eq!(ours(), Vec::<String>::new());
    }
}

#[test]
fn a_root_can_be_had_again_and_shows_the_same_files() {
    let bed = Bed::new();
    let root = bed.of_directory("web");
    write(&root, "/first", "1").unwrap();
    let Some(again) = root.again().unwrap() else {
        return;
    };
    write_at(again.root.as_fd(), "/second", "2").unwrap();
    drop(again);
    assert_eq!(read(&root, "/second").as_deref(), Ok("2"));
}

#[test]
fn hostile_links_lead_nowhere_outside() {
    let bed = Bed::new();
    let rootfs = bed.rootfs();
    fs::write(bed.temp.path().join("secret"), "secret").unwrap();
    symlink("../../../../../../etc/shadow", rootfs.join("etc/up")).unwrap();
    symlink(bed.temp.path().join("secret"), rootfs.join("etc/absolute")).unwrap();
    symlink("/proc/self/root/etc/shadow", rootfs.join("etc/magic")).unwrap();
    symlink("loop", rootfs.join("loop")).unwrap();
    symlink("/etc/passwd", rootfs.join("inside")).unwrap();
    symlink("/tmp", rootfs.join("out")).unwrap();
    symlink("/nowhere", rootfs.join("dangling")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, rootfs.join("fifo"), FileType::Fifo, Mode::from(0o666), 0)
        .unwrap();
    let root = bed.of_directory("web");
    for path in ["/etc/up", "/etc/absolute", "/etc/magic", "/../../etc/shadow"] {
        assert_eq!(read(&root, path), Err(ErrorKind::NotFound), "{path}");
    }
    assert_eq!(read(&root, "/inside").as_deref(), Ok("root:x:0:0::/:/bin/sh\n"));
    assert_eq!(read(&root, "/fifo"), Err(ErrorKind::InvalidInput));
    assert_eq!(read(&root, "/etc"), Err(ErrorKind::InvalidInput));
    assert!(read(&root, "/loop").is_err());

    let fd = root.mounts.root.as_fd();
    let ids = Some(RANGE);
    // The link's target is made inside.
    let unique = format!("berth-{}", std::process::id());
    fs::create_dir(rootfs.join("tmp")).unwrap();
    let made = bed.of_directory("db");
    let target = PathBuf::from(format!("/out/{unique}/deep"));
    ensure_dir_in_root(made.mounts.root.as_fd(), &target, ids).unwrap();
    assert!(!Path::new("/tmp").join(&unique).exists());
    let inside = format!("/tmp/{unique}/deep");
    let there = stat(made.mounts.root.as_fd(), &inside).unwrap();
    assert_eq!((there.st_uid, there.st_mode & 0o7777), (RANGE.first, 0o755));

    assert!(ensure_dir_in_root(fd, Path::new("/dangling"), ids).is_err());
    assert!(ensure_dir_in_root(fd, Path::new("/etc/passwd"), ids).is_err());
    assert!(ensure_dir_in_root(fd, Path::new("/etc/passwd/x"), ids).is_err());
    assert!(ensure_file_in_root(fd, Path::new("/etc"), ids).is_err());
    ensure_file_in_root(fd, Path::new("/run/a/b.sock"), ids).unwrap();
    ensure_file_in_root(fd, Path::new("/run/a/b.sock"), ids).unwrap();
    ensure_dir_in_root(fd, Path::new("/x/../y"), ids).unwrap();
    assert!(!bed.rootfs().join("x").exists());
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let bed = Bed::new();
    fs::write(bed.rootfs().join("large"), [b'x'; 100]).unwrap();
    let root = bed.of_directory("web");
    let fd = root.mounts.root.as_fd();
    assert!(read_in_root(fd, Path::new("/large"), 99).is_err());
    assert_eq!(read_in_root(fd, Path::new("/large"), 100).unwrap().len(), 100);
}

#[test]
fn a_full_disk_is_the_containers_error_or_a_clear_one() {
    with_mounts(|| {
        let bed = Bed::new();
        let state = bed.state();
        mount_tmpfs(state.to_str().unwrap(), c"mode=0755,size=64k,nr_inodes=14");
        let lower = Lower::Layers(vec![bed.rootfs()]);
        let writable = Writable::at(&state, "web").unwrap();
        let root = prepare(&lower, &writable, bed.ids()).unwrap();
        // Before Linux 6.3 this is also the test of the fallback for tmpfs.
        assert_ne!(root.ids, Ids::Host);
        assert_eq!(stat(root.mounts.root.as_fd(), "/").unwrap().st_uid, RANGE.first);
        let error = write(&root, "/large", &"x".repeat(200_000)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        for number in 0..14 {
            if fs::write(state.join(number.to_string()), "").is_err() {
                break;
            }
        }
        let other = Writable::at(&state, "db").unwrap();
        let error = prepare(&lower, &other, bed.ids()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert!(error.to_string().contains("full"), "{error}");
        // What was made before goes on.
        assert!(read(&root, "/etc/passwd").is_ok());
    });
}

#[test]
fn a_missing_root_says_which() {
    let bed = Bed::new();
    let missing = bed.temp.path().join("missing");
    let writable = Writable::at(&bed.state(), "web").unwrap();
    let error = prepare(&Lower::Layers(vec![missing]), &writable, bed.ids()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("/missing"), "{error}");
    for id in ["", ".", "..", "a/b", ".hidden", "\0"] {
        assert!(Writable::at(&bed.state(), id).is_err(), "{id:?}");
    }
}

/// A copy is a container's once it is kept, and has all but what overlayfs works in.
#[test]
fn changes_are_copied_whole_or_not_at_all() {
    let bed = Bed::new();
    bed.of_directory("one");
    let one = Writable::at(&bed.state(), "one").unwrap();
    for own in ["upper/work", "sub/var/upper/a/work", "sub/var/work/work"] {
        fs::create_dir_all(one.folder().join(own)).unwrap();
        fs::write(one.folder().join(own).join("file"), "x").unwrap();
    }
    let two = Writable::at(&bed.state(), "two").unwrap();
    drop(one.duplicate(&two).unwrap());
    assert!(!two.folder().exists());
    one.duplicate(&two).unwrap().keep();
    for copied in ["upper/work/file", "sub/var/upper/a/work/file", "work", "sub/var/work"] {
        assert!(two.folder().join(copied).exists(), "{copied}");
    }
    assert_eq!(fs::read_dir(two.folder().join("sub/var/work")).unwrap().count(), 0);
}

/// A layer that was unpacked again is another directory: nobody goes on with the old one.
#[test]
fn a_root_is_had_again_only_upon_the_same_directories() {
    let bed = Bed::new();
    let root = bed.of_directory("one");
    if root.again().unwrap().is_none() {
        eprintln!("left out: this kernel can't clone a detached mount");
        return;
    }
    fs::rename(bed.rootfs(), bed.temp.path().join("old")).unwrap();
    assert!(root.again().unwrap().is_none());
    bed.folder("rootfs/etc");
    assert!(root.again().unwrap().is_none());
}
