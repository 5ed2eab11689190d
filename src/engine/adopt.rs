//! After an engine, a keeper, or a machine that died: what lives is found again.
//!
//! The keeper's table comes first. What it does not know was cloned by a keeper
//! that is dead: the status files say which process each launch became, and pid,
//! start time and boot tell whether that process is still the same one. What no
//! file explains is killed by its cgroup.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::act::read_status;
use super::flight::{Flight, Outcome};
use super::live::Process;
use super::namespaces::range_of;
use super::reconcile::{Adopted, Event};
use super::run::{Engine, InFlight, monotonic, wall};
use crate::cgroup::Cgroup;
use crate::keeper::process::{has_ended, pidfd, start_time};
use crate::keeper::protocol::{Kind, Message, Tag};
use crate::manifest::scalar::Name;
use crate::sandbox::status::Status;

/// A process of the keeper's table.
#[derive(Debug)]
pub(super) struct Told {
    pub message: Message,
    pub pidfd: OwnedFd,
}

/// What a tag of ours means: whether it is a command, the container, the launch.
pub(super) fn parse_tag(tag: &Tag) -> Option<(bool, Name, u64)> {
    let mut parts = tag.as_str().split('/');
    let is_command = match parts.next()? {
        "c" => false,
        "x" => true,
        _ => return None,
    };
    let name = parts.next()?.parse().ok()?;
    Some((is_command, name, parts.next()?.parse().ok()?))
}

impl Engine {
    /// Tells the reconciler what lives and what has ended meanwhile.
    pub(super) fn adopt(&mut self, told: Vec<Told>) {
        let mut known = BTreeSet::new();
        for Told { message, pidfd } in told {
            self.next_key = self.next_key.max(message.key);
            if let Some(id) = message.tag.as_str().strip_prefix("e/") {
                self.adopt_exec(id, message, pidfd);
                continue;
            }
            let Some((is_command, name, incarnation)) = parse_tag(&message.tag) else {
                continue;
            };
            if is_command {
                if message.ended {
                    self.acknowledge.push(message.key);
                }
                continue;
            }
            known.insert((name.clone(), incarnation));
            self.adopt_told(&name, incarnation, message, pidfd);
        }
        for (name, incarnation, status) in self.launches_on_disk() {
            if !known.contains(&(name.clone(), incarnation)) {
                self.adopt_from_disk(&name, incarnation, status);
            }
        }
        self.read_last_words();
        self.settle_execs();
        self.apply(Event::AdoptionDone);
        self.kill_strangers();
    }

    fn adopt_told(&mut self, name: &Name, incarnation: u64, message: Message, pidfd: OwnedFd) {
        let status = read_status(&self.status_path(name, incarnation));
        let mut flight = Flight::default();
        let mut outcomes = flight.cloned(message.pid.unsigned_abs());
        outcomes.extend(flight.pipe_closed(status));
        self.flights.insert(message.key, InFlight::adopted(name.clone(), incarnation, flight));
        let process = Process { incarnation, pidfd, pid: message.pid, start: message.start };
        self.hold_live(name, process);
        if status.failure.is_none() {
            self.announce_adopted(name, incarnation, message.pid, message.start);
        }
        if message.ended {
            let end = message.end;
            if let Some(flight) = self.flights.get_mut(&message.key) {
                outcomes.extend(flight.flight.ended(end));
            }
            self.acknowledge.push(message.key);
        }
        // "Launched" was said by the adoption.
        outcomes.retain(|outcome| !matches!(outcome, Outcome::Launched { .. }));
        self.outcomes(message.key, outcomes);
    }

    /// The latest launch of every container that has a status file.
    fn launches_on_disk(&self) -> Vec<(Name, u64, Status)> {
        let dir = self.workshop.paths.run_dir().join("containers");
        let mut latest: BTreeMap<Name, u64> = BTreeMap::new();
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Some(name) = entry.file_name().to_str().and_then(|name| name.parse::<Name>().ok())
            else {
                continue;
            };
            for file in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                let file = file.file_name();
                let number = file.to_str().and_then(|file| file.strip_suffix(".status"));
                if let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) {
                    let best = latest.entry(name.clone()).or_default();
                    *best = number.max(*best);
                }
            }
        }
        latest
            .into_iter()
            .map(|(name, incarnation)| {
                let status = read_status(&self.status_path(&name, incarnation));
                (name, incarnation, status)
            })
            .collect()
    }

    /// A launch of a keeper that is dead.
    fn adopt_from_disk(&mut self, name: &Name, incarnation: u64, status: Status) {
        let Some((pid, start)) = status.process else {
            return;
        };
        if let Some(pidfd) = same_process(pid, start) {
            self.next_key += 1;
            let key = self.next_key;
            let tag = Tag::new(&format!("c/{name}/{incarnation}")).unwrap_or(Tag::EMPTY);
            let Ok(copy) = pidfd.try_clone() else { return };
            let adopt = Message { key, pid, start, tag, ..Message::new(Kind::Adopt) };
            self.link.send(adopt, vec![copy]);
            let flight = Flight::running(pid.unsigned_abs());
            self.flights.insert(key, InFlight::adopted(name.clone(), incarnation, flight));
            self.hold_live(name, Process { incarnation, pidfd, pid, start });
            self.announce_adopted(name, incarnation, pid, start);
            return;
        }
        let is_current = self
            .observed
            .record(name)
            .is_some_and(|record| record.incarnation == incarnation && record.phase.is_alive());
        if !is_current {
            let _ = fs::remove_file(self.status_path(name, incarnation));
            return;
        }
        self.open_cgroup(name);
        if let Some(failure) = status.failure {
            self.apply(Event::LaunchFailed {
                name: name.clone(),
                incarnation,
                code: failure.exit_code(),
                error: super::failure::sentence(&failure, None),
            });
        } else if status.end.is_some() {
            self.announce_adopted(name, incarnation, pid, start);
            self.ended(name, incarnation, None);
        }
    }

    fn open_cgroup(&mut self, name: &Name) {
        let cgroup = Cgroup::open_existing(&self.workshop.parent, name.as_str());
        let live = self.lives.entry(name.clone()).or_default();
        if let Ok(Some(cgroup)) = cgroup {
            live.oom_kills = cgroup.oom_kills();
            live.kept.cgroup = Some(Arc::new(cgroup));
        }
    }

    fn hold_live(&mut self, name: &Name, process: Process) {
        self.open_cgroup(name);
        let reserved = range_of(process.pid);
        if let Some(first) = reserved {
            self.workshop.pool.reserve(first);
        }
        let live = self.lives.entry(name.clone()).or_default();
        live.reserved = reserved;
        live.process = Some(process);
        if let Err(error) = self.capture(name) {
            tracing::error!("{}: {error}", self.observed.called(name));
        }
    }

    fn announce_adopted(&mut self, name: &Name, incarnation: u64, pid: i32, start: u64) {
        let started = since_boot(start);
        let age = monotonic().saturating_sub(started);
        let frozen = self
            .lives
            .get(name)
            .and_then(super::live::Live::cgroup)
            .is_some_and(|cgroup| cgroup.is_frozen());
        let adopted = Event::Adopted(Adopted {
            name: name.clone(),
            incarnation,
            pid: pid.unsigned_abs(),
            started,
            started_wall: wall().saturating_sub(i64::try_from(age.as_nanos()).unwrap_or(0)),
            frozen,
            id: None,
        });
        self.apply(adopted);
        self.listen_to(name, incarnation);
        self.watch_health(name, incarnation);
        self.watch_port(name, incarnation);
    }

    /// Cgroups of ours with processes that nobody answers for: of a launch whose
    /// record was lost, or of a name that is gone.
    fn kill_strangers(&mut self) {
        let names = match Cgroup::list(&self.workshop.parent) {
            Ok(names) => names,
            Err(error) => {
                tracing::warn!("{error}");
                return;
            }
        };
        for name in names {
            let known: Option<Name> = name.parse().ok();
            let alive = known.as_ref().and_then(|name| self.observed.record(name));
            if alive.is_some_and(|record| record.phase.is_alive()) {
                continue;
            }
            // Now, and not beside the launch that may come next.
            if let Ok(Some(cgroup)) = Cgroup::open_existing(&self.workshop.parent, &name) {
                let removed = match (cgroup.is_populated(), alive.is_some()) {
                    (true, true) => cgroup.kill(),
                    (_, false) => cgroup.remove(),
                    (false, true) => Ok(()),
                };
                if let Err(error) = removed {
                    tracing::warn!("{error}");
                }
            }
        }
    }
}

/// The process, if the one with this pid is still the one that started then.
pub(super) fn same_process(pid: i32, start: u64) -> Option<OwnedFd> {
    let fd = pidfd(pid).ok()?;
    // Only now: the descriptor stays with the process that it was opened for, so
    // the start time read behind it is that process's, or that of nobody.
    (start_time(pid) == start && !has_ended(fd.as_fd())).then_some(fd)
}

/// A start time in clock ticks on the monotonic clock.
fn since_boot(ticks: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_millis(ticks.saturating_mul(1000) / per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_back() {
        let name: Name = "worker@1".parse().unwrap();
        let tag = Tag::new("c/worker@1/42").unwrap();
        assert_eq!(parse_tag(&tag), Some((false, name.clone(), 42)));
        assert_eq!(parse_tag(&Tag::new("x/worker@1/7").unwrap()), Some((true, name, 7)));
        for bad in ["", "c/", "c/We b/1", "c/web/x", "api"] {
            assert_eq!(parse_tag(&Tag::new(bad).unwrap()), None);
        }
    }

    #[test]
    fn a_process_is_the_same_only_with_its_start_time() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(same_process(own, start_time(own)).is_some());
        assert!(same_process(own, start_time(own) + 1).is_none());
        assert!(same_process(i32::MAX, 1).is_none());
    }
}
