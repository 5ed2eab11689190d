//! When to try again.

use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

/// How often and how fast failures that may pass are tried again.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// How often in a row, without anything gained between.
    pub attempts: u32,
    /// The pause after the first failure; doubled for each further one.
    pub first: Duration,
    /// The longest pause, also of those that a registry asks for.
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { attempts: 6, first: Duration::from_millis(500), longest: Duration::from_secs(60) }
    }
}

impl Retry {
    /// The pause after the `failed`-th failure (the first is 1): between half and
    /// all of the doubled pause, so that many clients do not come back at once.
    pub(super) fn pause(&self, failed: u32) -> Duration {
        let doubled = self.first.saturating_mul(1 << failed.saturating_sub(1).min(16));
        let bound = doubled.min(self.longest);
        // The standard library's hash keys are random, and need no crate.
        let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
        bound / 2 + bound.mul_f64(0.5 * (random % 1024) as f64 / 1024.0)
    }

    /// The pause that a registry asks for, if it does (RFC 9110, 10.2.3).
    pub(super) fn asked(&self, headers: &HeaderMap) -> Option<Duration> {
        let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        let pause = match text.parse::<u64>() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => {
                let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
                SystemTime::from(at).duration_since(SystemTime::now()).unwrap_or_default()
            }
        };
        Some(pause.min(self.longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_bounded() {
        let retry = Retry {
            attempts: 5,
            first: Duration::from_millis(100),
            longest: Duration::from_secs(1),
        };
        for (failed, full) in [(1, 100), (2, 200), (3, 400), (5, 1000), (99, 1000)] {
            let pause = retry.pause(failed).as_millis();
            assert!((full / 2..=full).contains(&pause), "{failed}: {pause}");
        }
    }

    #[test]
    fn both_forms_of_retry_after_are_read() {
        let retry = Retry::default();
        let asked = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry.asked(&headers)
        };
        assert_eq!(asked("3"), Some(Duration::from_secs(3)));
        assert_eq!(asked("86400"), Some(retry.longest));
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(asked("soon"), None);
    }
}
