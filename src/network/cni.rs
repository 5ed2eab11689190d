//! CNI plugins: a network that somebody else's programs make (CNI specification 1.0,
//! sections 1 to 5). The list of plugins comes from the administrator; what they
//! answer is checked as anything from outside.

use std::fs;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error::{Error, Result};

/// Where plugins are looked for, in this order.
pub const PLUGINS: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];
/// An answer longer than this is not read on.
const LONGEST: usize = 1 << 20;
/// How long a plugin may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A network configuration list.
#[derive(Debug, Clone, PartialEq)]
pub struct Conflist {
    name: String,
    version: String,
    plugins: Vec<Map<String, Value>>,
    patience: Duration,
}

/// One container's place on a CNI network.
#[derive(Debug, Clone, Copy)]
pub struct Attachment<'a> {
    /// The container's identity, stable over ADD and DEL.
    pub container: &'a str,
    /// The path of its network namespace, such as `/proc/PID/ns/net`; `None` for a
    /// DEL after it has gone.
    pub netns: Option<&'a Path>,
    /// The interface in it.
    pub interface: &'a str,
}

/// What ADD gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Added {
    /// The container's addresses.
    pub addresses: Vec<IpAddr>,
    /// The whole answer, to be kept for CHECK and DEL.
    pub result: Value,
}

/// Gives a plugin its input, hears what it answers, and how it ends; TimedOut when all
/// that takes too long. A plugin that reads nothing says why by its answer; one that
/// leaves something running behind it has answered when it has ended itself.
fn converse(
    child: &mut Child,
    input: &[u8],
    patience: Duration,
) -> io::Result<(ExitStatus, Vec<u8>)> {
    let deadline = Instant::now() + patience;
    let pidfd = rustix::process::pidfd_open(
        rustix::process::Pid::from_child(child),
        rustix::process::PidfdFlags::empty(),
    )?;
    let (mut stdin, mut stdout) = (child.stdin.take(), child.stdout.take());
    for end in [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd)] {
        end.map(|end| rustix::io::ioctl_fionbio(end, true)).transpose()?;
    }
    let (mut rest, mut answer) = (input, Vec::new());
    loop {
        // Before its output is read, so that nothing is missed.
        let has_ended = is_readable(pidfd.as_fd(), Duration::ZERO)?;
        if let Some(pipe) = &mut stdin {
            match pipe.write(rest) {
                Ok(length) => rest = rest.get(length..).unwrap_or_default(),
                Err(error) if is_later(&error) => {}
                Err(_) => rest = &[],
            }
            if rest.is_empty() {
                stdin = None;
            }
        }
        if let Some(pipe) = &mut stdout
            && is_read(pipe, &mut answer)?
        {
            stdout = None;
        }
        if has_ended {
            return Ok((child.wait()?, answer));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let is_over = left.is_zero();
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut any = vec![PollFd::new(&pidfd, PollFlags::IN)];
        any.extend(stdout.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        any.extend(stdin.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
        if is_over || rustix::io::retry_on_intr(|| poll(&mut any, Some(&left)))? == 0 {
            let why = format!("it did not end within {}", humantime::format_duration(patience));
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn is_readable(fd: BorrowedFd<'_>, within: Duration) -> io::Result<bool> {
    let within = Timespec::try_from(within).map_err(io::Error::other)?;
    let mut one = [PollFd::new(&fd, PollFlags::IN)];
    Ok(rustix::io::retry_on_intr(|| poll(&mut one, Some(&within)))? > 0)
}

/// Reads what is there; says whether that was all.
fn is_read(pipe: &mut impl Read, answer: &mut Vec<u8>) -> io::Result<bool> {
    let mut bytes = [0; 8192];
    loop {
        match pipe.read(&mut bytes) {
            Ok(0) => return Ok(true),
            Ok(length) => answer.extend_from_slice(&bytes[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_later(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
        if answer.len() > LONGEST {
            return Err(io::Error::other("its answer is longer than 1 MiB"));
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    cni_version: String,
    name: String,
    plugins: Vec<Map<String, Value>>,
}

impl Conflist {
    /// Reads a list from its JSON text.
    pub fn parse(text: &str) -> std::result::Result<Conflist, String> {
        let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if file.plugins.is_empty() {
            return Err("it has no plugins".into());
        }
        for plugin in &file.plugins {
            // The type becomes a file's name.
            let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
            if kind.is_empty() || kind.starts_with('.') || kind.contains('/') {
                return Err(format!("{kind:?} is not a plugin's type"));
            }
        }
        Ok(Conflist {
            name: file.name,
            version: file.cni_version,
            plugins: file.plugins,
            patience: PATIENCE,
        })
    }

    /// Waits for each plugin so long and no longer.
    pub fn with_patience(self, patience: Duration) -> Conflist {
        Conflist { patience, ..self }
    }

    /// Finds the list of this name among the `.conflist` files of a directory.
    pub fn find(dir: &Path, name: &str) -> Result<Conflist> {
        let shown = || format!("{name} in {}", dir.display());
        let failed = |error| Error::new("find the CNI network", shown(), error);
        let mut paths: Vec<PathBuf> = fs::read_dir(dir)
            .map_err(failed)?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "conflist"))
            .collect();
        paths.sort();
        let mut wrong = Vec::new();
        for path in paths {
            let text = fs::read_to_string(&path).map_err(|error| error.to_string());
            match text.and_then(|text| Conflist::parse(&text)) {
                Ok(list) if list.name == name => return Ok(list),
                Ok(_) => {}
                Err(error) => wrong.push(format!("{}: {error}", path.display())),
            }
        }
        let why = if wrong.is_empty() { "there is none".into() } else { wrong.join("; ") };
        Err(Error::refused("find the CNI network", shown(), why))
    }

    /// Runs ADD of each plugin in turn, the answer of one given to the next. When one
    /// fails, what the earlier ones did is taken back.
    pub fn add(&self, plugins: &[PathBuf], attachment: Attachment<'_>) -> Result<Added> {
        let mut result = None;
        for plugin in &self.plugins {
            match self.run(plugins, plugin, "ADD", attachment, result.as_ref()) {
                Ok(answer) => result = Some(answer),
                Err(error) => {
                    let _ = self.delete(plugins, attachment, result.as_ref());
                    return Err(error);
                }
            }
        }
        let result = result.unwrap_or(Value::Null);
        let addresses = result["ips"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
            .collect();
        Ok(Added { addresses, result })
    }

    /// Runs CHECK of each plugin.
    pub fn check(
        &self,
        plugins: &[PathBuf],
        attachment: Attachment<'_>,
        result: &Value,
    ) -> Result<()> {
        for plugin in &self.plugins {
            self.run(plugins, plugin, "CHECK", attachment, Some(result))?;
        }
        Ok(())
    }

    /// Runs DEL of each plugin, the last first; all of them, also when one fails.
    pub fn delete(
        &self,
        plugins: &[PathBuf],
        attachment: Attachment<'_>,
        result: Option<&Value>,
    ) -> Result<()> {
        let mut outcome = Ok(());
        for plugin in self.plugins.iter().rev() {
            let deleted = self.run(plugins, plugin, "DEL", attachment, result);
            if outcome.is_ok() {
                outcome = deleted.map(|_| ());
            }
        }
        outcome
    }

    fn run(
        &self,
        plugins: &[PathBuf],
        plugin: &Map<String, Value>,
        verb: &str,
        attachment: Attachment<'_>,
        previous: Option<&Value>,
    ) -> Result<Value> {
        let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
        let about = format!("{verb} of the CNI plugin {kind}");
        let failed = |error| Error::new("run", &about, error);
        let program =
            plugins.iter().map(|dir| dir.join(kind)).find(|path| path.is_file()).ok_or_else(
                || {
                    Error::refused("run", &about, "there is no such program")
                        .with_remedy("install the plugins (Debian: containernetworking-plugins)")
                },
            )?;
        let mut input = plugin.clone();
        input.insert("cniVersion".into(), json!(self.version));
        input.insert("name".into(), json!(self.name));
        if let Some(previous) = previous {
            input.insert("prevResult".into(), previous.clone());
        }
        let path = std::env::join_paths(plugins).unwrap_or_default();
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", attachment.container)
            .env("CNI_IFNAME", attachment.interface)
            .env("CNI_PATH", path)
            // It may start others: they end with it.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if let Some(netns) = attachment.netns {
            command.env("CNI_NETNS", netns);
        }
        let mut child = command.spawn().map_err(failed)?;
        let input = Value::Object(input).to_string();
        let finished = converse(&mut child, input.as_bytes(), self.patience);
        if finished.is_err() {
            let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            let _ = child.wait();
        }
        let (status, answer) = finished.map_err(failed)?;
        let answer: Value = serde_json::from_slice(&answer).unwrap_or(Value::Null);
        if status.success() {
            return Ok(answer);
        }
        // Section 5, "error".
        let words = ["msg", "details"].map(|key| answer[key].as_str().unwrap_or_default());
        let why = format!("{status}: {}", words.join(" "));
        Err(Error::refused("run", &about, why.trim_end_matches([' ', ':'])))
    }
}
