//! What is to become of one container, as far as its own record and the judgement
//! on those that it waits for tell. Judging changes nothing.

use std::sync::Arc;

use serde::Serialize;

use super::change::Change;
use super::desired::Desired;
use super::observed::Observed;
use super::phase::{Asked, HealthStatus, Phase, Rest, StopWhy};
use super::record::Record;
use crate::manifest::model::{Container, Start};
use crate::manifest::scalar::Name;
use crate::manifest::service::Kind;

/// Why a container that should run is not launched yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum Block {
    /// It requires one that no manifest declares.
    Missing {
        /// That one.
        on: Name,
    },
    /// It requires one that does not run and won't by itself.
    Needs {
        /// That one.
        on: Name,
    },
    /// It waits for one that is about to run, or to be well.
    Waits {
        /// That one.
        on: Name,
    },
    /// It can't run at the same time as one that runs.
    Conflict {
        /// That one.
        with: Name,
    },
    /// A process of an earlier incarnation lives.
    Stray,
}

impl Block {
    /// With other names.
    pub fn naming(&self, name: impl Fn(&Name) -> Name) -> Block {
        match self {
            Block::Missing { on } => Block::Missing { on: name(on) },
            Block::Needs { on } => Block::Needs { on: name(on) },
            Block::Waits { on } => Block::Waits { on: name(on) },
            Block::Conflict { with } => Block::Conflict { with: name(with) },
            Block::Stray => Block::Stray,
        }
    }
}

impl std::fmt::Display for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Block::Missing { on } => write!(f, "requires {on}, which no manifest declares"),
            Block::Needs { on } => write!(f, "requires {on}, which does not run"),
            Block::Waits { on } => write!(f, "waits for {on}"),
            Block::Conflict { with } => write!(f, "conflicts with {with}, which runs"),
            Block::Stray => f.write_str("waits for processes of an earlier run to end"),
        }
    }
}

/// What others may expect of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outlook {
    /// It runs, and is well as far as anyone can tell; or it was to run once, and did.
    Ready,
    /// It will be ready, or fail, without anybody doing anything.
    Pending,
    /// Its attempt failed, or it is not to run: no use to wait.
    Hopeless,
}

/// The judgement on one container: what its neighbours look at.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// It is not to run, or not in this incarnation.
    pub down: Option<StopWhy>,
    /// What others may expect of it.
    pub outlook: Outlook,
    /// Why it is not launched, if it should be.
    pub block: Option<Block>,
    /// Which incarnation runs.
    pub runs: Option<u64>,
    /// A process of it may exist.
    pub alive: bool,
    /// The one that it waits for before it stops. No part of the judgement.
    pub held_up_by: Option<Name>,
}

impl Node {
    /// Whether neighbours have to be judged anew.
    pub fn means_the_same(&self, other: &Node) -> bool {
        self.down == other.down
            && self.outlook == other.outlook
            && self.runs == other.runs
            && self.alive == other.alive
    }
}

/// Which manifest is in force.
pub(super) enum Force<'a> {
    /// This one.
    Manifest(&'a Arc<Container>),
    /// A broken one without a good version before it: nothing changes.
    Keep,
    /// None: the container is to go.
    Gone,
}

pub(super) fn in_force<'a>(desired: &'a Desired, record: &'a Record) -> Force<'a> {
    if let Some(container) = desired.containers.get(&record.name) {
        return Force::Manifest(container);
    }
    if !desired.broken.contains_key(&record.name) {
        return Force::Gone;
    }
    match &record.last_good {
        Some(container) => Force::Manifest(container),
        None => Force::Keep,
    }
}

/// Judges one container anew.
pub(super) fn judge(desired: &Desired, observed: &Observed, record: &Record) -> Node {
    let name = &record.name;
    let force = in_force(desired, record);
    let down = down(desired, observed, record, &force);
    let mut node = Node {
        alive: record.phase.is_alive(),
        runs: match &record.phase {
            Phase::Running(_) => Some(record.incarnation),
            _ => None,
        },
        outlook: Outlook::Hopeless,
        block: None,
        held_up_by: observed.nodes.get(name).and_then(|node| node.held_up_by.clone()),
        down,
    };
    let target = matches!(&force, Force::Manifest(manifest) if manifest.is_target());
    let rests = matches!(
        record.phase,
        Phase::Created
            | Phase::Exited(Rest::Stopped { .. } | Rest::Boot)
            | Phase::Backoff { .. }
            | Phase::Scheduled { .. }
    );
    if (rests || target) && node.down.is_none() {
        node.block = block(observed, name);
    }
    if target && !node.alive {
        return of_target(observed, name, node);
    }
    // What is run at its own times nobody waits for.
    let timed = matches!(&force, Force::Manifest(manifest) if manifest.is_timed());
    let oneshot = matches!(&force, Force::Manifest(manifest) if manifest.kind == Kind::Oneshot);
    node.outlook = match (&node.down, &record.phase) {
        // Its sockets are there: whoever connects is served.
        (Some(StopWhy::Idle), _) => Outlook::Ready,
        (None, _) if timed => Outlook::Ready,
        (Some(why), _) if comes_back(why) => Outlook::Pending,
        (Some(_), _) => Outlook::Hopeless,
        (None, Phase::Running(_)) if record.is_ready() => Outlook::Ready,
        (None, Phase::Running(run)) => match run.health {
            Some(HealthStatus::Unhealthy) => Outlook::Hopeless,
            _ => Outlook::Pending,
        },
        // How it ended is known in a moment, and till then nobody goes on without it.
        (None, Phase::Ending { .. } | Phase::Ended { .. }) if oneshot => Outlook::Pending,
        (None, Phase::Exited(Rest::Skipped { .. })) => Outlook::Ready,
        (None, Phase::Launching { .. }) => Outlook::Pending,
        (None, Phase::Exited(Rest::Finished)) => {
            match record.last_exit.as_ref().is_some_and(|exit| exit.status.is_success()) {
                true => Outlook::Ready,
                false => Outlook::Hopeless,
            }
        }
        (None, Phase::Created | Phase::Exited(_)) => match (&force, &node.block) {
            (Force::Manifest(_), None | Some(Block::Waits { .. } | Block::Stray)) => {
                Outlook::Pending
            }
            _ => Outlook::Hopeless,
        },
        (None, _) => Outlook::Hopeless,
    };
    node
}

/// A target runs nothing: it is what those that it names are. It is up for as long as
/// one that needs it is, so that order goes through it both ways.
fn of_target(observed: &Observed, name: &Name, mut node: Node) -> Node {
    node.alive = observed.graph.back(name, None).any(|(by, edge)| {
        let other = observed.nodes.get(by);
        other.is_some_and(|other| {
            other.alive && (edge.needs() || (edge.orders() && other.down.is_some()))
        })
    });
    node.outlook = match (&node.down, &node.block) {
        // It rests with that one, for as long as that does: one that a person has stopped
        // may never be back, and whoever comes after this one is not to wait for it.
        (Some(StopWhy::Dependency { on }), _) => match observed.nodes.get(on) {
            Some(other) if other.outlook != Outlook::Hopeless => Outlook::Pending,
            _ => Outlook::Hopeless,
        },
        (Some(why), _) if comes_back(why) => Outlook::Pending,
        (Some(_), _) => Outlook::Hopeless,
        (None, None) => Outlook::Ready,
        (None, Some(Block::Waits { .. } | Block::Stray)) => Outlook::Pending,
        (None, Some(_)) => Outlook::Hopeless,
    };
    node
}

/// Whether what stops for this reason is launched again without anybody's doing.
fn comes_back(why: &StopWhy) -> bool {
    match why {
        StopWhy::Restart
        | StopWhy::Edited { .. }
        | StopWhy::Network { .. }
        | StopWhy::Dependency { .. }
        | StopWhy::Lost => true,
        StopWhy::NotReady | StopWhy::Watchdog => false,
        StopWhy::ByHand
        | StopWhy::Removed
        | StopWhy::Conflict { .. }
        | StopWhy::Idle
        | StopWhy::Shutdown => false,
    }
}

fn down(desired: &Desired, observed: &Observed, record: &Record, force: &Force) -> Option<StopWhy> {
    if desired.shutdown.is_some() {
        return Some(StopWhy::Shutdown);
    }
    if matches!(force, Force::Gone)
        || matches!(record.phase, Phase::Removing { .. } | Phase::Dead { .. })
    {
        return Some(StopWhy::Removed);
    }
    if record.held.is_some() {
        return Some(StopWhy::ByHand);
    }
    if let Force::Manifest(manifest) = force
        && manifest.start == Start::OnDemand
        && !record.demanded
    {
        return Some(StopWhy::Idle);
    }
    if let Phase::Stopping { why, .. } | Phase::Ending { why: Some(why), .. } = &record.phase {
        // As after a crash: those that need it live on.
        if why.is_its_fault() {
            return None;
        }
        // It may have been for a reason that is none any more.
        return Some(match why {
            StopWhy::ByHand | StopWhy::Removed | StopWhy::Shutdown => StopWhy::Restart,
            why => why.clone(),
        });
    }
    let name = &record.name;
    let alive = record.phase.is_alive();
    if let Phase::Running(run) = &record.phase {
        if let Some(Asked::Restart { .. }) = run.asked {
            return Some(StopWhy::Restart);
        }
        if let (Force::Manifest(new), Some(old)) = (force, &record.applied)
            && !Arc::ptr_eq(old, new)
            && let Change::Replace { keys } = Change::between(old, new)
        {
            return Some(StopWhy::Edited { keys });
        }
    }
    let target = matches!(force, Force::Manifest(manifest) if manifest.is_target());
    if !alive && !target {
        return None;
    }
    for (to, edge) in observed.graph.out(name) {
        let Some(other) = observed.nodes.get(to) else {
            continue;
        };
        if edge.joins
            && let Phase::Running(_) = &record.phase
            && let Some(joined) = record.joined.iter().find(|joined| joined.name == *to)
            && other.runs.is_some_and(|incarnation| incarnation != joined.incarnation)
        {
            return Some(StopWhy::Network { of: to.clone() });
        }
        if edge.needs() && other.down.as_ref().is_some_and(|why| *why != StopWhy::Idle) {
            return Some(StopWhy::Dependency { on: to.clone() });
        }
        // A target is alive for the order of things, and stands in nobody's way.
        let runs = observed.record(to).is_some_and(|other| other.phase.is_alive());
        if edge.yields && runs && other.down.is_none() {
            return Some(StopWhy::Conflict { with: to.clone() });
        }
    }
    None
}

/// What speaks against a launch now.
pub(super) fn block(observed: &Observed, name: &Name) -> Option<Block> {
    if observed.strays.contains_key(name) {
        return Some(Block::Stray);
    }
    let mut waits = None;
    for (to, edge) in observed.graph.out(name) {
        let other = observed.nodes.get(to);
        let outlook = other.map(|node| node.outlook);
        if edge.needs() {
            // One that has done its work is as good as one that runs, but there is
            // no namespace to join.
            let gone = edge.joins && other.is_some_and(|node| node.runs.is_none());
            match outlook {
                None => return Some(Block::Missing { on: to.clone() }),
                Some(Outlook::Ready) if !gone => {}
                Some(Outlook::Pending) => waits = waits.or(Some(to)),
                Some(_) => return Some(Block::Needs { on: to.clone() }),
            }
        } else if edge.after && outlook == Some(Outlook::Pending) {
            waits = waits.or(Some(to));
        }
    }
    for with in observed.graph.rivals(name) {
        if observed.record(with).is_some_and(|rival| rival.phase.is_alive()) {
            return Some(Block::Conflict { with: with.clone() });
        }
    }
    waits.map(|on| Block::Waits { on: on.clone() })
}
