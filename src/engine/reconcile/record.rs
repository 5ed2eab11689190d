//! What is known of one container, and kept on disk: its identity, its history
//! and the phase of its life.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::phase::{Phase, State};
use crate::manifest::model::{Container, Health, Stop};
use crate::manifest::scalar::{Name, Signal};

/// One container, as the engine persists it: one JSON file each, written before
/// the actions of the same decision are performed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    /// What it is kept under: its name, unless it got another while it ran.
    pub name: Name,
    /// Its name, if it is kept under another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub called: Option<Name>,
    /// The name that it had, while not all that bore that bears the new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renamed_from: Option<Name>,
    /// Its Docker id, 64 hexadecimal digits; the same until it is discarded.
    pub id: String,
    /// When it was first known, in Unix nanoseconds.
    pub created: i64,
    /// The boot that the monotonic times in `phase` belong to.
    pub boot_id: String,
    /// The number of its latest incarnation; the first launch is 1, and a number
    /// is never used twice.
    pub incarnation: u64,
    /// How often it was launched again by its restart policy.
    pub restarts: u64,
    /// Unasked ends and failed launches in a row; 0 again after `reset-after` of
    /// healthy running, a start by hand or an edit.
    pub streak: u32,
    /// The manifest that the latest incarnation was launched with, with what was
    /// applied live since.
    #[serde(with = "shared")]
    pub applied: Option<Arc<Container>>,
    /// The last good manifest: in force while the file is broken.
    #[serde(with = "shared")]
    pub last_good: Option<Arc<Container>>,
    /// The next launch begins with a fresh writable layer: the manifest changed in
    /// a way that replaces the container.
    pub renew: bool,
    /// What its root is made of, since its writable layer is this one.
    #[serde(default)]
    pub image: Option<Image>,
    /// The ids of the images that it has mounted, by what the manifest calls them.
    #[serde(default)]
    pub mounted: BTreeMap<String, String>,
    /// The containers of whose namespaces the latest incarnation joined some.
    #[serde(default, deserialize_with = "one_or_several")]
    pub joined: Vec<Joined>,
    /// With `start = "on-demand"`: somebody connected, or a person started it.
    #[serde(default)]
    pub demanded: bool,
    /// A person stopped it.
    pub held: Option<Held>,
    /// How the latest incarnation ended, or failed to begin.
    pub last_exit: Option<Exit>,
    /// Why the running container differs from its manifest, if a live change failed.
    pub live_error: Option<String>,
    /// When it was last run by its schedule, in Unix nanoseconds.
    #[serde(default)]
    pub last_run: Option<i64>,
    /// How its first launch of this boot went on.
    #[serde(default)]
    pub timing: Option<Timing>,
    /// Where it is in its life.
    pub phase: Phase,
}

/// How the first launch of a boot went on, on the monotonic clock: what the analysis
/// of a boot is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Timing {
    /// Which launch it was.
    pub incarnation: u64,
    /// It was ordered.
    pub ordered: Duration,
    /// Its payload ran.
    pub started: Option<Duration>,
    /// It was ready.
    pub ready: Option<Duration>,
    /// It ended.
    pub ended: Option<Duration>,
}

/// The image that a container was made from: the same until its writable layer is
/// renewed, whatever becomes of the tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Image {
    /// Its id, the digest of its configuration.
    pub id: String,
    /// As the manifest names it.
    pub name: String,
    /// The signal that asks its program to end, where the manifest names none.
    pub stop_signal: Option<Signal>,
    /// How to tell whether it is well, where the manifest does not say it.
    pub health: Option<Health>,
    /// The directories that it wants as volumes.
    #[serde(default)]
    pub volumes: Vec<PathBuf>,
    /// What its processes have of it, where the manifest says nothing else; a record of an
    /// earlier Berth does not know it.
    #[serde(default)]
    pub process: Option<OfImage>,
}

/// What an image gives to every process of its containers: so that a further command can be
/// run in one while nothing but the record is left of its image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OfImage {
    /// The environment, `NAME=value`.
    pub env: Vec<String>,
    /// The user, as in the manifest; empty is root.
    pub user: String,
    /// The working directory.
    pub workdir: Option<PathBuf>,
}

/// Whose namespace an incarnation lives in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Joined {
    /// The owner of the namespace.
    pub name: Name,
    /// The owner's incarnation at that time.
    pub incarnation: u64,
}

/// A stop by a person, which lasts until `start`, an edit of the manifest, or,
/// unless its policy is `unless-stopped`, the next boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Held {
    /// When, in Unix nanoseconds.
    pub since: i64,
    /// Instead of the manifest's stop signal.
    pub signal: Option<Signal>,
    /// Instead of the manifest's stop timeout.
    pub timeout: Option<Duration>,
}

/// How an incarnation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Exit {
    /// Which incarnation.
    pub incarnation: u64,
    /// How its payload ended.
    pub status: ExitStatus,
    /// The kernel ended a process of it because its memory was used up.
    pub oom_killed: bool,
    /// When it began, in Unix nanoseconds; none if it never did.
    pub started: Option<i64>,
    /// When it ended, in Unix nanoseconds.
    pub finished: i64,
    /// What went wrong, if it never began.
    pub error: Option<String>,
}

/// How a payload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitStatus {
    /// It called exit(2), or its launch failed with Docker's 125, 126 or 127.
    Code(i32),
    /// A signal ended it.
    Signal(Signal),
    /// It is gone and nobody saw how: keeper and engine were dead, or the machine was.
    Unknown,
}

impl ExitStatus {
    /// The number that a shell and Docker show: 128 + signal, 137 where it is unknown.
    pub fn code(self) -> i32 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => 128 + signal.0,
            ExitStatus::Unknown => 128 + Signal::KILL.0,
        }
    }

    /// Whether the payload says that all went well.
    pub fn is_success(self) -> bool {
        self == ExitStatus::Code(0)
    }
}

/// From this many unasked ends in a row a container is called a crash loop.
pub const CRASH_LOOP: u32 = 3;

impl Record {
    /// A container that was never launched.
    pub fn new(name: Name, id: String, created: i64, boot_id: String) -> Record {
        Record {
            name,
            called: None,
            renamed_from: None,
            id,
            created,
            boot_id,
            incarnation: 0,
            restarts: 0,
            streak: 0,
            applied: None,
            last_good: None,
            renew: false,
            image: None,
            mounted: BTreeMap::new(),
            joined: Vec::new(),
            demanded: false,
            held: None,
            last_exit: None,
            live_error: None,
            last_run: None,
            timing: None,
            phase: Phase::Created,
        }
    }

    /// Its name.
    pub fn called(&self) -> &Name {
        self.called.as_ref().unwrap_or(&self.name)
    }

    /// Its state in Docker's words.
    pub fn state(&self) -> State {
        match &self.phase {
            Phase::Created => State::Created,
            Phase::Launching { .. } if self.streak > 0 => State::Restarting,
            Phase::Launching { .. } => State::Created,
            Phase::Running(run) | Phase::Stopping { run, .. } if run.paused => State::Paused,
            Phase::Running(_) | Phase::Stopping { .. } | Phase::Ending { .. } => State::Running,
            Phase::Backoff { .. } => State::Restarting,
            Phase::Scheduled { .. } if self.incarnation == 0 => State::Created,
            Phase::Ended { .. } | Phase::Exited(_) | Phase::Scheduled { .. } => State::Exited,
            Phase::Removing { .. } => State::Removing,
            Phase::Dead { .. } => State::Dead,
        }
    }

    /// The signal that asks its payload to end: the manifest's, its image's, SIGTERM.
    pub fn stop_signal(&self, stop: &Stop) -> Signal {
        let of_image = self.image.as_ref().and_then(|image| image.stop_signal);
        stop.signal.or(of_image).unwrap_or(Signal::TERM)
    }

    /// How it is told whether it is well: as the manifest says, or its image.
    pub fn health_check(&self) -> Option<&Health> {
        let own = self.applied.as_ref().and_then(|manifest| manifest.health.as_ref());
        own.or_else(|| self.image.as_ref()?.health.as_ref()).filter(|health| !health.none)
    }

    /// The manifest that it runs with, or would.
    pub fn manifest(&self) -> Option<&Container> {
        let known = match self.phase.is_alive() {
            true => [&self.applied, &self.last_good],
            false => [&self.last_good, &self.applied],
        };
        known.into_iter().find_map(|known| known.as_deref())
    }

    /// Whether it ended or failed to begin several times in a row.
    pub fn is_crash_loop(&self) -> bool {
        self.streak >= CRASH_LOOP
    }
}

/// A list; a record of an earlier Berth has one or none.
fn one_or_several<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Joined>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Several(Vec<Joined>),
        One(Option<Joined>),
    }
    Ok(match Form::deserialize(from)? {
        Form::Several(all) => all,
        Form::One(one) => one.into_iter().collect(),
    })
}

/// A manifest behind an `Arc`, written as the manifest itself.
mod shared {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(
        value: &Option<Arc<Container>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_deref().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Arc<Container>>, D::Error> {
        Ok(Option::<Container>::deserialize(deserializer)?.map(Arc::new))
    }
}
