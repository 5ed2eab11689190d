//! What a record looks like to a person. Pure.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::networks::{EndpointView, PortView};
use super::probe::Probes;
use super::reconcile::{Asked, Half, HealthStatus, Phase, Record, Rest, State, StopWhy, Timing};
use crate::manifest::model::{Container, Mount, MountKind, Start};
use crate::manifest::scalar::Name;

/// What a container looks like from outside, at one instant.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct View {
    /// Its name.
    pub name: Name,
    /// What its log is kept under: its name, unless it got another while it ran.
    #[serde(skip)]
    pub kept: String,
    /// 64 hexadecimal digits, as Docker's.
    pub id: String,
    /// Docker's word for where it stands: created, running, restarting, paused,
    /// exited, removing, dead; beside these `stopping`, `backoff` and `waiting`
    /// are told in `detail`.
    pub state: String,
    /// More about the state, for people: "crash loop: 5 failures, next start in 3s".
    pub detail: Option<String>,
    /// It does not run yet, and will: it is being launched, or waits for another.
    #[serde(default)]
    pub is_awaited: bool,
    /// The payload's supervisor process on the host; 0 when it does not run.
    pub pid: i32,
    /// The id of the image that it was made from.
    pub image: Option<String>,
    /// The images that its manifests name: the one that is in force, and the one that is
    /// to be. None of them may go.
    #[serde(default)]
    pub images: Vec<String>,
    /// The ids of the images that it has mounted.
    #[serde(default)]
    pub mounted: Vec<String>,
    /// The images that it is to mount at its next launch and has not mounted yet, as its
    /// manifest names them.
    #[serde(default)]
    pub to_mount: Vec<String>,
    /// The manifest that is in force.
    pub manifest: Container,
    /// The volumes that its image wants, beside the manifest's mounts.
    #[serde(default)]
    pub anonymous: Vec<Mount>,
    /// The file that declares it; none when the file is gone.
    pub source: Option<PathBuf>,
    /// What is wrong with its manifest file, if anything.
    pub manifest_error: Option<String>,
    /// Why the last launch failed.
    pub error: Option<String>,
    /// How often it was started again without being asked.
    pub restarts: u32,
    /// When it was first seen.
    pub created: SystemTime,
    /// When the last incarnation began.
    pub started: Option<SystemTime>,
    /// The number of the last incarnation that ended, 0 before the first one did.
    #[serde(default)]
    pub ended: u64,
    /// When the last incarnation ended.
    pub finished: Option<SystemTime>,
    /// As a shell says it: 128 + the signal.
    pub exit_code: Option<i32>,
    /// The same of a payload that has ended while what is left of its container has not:
    /// the event of its end was told, and the state does not show it yet.
    #[serde(default)]
    pub ending: Option<i32>,
    /// The kernel ended it for lack of memory.
    pub oom_killed: bool,
    /// A person stopped it.
    pub stopped_by_hand: bool,
    /// `starting`, `healthy`, `unhealthy`, if it has a health check.
    pub health: Option<String>,
    /// What its last health checks said, the newest last.
    #[serde(default)]
    pub probes: Vec<Probed>,
    /// How many of them have failed in a row.
    #[serde(default)]
    pub failing_streak: u32,
    /// The ids of the commands that clients run in it.
    #[serde(default)]
    pub execs: Vec<String>,
    /// Its places on networks.
    #[serde(default)]
    pub endpoints: Vec<EndpointView>,
    /// Its published ports.
    #[serde(default)]
    pub ports: Vec<PortView>,
    /// What those that wait for it may expect: `ready`, `pending`, `failed`, or
    /// `stopped` where nobody wants it to run.
    #[serde(default)]
    pub outlook: String,
    /// What it last said of itself (sd_notify(3), `STATUS=`).
    #[serde(default)]
    pub said: Option<String>,
    /// How its first launch of this boot went on.
    #[serde(default)]
    pub timing: Option<Timing>,
}

impl View {
    /// What orders to it are given by: its id, or its name while there is no record of it.
    pub fn which(&self) -> &str {
        match self.id.is_empty() {
            true => self.name.as_str(),
            false => &self.id,
        }
    }
}

/// What one health check said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Probed {
    /// When it began.
    pub start: SystemTime,
    /// When its answer was there.
    pub end: SystemTime,
    /// Why it is not well; none if it is.
    pub failure: Option<String>,
    /// The exit status of the check; -1 where it did not end in time.
    #[serde(default)]
    pub code: i32,
    /// What it printed.
    #[serde(default)]
    pub output: String,
}

/// What the manifests say of the same name.
#[derive(Debug, Clone, Default)]
pub struct Declared {
    /// The file.
    pub source: Option<PathBuf>,
    /// What is wrong with it.
    pub error: Option<String>,
    /// What keeps it from being launched: "waiting for db".
    pub blocked: Option<String>,
    /// The manifest on disk, if it can be read.
    pub manifest: Option<Container>,
    /// What its last health checks said.
    pub probes: Probes,
    /// The ids of the commands that clients run in it.
    pub execs: Vec<String>,
    /// Its places on networks.
    pub endpoints: Vec<EndpointView>,
    /// Its published ports.
    pub ports: Vec<PortView>,
    /// What those that wait for it may expect.
    pub outlook: String,
    /// What it said of itself (sd_notify(3)).
    pub said: Option<String>,
}

fn time(unix_nanos: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(unix_nanos.max(0).unsigned_abs())
}

/// One container from outside. `now` is the monotonic clock, `called` the name of one that
/// is kept under another.
pub fn view(
    record: &Record,
    declared: Declared,
    now: Duration,
    called: &dyn Fn(&Name) -> Name,
) -> View {
    let run = record.phase.run();
    let ended = record.last_exit.as_ref();
    // What runs, or what would be run.
    let known = match run {
        Some(_) => [&record.applied, &record.last_good],
        None => [&record.last_good, &record.applied],
    };
    let images = [&record.applied, &record.last_good].into_iter().flatten();
    let manifests = images.map(Arc::as_ref).chain(declared.manifest.as_ref());
    let named = |manifest: &Container| -> Vec<String> {
        let mounted = manifest.mounts.iter().filter(|mount| mount.kind() == MountKind::Image);
        let mounted = mounted.filter_map(|mount| mount.source.clone());
        manifest.image.iter().cloned().chain(mounted).collect()
    };
    let images = manifests.flat_map(named).chain(record.mounted.values().cloned());
    let images = images.collect::<BTreeSet<_>>().into_iter().collect();
    let manifest = known
        .into_iter()
        .find_map(|known| known.as_deref().cloned())
        .or(declared.manifest)
        .unwrap_or_default();
    let image_mounts = manifest.mounts.iter().filter(|mount| mount.kind() == MountKind::Image);
    let named = image_mounts.filter_map(|mount| mount.source.as_ref());
    let to_mount = named.filter(|named| !record.mounted.contains_key(*named)).cloned().collect();
    let wanted = record.image.as_ref().map_or(&[][..], |image| &image.volumes);
    let anonymous = super::volumes::of_image(&record.id, &manifest, wanted);
    View {
        name: record.called().clone(),
        kept: record.name.to_string(),
        id: record.id.clone(),
        state: state_word(record.state()).to_owned(),
        is_awaited: matches!(record.phase, Phase::Launching { .. })
            || (declared.blocked.is_some() && is_unlaunched(record)),
        detail: detail(record, declared.blocked, now, called),
        pid: run.map_or(0, |run| run.pid as i32),
        image: record.image.as_ref().map(|image| image.id.clone()),
        images,
        mounted: record.mounted.values().cloned().collect(),
        to_mount,
        manifest,
        anonymous,
        source: declared.source,
        manifest_error: declared.error,
        error: ended
            .filter(|_| run.is_none())
            .and_then(|exit| exit.error.clone())
            .or_else(|| record.live_error.clone()),
        restarts: u32::try_from(record.restarts).unwrap_or(u32::MAX),
        created: time(record.created),
        started: run.map(|run| time(run.started_wall)).or_else(|| ended?.started.map(time)),
        ended: ended.map_or(0, |exit| exit.incarnation),
        finished: ended.map(|exit| time(exit.finished)),
        exit_code: ended.map(|exit| exit.status.code()),
        ending: match &record.phase {
            Phase::Ending { half: Half::Exit(how), .. } => Some(how.status.code()),
            _ => None,
        },
        oom_killed: ended.is_some_and(|exit| exit.oom_killed),
        stopped_by_hand: record.held.is_some(),
        health: run.and_then(|run| run.health).map(|health| {
            match health {
                HealthStatus::Starting => "starting",
                HealthStatus::Healthy => "healthy",
                HealthStatus::Unhealthy => "unhealthy",
            }
            .to_owned()
        }),
        failing_streak: declared.probes.failing_streak,
        probes: declared.probes.last.into(),
        execs: declared.execs,
        endpoints: declared.endpoints,
        ports: declared.ports,
        outlook: declared.outlook,
        said: declared.said.filter(|_| run.is_some()),
        timing: record.timing.clone(),
    }
}

fn state_word(state: State) -> &'static str {
    match state {
        State::Created => "created",
        State::Running => "running",
        State::Paused => "paused",
        State::Restarting => "restarting",
        State::Removing => "removing",
        State::Exited => "exited",
        State::Dead => "dead",
    }
}

fn detail(
    record: &Record,
    blocked: Option<String>,
    now: Duration,
    called: &dyn Fn(&Name) -> Name,
) -> Option<String> {
    let crash_loop = |text: String| {
        if record.is_crash_loop() {
            format!("crash loop, {} failures in a row, {text}", record.streak)
        } else {
            text
        }
    };
    match &record.phase {
        Phase::Backoff { until, .. } => {
            let left = until.saturating_sub(now);
            let left = if left < Duration::from_secs(1) {
                Duration::from_millis(left.as_millis() as u64)
            } else {
                Duration::from_secs(left.as_secs())
            };
            Some(crash_loop(format!("next start in {}", humantime::format_duration(left))))
        }
        Phase::Launching { .. } => Some(crash_loop("starting".to_owned())),
        Phase::Running(run) if matches!(run.asked, Some(Asked::Restart { .. })) => {
            Some("restarting".to_owned())
        }
        Phase::Stopping { why, escalated, .. } => {
            let how = if *escalated { "killing" } else { "stopping" };
            Some(format!("{how}: {}", reason(why, called)))
        }
        Phase::Running(run) if run.ready_by.is_some() && !record.is_ready() => {
            Some("not ready yet".to_owned())
        }
        Phase::Scheduled { until, .. } if *until == Duration::MAX => {
            Some("its schedule has no time to come".to_owned())
        }
        Phase::Scheduled { until, .. } => {
            let left = Duration::from_secs(until.saturating_sub(now).as_secs().max(1));
            Some(format!("next run in {}", humantime::format_duration(left)))
        }
        Phase::Exited(Rest::Skipped { unmet }) => Some(format!("not run: {unmet}")),
        Phase::Ending { .. } => Some("waiting for its last processes to end".to_owned()),
        Phase::Dead { error, .. } => Some(format!("can't be removed: {error}")),
        Phase::Exited(Rest::Stopped { why }) if record.held.is_none() => Some(reason(why, called)),
        Phase::Exited(Rest::Finished) if waits_for_client(record) => {
            Some(reason(&StopWhy::Idle, called))
        }
        _ if is_unlaunched(record) && waits_for_client(record) => {
            Some(reason(&StopWhy::Idle, called))
        }
        _ if is_unlaunched(record) => blocked,
        _ => None,
    }
}

/// Whether its first client starts it.
fn waits_for_client(record: &Record) -> bool {
    let manifest = record.last_good.as_ref();
    let on_demand = manifest.is_some_and(|manifest| manifest.start == Start::OnDemand);
    on_demand && !record.demanded && record.held.is_none()
}

/// It was not launched since the machine started.
fn is_unlaunched(record: &Record) -> bool {
    matches!(record.phase, Phase::Created | Phase::Exited(Rest::Boot))
}

fn reason(why: &StopWhy, called: &dyn Fn(&Name) -> Name) -> String {
    match why {
        StopWhy::ByHand => "stopped by hand".to_owned(),
        StopWhy::Restart => "restarted by hand".to_owned(),
        StopWhy::Removed => "its manifest was removed".to_owned(),
        StopWhy::Edited { keys } => format!("its manifest changed in {}", keys.join(", ")),
        StopWhy::Dependency { on } => format!("it requires {}, which does not run", called(on)),
        StopWhy::Network { of } => {
            format!("{}, whose namespace it shares, has a new one", called(of))
        }
        StopWhy::Idle => "waits for a connection".to_owned(),
        StopWhy::Conflict { with } => format!("it conflicts with {}", called(with)),
        StopWhy::Shutdown => "Berth is ending".to_owned(),
        StopWhy::Lost => "its launch was interrupted".to_owned(),
        StopWhy::NotReady => "it was not ready in time".to_owned(),
        StopWhy::Watchdog => "it did not say in time that it is well".to_owned(),
    }
}
