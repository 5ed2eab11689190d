//! What a launch mounts: its root, volumes, and what else its manifest names.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::Preparation;
use crate::engine::paths::Paths;
use crate::manifest::model::{Container, Isolation, Mount, MountKind};
use crate::rootfs::{self, Bind, IdMap, Lower, Root, Source, Volumes, Writable};
use crate::spec::compile::Parts;

impl Preparation<'_> {
    /// The root: once more the one that is kept, or a new one.
    pub(super) fn root(
        &mut self,
        kept: Option<Root>,
        lower: &Lower,
        writable: &Writable,
        ids: Option<IdMap<'_>>,
        parts: &mut Parts,
    ) -> Result<Option<Root>, String> {
        let again = match &kept {
            Some(root) => root.again().map_err(|error| error.to_string())?,
            None => None,
        };
        let (mounts, root) = match again {
            Some(mounts) => (mounts, kept),
            None => {
                drop(kept);
                let root =
                    rootfs::prepare(lower, writable, ids).map_err(|error| error.to_string())?;
                for path in &root.unmapped {
                    self.warnings.push(format!(
                        "{} can't be idmapped: its files belong to nobody in the container; \
                         another file system can (ext4, xfs, btrfs, from Linux 6.3 on tmpfs), or \
                         say userns = \"host\"",
                        path.display()
                    ));
                }
                match root.again().map_err(|error| error.to_string())? {
                    Some(mounts) => (mounts, Some(root)),
                    None => (root.mounts, None),
                }
            }
        };
        parts.root = Some(self.add(mounts.root));
        for submount in mounts.submounts {
            let file = !is_directory(submount.mount.as_fd());
            let index = self.add(submount.mount);
            parts.submounts.push((submount.target, file, index));
        }
        Ok(root)
    }

    /// Volumes and bind mounts as detached mounts; gives the host's path of each
    /// source.
    pub(super) fn mounts(
        &mut self,
        manifest: &Container,
        images: &BTreeMap<String, Vec<PathBuf>>,
        ids: Option<IdMap<'_>>,
        parts: &mut Parts,
    ) -> Result<BTreeMap<String, PathBuf>, String> {
        let mut sources = BTreeMap::new();
        if manifest.isolation == Isolation::None {
            return Ok(sources);
        }
        let volumes = &self.workshop.volumes;
        for mount in &manifest.mounts {
            let Some(text) = &mount.source else { continue };
            let source = match mount.kind() {
                MountKind::Image => {
                    let layers = images.get(text).map(Vec::as_slice).unwrap_or_default();
                    let view = rootfs::image_view(layers, mount.subpath.as_deref(), ids)
                        .map_err(|error| format!("the image {text}: {error}"))?;
                    sources.insert(text.clone(), layers.first().cloned().unwrap_or_default());
                    self.bind(mount, view, parts);
                    continue;
                }
                MountKind::Volume => {
                    volumes.for_mount(text, &mount.options).map_err(|error| error.to_string())?;
                    let data = volumes.data(text).map_err(|error| error.to_string())?;
                    sources.insert(text.clone(), data);
                    match &mount.subpath {
                        Some(path) => Source::Part(text, path),
                        None => Source::Volume(text),
                    }
                }
                MountKind::Bind => Source::Path(Path::new(text)),
                MountKind::Tmpfs => continue,
            };
            let bind =
                volumes.mount(source, ids, mount.read_only).map_err(|error| error.to_string())?;
            self.bind(mount, bind, parts);
        }
        Ok(sources)
    }

    fn bind(&mut self, mount: &Mount, bind: Bind, parts: &mut Parts) {
        if !bind.idmapped {
            self.warnings.push(format!(
                "the file system of {} can't be idmapped: at {} its files belong to nobody in \
                 the container; another file system can, or say userns = \"host\"",
                mount.source.as_deref().unwrap_or_default(),
                mount.target.display()
            ));
        }
        let index = self.add(bind.mount);
        parts.binds.insert(mount.target.clone(), (index, !bind.directory));
    }
}

/// Fills the volumes of a container that was never launched, as far as they are empty,
/// with what its image has at their places.
pub(in crate::engine) fn seed(
    volumes: &Volumes,
    manifest: &Container,
    layers: &[PathBuf],
) -> Result<(), String> {
    // A part of a volume is there already, or is missed.
    let whole = |mount: &&Mount| {
        mount.kind() == MountKind::Volume && mount.subpath.is_none() && !mount.no_copy
    };
    for mount in manifest.mounts.iter().filter(whole) {
        if let Some(name) = &mount.source {
            volumes
                .for_mount(name, &mount.options)
                .and_then(|_| volumes.seed(name, layers, &mount.target))
                .map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Whether a mount is a directory.
pub(in crate::engine) fn is_directory(fd: std::os::fd::BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory
    })
}

/// What the root of a container without an image lies over: a directory, or the host.
///
/// # Errors
/// The manifest names none.
pub fn lower_of(manifest: &Container, paths: &Paths) -> Result<Lower, String> {
    let rootfs = manifest.rootfs.as_deref().ok_or("it has no root filesystem")?;
    let own = [paths.state_dir(), paths.run_dir(), paths.logs_dir()]
        .into_iter()
        .chain(paths.manifest_dirs())
        .collect();
    Ok(Lower::of_rootfs(rootfs, manifest.expose.clone(), own))
}
