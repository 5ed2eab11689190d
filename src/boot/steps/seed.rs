//! Random bytes from one boot to the next, so that keys made early are good
//! (random(4)). A seed is used once: before it is credited, another one is on disk.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use sha2::{Digest, Sha512};

use super::Done;
use super::identity::write_whole;
use crate::sys::machine;

/// Where it is kept.
pub const PATH: &str = "/var/lib/berth/random-seed";
const LEN: usize = 64;

/// Gives the kernel the seed that the last boot left.
pub fn restore() -> Done {
    let old = match fs::read(PATH) {
        Ok(old) if old.len() >= LEN => old,
        // The first boot.
        _ => return refresh(&[]),
    };
    // If this boot is cut off, the next one must not begin with the same.
    refresh(&old)?;
    let random = File::options()
        .write(true)
        .open("/dev/urandom")
        .map_err(|error| format!("opening /dev/urandom: {error}"))?;
    machine::add_entropy(random.as_fd(), &old, 256)
        .map_err(|error| format!("crediting the seed: {error}"))
}

/// Leaves a seed for the next boot.
pub fn save() {
    let _ = refresh(&[]);
}

/// A new seed, from the kernel's random bytes and the old seed: as good as the better
/// of the two.
fn refresh(old: &[u8]) -> Done {
    let mut bytes = [0u8; LEN];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(|error| format!("reading /dev/urandom: {error}"))?;
    let new = Sha512::new().chain_update(bytes).chain_update(old).finalize();
    let path = Path::new(PATH);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|error| format!("making {}: {error}", dir.display()))?;
    }
    write_whole(path, &new, 0o600).map_err(|error| format!("writing {PATH}: {error}"))
}
