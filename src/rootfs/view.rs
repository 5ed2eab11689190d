//! What of the host a container with `rootfs = "/"` sees: decisions only.
//!
//! The view is of programs: `/usr` and the links to it, `/etc`, `/opt`. All else at
//! the top is hidden, known or not, since nobody knows what lies in `/data`. In the
//! parts that are seen, what "others" may not read is hidden as well: the
//! container's root would read it, because the view's files belong to it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::mountinfo::HostMount;

/// Top-level names that are seen. Symbolic links are seen too: they lead to what
/// is seen, or to nothing.
const SEEN: [&str; 11] =
    ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "libexec", "usr", "etc", "opt", "nix"];

/// Directories that programs need, each after its parent, with the mode they have;
/// whatever the host has in them is hidden.
pub(super) const EMPTY: [(&str, u32); 20] = [
    ("/boot", 0o755),
    ("/dev", 0o755),
    ("/home", 0o755),
    ("/media", 0o755),
    ("/mnt", 0o755),
    ("/proc", 0o555),
    ("/root", 0o700),
    ("/run", 0o755),
    ("/srv", 0o755),
    ("/sys", 0o555),
    ("/tmp", 0o1777),
    ("/var", 0o755),
    ("/var/cache", 0o755),
    ("/var/lib", 0o755),
    ("/var/local", 0o755),
    ("/var/log", 0o755),
    ("/var/opt", 0o755),
    ("/var/spool", 0o755),
    ("/var/tmp", 0o1777),
    ("/var/mail", 0o755),
];

/// Links that a hidden `/var` has, as the FHS wants them.
const LINKS: [(&str, &str); 2] = [("/var/run", "/run"), ("/var/lock", "/run/lock")];

/// Hidden though they may be readable by others.
const SECRETS: [&str; 7] = [
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/security/opasswd",
    "/etc/ssl/private",
    "/etc/containers.d",
];

/// What a path of the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    Symlink,
    /// A regular file, a socket, a device.
    File,
}

/// One path of the host as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub path: PathBuf,
    pub kind: Kind,
    /// Permission bits with set-user-ID, set-group-ID and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// A private key in PEM armour was found in it.
    pub private_key: bool,
}

/// What lies over a path in a covering layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cover {
    /// A whiteout: the name is not there.
    Absent,
    /// An opaque directory: nothing of the host's is in it.
    Empty(Owned),
    /// A directory with the attributes of the one below, to hold other covers.
    Parent(Owned),
    /// An empty file to mount on.
    Target,
    Link(PathBuf),
}

/// Mode and owner of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owned {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// The rules with what the caller adds to them. All paths are absolute and
/// without links.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    /// Berth's folders: never seen, whatever is exposed.
    pub own: Vec<PathBuf>,
    pub expose: Vec<PathBuf>,
}

impl Rules {
    pub fn exposes(&self, path: &Path) -> bool {
        self.expose.iter().any(|exposed| path.starts_with(exposed))
    }

    pub fn is_own(&self, path: &Path) -> bool {
        self.own.iter().any(|own| path.starts_with(own))
    }

    /// Whether an entry is hidden on its own account; what lies in a hidden
    /// directory is not asked about.
    pub fn hides(&self, entry: &Entry) -> bool {
        if self.is_own(&entry.path) {
            return true;
        }
        if self.exposes(&entry.path) {
            return false;
        }
        if is_standard(&entry.path) {
            return entry.kind != Kind::Symlink;
        }
        if SECRETS.iter().any(|path| entry.path.as_os_str() == *path) {
            return true;
        }
        if depth(&entry.path) == 1 {
            let name = entry.path.file_name().unwrap_or_default();
            return entry.kind != Kind::Symlink && !SEEN.iter().any(|seen| name == *seen);
        }
        match entry.kind {
            Kind::Symlink => false,
            Kind::Directory => entry.mode & 0o005 != 0o005,
            Kind::File => entry.mode & 0o004 == 0 || entry.private_key,
        }
    }

    /// Whether what is in a directory is looked at: all of `/etc`, where a file of
    /// its own mode is the rule; little of `/opt` and `/usr`, which are large and hold
    /// programs.
    pub fn looks_into(&self, directory: &Path) -> bool {
        let deep = |top: &str| directory.starts_with(top);
        let levels = depth(directory);
        (deep("/etc") || deep("/usr/local/etc")) && levels < 64
            || deep("/opt") && levels < 4
            || ["/usr", "/usr/local"].iter().any(|top| directory == Path::new(top))
    }

    /// Whether the content of a file is looked at for private keys.
    pub fn may_hold_key(&self, file: &Path) -> bool {
        let key_folder = ["/etc/ssl", "/etc/ssh", "/etc/pki"].iter().any(|f| file.starts_with(f));
        let key_name = file.extension().is_some_and(|e| e == "key" || e == "pem");
        key_folder || (key_name && file.starts_with("/etc"))
    }

    /// Whether a mount of the host, other than `/`, is part of the view.
    pub fn sees_mount(&self, mount: &HostMount) -> bool {
        let point = mount.point.as_path();
        // No part of the host's own files, and not even looked at, but by name.
        let foreign = mount.is_kernels() || mount.is_remote();
        let top = point.components().nth(1);
        let seen = matches!(top, Some(Component::Normal(name)) if SEEN.iter().any(|s| name == *s));
        let named = self.expose.iter().any(|exposed| exposed == point);
        !self.is_own(point)
            && point != Path::new("/")
            && (named || !foreign && (seen || self.exposes(point)))
    }
}

/// A part of the view that is mounted by itself, and what covers it: paths are
/// relative to `at`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub at: PathBuf,
    pub kind: Kind,
    pub covers: BTreeMap<PathBuf, Cover>,
}

/// What was found on the host, for [`plan`].
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    /// Entries that [`Rules::hides`], none below another but Berth's own folders
    /// in what is exposed; also the standard directories that the host lacks.
    pub hidden: Vec<Entry>,
    /// The roots of mounts that [`Rules::sees_mount`], none below a hidden entry
    /// unless it is exposed.
    pub mounts: Vec<Entry>,
    /// The exposed paths.
    pub exposed: Vec<Entry>,
    /// Every directory above an exposed or hidden path.
    pub parents: BTreeMap<PathBuf, Owned>,
}

/// The view's parts, the root first, each after the one that it is mounted in.
pub(super) fn plan(found: &Found) -> Vec<Part> {
    let hidden: BTreeSet<&Path> = found.hidden.iter().map(|e| e.path.as_path()).collect();
    let under_hidden = |path: &Path| path.ancestors().skip(1).any(|a| hidden.contains(a));
    let mut parts: BTreeMap<PathBuf, Part> = BTreeMap::new();
    let root = Entry {
        path: "/".into(),
        kind: Kind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        private_key: false,
    };
    let lifted = found.exposed.iter().filter(|entry| under_hidden(&entry.path));
    for entry in [&root].into_iter().chain(&found.mounts).chain(lifted) {
        let part = Part { at: entry.path.clone(), kind: entry.kind, covers: BTreeMap::new() };
        parts.insert(entry.path.clone(), part);
    }

    let mut covers: BTreeMap<PathBuf, Cover> = BTreeMap::new();
    for entry in &found.hidden {
        let owned = Owned { mode: entry.mode, uid: entry.uid, gid: entry.gid };
        let cover = match entry.kind {
            Kind::Directory => Cover::Empty(owned),
            Kind::Symlink | Kind::File => Cover::Absent,
        };
        covers.insert(entry.path.clone(), cover);
    }
    skeleton(&mut covers, found);
    let targets: Vec<(PathBuf, Kind)> =
        parts.values().skip(1).map(|part| (part.at.clone(), part.kind)).collect();
    for (at, kind) in targets {
        if under_hidden(&at) {
            let owned = found.parents.get(&at).copied().unwrap_or(STANDARD);
            let target = match kind {
                Kind::Directory => Cover::Parent(owned),
                Kind::Symlink | Kind::File => Cover::Target,
            };
            covers.entry(at).or_insert(target);
        }
    }
    distribute(covers, &mut parts, found, &hidden);
    parts.into_values().collect()
}

/// A directory of root's that everybody enters.
pub(super) const STANDARD: Owned = Owned { mode: 0o755, uid: 0, gid: 0 };

/// The standard directories: in hidden ones, and where the host has none.
fn skeleton(covers: &mut BTreeMap<PathBuf, Cover>, found: &Found) {
    for (path, mode) in EMPTY {
        let path = Path::new(path);
        let parent_empty =
            path.parent().is_some_and(|p| matches!(covers.get(p), Some(Cover::Empty(_))));
        if parent_empty || matches!(covers.get(path), Some(Cover::Empty(_) | Cover::Absent)) {
            // An exposed path in it is found by the mount, not by the host's name.
            covers.insert(path.to_owned(), Cover::Empty(Owned { mode, ..STANDARD }));
        }
    }
    for (path, to) in LINKS {
        let path = Path::new(path);
        let var_empty = matches!(covers.get(Path::new("/var")), Some(Cover::Empty(_)));
        let exposed = found.exposed.iter().any(|e| e.path.starts_with(path));
        if var_empty && !exposed {
            covers.insert(path.to_owned(), Cover::Link(to.into()));
        }
    }
}

/// Gives each cover, and the directories above it, to the part that it lies in.
fn distribute(
    covers: BTreeMap<PathBuf, Cover>,
    parts: &mut BTreeMap<PathBuf, Part>,
    found: &Found,
    hidden: &BTreeSet<&Path>,
) {
    for (path, cover) in covers {
        // A mount point is in the part that is mounted on, so a part is looked for
        // from the parent; but a cover of Berth's own folder may be a whole part.
        let above = path.ancestors().skip(1);
        let Some(at) = above.into_iter().find(|a| parts.contains_key(*a)).map(Path::to_owned)
        else {
            continue;
        };
        let Some(part) = parts.get_mut(&at) else {
            continue;
        };
        for parent in path.ancestors().skip(1).take_while(|p| **p != *at) {
            let mut owned = found.parents.get(parent).copied().unwrap_or(STANDARD);
            if parent.ancestors().any(|p| hidden.contains(p)) {
                // Nothing of the host's is in it but what was exposed.
                owned.mode |= 0o111;
            }
            if let Ok(relative) = parent.strip_prefix(&at) {
                part.covers.entry(relative.to_owned()).or_insert(Cover::Parent(owned));
            }
        }
        if let Ok(relative) = path.strip_prefix(&at) {
            part.covers.insert(relative.to_owned(), cover);
        }
    }
}

/// Whether a path is one of [`EMPTY`]. As bytes: it is asked for each file in
/// `/etc`, and paths compare slowly.
pub(super) fn is_standard(path: &Path) -> bool {
    EMPTY.iter().any(|(standard, _)| path.as_os_str() == *standard)
}

fn depth(path: &Path) -> usize {
    path.components().count().saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(path: &Path, kind: Kind) -> Entry {
        Entry { path: path.to_owned(), kind, mode: 0o755, uid: 0, gid: 0, private_key: false }
    }

    /// A host as the walk would find it, of a few names, three levels deep.
    fn found(rules: &Rules, files: &BTreeSet<PathBuf>) -> Found {
        let mut found = Found::default();
        let mut all: BTreeMap<&Path, Kind> = BTreeMap::new();
        for file in files {
            all.insert(file, Kind::File);
        }
        for file in files {
            for above in file.ancestors().skip(1) {
                all.insert(above, Kind::Directory);
                found.parents.insert(above.to_owned(), STANDARD);
            }
        }
        all.remove(Path::new("/"));
        for (path, kind) in &all {
            let mut entry = entry(path, *kind);
            if path.file_name().is_some_and(|name| name == "key") {
                entry.mode = 0o600;
            }
            let below = found.hidden.iter().any(|h| path.starts_with(&h.path));
            let own_in_exposed = rules.own.iter().any(|own| own == path) && rules.exposes(path);
            if rules.hides(&entry) && (!below || own_in_exposed) {
                found.hidden.push(entry);
            }
        }
        for path in &rules.expose {
            if let Some(kind) = all.get(path.as_path()) {
                found.exposed.push(entry(path, *kind));
            }
        }
        found
    }

    fn path() -> impl Strategy<Value = PathBuf> {
        let top = prop::sample::select(vec!["etc", "var", "root", "opt", "data", "home"]);
        let below = prop::sample::select(vec!["a", "b", "lib", "key", "tmp"]);
        (top, prop::collection::vec(below, 1..4)).prop_map(|(top, below)| {
            below.iter().fold(Path::new("/").join(top), |path, name| path.join(name))
        })
    }

    /// Whether the host's file is seen at its path, as the kernel would answer.
    fn is_seen(parts: &[Part], path: &Path) -> bool {
        let part = parts.iter().rev().find(|part| path.starts_with(&part.at)).unwrap();
        let relative = path.strip_prefix(&part.at).unwrap();
        !relative.ancestors().any(|above| {
            matches!(
                part.covers.get(above),
                Some(Cover::Absent | Cover::Empty(_) | Cover::Target | Cover::Link(_))
            )
        })
    }

    proptest! {
        #[test]
        fn exactly_what_is_hidden_and_not_exposed_is_covered(
            files in prop::collection::btree_set(path(), 1..12),
            expose in prop::collection::vec(path(), 0..3),
            own in prop::collection::vec(path(), 0..2),
        ) {
            // A path can't be a file and a directory.
            let files: BTreeSet<PathBuf> = files
                .iter()
                .filter(|f| !files.iter().any(|g| g != *f && g.starts_with(f)))
                .cloned()
                .collect();
            let expose = expose
                .into_iter()
                .filter(|e| !own.iter().any(|o| e.starts_with(o)))
                .filter(|e| files.iter().any(|f| f.starts_with(e)))
                .collect();
            let rules = Rules { own, expose };
            let parts = plan(&found(&rules, &files));
            prop_assert_eq!(&parts[0].at, Path::new("/"));
            for file in &files {
                let hidden = file.ancestors().any(|path| {
                    let kind = if path == file { Kind::File } else { Kind::Directory };
                    let mut entry = entry(path, kind);
                    if path.file_name().is_some_and(|name| name == "key") {
                        entry.mode = 0o600;
                    }
                    path != Path::new("/") && rules.hides(&entry)
                });
                let expected = !rules.is_own(file) && (rules.exposes(file) || !hidden);
                prop_assert_eq!(is_seen(&parts, file), expected, "{:?} {:#?}", file, parts);
            }
            for part in &parts {
                // The layer is made in this order, without looking for parents.
                for path in part.covers.keys() {
                    let above = path.parent().unwrap();
                    let there = above == Path::new("") || matches!(
                        part.covers.get(above),
                        Some(Cover::Parent(_) | Cover::Empty(_))
                    );
                    prop_assert!(there, "{:?} {:#?}", path, part);
                }
            }
        }
    }
}
