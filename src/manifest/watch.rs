//! Changes of the manifests, told by inotify(7): settled, and as what they need,
//! reading some files again or looking at everything.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::file::stem;

/// A file is read when nothing happened to it for so long.
const QUIET: Duration = Duration::from_millis(50);
/// And after this at the latest, however much is happening.
const LATEST: Duration = Duration::from_millis(500);

/// What is to be done about changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// These manifests may have other contents.
    Files(BTreeSet<PathBuf>),
    /// Anything may have changed.
    All,
}

impl Changes {
    fn and(self, more: Changes) -> Changes {
        match (self, more) {
            (Changes::Files(mut files), Changes::Files(more)) => {
                files.extend(more);
                Changes::Files(files)
            }
            _ => Changes::All,
        }
    }
}

/// Watches directories of manifests, their drop-ins, what symbolic links lead to,
/// and the parents of those that are not there.
#[derive(Debug)]
pub struct Watch {
    inotify: Inotify,
    readable: AsyncFd<OwnedFd>,
    dirs: Vec<PathBuf>,
    watched: HashMap<WatchDescriptor, Watched>,
    /// What has happened and not settled yet, and when it is told at the latest.
    /// Kept here, for `changed` may be dropped at any time.
    pending: Option<(Changes, Instant)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Watched {
    /// A directory of manifests.
    Manifests(PathBuf),
    /// A folder of drop-ins of this manifest.
    DropIns(PathBuf),
    /// A directory in which one of these names matters.
    Way(BTreeSet<OsString>),
}

impl Watch {
    /// Of these directories.
    ///
    /// # Errors
    /// The kernel gives no inotify instance (`/proc/sys/fs/inotify`).
    pub fn new(dirs: Vec<PathBuf>) -> io::Result<Self> {
        let inotify = Inotify::init().map_err(|error| {
            io::Error::new(error.kind(), format!("{error}; see /proc/sys/fs/inotify"))
        })?;
        let copy = std::os::fd::AsFd::as_fd(&inotify).try_clone_to_owned()?;
        let readable = crate::sys::readiness::watch(copy, Interest::READABLE)?;
        let mut watch = Watch { inotify, readable, dirs, watched: HashMap::new(), pending: None };
        watch.refresh();
        Ok(watch)
    }

    /// Watches what is there now. To be called before everything is read, so that
    /// nothing falls between.
    pub fn refresh(&mut self) {
        let mut wanted: Vec<(PathBuf, Watched)> = Vec::new();
        for dir in &self.dirs {
            wanted.extend(ways(dir));
            wanted.push((dir.clone(), Watched::Manifests(dir.clone())));
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let manifest = name.to_str().and_then(|name| name.strip_suffix(".d"));
                if manifest.and_then(stem).is_some() {
                    let manifest = dir.join(manifest.unwrap_or_default());
                    wanted.push((entry.path(), Watched::DropIns(manifest)));
                }
            }
        }
        let old = std::mem::take(&mut self.watched);
        for (path, what) in wanted {
            let moves = WatchMask::CREATE
                | WatchMask::DELETE
                | WatchMask::MOVED_FROM
                | WatchMask::MOVED_TO
                | WatchMask::DELETE_SELF
                | WatchMask::MOVE_SELF
                | WatchMask::ONLYDIR
                // One directory can be watched for two reasons.
                | WatchMask::MASK_ADD;
            // On the way only names matter: who writes in /run must not wake us.
            let mask = match what {
                Watched::Way(_) => moves,
                Watched::Manifests(_) | Watched::DropIns(_) => {
                    moves | WatchMask::CLOSE_WRITE | WatchMask::MODIFY | WatchMask::ATTRIB
                }
            };
            // One that is not there is noticed on its way.
            let Ok(descriptor) = self.inotify.watches().add(&path, mask) else {
                continue;
            };
            match (self.watched.remove(&descriptor), what) {
                (Some(Watched::Way(mut names)), Watched::Way(more)) => {
                    names.extend(more);
                    self.watched.insert(descriptor, Watched::Way(names));
                }
                (Some(Watched::Manifests(dir)), _) => {
                    self.watched.insert(descriptor, Watched::Manifests(dir));
                }
                (_, what) => {
                    self.watched.insert(descriptor, what);
                }
            }
        }
        for descriptor in old.into_keys().filter(|old| !self.watched.contains_key(old)) {
            let _ = self.inotify.watches().remove(descriptor);
        }
    }

    /// The next changes, when they have settled.
    pub async fn changed(&mut self) -> io::Result<Changes> {
        loop {
            let until = self.pending.as_ref().map(|(_, latest)| *latest);
            let quiet = async {
                match until {
                    Some(latest) => {
                        tokio::time::sleep_until(latest.min(Instant::now() + QUIET)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                guard = self.readable.readable() => {
                    let mut guard = guard?;
                    let mut buffer = [0; 8192];
                    let events: Vec<_> = match self.inotify.read_events(&mut buffer) {
                        Ok(events) => events
                            .map(|event| (event.wd.clone(), event.mask, event.name.map(ToOwned::to_owned)))
                            .collect(),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            guard.clear_ready();
                            continue;
                        }
                        Err(error) => return Err(error),
                    };
                    drop(guard);
                    for (descriptor, mask, name) in events {
                        let watched = self.watched.get(&descriptor);
                        if let Some(told) = told(watched, mask, name.as_deref()) {
                            self.pending = Some(match self.pending.take() {
                                None => (told, Instant::now() + LATEST),
                                Some((changes, latest)) => (changes.and(told), latest),
                            });
                        }
                    }
                }
                () = quiet => {
                    if let Some((changes, _)) = self.pending.take() {
                        return Ok(changes);
                    }
                }
            }
        }
    }
}

/// What an event means. Pure.
fn told(
    watched: Option<&Watched>,
    mask: EventMask,
    name: Option<&std::ffi::OsStr>,
) -> Option<Changes> {
    if mask.contains(EventMask::Q_OVERFLOW) {
        return Some(Changes::All);
    }
    let gone = EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::UNMOUNT;
    match (watched?, name) {
        (Watched::Way(names), Some(name)) => names.contains(name).then_some(Changes::All),
        (Watched::Way(_), None) => None,
        (_, None) => mask.intersects(gone).then_some(Changes::All),
        (Watched::DropIns(_), Some(_))
            if mask.intersects(
                EventMask::CREATE | EventMask::DELETE | EventMask::MOVED_FROM | EventMask::MOVED_TO,
            ) =>
        {
            Some(Changes::All)
        }
        (Watched::DropIns(manifest), Some(_)) => {
            Some(Changes::Files(BTreeSet::from([manifest.clone()])))
        }
        (Watched::Manifests(dir), Some(name)) => {
            let text = name.to_str()?;
            let is_manifest = stem(text).is_some();
            // `..data` and its like are how a whole directory is swapped at once; a
            // folder of drop-ins may have come or gone.
            let is_more = text.starts_with("..") || text.ends_with(".d");
            let only_content = !mask.intersects(
                EventMask::CREATE | EventMask::DELETE | EventMask::MOVED_FROM | EventMask::ISDIR,
            );
            match (is_manifest, is_more) {
                (true, _) if only_content => Some(Changes::Files(BTreeSet::from([dir.join(name)]))),
                (true, _) | (_, true) => Some(Changes::All),
                _ => None,
            }
        }
    }
}

/// The directories on the way to one, with the names that matter in them: those
/// that are not there yet, and symbolic links, which may be swapped.
fn ways(dir: &Path) -> Vec<(PathBuf, Watched)> {
    let mut ways = Vec::new();
    let mut below = dir;
    while let (Some(parent), Some(name)) = (below.parent(), below.file_name()) {
        let is_link = below.is_symlink();
        let is_dir = below.is_dir();
        if is_link || !is_dir || below == dir {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            ways.push((parent.to_owned(), Watched::Way(BTreeSet::from([name.to_owned()]))));
        }
        below = parent;
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    async fn next(watch: &mut Watch) -> Changes {
        let changes = tokio::time::timeout(Duration::from_secs(20), watch.changed()).await;
        let changes = changes.expect("a change is told").unwrap();
        watch.refresh();
        changes
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn edits_and_swaps_are_told() {
        run(async {
            let top = tempfile::tempdir().unwrap();
            let dir = top.path().join("a/b");
            let mut watch = Watch::new(vec![dir.clone()]).unwrap();
            fs::create_dir_all(&dir).unwrap();
            assert_eq!(next(&mut watch).await, Changes::All);
            fs::write(dir.join("web.toml"), "x").unwrap();
            assert_eq!(next(&mut watch).await, Changes::All, "a new file");
            fs::write(dir.join("web.toml"), "y").unwrap();
            let files = BTreeSet::from([dir.join("web.toml")]);
            assert_eq!(next(&mut watch).await, Changes::Files(files));
            fs::write(dir.join("web.toml~"), "y").unwrap();
            fs::create_dir(dir.join("web.toml.d")).unwrap();
            assert_eq!(next(&mut watch).await, Changes::All);
            fs::write(dir.join("web.toml.d/1.toml"), "y").unwrap();
            assert_eq!(next(&mut watch).await, Changes::All);
            fs::rename(&dir, top.path().join("away")).unwrap();
            assert_eq!(next(&mut watch).await, Changes::All);
        });
    }

    #[test]
    fn a_link_to_a_directory_is_followed() {
        run(async {
            let top = tempfile::tempdir().unwrap();
            for version in ["v1", "v2"] {
                fs::create_dir(top.path().join(version)).unwrap();
            }
            let dir = top.path().join("current");
            std::os::unix::fs::symlink("v1", &dir).unwrap();
            let mut watch = Watch::new(vec![dir.clone()]).unwrap();
            std::os::unix::fs::symlink("v2", top.path().join("next")).unwrap();
            fs::rename(top.path().join("next"), &dir).unwrap();
            assert_eq!(next(&mut watch).await, Changes::All);
            fs::write(top.path().join("v2/web.toml"), "x").unwrap();
            assert_eq!(next(&mut watch).await, Changes::All);
        });
    }
}
