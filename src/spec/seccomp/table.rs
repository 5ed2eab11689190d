//! System calls by name and number, for each architecture that a filter judges.

use std::collections::HashMap;
use std::sync::LazyLock;

use oci_spec::runtime::Arch;

/// An architecture as the kernel tells it to a filter.
pub(super) struct Table {
    /// What a profile calls it.
    pub arch: Arch,
    /// `AUDIT_ARCH_*` (`linux/audit.h`).
    pub audit: u32,
    numbers: LazyLock<HashMap<&'static str, u32>>,
}

impl Table {
    /// The number of a system call, if this architecture has it.
    pub fn number(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }
}

/// 64-bit x86.
pub(super) static X86_64: Table = Table {
    arch: Arch::ScmpArchX86_64,
    audit: 0xc000_003e,
    numbers: LazyLock::new(|| parse(include_str!("x86_64.tbl"))),
};

/// 32-bit x86, as a 64-bit kernel runs it too.
pub(super) static X86: Table = Table {
    arch: Arch::ScmpArchX86,
    audit: 0x4000_0003,
    numbers: LazyLock::new(|| parse(include_str!("x86.tbl"))),
};

fn parse(text: &'static str) -> HashMap<&'static str, u32> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, number)| Some((name, number.parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_call_of_its_own() {
        for (table, text) in
            [(&X86_64, include_str!("x86_64.tbl")), (&X86, include_str!("x86.tbl"))]
        {
            let lines = text.lines().filter(|line| !line.starts_with('#')).count();
            assert_eq!(table.numbers.len(), lines);
            let numbers: std::collections::HashSet<_> = table.numbers.values().collect();
            assert_eq!(numbers.len(), lines);
        }
    }

    #[test]
    fn numbers_agree_with_libc() {
        for (name, number) in [
            ("read", libc::SYS_read),
            ("clone3", libc::SYS_clone3),
            ("keyctl", libc::SYS_keyctl),
            ("mseal", libc::SYS_mseal),
            ("openat2", libc::SYS_openat2),
        ] {
            assert_eq!(X86_64.number(name).map(i64::from), Some(number), "{name}");
        }
        assert_eq!(X86.number("socketcall"), Some(102));
        assert_eq!(X86_64.number("socketcall"), None);
    }
}
