//! Roots on the real kernel, looked at through their descriptors: nothing is
//! attached, so a test that dies leaves no mount.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags, mkdirat, openat2, statx, unlinkat,
};
use rustix::io::Errno;
use tempfile::TempDir;

use super::overlay::{Form, Layers, mount_as};
use super::prepare::clone_of;
use super::thread::with_ids;
use super::view::STANDARD;
use super::*;

const RANGE: IdRange = IdRange {
    first: 700_000,
    count: 65536,
};

/// A state directory, a `rootfs` directory and a user namespace.
struct Bed {
    temp: TempDir,
    userns: OwnedFd,
}

impl Bed {
    fn new() -> Bed {
        let temp = TempDir::new().unwrap();
        for folder in ["state", "rootfs/etc", "rootfs/bin"] {
            fs::create_dir_all(temp.path().join(folder)).unwrap();
        }
        fs::write(
            temp.path().join("rootfs/etc/passwd"),
            "root:x:0:0::/:/bin/sh\n",
        )
        .unwrap();
        Bed {
            temp,
            userns: userns_with_range(RANGE).unwrap(),
        }
    }

    fn state(&self) -> PathBuf {
        self.temp.path().join("state")
    }

    fn rootfs(&self) -> PathBuf {
        self.temp.path().join("rootfs")
    }

    fn ids(&self) -> Option<IdMap<'_>> {
        Some(IdMap {
            range: RANGE,
            userns: self.userns.as_fd(),
        })
    }

    fn of_directory(&self, id: &str) -> Root {
        let writable = Writable::at(&self.state(), id).unwrap();
        prepare(&Lower::Layers(vec![self.rootfs()]), &writable, self.ids()).unwrap()
    }

    fn host(&self, expose: &[&Path]) -> Result<Root, Error> {
        let writable = Writable::at(&self.state(), "host").unwrap();
        let expose = expose.iter().map(PathBuf::from).collect();
        prepare(
            &Lower::Host {
                expose,
                own: vec![],
            },
            &writable,
            self.ids(),
        )
    }
}

fn open(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let mode = if flags.contains(OFlags::CREATE) {
        Mode::from(0o644)
    } else {
        Mode::empty()
    };
    openat2(
        root,
        path,
        flags | OFlags::CLOEXEC,
        mode,
        ResolveFlags::IN_ROOT,
    )
}

/// Writes as the container's root would: with its ids, through the mount.
fn write(root: &Root, path: &str, content: &str) -> io::Result<()> {
    write_at(root.mounts.root.as_fd(), path, content)
}

fn write_at(root: BorrowedFd<'_>, path: &str, content: &str) -> io::Result<()> {
    with_ids(RANGE.first, RANGE.first, || {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let fd = open(root, path, flags)?;
        io::Write::write_all(&mut fs::File::from(fd), content.as_bytes())
    })
}

fn read(root: &Root, path: &str) -> Result<String, ErrorKind> {
    read_in_root(root.mounts.root.as_fd(), Path::new(path), 1 << 20)
        .map(|content| String::from_utf8(content).unwrap())
        .map_err(|e| e.kind())
}

/// The names in a directory, or `None` if it is not there.
fn names(root: BorrowedFd<'_>, path: &str) -> Option<BTreeSet<String>> {
    let directory = match open(root, path, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(directory) => directory,
        Err(Errno::NOENT | Errno::NOTDIR) => return None,
        Err(e) => panic!("{path}: {e}"),
    };
    let names = rustix::fs::Dir::new(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned())
        .filter(|name| name != "." && name != "..")
        .collect();
    Some(names)
}

fn stat(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<rustix::fs::Stat> {
    rustix::fs::fstat(open(root, path, OFlags::PATH)?)
}

#[test]
fn writes_stay_in_the_upper_directory_owned_as_the_container_sees_them() {
    let bed = Bed::new();
    let root = bed.of_directory("web");
    assert_eq!(root.ids, Ids::Idmapped);
    assert_eq!(root.unmapped, [PathBuf::new(); 0]);

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
    assert_eq!(
        read(&other, "/etc/passwd").as_deref(),
        Ok("root:x:0:0::/:/bin/sh\n")
    );
}

#[test]
fn changes_outlive_the_mounts_and_another_range_of_ids() {
    let bed = Bed::new();
    let root = bed.of_directory("web");
    write(&root, "/kept", "kept").unwrap();
    drop(root);
    let range = IdRange {
        first: 900_000,
        count: 65536,
    };
    let userns = userns_with_range(range).unwrap();
    let ids = Some(IdMap {
        range,
        userns: userns.as_fd(),
    });
    let writable = Writable::at(&bed.state(), "web").unwrap();
    let root = prepare(&Lower::Layers(vec![bed.rootfs()]), &writable, ids).unwrap();
    assert_eq!(read(&root, "/kept").as_deref(), Ok("kept"));
    assert_eq!(
        stat(root.mounts.root.as_fd(), "/kept").unwrap().st_uid,
        900_000
    );
}

#[test]
fn without_ids_of_its_own_a_container_has_the_hosts() {
    let bed = Bed::new();
    let writable = Writable::at(&bed.state(), "web").unwrap();
    let root = prepare(&Lower::Layers(vec![bed.rootfs()]), &writable, None).unwrap();
    assert_eq!(root.ids, Ids::Host);
    assert_eq!(
        stat(root.mounts.root.as_fd(), "/etc/passwd")
            .unwrap()
            .st_uid,
        0
    );
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
    assert_eq!(
        stat(root.mounts.root.as_fd(), "/new").unwrap().st_uid,
        RANGE.first
    );
    assert_eq!(
        fs::metadata(writable.upper().join("new")).unwrap().uid(),
        RANGE.first
    );
    drop(root);
    // Its files are of that range for ever.
    let error = writable
        .branch(Path::new("/"), STANDARD)
        .unwrap()
        .shift(1)
        .unwrap_err();
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
    let bed = Bed::new();
    for (id, form) in [("joined", Form::Joined), ("attached", Form::Attached)] {
        let branch = Writable::at(&bed.state(), id)
            .unwrap()
            .branch(Path::new("/"), STANDARD)
            .unwrap();
        let before = fs::read("/proc/self/mountinfo").unwrap();
        let lower = clone_of(&bed.rootfs(), false).unwrap();
        let upper = clone_of(&branch.folder, false).unwrap();
        for mount in [&lower, &upper] {
            crate::sys::mount::idmap(mount.as_fd(), bed.userns.as_fd(), false).unwrap();
        }
        let layers = Layers {
            lowers: vec![lower.as_fd()],
            branch: upper.as_fd(),
            root: RANGE.first,
        };
        let mount = mount_as(&layers, form).unwrap();
        drop((lower, upper));
        write_at(mount.as_fd(), "/etc/new", "x").unwrap();
        assert_eq!(stat(mount.as_fd(), "/etc/new").unwrap().st_uid, RANGE.first);
        assert_eq!(fs::read("/proc/self/mountinfo").unwrap(), before);
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
    rustix::fs::mknodat(
        rustix::fs::CWD,
        rootfs.join("fifo"),
        FileType::Fifo,
        Mode::from(0o666),
        0,
    )
    .unwrap();
    let root = bed.of_directory("web");
    for path in [
        "/etc/up",
        "/etc/absolute",
        "/etc/magic",
        "/../../etc/shadow",
    ] {
        assert_eq!(read(&root, path), Err(ErrorKind::NotFound), "{path}");
    }
    assert_eq!(
        read(&root, "/inside").as_deref(),
        Ok("root:x:0:0::/:/bin/sh\n")
    );
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
    assert_eq!(
        read_in_root(fd, Path::new("/large"), 100).unwrap().len(),
        100
    );
}

#[test]
fn the_view_of_the_host_has_its_programs_and_none_of_its_secrets() {
    let bed = Bed::new();
    let root = bed.host(&[]).unwrap();
    let fd = root.mounts.root.as_fd();
    for seen in ["/etc/passwd", "/etc/group", "/usr/bin/env", "/bin/sh"] {
        stat(fd, seen).unwrap();
    }
    for (empty, mode) in [
        ("/root", 0o700),
        ("/home", 0o755),
        ("/tmp", 0o1777),
        ("/var/tmp", 0o1777),
        ("/run", 0o755),
        ("/var/lib", 0o755),
        ("/var/log", 0o755),
        ("/var/cache", 0o755),
        ("/var/spool", 0o755),
        ("/boot", 0o755),
        ("/proc", 0o555),
        ("/sys", 0o555),
        ("/dev", 0o755),
        ("/srv", 0o755),
    ] {
        assert_eq!(names(fd, empty), Some(BTreeSet::new()), "{empty}");
        let there = stat(fd, empty).unwrap();
        let seen = (there.st_mode & 0o7777, there.st_uid);
        assert_eq!(seen, (mode, RANGE.first), "{empty}");
    }
    for absent in [
        "/etc/shadow",
        "/etc/shadow-",
        "/etc/gshadow",
        "/etc/gshadow-",
        "/etc/../etc/./shadow",
        "/bin/../../etc/shadow",
        "/.dockerenv",
    ] {
        assert_eq!(stat(fd, absent).unwrap_err(), Errno::NOENT, "{absent}");
    }
    // The paths where Berth and this test keep their things, by any way.
    let state = bed.state().canonicalize().unwrap();
    for secret in [state.join("roots"), bed.rootfs().canonicalize().unwrap()] {
        let path = secret.to_str().unwrap();
        assert_eq!(stat(fd, path).unwrap_err(), Errno::NOENT, "{path}");
    }
    // Nothing that others may not read is left in /etc, and no key.
    let mut folders = vec!["/etc".to_owned()];
    while let Some(folder) = folders.pop() {
        for name in names(fd, &folder).unwrap() {
            let path = format!("{folder}/{name}");
            let Ok(fd) = openat2(
                fd,
                &path,
                OFlags::PATH | OFlags::NOFOLLOW,
                Mode::empty(),
                ResolveFlags::IN_ROOT,
            ) else {
                panic!("{path}")
            };
            let there = rustix::fs::fstat(&fd).unwrap();
            match FileType::from_raw_mode(there.st_mode) {
                FileType::Directory if there.st_mode & 0o005 == 0o005 => folders.push(path),
                FileType::Directory => {
                    assert_eq!(
                        names(root.mounts.root.as_fd(), &path),
                        Some(BTreeSet::new())
                    );
                }
                FileType::RegularFile => assert!(there.st_mode & 0o004 != 0, "{path}"),
                _ => {}
            }
        }
    }
}

#[test]
fn writes_to_the_view_never_reach_the_host() {
    let bed = Bed::new();
    let root = bed.host(&[]).unwrap();
    let name = format!("/etc/berth-test-{}", std::process::id());
    write(&root, &name, "x").unwrap();
    write(&root, "/etc/passwd", "nobody").unwrap();
    write(&root, "/root/x", "x").unwrap();
    with_ids(RANGE.first, RANGE.first, || {
        let fd = root.mounts.root.as_fd();
        mkdirat(fd, "usr/bin/berth-test", Mode::from(0o755))?;
        unlinkat(fd, "etc/group", AtFlags::empty())?;
        Ok(())
    })
    .unwrap();
    assert!(!Path::new(&name).exists());
    assert!(!Path::new("/usr/bin/berth-test").exists());
    assert!(!Path::new("/root/x").exists());
    assert!(Path::new("/etc/group").exists());
    assert_ne!(fs::read_to_string("/etc/passwd").unwrap(), "nobody");
    drop(root);
    // A hidden path that the container made anew stays its own, and hides the host's.
    let root = bed.host(&[]).unwrap();
    let only = BTreeSet::from(["x".to_owned()]);
    assert_eq!(names(root.mounts.root.as_fd(), "/root"), Some(only));
    assert_eq!(read(&root, "/etc/passwd").as_deref(), Ok("nobody"));
}

#[test]
fn what_is_exposed_is_seen_and_nothing_beside_it() {
    let bed = Bed::new();
    let open = bed.temp.path().join("open");
    fs::create_dir_all(open.join("deep")).unwrap();
    fs::write(open.join("deep/file"), "seen").unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o700)).unwrap();
    let single = bed.temp.path().join("single");
    fs::write(&single, "one").unwrap();
    let open = open.canonicalize().unwrap();
    let single = single.canonicalize().unwrap();

    let root = bed
        .host(&[&open, &single, Path::new("/etc/shadow")])
        .unwrap();
    let fd = root.mounts.root.as_fd();
    stat(fd, "/etc/shadow").unwrap();
    assert_eq!(stat(fd, "/etc/gshadow").unwrap_err(), Errno::NOENT);
    let targets: Vec<&Path> = root
        .mounts
        .submounts
        .iter()
        .map(|s| s.target.as_path())
        .collect();
    assert!(targets.contains(&open.as_path()) && targets.contains(&single.as_path()));
    for submount in &root.mounts.submounts {
        // The place to mount it is there, and empty.
        let place = submount.target.to_str().unwrap();
        let there = stat(fd, place).unwrap();
        match FileType::from_raw_mode(there.st_mode) {
            FileType::Directory => assert_eq!(names(fd, place), Some(BTreeSet::new())),
            _ => assert_eq!(there.st_size, 0),
        }
        if submount.target == open {
            let above = rustix::fs::fstat(&submount.mount).unwrap();
            assert_eq!(above.st_mode & 0o7777, 0o700);
            let inside = submount.mount.as_fd();
            let content = read_in_root(inside, Path::new("/deep/file"), 10).unwrap();
            assert_eq!(content, b"seen");
            write_at(inside, "/deep/file", "changed").unwrap();
            write_at(inside, "/new", "new").unwrap();
        }
        if submount.target == single {
            let file = fs::File::open("/proc/self/fd").and_then(|_| {
                use std::os::fd::AsRawFd;
                let path = format!("/proc/self/fd/{}", submount.mount.as_raw_fd());
                assert_eq!(fs::read_to_string(&path)?, "one");
                fs::OpenOptions::new().write(true).open(path)
            });
            assert_eq!(file.unwrap_err().raw_os_error(), Some(libc::EROFS));
        }
    }
    assert_eq!(fs::read_to_string(open.join("deep/file")).unwrap(), "seen");
    assert!(!open.join("new").exists());
    // Beside it in the same directory are Berth's folders and others.
    let beside = names(
        fd,
        bed.temp.path().canonicalize().unwrap().to_str().unwrap(),
    )
    .unwrap();
    assert_eq!(
        beside,
        BTreeSet::from(["open".to_owned(), "single".to_owned()])
    );
}

#[test]
fn berths_own_folders_are_hidden_in_what_is_exposed() {
    let bed = Bed::new();
    let all = bed.temp.path().canonicalize().unwrap();
    let root = bed.host(&[&all]).unwrap();
    let exposed = root
        .mounts
        .submounts
        .iter()
        .find(|s| s.target == all)
        .unwrap();
    let there = names(exposed.mount.as_fd(), "/").unwrap();
    assert!(there.contains("rootfs"));
    assert_eq!(
        names(exposed.mount.as_fd(), "/state"),
        Some(BTreeSet::new())
    );
    drop(root);

    let state = bed.state().canonicalize().unwrap();
    let error = bed.host(&[&state]).unwrap_err().to_string();
    assert!(error.contains("Berth's own"), "{error}");
    let error = bed.host(&[Path::new("/no/such/path")]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    for refused in ["relative", "/proc/self", "/dev/null"] {
        assert!(bed.host(&[Path::new(refused)]).is_err(), "{refused}");
    }
}

#[test]
fn a_full_disk_is_the_containers_error_or_a_clear_one() {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen,
    };
    use std::os::fd::AsRawFd;
    let bed = Bed::new();
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_set_string(&context, "size", "64k").unwrap();
    fsconfig_set_string(&context, "nr_inodes", "14").unwrap();
    fsconfig_create(&context).unwrap();
    let disk = fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .unwrap();
    let state = PathBuf::from(format!("/proc/self/fd/{}", disk.as_raw_fd()));
    let lower = Lower::Layers(vec![bed.rootfs()]);
    let writable = Writable::at(&state, "web").unwrap();
    let root = prepare(&lower, &writable, bed.ids()).unwrap();
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
    // What was made before goes on, and can be removed on a full disk.
    assert!(read(&root, "/etc/passwd").is_ok());
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

#[test]
fn any_path_to_the_hosts_root_is_the_host() {
    for path in ["/", "/.", "/usr/..", "/proc/self/root"] {
        let lower = Lower::of_rootfs(Path::new(path), vec![], vec![]);
        let host = matches!(lower, Lower::Host { .. });
        assert!(host, "{path}");
    }
}

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
    for _ in 0..3000 {
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
fn a_volume_is_made_once_and_keeps_its_content() {
    let bed = Bed::new();
    let volumes = Volumes::open(&bed.state()).unwrap();
    let made: Vec<Volume> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| volumes.create("data").unwrap()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(made.iter().all(|volume| *volume == made[0]));

    let bind = volumes
        .mount(Source::Volume("data"), bed.ids(), false)
        .unwrap();
    assert!(bind.directory && bind.idmapped);
    write_at(bind.mount.as_fd(), "/file", "x").unwrap();
    let on_disk = fs::metadata(volumes.data("data").unwrap().join("file")).unwrap();
    assert_eq!(on_disk.uid(), 0);
    let attributes = rustix::fs::fstatvfs(&bind.mount).unwrap().f_flag;
    assert!(attributes.contains(rustix::fs::StatVfsMountFlags::NOSUID));

    let read_only = volumes
        .mount(Source::Volume("data"), bed.ids(), true)
        .unwrap();
    let error = write_at(read_only.mount.as_fd(), "/file", "y").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));

    // Torn metadata lose nothing.
    fs::write(bed.state().join("volumes/data/volume.json"), "{\"ver").unwrap();
    assert_eq!(volumes.list().unwrap().len(), 1);
    assert!(volumes.remove("data").unwrap());
    assert!(!volumes.remove("data").unwrap());
    for name in ["", ".", "..", "a/b", "../x", "-x", "x\0"] {
        assert!(volumes.create(name).is_err(), "{name:?}");
    }
}

#[test]
fn an_unfinished_volume_is_swept() {
    let bed = Bed::new();
    Volumes::open(&bed.state()).unwrap();
    fs::create_dir_all(bed.state().join("volumes/.new-1-1/_data")).unwrap();
    let volumes = Volumes::open(&bed.state()).unwrap();
    assert_eq!(volumes.list().unwrap(), []);
    assert!(!bed.state().join("volumes/.new-1-1").exists());
}

#[test]
fn a_path_is_mounted_with_its_owners_mapped_and_a_missing_one_is_an_error() {
    let bed = Bed::new();
    let volumes = Volumes::open(&bed.state()).unwrap();
    let file = bed.rootfs().join("etc/passwd");
    let bind = volumes.mount(Source::Path(&file), bed.ids(), true).unwrap();
    assert!(!bind.directory);
    let there = statx(
        &bind.mount,
        "",
        AtFlags::EMPTY_PATH,
        StatxFlags::BASIC_STATS,
    )
    .unwrap();
    assert_eq!(there.stx_uid, RANGE.first);
    let missing = bed.temp.path().join("nothing");
    let error = volumes
        .mount(Source::Path(&missing), bed.ids(), false)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("make it"), "{error}");
}

/// Runs in a thread with a mount namespace of its own, so that the host can be
/// given mounts.
fn with_mounts(test: impl FnOnce() + Send) {
    use rustix::mount::{MountPropagationFlags, mount_change};
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn mount_tmpfs(at: &str) {
    use rustix::mount::{MountFlags, mount};
    mount("test", at, "tmpfs", MountFlags::empty(), c"mode=0755").unwrap();
}

#[test]
fn the_hosts_other_file_systems_are_seen_if_they_hold_programs() {
    with_mounts(|| {
        let bed = Bed::new();
        for at in ["/opt", "/home", "/usr/local/etc"] {
            mount_tmpfs(at);
        }
        fs::create_dir_all("/opt/app/keys").unwrap();
        fs::write("/opt/app/run", "program").unwrap();
        fs::write("/opt/app/keys/key", "secret").unwrap();
        fs::set_permissions("/opt/app/keys", fs::Permissions::from_mode(0o700)).unwrap();
        fs::create_dir("/opt/under").unwrap();
        fs::write("/opt/under/old", "").unwrap();
        rustix::mount::mount(
            "test",
            "/opt/under",
            "proc",
            rustix::mount::MountFlags::empty(),
            None,
        )
        .unwrap();
        fs::write("/home/diary", "secret").unwrap();
        fs::write("/usr/local/etc/token", "secret").unwrap();
        fs::set_permissions("/usr/local/etc/token", fs::Permissions::from_mode(0o600)).unwrap();
        let hostname = bed.temp.path().join("hostname");
        fs::write(&hostname, "bound").unwrap();
        rustix::mount::mount_bind(&hostname, "/etc/hostname").unwrap();

        let root = bed.host(&[]).unwrap();
        assert_eq!(
            names(root.mounts.root.as_fd(), "/home"),
            Some(BTreeSet::new())
        );
        let submounts = &root.mounts.submounts;
        let of = |target: &str| {
            let found = submounts.iter().find(|s| s.target == Path::new(target));
            found
                .unwrap_or_else(|| panic!("{target} in {submounts:?}"))
                .mount
                .as_fd()
        };
        assert!(!submounts.iter().any(|s| s.target.starts_with("/home")));
        let opt = of("/opt");
        assert_eq!(
            read_in_root(opt, Path::new("/app/run"), 10).unwrap(),
            b"program"
        );
        assert_eq!(names(opt, "/app/keys"), Some(BTreeSet::new()));
        assert_eq!(names(opt, "/under"), Some(BTreeSet::new()));
        assert_eq!(names(of("/usr/local/etc"), "/"), Some(BTreeSet::new()));
        write_at(opt, "/app/run", "changed").unwrap();
        assert_eq!(fs::read_to_string("/opt/app/run").unwrap(), "program");
        assert!(rustix::fs::fstat(of("/etc/hostname")).unwrap().st_size == 5);
    });
}

#[test]
fn private_keys_are_hidden_whatever_their_mode() {
    with_mounts(|| {
        let bed = Bed::new();
        mount_tmpfs("/etc/ssl");
        let armour = |label: &str| format!("# mine\n  -----BEGIN {label}-----\nMII\n");
        fs::create_dir("/etc/ssl/deep").unwrap();
        fs::write("/etc/ssl/deep/site.pem", armour("RSA PRIVATE KEY")).unwrap();
        fs::write("/etc/ssl/site.crt", armour("CERTIFICATE")).unwrap();
        symlink("deep/site.pem", "/etc/ssl/link").unwrap();
        let root = bed.host(&[]).unwrap();
        let ssl = root
            .mounts
            .submounts
            .iter()
            .find(|s| s.target == Path::new("/etc/ssl"));
        let ssl = ssl.unwrap().mount.as_fd();
        assert_eq!(names(ssl, "/deep"), Some(BTreeSet::new()));
        assert_eq!(stat(ssl, "/link").unwrap_err(), Errno::NOENT);
        stat(ssl, "/site.crt").unwrap();
        drop(root);
        let exposed = bed.host(&[Path::new("/etc/ssl/deep/site.pem")]).unwrap();
        let ssl = exposed
            .mounts
            .submounts
            .iter()
            .find(|s| s.target == Path::new("/etc/ssl"));
        stat(ssl.unwrap().mount.as_fd(), "/deep/site.pem").unwrap();
    });
}

/// Prints, and asserts nothing of it: `cargo test rootfs::tests::timings -- --ignored
/// --nocapture`.
#[test]
#[ignore = "prints measurements"]
fn timings() {
    let bed = Bed::new();
    let report = |what: &str, run: &mut dyn FnMut(usize)| {
        let mut times: Vec<_> = (0..50)
            .map(|number| {
                let start = Instant::now();
                run(number);
                start.elapsed()
            })
            .collect();
        let first = times[0];
        times.sort();
        println!(
            "{what}: first {first:?}, median {:?}, worst {:?}",
            times[25], times[49]
        );
    };
    report("user namespace", &mut |_| {
        drop(userns_with_range(RANGE).unwrap())
    });
    report("user and net namespace", &mut |_| {
        drop(userns_and_netns(RANGE).unwrap())
    });
    report("directory, new container", &mut |n| {
        drop(bed.of_directory(&format!("c{n}")))
    });
    report("directory, mounted anew", &mut |_| {
        drop(bed.of_directory("c0"))
    });
    report("host view, mounted anew", &mut |_| {
        drop(bed.host(&[]).unwrap())
    });
    report("host view: looking", &mut |_| {
        drop(super::host::look(&super::host::rules(&[], &[]).unwrap()).unwrap());
    });
    let root = bed.host(&[]).unwrap();
    report("again", &mut |_| drop(root.again().unwrap()));
}
