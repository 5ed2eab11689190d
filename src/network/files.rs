//! The texts of `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container.
//! Pure.

use std::net::IpAddr;

/// `/etc/hosts` (hosts(5)): loopback, the container under its names, and `extra`.
pub fn hosts(hostname: &str, own: &[IpAddr], extra: &[(String, IpAddr)]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    // A host name with a domain is known by its first part too.
    let short = hostname.split('.').next().unwrap_or(hostname);
    let names = if short == hostname { hostname.to_owned() } else { format!("{hostname} {short}") };
    for address in own {
        text.push_str(&format!("{address}\t{names}\n"));
    }
    // Without a network of its own the name must still resolve.
    if own.is_empty() {
        text.push_str(&format!("127.0.1.1\t{names}\n"));
    }
    for (name, address) in extra {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text
}

/// `/etc/hostname` (hostname(5)).
pub fn hostname(hostname: &str) -> String {
    format!("{hostname}\n")
}

/// What a container's resolver is told (resolv.conf(5)).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolver {
    /// Servers; the C library asks the first three.
    pub servers: Vec<IpAddr>,
    /// Domains that are tried behind a short name.
    pub search: Vec<String>,
    /// Options, such as `ndots:1`.
    pub options: Vec<String>,
}

/// `/etc/resolv.conf` of a container.
pub fn resolv_conf(resolver: &Resolver) -> String {
    let mut text = String::new();
    for server in &resolver.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    for (word, values) in [("search", &resolver.search), ("options", &resolver.options)] {
        if !values.is_empty() {
            text.push_str(&format!("{word} {}\n", values.join(" ")));
        }
    }
    text
}

/// Reads the host's `/etc/resolv.conf`; lines that say nothing to us are skipped, as
/// the C library does.
pub fn read_resolv_conf(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let word = words.next().unwrap_or_default();
        let words = words.map(str::to_owned);
        match word {
            "nameserver" => {
                // A zone, as in fe80::1%eth0, means nothing elsewhere.
                resolver
                    .servers
                    .extend(words.take(1).filter_map(|word| word.parse::<IpAddr>().ok()));
            }
            // The last one counts.
            "search" | "domain" => resolver.search = words.collect(),
            "options" => resolver.options.extend(words),
            _ => {}
        }
    }
    resolver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_names_the_container() {
        let own = ["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let extra = [("db".to_owned(), "10.0.0.9".parse().unwrap())];
        let text = hosts("web.example", &own, &extra);
        assert!(
            text.contains("\n10.1.0.2\tweb.example web\nfd00::2\tweb.example web\n10.0.0.9\tdb\n")
        );
        assert!(hosts("web", &[], &[]).ends_with("127.0.1.1\tweb\n"));
    }

    #[test]
    fn resolv_conf_is_read_and_written() {
        let text = "# x\nnameserver 9.9.9.9 # y\nnameserver fe80::1%eth0\nnameserver ::1\n\
                    search a b\noptions ndots:2\nbogus\n";
        let resolver = read_resolv_conf(text);
        assert_eq!(resolver.servers.len(), 2);
        let written = resolv_conf(&resolver);
        assert_eq!(written, "nameserver 9.9.9.9\nnameserver ::1\nsearch a b\noptions ndots:2\n");
        assert_eq!(read_resolv_conf(&written), resolver);
    }
}
