//! Patterns as fnmatch(3) has them, of modules.alias and sysctl.d. Pure but for
//! [`expand`].

use std::fs;
use std::path::{Path, PathBuf};

/// Whether a text has something of a pattern in it.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// What there is below `base` that a relative path with patterns in its parts means,
/// sorted.
pub fn expand(base: &Path, pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![base.to_owned()];
    for part in pattern.split('/') {
        let mut next = Vec::new();
        for dir in found {
            if !is_pattern(part) {
                next.push(dir.join(part));
                continue;
            }
            let names = fs::read_dir(dir).into_iter().flatten().flatten();
            next.extend(names.map(|entry| entry.path()).filter(|path| {
                let name = path.file_name().unwrap_or_default();
                matches(part.as_bytes(), name.as_encoded_bytes())
            }));
        }
        found = next;
    }
    found.retain(|path| path.exists());
    found.sort();
    found
}

/// fnmatch(3) with `*`, `?` and `[…]`, without recursion.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => class(&pattern[p..], text[t]),
            Some(&byte) if byte == text[t] => Some(1),
            _ => None,
        };
        match (step, star) {
            (Some(len), _) => {
                p += len;
                t += 1;
            }
            (None, Some((at, from))) => {
                star = Some((at, from + 1));
                (p, t) = (at + 1, from + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Whether a byte is in the class that a pattern begins with; how long that is.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let end = pattern.iter().position(|byte| *byte == b']')?;
    let inside = &pattern[1..end];
    let mut at = 0;
    while at < inside.len() {
        match inside[at..] {
            [low, b'-', high, ..] => {
                if (low..=high).contains(&byte) {
                    return Some(end + 1);
                }
                at += 3;
            }
            [one, ..] if one == byte => return Some(end + 1),
            _ => at += 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_matched() {
        let yes = [
            ("virtio:d00000002v*", "virtio:d00000002v00001AF4"),
            ("pci:v00001AF4d*sv*sd*bc*sc*i*", "pci:v00001AF4d00001041sv1sd1bc02sc00i00"),
            ("usb:v*d0[0-9]*", "usb:v12d05x"),
            ("*", ""),
            ("a?c", "abc"),
        ];
        for (pattern, text) in yes {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        for (pattern, text) in [("a*b", "ac"), ("[0-9]", "x"), ("ab", "abc"), ("[", "x"), ("", "x")]
        {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }

    #[test]
    fn a_pattern_finds_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["conf/eth0.1", "conf/lo", "conf/all", "other"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("rp_filter"), "").unwrap();
        }
        fs::create_dir(dir.path().join("conf/empty")).unwrap();
        let found = |pattern: &str| {
            let found = expand(dir.path(), pattern);
            let short = found.iter().map(|path| path.strip_prefix(dir.path()).unwrap());
            short.map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            found("conf/*/rp_filter"),
            ["conf/all/rp_filter", "conf/eth0.1/rp_filter", "conf/lo/rp_filter"]
        );
        assert_eq!(found("*/l?/rp_filter"), ["conf/lo/rp_filter"]);
        assert_eq!(found("other/rp_filter"), ["other/rp_filter"]);
        assert_eq!(found("nothing/*"), Vec::<String>::new());
    }
}
