//! Names for containers that were given none.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

const HOW: [&str; 32] = [
    "amber", "brave", "brisk", "bright", "calm", "clever", "cosy", "curious", "daring", "eager",
    "fair", "fond", "gentle", "glad", "golden", "happy", "keen", "kind", "lively", "lucky",
    "merry", "mild", "noble", "patient", "proud", "quiet", "silent", "steady", "sunny", "swift",
    "tidy", "warm",
];
const WHAT: [&str; 32] = [
    "anchor", "bay", "beacon", "bollard", "breeze", "buoy", "cape", "captain", "coral", "cove",
    "current", "delta", "dock", "dolphin", "ferry", "fjord", "gull", "harbor", "island", "keel",
    "lagoon", "lantern", "mast", "pier", "pilot", "quay", "reef", "rudder", "sail", "shore",
    "tide", "wave",
];

/// A name that is not in use.
pub fn unused(in_use: impl Fn(&str) -> bool) -> String {
    let random = || RandomState::new().build_hasher().finish() as usize;
    for attempt in 0u32.. {
        let number = random();
        let how = HOW[number % HOW.len()];
        let what = WHAT[number / HOW.len() % WHAT.len()];
        // As with Docker a number comes to it when the plain ones are taken.
        let name = match attempt {
            0..8 => format!("{how}_{what}"),
            _ => format!("{how}_{what}{}", number / 4096 % 10_000),
        };
        if !in_use(&name) {
            return name;
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::scalar::Name;

    #[test]
    fn names_are_valid_and_not_taken() {
        let mut taken = std::collections::BTreeSet::new();
        for _ in 0..3000 {
            let name = unused(|name| taken.contains(name));
            assert!(name.parse::<Name>().is_ok(), "{name}");
            assert!(taken.insert(name));
        }
    }
}
