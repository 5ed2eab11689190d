//! Named volumes, and mounts of them and of the host's paths.
//!
//! A volume is `<state>/volumes/<name>/` with `_data` and `volume.json`. It is made
//! beside its place and renamed, so it is there as a whole or not at all.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, renameat_with};
use serde::{Deserialize, Serialize};

use super::backing::{Backing, Mounted, Options, Unused, check_options};
use super::error::Error;
use super::prepare::{IdMap, cant_idmap, clone_of};
use super::trash::throw_away;
use super::writable::private;
use crate::sys::mount::{self, NODEV, NOSUID, RDONLY};

/// Bumped when a reader of the old form would misread the new one.
/// Without options a volume is as it was in version 1.
const VERSION: u32 = 2;

/// The names of unfinished volumes begin so; no volume's name does.
const UNFINISHED: &str = ".new-";

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// The volumes below one state directory.
#[derive(Debug, Clone)]
pub struct Volumes {
    state: PathBuf,
    folder: PathBuf,
    mounted: Mounted,
    /// Names of those that were made because something was to be mounted.
    made: Arc<Mutex<Vec<String>>>,
}

/// What a volume is made with, where it is not there yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// What its maker writes on it.
    pub labels: BTreeMap<String, String>,
    /// What it is instead of a folder of ours.
    pub options: Options,
}

/// A volume as `volume.json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Volume {
    version: u32,
    /// Its name.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// What its maker wrote on it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What it is instead of a folder of ours: see [`super::check_options`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: Options,
}

/// What is to be mounted.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A volume, which is there.
    Volume(&'a str),
    /// What lies at a path in a volume.
    Part(&'a str, &'a Path),
    /// A directory, with what is mounted in it, or a single file of the host.
    Path(&'a Path),
}

/// Opens a path within a volume.
pub(super) fn part_of(volume: &Path, inner: &Path) -> Result<OwnedFd, Error> {
    let whole = volume.join(inner);
    let failed = |e: rustix::io::Errno| {
        let error = Error::new("access path", &whole, io::Error::from(e));
        match e {
            rustix::io::Errno::NOENT => error.with_remedy("make it in the volume first"),
            rustix::io::Errno::XDEV => error.with_remedy("it leads out of the volume"),
            _ => error,
        }
    };
    let folder = rustix::fs::open(volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    rustix::fs::openat2(
        folder.map_err(failed)?,
        inner,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(failed)
}

/// A path that leads to what a descriptor is of.
pub(super) fn by_descriptor(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// A detached mount of a volume or a path.
#[derive(Debug)]
pub struct Bind {
    /// To be moved to its target.
    pub mount: OwnedFd,
    /// Whether the target must be a directory.
    pub directory: bool,
    /// False if the file system can't be idmapped: then the host's ids show as
    /// nobody's in a container with ids of its own. To be told.
    pub idmapped: bool,
}

impl Volumes {
    /// The volumes of this state directory; removes what a crash left unfinished.
    /// Opened once, by the engine.
    pub fn open(state_dir: &Path) -> Result<Volumes, Error> {
        let folder = state_dir.join("volumes");
        private(&folder)?;
        let (mounted, made) = (Mounted::default(), Arc::default());
        let volumes = Volumes { state: state_dir.to_owned(), folder, mounted, made };
        for name in volumes.names()? {
            let swept = match name.starts_with(UNFINISHED) {
                true => volumes.throw_away(&volumes.folder.join(name)).map(drop),
                false => volumes.sweep_copies(&volumes.folder.join(name)),
            };
            // Leftovers are no reason to have no volumes at all.
            if let Err(error) = swept {
                tracing::warn!("{error}");
            }
        }
        Ok(volumes)
    }

    /// Makes a volume with labels and options, or finds it; one that is there keeps its own.
    pub fn create_as(&self, name: &str, asked: Asked) -> Result<Volume, Error> {
        self.find_or_make(name, asked).map(|(volume, _)| volume)
    }

    /// The names of volumes that mounting them has made since this was asked last.
    pub fn newly_made(&self) -> Vec<String> {
        std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A volume, and whether it was made now.
    fn find_or_make(&self, name: &str, asked: Asked) -> Result<(Volume, bool), Error> {
        check(name)?;
        check_options(&asked.options)
            .map_err(|why| Error::refused("make the volume", Path::new(name), why))?;
        let place = self.folder.join(name);
        let found = || self.get(name).map(|volume| (volume, false));
        if place.join("_data").is_dir() {
            return found();
        }
        match self.unnamed(name, asked)?.publish() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => found(),
            made => made.map(|volume| (volume, true)),
        }
    }

    /// Makes the volume of a mount with these options, or finds it.
    ///
    /// # Errors
    /// It was made with other options than these, where there are any.
    pub fn for_mount(&self, name: &str, options: &Options) -> Result<Volume, Error> {
        let asked = Asked { options: options.clone(), ..Asked::default() };
        let (_, is_new) = self.find_or_make(name, asked)?;
        if is_new {
            self.made.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
        }
        let volume = self.known(name)?;
        if options.is_empty() || *options == volume.options {
            return Ok(volume);
        }
        let why = match volume.options.is_empty() {
            true => "it was made without the options of this mount",
            false => "it was made with other options than those of this mount",
        };
        Err(Error::refused("mount the volume", Path::new(name), why).with_remedy(
            "take them out to have it as it is, write what it was made with, or remove the volume \
             to have it made anew",
        ))
    }

    /// Copies a volume, which nobody may change meanwhile, for one that is to be `to`.
    /// The copy is on disk when this returns, and a volume once it is published.
    pub fn duplicate(&self, from: &str, to: &str) -> Result<Unnamed, Error> {
        self.end_seeding(from)?;
        if !self.is_folder(from)? {
            // A second one would be empty, or the very same files.
            let why = "it is made with options, and what it is instead of a folder is not copied";
            return Err(Error::refused("copy the volume", Path::new(from), why));
        }
        let copy = self.unnamed(to, Asked::default())?;
        super::duplicate::tree(&self.data(from)?, &copy.folder.join("_data"), &|_| false)?;
        super::duplicate::to_disk(&copy.folder)?;
        Ok(copy)
    }

    fn unnamed(&self, name: &str, asked: Asked) -> Result<Unnamed, Error> {
        check(name)?;
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let unnamed = Unnamed {
            folder: self.folder.join(format!("{UNFINISHED}{}-{serial}", std::process::id())),
            volumes: self.clone(),
            volume: Volume {
                version: if asked.options.is_empty() { 1 } else { VERSION },
                name: name.to_owned(),
                created: jiff::Timestamp::now().to_string(),
                labels: asked.labels,
                options: asked.options,
            },
        };
        write(&unnamed.folder, &unnamed.volume)
            .map_err(|e| Error::new("make the volume", &self.folder.join(name), e))?;
        Ok(unnamed)
    }

    /// One volume, to be looked at: if its metadata are torn or of a newer version, the
    /// folder's own time is told.
    pub fn get(&self, name: &str) -> Result<Volume, Error> {
        let plain = self.plain(name)?;
        Ok(self.stored(name).ok().flatten().unwrap_or(plain))
    }

    /// One volume, to be used: what it is must be known.
    fn known(&self, name: &str) -> Result<Volume, Error> {
        let plain = self.plain(name)?;
        Ok(self.stored(name)?.unwrap_or(plain))
    }

    /// What `volume.json` says; none if there is none.
    fn stored(&self, name: &str) -> Result<Option<Volume>, Error> {
        let path = self.folder.join(name).join("volume.json");
        let remedy = "it tells what the volume is; put it right, or remove it if the volume is a \
                      folder of Berth's (made without options)";
        let json = match fs::read(&path) {
            Ok(json) => json,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::new("read", &path, e).with_remedy(remedy)),
        };
        let why = match serde_json::from_slice::<Volume>(&json) {
            Ok(volume) if volume.version > VERSION => "it is of a newer Berth".to_owned(),
            Ok(volume) if volume.name != name => format!("it is of the volume {}", volume.name),
            Ok(volume) => return Ok(Some(volume)),
            // A newer one need not have the same keys.
            Err(error) => error.to_string(),
        };
        Err(Error::refused("read", &path, why).with_remedy(remedy))
    }

    /// A volume of which nothing but its folder is known.
    fn plain(&self, name: &str) -> Result<Volume, Error> {
        check(name)?;
        let place = self.folder.join(name);
        let there = fs::symlink_metadata(place.join("_data"))
            .map_err(|e| Error::new("find the volume", &place, e))?;
        let created =
            jiff::Timestamp::from_second(there.mtime()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        Ok(Volume {
            version: VERSION,
            name: name.to_owned(),
            created: created.to_string(),
            labels: BTreeMap::new(),
            options: Options::new(),
        })
    }

    /// All volumes, by name.
    pub fn list(&self) -> Result<Vec<Volume>, Error> {
        let mut names = self.names()?;
        names.sort();
        Ok(names.iter().filter_map(|name| self.get(name).ok()).collect())
    }

    /// Whether a volume is a folder of ours, which can be filled from an image.
    pub(super) fn is_folder(&self, name: &str) -> Result<bool, Error> {
        Ok(self.known(name)?.options.is_empty())
    }

    /// Takes a volume away with all that is in it; false if there is none. It must
    /// not be in use, which is the caller's to know.
    pub fn remove(&self, name: &str) -> Result<bool, Error> {
        check(name)?;
        let gone = throw_away(&self.state, &self.folder.join(name))?;
        if gone {
            sync(&self.folder).map_err(|e| Error::new("remove the volume", &self.folder, e))?;
        }
        Ok(gone)
    }

    /// Where the content of a volume lies.
    pub fn data(&self, name: &str) -> Result<PathBuf, Error> {
        check(name)?;
        Ok(self.folder.join(name).join("_data"))
    }

    /// A detached mount of a volume or of a path of the host, idmapped, without
    /// devices and set-user-ID files. A path is mounted with what is mounted in it,
    /// as Docker's `rbind`; a missing one is an error.
    pub fn mount(
        &self,
        source: Source<'_>,
        ids: Option<IdMap<'_>>,
        read_only: bool,
    ) -> Result<Bind, Error> {
        let (path, recursive) = match source {
            Source::Volume(name) | Source::Part(name, _) => {
                let volume = self.known(name)?;
                if let Some(backing) = Backing::of(&volume.options) {
                    let inner = match source {
                        Source::Part(_, inner) => inner,
                        _ => Path::new("."),
                    };
                    let mount = self.mounted.part(&volume, &backing, inner)?;
                    return self.dressed(mount, Path::new(name), ids, read_only);
                }
                self.end_seeding(name)?;
                (self.data(name)?, false)
            }
            Source::Path(path) => (path.to_owned(), true),
        };
        // A part of a volume is found by the kernel, within it: a symbolic link that a
        // container put there leads nowhere else, also if it changes meanwhile.
        let part = match source {
            Source::Part(_, inner) => Some(part_of(&path, inner)?),
            _ => None,
        };
        let named = match source {
            Source::Part(_, inner) => path.join(inner),
            _ => path.clone(),
        };
        let path = part.as_ref().map_or(path, by_descriptor);
        let there = fs::metadata(&path).map_err(|e| match source {
            Source::Path(_) if e.kind() == io::ErrorKind::NotFound => {
                Error::new("mount", &named, e)
                    .with_remedy("make it, or correct `source`; the name of a volume has no `/`")
            }
            _ => Error::new("mount", &named, e),
        })?;
        let failed = |e: io::Error| Error::new("mount", &named, e);
        let mount = clone_of(&path, recursive).map_err(failed)?;
        let idmapped = match ids {
            None => true,
            Some(ids) => map(&mount, ids, recursive).map_err(failed)?,
        };
        if let (false, Source::Volume(_), Some(ids)) = (idmapped, source, ids) {
            give_if_empty(&path, ids.range.first).map_err(failed)?;
        }
        let read_only = if read_only { RDONLY } else { 0 };
        mount::set_attributes(mount.as_fd(), NOSUID | NODEV | read_only, recursive)
            .map_err(failed)?;
        Ok(Bind { mount, directory: there.is_dir(), idmapped })
    }

    /// A mount of what a volume is instead of a folder, as a container gets it.
    fn dressed(
        &self,
        mount: OwnedFd,
        named: &Path,
        ids: Option<IdMap<'_>>,
        read_only: bool,
    ) -> Result<Bind, Error> {
        let failed = |e: io::Error| Error::new("mount the volume", named, e);
        let there = rustix::fs::fstat(&mount).map_err(|e| failed(e.into()))?;
        let idmapped = match ids {
            None => true,
            Some(ids) => map(&mount, ids, true).map_err(failed)?,
        };
        let read_only = if read_only { RDONLY } else { 0 };
        mount::set_attributes(mount.as_fd(), NOSUID | NODEV | read_only, true).map_err(failed)?;
        let directory = FileType::from_raw_mode(there.st_mode) == FileType::Directory;
        Ok(Bind { mount, directory, idmapped })
    }

    /// The file systems of volumes that are used and that nobody holds yet, by the volume's
    /// name: whoever holds the descriptors keeps them from going with us.
    pub fn to_hold(&self, is_used: impl Fn(&str) -> bool) -> Vec<(String, Arc<OwnedFd>)> {
        self.mounted.to_hold(is_used)
    }

    /// One that was held, and is that of a volume again.
    pub fn take_back(&self, volume: &Volume, held: OwnedFd) {
        self.mounted.take_back(volume, held);
    }

    /// Whether the file system of a volume is mounted.
    pub fn is_mounted(&self, volume: &str) -> bool {
        self.mounted.has(volume)
    }

    /// Forgets the file systems of volumes that nobody uses; gives them and their names. A
    /// container that has one keeps it until it ends.
    pub fn unused(&self, is_used: impl Fn(&str) -> bool) -> Vec<(String, Unused)> {
        self.mounted.keep_only(is_used)
    }

    /// Moves a path of a volume into the trash.
    pub(super) fn throw_away(&self, path: &Path) -> Result<bool, Error> {
        throw_away(&self.state, path)
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let failed = |e| Error::new("read", &self.folder, e);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string().ok());
        }
        Ok(names)
    }
}

/// A volume that is whole, but not there yet: dropped before it is published, it goes.
#[derive(Debug)]
pub struct Unnamed {
    volumes: Volumes,
    folder: PathBuf,
    volume: Volume,
}

impl Unnamed {
    /// Gives it its name; `AlreadyExists` if another has it.
    pub fn publish(self) -> Result<Volume, Error> {
        let place = self.volumes.folder.join(&self.volume.name);
        let failed = |e: io::Error| Error::new("make the volume", &place, e);
        renameat_with(CWD, &self.folder, CWD, &place, RenameFlags::NOREPLACE)
            .map_err(|e| failed(e.into()))?;
        sync(&self.volumes.folder).map_err(failed)?;
        Ok(self.volume.clone())
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        // Once it is published there is nothing at this path any more.
        if let Err(error) = self.volumes.throw_away(&self.folder) {
            tracing::warn!("{error}; it is swept at the next start");
        }
    }
}

/// Idmaps the mount with all below it, or alone if one of them can't be.
fn map(mount: &OwnedFd, ids: IdMap<'_>, recursive: bool) -> io::Result<bool> {
    let tries: &[bool] = if recursive { &[true, false] } else { &[false] };
    for recursive in tries {
        match mount::idmap(mount.as_fd(), ids.userns, *recursive) {
            Ok(()) => return Ok(true),
            Err(e) if cant_idmap(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

/// A fresh volume on a file system that can't be idmapped belongs to the
/// container's root by its number.
fn give_if_empty(data: &Path, owner: u32) -> io::Result<()> {
    if fs::read_dir(data)?.next().is_none() {
        lchown(data, Some(owner), Some(owner))?;
    }
    Ok(())
}

fn write(folder: &Path, volume: &Volume) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(folder)?;
    let data = folder.join("_data");
    DirBuilder::new().mode(0o755).create(&data)?;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(folder.join("volume.json"))?;
    let mut text = serde_json::to_vec(volume)?;
    text.push(b'\n');
    file.write_all(&text)?;
    file.sync_all()?;
    sync(folder)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Whether a volume can have this name: `[a-zA-Z0-9][a-zA-Z0-9._-]*`, as with Docker,
/// and no more than the 255 bytes of a file name.
pub fn is_volume_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    first && name.bytes().all(plain) && name.len() <= 255
}

fn check(name: &str) -> Result<(), Error> {
    if is_volume_name(name) {
        return Ok(());
    }
    let why = "a volume's name has letters, digits, `.`, `_` and `-`, and begins with a \
               letter or digit";
    Err(Error::refused("use the volume", Path::new(name), why))
}
