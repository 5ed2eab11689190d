//! Looks at the host for a view of it: what is there that must be hidden.
//!
//! It is done at each `prepare`. What the host gets afterwards is seen by running
//! containers as far as it lies in a directory that is seen: a new file in `/etc`
//! that others may not read is hidden from the next `prepare` on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};

use super::error::Error;
use super::mountinfo::{self, HostMount};
use super::view::{EMPTY, Entry, Found, Kind, Owned, Rules, is_standard};
use crate::archive::Time;

/// Larger files are no keys.
const KEY_FILE_LIMIT: u64 = 1 << 20;

/// The rules for these folders and exposed paths, with links resolved. A folder of
/// ours that is not there yet stays as it is written.
pub(super) fn rules(own: &[PathBuf], expose: &[PathBuf]) -> Result<Rules, Error> {
    let own: Vec<PathBuf> = own
        .iter()
        .map(|path| path.canonicalize().unwrap_or_else(|_| path.clone()))
        .filter(|path| path != Path::new("/"))
        .collect();
    let mut exposed = Vec::new();
    for path in expose {
        if !path.is_absolute() {
            return Err(Error::refused("expose", path, "it must be an absolute path"));
        }
        let real = path.canonicalize().map_err(|e| {
            Error::new("expose", path, e).with_remedy("`expose` names paths of this host")
        })?;
        if own.iter().any(|own| real.starts_with(own)) {
            let why = "it is in a folder of Berth's own, which no container sees";
            return Err(Error::refused("expose", path, why));
        }
        let kernel = ["/proc", "/sys", "/dev"].into_iter().find(|top| real.starts_with(top));
        if let Some(top) = kernel {
            let why = format!("a container has a {top} of its own; `devices` names devices");
            return Err(Error::refused("expose", path, why));
        }
        exposed.push(real);
    }
    Ok(Rules { own, expose: exposed })
}

/// Everything that [`super::view::plan`] must know.
pub(super) fn look(rules: &Rules) -> Result<Found, Error> {
    // The thread's, not the process's: they differ where a thread has a mount
    // namespace of its own.
    let table = Path::new("/proc/thread-self/mountinfo");
    let mounts = fs::read(table).map_err(|e| Error::new("read", table, e))?;
    let (seen, unseen): (Vec<HostMount>, Vec<HostMount>) = mountinfo::parse(&mounts)
        .into_iter()
        .filter(|mount| mount.point != Path::new("/"))
        .partition(|mount| rules.sees_mount(mount));
    let unseen: BTreeSet<PathBuf> = unseen.into_iter().map(|mount| mount.point).collect();
    let mut found = Found::default();
    walk(Path::new("/"), rules, &unseen, &mut found);

    for (path, mode) in EMPTY {
        let path = Path::new(path);
        let top = path.parent() == Some(Path::new("/"));
        if top && is_missing(path) {
            found.hidden.push(Entry {
                path: path.to_owned(),
                kind: Kind::Directory,
                mode,
                uid: 0,
                gid: 0,
                private_key: false,
            });
        }
    }
    for own in &rules.own {
        // In a hidden directory it shows only if it is in what is exposed.
        if rules.exposes(own) || !under(own, &found.hidden) {
            found.hidden.extend(own_cover(own));
        }
    }
    for path in &rules.expose {
        let there = fs::symlink_metadata(path).map_err(|e| Error::new("expose", path, e))?;
        found.exposed.push(entry(path.clone(), &there));
    }
    for point in unseen {
        // What the host's mount covers must not come to light without it.
        if !under(&point, &found.hidden) || rules.exposes(&point) {
            found.hidden.push(closed(point));
        }
    }
    found.mounts = seen_mounts(&seen, rules, &found.hidden);
    let all = found.hidden.iter().chain(&found.exposed).chain(&found.mounts);
    let mut above: Vec<PathBuf> = Vec::new();
    for entry in all {
        above.extend(entry.path.ancestors().map(Path::to_owned));
    }
    above.sort();
    above.dedup();
    for path in above {
        if let Some(there) = fs::symlink_metadata(&path).ok().filter(Metadata::is_dir) {
            found.parents.insert(path, owned(&there));
        }
    }
    Ok(found)
}

fn seen_mounts(mounts: &[HostMount], rules: &Rules, hidden: &[Entry]) -> Vec<Entry> {
    let mut seen: Vec<Entry> = Vec::new();
    for mount in mounts {
        let hides = under(&mount.point, hidden) && !rules.exposes(&mount.point);
        // One that is mounted over is found once more by the same name.
        let again = seen.iter().any(|e| e.path == mount.point);
        if hides || again {
            continue;
        }
        if let Ok(there) = fs::symlink_metadata(&mount.point) {
            let entry = entry(mount.point.clone(), &there);
            if !rules.hides(&entry) {
                seen.push(entry);
            }
        }
    }
    seen
}

/// What stands for a mount of the host that is not seen. Asking the mount itself
/// what it is could hang, on a file server that is gone.
fn closed(point: PathBuf) -> Entry {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW;
    let file = statx(CWD, &point, flags, StatxFlags::TYPE)
        .is_ok_and(|there| FileType::from_raw_mode(there.stx_mode.into()) != FileType::Directory);
    let kind = if file { Kind::File } else { Kind::Directory };
    Entry { path: point, kind, mode: 0o755, uid: 0, gid: 0, private_key: false }
}

fn walk(directory: &Path, rules: &Rules, unseen: &BTreeSet<PathBuf>, found: &mut Found) {
    // What can't be read, or went away meanwhile, shows nothing either.
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for item in entries.flatten() {
        let path = item.path();
        if !is_standard(&path) && unseen.contains(&path) {
            continue;
        }
        let Ok(there) = item.metadata() else { continue };
        let mut entry = entry(path, &there);
        entry.private_key = entry.kind == Kind::File
            && there.is_file()
            && rules.may_hold_key(&entry.path)
            && there.len() <= KEY_FILE_LIMIT
            && key_in(&entry.path, &there);
        if rules.hides(&entry) {
            found.hidden.push(entry);
        } else if entry.kind == Kind::Directory && rules.looks_into(&entry.path) {
            walk(&entry.path, rules, unseen, found);
        }
    }
}

fn own_cover(path: &Path) -> Option<Entry> {
    // The first name that is not there is made absent: it can't come later.
    let mut missing = path;
    loop {
        match fs::symlink_metadata(missing) {
            Ok(there) if missing == path => return Some(entry(path.to_owned(), &there)),
            Ok(_) => return None,
            Err(_) => {
                let parent = missing.parent()?;
                if fs::symlink_metadata(parent).is_ok_and(|p| p.is_dir()) {
                    return Some(Entry {
                        path: missing.to_owned(),
                        kind: Kind::File,
                        mode: 0,
                        uid: 0,
                        gid: 0,
                        private_key: false,
                    });
                }
                missing = parent;
            }
        }
    }
}

fn under(path: &Path, hidden: &[Entry]) -> bool {
    hidden.iter().any(|entry| path.starts_with(&entry.path))
}

fn is_missing(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

pub(super) fn entry(path: PathBuf, there: &Metadata) -> Entry {
    let kind = if there.is_dir() {
        Kind::Directory
    } else if there.is_symlink() {
        Kind::Symlink
    } else {
        Kind::File
    };
    let Owned { mode, uid, gid } = owned(there);
    Entry { path, kind, mode, uid, gid, private_key: false }
}

pub(super) fn owned(there: &Metadata) -> Owned {
    Owned { mode: there.mode() & 0o7777, uid: there.uid(), gid: there.gid() }
}

/// What a file was when it was looked at; another content is another time of change,
/// once that time is settled.
type Identity = (u64, u64, u64, i64, i64);

fn identity(there: &Metadata) -> Identity {
    (there.dev(), there.ino(), there.len(), there.ctime(), there.ctime_nsec())
}

/// Which files hold keys: there are hundreds of certificates on a host, and to read all
/// of them again would cost more than the rest of a launch.
static KNOWN: Mutex<BTreeMap<Identity, bool>> = Mutex::new(BTreeMap::new());
const KNOWN_MAX: usize = 10_000;

/// Whether there is a private key in a file; in doubt there is.
fn key_in(path: &Path, there: &Metadata) -> bool {
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(holds) = known().get(&identity(there)) {
        return *holds;
    }
    let now = SystemTime::now();
    let Ok((holds, read)) = holds_private_key(path) else { return true };
    let changed =
        Time { seconds: read.ctime(), nanoseconds: u32::try_from(read.ctime_nsec()).unwrap_or(0) };
    if !changed.is_settled(now) {
        return holds;
    }
    let mut known = known();
    if known.len() >= KNOWN_MAX {
        known.clear();
    }
    known.insert(identity(&read), holds);
    holds
}

/// RFC 7468: `-----BEGIN PRIVATE KEY-----`, also with a kind before `PRIVATE`.
fn holds_private_key(path: &Path) -> io::Result<(bool, Metadata)> {
    let file = File::options()
        .read(true)
        // It may have become a FIFO or a link since it was looked at.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let there = file.metadata()?;
    let mut content = Vec::new();
    file.take(KEY_FILE_LIMIT).read_to_end(&mut content)?;
    let holds = content.split(|b| *b == b'\n').any(|line| {
        let line = line.trim_ascii_start();
        line.starts_with(b"-----BEGIN ") && {
            let label = String::from_utf8_lossy(line.get(..80).unwrap_or(line));
            label.contains("PRIVATE KEY")
        }
    });
    Ok((holds, there))
}
