//! Block devices by what they are called in /etc/fstab and on the command line.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::superblock::{Found, LOOK, identify};

/// Between two looks at devices that are still appearing.
const PAUSE: Duration = Duration::from_millis(20);

/// The device that a name stands for: a path, `UUID=`, `LABEL=`, `PARTUUID=`,
/// `PARTLABEL=`.
///
/// # Errors
/// There is none within `wait`; it says which there are.
pub fn find(source: &str, wait: Duration) -> Result<PathBuf, String> {
    let begun = Instant::now();
    loop {
        if let Some(path) = look(source) {
            return Ok(path);
        }
        if begun.elapsed() >= wait {
            let known: Vec<String> = names().collect();
            return Err(match known.is_empty() {
                true => format!(
                    "there is no {source}, and no disk at all: is its driver's module there?"
                ),
                false => format!("there is no {source}; there are {}", known.join(", ")),
            });
        }
        std::thread::sleep(PAUSE);
    }
}

fn look(source: &str) -> Option<PathBuf> {
    let path = PathBuf::from(source);
    if path.exists() {
        return Some(path);
    }
    let (key, value) = tag(source)?;
    let same = |text: &str| text.eq_ignore_ascii_case(&value);
    let is_it = |name: &str| match key {
        "UUID" => identify_device(&device(name)).is_some_and(|found| same(&found.uuid)),
        "LABEL" => identify_device(&device(name)).is_some_and(|found| found.label == value),
        "PARTUUID" => partition(name, "PARTUUID").is_some_and(|uuid| same(&uuid)),
        "PARTLABEL" => partition(name, "PARTNAME").is_some_and(|label| label == value),
        _ => false,
    };
    names().find(|name| is_it(name)).map(|name| device(&name))
}

/// `UUID=x`, and what udev would have as `/dev/disk/by-uuid/x`, as key and value.
fn tag(source: &str) -> Option<(&str, String)> {
    if let Some((key, value)) = source.split_once('=') {
        return Some((key, value.trim_matches('"').to_owned()));
    }
    let (kind, name) = source.strip_prefix("/dev/disk/by-")?.split_once('/')?;
    let key = match kind {
        "uuid" => "UUID",
        "label" => "LABEL",
        "partuuid" => "PARTUUID",
        "partlabel" => "PARTLABEL",
        _ => return None,
    };
    Some((key, unhex(name)))
}

/// `\x20` is a space in udev's names.
fn unhex(name: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = name;
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend_from_slice(before.as_bytes());
        let byte = after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.extend_from_slice(b"\\x");
                rest = after;
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

fn device(name: &str) -> PathBuf {
    Path::new("/dev").join(name.replace('!', "/"))
}

/// The names of all block devices but those that stand for none.
fn names() -> impl Iterator<Item = String> {
    let mut names: Vec<String> = fs::read_dir("/sys/class/block")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !["loop", "ram", "zram"].iter().any(|kind| name.starts_with(kind)))
        .collect();
    names.sort();
    names.into_iter()
}

/// What the kernel says of a partition (PARTUUID since Linux 6.10).
fn partition(name: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/sys/class/block/{name}/uevent")).ok()?;
    let mut pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.find(|(other, _)| *other == key).map(|(_, value)| value.to_owned())
}

/// The file system on a device.
pub fn identify_device(path: &Path) -> Option<Found> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LOOK as u64).read_to_end(&mut bytes).ok()?;
    identify(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_udev_are_known_without_it() {
        let is = |key, value: &str| Some((key, value.to_owned()));
        assert_eq!(tag("UUID=\"ab-cd\""), is("UUID", "ab-cd"));
        assert_eq!(tag("/dev/disk/by-uuid/ab-cd"), is("UUID", "ab-cd"));
        assert_eq!(tag("/dev/disk/by-label/my\\x20data\\x2f\\xz"), is("LABEL", "my data/\\xz"));
        assert_eq!(tag("/dev/disk/by-partlabel/\\x"), is("PARTLABEL", "\\x"));
        assert_eq!(tag("/dev/disk/by-path/pci-1"), None);
        assert_eq!(tag("/dev/vda"), None);
        assert_eq!(look("/dev/null"), Some(PathBuf::from("/dev/null")));
        assert_eq!(look("/dev/disk/by-uuid/none"), None);
    }
}
