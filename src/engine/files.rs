//! The files of a container, looked at from outside: what it changed, all of them as an
//! archive, and the way in for copies.
//!
//! A running container's files are reached by `/proc/PID/root`, with all that is mounted
//! there; those of one that does not run by a mount of its root made for the purpose, and
//! its volumes beside it. Everything here blocks.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::images::Images;
use super::namespaces::range_of;
use super::paths::Paths;
use super::prepare::is_directory;
use super::reconcile::Image;
use super::standstill::Standstill;
use crate::cgroup::Cgroup;
use crate::image::layer::{self, Change, Packed};
use crate::manifest::model::{Container, Isolation, MountKind};
use crate::rootfs::{self, Duplicate, IdRange, Inside, Lower, Source, Volumes, Writable};

/// Where every container has mounts, whatever its image has there.
const MADE: [&str; 6] =
    ["/dev", "/proc", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

/// What the engine's loop knows of a container's files.
#[derive(Debug)]
pub struct Place {
    /// The container's Docker id.
    pub id: String,
    /// Its supervisor on the host; 0 when it does not run.
    pub pid: i32,
    /// What it was made from.
    pub manifest: Arc<Container>,
    /// Its image, if it has one.
    pub image: Option<Image>,
    /// The ids of the images that it has mounted, by what the manifest calls them.
    pub mounted: BTreeMap<String, String>,
    /// Named volumes.
    pub volumes: Arc<Volumes>,
    /// Its cgroup, if it runs.
    pub cgroup: Option<Arc<Cgroup>>,
}

/// The files of a container.
#[derive(Debug)]
pub struct Files {
    place: Place,
    /// What it was made from, with the volumes that its image wants.
    manifest: Arc<Container>,
    writable: Writable,
    lower: Lower,
    /// The image that is below, which fills its volumes.
    image: Option<Image>,
    /// The layers of the images that are mounted in it, by what the manifest calls them; only
    /// those that are there.
    mounted: BTreeMap<String, Vec<PathBuf>>,
}

/// A directory to resolve a path in, and the path in it.
#[derive(Debug)]
pub struct Entrance {
    /// The directory that is `/` for the path.
    pub root: OwnedFd,
    /// The path below it.
    pub path: PathBuf,
    /// The container's ids, where the files show those of the host.
    pub ids: Option<IdRange>,
}

impl Files {
    /// Finds out where the container's files are.
    ///
    /// # Errors
    /// Its image is gone, or it has no files of its own.
    pub async fn of(place: Place, paths: &Paths, images: &Images) -> Result<Files, String> {
        if place.manifest.isolation == Isolation::None {
            return Err("a container with isolation = \"none\" has the host's files".to_owned());
        }
        let writable =
            Writable::at(&paths.state_dir(), &place.id).map_err(|error| error.to_string())?;
        let root = match (&place.image, &place.manifest.image) {
            (Some(image), _) => Some(images.stored(&image.id).await?),
            // Not launched yet: the image that it would be launched from now.
            (None, Some(name)) => Some(images.stored(name).await?),
            (None, None) => match super::images::archive(&place.manifest) {
                Some(path) => images.root_of_archive(path).await?,
                None => None,
            },
        };
        let mut manifest = Arc::clone(&place.manifest);
        let mut image = None;
        let lower = match root {
            Some(root) => {
                super::volumes::add(&place.id, &mut manifest, &root.image.volumes);
                image = Some(root.image);
                Lower::Layers(root.layers)
            }
            None => {
                let (manifest, paths) = (Arc::clone(&manifest), paths.clone());
                let found = move || super::prepare::lower_of(&manifest, &paths);
                let found = tokio::task::spawn_blocking(found).await;
                found.unwrap_or_else(|error| Err(error.to_string()))?
            }
        };
        let mut mounted = BTreeMap::new();
        let image_mounts = manifest.mounts.iter().filter(|mount| mount.kind() == MountKind::Image);
        for named in image_mounts.filter_map(|mount| mount.source.as_ref()) {
            // Not mounted yet: the one that it would be launched with now.
            let stored = images.stored(place.mounted.get(named).unwrap_or(named)).await;
            mounted.extend(stored.ok().map(|root| (named.clone(), root.layers)));
        }
        Ok(Files { place, manifest, writable, lower, image, mounted })
    }

    /// What is below its own changes, the topmost first.
    fn lowers(&self) -> Vec<&Path> {
        match &self.lower {
            Lower::Layers(layers) => layers.iter().map(PathBuf::as_path).collect(),
            // What the view hides has nothing above it either.
            Lower::Host { .. } => vec![Path::new("/")],
        }
    }

    /// Stops all of its processes where they are, until the returned is dropped; nothing
    /// to do if it does not run.
    ///
    /// # Errors
    /// In one sentence.
    pub fn stand_still(&self) -> Result<Option<Standstill>, String> {
        match &self.place.cgroup {
            Some(cgroup) if self.place.pid > 0 => Standstill::of(Arc::clone(cgroup)).map(Some),
            _ => Ok(None),
        }
    }

    /// The image that it would be launched from now, if it has not chosen one yet.
    pub fn to_choose(&self) -> Option<&Image> {
        self.image.as_ref().filter(|_| self.place.image.is_none())
    }

    /// What it was made from, and its image.
    pub fn made_of(&self) -> (&Container, Option<&Image>) {
        (&self.place.manifest, self.place.image.as_ref())
    }

    /// Copies its changes, if it has any, to those of a container that is not there yet.
    ///
    /// # Errors
    /// In one sentence.
    pub fn duplicate(&self, to: &Writable) -> Result<Option<Duplicate>, String> {
        match self.is_fresh() {
            true => Ok(None),
            false => self.writable.duplicate(to).map(Some).map_err(|error| error.to_string()),
        }
    }

    /// What a launch makes in its root to mount upon.
    fn points(&self) -> layer::Points {
        let fixed = MADE.iter().map(PathBuf::from);
        let mounts = self.manifest.mounts.iter().map(|mount| mount.target.clone());
        fixed.chain(mounts).collect()
    }

    /// Whether it was ever launched: before that it has changed nothing.
    fn is_fresh(&self) -> bool {
        !self.writable.upper().exists()
    }

    /// What it changed.
    ///
    /// # Errors
    /// In one sentence.
    pub fn changes(&self) -> Result<Vec<Change>, String> {
        if self.is_fresh() {
            return Ok(Vec::new());
        }
        layer::changes(&self.writable.upper(), &self.lowers(), &self.points())
            .map_err(|error| error.to_string())
    }

    /// Its changes as one layer, uncompressed.
    ///
    /// # Errors
    /// In one sentence.
    pub fn pack(&self, out: &mut dyn Write) -> Result<Packed, String> {
        let upper = self.writable.upper();
        let empty = match self.is_fresh() {
            true => Some(tempfile::tempdir().map_err(|error| format!("a folder: {error}"))?),
            false => None,
        };
        let upper = empty.as_ref().map_or(upper.as_path(), tempfile::TempDir::path);
        layer::pack(upper, Some(&self.lowers()), &self.points(), out)
            .map_err(|error| error.to_string())
    }

    /// All its files but those of its volumes, as an archive.
    ///
    /// # Errors
    /// In one sentence.
    pub fn export(&self, out: &mut dyn Write) -> Result<(), String> {
        let mut layers: Vec<PathBuf> = Vec::new();
        if !self.is_fresh() {
            layers.push(self.writable.upper());
        }
        match &self.lower {
            Lower::Layers(lower) => layers.extend(lower.iter().cloned()),
            Lower::Host { .. } => return self.export_view(out),
        }
        let root = rootfs::read_only_view(&layers).map_err(|error| error.to_string())?;
        layer::pack_tree(root.as_fd(), None, out).map(drop).map_err(|error| error.to_string())
    }

    /// A view of the host is an overlay over each of its file systems: it is mounted as
    /// for a launch.
    fn export_view(&self, out: &mut dyn Write) -> Result<(), String> {
        let root = rootfs::prepare(&self.lower, &self.writable, None)
            .map_err(|error| error.to_string())?;
        let root = root.mounts.root.as_fd();
        layer::pack_tree(root, None, out).map(drop).map_err(|error| error.to_string())
    }

    /// The user that the container runs as, by the users that it knows; `None` where neither
    /// its manifest nor its image names one.
    ///
    /// # Errors
    /// It does not know that user.
    pub fn user(&self, root: BorrowedFd<'_>) -> Result<Option<(u32, u32)>, String> {
        let of_image = self.place.image.as_ref().and_then(|image| image.process.as_ref());
        let of_image = of_image.map(|process| process.user.as_str());
        let named = self.place.manifest.user.as_deref().or(of_image).unwrap_or_default();
        if named.is_empty() {
            return Ok(None);
        }
        let user = super::prepare::resolve_user(named, &[], |path| {
            rootfs::read_in_root(root, Path::new(path), super::prepare::USERS_MAX)
                .unwrap_or_default()
        })?;
        Ok(Some((user.uid, user.gid)))
    }

    /// The way to a path of the container. One that was never launched must have chosen
    /// its image before ([`Files::to_choose`]): what is put into it is put upon that.
    ///
    /// # Errors
    /// In one sentence.
    pub fn entrance(&self, path: &Path) -> Result<Entrance, String> {
        let path = Path::new("/").join(path);
        if self.place.pid > 0 {
            let root = format!("/proc/{}/root", self.place.pid);
            let root = rustix::fs::open(
                &root,
                rustix::fs::OFlags::PATH
                    | rustix::fs::OFlags::DIRECTORY
                    | rustix::fs::OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            )
            .map_err(|errno| format!("opening {root}: {errno}"))?;
            let ids = range_of(self.place.pid)
                .map(|first| IdRange { first, count: super::namespaces::COUNT });
            return Ok(Entrance { root, path, ids });
        }
        if self.image.is_some() && self.is_fresh() {
            // As its first launch does, which then is not the first any more.
            super::prepare::seed(&self.place.volumes, &self.manifest, self.layers())?;
        }
        let root = rootfs::prepare(&self.lower, &self.writable, None)
            .map_err(|error| error.to_string())?;
        // As a launch does it: all parts of the root, then what the manifest mounts.
        let parts = root.mounts.submounts.into_iter().map(|submount| Inside {
            directory: is_directory(submount.mount.as_fd()),
            target: submount.target,
            mount: submount.mount,
        });
        let mut mounts = self.mounts(&path)?;
        mounts.sort_by_key(|mount| mount.target.components().count());
        let inside = parts.chain(mounts).collect();
        let root = rootfs::assemble(root.mounts.root, inside).map_err(|error| error.to_string())?;
        Ok(Entrance { root, path, ids: None })
    }

    /// The volumes, images and bind mounts of a container that does not run. Its files can be
    /// had also where the source of a mount is gone, but for those in that mount.
    fn mounts(&self, asked: &Path) -> Result<Vec<Inside>, String> {
        let mut inside = Vec::new();
        for mount in &self.manifest.mounts {
            let Some(named) = &mount.source else { continue };
            let volumes = &self.place.volumes;
            let bind = match mount.kind() {
                MountKind::Volume => volumes.for_mount(named, &mount.options).and_then(|_| {
                    let source = match &mount.subpath {
                        Some(path) => Source::Part(named, path),
                        None => Source::Volume(named),
                    };
                    volumes.mount(source, None, mount.read_only)
                }),
                MountKind::Bind => {
                    volumes.mount(Source::Path(Path::new(named)), None, mount.read_only)
                }
                MountKind::Image => match self.mounted.get(named) {
                    Some(layers) => rootfs::image_view(layers, mount.subpath.as_deref(), None),
                    None if asked.starts_with(&mount.target) => {
                        return Err(format!(
                            "the image {named}, which it has at {}, is not there: pull it",
                            mount.target.display()
                        ));
                    }
                    None => continue,
                },
                MountKind::Tmpfs => continue,
            };
            match bind {
                Ok(bind) => inside.push(Inside {
                    target: mount.target.clone(),
                    directory: bind.directory,
                    mount: bind.mount,
                }),
                Err(error)
                    if error.kind() == std::io::ErrorKind::NotFound
                        && !asked.starts_with(&mount.target) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(inside)
    }

    fn layers(&self) -> &[PathBuf] {
        match &self.lower {
            Lower::Layers(layers) => layers,
            Lower::Host { .. } => &[],
        }
    }
}
