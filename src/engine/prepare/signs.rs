//! The ways in which a container says how it is: the socket of sd_notify(3), and a
//! pipe on a descriptor of its choice, as s6 has it.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::Preparation;
use crate::engine::paths::doing;
use crate::manifest::model::{Container, Isolation};
use crate::sandbox::plan::{PlanMount, PlanSource};
use crate::spec::{self, compile::Parts};

/// Our ends of both, non-blocking.
#[derive(Debug, Default)]
pub struct Signs {
    /// Where messages of sd_notify(3) arrive.
    pub socket: Option<OwnedFd>,
    /// Readable when it has said that it is ready.
    pub pipe: Option<OwnedFd>,
}

/// Where the socket is in a container with a root of its own.
const INSIDE: &str = "/run/berth-notify";

impl Preparation<'_> {
    /// Makes what the manifest asks for; gives the mount that brings the socket into the
    /// container, if it takes one.
    pub(super) fn signs(
        &mut self,
        manifest: &Container,
        run_dir: &Path,
        owner: (u32, u32),
        context: &mut spec::Context,
        parts: &mut Parts,
    ) -> Result<Option<PlanMount>, String> {
        if let Some(number) = manifest.ready.fd {
            let (ours, its) = super::stdio::pipe_from(owner)?;
            self.signs.pipe = Some(ours);
            parts.ready = Some((self.add(its), number));
        }
        if !manifest.notifies() {
            return Ok(None);
        }
        let path = run_dir.join("notify");
        // One of an earlier run may hold what that run said.
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).map_err(doing("making the socket", &path))?;
        // Writing to it is what connecting takes (unix(7)): the payload's user, and root.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            .and_then(|()| chown(&path, Some(owner.0), Some(owner.1)))
            .and_then(|()| socket.set_nonblocking(true))
            .map_err(doing("giving to the container", &path))?;
        self.signs.socket = Some(socket.into());
        let mut set = |name: &str, value: String| context.env.push((name.to_owned(), value));
        if let Some(period) = manifest.watchdog {
            set("WATCHDOG_USEC", period.as_micros().to_string());
        }
        if manifest.isolation == Isolation::None {
            set("NOTIFY_SOCKET", path.display().to_string());
            return Ok(None);
        }
        set("NOTIFY_SOCKET", INSIDE.to_owned());
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let mount = open_tree(CWD, &path, flags).map_err(|e| doing("cloning", &path)(e.into()))?;
        crate::sys::mount::make_private(mount.as_fd(), false).map_err(doing("cloning", &path))?;
        Ok(Some(PlanMount {
            source: PlanSource::Descriptor(self.add(mount)),
            attributes: 0,
            target: INSIDE.to_owned(),
            file: true,
            optional: false,
        }))
    }
}
