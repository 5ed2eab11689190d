//! The pause before a container is launched again.

use std::time::Duration;

use crate::manifest::model::Restart;

/// A configured pause of nothing still grows from this, so that a crash loop does
/// not take a processor.
const FIRST_DOUBLED: Duration = Duration::from_millis(1);

/// The pause before attempt `attempt` (from 1) in a row.
///
/// It doubles with each attempt and lies in `[backoff, max-backoff]`; from the
/// second on `jitter` takes off up to half, so that many containers that fail
/// together don't come back together.
pub fn pause(restart: &Restart, attempt: u32, jitter: u64) -> Duration {
    let least = restart.backoff;
    let most = restart.max_backoff.max(least);
    if attempt <= 1 {
        return least;
    }
    let doubled = 1u32.checked_shl(attempt - 1).unwrap_or(u32::MAX);
    let full = least.max(FIRST_DOUBLED).saturating_mul(doubled).min(most);
    let half = full / 2;
    let share = (jitter >> 40) as u32;
    let back = u64::try_from(half.as_nanos())
        .map(|nanos| (u128::from(nanos) * u128::from(share)) >> 24)
        .map_or(half, |nanos| Duration::from_nanos(nanos as u64));
    (full - back.min(half)).clamp(least, most)
}

/// A number that depends on all of `text` and on `number`, evenly spread
/// (SplitMix64 over FNV-1a): the same in every run.
pub fn spread(text: &str, number: u64) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut z = hash ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_pause_lies_within_its_bounds(
            backoff in 0u64..=u64::MAX,
            max in 0u64..=u64::MAX,
            attempt in 0u32..=u32::MAX,
            jitter: u64,
        ) {
            let restart = Restart {
                backoff: Duration::from_millis(backoff),
                max_backoff: Duration::from_millis(max),
                ..Restart::default()
            };
            let pause = pause(&restart, attempt, jitter);
            prop_assert!(pause >= restart.backoff);
            prop_assert!(pause <= restart.max_backoff.max(restart.backoff));
        }
    }

    #[test]
    fn a_pause_doubles_and_is_not_the_same_for_all() {
        let restart = Restart::default();
        assert_eq!(pause(&restart, 1, 7), Duration::from_millis(100));
        for attempt in 2..9 {
            let full = Duration::from_millis(100 << (attempt - 1));
            assert_eq!(pause(&restart, attempt, 0), full);
            let short = pause(&restart, attempt, u64::MAX);
            assert!(short < full && short >= full / 2, "{short:?}");
        }
        assert_eq!(pause(&restart, 99, 0), Duration::from_secs(30));
    }

    #[test]
    fn a_crash_loop_without_a_pause_still_slows_down() {
        let restart = Restart { backoff: Duration::ZERO, ..Restart::default() };
        assert_eq!(pause(&restart, 1, 0), Duration::ZERO);
        assert_eq!(pause(&restart, 11, 0), Duration::from_millis(1024));
    }
}
