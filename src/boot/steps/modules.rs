//! Kernel modules: by name with what they depend on (modules.dep(5)), and for the
//! devices that are there (modules.alias). No program is needed for it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::Done;
use super::kernel::drop_ins;

/// The module is compressed, and the kernel unpacks it (finit_module(2)).
const COMPRESSED: i32 = 4;
/// New buses bring new devices; so often they are looked at again.
const ROUNDS: usize = 5;

/// What depmod(8) and modprobe.d(5) say of this kernel's modules.
#[derive(Debug, Default)]
struct Index {
    dir: PathBuf,
    /// Name to its file and those it needs.
    files: BTreeMap<String, (String, Vec<String>)>,
    /// Pattern to name.
    aliases: Vec<(String, String)>,
    builtin: BTreeSet<String>,
    options: BTreeMap<String, String>,
    blacklist: BTreeSet<String>,
}

/// As the kernel has it: `-` and `_` are the same.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn name_of(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    normal(name.split(".ko").next().unwrap_or(name))
}

impl Index {
    fn read() -> Index {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let dir = Path::new("/lib/modules").join(release);
        let text = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
        let mut index = Index { dir: dir.clone(), ..Index::default() };
        for line in text("modules.dep").lines() {
            if let Some((file, needs)) = line.split_once(':') {
                let needs = needs.split_whitespace().map(str::to_owned).collect();
                index.files.insert(name_of(file), (file.to_owned(), needs));
            }
        }
        index.builtin = text("modules.builtin").lines().map(name_of).collect();
        for line in text("modules.alias").lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(name)) =
                (words.next(), words.next(), words.next())
            {
                index.aliases.push((pattern.to_owned(), normal(name)));
            }
        }
        for file in drop_ins("modprobe.d", ".conf") {
            index.settings(&fs::read_to_string(file).unwrap_or_default());
        }
        index
    }

    /// Lines of modprobe.d(5).
    fn settings(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("options"), Some(name)) => {
                    let more: Vec<&str> = words.collect();
                    let options = self.options.entry(normal(name)).or_default();
                    *options = format!("{options} {}", more.join(" ")).trim().to_owned();
                }
                (Some("blacklist"), Some(name)) => {
                    self.blacklist.insert(normal(name));
                }
                (Some("alias"), Some(pattern)) => {
                    if let Some(name) = words.next() {
                        self.aliases.push((pattern.to_owned(), normal(name)));
                    }
                }
                _ => {}
            }
        }
    }

    fn load(&self, name: &str) -> Result<(), String> {
        self.load_through(name, 0)
    }

    /// `aliases`: how many led here; they could lead in a circle.
    fn load_through(&self, name: &str, aliases: usize) -> Result<(), String> {
        const MOST: usize = 8;
        let name = normal(name);
        let Some((file, needs)) = self.files.get(&name) else {
            if self.builtin.contains(&name) {
                return Ok(());
            }
            let by_alias = self.aliases.iter().find(|(pattern, _)| normal(pattern) == name);
            return match by_alias {
                Some((_, target)) if aliases < MOST => self.load_through(target, aliases + 1),
                Some(_) => Err(format!("the aliases of modprobe.d lead {name} in a circle")),
                _ => Err(format!("there is no module {name} in {}", self.dir.display())),
            };
        };
        // depmod writes what is needed last first.
        for file in needs.iter().rev().chain([file]) {
            self.insert(file)?;
        }
        Ok(())
    }

    fn insert(&self, file: &str) -> Result<(), String> {
        let path = self.dir.join(file);
        let module = File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let options = self.options.get(&name_of(file)).cloned().unwrap_or_default();
        let options = CString::new(options).unwrap_or_default();
        let flags = if file.ends_with(".ko") { 0 } else { COMPRESSED };
        match rustix::system::finit_module(&module, &options, flags) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(format!("{}: {errno}", path.display())),
        }
    }

    /// The modules for a device, by what its bus says it is.
    fn for_device(&self, modalias: &str) -> impl Iterator<Item = &str> {
        self.aliases
            .iter()
            .filter(|(pattern, name)| {
                !self.blacklist.contains(name) && matches(pattern.as_bytes(), modalias.as_bytes())
            })
            .map(|(_, name)| name.as_str())
    }
}

/// Loads one module.
pub fn load(name: &str) -> Done {
    Index::read().load(name)
}

/// Those of modules-load.d(5), then these.
pub fn load_listed(names: &[String]) -> Done {
    let mut all = Vec::new();
    for file in drop_ins("modules-load.d", ".conf").into_iter().chain(["/etc/modules".into()]) {
        let text = fs::read_to_string(file).unwrap_or_default();
        let lines = text.lines().map(str::trim);
        all.extend(
            lines
                .filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
                .map(str::to_owned),
        );
    }
    all.extend(names.iter().cloned());
    if all.is_empty() {
        return Ok(());
    }
    let index = Index::read();
    let wrong: Vec<String> = all.iter().filter_map(|name| index.load(name).err()).collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// Loads the modules of all devices that say what they are.
pub fn coldplug() -> Done {
    let index = Index::read();
    if index.aliases.is_empty() {
        return Ok(());
    }
    let (mut seen, mut tried) = (BTreeSet::new(), BTreeSet::new());
    let mut wrong = Vec::new();
    for _ in 0..ROUNDS {
        let mut found = Vec::new();
        modaliases(Path::new("/sys/devices"), 0, &mut found);
        let fresh: Vec<String> = found.into_iter().filter(|m| seen.insert(m.clone())).collect();
        if fresh.is_empty() {
            break;
        }
        for modalias in &fresh {
            for name in index.for_device(modalias) {
                if tried.insert(name.to_owned())
                    && let Err(error) = index.load(name)
                    // A driver that finds nothing to drive says so; that is no failure.
                    && !error.contains(&Errno::NODEV.to_string())
                {
                    wrong.push(error);
                }
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

fn modaliases(dir: &Path, depth: usize, found: &mut Vec<String>) {
    const DEEP: usize = 24;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < DEEP => {
                modaliases(&entry.path(), depth + 1, found);
            }
            Ok(kind) if kind.is_file() && entry.file_name() == "modalias" => {
                if let Ok(text) = fs::read_to_string(entry.path()) {
                    found.push(text.trim().to_owned());
                }
            }
            _ => {}
        }
    }
}

/// fnmatch(3) with `*`, `?` and `[…]`, without recursion.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
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
    fn settings_are_read() {
        let mut index = Index::default();
        index
            .settings("# c\noptions snd-x a=1\noptions snd_x b=2\nblacklist pcspkr\nalias n-1 m\n");
        assert_eq!(index.options["snd_x"], "a=1 b=2");
        assert!(index.blacklist.contains("pcspkr"));
        assert_eq!(name_of("kernel/fs/ext4/ext4.ko.xz"), "ext4");
        assert!(index.load("nothing").unwrap_err().contains("no module nothing"));
        index.settings("alias a b\nalias b a\nalias self self\n");
        assert!(index.load("a").unwrap_err().contains("in a circle"));
        assert!(index.load("self").unwrap_err().contains("in a circle"));
    }
}
