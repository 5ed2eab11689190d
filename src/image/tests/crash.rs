//! SIGKILL at any instant of unpacking, entering, naming and collecting.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::support::*;
use crate::image::archive::{Format, load, save};
use crate::image::store::{Keep, Pins};
use crate::image::{Reference, Store};

/// Where the process that is to be killed works.
const STORE: &str = "BERTH_TEST_CRASH_STORE";

/// The work of the process that is to be killed; nothing in a usual run.
#[test]
fn churn() {
    let Some(path) = std::env::var_os(STORE).map(PathBuf::from) else { return };
    let store = Store::open(&path).unwrap();
    for n in 0u64.. {
        let name = format!("app:{}", n % 3);
        let own = tar_of(&[("own", &noise(50_000, n)), ("deep/er/file", &n.to_le_bytes())]);
        image(&store, &name, &[busybox_layer(), own], Compress::Gzip);
        let mut archive = Vec::new();
        save(&store, std::slice::from_ref(&name), Format::Both, &mut archive).unwrap();
        store.untag(&name.parse::<Reference>().unwrap(), &Pins::default()).unwrap();
        store.collect(&Pins::default(), Keep::nothing()).unwrap();
        load(&store, &archive[..]).unwrap();
        store.settle().unwrap();
    }
}

#[test]
fn a_kill_at_any_instant_leaves_a_whole_store() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "image::tests::crash::churn"])
            .env(STORE, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(40 + round * 37 % 300));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_whole(&store);
        assert_eq!(store.usage().unwrap().temporary, 0, "round {round}");
    }
    let store = Store::open(dir.path()).unwrap();
    for listed in store.list().unwrap() {
        store.remove(&listed.image, &Pins::default(), true).unwrap();
    }
    store.collect(&Pins::default(), Keep::nothing()).unwrap();
    assert_eq!(store.usage().unwrap().total(), 0);
}
