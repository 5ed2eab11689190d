//! `log.rate-limit`: which bytes pass and which are dropped, pure.

use std::time::Duration;

/// What to do with a stretch of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admit {
    /// So many may be written.
    Pass(usize),
    /// So many are dropped; `inside` says that the line they end in goes on.
    Drop {
        /// Bytes.
        count: usize,
        /// The rest of the line is to be dropped too.
        inside: bool,
    },
}

/// Decides on `bytes` (not empty) with `tokens` bytes allowed now; `skipping` when the
/// head of the line that they begin with was dropped.
pub fn admit(bytes: &[u8], tokens: u64, skipping: bool) -> Admit {
    let end_of_first = bytes.iter().position(|b| *b == b'\n');
    if skipping {
        return Admit::Drop {
            count: end_of_first.map_or(bytes.len(), |i| i + 1),
            inside: end_of_first.is_none(),
        };
    }
    let room = usize::try_from(tokens).unwrap_or(usize::MAX);
    if bytes.len() <= room {
        return Admit::Pass(bytes.len());
    }
    let last_end = |bytes: &[u8]| bytes.iter().rposition(|b| *b == b'\n').map(|i| i + 1);
    if let Some(n) = last_end(&bytes[..room]) {
        return Admit::Pass(n);
    }
    match last_end(bytes) {
        Some(count) => Admit::Drop { count, inside: false },
        None => Admit::Drop { count: bytes.len(), inside: true },
    }
}

/// How many bytes are allowed after `passed` time: at most a second's worth is saved up.
pub fn refill(tokens: u64, rate: u64, passed: Duration) -> u64 {
    let more = u128::from(rate) * passed.as_nanos() / 1_000_000_000;
    tokens.saturating_add(u64::try_from(more).unwrap_or(u64::MAX)).min(rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn only_whole_lines_are_dropped_and_the_budget_is_kept(
            text in "[ab\n]{1,200}", tokens in 0u64..100
        ) {
            let text = text.into_bytes();
            let (mut rest, mut tokens, mut skipping) = (&text[..], tokens, false);
            let mut kept = Vec::new();
            while !rest.is_empty() {
                match admit(rest, tokens, skipping) {
                    Admit::Pass(n) => {
                        prop_assert!(n > 0 && n as u64 <= tokens);
                        tokens -= n as u64;
                        kept.extend_from_slice(&rest[..n]);
                        rest = &rest[n..];
                    }
                    Admit::Drop { count, inside } => {
                        prop_assert!(count > 0);
                        skipping = inside;
                        rest = &rest[count..];
                    }
                }
            }
            let lines: Vec<_> = text.split_inclusive(|b| *b == b'\n').collect();
            for line in kept.split_inclusive(|b| *b == b'\n') {
                prop_assert!(lines.contains(&line));
            }
        }
    }
}
