//! Published ports: `8080:80`, `127.0.0.1:5353:53/udp`, `[::1]:8443:443`,
//! `9000-9010:9000-9010`, `80`, `9000-9010:80`. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its number in an IP header (`IPPROTO_*`).
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// Consecutive ports of the host that lead to as many of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortMapping {
    /// The address of the host; all of them when missing.
    pub address: Option<IpAddr>,
    /// The first port of the host; any free one when missing.
    pub host: Option<u16>,
    /// The first port of the container.
    pub container: u16,
    /// How many ports.
    pub count: u16,
    /// Of so many ports of the host, from the first on, one that is free is taken for the
    /// one of the container; 1 where there is no choice.
    pub choices: u16,
    /// tcp or udp.
    pub protocol: Protocol,
}

impl PortMapping {
    /// Each pair of host port and container port; where there is a choice the host's is
    /// not known.
    pub fn pairs(&self) -> impl Iterator<Item = (Option<u16>, u16)> + use<> {
        let PortMapping { container, count, .. } = *self;
        let host = self.host.filter(|_| self.choices == 1);
        (0..count).map(move |step| (host.map(|host| host + step), container + step))
    }
}

impl PortMapping {
    /// The ports of the host of which one is taken, if there is a choice among some.
    pub fn among(&self) -> Option<std::ops::RangeInclusive<u16>> {
        let first = self.host.filter(|_| self.choices > 1)?;
        Some(first..=first + (self.choices - 1))
    }

    /// The host's ports as they are written.
    pub fn outside(&self) -> Option<String> {
        let first = self.host?;
        Some(match self.count.max(self.choices) {
            1 => first.to_string(),
            count => format!("{first}-{}", first + (count - 1)),
        })
    }
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| match text.parse::<u16>() {
        Ok(0) | Err(_) => Err(format!("{text:?} is not a port, 1 to 65535")),
        Ok(port) => Ok(port),
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    match last.checked_sub(first).and_then(|count| count.checked_add(1)) {
        Some(count) => Ok((first, count)),
        None => Err(format!("the range {text} has no ports, or too many")),
    }
}

impl FromStr for PortMapping {
    type Err = String;

    fn from_str(text: &str) -> Result<PortMapping, String> {
        let (rest, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((rest, "tcp")) => (rest, Protocol::Tcp),
            Some((rest, "udp")) => (rest, Protocol::Udp),
            Some((_, other)) => return Err(format!("{other:?} is not tcp or udp")),
        };
        let (rest, container) = match rest.rsplit_once(':') {
            Some((rest, container)) => (Some(rest), container),
            None => (None, rest),
        };
        let (container, count) = ports(container)?;
        let (address, host, choices) = match rest {
            None => (None, None, 1),
            Some(rest) => {
                let (address, host) = match rest.rsplit_once(':') {
                    Some((address, host)) => (Some(address), host),
                    None => (None, rest),
                };
                let address = address.map(|text| {
                    let inner = match text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
                        Some(inner) => inner,
                        // Without brackets the colons of an IPv6 address can't be told
                        // from those around ports.
                        None if text.contains(':') => {
                            return Err(format!("write the IPv6 address {text} as [{text}]"));
                        }
                        None => text,
                    };
                    inner.parse().map_err(|_| format!("{inner:?} is not an IP address"))
                });
                let address: Option<IpAddr> = address.transpose()?;
                let (host, choices) = match host {
                    "" => (None, 1),
                    host => {
                        let (first, hosts) = ports(host)?;
                        if hosts != count && count > 1 {
                            return Err(format!(
                                "{hosts} ports of the host do not fit {count} of the container"
                            ));
                        }
                        (Some(first), if count == 1 { hosts } else { 1 })
                    }
                };
                // The unspecified address is every one of its family, and of the other
                // as well: what people mean by 0.0.0.0 is "everywhere".
                (address.filter(|address| !address.is_unspecified()), host, choices)
            }
        };
        Ok(PortMapping { address, host, container, count, choices, protocol })
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |f: &mut fmt::Formatter<'_>, first: u16| match self.count {
            1 => write!(f, "{first}"),
            count => write!(f, "{first}-{}", first + (count - 1)),
        };
        match self.address {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            None => {}
        }
        if let Some(outside) = self.outside() {
            write!(f, "{outside}:")?;
        } else if self.address.is_some() {
            f.write_str(":")?;
        }
        range(f, self.container)?;
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => f.write_str("/udp"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mappings_are_read_and_written() {
        for text in [
            "8080:80",
            "127.0.0.1:5353:53/udp",
            "[::1]:8443:443",
            "9000-9010:9000-9010",
            "80",
            "127.0.0.1::80",
            "9000-9010:80",
            "127.0.0.1:9000-9010:53/udp",
        ] {
            assert_eq!(text.parse::<PortMapping>().unwrap().to_string(), text);
        }
        let range: PortMapping = "9000-9002:80-82/tcp".parse().unwrap();
        let pairs = [(Some(9000), 80), (Some(9001), 81), (Some(9002), 82)];
        assert_eq!(range.pairs().collect::<Vec<_>>(), pairs);
        let choice: PortMapping = "9000-9002:80".parse().unwrap();
        assert_eq!(choice.pairs().collect::<Vec<_>>(), [(None, 80)]);
        assert_eq!((choice.among(), range.among()), (Some(9000..=9002), None));
        assert_eq!("0.0.0.0:1:2".parse::<PortMapping>().unwrap().address, None);
    }

    #[test]
    fn wrong_ones_are_refused() {
        for text in [
            "",
            ":",
            "0:80",
            "80:0",
            "80:65536",
            "a:80",
            "::1:80:80",
            "[::1:80:80",
            "1-3:1-2",
            "3-1:3-1",
            "80/sctp",
            "1.2.3:80:80",
            "80:80:80:80",
            "-:-",
            "80-:80",
            "1-65536:1-65536",
        ] {
            assert!(text.parse::<PortMapping>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9:.\\[\\]/a-z-]{0,30}") {
            if let Ok(mapping) = text.parse::<PortMapping>() {
                prop_assert!(mapping.pairs().count() > 0);
                prop_assert_eq!(mapping.to_string().parse::<PortMapping>(), Ok(mapping));
            }
        }
    }
}
