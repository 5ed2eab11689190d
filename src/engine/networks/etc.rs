//! The files in a container that tell of its network.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::join::Place;
use super::{State, Wanted};
use crate::manifest::model::Container;
use crate::network::files::{self, Resolver};
use crate::network::spec::Driver;

/// What is said in a container's `/etc/hosts`, `/etc/resolv.conf` and
/// `/etc/hostname`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etc {
    /// `/etc/hosts`.
    pub hosts: String,
    /// `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// `/etc/hostname`.
    pub hostname: String,
}

impl Etc {
    /// Of a container: its own addresses, the host's as it sees it, and who answers
    /// names for it, if that is a resolver of ours.
    pub fn of(
        name: &str,
        manifest: &Container,
        own: &[IpAddr],
        host: Option<IpAddr>,
        resolver: Option<IpAddr>,
    ) -> Etc {
        let network = &manifest.network;
        let hostname = manifest.hostname.clone().unwrap_or_else(|| name.replace(['@', '_'], "-"));
        let extra: Vec<(String, IpAddr)> = network
            .extra_hosts
            .iter()
            .filter_map(|extra| Some((extra.name.clone(), extra.address.or(host)?)))
            .collect();
        let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let theirs = files::read_resolv_conf(&text);
        let mut options = network.dns_options.clone();
        // Otherwise a container's name would first be asked for in the host's domains.
        if resolver.is_some() && !options.iter().any(|option| option.starts_with("ndots:")) {
            options.push("ndots:0".to_owned());
        }
        let servers = match (resolver, network.dns.is_empty()) {
            (Some(resolver), _) => vec![resolver],
            (None, false) => network.dns.clone(),
            (None, true) => theirs.servers,
        };
        let search = match network.dns_search.as_slice() {
            [] => theirs.search,
            // Docker's word for none.
            [dot] if dot == "." => Vec::new(),
            search => search.to_vec(),
        };
        let options = if options.is_empty() { theirs.options } else { options };
        Etc {
            hosts: files::hosts(&hostname, own, &extra),
            resolv_conf: files::resolv_conf(&Resolver { servers, search, options }),
            hostname: files::hostname(&hostname),
        }
    }

    /// The files by their names in `/etc`.
    fn all(&self) -> [(&'static str, &str); 3] {
        [("hosts", &self.hosts), ("resolv.conf", &self.resolv_conf), ("hostname", &self.hostname)]
    }

    /// Writes them anew, for a launch; gives what is mounted where.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, dir: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
        let mut mounted = Vec::new();
        for (name, text) in self.all() {
            let path = dir.join(name);
            let mut file = tempfile::Builder::new()
                .prefix(".etc")
                .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
                .tempfile_in(dir)?;
            file.write_all(text.as_bytes())?;
            file.persist(&path).map_err(|error| error.error)?;
            mounted.push((Path::new("/etc").join(name), path));
        }
        Ok(mounted)
    }

    /// Writes what differs under a container that runs: the files are mounted in it,
    /// so they are not replaced.
    ///
    /// # Errors
    /// The disk's.
    pub fn rewrite(&self, dir: &Path) -> io::Result<()> {
        for (name, text) in self.all() {
            let path = dir.join(name);
            if fs::read_to_string(&path).is_ok_and(|now| now != text) {
                fs::write(&path, text)?;
            }
        }
        Ok(())
    }
}

impl State {
    /// What the files of a container on these networks say.
    pub(super) fn etc(&self, wanted: &Wanted<'_>, places: &[Place]) -> Etc {
        let own: Vec<IpAddr> = places
            .iter()
            .flat_map(|place| [Some(place.lease.v4.into()), place.lease.v6.map(IpAddr::V6)])
            .flatten()
            .collect();
        // Asked at the network that is the way outside; it knows the others' names too.
        let first = places.iter().filter(|place| place.is_default_route).chain(places);
        let bridged = first
            .filter_map(|place| self.up.get(&place.network))
            .find(|up| up.spec.driver == Driver::Bridge);
        let host = bridged.map(|up| IpAddr::V4(up.spec.gateway));
        let resolver = host.filter(|_| bridged.is_some_and(|up| up.resolver.is_some()));
        Etc::of(wanted.name, wanted.manifest, &own, host, resolver)
    }
}
