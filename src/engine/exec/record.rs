//! What is remembered of an exec, and its file.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::engine::terminal::Size;
use crate::manifest::scalar::Name;

/// The format of the files.
pub(super) const VERSION: u32 = 1;

/// What is to be run, as the client said it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Config {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// `NAME=value`, beside the container's.
    pub env: Vec<String>,
    /// Instead of the container's working directory.
    pub workdir: Option<PathBuf>,
    /// Instead of the container's user.
    pub user: Option<String>,
    /// With all capabilities.
    pub privileged: bool,
    /// On a terminal.
    pub tty: bool,
    /// With standard input.
    pub stdin: bool,
    /// With standard output.
    pub stdout: bool,
    /// With standard error.
    pub stderr: bool,
    /// Instead of Ctrl-P Ctrl-Q.
    pub detach_keys: Option<String>,
    /// The size of its terminal, if the one that starts it says none.
    #[serde(default)]
    pub size: Option<Size>,
}

/// What is known of an exec; this is what its file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Exec {
    pub(super) version: u32,
    /// 64 hexadecimal digits.
    pub id: String,
    /// The container.
    pub name: Name,
    /// Its id.
    pub container: String,
    /// When it was made.
    #[serde(default = "long_ago")]
    pub created: SystemTime,
    /// What was asked for.
    pub config: Config,
    /// Whether it was started.
    pub started: bool,
    /// Its process on the host; 0 before it runs.
    pub pid: i32,
    /// How it ended, as a shell says it.
    pub exit: Option<i32>,
    /// When it ended.
    pub finished: Option<SystemTime>,
}

/// An exec that does not say it was made by an older Berth.
fn long_ago() -> SystemTime {
    SystemTime::UNIX_EPOCH
}

impl Exec {
    /// How many bytes its client said, about.
    pub(super) fn size(&self) -> usize {
        let Config { command, env, workdir, user, detach_keys, .. } = &self.config;
        let lists = command.iter().chain(env).map(|one| one.len() + size_of::<String>());
        let workdir = workdir.as_ref().map_or(0, |path| path.as_os_str().len());
        let words = [user, detach_keys].into_iter().flatten().map(String::len);
        lists.sum::<usize>() + workdir + words.sum::<usize>() + size_of::<Exec>()
    }

    /// Whether its process lives.
    pub fn is_running(&self) -> bool {
        self.started && self.exit.is_none()
    }
}

/// `/run` is gone with a reboot, and so is what is written here: no fsync.
pub(super) fn write(dir: &Path, exec: &Exec) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("writing {}: {error}", dir.join(&exec.id).display());
    std::fs::create_dir_all(dir).map_err(fail)?;
    let text = serde_json::to_vec(exec).map_err(|error| fail(error.into()))?;
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir).map_err(fail)?;
    file.write_all(&text).map_err(fail)?;
    file.persist(dir.join(&exec.id)).map_err(|error| fail(error.error))?;
    Ok(())
}
