//! Volumes and binds.

use super::*;

#[test]
fn a_volume_is_made_once_and_keeps_its_content() {
    let bed = Bed::new();
    let volumes = Volumes::open(&bed.state()).unwrap();
    let made: Vec<Volume> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| volumes.for_mount("data", &Options::default()).unwrap()))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(made.iter().all(|volume| *volume == made[0]));
    // It is told once that it was made; what somebody made by itself tells its maker.
    volumes.create_as("other", Asked::default()).unwrap();
    assert_eq!(volumes.newly_made(), ["data"]);
    assert!(volumes.newly_made().is_empty() && volumes.remove("other").unwrap());

    let bind = volumes.mount(Source::Volume("data"), bed.ids(), false).unwrap();
    assert!(bind.directory && bind.idmapped);
    write_at(bind.mount.as_fd(), "/file", "x").unwrap();
    let on_disk = fs::metadata(volumes.data("data").unwrap().join("file")).unwrap();
    assert_eq!(on_disk.uid(), 0);
    let attributes = rustix::fs::fstatvfs(&bind.mount).unwrap().f_flag;
    assert!(attributes.contains(rustix::fs::StatVfsMountFlags::NOSUID));

    let read_only = volumes.mount(Source::Volume("data"), bed.ids(), true).unwrap();
    let error = write_at(read_only.mount.as_fd(), "/file", "y").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));

    // Torn metadata lose nothing, but what it is instead of a folder is not known.
    fs::write(bed.state().join("volumes/data/volume.json"), "{\"ver").unwrap();
    assert_eq!(volumes.list().unwrap().len(), 1);
    is_not_used(&bed, &volumes, "volume.json");
    fs::remove_file(bed.state().join("volumes/data/volume.json")).unwrap();
    volumes.mount(Source::Volume("data"), None, false).unwrap();
    assert!(volumes.remove("data").unwrap());
    assert!(!volumes.remove("data").unwrap());
    for name in ["", ".", "..", "a/b", "../x", "-x", "x\0"] {
        assert!(volumes.for_mount(name, &Options::default()).is_err(), "{name:?}");
    }
}

/// Nobody gets the folder of the volume `data` for what it is.
fn is_not_used(bed: &Bed, volumes: &Volumes, why: &str) {
    let none = Options::new();
    for refused in [
        volumes.mount(Source::Volume("data"), None, false).map(drop),
        volumes.mount(Source::Part("data", Path::new(".")), None, false).map(drop),
        volumes.seed("data", &[bed.rootfs()], Path::new("/etc")).map(drop),
        volumes.duplicate("data", "copy").map(drop),
        volumes.for_mount("data", &none).map(drop),
    ] {
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
}

fn options(device: &Path, o: &str) -> Options {
    let device = device.display().to_string();
    [("type", "none".to_owned()), ("device", device), ("o", o.to_owned())]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
}

/// A mount without options takes a volume as it is; one with options means what it says.
#[test]
fn a_volume_is_what_its_mount_says_or_an_error() {
    let bed = Bed::new();
    let volumes = Volumes::open(&bed.state()).unwrap();
    let (one, other) = (bed.folder("one"), bed.folder("other"));
    fs::write(one.join("x"), "x").unwrap();
    volumes.for_mount("data", &options(&one, "bind")).unwrap();
    volumes.for_mount("data", &Options::new()).unwrap();
    volumes.for_mount("data", &options(&one, "bind")).unwrap();
    let bind = volumes.mount(Source::Volume("data"), None, false).unwrap();
    assert_eq!(read_in_root(bind.mount.as_fd(), Path::new("/x"), 9).unwrap(), b"x");
    let refused = volumes.for_mount("data", &options(&other, "bind")).unwrap_err().to_string();
    assert!(refused.contains("other options") && refused.contains("remove"), "{refused}");
    volumes.for_mount("plain", &Options::default()).unwrap();
    assert!(volumes.for_mount("plain", &options(&one, "bind")).is_err());
    // What it is instead of a folder can't be had twice.
    let refused = volumes.duplicate("data", "copy").unwrap_err().to_string();
    assert!(refused.contains("options"), "{refused}");
    // A newer one may be anything.
    let newer = r#"{"version": 99, "name": "data", "created": "1970-01-01T00:00:00Z"}"#;
    fs::write(bed.state().join("volumes/data/volume.json"), newer).unwrap();
    is_not_used(&bed, &volumes, "newer");
}

#[test]
fn a_bind_takes_what_is_mounted_below_only_if_it_says_so() {
    let bed = Bed::new();
    let volumes = Volumes::open(&bed.state()).unwrap();
    // The one folder of every machine that is sure to have something mounted below it.
    let has_below = |o: &str| {
        let name = o.replace([',', '='], "-");
        volumes.for_mount(&name, &options(Path::new("/"), o)).unwrap();
        let bind = volumes.mount(Source::Volume(&name), None, true).unwrap();
        let flags = rustix::fs::fstatvfs(&bind.mount).unwrap().f_flag;
        let noatime = flags.contains(rustix::fs::StatVfsMountFlags::NOATIME);
        assert_eq!(noatime, o.contains("noatime"), "{o}");
        read_in_root(bind.mount.as_fd(), Path::new("/proc/version"), 9999).is_ok()
    };
    assert!(!has_below("bind"));
    assert!(has_below("rbind"));
    assert!(!has_below("bind,noatime"));
    assert!(has_below("rbind,noatime"));
}

/// What is mounted is held when somebody uses it, whoever mounted it and whenever.
#[test]
fn a_file_system_is_held_once_it_is_used() {
    let bed = Bed::new();
    let volumes = Volumes::open(&bed.state()).unwrap();
    let tmpfs = |name: &str| {
        let options = [("type", "tmpfs"), ("device", "tmpfs")];
        let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        volumes.for_mount(name, &options).unwrap();
        volumes.mount(Source::Volume(name), None, false).unwrap()
    };
    let held = |used: &[&str]| -> Vec<String> {
        let held = volumes.to_hold(|name| used.contains(&name));
        held.into_iter().map(|(name, _)| name).collect()
    };
    tmpfs("a");
    tmpfs("b");
    assert_eq!(held(&["b"]), ["b"]);
    assert!(held(&["b"]).is_empty());
    // Another launch asked meanwhile: it is not forgotten for that.
    assert_eq!(held(&["a", "b"]), ["a"]);
    let (one, other) = (tmpfs("a"), tmpfs("a"));
    let device = |bind: &Bind| rustix::fs::fstat(&bind.mount).unwrap().st_dev;
    assert_eq!(device(&one), device(&other));
    drop(volumes.unused(|_| false));
    assert_ne!(device(&one), device(&tmpfs("a")));
    assert_eq!(held(&["a", "b"]), ["a"]);
    // A file can be mounted out of it, too.
    let whole = tmpfs("c");
    write_at(whole.mount.as_fd(), "/file", "x").unwrap();
    let part = volumes.mount(Source::Part("c", Path::new("file")), None, false).unwrap();
    assert!(!part.directory);
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
    let there = statx(&bind.mount, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).unwrap();
    assert_eq!(there.stx_uid, RANGE.first);
    let missing = bed.temp.path().join("nothing");
    let error = volumes.mount(Source::Path(&missing), bed.ids(), false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("make it"), "{error}");
}

/// A layer with `data/seed`, `data/sub/deep` and `data/more`, and a volume `v`.
fn to_seed(bed: &Bed) -> (Volumes, PathBuf, Vec<PathBuf>) {
    let layer = bed.folder("layer");
    bed.folder("layer/data/sub");
    fs::write(layer.join("data/seed"), "seed").unwrap();
    fs::write(layer.join("data/sub/deep"), "deep").unwrap();
    fs::write(layer.join("data/more"), "more").unwrap();
    std::os::unix::fs::chown(layer.join("data"), Some(33), Some(34)).unwrap();
    let volumes = Volumes::open(&bed.state()).unwrap();
    volumes.for_mount("v", &Options::default()).unwrap();
    (volumes, bed.state().join("volumes/v"), vec![layer])
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_volume_is_filled_once_and_only_while_it_is_empty() {
    let bed = Bed::new();
    let (volumes, folder, layers) = to_seed(&bed);
    let target = Path::new("/data");
    assert!(!volumes.seed("v", &layers, Path::new("/none")).unwrap());
    assert!(volumes.seed("v", &layers, target).unwrap());
    assert_eq!(text(&folder.join("_data/sub/deep")), "deep");
    let owner = fs::metadata(folder.join("_data")).unwrap();
    assert_eq!((owner.uid(), owner.gid()), (33, 34));
    fs::remove_file(folder.join("_data/seed")).unwrap();
    assert!(!volumes.seed("v", &layers, target).unwrap());
    assert!(!folder.join("_data/seed").exists());
    let names = fs::read_dir(&folder).unwrap().count();
    assert_eq!(names, 2, "no more than `_data` and `volume.json`");
}

/// What a crash leaves before the copy is whole counts for nothing; what it leaves after
/// that is completed, and what containers have written meanwhile stays as it is.
#[test]
fn a_filling_that_was_cut_short_is_redone_and_takes_nothing_away() {
    let bed = Bed::new();
    let (volumes, folder, layers) = to_seed(&bed);
    fs::create_dir(folder.join("seed.new")).unwrap();
    fs::write(folder.join("seed.new/half"), "half").unwrap();
    assert!(volumes.seed("v", &layers, Path::new("/data")).unwrap());
    assert!(!folder.join("_data/half").exists());
    assert_eq!(text(&folder.join("_data/more")), "more");

    volumes.for_mount("w", &Options::default()).unwrap();
    let folder = bed.state().join("volumes/w");
    fs::create_dir_all(folder.join("seed/sub")).unwrap();
    fs::write(folder.join("seed/sub/deep"), "deep").unwrap();
    fs::write(folder.join("seed/seed"), "seed").unwrap();
    // `more` was moved already, and a container has written.
    fs::write(folder.join("_data/more"), "changed").unwrap();
    fs::write(folder.join("_data/seed"), "mine").unwrap();
    fs::write(folder.join("_data/own"), "own").unwrap();
    // Whoever mounts it, first launch or not, gets all of it.
    let bind = volumes.mount(Source::Volume("w"), bed.ids(), false).unwrap();
    drop(bind);
    let data = folder.join("_data");
    for (name, content) in
        [("more", "changed"), ("seed", "mine"), ("own", "own"), ("sub/deep", "deep")]
    {
        assert_eq!(text(&data.join(name)), content, "{name}");
    }
    assert!(!folder.join("seed").exists());
    // Half a copy that nobody begins anew is swept.
    fs::create_dir(folder.join("seed.new")).unwrap();
    Volumes::open(&bed.state()).unwrap();
    assert!(!folder.join("seed.new").exists());
}

#[test]
fn a_copy_is_a_volume_once_it_is_published() {
    let bed = Bed::new();
    let (volumes, folder, layers) = to_seed(&bed);
    volumes.seed("v", &layers, Path::new("/data")).unwrap();
    drop(volumes.duplicate("v", "gone").unwrap());
    assert!(volumes.duplicate("none", "gone").is_err());
    assert_eq!(fs::read_dir(bed.state().join("volumes")).unwrap().count(), 1);
    let copy = volumes.duplicate("v", "copy").unwrap();
    assert!(volumes.get("copy").is_err());
    copy.publish().unwrap();
    assert_eq!(text(&folder.with_file_name("copy").join("_data/sub/deep")), "deep");
    let again = volumes.duplicate("v", "copy").unwrap().publish().unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
}

/// Several layers are a file system of their own, from which nothing is copied within the
/// kernel.
#[test]
fn a_volume_is_filled_from_several_layers() {
    let bed = Bed::new();
    let (volumes, folder, _) = to_seed(&bed);
    let top = bed.rootfs().with_file_name("top");
    std::fs::create_dir_all(top.join("data")).unwrap();
    std::fs::write(top.join("data/above"), "from above").unwrap();
    let below = bed.rootfs();
    std::fs::create_dir_all(below.join("data")).unwrap();
    std::fs::write(below.join("data/below"), "from below").unwrap();
    volumes.for_mount("two", &Options::default()).unwrap();
    assert!(volumes.seed("two", &[top, below], Path::new("/data")).unwrap());
    let data = folder.with_file_name("two").join("_data");
    assert_eq!(text(&data.join("above")), "from above");
    assert_eq!(text(&data.join("below")), "from below");
}

/// What is in the folder of volumes and is none harms nobody.
#[test]
fn a_stray_file_is_no_volume() {
    let bed = Bed::new();
    let folder = bed.state().join("volumes");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("metadata.db"), "").unwrap();
    Volumes::open(&bed.state()).unwrap().for_mount("v", &Options::default()).unwrap();
}

/// A path leads through volumes as in the container, also by links.
#[test]
fn a_root_is_assembled_with_what_is_mounted_in_it() {
    let bed = Bed::new();
    let (volumes, folder, _) = to_seed(&bed);
    symlink("/data", bed.rootfs().join("way")).unwrap();
    symlink("../../etc", folder.join("_data/out")).unwrap();
    let writable = Writable::at(&bed.state(), "c").unwrap();
    let root = prepare(&Lower::Layers(vec![bed.rootfs()]), &writable, None).unwrap();
    let inside = |target: &str, source| {
        let bind = volumes.mount(source, None, false).unwrap();
        Inside { target: target.into(), mount: bind.mount, directory: bind.directory }
    };
    let passwd = bed.rootfs().join("etc/passwd");
    volumes.for_mount("w", &Options::default()).unwrap();
    let mounts = vec![
        inside("/data", Source::Volume("v")),
        inside("/data/deep", Source::Volume("w")),
        inside("/data/file", Source::Path(&passwd)),
    ];
    let tree = assemble(root.mounts.root, mounts).unwrap();
    write_at(tree.as_fd(), "/way/x", "x").unwrap();
    write_at(tree.as_fd(), "/way/deep/y", "y").unwrap();
    assert_eq!(text(&folder.join("_data/x")), "x");
    assert_eq!(text(&folder.with_file_name("w").join("_data/y")), "y");
    for path in ["/data/out/passwd", "/way/file"] {
        let read = read_in_root(tree.as_fd(), Path::new(path), 1000).unwrap();
        assert!(read.starts_with(b"root:"), "{path}");
    }
}
