//! Out of a root.

use std::io::Write;
use std::os::fd::BorrowedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::locate;
use crate::archive::{Error, Node, Packer, Step, Time, walk};
use crate::sys::userns::IdRange;

/// What Docker's header `X-Docker-Container-Path-Stat` tells of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// The last name of the path that was asked for; `/` for the root.
    pub name: Vec<u8>,
    /// Bytes.
    pub size: u64,
    /// The kind and the permission bits, as stat(2) gives them.
    pub mode: u32,
    /// When it was last changed.
    pub mtime: Time,
    /// For a symbolic link: where it leads in the end, as an absolute path of the
    /// container; what does not exist is taken as it is written.
    pub link_target: Option<PathBuf>,
}

impl Stat {
    /// The mode as Go's `os.FileMode` has it, which is what Docker's clients expect.
    pub fn go_mode(&self) -> u32 {
        const DIR: u32 = 1 << 31;
        const SYMLINK: u32 = 1 << 27;
        const DEVICE: u32 = 1 << 26;
        const FIFO: u32 = 1 << 25;
        const SOCKET: u32 = 1 << 24;
        const SETUID: u32 = 1 << 23;
        const SETGID: u32 = 1 << 22;
        const CHARACTER: u32 = 1 << 21;
        const STICKY: u32 = 1 << 20;
        let kind = match FileType::from_raw_mode(self.mode) {
            FileType::Directory => DIR,
            FileType::Symlink => SYMLINK,
            FileType::BlockDevice => DEVICE,
            FileType::CharacterDevice => DEVICE | CHARACTER,
            FileType::Fifo => FIFO,
            FileType::Socket => SOCKET,
            _ => 0,
        };
        let bit = |from: u32, to: u32| if self.mode & from != 0 { to } else { 0 };
        kind | bit(0o4000, SETUID) | bit(0o2000, SETGID) | bit(0o1000, STICKY) | self.mode & 0o777
    }
}

/// A file in a root that is held fast, whatever its names do meanwhile.
pub struct Found {
    node: Node,
    stat: Stat,
    /// What the archive calls it.
    base: Vec<u8>,
}

/// Finds a path as the container would. A link at its end is not followed unless the
/// path ends with `/` or `/.`, as with Docker.
///
/// Errors: [`std::io::ErrorKind::NotFound`], `NotADirectory`.
pub fn find(root: BorrowedFd<'_>, path: &Path) -> Result<Found, Error> {
    let failed = |e: Errno| Error::system("find in the container", path, e);
    let text = path.as_os_str().as_encoded_bytes();
    let follow = text.ends_with(b"/") || text.ends_with(b"/.") || text == b".";
    let flags = if follow { OFlags::DIRECTORY } else { OFlags::NOFOLLOW };
    let place = locate(root, if text.is_empty() { b"/" } else { text }, flags).map_err(failed)?;
    let node = Node::of(place).map_err(failed)?;
    let name = match path.components().next_back() {
        Some(Component::Normal(name)) => name.as_encoded_bytes().to_vec(),
        _ => b"/".to_vec(),
    };
    // `/dir/.` and `/` are the contents of a directory.
    let contents = text.ends_with(b"/.") || text == b"." || name == b"/";
    let base = if contents { b".".to_vec() } else { name.clone() };
    let link_target = match node.file_type() {
        FileType::Symlink => {
            let target = node.link_target().map_err(failed)?;
            Some(destination(root, path, &target))
        }
        _ => None,
    };
    let stat = Stat {
        name,
        size: u64::try_from(node.stat().st_size).unwrap_or(0),
        mode: node.stat().st_mode,
        mtime: node.mtime(),
        link_target,
    };
    Ok(Found { node, stat, base })
}

impl Found {
    /// What the file is.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Writes it, with all that is in it, as an uncompressed archive whose names
    /// begin with the last name of the path that was asked for, or with `.` where
    /// the contents of a directory were asked for. With `ids`, owners are those
    /// inside that user namespace.
    pub fn write_to(&self, out: &mut dyn Write, ids: Option<IdRange>) -> Result<(), Error> {
        // As Docker's daemon writes it for its clients.
        self.write(&self.base, Packer::new(out, ids).in_seconds())
    }

    /// The same with another first name, and all of it owned by `owner`.
    pub fn write_as(
        &self,
        base: Option<&[u8]>,
        owner: Option<(u32, u32)>,
        out: &mut dyn Write,
    ) -> Result<(), Error> {
        self.write(base.unwrap_or(&self.base), Packer::new(out, None).owned_by(owner))
    }

    fn write(&self, base: &[u8], mut packer: Packer<'_>) -> Result<(), Error> {
        packer.add(base, &self.node)?;
        if self.node.is_directory() {
            let device = self.node.stat().st_dev;
            let dev = [base, b"/dev"].concat();
            walk(&self.node, base, &mut |path, node| {
                packer.add(path, node)?;
                let is_mount = node.is_directory() && node.stat().st_dev != device;
                match is_mount && is_of_the_kernel(node, path == dev) {
                    true => Ok(Step::Over),
                    false => Ok(Step::In),
                }
            })?;
        }
        packer.finish().map(drop)
    }
}

/// Whether what is mounted at a directory shows the kernel's own state and not files: it is
/// told empty, as with Docker, where it is not mounted for who copies. `/dev` is a tmpfs
/// with devices alone.
fn is_of_the_kernel(node: &Node, is_dev: bool) -> bool {
    const TMPFS: u64 = 0x0102_1994;
    // statfs(2): proc, sysfs, cgroup, cgroup2, devpts, mqueue, bpf, debugfs, tracefs,
    // securityfs.
    const KERNEL: [u64; 10] = [
        0x9fa0,
        0x6265_6572,
        0x0027_e0eb,
        0x6367_7270,
        0x1cd1,
        0x1980_0202,
        0xcafe_4a11,
        0x6462_6720,
        0x7472_6163,
        0x7363_6673,
    ];
    let kind = rustix::fs::fstatfs(node.place()).map_or(0, |fs| fs.f_type as u64);
    KERNEL.contains(&kind) || is_dev && kind == TMPFS
}

/// Where a link leads, following links as far as there are files. Only for show: it
/// may have changed when it is read.
fn destination(root: BorrowedFd<'_>, link: &Path, target: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    // As many as the kernel follows, path_resolution(7).
    const LINKS: usize = 40;
    let mut path = link.to_owned();
    let mut target = target.to_vec();
    for _ in 0..LINKS {
        let joined =
            path.parent().unwrap_or(Path::new("/")).join(std::ffi::OsStr::from_bytes(&target));
        path = absolute(&joined);
        let next = locate(root, path.as_os_str().as_encoded_bytes(), OFlags::NOFOLLOW)
            .and_then(Node::of)
            .ok()
            .filter(|node| node.file_type() == FileType::Symlink)
            .and_then(|node| node.link_target().ok());
        match next {
            Some(next) => target = next,
            None => break,
        }
    }
    path
}

/// A path without `.` and `..`, which at the root leads to the root.
fn absolute(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}
