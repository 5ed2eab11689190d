//! Everything slow about a launch, made ready as descriptors: root, namespaces,
//! cgroup, standard input and output, the plan. Runs on a thread that may block.

mod cgroup;
mod command;
mod context;
mod filters;
mod mounts;
mod network;
mod shared;
mod signs;
mod stdio;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};

use self::cgroup::restrict_devices;
use self::network::Launch;
use super::images::{ImageRoot, Images};
use super::namespaces::{Namespaces, Pool};
use super::networks::Networks;
use super::output::{self, open_fifo};
use super::paths::{Paths, doing};
use super::terminal::Size;
use crate::cgroup::{Cgroup, Parent};
use crate::manifest::model::{Container, Isolation, Sharing, Userns};
use crate::manifest::scalar::Name;
use crate::rootfs::{self, IdMap, Lower, Root, Volumes, Writable};
use crate::sandbox::plan::Plan;
use crate::spec::{self, compile::Parts, devices, users::ResolvedUser};

pub use command::{Inside, Job, Stdio, command};
pub use filters::Filters;
pub use mounts::lower_of;
pub(super) use mounts::{is_directory, seed};
pub use shared::{Other, with_host_name};
pub use signs::Signs;
pub use stdio::Ends;

/// What a container keeps from one launch to the next.
#[derive(Debug, Default)]
pub struct Kept {
    /// Its user and network namespace.
    pub namespaces: Option<Namespaces>,
    /// Its network namespace, if it has the host's user namespace.
    pub netns: Option<OwnedFd>,
    /// Its root, to be mounted once more.
    pub root: Option<Root>,
    /// Its cgroup.
    pub cgroup: Option<Arc<Cgroup>>,
}

/// Another container's network.
#[derive(Debug)]
pub struct Shared {
    /// Its namespace.
    pub net: OwnedFd,
    /// What the other container is kept under.
    pub of: String,
}

/// What is to be launched.
#[derive(Debug)]
pub struct Order {
    /// What the container is kept under.
    pub name: String,
    /// Its name.
    pub called: String,
    /// Its Docker id.
    pub id: String,
    /// The number of this launch.
    pub incarnation: u64,
    /// What the manifest says.
    pub manifest: Arc<Container>,
    /// Throw the writable layer away first.
    pub renew: bool,
    /// The network of the container whose network it shares.
    pub network: Option<Shared>,
    /// The containers some of whose other namespaces it shares, those that run.
    pub others: BTreeMap<Name, Other>,
    /// Listening sockets that it is handed, and their names.
    pub sockets: Vec<(OwnedFd, String)>,
    /// What its image is, if it has one.
    pub image: Option<ImageRoot>,
    /// The layers of the images that it has mounted, by what the manifest calls them.
    pub mounted: BTreeMap<String, Vec<PathBuf>>,
    /// What it has from earlier launches.
    pub kept: Kept,
    /// The size of its terminal, if it has one.
    pub size: Size,
}

/// What the machine has for all launches.
#[derive(Debug, Clone)]
pub struct Workshop {
    /// Where things are.
    pub paths: Arc<Paths>,
    /// Where cgroups are made.
    pub parent: Arc<Parent>,
    /// Where namespaces come from.
    pub pool: Pool,
    /// Where named volumes are.
    pub volumes: Arc<Volumes>,
    /// Where images are.
    pub images: Images,
    /// Which networks there are.
    pub networks: Networks,
    /// What was compiled before.
    pub filters: Filters,
}

impl Workshop {
    /// Whether a container has Berth's init. Where nothing takes the payload along with it,
    /// neither a group nor processes of their own, the payload must be the keeper's own
    /// child: an init between them could only be killed without it.
    pub fn has_init(&self, manifest: &Container) -> bool {
        let goes_along =
            manifest.isolation == Isolation::Full && manifest.namespaces.pid == Sharing::Private;
        manifest.has_init() && (goes_along || self.parent.has_groups())
    }
}

/// Ready for the keeper.
#[derive(Debug)]
pub struct Ready {
    /// The plan, the status file, the error pipe and all that the plan names.
    pub fds: Vec<OwnedFd>,
    /// Closes when the payload was executed, or failed.
    pub error_pipe: OwnedFd,
    /// The plan, to explain a failure by its index.
    pub plan: Plan,
    /// What needs to be told, but keeps nothing from running.
    pub warnings: Vec<String>,
    /// Our ends of its standard input and output.
    pub ends: Ends,
    /// Where it says how it is.
    pub signs: Signs,
}

/// Makes a launch ready. What is kept comes back in any case.
pub fn prepare(workshop: &Workshop, mut order: Order) -> (Kept, Result<Ready, String>) {
    let ready = Preparation::new(workshop).make(&mut order);
    (order.kept, ready)
}

struct Preparation<'a> {
    workshop: &'a Workshop,
    /// Those that the plan counts.
    fds: Vec<OwnedFd>,
    warnings: Vec<String>,
    ends: Ends,
    signs: Signs,
}

impl<'a> Preparation<'a> {
    fn new(workshop: &'a Workshop) -> Self {
        Preparation {
            workshop,
            fds: Vec::new(),
            warnings: Vec::new(),
            ends: Ends::default(),
            signs: Signs::default(),
        }
    }

    fn add(&mut self, fd: impl Into<OwnedFd>) -> usize {
        self.fds.push(fd.into());
        self.fds.len() - 1
    }

    fn make(mut self, order: &mut Order) -> Result<Ready, String> {
        let mut manifest = Arc::clone(&order.manifest);
        if let Some(root) = &order.image {
            super::volumes::add(&order.id, &mut manifest, &root.image.volumes);
        }
        let paths = Arc::clone(&self.workshop.paths);
        let run_dir = paths.container_run_dir(&order.name);
        fs::create_dir_all(&run_dir).map_err(doing("making the folder", &run_dir))?;

        let isolated = manifest.isolation == Isolation::Full;
        let own_ids = isolated && manifest.security.userns == Userns::Auto;
        if isolated {
            self.ids(order, &manifest)?;
            shared::follow_to_host(&order.others, &mut manifest)?;
        }
        let namespaces = order.kept.namespaces.as_ref().filter(|_| own_ids);
        let ids = namespaces
            .map(|namespaces| IdMap { range: namespaces.range, userns: namespaces.user.as_fd() });

        let init = self.workshop.has_init(&manifest);
        let mut parts = Parts { init, ..Parts::default() };
        let writable =
            Writable::at(&paths.state_dir(), &order.id).map_err(|error| error.to_string())?;
        if order.renew {
            order.kept.root = None;
            rootfs::discard(&writable).map_err(|error| error.to_string())?;
        }
        // As with Docker: a container's first launch fills empty volumes, none after it.
        // The upper directory says that it has been, and so is made after that.
        if let Some(image) = &order.image
            && manifest.isolation != Isolation::None
            && !writable.upper().exists()
        {
            seed(&self.workshop.volumes, &manifest, &image.layers)?;
        }
        let mut user = ResolvedUser::root();
        let image = order.image.as_ref();
        let named =
            manifest.user.as_deref().or_else(|| image.map(|i| i.config.config.user.as_str()));
        let named = named.unwrap_or_default();
        if isolated {
            let lower = match image {
                Some(image) => Lower::Layers(image.layers.clone()),
                None => lower_of(&manifest, &paths)?,
            };
            self.root(order.kept.root.take(), &lower, &writable, ids, &mut parts)
                .map(|root| order.kept.root = root)?;
            let root = parts.root.and_then(|index| self.fds.get(index));
            user = resolve_user(named, &manifest.groups, |path| match root {
                Some(root) => rootfs::read_in_root(root.as_fd(), Path::new(path), USERS_MAX)
                    .unwrap_or_default(),
                None => Vec::new(),
            })?;
        } else if manifest.user.is_some() || !manifest.groups.is_empty() {
            user =
                resolve_user(named, &manifest.groups, |path| fs::read(path).unwrap_or_default())?;
        }
        let sources = self.mounts(&manifest, &order.mounted, ids, &mut parts)?;
        for text in &manifest.devices {
            let device: devices::DeviceRequest = text.parse()?;
            parts.devices.insert(device.container, device.host);
        }
        self.cgroup(&order.name, &mut order.kept.cgroup, &manifest, &mut parts)?;

        let mut context = self.context(&order.called, &manifest, user, sources)?;
        context.image = image.map(|image| image.config.defaults()).unwrap_or_default();
        context.ids =
            ids.map(|ids| spec::IdRange { first: ids.range.first, count: ids.range.count });
        if isolated {
            self.share(&order.others, &manifest, ids, &mut parts, &mut context)?;
        }
        let kept = (namespaces, &mut order.kept.netns);
        let launch = Launch {
            name: &order.name,
            called: &order.called,
            id: &order.id,
            incarnation: order.incarnation,
        };
        let named = with_host_name(&manifest, context.hostname.clone());
        let etc =
            self.network(launch, order.network.take(), &named, kept, &mut parts, &mut context)?;
        self.etc(&paths.etc_dir(&order.name), etc, ids, &mut parts, &mut context)?;
        let first = ids.map_or(0, |ids| ids.range.first);
        let owner = (first + context.user.uid, first + context.user.gid);
        let notify = self.signs(&manifest, &run_dir, owner, &mut context, &mut parts)?;
        let spec =
            spec::build_without_filter(&manifest, &context).map_err(|error| error.to_string())?;
        parts.seccomp = self.workshop.filters.of(&manifest, &context)?;
        if let Some(cgroup) = &order.kept.cgroup {
            if isolated && (!own_ids || !manifest.devices.is_empty()) {
                // In a user namespace of its own nobody can make a device; but which use of
                // one that it is given is allowed only the cgroup knows.
                restrict_devices(cgroup, &spec)?;
            }
            self.join(cgroup, &mut parts)?;
        }

        // With a terminal too: what it prints goes on into the first of them.
        let [stdout, stderr, between] = output::paths(&run_dir);
        let stdout = self.add(open_fifo(&stdout, owner)?);
        let stderr = self.add(open_fifo(&stderr, owner)?);
        let between = open_fifo(&between, (0, 0))?;
        if init {
            parts.output = vec![stdout, stderr, self.add(between)];
        }
        if manifest.tty {
            let pty = self.console(first, isolated, order.size, &mut parts)?;
            self.terminal(pty, owner.0, &mut parts)?;
        } else {
            self.stdin(manifest.stdin, owner, &mut parts)?;
            parts.stdio = [parts.stdio[0], stdout, stderr];
        }
        for (socket, name) in order.sockets.drain(..) {
            let index = self.add(socket);
            parts.sockets.push((index, name));
        }
        let mut plan = spec::compile::compile(&spec, &parts).map_err(|error| error.to_string())?;
        // Behind everything that the manifest mounts, which could cover it.
        plan.mounts.extend(notify);
        self.ready(plan, &status_path(&run_dir, order.incarnation))
    }

    fn ready(self, plan: Plan, status: &Path) -> Result<Ready, String> {
        let status_file = File::options()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(status)
            .map_err(doing("making the status file", status))?;
        self.ready_with(plan, status_file.into())
    }

    fn ready_with(self, plan: Plan, status: OwnedFd) -> Result<Ready, String> {
        let memfd = memfd_create(c"berth-plan", MemfdFlags::CLOEXEC)
            .map_err(|error| format!("making the plan's memfd: {error}"))?;
        let mut tape = File::from(memfd);
        tape.write_all(&plan.encode()).map_err(|error| format!("writing the plan: {error}"))?;
        let (error_pipe, error_write) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|error| format!("making a pipe: {error}"))?;
        let mut fds = vec![OwnedFd::from(tape), status, error_write];
        fds.extend(self.fds);
        let (warnings, ends, signs) = (self.warnings, self.ends, self.signs);
        Ok(Ready { fds, error_pipe, plan, warnings, ends, signs })
    }
}

/// The most of /etc/passwd and /etc/group that is read.
pub(super) const USERS_MAX: u64 = 16 << 20;

pub(super) fn resolve_user(
    user: &str,
    groups: &[String],
    read: impl Fn(&str) -> Vec<u8>,
) -> Result<ResolvedUser, String> {
    spec::users::resolve(&read("etc/passwd"), &read("etc/group"), user, groups)
        .map_err(|error| format!("user = {user:?}: {error}"))
}

/// Where the status of a launch is.
pub fn status_path(run_dir: &Path, incarnation: u64) -> PathBuf {
    run_dir.join(format!("{incarnation}.status"))
}
