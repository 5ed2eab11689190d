//! Capabilities by name and number (capabilities(7)), and Docker's default set.

use std::str::FromStr;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// The names without `CAP_`, at the index that is their number
/// (`include/uapi/linux/capability.h`).
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A set of capabilities, one bit for each number, as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapSet(u64);

impl CapSet {
    /// None.
    pub const EMPTY: CapSet = CapSet(0);
    /// Every capability that has a name here; a kernel may know fewer
    /// (`/proc/sys/kernel/cap_last_cap`).
    pub const ALL: CapSet = CapSet((1 << NAMES.len()) - 1);

    /// What Docker gives a container that asks for nothing.
    pub fn docker_default() -> Self {
        const DEFAULT: [&str; 14] = [
            "CHOWN",
            "DAC_OVERRIDE",
            "FSETID",
            "FOWNER",
            "MKNOD",
            "NET_RAW",
            "SETGID",
            "SETUID",
            "SETFCAP",
            "SETPCAP",
            "NET_BIND_SERVICE",
            "SYS_CHROOT",
            "KILL",
            "AUDIT_WRITE",
        ];
        DEFAULT.iter().filter_map(|name| number(name)).fold(CapSet::EMPTY, CapSet::with)
    }

    /// The set from its bits.
    pub fn from_bits(bits: u64) -> Self {
        CapSet(bits & Self::ALL.0)
    }

    /// The bits, as capset(2) has them: bit n is capability n.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// This set and the capability of a number.
    #[must_use]
    pub fn with(self, number: u8) -> Self {
        CapSet::from_bits(self.0 | 1u64.checked_shl(number.into()).unwrap_or(0))
    }

    /// Whether the capability of a name, with or without `CAP_`, is in it.
    pub fn contains(self, name: &str) -> bool {
        number(name).is_some_and(|number| self.0 & (1 << number) != 0)
    }

    /// The names in the order of their numbers.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES
            .into_iter()
            .enumerate()
            .filter(move |(number, _)| self.0 & (1 << number) != 0)
            .map(|(_, name)| name)
    }

    /// `base` with `add` and `drop` of a manifest, by Docker's rules: adding `ALL`
    /// gives everything but what is dropped; dropping `ALL` leaves what is added.
    ///
    /// # Errors
    /// A name that is no capability.
    pub fn adjust(base: CapSet, add: &[String], drop: &[String]) -> Result<CapSet, String> {
        let (add_all, add) = named(add)?;
        let (drop_all, drop) = named(drop)?;
        Ok(match (add_all, drop_all) {
            (true, _) => CapSet(Self::ALL.0 & !drop.0),
            (false, true) => add,
            (false, false) => CapSet((base.0 & !drop.0) | add.0),
        })
    }

    /// The five sets of a process that runs as `uid`: root has all of them, another
    /// user can only get them back by a program's file capabilities. None are
    /// inheritable or ambient, as with Docker (CVE-2022-24769).
    pub fn for_process(self, uid: u32) -> LinuxCapabilities {
        let held = if uid == 0 { self } else { CapSet::EMPTY };
        let mut sets = LinuxCapabilities::default();
        sets.set_bounding(Some(self.to_oci()))
            .set_effective(Some(held.to_oci()))
            .set_permitted(Some(held.to_oci()))
            .set_inheritable(Some(Capabilities::new()))
            .set_ambient(Some(Capabilities::new()));
        sets
    }

    /// The set as a Spec has it.
    pub fn to_oci(self) -> Capabilities {
        self.names().filter_map(|name| Capability::from_str(name).ok()).collect()
    }

    /// The set of a Spec.
    pub fn from_oci(set: &Capabilities) -> CapSet {
        set.iter()
            .filter_map(|capability| number(&capability.to_string()))
            .fold(CapSet::EMPTY, CapSet::with)
    }
}

/// The number of a name such as `NET_ADMIN`, `cap_net_admin`.
pub fn number(name: &str) -> Option<u8> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == bare).and_then(|index| u8::try_from(index).ok())
}

/// Whether `ALL` is among the names, and the set of the others.
fn named(names: &[String]) -> Result<(bool, CapSet), String> {
    let mut all = false;
    let mut set = CapSet::EMPTY;
    for name in names {
        if name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL") {
            all = true;
        } else {
            let number = number(name).ok_or_else(|| {
                format!("{name:?} is not a capability; see capabilities(7), such as NET_ADMIN")
            })?;
            set = set.with(number);
        }
    }
    Ok((all, set))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adjust(add: &[&str], drop: &[&str]) -> Result<CapSet, String> {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        CapSet::adjust(CapSet::docker_default(), &owned(add), &owned(drop))
    }

    #[test]
    fn names_and_numbers_agree_with_the_kernels() {
        for (name, expected) in
            [("CHOWN", 0), ("cap_sys_admin", 21), ("CAP_BPF", 39), ("CHECKPOINT_RESTORE", 40)]
        {
            assert_eq!(number(name), Some(expected));
        }
        assert_eq!(number("CAP_NONE"), None);
        assert_eq!(CapSet::docker_default().bits(), 0xa804_25fb, "what Docker's CapEff shows");
        assert_eq!(CapSet::from_oci(&CapSet::ALL.to_oci()), CapSet::ALL);
    }

    #[test]
    fn adding_and_dropping_follow_docker() {
        assert!(adjust(&["NET_ADMIN"], &[]).unwrap().contains("CAP_NET_ADMIN"));
        assert!(!adjust(&[], &["cap_kill"]).unwrap().contains("KILL"));
        assert_eq!(adjust(&[], &["ALL"]).unwrap(), CapSet::EMPTY);
        assert_eq!(adjust(&["kill"], &["all"]).unwrap(), CapSet::EMPTY.with(5));
        let most = adjust(&["ALL"], &["SYS_ADMIN"]).unwrap();
        assert_eq!(most.bits(), CapSet::ALL.bits() & !(1 << 21));
        assert!(adjust(&["ROOT"], &[]).unwrap_err().contains("\"ROOT\""));
    }

    #[test]
    fn another_user_holds_nothing() {
        let sets = CapSet::docker_default().for_process(1000);
        assert_eq!(sets.effective().as_ref().unwrap().len(), 0);
        assert_eq!(sets.permitted().as_ref().unwrap().len(), 0);
        assert_eq!(sets.bounding().as_ref().unwrap().len(), 14);
        let root = CapSet::docker_default().for_process(0);
        assert_eq!(root.effective(), root.bounding());
        assert_eq!(root.ambient().as_ref().unwrap().len(), 0);
    }
}
