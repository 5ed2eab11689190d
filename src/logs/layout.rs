//! Which files of a log's folder belong together, in which order, and which may go.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::path::{Path, PathBuf};

/// The file that is being written.
pub const CURRENT: &str = "current.log";

/// In which form the file of a number is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `current.log`.
    Current,
    /// Rotated, plain.
    Plain,
    /// Rotated, compressed.
    Zstd,
}

/// A log's files, by their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    /// What holds text, oldest first.
    pub segments: BTreeMap<u64, Form>,
    /// What a kill left of a compression, or one is at work on: only who compresses may
    /// remove it.
    pub leftovers: Vec<String>,
    /// Numbers of indexes without a text: only who writes may remove them.
    pub textless: Vec<u64>,
    /// Higher than any number in use, `current.log`'s own excepted.
    pub next: u64,
}

/// The name of number `seq` with `ending`; names sort as numbers do.
pub fn name(seq: u64, ending: &str) -> String {
    format!("{seq:012}.{ending}")
}

/// The path of the text of `seq`.
pub fn path(dir: &Path, seq: u64, form: Form) -> PathBuf {
    match form {
        Form::Current => dir.join(CURRENT),
        Form::Plain => dir.join(name(seq, "log")),
        Form::Zstd => dir.join(name(seq, "log.zst")),
    }
}

/// Reads a folder's names; what isn't ours is passed over.
///
/// Where plain and compressed are both there, the compressed one is whole (it was
/// renamed into place) and the plain one is a leftover.
pub fn layout<'a>(names: impl IntoIterator<Item = &'a str>) -> Layout {
    let mut out = Layout::default();
    let mut indexes = Vec::new();
    let mut plain = Vec::new();
    let mut current = false;
    for found in names {
        if found == CURRENT {
            current = true;
            continue;
        }
        let Some((digits, ending)) = found.split_once('.') else {
            continue;
        };
        if digits.len() < 12 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let Ok(seq) = digits.parse::<u64>() else {
            continue;
        };
        match ending {
            "log" => plain.push(seq),
            "log.zst" => {
                out.segments.insert(seq, Form::Zstd);
            }
            "idx" => indexes.push(seq),
            "log.zst.tmp" => out.leftovers.push(found.to_owned()),
            _ => continue,
        }
        if ending != "log.zst.tmp" {
            out.next = out.next.max(seq.saturating_add(1));
        }
    }
    for seq in plain {
        match out.segments.entry(seq) {
            Entry::Occupied(_) => out.leftovers.push(name(seq, "log")),
            Entry::Vacant(place) => {
                place.insert(Form::Plain);
            }
        }
    }
    out.next = out.next.max(1);
    if current {
        let rotated = out.segments.keys().next_back().copied();
        let own = indexes.iter().copied().max().filter(|i| Some(*i) > rotated);
        out.segments.insert(own.unwrap_or(out.next), Form::Current);
    }
    indexes.retain(|seq| !out.segments.contains_key(seq));
    out.textless = indexes;
    out
}

/// The numbers of rotated files beyond the newest `keep`, oldest first.
pub fn surplus(layout: &Layout, keep: u32) -> Vec<u64> {
    let rotated =
        layout.segments.iter().filter(|(_, form)| **form != Form::Current).map(|(seq, _)| *seq);
    let rotated: Vec<u64> = rotated.collect();
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    let go = rotated.len().saturating_sub(keep);
    rotated.into_iter().take(go).collect()
}

/// The layout of a folder now; of one that isn't there, an empty one.
///
/// A name that comes or goes while a folder is read may be missed (readdir(3)): a text
/// that gets its compressed form just then is seen in neither. Its index keeps its name
/// all the time, so the text of an index that seems to have none is looked for by name.
pub fn scan(dir: &Path) -> io::Result<Layout> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(layout([])),
        Err(e) => return Err(e),
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    let mut found = layout(names.iter().map(String::as_str));
    for seq in std::mem::take(&mut found.textless) {
        // In the order in which the forms follow each other.
        let there =
            [Form::Plain, Form::Zstd].into_iter().find(|form| path(dir, seq, *form).exists());
        match there {
            Some(form) => drop(found.segments.insert(seq, form)),
            None => found.textless.push(seq),
        }
    }
    Ok(found)
}

/// Removes rotated files beyond `keep`, text first: an index alone is a leftover.
pub fn prune(dir: &Path, keep: u32) -> io::Result<()> {
    let layout = scan(dir)?;
    for seq in surplus(&layout, keep) {
        for ending in ["log", "log.zst", "idx"] {
            remove(&dir.join(name(seq, ending)))?;
        }
    }
    Ok(())
}

/// Removes a file; that it is gone already is well.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(names: &[&str]) -> Layout {
        layout(names.iter().copied())
    }

    #[test]
    fn each_state_that_a_kill_leaves_in_a_rotation_is_read_right() {
        let one = of(&["current.log", "000000000007.idx"]);
        assert_eq!(one.segments, BTreeMap::from([(7, Form::Current)]));
        let renamed = of(&["000000000007.log", "000000000007.idx"]);
        assert_eq!(renamed.segments, BTreeMap::from([(7, Form::Plain)]));
        assert_eq!(renamed.next, 8);
        let indexed = of(&["000000000007.log", "000000000007.idx", "000000000008.idx"]);
        assert_eq!(indexed.segments, BTreeMap::from([(7, Form::Plain)]));
        assert_eq!((indexed.next, indexed.textless), (9, vec![8]));
        let both = of(&["000000000007.log", "000000000007.log.zst", "current.log"]);
        assert_eq!(both.segments, BTreeMap::from([(7, Form::Zstd), (8, Form::Current)]));
        assert_eq!(both.leftovers, ["000000000007.log"]);
    }

    #[test]
    fn no_scan_misses_a_text_that_gets_another_form() {
        const FILES: u64 = 1000;
        let dir = tempfile::tempdir().unwrap();
        let at = |seq: u64, ending: &str| dir.path().join(name(seq, ending));
        for seq in 1..=FILES {
            std::fs::write(at(seq, "idx"), "").unwrap();
            std::fs::write(at(seq, "log"), "").unwrap();
        }
        std::fs::write(at(FILES + 1, "idx"), "").unwrap();
        std::thread::scope(|scope| {
            let compressing = scope.spawn(|| {
                for seq in 1..=FILES {
                    std::fs::write(at(seq, "log.zst.tmp"), "").unwrap();
                    std::fs::rename(at(seq, "log.zst.tmp"), at(seq, "log.zst")).unwrap();
                    std::fs::remove_file(at(seq, "log")).unwrap();
                }
            });
            while !compressing.is_finished() {
                let seen = scan(dir.path()).unwrap();
                assert!(seen.segments.keys().copied().eq(1..=FILES));
                assert_eq!(seen.textless, [FILES + 1]);
            }
        });
    }

    #[test]
    fn names_of_others_are_passed_over() {
        let seen = of(&["7.log", "x.idx", "current.log.1", "notes", "00000000000é.log"]);
        assert!(seen.segments.is_empty() && seen.leftovers.is_empty());
    }

    proptest! {
        #[test]
        fn the_newest_stay(seqs in prop::collection::btree_set(1u64..1000, 0..20), keep in 0u32..10) {
            let names: Vec<String> = seqs.iter().map(|s| name(*s, "log")).collect();
            let seen = layout(names.iter().map(String::as_str));
            let go = surplus(&seen, keep);
            prop_assert_eq!(seqs.len() - go.len(), seqs.len().min(keep as usize));
            prop_assert!(seqs.iter().take(go.len()).eq(go.iter()));
        }
    }
}
