//! Kernel modules: by name with what they depend on (modules.dep(5)), and for the
//! devices that are there (modules.alias). No program is needed for it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::Done;
use super::glob::matches;
use super::kernel::drop_ins;
use crate::boot::cmdline::CommandLine;

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
    /// Not to be loaded for a device.
    blacklist: BTreeSet<String>,
    /// Commands that are run instead.
    install: BTreeMap<String, String>,
    /// What is loaded before and after, where it is there.
    before: BTreeMap<String, Vec<String>>,
    after: BTreeMap<String, Vec<String>>,
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
        index.settings(&text("modules.softdep"));
        for file in drop_ins("modprobe.d", ".conf") {
            index.settings(&fs::read_to_string(file).unwrap_or_default());
        }
        let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        index.command_line(&CommandLine::parse(&line).words);
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
                (Some("install"), Some(name)) => {
                    let command: Vec<&str> = words.collect();
                    self.install.insert(normal(name), command.join(" "));
                }
                (Some("softdep"), Some(name)) => self.soft_dependencies(name, words),
                (Some("alias"), Some(pattern)) => {
                    if let Some(name) = words.next() {
                        self.aliases.push((pattern.to_owned(), normal(name)));
                    }
                }
                _ => {}
            }
        }
    }

    /// `pre: a b post: c`
    fn soft_dependencies<'a>(&mut self, name: &str, words: impl Iterator<Item = &'a str>) {
        let mut list = None;
        for word in words {
            match word {
                "pre:" => list = Some(&mut self.before),
                "post:" => list = Some(&mut self.after),
                other => {
                    if let Some(list) = &mut list {
                        list.entry(normal(name)).or_default().push(normal(other));
                    }
                }
            }
        }
    }

    /// As modprobe(8) reads the kernel's command line: `MODULE.OPTION=VALUE` and
    /// `modprobe.blacklist=A,B`.
    fn command_line(&mut self, words: &[String]) {
        for word in words {
            let Some((key, value)) = word.split_once('=') else { continue };
            if key == "modprobe.blacklist" {
                self.blacklist.extend(value.split(',').map(normal));
            } else if let Some((module, option)) = key.split_once('.') {
                let quote = if value.contains(char::is_whitespace) { "\"" } else { "" };
                let options = self.options.entry(normal(module)).or_default();
                *options = format!("{options} {option}={quote}{value}{quote}").trim().to_owned();
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
        if let Some(command) = self.install.get(&name) {
            return instead(&name, command);
        }
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
        let soft = |lists: &BTreeMap<String, Vec<String>>| {
            for other in lists.get(&name).into_iter().flatten().filter(|_| aliases < MOST) {
                let _ = self.load_through(other, aliases + 1);
            }
        };
        // depmod writes what is needed last first.
        soft(&self.before);
        for file in needs.iter().rev().chain([file]) {
            self.insert(file)?;
        }
        soft(&self.after);
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
                !self.blacklist.contains(name)
                    && !self.install.get(name).is_some_and(|command| is_refusal(command))
                    && matches(pattern.as_bytes(), modalias.as_bytes())
            })
            .map(|(_, name)| name.as_str())
    }
}

/// Whether a command of modprobe.d does nothing: the usual way to forbid a module.
fn is_refusal(command: &str) -> bool {
    let words: Vec<&str> = command.split_whitespace().collect();
    matches!(&words[..], [one] if matches!(one.rsplit('/').next(), Some("true" | "false")))
}

/// What modprobe.d says is to be done in place of loading a module.
fn instead(name: &str, command: &str) -> Result<(), String> {
    if is_refusal(command) && command.ends_with("true") {
        return Ok(());
    }
    if is_refusal(command) {
        return Err(format!("{name} is forbidden by an `install` line of modprobe.d"));
    }
    let status = std::process::Command::new("/bin/sh").args(["-c", command]).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name}: modprobe.d has `{command}` for it: {status}")),
        Err(error) => Err(format!("{name}: running `{command}` of modprobe.d: {error}")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read() {
        let mut index = Index::default();
        index
            .settings("# c\noptions snd-x a=1\noptions snd_x b=2\nblacklist pcspkr\nalias n-1 m\n");
        assert_eq!(index.options["snd_x"], "a=1 b=2");
        assert!(index.blacklist.contains("pcspkr"));
        index.settings(
            "install usb-storage /bin/false\ninstall x /bin/true\n\
             softdep ext4 pre: crc32c a-b post: late\nsoftdep cifs gcm\n",
        );
        assert!(index.load("usb_storage").unwrap_err().contains("forbidden"));
        assert_eq!(index.load("x"), Ok(()));
        assert_eq!(index.before["ext4"], ["crc32c", "a_b"]);
        assert_eq!((&index.after["ext4"][..], index.before.len()), (&["late".to_owned()][..], 1));
        index.aliases = ["usb_storage", "pcspkr", "other"]
            .map(|name| ("usb:*".to_owned(), name.to_owned()))
            .into();
        assert_eq!(index.for_device("usb:1").collect::<Vec<_>>(), ["other"]);
        let line = CommandLine::parse("quiet snd-x.c=\"3 4\" modprobe.blacklist=a-b,c root=/dev/x");
        index.command_line(&line.words);
        assert_eq!(index.options["snd_x"], "a=1 b=2 c=\"3 4\"");
        assert!(index.blacklist.contains("a_b") && index.blacklist.contains("c"));
        assert_eq!(name_of("kernel/fs/ext4/ext4.ko.xz"), "ext4");
        assert!(index.load("nothing").unwrap_err().contains("no module nothing"));
        index.settings("alias a b\nalias b a\nalias self self\n");
        assert!(index.load("a").unwrap_err().contains("in a circle"));
        assert!(index.load("self").unwrap_err().contains("in a circle"));
    }
}
