//! Any bytes are a layer or an error; never a panic, and never a step outside.
//! Needs root, as Berth does.
#![no_main]

use berth::image::layer::{Devices, Limits, settle, unpack};

const LIMITS: Limits =
    Limits { bytes: 1 << 20, entries: 200, path: 300, depth: 16, devices: Devices::Skip };

libfuzzer_sys::fuzz_target!(|archive: &[u8]| {
    let Ok(temp) = tempfile::tempdir() else { return };
    let (target, lower) = (temp.path().join("layer"), temp.path().join("lower"));
    if std::fs::create_dir(&target).is_err() || std::fs::create_dir(&lower).is_err() {
        return;
    }
    let mut stream = archive;
    if let Ok(unpacked) = unpack(&mut stream, &target, &LIMITS) {
        assert!(stream.is_empty(), "the stream is read to its end");
        let _ = settle(&target, &unpacked.below, &[&lower]);
    }
    let beside = std::fs::read_dir(temp.path()).map_or(2, Iterator::count);
    assert_eq!(beside, 2, "something was made outside of the layer");
});
