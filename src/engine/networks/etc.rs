//! The files in a container that tell of its network.

use std::fs;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::State;
use super::joined::Place;
use crate::manifest::model::{Container, Sharing};
use crate::network::disk::{self, Lasting};
use crate::network::dns::inside;
use crate::network::files::{self, Resolver};
use crate::network::spec::Driver;
use crate::spec;

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
        let hostname = manifest.hostname.clone().unwrap_or_else(|| match manifest.namespaces.uts {
            Sharing::Host => rustix::system::uname().nodename().to_string_lossy().into_owned(),
            _ => spec::hostname_of(name),
        });
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
            disk::replace(&path, text.as_bytes(), 0o644, Lasting::Boot)?;
            mounted.push((Path::new("/etc").join(name), path));
        }
        Ok(mounted)
    }

    /// Writes what differs under a container that runs: the files are mounted in it,
    /// so they are not replaced. The container may have made them as long as it likes.
    ///
    /// # Errors
    /// The disk's.
    pub fn rewrite(&self, dir: &Path) -> io::Result<()> {
        for (name, text) in self.all() {
            let path = dir.join(name);
            let is_same = match open(&path, false) {
                Ok(file) => says(file, text.as_bytes())?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if !is_same {
                let mut file = open(&path, true)?;
                file.set_len(0)?;
                file.write_all(text.as_bytes())?;
            }
        }
        Ok(())
    }
}

/// Opens a file that a container owns too. One that has a lease on it (fcntl(2)) keeps
/// whoever opens it waiting for most of a minute: it gets an error instead.
fn open(path: &Path, write: bool) -> io::Result<fs::File> {
    fs::File::options()
        .read(!write)
        .write(write)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(path)
}

/// Whether a file says this and nothing more; reads no more of it than that takes.
fn says(file: fs::File, text: &[u8]) -> io::Result<bool> {
    let mut now = Vec::with_capacity(text.len() + 1);
    file.take(text.len() as u64 + 1).read_to_end(&mut now)?;
    Ok(now == text)
}

impl State {
    /// What the files of a container on these networks say.
    pub(super) fn etc(&self, name: &str, manifest: &Container, places: &[Place]) -> Etc {
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
        let has_inside = self.joined.get(name).is_some_and(|joined| joined.inside.is_some());
        let resolver = host
            .filter(|_| bridged.is_some_and(|up| up.resolver.is_some()))
            .or(has_inside.then_some(IpAddr::V4(inside::ADDRESS)));
        Etc::of(self.called(name), manifest, &own, host, resolver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody waits for a file that can't be opened at once.
    #[test]
    fn a_file_that_keeps_whoever_opens_it_waiting_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let text = |what: &str| what.to_owned();
        let etc = Etc { hosts: text("a\n"), resolv_conf: text("b\n"), hostname: text("c\n") };
        etc.write(dir.path()).unwrap();
        // A lease needs a container; a pipe that nobody reads is the same to open(2).
        let hosts = dir.path().join("hosts");
        fs::remove_file(&hosts).unwrap();
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &hosts, kind, mode, 0).unwrap();
        let refused = etc.rewrite(dir.path()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENXIO));
    }

    #[test]
    fn what_a_container_wrote_into_its_files_is_not_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let text = |what: &str| what.to_owned();
        let mut etc = Etc {
            hosts: text("10.0.0.2\tweb\n"),
            resolv_conf: text("nameserver 10.0.0.1\n"),
            hostname: text("web\n"),
        };
        assert_eq!(etc.write(dir.path()).unwrap().len(), 3);
        let hosts = dir.path().join("hosts");
        // A terabyte that takes no room: reading it would never end.
        fs::File::options().write(true).open(&hosts).unwrap().set_len(1 << 40).unwrap();
        etc.hosts.push_str("10.0.0.3\tdb\n");
        etc.rewrite(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&hosts).unwrap(), etc.hosts);
        // The mounted file is the same one.
        use std::os::unix::fs::MetadataExt;
        let inode = fs::metadata(&hosts).unwrap().ino();
        etc.rewrite(dir.path()).unwrap();
        assert_eq!(fs::metadata(&hosts).unwrap().ino(), inode);
        fs::remove_file(&hosts).unwrap();
        etc.rewrite(dir.path()).unwrap();
        assert!(!hosts.exists(), "a root with files of its own has none of ours");
    }
}
