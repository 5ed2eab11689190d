//! Where to cut when a file nears its limit: at a line's end, pure.

/// What to do with the bytes that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Move so many into the file.
    Take(usize),
    /// Begin a new file first.
    Rotate,
}

/// The size that a file never passes, whatever a line's length: `max` and as much
/// again, but at least 64 KiB and at most 1 MiB more.
pub fn hard_limit(max: u64) -> u64 {
    max.saturating_add(max.clamp(64 << 10, 1 << 20))
}

/// Decides on `bytes`, which wait in a FIFO (a prefix of what waits, not empty), for a
/// file of `size` bytes; `closed` says that no stream is in the middle of a line.
///
/// A file is rotated where the next line would pass `max`, and no stream is inside a
/// line; a line longer than a file gets to [`hard_limit`] and is cut there.
pub fn cut(bytes: &[u8], size: u64, max: u64, closed: bool) -> Cut {
    let window = |room: u64| {
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        bytes.get(..room).unwrap_or(bytes)
    };
    let soft = window(max.saturating_sub(size));
    if soft.len() == bytes.len() {
        return Cut::Take(soft.len());
    }
    if let Some(end) = soft.iter().rposition(|b| *b == b'\n') {
        return Cut::Take(end + 1);
    }
    let hard = hard_limit(max);
    if size >= hard || (closed && size > 0) {
        return Cut::Rotate;
    }
    let rest = window(hard - size);
    match rest.iter().position(|b| *b == b'\n') {
        Some(end) => Cut::Take(end + 1),
        None => Cut::Take(rest.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Drives the decision as the writer does, over any stream, and looks at the files.
        #[test]
        fn files_end_at_lines_and_lose_nothing(
            lines in prop::collection::vec(0usize..300, 1..60),
            max in 1u64..2000,
            peek in 1usize..500,
        ) {
            let text: Vec<u8> = lines.iter()
                .flat_map(|n| std::iter::repeat_n(b'x', *n).chain([b'\n'])).collect();
            let mut files = vec![Vec::new()];
            let mut rest = &text[..];
            let mut closed = true;
            while !rest.is_empty() {
                let file = files.last_mut().unwrap();
                let seen = &rest[..rest.len().min(peek)];
                match cut(seen, file.len() as u64, max, closed) {
                    Cut::Take(n) => {
                        prop_assert!(n > 0 && n <= seen.len());
                        file.extend_from_slice(&rest[..n]);
                        closed = rest[n - 1] == b'\n';
                        rest = &rest[n..];
                    }
                    Cut::Rotate => {
                        prop_assert!(!file.is_empty());
                        prop_assert_eq!(file.last(), Some(&b'\n'));
                        files.push(Vec::new());
                    }
                }
            }
            prop_assert_eq!(files.concat(), text);
        }

        #[test]
        fn a_line_without_end_is_cut_at_the_hard_limit(max in 1u64..100_000, size in 0u64..300_000) {
            let hard = hard_limit(max);
            match cut(&[b'x'; 70_000], size, max, false) {
                Cut::Take(n) => prop_assert!(n > 0 && size + n as u64 <= hard),
                Cut::Rotate => prop_assert!(size >= hard),
            }
        }
    }
}
