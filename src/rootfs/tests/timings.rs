//! Measurements, by hand.

use super::*;

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
        println!("{what}: first {first:?}, median {:?}, worst {:?}", times[25], times[49]);
    };
    report("user namespace", &mut |_| drop(userns_with_range(RANGE).unwrap()));
    report("user and net namespace", &mut |_| drop(userns_and_netns(RANGE).unwrap()));
    report("directory, new container", &mut |n| drop(bed.of_directory(&format!("c{n}"))));
    report("directory, mounted anew", &mut |_| drop(bed.of_directory("c0")));
    report("host view, mounted anew", &mut |_| drop(bed.host(&[]).unwrap()));
    report("host view: looking", &mut |_| {
        drop(super::host::look(&super::host::rules(&[], &[]).unwrap()).unwrap());
    });
    let root = bed.host(&[]).unwrap();
    report("again", &mut |_| drop(root.again().unwrap()));
}
