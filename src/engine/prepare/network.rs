//! The network of a launch: which namespaces are entered, and what the files in
//! `/etc` say of it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::{Preparation, Shared};
use crate::engine::namespaces::Namespaces;
use crate::engine::networks::{Etc, Wanted};
use crate::manifest::model::{Container, Isolation, NetworkMode};
use crate::network::netns;
use crate::rootfs::{self, IdMap, Source};
use crate::spec::{self, compile::Parts};
use crate::sys::process::flags;

/// Which launch it is of which container.
#[derive(Debug, Clone, Copy)]
pub(super) struct Launch<'a> {
    /// What the container is kept under.
    pub name: &'a str,
    /// Its name.
    pub called: &'a str,
    /// Its Docker id.
    pub id: &'a str,
    /// The number of the launch.
    pub incarnation: u64,
}
/// What it keeps of its namespaces: the pair, or the network's with the host's ids.
type Kept<'a> = (Option<&'a Namespaces>, &'a mut Option<OwnedFd>);

/// The files in `/etc`.
pub(super) enum Files {
    /// As the root has them.
    None,
    /// Of its own.
    Own(Etc),
    /// Those of the container whose network it shares.
    Of(String),
}

impl Preparation<'_> {
    /// Which namespaces are entered. The order is that of setns(2): the network
    /// first, while we still have rights over whoever owns it.
    pub(super) fn network(
        &mut self,
        launch: Launch<'_>,
        shared: Option<Shared>,
        manifest: &Container,
        (namespaces, kept): Kept<'_>,
        parts: &mut Parts,
        context: &mut spec::Context,
    ) -> Result<Files, String> {
        let Launch { name, called, id, incarnation } = launch;
        let (shared, owner) = shared.map(|shared| (shared.net, shared.of)).unzip();
        let mode = manifest.network_mode();
        let (mut addresses, mut joined) = (Vec::new(), None);
        match &mode {
            NetworkMode::None => {
                context.network = spec::Netns::Own;
                if let Some(namespaces) = namespaces {
                    let net = dup(&namespaces.net)?;
                    parts.join.push((self.add(net), flags::NEWNET));
                }
            }
            NetworkMode::Host => context.network = spec::Netns::Host,
            NetworkMode::Container(other) => {
                let net = shared
                    .ok_or_else(|| format!("{other}, whose network it shares, does not run"))?;
                context.network = spec::Netns::Shared(PathBuf::from("/proc/self/ns/net"));
                parts.join.push((self.add(net), flags::NEWNET));
            }
            NetworkMode::Namespace(path) => {
                let net = netns::open(path).map_err(|error| error.to_string())?;
                context.network = spec::Netns::Shared(path.clone());
                parts.join.push((self.add(net), flags::NEWNET));
            }
            NetworkMode::Bridge | NetworkMode::Cni(_) => {
                context.network = spec::Netns::Own;
                let net = own(namespaces, kept)?;
                // It may have changed its interfaces itself.
                let anew = manifest.security.cap_add.iter().any(|cap| changes_networks(cap));
                let netns = net.as_fd();
                let wanted = Wanted { name, called, id, incarnation, manifest, netns, anew };
                let networks = &self.workshop.networks;
                match &mode {
                    NetworkMode::Cni(list) => addresses = networks.join_cni(wanted, list)?,
                    _ => joined = Some(networks.join(wanted)?),
                }
                parts.join.push((self.add(net), flags::NEWNET));
            }
        }
        let foreign = context.network != spec::Netns::Own;
        if foreign && manifest.isolation == Isolation::Full {
            // A new sysfs shows the network of whoever mounts it, and may only be
            // mounted by the owner of that network (sysfs(5)): the host's it is.
            let path = Path::new("/sys");
            let sys = rootfs::read_only_clone(path).map_err(|error| error.to_string())?;
            self.add_shared(path, sys, manifest, parts);
        }
        if let Some(namespaces) = namespaces {
            let user = dup(&namespaces.user)?;
            parts.join.push((self.add(user), flags::NEWUSER));
        }
        Ok(match (joined, mode) {
            (Some(etc), _) => Files::Own(etc),
            // A root of the host's own has the host's own files.
            (None, _) if manifest.image.is_none() => Files::None,
            (None, NetworkMode::Container(_)) => Files::Of(owner.unwrap_or_default()),
            (None, _) => Files::Own(Etc::of(called, manifest, &addresses, None, None)),
        })
    }

    /// Mounts the files in `/etc`.
    pub(super) fn etc(
        &mut self,
        dir: &Path,
        files: Files,
        ids: Option<IdMap<'_>>,
        parts: &mut Parts,
        context: &mut spec::Context,
    ) -> Result<(), String> {
        let mounted: Vec<(PathBuf, PathBuf)> = match files {
            Files::None => return Ok(()),
            Files::Own(etc) => etc
                .write(dir)
                .map_err(|error| format!("writing into {}: {error}", dir.display()))?,
            Files::Of(owner) => {
                let dir = self.workshop.paths.etc_dir(&owner);
                ["hosts", "resolv.conf", "hostname"]
                    .into_iter()
                    .map(|name| (Path::new("/etc").join(name), dir.join(name)))
                    .filter(|(_, path)| path.exists())
                    .collect()
            }
        };
        for (target, path) in &mounted {
            let bind = self
                .workshop
                .volumes
                .mount(Source::Path(path), ids, false)
                .map_err(|error| error.to_string())?;
            let index = self.add(bind.mount);
            parts.binds.entry(target.clone()).or_insert((index, true));
        }
        context.etc = mounted.into_iter().collect::<BTreeMap<_, _>>();
        Ok(())
    }
}

fn dup(fd: &OwnedFd) -> Result<OwnedFd, String> {
    fd.try_clone().map_err(|error| format!("dup: {error}"))
}

/// The container's own network namespace.
fn own(namespaces: Option<&Namespaces>, kept: &mut Option<OwnedFd>) -> Result<OwnedFd, String> {
    match (namespaces, &kept) {
        (Some(namespaces), _) => dup(&namespaces.net),
        (None, Some(netns)) => dup(netns),
        (None, None) => {
            let made = netns::make().map_err(|error| error.to_string())?;
            dup(kept.insert(made))
        }
    }
}

fn changes_networks(capability: &str) -> bool {
    let name = capability.to_ascii_uppercase();
    matches!(name.trim_start_matches("CAP_"), "ALL" | "NET_ADMIN" | "SYS_ADMIN")
}
