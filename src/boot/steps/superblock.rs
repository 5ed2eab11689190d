//! Which file system is on a device, and how it is called: from its first bytes.
//! Pure. A machine without udev has no /dev/disk/by-uuid; this is what it would say.

/// So many of a device's first bytes are looked at.
pub const LOOK: usize = 0x1_1000;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// As mount(8) calls it.
    pub kind: &'static str,
    /// As blkid(8) writes it.
    pub uuid: String,
    /// Its label; empty without one.
    pub label: String,
}

/// Looks at the first [`LOOK`] bytes of a device, or as many as it has.
pub fn identify(bytes: &[u8]) -> Option<Found> {
    let at = |offset: usize, len: usize| bytes.get(offset..offset + len);
    let is = |offset: usize, magic: &[u8]| at(offset, magic.len()) == Some(magic);
    let label = |offset, len| text(at(offset, len).unwrap_or_default());
    let found = |kind, uuid: usize, label: String| {
        Some(Found { kind, uuid: uuid_text(at(uuid, 16)?), label })
    };
    // ext4(5): the superblock is at 1024; bit 2 of the compatible features is a journal.
    if is(0x438, &[0x53, 0xef]) {
        let incompatible = u32::from_le_bytes(at(0x460, 4)?.try_into().ok()?);
        let journal = at(0x45c, 1)?[0] & 4 != 0;
        // Extents or 64 bits: only ext4 has them.
        let kind = match (incompatible & 0x2c0 != 0, journal) {
            (true, _) => "ext4",
            (false, true) => "ext3",
            (false, false) => "ext2",
        };
        return found(kind, 0x468, label(0x478, 16));
    }
    if is(0, b"XFSB") {
        return found("xfs", 32, label(108, 12));
    }
    if is(0x1_0040, b"_BHRfS_M") {
        return found("btrfs", 0x1_0020, label(0x1_012b, 256));
    }
    // The header of a swap area is one page, whose last ten bytes are its name.
    if is(4086, b"SWAPSPACE2") {
        return found("swap", 1036, label(1052, 16));
    }
    if is(1024, &[0x10, 0x20, 0xf5, 0xf2]) {
        return found("f2fs", 1024 + 108, String::new());
    }
    if is(0, b"hsqs") {
        return Some(Found { kind: "squashfs", uuid: String::new(), label: String::new() });
    }
    if is(1024, &[0xe2, 0xe1, 0xf5, 0xe0]) {
        return found("erofs", 1024 + 48, label(1024 + 64, 16));
    }
    if is(0x8001, b"CD001") {
        return Some(Found { kind: "iso9660", uuid: String::new(), label: label(0x8028, 32) });
    }
    let fat = if is(0x52, b"FAT32") {
        Some((0x43, 0x47))
    } else if is(0x36, b"FAT1") {
        Some((0x27, 0x2b))
    } else {
        None
    };
    if let Some((serial, name)) = fat {
        let serial = at(serial, 4)?;
        let uuid = format!("{:02X}{:02X}-{:02X}{:02X}", serial[3], serial[2], serial[1], serial[0]);
        let label = label(name, 11).trim_end().to_owned();
        return Some(Found { kind: "vfat", uuid, label });
    }
    None
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn uuid_text(bytes: &[u8]) -> String {
    let hex = hex::encode(bytes);
    [0..8, 8..12, 12..16, 16..20, 20..32]
        .map(|range| hex.get(range).unwrap_or_default().to_owned())
        .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Judged by the programs that make them.
    #[test]
    fn real_file_systems_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let uuid = "01234567-89ab-cdef-0123-456789abcdef";
        let made = |program: &str, args: &[&str], len: u64| {
            std::fs::File::create(&path).unwrap().set_len(len).unwrap();
            let made = Command::new(program).args(args).arg(&path).output();
            made.is_ok_and(|output| output.status.success())
        };
        let found = || identify(&std::fs::read(&path).unwrap()[..]);
        let want = |kind, uuid: &str| {
            Some(Found { kind, uuid: uuid.to_owned(), label: "data".to_owned() })
        };
        for kind in ["ext4", "ext3", "ext2"] {
            if made("mke2fs", &["-q", "-F", "-t", kind, "-U", uuid, "-L", "data"], 8 << 20) {
                assert_eq!(found(), want(kind, uuid));
            }
        }
        if made("mkswap", &["-q", "-U", uuid, "-L", "data"], 8 << 20) {
            assert_eq!(found(), want("swap", uuid));
        }
        if made("mkfs.vfat", &["-F", "32", "-i", "12345678", "-n", "data"], 64 << 20) {
            assert_eq!(found().map(|f| (f.kind, f.uuid)), Some(("vfat", "1234-5678".to_owned())));
        }
        std::fs::write(&path, [0u8; 70000]).unwrap();
        assert_eq!(found(), None);
        assert_eq!(identify(b"XFSB"), None, "cut off");
    }
}
