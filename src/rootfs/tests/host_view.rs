//! The view of the host.

use super::*;

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
                    assert_eq!(names(root.mounts.root.as_fd(), &path), Some(BTreeSet::new()));
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

    let root = bed.host(&[&open, &single, Path::new("/etc/shadow")]).unwrap();
    let fd = root.mounts.root.as_fd();
    stat(fd, "/etc/shadow").unwrap();
    assert_eq!(stat(fd, "/etc/gshadow").unwrap_err(), Errno::NOENT);
    let targets: Vec<&Path> = root.mounts.submounts.iter().map(|s| s.target.as_path()).collect();
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
    let beside = names(fd, bed.temp.path().canonicalize().unwrap().to_str().unwrap()).unwrap();
    assert_eq!(beside, BTreeSet::from(["open".to_owned(), "single".to_owned()]));
}

#[test]
fn berths_own_folders_are_hidden_in_what_is_exposed() {
    let bed = Bed::new();
    let all = bed.temp.path().canonicalize().unwrap();
    let root = bed.host(&[&all]).unwrap();
    let exposed = root.mounts.submounts.iter().find(|s| s.target == all).unwrap();
    let there = names(exposed.mount.as_fd(), "/").unwrap();
    assert!(there.contains("rootfs"));
    assert_eq!(names(exposed.mount.as_fd(), "/state"), Some(BTreeSet::new()));
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
fn any_path_to_the_hosts_root_is_the_host() {
    for path in ["/", "/.", "/usr/..", "/proc/self/root"] {
        let lower = Lower::of_rootfs(Path::new(path), vec![], vec![]);
        let host = matches!(lower, Lower::Host { .. });
        assert!(host, "{path}");
    }
}

#[test]
fn the_hosts_other_file_systems_are_seen_if_they_hold_programs() {
    with_mounts(|| {
        let bed = Bed::new();
        for at in ["/opt", "/home", "/usr/local/etc"] {
            mount_tmpfs(at, c"mode=0755");
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
        assert_eq!(names(root.mounts.root.as_fd(), "/home"), Some(BTreeSet::new()));
        let submounts = &root.mounts.submounts;
        let of = |target: &str| {
            let found = submounts.iter().find(|s| s.target == Path::new(target));
            found.unwrap_or_else(|| panic!("{target} in {submounts:?}")).mount.as_fd()
        };
        assert!(!submounts.iter().any(|s| s.target.starts_with("/home")));
        let opt = of("/opt");
        assert_eq!(read_in_root(opt, Path::new("/app/run"), 10).unwrap(), b"program");
        assert_eq!(names(opt, "/app/keys"), Some(BTreeSet::new()));
        assert_eq!(names(opt, "/under"), Some(BTreeSet::new()));
        assert_eq!(names(of("/usr/local/etc"), "/"), Some(BTreeSet::new()));
        let mapped = !root.unmapped.contains(&PathBuf::from("/opt"));
        assert_eq!(write_at(opt, "/app/run", "changed").is_ok(), mapped);
        assert_eq!(fs::read_to_string("/opt/app/run").unwrap(), "program");
        assert!(rustix::fs::fstat(of("/etc/hostname")).unwrap().st_size == 5);
    });
}

#[test]
fn private_keys_are_hidden_whatever_their_mode() {
    with_mounts(|| {
        let bed = Bed::new();
        mount_tmpfs("/etc/ssl", c"mode=0755");
        let armour = |label: &str| format!("# mine\n  -----BEGIN {label}-----\nMII\n");
        fs::create_dir("/etc/ssl/deep").unwrap();
        fs::write("/etc/ssl/deep/site.pem", armour("RSA PRIVATE KEY")).unwrap();
        fs::write("/etc/ssl/site.crt", armour("CERTIFICATE")).unwrap();
        symlink("deep/site.pem", "/etc/ssl/link").unwrap();
        let root = bed.host(&[]).unwrap();
        let ssl = root.mounts.submounts.iter().find(|s| s.target == Path::new("/etc/ssl"));
        let ssl = ssl.unwrap().mount.as_fd();
        assert_eq!(names(ssl, "/deep"), Some(BTreeSet::new()));
        assert_eq!(stat(ssl, "/link").unwrap_err(), Errno::NOENT);
        stat(ssl, "/site.crt").unwrap();
        drop(root);
        let exposed = bed.host(&[Path::new("/etc/ssl/deep/site.pem")]).unwrap();
        let ssl = exposed.mounts.submounts.iter().find(|s| s.target == Path::new("/etc/ssl"));
        stat(ssl.unwrap().mount.as_fd(), "/deep/site.pem").unwrap();
    });
}
