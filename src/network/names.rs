//! Names of kernel objects: derived, so that a sweep after a crash knows ours from
//! anybody else's and one Berth's from another's. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

/// Which Berth of this machine: part of every name that it gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    tag: String,
    is_main: bool,
}

impl Instance {
    /// The Berth whose `--root` is `root`; `/` is the machine's main one.
    pub fn of_root(root: &str) -> Instance {
        Instance { tag: short(&["root", root], 4), is_main: root == "/" }
    }

    /// The name of its nftables tables: `berth`, or `berth-TAG`.
    pub fn table(&self) -> String {
        if self.is_main { "berth".into() } else { format!("berth-{}", self.tag) }
    }

    /// What the host's end of every container interface begins with.
    pub fn port_prefix(&self) -> String {
        format!("bt{}", self.tag)
    }

    /// The host's end of a container's interface on a network; 15 bytes, as many as
    /// an interface's name may have.
    pub fn port(&self, container: &str, network: &str) -> String {
        format!("{}{}", self.port_prefix(), short(&["port", container, network], 9))
    }

    /// What the names of its bridges begin with, but the main one's `berth0`. Those of
    /// the main Berth are the same on every machine, so an administrator's rule can say
    /// `berth+`.
    pub fn bridge_prefix(&self) -> String {
        if self.is_main { "berth-".into() } else { format!("br{}", self.tag) }
    }

    /// What an administrator's rules must name for all of its bridges; a `+` or `*`
    /// behind it stands for the rest.
    pub fn bridges(&self) -> String {
        if self.is_main { "berth".into() } else { self.bridge_prefix() }
    }

    /// A network's bridge. The main Berth's default network has a name for people.
    pub fn bridge(&self, network: &str) -> String {
        if self.is_main && network == super::spec::DEFAULT_NETWORK {
            return "berth0".into();
        }
        format!("{}{}", self.bridge_prefix(), short(&["bridge", network], 9))
    }

    /// The two ends of the pair through which new connections to published ports go
    /// a second time (see [`super::firewall`]).
    pub fn admission(&self) -> (String, String) {
        (format!("ba{}0", self.tag), format!("ba{}1", self.tag))
    }

    /// The mark of connections that go through that pair, and the number of the routing
    /// table that says that their sources are behind it.
    pub(super) fn admission_mark(&self) -> u32 {
        let [a, b, c, ..] = self.seed(&["mark"]);
        // Tables up to 255 are others'; the first byte keeps it away from small numbers.
        u32::from_be_bytes([0xbe, a, b, c])
    }

    /// Whether an interface of this name is ours and outlives containers: a bridge, or
    /// an end of the admission pair.
    pub fn is_lasting(&self, name: &str) -> bool {
        let (sending, receiving) = self.admission();
        name.starts_with(&self.bridge_prefix())
            || self.is_main && name == "berth0"
            || name == sending
            || name == receiving
    }

    /// A Docker id that is the same each time.
    pub fn id(&self, network: &str) -> String {
        hex::encode(self.seed(&["id", network]))
    }

    /// Bytes that are the same for this Berth and these words on every run.
    pub(super) fn seed(&self, words: &[&str]) -> [u8; 32] {
        let mut all = vec![self.tag.as_str()];
        all.extend(words);
        digest(&all)
    }
}

fn digest(words: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for word in words {
        // The length keeps ("a", "bc") and ("ab", "c") apart.
        hash.update((word.len() as u64).to_le_bytes());
        hash.update(word.as_bytes());
    }
    hash.finalize().into()
}

fn short(words: &[&str], length: usize) -> String {
    let mut text = hex::encode(digest(words));
    text.truncate(length);
    text
}

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A unicast, locally administered address (IEEE 802, section 8.2) from a hash.
    pub(super) fn derived(seed: [u8; 32]) -> Mac {
        let [_, a, b, c, d, e, ..] = seed;
        Mac([0x02, a, b, c, d, e])
    }

    /// The link-local address that the kernel makes of it (RFC 4291, appendix A).
    pub fn link_local(self) -> std::net::Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let mut bytes = [0; 16];
        bytes[0] = 0xfe;
        bytes[1] = 0x80;
        bytes[8..].copy_from_slice(&[a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        bytes.into()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = String;

    /// `02:42:ac:11:00:02`; not a group address, not all zeroes.
    fn from_str(text: &str) -> Result<Mac, String> {
        let wrong = || format!("{text:?} is not a hardware address, such as 02:42:ac:11:00:02");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() || bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(wrong());
        }
        Ok(Mac(bytes))
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Mac, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_tell_berths_apart() {
        let (main, other) = (Instance::of_root("/"), Instance::of_root("/tmp/x"));
        assert_eq!(main.bridge("default"), "berth0");
        for instance in [&main, &other] {
            for name in [
                instance.port(&"c".repeat(200), "n"),
                instance.bridge("back"),
                instance.bridge("default"),
                instance.admission().0,
            ] {
                assert!(name.len() <= 15, "{name}");
            }
        }
        assert_ne!(main.port("a", "n"), other.port("a", "n"));
        assert_ne!(main.port("a", "bc"), main.port("ab", "c"));
        assert_eq!(main.table(), "berth");
        for bridge in [main.bridge("default"), main.bridge("back")] {
            assert!(bridge.starts_with(&main.bridges()), "{bridge}");
        }
    }

    #[test]
    fn hardware_addresses_are_read_and_written() {
        let mac: Mac = "02:42:ac:11:00:fe".parse().unwrap();
        assert_eq!(mac.to_string(), "02:42:ac:11:00:fe");
        assert_eq!(mac.link_local().to_string(), "fe80::42:acff:fe11:fe");
        for wrong in
            ["", "02:42:ac:11:00", "03:42:ac:11:00:02", "00:00:00:00:00:00", "2:42:ac:11:0:2"]
        {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }
}
