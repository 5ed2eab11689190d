//! A command for inside a running container, made ready as a launch is: the container's
//! namespaces, cgroup, capabilities and seccomp filter, and standard streams of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};

use super::{Preparation, Ready, USERS_MAX, Workshop, resolve_user, stdio::pipe_from};
use crate::cgroup::Cgroup;
use crate::engine::output;
use crate::engine::paths::doing;
use crate::engine::terminal::{self, Size};
use crate::image::ImageConfig;
use crate::manifest::model::{Container, Isolation, Userns};
use crate::rootfs;
use crate::spec::{self, compile::Parts};

/// A running container that a command is to run in.
#[derive(Debug)]
pub struct Inside {
    /// What the container is kept under.
    pub name: String,
    /// Its name.
    pub called: String,
    /// What it was launched with.
    pub manifest: Arc<Container>,
    /// Its first process.
    pub pidfd: OwnedFd,
    /// The same as a number.
    pub pid: i32,
    /// Its cgroup.
    pub cgroup: Option<Arc<Cgroup>>,
    /// Its image's configuration, if it has one.
    pub image: Option<ImageConfig>,
}

/// A command for inside a running container.
#[derive(Debug, Clone, Default)]
pub struct Job {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Beside the container's environment.
    pub env: Vec<(String, String)>,
    /// Instead of the container's working directory.
    pub workdir: Option<PathBuf>,
    /// Instead of the container's user.
    pub user: Option<String>,
    /// With all capabilities that the container's user namespace gives.
    pub privileged: bool,
    /// Where its standard streams lead.
    pub stdio: Stdio,
}

/// Where the standard streams of a command lead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stdio {
    /// Nothing to read; its output is in the container's log.
    #[default]
    Log,
    /// Pipes of its own, those that are wanted.
    Pipes {
        /// Standard input; nothing to read otherwise.
        stdin: bool,
        /// Standard output; dropped otherwise.
        stdout: bool,
        /// Standard error; dropped otherwise.
        stderr: bool,
    },
    /// A terminal of this size.
    Terminal(Size),
}

/// Makes a command inside a running container ready: its namespaces, its cgroup,
/// its capabilities and seccomp filter.
///
/// # Errors
/// A sentence: the user is not known, the container is gone, or what the system said.
pub fn command(workshop: &Workshop, inside: &Inside, job: Job) -> Result<Ready, String> {
    let mut preparation = Preparation::new(workshop);
    // What is mounted and made in the root is there already.
    let mut manifest = Container {
        command: job.command,
        entrypoint: Some(Vec::new()),
        mounts: Vec::new(),
        devices: Vec::new(),
        tty: matches!(job.stdio, Stdio::Terminal(_)),
        ..(*inside.manifest).clone()
    };
    manifest.env.extend(job.env);
    manifest.workdir = job.workdir.or(manifest.workdir);
    if let Some(user) = job.user {
        manifest.user = Some(user);
        manifest.groups = Vec::new();
    }
    if job.privileged {
        manifest.security.cap_add = vec!["ALL".to_owned()];
        manifest.security.cap_drop = Vec::new();
    }
    let mut parts = Parts::default();
    let isolated = manifest.isolation == Isolation::Full;
    let root = format!("/proc/{}/root", inside.pid);
    let root = File::open(&root).map_err(doing("opening", Path::new(&root)))?;
    let image = inside.image.as_ref();
    let named = manifest.user.as_deref().or_else(|| image.map(|i| i.config.user.as_str()));
    let user = resolve_user(named.unwrap_or_default(), &manifest.groups, |path| {
        rootfs::read_in_root(root.as_fd(), Path::new(path), USERS_MAX).unwrap_or_default()
    })?;
    let first = crate::engine::namespaces::range_of(inside.pid).unwrap_or(0);
    let owner = (first + user.uid, first + user.gid);
    if let Some(cgroup) = &inside.cgroup {
        if cgroup.is_frozen() {
            return Err("the container stands still: it is paused, or being committed".to_owned());
        }
        preparation.join(cgroup, &mut parts)?;
    }
    let mut context = preparation.context(&inside.called, &manifest, user, BTreeMap::new())?;
    context.image = image.map(ImageConfig::defaults).unwrap_or_default();
    let mut spec =
        spec::build_without_filter(&manifest, &context).map_err(|error| error.to_string())?;
    parts.seccomp = workshop.filters.of(&manifest, &context)?;
    preparation.stdio(workshop, inside, job.stdio, root.as_fd(), owner, &mut parts)?;
    if isolated {
        use crate::sys::process::flags;
        // All of them in one call, the user namespace included: the rights to enter
        // the others are those that it gives (setns(2), "pidfd").
        let mut kinds =
            flags::NEWNS | flags::NEWPID | flags::NEWIPC | flags::NEWUTS | flags::NEWCGROUP;
        kinds |= flags::NEWNET;
        if manifest.security.userns == Userns::Auto {
            kinds |= flags::NEWUSER;
        }
        let pidfd = inside.pidfd.try_clone().map_err(|error| format!("dup: {error}"))?;
        parts.join.push((preparation.add(pidfd), kinds));
    }
    // The container has all of this already.
    spec.set_linux(None);
    let plan = spec::compile::compile(&spec, &parts).map_err(|error| error.to_string())?;
    let status = memfd_create(c"berth-status", MemfdFlags::CLOEXEC)
        .map_err(|error| format!("making a memfd: {error}"))?;
    preparation.ready_with(plan, status)
}

impl Preparation<'_> {
    /// The standard streams of a command.
    fn stdio(
        &mut self,
        workshop: &Workshop,
        inside: &Inside,
        stdio: Stdio,
        root: std::os::fd::BorrowedFd<'_>,
        owner: (u32, u32),
        parts: &mut Parts,
    ) -> Result<(), String> {
        match stdio {
            Stdio::Log => {
                self.stdin(false, owner, parts)?;
                let run_dir = workshop.paths.container_run_dir(&inside.name);
                let [stdout, stderr, _] = output::paths(&run_dir);
                for (index, path) in [(1, stdout), (2, stderr)] {
                    let fifo = File::options().read(true).write(true).open(&path);
                    parts.stdio[index] = self.add(fifo.map_err(doing("opening", &path))?);
                }
            }
            Stdio::Pipes { stdin, stdout, stderr } => {
                self.stdin(stdin, owner, parts)?;
                for (index, wanted) in [(1, stdout), (2, stderr)] {
                    if !wanted {
                        let path = Path::new("/dev/null");
                        let null = File::options().write(true).open(path);
                        parts.stdio[index] = self.add(null.map_err(doing("opening", path))?);
                        continue;
                    }
                    let (ours, its) = pipe_from(owner)?;
                    parts.stdio[index] = self.add(its);
                    match index {
                        1 => self.ends.stdout = Some(ours),
                        _ => self.ends.stderr = Some(ours),
                    }
                }
            }
            Stdio::Terminal(size) => {
                let pty = match inside.manifest.isolation {
                    Isolation::Full => terminal::inside(root, size)?,
                    Isolation::None => terminal::host(size)?,
                };
                self.terminal(pty, owner.0, parts)?;
            }
        }
        Ok(())
    }
}
