//! Random trees: packed and unpacked they are the same, by us and by GNU tar.

use super::*;
use proptest::prelude::*;
use std::process::Command;

#[derive(Debug, Clone)]
enum What {
    File(Vec<u8>),
    Directory,
    Symlink(String),
    HardLink,
    Fifo,
    Null,
}

#[derive(Debug, Clone)]
struct File {
    path: Vec<String>,
    what: What,
    mode: u32,
    owner: (u32, u32),
    time: (i64, u32),
    xattr: Option<Vec<u8>>,
}

fn file() -> impl Strategy<Value = File> {
    let what = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..2000).prop_map(What::File),
        3 => Just(What::Directory),
        1 => "[a-z/.]{1,130}".prop_map(What::Symlink),
        1 => Just(What::HardLink),
        1 => Just(What::Fifo),
        1 => Just(What::Null),
    ];
    let name = prop_oneof![4 => "[a-d]", 1 => "[a-zé ]{1,80}"];
    (
        prop::collection::vec(name, 1..4),
        what,
        0u32..0o10000,
        (0u32..3_000_000, 0u32..3),
        (-1000i64..4_000_000_000, 0u32..1_000_000_000),
        prop::option::weighted(0.2, prop::collection::vec(any::<u8>(), 1..50)),
    )
        .prop_map(|(path, what, mode, owner, time, xattr)| File {
            path,
            what,
            mode,
            owner,
            time,
            xattr,
        })
}

/// Makes what can be made of the files; names that are taken are passed over.
fn plant(top: &Path, files: &[File]) {
    let mut made: Vec<(PathBuf, &File)> = Vec::new();
    for file in files {
        let path = file.path.iter().fold(top.to_owned(), |path, name| path.join(name));
        if fs::create_dir_all(path.parent().unwrap()).is_err() {
            continue;
        }
        let done = match &file.what {
            What::File(content) if fs::symlink_metadata(&path).is_err() => {
                fs::write(&path, content)
            }
            What::Directory => fs::create_dir(&path),
            What::Symlink(to) => std::os::unix::fs::symlink(to, &path),
            What::HardLink => match made.iter().find(|(_, f)| matches!(f.what, What::File(_))) {
                Some((other, _)) => fs::hard_link(other, &path),
                None => continue,
            },
            What::Fifo => mknod(&path, rustix::fs::FileType::Fifo, 0),
            What::Null => {
                mknod(&path, rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3))
            }
            What::File(_) => continue,
        };
        if done.is_ok() {
            made.push((path, file));
        }
    }
    for (path, file) in made.iter().rev() {
        std::os::unix::fs::lchown(path, Some(file.owner.0), Some(file.owner.1)).unwrap();
        if !matches!(file.what, What::Symlink(_)) {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(file.mode))
                .unwrap();
        }
        if let (Some(value), What::File(_) | What::Directory) = (&file.xattr, &file.what) {
            set_xattr(path, "user.random", value);
        }
        let time = crate::archive::Time { seconds: file.time.0, nanoseconds: file.time.1 };
        rustix::fs::utimensat(
            rustix::fs::CWD,
            path,
            &crate::archive::make::times(time),
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )
        .unwrap();
    }
}

fn mknod(path: &Path, kind: rustix::fs::FileType, device: u64) -> std::io::Result<()> {
    let mode = rustix::fs::Mode::from(0o600);
    Ok(rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, device)?)
}

fn packed(path: &Path) -> (Packed, Vec<u8>) {
    let mut bytes = Vec::new();
    let top = open(path).unwrap();
    let packed = pack_tree(top.place(), None, &mut bytes).unwrap();
    (packed, bytes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn there_and_back(files in prop::collection::vec(file(), 0..30)) {
        let bed = Bed::new();
        plant(&bed.layer(), &files);
        let (first, bytes) = packed(&bed.layer());
        let ours = bed.folder("ours");
        let done = unpack(&mut bytes.as_slice(), &ours, &Limits::default()).unwrap();
        prop_assert!(done.below.is_empty());
        prop_assert_eq!(done.stream, first.size);
        let (again, other) = packed(&ours);
        prop_assert!(again == first, "{}\n{}", overlay::listing(&bytes), overlay::listing(&other));

        let theirs = bed.folder("theirs");
        let archive = bed.temp.path().join("a.tar");
        fs::write(&archive, &bytes).unwrap();
        let done = Command::new("tar")
            .args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"])
            .arg(&archive)
            .arg("-C")
            .arg(&theirs)
            .output()
            .unwrap();
        prop_assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let (by_tar, other) = packed(&theirs);
        prop_assert!(by_tar == first, "{}\n{}", overlay::listing(&bytes), overlay::listing(&other));
    }

    /// Any damage is an error or a layer, and never a step outside.
    #[test]
    fn damaged(
        files in prop::collection::vec(file(), 1..10),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let bed = Bed::new();
        plant(&bed.layer(), &files);
        let (_, mut bytes) = packed(&bed.layer());
        for (at, value) in hits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let bed = Bed::new();
        let limits = Limits { bytes: 1 << 20, ..Limits::default() };
        let _ = unpack(&mut bytes.as_slice(), &bed.layer(), &limits);
        bed.assert_untouched();
    }
}
