//! Commands that clients run inside containers (Docker's exec): each has an id, can be
//! asked about while its container lives, and a file under `/run` from which the next
//! engine knows it. Its process is the keeper's child; so is its exit status until it
//! stands in that file, and a terminal's master is held by the keeper.

mod record;
mod session;
mod table;

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

use self::record::VERSION;
use self::session::session;
use self::table::{Entry, MOST, MOST_BYTES};
use super::failure::{refusal, sentence};
use super::flight::{Flight, Outcome};
use super::handle::{Refusal, View};
use super::live::{Live, Process};
use super::prepare::{Ends, Job, Ready, Stdio};
use super::run::{Engine, InFlight, Purpose};
use super::terminal::{self, Size};
use crate::keeper::protocol::Message;
use crate::manifest::scalar::Name;
use crate::sandbox::plan::Plan;
use crate::sandbox::status::Status;

pub use self::record::{Config, Exec};
pub use self::session::Session;
pub(super) use self::table::Execs;

/// How long a client may take to come back to its terminal after our death.
const COMES_BACK: Duration = Duration::from_secs(10);

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
                process: Some(Process {
                    incarnation: 0,
                    pidfd,
                    pid: message.pid,
                    start: message.start,
                }),
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
                "t" | "i" | "m" | "r" => match self.alive(of) {
                    Some(live) => {
                        let place = match kind {
                            "t" => &mut live.ends.terminal,
                            "i" => &mut live.ends.stdin,
                            "m" => &mut live.signs.socket,
                            _ => &mut live.signs.pipe,
                        };
                        *place = Some(fd);
                        true
                    }
                    None => {
                        if matches!(kind, "m" | "r") {
                            crate::sys::rights::close(fd);
                        }
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

    /// Our side of a container that is alive, by what it is kept under.
    fn alive(&mut self, name: &str) -> Option<&mut Live> {
        let name: Name = name.parse().ok()?;
        self.observed.record(&name).filter(|record| record.phase.is_alive())?;
        Some(self.lives.entry(name).or_default())
    }
}
