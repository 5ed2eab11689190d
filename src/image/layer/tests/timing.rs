//! How fast it is: printed, not judged, since a machine that is busy says nothing.
//! `cargo test --release -- --nocapture timing` shows it.

use super::*;
use std::process::Command;
use std::time::{Duration, Instant};

/// As many of the machine's files as this many bytes hold, or the tree is done.
const BYTES: u64 = if cfg!(debug_assertions) { 30 << 20 } else { 300 << 20 };

#[test]
fn timing_against_tar() {
    let bed = Bed::new();
    let archive = bed.temp.path().join("a.tar");
    let mut out = std::io::BufWriter::new(fs::File::create(&archive).unwrap());
    let mut packer = crate::archive::Packer::new(&mut out, None);
    let mut sum = 0;
    for top in ["/usr/share", "/usr/lib"] {
        let node = open(Path::new(top)).unwrap();
        let prefix = top.trim_start_matches('/').as_bytes();
        crate::archive::walk(&node, prefix, &mut |path, node| {
            if sum > BYTES {
                return Ok(crate::archive::Step::Over);
            }
            sum += node.stat().st_size as u64;
            packer.add(path, node)?;
            Ok(crate::archive::Step::In)
        })
        .unwrap();
    }
    let entries = packer.finish().unwrap();
    drop(out);
    let mut times = [Duration::MAX; 2];
    for round in 0..3 {
        let ours = bed.folder(&format!("ours{round}"));
        let started = Instant::now();
        let mut file = fs::File::open(&archive).unwrap();
        let done = unpack(&mut file, &ours, &Limits::default()).unwrap();
        times[0] = times[0].min(started.elapsed());
        assert!(done.entries >= entries);
        let theirs = bed.folder(&format!("theirs{round}"));
        let started = Instant::now();
        let tar = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&theirs).status();
        assert!(tar.unwrap().success());
        times[1] = times[1].min(started.elapsed());
        fs::remove_dir_all(ours).unwrap();
        fs::remove_dir_all(theirs).unwrap();
    }
    println!(
        "{entries} entries, {} MB: unpack {:?}, tar {:?}, ratio {:.2}",
        sum >> 20,
        times[0],
        times[1],
        times[0].as_secs_f64() / times[1].as_secs_f64()
    );
}
