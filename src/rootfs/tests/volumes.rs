//! Volumes and binds.

use super::*;

#[test]
fn a_volume_is_made_once_and_keeps_its_content() {
    let bed = Bed::new();
    let volumes = Volumes::open(&bed.state()).unwrap();
    let made: Vec<Volume> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| volumes.create("data").unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(made.iter().all(|volume| *volume == made[0]));

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
    let there = statx(&bind.mount, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).unwrap();
    assert_eq!(there.stx_uid, RANGE.first);
    let missing = bed.temp.path().join("nothing");
    let error = volumes.mount(Source::Path(&missing), bed.ids(), false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("make it"), "{error}");
}
