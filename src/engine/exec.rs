//! Commands that clients run inside containers (Docker's exec): each has an id, can be
//! asked about while its container lives, and a file under `/run` from which the next
//! engine knows it. Its process is the keeper's child; so is its exit status until it
//! stands in that file, and a terminal's master is held by the keeper.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::sync::{oneshot, watch};

use super::failure::{refusal, sentence};
use super::flight::{Flight, Outcome};
use super::handle::{Refusal, View};
use super::prepare::{Ends, Job, Ready, Stdio};
use super::run::{Engine, InFlight, Purpose};
use super::terminal::{self, Size};
use crate::keeper::protocol::Message;
use crate::manifest::scalar::Name;
use crate::sandbox::plan::Plan;
use crate::sandbox::status::Status;
use crate::sys::readiness;

/// The format of the files.
const VERSION: u32 = 1;
/// Beyond so many that are remembered, a further one is refused.
const MOST: usize = 4096;
/// The same for what they say together, in bytes: each of them is here and in `/run`.
const MOST_BYTES: usize = 64 << 20;
/// So long after its end an exec can be asked about, as with Docker.
const REMEMBERED: Duration = Duration::from_secs(300);

/// How long a client may take to come back to its terminal after our death.
const COMES_BACK: Duration = Duration::from_secs(10);

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
    version: u32,
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
    fn size(&self) -> usize {
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

/// A started exec, for the client that talks to it.
#[derive(Debug)]
pub struct Session {
    /// Our ends of its streams.
    pub ends: Ends,
    /// Becomes its exit status when it has ended.
    pub ended: watch::Receiver<Option<i32>>,
    /// Changes when another client joins its terminal.
    pub joined: watch::Receiver<()>,
}

/// Whoever had it is gone, also if that was before they had anything of it.
impl Drop for Session {
    fn drop(&mut self) {
        self.drain(Duration::ZERO);
    }
}

impl Session {
    /// Its client may come back: it is given so long before what comes is dropped.
    pub fn leave(mut self, grace: Duration) {
        self.drain(grace);
    }

    /// Nobody listens to a terminal: what it prints is dropped, so that the program on
    /// it goes on, until somebody joins.
    fn drain(&mut self, grace: Duration) {
        let Some(master) = self.ends.terminal.take() else { return };
        if self.ended.borrow().is_some() {
            return;
        }
        let (mut joined, mut ended) = (self.joined.clone(), self.ended.clone());
        joined.mark_unchanged();
        tokio::task::spawn_local(async move {
            let drain = async {
                tokio::time::sleep(grace).await;
                let Ok(master) = readiness::watch(master, Interest::READABLE) else { return };
                let mut bytes = [0u8; 4096];
                loop {
                    let Ok(mut guard) = master.readable().await else { return };
                    match rustix::io::read(master.get_ref(), &mut bytes[..]) {
                        Err(rustix::io::Errno::AGAIN) => guard.clear_ready(),
                        Ok(0) | Err(_) => return,
                        Ok(_) => tokio::task::coop::consume_budget().await,
                    }
                }
            };
            tokio::select! {
                () = drain => {}
                _ = joined.changed() => {}
                _ = ended.wait_for(Option::is_some) => {}
            }
        });
    }
}

/// What clients ask about execs.
#[derive(Debug)]
pub enum ExecRequest {
    /// Make one known; answers with its id.
    Create(String, Box<Config>, oneshot::Sender<Result<String, Refusal>>),
    /// What is known of it.
    Find(String, oneshot::Sender<Result<Exec, Refusal>>),
    /// Run it, detached from any client or not, on a terminal of this size. Answered
    /// when it runs.
    Start(String, bool, Option<Size>, oneshot::Sender<Result<Session, Refusal>>),
    /// Talk to a terminal whose client is gone.
    Join(String, oneshot::Sender<Result<Session, Refusal>>),
    /// Tell its terminal its size.
    Resize(String, Size, oneshot::Sender<Result<(), Refusal>>),
}

#[derive(Debug)]
struct Entry {
    exec: Exec,
    ends: Ends,
    size: Option<Size>,
    ended: watch::Sender<Option<i32>>,
    joined: watch::Sender<()>,
    asked: Option<oneshot::Sender<Result<Session, Refusal>>>,
}

impl Entry {
    fn new(exec: Exec) -> Self {
        let ended = watch::Sender::new(exec.exit);
        let joined = watch::Sender::new(());
        Entry { exec, ends: Ends::default(), size: None, ended, joined, asked: None }
    }
}

/// All execs that are remembered.
#[derive(Debug)]
pub(super) struct Execs {
    dir: PathBuf,
    entries: HashMap<String, Entry>,
}

impl Execs {
    /// Those that an engine before us left.
    pub fn load(dir: &Path) -> Self {
        let mut entries = HashMap::new();
        for file in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let read = std::fs::read(file.path()).ok();
            match read.and_then(|text| serde_json::from_slice::<Exec>(&text).ok()) {
                Some(exec) if exec.version == VERSION => {
                    entries.insert(exec.id.clone(), Entry::new(exec));
                }
                // Cut off, or of another version: nothing lives by it.
                _ => drop(std::fs::remove_file(file.path())),
            }
        }
        Execs { dir: dir.to_owned(), entries }
    }

    fn save(&self, id: &str) {
        let Some(entry) = self.entries.get(id) else { return };
        if let Err(error) = write(&self.dir, &entry.exec) {
            tracing::warn!("{error}; an engine after this one will not know that exec");
        }
    }

    fn forget(&mut self, id: &str) {
        self.entries.remove(id);
        let _ = std::fs::remove_file(self.dir.join(id));
    }

    /// Forgets what ended long ago, and where there is no room for one more of this size, a
    /// part of what does not run: that was made or ended first. Whether there is room then.
    fn make_room(&mut self, size: usize) -> bool {
        let now = SystemTime::now();
        let room = Room { count: MOST - 1, bytes: MOST_BYTES.saturating_sub(size) };
        let all = self.entries.values().map(|entry| &entry.exec);
        for id in superfluous(all, now, room) {
            self.forget(&id);
        }
        let left: usize = self.entries.values().map(|entry| entry.exec.size()).sum();
        self.entries.len() <= room.count && left <= room.bytes
    }

    /// The ids of the execs that run in a container.
    pub fn running_in(&self, name: &Name) -> Vec<String> {
        let runs = |entry: &&Entry| entry.exec.name == *name && entry.exec.is_running();
        self.entries.values().filter(runs).map(|entry| entry.exec.id.clone()).collect()
    }

    /// A container that does not run is kept under another name.
    pub fn rename(&mut self, name: &Name, to: &Name) {
        let mut ids = Vec::new();
        for entry in self.entries.values_mut().filter(|entry| entry.exec.name == *name) {
            to.clone_into(&mut entry.exec.name);
            ids.push(entry.exec.id.clone());
        }
        for id in ids {
            self.save(&id);
        }
    }

    /// A container is gone, and its execs with it.
    pub fn forget_container(&mut self, name: &Name) {
        let of = |entry: &&Entry| entry.exec.name == *name;
        let ids: Vec<String> =
            self.entries.values().filter(of).map(|entry| entry.exec.id.clone()).collect();
        for id in ids {
            self.forget(&id);
        }
    }

    fn get(&mut self, id: &str) -> Result<&mut Entry, Refusal> {
        self.entries
            .get_mut(id)
            .ok_or_else(|| Refusal::NotFound(format!("No such exec instance: {id}")))
    }
}

/// How many execs there may be, and how many bytes they may say together.
#[derive(Debug, Clone, Copy)]
struct Room {
    count: usize,
    bytes: usize,
}

/// Which of these are to be forgotten: those that ended long ago, and if what that leaves
/// has no room, of those that do not run the older half, and more while that is too much
/// still.
fn superfluous<'a>(
    all: impl Iterator<Item = &'a Exec> + Clone,
    now: SystemTime,
    room: Room,
) -> Vec<String> {
    let age = |since: Option<SystemTime>| since.and_then(|at| now.duration_since(at).ok());
    let is_old = |exec: &&Exec| age(exec.finished).is_some_and(|age| age > REMEMBERED);
    let (old, all): (Vec<&Exec>, Vec<&Exec>) = all.partition(is_old);
    let mut bytes: usize = all.iter().map(|exec| exec.size()).sum();
    let mut going = old;
    if all.len() > room.count || bytes > room.bytes {
        let mut resting: Vec<&Exec> = all.into_iter().filter(|exec| !exec.is_running()).collect();
        resting.sort_by_key(|exec| exec.finished.unwrap_or(exec.created));
        let half = resting.len().div_ceil(2);
        for (at, exec) in resting.into_iter().enumerate() {
            if at >= half && bytes <= room.bytes {
                break;
            }
            bytes -= exec.size();
            going.push(exec);
        }
    }
    going.into_iter().map(|exec| exec.id.clone()).collect()
}

/// `/run` is gone with a reboot, and so is what is written here: no fsync.
fn write(dir: &Path, exec: &Exec) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("writing {}: {error}", dir.join(&exec.id).display());
    std::fs::create_dir_all(dir).map_err(fail)?;
    let text = serde_json::to_vec(exec).map_err(|error| fail(error.into()))?;
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir).map_err(fail)?;
    file.write_all(&text).map_err(fail)?;
    file.persist(dir.join(&exec.id)).map_err(|error| fail(error.error))?;
    Ok(())
}

/// 64 hexadecimal digits that nobody can guess.
pub fn random_id() -> std::io::Result<String> {
    let mut bytes = [0u8; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(hex::encode(bytes))
}

impl Engine {
    pub(super) fn answer_exec(&mut self, request: ExecRequest) {
        match request {
            ExecRequest::Create(which, config, answer) => {
                let made = self.of(&which).and_then(|name| self.create_exec(name, *config));
                let _ = answer.send(made);
            }
            ExecRequest::Find(id, answer) => {
                let _ = answer.send(self.execs.get(&id).map(|entry| entry.exec.clone()));
            }
            ExecRequest::Start(id, detach, size, answer) => {
                if let Err((refusal, answer)) = self.start_exec(&id, detach, size, answer) {
                    let _ = answer.send(Err(refusal));
                }
            }
            ExecRequest::Join(id, answer) => {
                let joined = self.execs.get(&id).and_then(|entry| {
                    entry.joined.send_replace(());
                    session(entry)
                });
                let _ = answer.send(joined);
            }
            ExecRequest::Resize(id, size, answer) => {
                let _ = answer.send(self.resize_exec(&id, size));
            }
        }
    }

    /// The container must run, and not be frozen.
    fn ready_for_exec(&self, view: &View) -> Result<(), Refusal> {
        match view.state.as_str() {
            "running" => Ok(()),
            "paused" => Err(Refusal::Conflict(format!(
                "Container {} is paused, unpause the container before exec",
                view.id
            ))),
            "restarting" => Err(Refusal::Conflict(format!(
                "Container {} is restarting, wait until the container is running",
                view.id
            ))),
            _ => Err(Refusal::Conflict(format!("container {} is not running", view.id))),
        }
    }

    fn create_exec(&mut self, name: Name, config: Config) -> Result<String, Refusal> {
        let view = self.view_of(&name)?;
        self.ready_for_exec(&view)?;
        if config.command.first().is_none_or(String::is_empty) {
            return Err(Refusal::Invalid("No exec command specified".to_owned()));
        }
        let id = random_id().map_err(|error| Refusal::Failed(format!("making an id: {error}")))?;
        let command = config.command.join(" ");
        let exec = Exec {
            version: VERSION,
            id: id.clone(),
            name: name.clone(),
            container: view.id,
            created: SystemTime::now(),
            config,
            started: false,
            pid: 0,
            exit: None,
            finished: None,
        };
        if !self.execs.make_room(exec.size()) {
            return Err(Refusal::Failed(format!(
                "{MOST} execs run, or say more than {} MiB together; there is no room for more",
                MOST_BYTES >> 20
            )));
        }
        self.execs.entries.insert(id.clone(), Entry::new(exec));
        self.execs.save(&id);
        self.tell(&name, &format!("exec_create: {command}"), [("execID", id.clone())]);
        Ok(id)
    }

    #[allow(clippy::type_complexity)]
    fn start_exec(
        &mut self,
        id: &str,
        detach: bool,
        size: Option<Size>,
        answer: oneshot::Sender<Result<Session, Refusal>>,
    ) -> Result<(), (Refusal, oneshot::Sender<Result<Session, Refusal>>)> {
        let checked = self.execs.get(id).and_then(|entry| match entry.exec.started {
            true if entry.exec.exit.is_some() => {
                Err(Refusal::Conflict(format!("Error: Exec command {id} has already run")))
            }
            true => Err(Refusal::Conflict(format!("Error: Exec command {id} is already running"))),
            false => Ok((entry.exec.name.clone(), entry.exec.config.clone(), entry.size)),
        });
        let checked = checked.and_then(|(name, config, earlier)| {
            let view = self.view_of(&name)?;
            self.ready_for_exec(&view)?;
            Ok((name, config, earlier))
        });
        let (name, config, earlier) = match checked {
            Ok(checked) => checked,
            Err(refusal) => return Err((refusal, answer)),
        };
        let stdio = match config.tty {
            true => Stdio::Terminal(size.or(earlier).unwrap_or_default()),
            false => Stdio::Pipes {
                stdin: config.stdin && !detach,
                stdout: config.stdout && !detach,
                stderr: config.stderr && !detach,
            },
        };
        let job = Job {
            command: config.command.clone(),
            env: config
                .env
                .iter()
                .filter_map(|variable| variable.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            workdir: config.workdir.clone(),
            user: config.user.clone(),
            privileged: config.privileged,
            stdio,
        };
        if let Ok(entry) = self.execs.get(id) {
            entry.exec.started = true;
            entry.asked = Some(answer);
        }
        self.execs.save(id);
        let command = config.command.join(" ");
        self.tell(&name, &format!("exec_start: {command}"), [("execID", id.to_owned())]);
        let incarnation = self.observed.record(&name).map_or(0, |record| record.incarnation);
        self.command(name, incarnation, job, Purpose::Exec(id.to_owned()));
        Ok(())
    }

    pub(super) fn exec_ready(
        &mut self,
        name: Name,
        id: String,
        result: Result<Box<Ready>, String>,
    ) {
        let mut ready = match result {
            Ok(ready) => ready,
            Err(error) => return self.exec_failed(&id, 126, error),
        };
        let ends = std::mem::take(&mut ready.ends);
        if let Some(master) = &ends.terminal
            && let Err(error) = self.hold(&format!("e/{id}"), Some(master))
        {
            return self.exec_failed(&id, 126, error);
        }
        let Ok(entry) = self.execs.get(&id) else { return };
        entry.ends = ends;
        let incarnation = self.observed.record(&name).map_or(0, |record| record.incarnation);
        self.take_off(name, incarnation, *ready, Some(Purpose::Exec(id)));
    }

    pub(super) fn exec_outcome(&mut self, id: &str, outcome: Outcome, plan: Option<Plan>) {
        match outcome {
            Outcome::Launched { pid } => {
                let Ok(entry) = self.execs.get(id) else { return };
                entry.exec.pid = i32::try_from(pid).unwrap_or(0);
                let session = session(entry);
                // Pipes are the client's alone: its end of standard input is the only
                // one. A terminal stays here for others to join.
                entry.ends = Ends { terminal: entry.ends.terminal.take(), ..Ends::default() };
                if let Some(asked) = entry.asked.take() {
                    let _ = asked.send(session);
                }
                self.execs.save(id);
            }
            Outcome::Failed { status: Status { failure: Some(failure), .. }, .. } => {
                let code = if failure.exit_code() == 127 { 127 } else { 126 };
                let program = plan.as_ref().and_then(|plan| plan.argv.first().cloned());
                let why = super::failure::docker_phrase(&failure, program.as_deref());
                let why = why.unwrap_or_else(|| sentence(&failure, plan.as_ref()));
                self.exec_failed(id, code, why);
            }
            Outcome::Failed { errno: Some(errno), .. } => {
                self.exec_failed(id, 126, refusal(errno));
            }
            Outcome::Failed { .. } => {
                self.exec_failed(id, 126, "it ended before it was executed".to_owned());
            }
            Outcome::Ended(end) => self.exec_ended(id, end.map_or(137, |end| end.code())),
        }
    }

    fn exec_failed(&mut self, id: &str, code: i32, why: String) {
        if let Ok(entry) = self.execs.get(id)
            && let Some(asked) = entry.asked.take()
        {
            let why = format!("OCI runtime exec failed: exec failed: {why}: unknown");
            let _ = asked.send(Err(Refusal::Invalid(why)));
        }
        self.exec_ended(id, code);
    }

    fn exec_ended(&mut self, id: &str, code: i32) {
        let Ok(entry) = self.execs.get(id) else { return };
        entry.exec.exit = Some(code);
        entry.exec.finished = Some(SystemTime::now());
        let had_terminal = std::mem::take(&mut entry.ends).terminal.is_some();
        let _ = entry.ended.send_replace(Some(code));
        let name = entry.exec.name.clone();
        let attributes = [("execID", id.to_owned()), ("exitCode", code.to_string())];
        self.execs.save(id);
        if had_terminal {
            let _ = self.hold(&format!("e/{id}"), None);
        }
        self.tell(&name, "exec_die", attributes);
    }

    fn resize_exec(&mut self, id: &str, size: Size) -> Result<(), Refusal> {
        let entry = self.execs.get(id)?;
        entry.size = Some(size);
        match &entry.ends.terminal {
            Some(master) => terminal::resize(master.as_fd(), size)
                .map_err(|errno| Refusal::Failed(format!("resizing the terminal: {errno}"))),
            None if entry.exec.exit.is_some() => {
                Err(Refusal::Conflict(format!("exec {id} is not running")))
            }
            None => Ok(()),
        }
    }

    /// After a new start: an exec of the keeper's table.
    pub(super) fn adopt_exec(&mut self, id: &str, message: Message, pidfd: OwnedFd) {
        let known = self.execs.get(id).map(|entry| {
            entry.exec.pid = message.pid;
            entry.exec.started = true;
            entry.exec.name.clone()
        });
        if message.ended {
            self.exec_ended(id, message.end.map_or(137, |end| end.code()));
            self.acknowledge.push(message.key);
            return;
        }
        let Ok(name) = known else { return };
        // Its client comes back at once, or not at all.
        if let Ok(session) = self.execs.get(id).and_then(session) {
            session.leave(COMES_BACK);
        }
        self.flights.insert(
            message.key,
            InFlight {
                name,
                incarnation: 0,
                flight: Flight::running(message.pid.unsigned_abs()),
                plan: None,
                command: Some(Purpose::Exec(id.to_owned())),
                pidfd: Some(pidfd),
            },
        );
    }

    /// After a new start: what was being started when the engine died has no process
    /// that anybody knows of.
    pub(super) fn settle_execs(&mut self) {
        let flying: Vec<&str> = self
            .flights
            .values()
            .filter_map(|flight| match &flight.command {
                Some(Purpose::Exec(id)) => Some(id.as_str()),
                _ => None,
            })
            .collect();
        let lost: Vec<String> = self
            .execs
            .entries
            .values()
            .filter(|entry| entry.exec.is_running() && !flying.contains(&entry.exec.id.as_str()))
            .map(|entry| entry.exec.id.clone())
            .collect();
        for id in lost {
            self.exec_ended(&id, 137);
        }
    }

    /// What the keeper holds of containers and execs, back in its places.
    pub(super) fn take_held(&mut self, mut held: HashMap<String, OwnedFd>) {
        self.take_output(&mut held);
        for (tag, fd) in held {
            let (kind, of) = tag.split_once('/').unwrap_or((&tag, ""));
            let wanted = match kind {
                "e" => match self.execs.get(of) {
                    Ok(entry) if entry.exec.is_running() => {
                        entry.ends.terminal = Some(fd);
                        true
                    }
                    _ => false,
                },
                "t" | "i" => match of.parse::<Name>() {
                    Ok(name) if self.observed.record(&name).is_some_and(|r| r.phase.is_alive()) => {
                        let ends = &mut self.lives.entry(name).or_default().ends;
                        let place = if kind == "t" { &mut ends.terminal } else { &mut ends.stdin };
                        *place = Some(fd);
                        true
                    }
                    _ => false,
                },
                "m" | "r" => match of.parse::<Name>() {
                    Ok(name) if self.observed.record(&name).is_some_and(|r| r.phase.is_alive()) => {
                        let signs = &mut self.lives.entry(name).or_default().signs;
                        let place = if kind == "m" { &mut signs.socket } else { &mut signs.pipe };
                        *place = Some(fd);
                        true
                    }
                    _ => {
                        crate::sys::rights::close(fd);
                        false
                    }
                },
                // Not all of a container's that there is: see `take_output`.
                "stdout" | "stderr" | "between" => false,
                _ => true,
            };
            if !wanted {
                let _ = self.hold(&tag, None);
            }
        }
    }
}

fn session(entry: &mut Entry) -> Result<Session, Refusal> {
    if entry.exec.exit.is_some() {
        return Err(Refusal::Conflict(format!("exec {} has ended", entry.exec.id)));
    }
    let ends = entry
        .ends
        .copy()
        .map_err(|error| Refusal::Failed(format!("no descriptor is left: {error}")))?;
    Ok(Session { ends, ended: entry.ended.subscribe(), joined: entry.joined.subscribe() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(id: &str, made: u64, words: usize) -> Exec {
        let created = SystemTime::UNIX_EPOCH + Duration::from_secs(made);
        Exec {
            version: VERSION,
            id: id.to_owned(),
            name: "web".parse().unwrap(),
            container: String::new(),
            created,
            config: Config { command: vec!["x".repeat(words)], ..Config::default() },
            started: false,
            pid: 0,
            exit: None,
            finished: None,
        }
    }

    #[test]
    fn the_oldest_that_do_not_run_make_room_by_number_and_by_bytes() {
        let mut all: Vec<Exec> =
            ["a", "b", "c", "d"].iter().zip(0..).map(|(id, at)| exec(id, at, 1000)).collect();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        let gone = |all: &[Exec], count, bytes| superfluous(all.iter(), now, Room { count, bytes });
        assert!(gone(&all, 4, 1 << 20).is_empty());
        assert_eq!(gone(&all, 3, 1 << 20), ["a", "b"]);
        let one = all[0].size();
        assert!(one > 1000);
        assert_eq!(gone(&all, 4, 4 * one - 1), ["a", "b"]);
        assert_eq!(gone(&all, 4, one), ["a", "b", "c"]);
        // Who runs stays, whatever that means for others.
        all[0].started = true;
        assert_eq!(gone(&all, 4, 0), ["b", "c", "d"]);
        // What ended long ago goes in any case.
        all[3].finished = Some(SystemTime::UNIX_EPOCH);
        let late = now + REMEMBERED;
        assert_eq!(superfluous(all.iter(), late, Room { count: 4, bytes: 1 << 20 }), ["d"]);
    }

    /// More than a terminal holds is printed to somebody who was gone before it began.
    #[tokio::test]
    async fn a_terminal_whose_client_never_came_goes_on() {
        let local = tokio::task::LocalSet::new();
        let printed = local.run_until(async {
            let terminal::Pty { master, slave } = terminal::host(Size::default()).unwrap();
            let (ended, joined) = (watch::Sender::new(None), watch::Sender::new(()));
            drop(Session {
                ends: Ends { terminal: Some(master), ..Ends::default() },
                ended: ended.subscribe(),
                joined: joined.subscribe(),
            });
            let print = move || std::fs::File::from(slave).write_all(&[b'x'; 256 << 10]);
            tokio::time::timeout(Duration::from_secs(10), tokio::task::spawn_blocking(print)).await
        });
        printed.await.expect("it stands still").unwrap().unwrap();
    }
}
