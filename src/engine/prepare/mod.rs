//! Everything slow about a launch, made ready as descriptors: root, namespaces,
//! cgroup, standard input and output, the plan. Runs on a thread that may block.

mod command;
mod network;
mod shared;
mod signs;
mod stdio;

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};

use self::network::Launch;
use super::images::{ImageRoot, Images};
use super::namespaces::{Namespaces, Pool};
use super::networks::Networks;
use super::output::{self, open_fifo};
use super::paths::{Paths, doing};
use super::terminal::Size;
use crate::cgroup::{Cgroup, Parent};
use crate::manifest::model::{Container, Isolation, Mount, MountKind, Sharing, Userns};
use crate::manifest::scalar::Name;
use crate::rootfs::{self, Bind, IdMap, Lower, Root, Source, Volumes, Writable};
use crate::sandbox::plan::Plan;
use crate::spec::{self, CgroupVersion, compile::Parts, devices, users::ResolvedUser};

pub use command::{Inside, Job, Stdio, command};
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

    /// The root: once more the one that is kept, or a new one.
    fn root(
        &mut self,
        kept: Option<Root>,
        lower: &Lower,
        writable: &Writable,
        ids: Option<IdMap<'_>>,
        parts: &mut Parts,
    ) -> Result<Option<Root>, String> {
        let again = match &kept {
            Some(root) => root.again().map_err(|error| error.to_string())?,
            None => None,
        };
        let (mounts, root) = match again {
            Some(mounts) => (mounts, kept),
            None => {
                drop(kept);
                let root =
                    rootfs::prepare(lower, writable, ids).map_err(|error| error.to_string())?;
                for path in &root.unmapped {
                    self.warnings.push(format!(
                        "{} can't be idmapped: its files belong to nobody in the container; \
                         another file system can (ext4, xfs, btrfs, from Linux 6.3 on tmpfs), or \
                         say userns = \"host\"",
                        path.display()
                    ));
                }
                match root.again().map_err(|error| error.to_string())? {
                    Some(mounts) => (mounts, Some(root)),
                    None => (root.mounts, None),
                }
            }
        };
        parts.root = Some(self.add(mounts.root));
        for submount in mounts.submounts {
            let file = !is_directory(submount.mount.as_fd());
            let index = self.add(submount.mount);
            parts.submounts.push((submount.target, file, index));
        }
        Ok(root)
    }

    /// Volumes and bind mounts as detached mounts; gives the host's path of each
    /// source.
    fn mounts(
        &mut self,
        manifest: &Container,
        images: &BTreeMap<String, Vec<PathBuf>>,
        ids: Option<IdMap<'_>>,
        parts: &mut Parts,
    ) -> Result<BTreeMap<String, PathBuf>, String> {
        let mut sources = BTreeMap::new();
        if manifest.isolation == Isolation::None {
            return Ok(sources);
        }
        let volumes = &self.workshop.volumes;
        for mount in &manifest.mounts {
            let Some(text) = &mount.source else { continue };
            let source = match mount.kind() {
                MountKind::Image => {
                    let layers = images.get(text).map(Vec::as_slice).unwrap_or_default();
                    let view = rootfs::image_view(layers, mount.subpath.as_deref(), ids)
                        .map_err(|error| format!("the image {text}: {error}"))?;
                    sources.insert(text.clone(), layers.first().cloned().unwrap_or_default());
                    self.bind(mount, view, parts);
                    continue;
                }
                MountKind::Volume => {
                    volumes.for_mount(text, &mount.options).map_err(|error| error.to_string())?;
                    let data = volumes.data(text).map_err(|error| error.to_string())?;
                    sources.insert(text.clone(), data);
                    match &mount.subpath {
                        Some(path) => Source::Part(text, path),
                        None => Source::Volume(text),
                    }
                }
                MountKind::Bind => Source::Path(Path::new(text)),
                MountKind::Tmpfs => continue,
            };
            let bind =
                volumes.mount(source, ids, mount.read_only).map_err(|error| error.to_string())?;
            self.bind(mount, bind, parts);
        }
        Ok(sources)
    }

    fn bind(&mut self, mount: &Mount, bind: Bind, parts: &mut Parts) {
        if !bind.idmapped {
            self.warnings.push(format!(
                "the file system of {} can't be idmapped: at {} its files belong to nobody in \
                 the container; another file system can, or say userns = \"host\"",
                mount.source.as_deref().unwrap_or_default(),
                mount.target.display()
            ));
        }
        let index = self.add(bind.mount);
        parts.binds.insert(mount.target.clone(), (index, !bind.directory));
    }

    fn cgroup(
        &mut self,
        name: &str,
        kept: &mut Option<Arc<Cgroup>>,
        manifest: &Container,
        parts: &mut Parts,
    ) -> Result<(), String> {
        let cgroup = match kept.take() {
            Some(cgroup) => {
                cgroup.renew().map_err(|error| error.to_string())?;
                cgroup
            }
            None => Arc::new(
                Cgroup::create(&self.workshop.parent, name).map_err(|error| error.to_string())?,
            ),
        };
        let cgroup = kept.insert(cgroup);
        let warnings = cgroup.apply(&manifest.resources).map_err(|error| error.to_string())?;
        self.warnings.extend(warnings);
        parts.cgroup_v1 = self.workshop.parent.v1_mounts(cgroup);
        parts.has_cgroup_v1 = self.workshop.parent.version() != CgroupVersion::V2;
        Ok(())
    }

    /// The way into the cgroup: last, for it may have got a controller more.
    fn join(&mut self, cgroup: &Cgroup, parts: &mut Parts) -> Result<(), String> {
        let join = cgroup.join().map_err(|error| error.to_string())?;
        parts.cgroup = join.v2.map(|fd| self.add(fd));
        parts.cgroup_procs = join.v1.into_iter().map(|fd| self.add(fd)).collect();
        Ok(())
    }

    fn context(
        &self,
        name: &str,
        manifest: &Container,
        user: ResolvedUser,
        sources: BTreeMap<String, PathBuf>,
    ) -> Result<spec::Context, String> {
        let mut env = Vec::new();
        for path in &manifest.env_file {
            let bytes = fs::read(path).map_err(doing("reading the env-file", path))?;
            // A name alone would take its value from whoever started Berth.
            let lines = spec::env_file::parse(&bytes, |_| None)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            env.extend(lines);
        }
        let mut host_devices = BTreeMap::new();
        for text in &manifest.devices {
            let request: devices::DeviceRequest = text.parse()?;
            let device = host_device(&request.host)?;
            host_devices.insert(request.host, device);
        }
        let profile = match manifest.security.seccomp.as_str() {
            "default" | "unconfined" => None,
            text if text.starts_with('{') => Some(text.as_bytes().to_vec()),
            path => Some(
                fs::read(path).map_err(doing("reading the seccomp profile", Path::new(path)))?,
            ),
        };
        Ok(spec::Context {
            name: name.to_owned(),
            hostname: None,
            root: PathBuf::from("rootfs"),
            ids: None,
            user,
            env,
            sources,
            devices: host_devices,
            network: spec::Netns::Own,
            has_mqueue: false,
            cgroup_version: self.workshop.parent.version(),
            cgroups_path: None,
            seccomp_profile: profile,
            kernel: kernel_version(),
            image: spec::ImageDefaults::default(),
            etc: BTreeMap::new(),
            open_files: open_files(),
            oom_score_adj: oom_score_adj(),
        })
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

/// Fills the volumes of a container that was never launched, as far as they are empty,
/// with what its image has at their places.
pub(super) fn seed(
    volumes: &Volumes,
    manifest: &Container,
    layers: &[PathBuf],
) -> Result<(), String> {
    // A part of a volume is there already, or is missed.
    let whole = |mount: &&Mount| {
        mount.kind() == MountKind::Volume && mount.subpath.is_none() && !mount.no_copy
    };
    for mount in manifest.mounts.iter().filter(whole) {
        if let Some(name) = &mount.source {
            volumes
                .for_mount(name, &mount.options)
                .and_then(|_| volumes.seed(name, layers, &mount.target))
                .map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Who protects Berth from the kernel's choice of whom to end for lack of memory does not
/// mean its containers.
fn oom_score_adj() -> Option<i32> {
    let own = fs::read_to_string("/proc/self/oom_score_adj").ok()?;
    own.trim().parse::<i32>().is_ok_and(|own| own < 0).then_some(0)
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

/// Compiled seccomp filters: most containers have the same one.
#[derive(Debug, Clone, Default)]
pub struct Filters(Arc<Mutex<VecDeque<Compiled>>>);

/// A filter, and its program for seccomp(2).
type Compiled = (spec::Filter, Vec<u8>);

impl Filters {
    /// As many as there may be different ones in use.
    const KEPT: usize = 8;

    /// The filter of a container, for seccomp(2); empty when it has none.
    fn of(&self, manifest: &Container, context: &spec::Context) -> Result<Vec<u8>, String> {
        let filter = spec::Filter::of(manifest, context).map_err(|error| error.to_string())?;
        // A lock that somebody died with still holds whole entries.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, program)) = known.iter().find(|(other, _)| *other == filter) {
            return Ok(program.clone());
        }
        let program = match filter.profile().map_err(|error| error.to_string())? {
            None => Vec::new(),
            Some(profile) => {
                spec::seccomp::compile(&profile).map_err(|error| error.to_string())?.to_bytes()
            }
        };
        known.truncate(Self::KEPT - 1);
        known.push_front((filter, program.clone()));
        Ok(program)
    }
}

fn restrict_devices(cgroup: &Cgroup, spec: &oci_spec::runtime::Spec) -> Result<(), String> {
    let linux = spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    match resources.and_then(|resources| resources.devices().as_ref()) {
        Some(rules) => cgroup.restrict_devices(rules).map_err(|error| error.to_string()),
        None => Ok(()),
    }
}

fn host_device(path: &Path) -> Result<devices::HostDevice, String> {
    let meta = fs::metadata(path).map_err(doing("looking at the device", path))?;
    let kind = meta.file_type();
    let kind = if kind.is_char_device() {
        devices::DeviceKind::Char
    } else if kind.is_block_device() {
        devices::DeviceKind::Block
    } else {
        return Err(format!("{} is not a device", path.display()));
    };
    Ok(devices::HostDevice {
        kind,
        major: rustix::fs::major(meta.rdev()),
        minor: rustix::fs::minor(meta.rdev()),
        mode: meta.permissions().mode() & 0o7777,
    })
}

fn kernel_version() -> spec::KernelVersion {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    spec::KernelVersion(numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The soft limit that select(2) can live with, as everywhere; whoever can use more
/// raises it. The hard one is Berth's own.
fn open_files() -> Option<(u64, u64)> {
    const SOFT: u64 = 1024;
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let hard = own.maximum.unwrap_or(u64::MAX);
    Some((hard.min(SOFT), hard))
}

/// Whether a mount is a directory.
pub(super) fn is_directory(fd: std::os::fd::BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory
    })
}

/// What the root of a container without an image lies over: a directory, or the host.
///
/// # Errors
/// The manifest names none.
pub fn lower_of(manifest: &Container, paths: &Paths) -> Result<Lower, String> {
    let rootfs = manifest.rootfs.as_deref().ok_or("it has no root filesystem")?;
    let own = [paths.state_dir(), paths.run_dir(), paths.logs_dir()]
        .into_iter()
        .chain(paths.manifest_dirs())
        .collect();
    Ok(Lower::of_rootfs(rootfs, manifest.expose.clone(), own))
}

/// Where the status of a launch is.
pub fn status_path(run_dir: &Path, incarnation: u64) -> PathBuf {
    run_dir.join(format!("{incarnation}.status"))
}
