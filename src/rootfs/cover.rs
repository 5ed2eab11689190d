//! A covering layer: a small tmpfs, never attached anywhere, with whiteouts and
//! opaque directories (Documentation/filesystems/overlayfs.rst).
//!
//! It can't be a directory on the host's disk: that would lie in another lower
//! layer, the host's `/`, which overlayfs refuses (ELOOP). Its files belong to the
//! container's ids as they are, without an id mapping, so any kernel can do it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags, chmodat, chownat, fsetxattr, mkdirat,
    mknodat, openat, symlinkat,
};
use rustix::io::Result;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::view::{Cover, Owned};
use crate::sys::userns::IdRange;

/// Builds the layer. A path's parents must be among the covers.
pub(super) fn build(
    covers: &BTreeMap<PathBuf, Cover>,
    root: Owned,
    ids: Option<IdRange>,
) -> Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "berth")?;
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    give(&mount, Path::new("."), root, ids)?;
    // In order of paths: a directory comes before what is in it.
    for (path, cover) in covers {
        let path = path.as_path();
        match cover {
            Cover::Absent => mknodat(&mount, path, FileType::CharacterDevice, Mode::empty(), 0)?,
            Cover::Target => mknodat(&mount, path, FileType::RegularFile, Mode::from(0o444), 0)?,
            Cover::Link(to) => symlinkat(to, &mount, path)?,
            Cover::Parent(owned) | Cover::Empty(owned) => {
                mkdirat(&mount, path, Mode::from(0o700))?;
                if matches!(cover, Cover::Empty(_)) {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    let directory = openat(&mount, path, flags, Mode::empty())?;
                    let name = "trusted.overlay.opaque";
                    fsetxattr(&directory, name, b"y", XattrFlags::empty())?;
                }
                give(&mount, path, *owned, ids)?;
                continue;
            }
        }
        let owner = Owned { mode: 0, uid: 0, gid: 0 };
        own(&mount, path, owner, ids)?;
    }
    Ok(mount)
}

fn give(mount: impl AsFd, path: &Path, owned: Owned, ids: Option<IdRange>) -> Result<()> {
    own(&mount, path, owned, ids)?;
    // After the owner: a change of owner takes set-user-ID bits away.
    chmodat(&mount, path, Mode::from(owned.mode), AtFlags::empty())
}

fn own(mount: impl AsFd, path: &Path, owned: Owned, ids: Option<IdRange>) -> Result<()> {
    let uid = Uid::from_raw(shifted(owned.uid, ids));
    let gid = Gid::from_raw(shifted(owned.gid, ids));
    chownat(mount, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// The host's id for one of the container's; what it does not have is its last
/// one, which is nobody's.
fn shifted(id: u32, ids: Option<IdRange>) -> u32 {
    match ids {
        None => id,
        Some(range) => range.first.saturating_add(id.min(range.count.saturating_sub(1))),
    }
}
