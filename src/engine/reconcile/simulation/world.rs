//! A model of everything that the reconciler does not know: processes, keeper, disk,
//! files and clocks. It outlives the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::*;
use crate::manifest::scalar::{Name, Signal};

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }
}

/// One incarnation in the kernel and in the keeper's table.
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: u32,
    pub started: Duration,
    pub started_wall: i64,
    /// None while the payload lives.
    pub exit: Option<ExitStatus>,
    /// Others than the payload live in its cgroup.
    pub leftovers: bool,
    pub frozen: bool,
    pub stubborn: bool,
    pub id: String,
    /// The engine has told the keeper that it knows of the exit.
    pub acknowledged: bool,
}

impl Process {
    pub fn lives(&self) -> bool {
        self.exit.is_none() || self.leftovers
    }
}

/// What is under way: it happens at its time, unless who does it is dead by then.
#[derive(Debug, Clone)]
pub enum Due {
    /// The engine's preparations for a launch end. Dies with the engine.
    Launch(Name, u64),
    /// An event on its way to the engine. Dies with the engine.
    Tell(Box<Event>),
    /// A payload that obeys ends.
    Ends(Name, u64, ExitStatus),
}

pub struct World {
    pub random: Random,
    pub mono: Duration,
    pub wall: i64,
    pub boot: u32,
    pub processes: BTreeMap<(Name, u64), Process>,
    pub disk: BTreeMap<Name, Record>,
    pub due: Vec<(Duration, Due)>,
    /// Faults go on; else all goes well.
    pub wild: bool,
    pub launched: BTreeSet<(String, u64)>,
    pub finished: bool,
    next_pid: u32,
}

impl World {
    pub fn new(seed: u64) -> World {
        World {
            random: Random(seed),
            mono: Duration::from_secs(5),
            wall: 1_000_000_000_000,
            boot: 1,
            processes: BTreeMap::new(),
            disk: BTreeMap::new(),
            due: Vec::new(),
            wild: true,
            launched: BTreeSet::new(),
            finished: false,
            next_pid: 100,
        }
    }

    pub fn now(&self) -> Now {
        Now { mono: self.mono, wall: self.wall, boot_id: format!("boot-{}", self.boot) }
    }

    pub fn pass(&mut self, time: Duration) {
        self.mono += time;
        self.wall = self.wall.wrapping_add(time.as_nanos() as i64);
    }

    fn soon(&mut self, due: Due, most: u64) {
        let at = self.mono + Duration::from_millis(self.random.below(most + 1));
        self.due.push((at, due));
    }

    pub fn tell(&mut self, event: Event) {
        let most = if self.random.one_in(4) { 300 } else { 0 };
        self.soon(Due::Tell(Box::new(event)), most);
    }

    fn gone(&mut self, name: &Name, incarnation: u64) {
        self.tell(Event::CgroupEmptied { name: name.clone(), incarnation });
    }

    /// The payload ends; what it left behind lives on.
    pub fn die(&mut self, name: &Name, incarnation: u64, status: ExitStatus) {
        let Some(process) = self.processes.get_mut(&(name.clone(), incarnation)) else {
            return;
        };
        if process.exit.is_some() {
            return;
        }
        process.exit = Some(status);
        let leftovers = process.leftovers;
        let oom = status == ExitStatus::Signal(Signal::KILL);
        let exited =
            Event::Exited { name: name.clone(), incarnation, how: How { status, oom, at: None } };
        if !leftovers && self.random.one_in(3) {
            self.gone(name, incarnation);
            self.tell(exited);
        } else {
            self.tell(exited);
            if !leftovers {
                self.gone(name, incarnation);
            }
        }
    }

    /// Performs one action, as the engine's edge would.
    pub fn perform(&mut self, action: &Action) {
        match action {
            Action::Launch { name, incarnation, .. } => {
                self.soon(Due::Launch(name.clone(), *incarnation), 200);
            }
            Action::Signal { name, incarnation, signal } => {
                self.signal(name, *incarnation, *signal)
            }
            Action::KillAll { name, incarnation } => {
                let key = (name.clone(), *incarnation);
                let lived = match self.processes.get_mut(&key) {
                    Some(process) => {
                        process.leftovers = false;
                        process.exit.is_none()
                    }
                    None => false,
                };
                match lived {
                    true => self.die(name, *incarnation, ExitStatus::Signal(Signal::KILL)),
                    false => self.gone(name, *incarnation),
                }
            }
            Action::Freeze { name, incarnation } => self.freeze(name, *incarnation, true),
            Action::Thaw { name, incarnation } => self.freeze(name, *incarnation, false),
            Action::ApplyLive { name, to, .. } => {
                let result = match self.wild && self.random.one_in(5) {
                    true => Err("EBUSY".to_owned()),
                    false => Ok(()),
                };
                self.tell(Event::LiveApplied { name: name.clone(), to: to.clone(), result });
            }
            Action::ReloadExec { .. } => {}
            Action::Discard { name } => {
                assert!(
                    !self.processes.iter().any(|((n, _), process)| n == name && process.lives()),
                    "{name} is discarded while it lives"
                );
                let result = match self.wild && self.random.one_in(4) {
                    true => Err("EBUSY".to_owned()),
                    false => Ok(()),
                };
                self.tell(Event::Discarded { name: name.clone(), result });
            }
            Action::Finish => {
                assert!(!self.finished, "Finish came twice");
                self.finished = true;
            }
        }
    }

    fn freeze(&mut self, name: &Name, incarnation: u64, frozen: bool) {
        if let Some(process) = self.processes.get_mut(&(name.clone(), incarnation)) {
            process.frozen = frozen;
        }
    }

    fn signal(&mut self, name: &Name, incarnation: u64, signal: Signal) {
        let Some(process) = self.processes.get(&(name.clone(), incarnation)) else {
            return;
        };
        if signal != Signal::TERM || process.stubborn || process.exit.is_some() {
            return;
        }
        let status = match self.random.one_in(2) {
            true => ExitStatus::Code(0),
            false => ExitStatus::Signal(Signal::TERM),
        };
        self.soon(Due::Ends(name.clone(), incarnation, status), 4000);
    }

    /// What is due now happens; what it tells the engine is returned.
    pub fn happen(&mut self) -> Vec<Event> {
        let mut told = Vec::new();
        while let Some(index) = self.due.iter().position(|(at, _)| *at <= self.mono) {
            match self.due.remove(index).1 {
                Due::Tell(event) => told.push(*event),
                Due::Ends(name, incarnation, status) => {
                    let frozen = self
                        .processes
                        .get(&(name.clone(), incarnation))
                        .is_some_and(|process| process.frozen);
                    match frozen {
                        true => {
                            let at = self.mono + Duration::from_secs(1);
                            self.due.push((at, Due::Ends(name, incarnation, status)));
                        }
                        false => self.die(&name, incarnation, status),
                    }
                }
                Due::Launch(name, incarnation) => self.launch(name, incarnation),
            }
        }
        told
    }

    fn launch(&mut self, name: Name, incarnation: u64) {
        for ((other, number), process) in &self.processes {
            assert!(
                *other != name || !process.lives(),
                "{name}: incarnation {incarnation} is launched while {number} lives"
            );
        }
        let id = self.disk.get(&name).map(|record| record.id.clone()).unwrap_or_default();
        assert!(
            self.launched.insert((id.clone(), incarnation)),
            "{name}: the number {incarnation} is used twice"
        );
        let manifest = self.disk.get(&name).and_then(|record| record.applied.clone());
        let conditional = manifest.as_ref().is_some_and(|m| !m.if_exists.is_empty());
        if conditional && self.random.one_in(2) {
            let unmet = "/etc/something does not exist".to_owned();
            self.tell(Event::Skipped { name, incarnation, unmet });
            return;
        }
        if self.wild && self.random.one_in(5) {
            let code = *self.random.pick(&[125, 126, 127]);
            let error = "no such file".to_owned();
            self.tell(Event::LaunchFailed { name, incarnation, code, error });
            return;
        }
        self.next_pid += 1;
        let process = Process {
            pid: self.next_pid,
            started: self.mono,
            started_wall: self.wall,
            exit: None,
            leftovers: self.random.one_in(4),
            frozen: false,
            stubborn: self.random.one_in(5),
            id,
            acknowledged: false,
        };
        self.processes.insert((name.clone(), incarnation), process);
        if manifest.is_some_and(|m| m.tells_when_ready()) && !(self.wild && self.random.one_in(3)) {
            let ready = Event::Ready { name: name.clone(), incarnation };
            self.soon(Due::Tell(Box::new(ready)), 2000);
        }
        // Now and then its end is told before its beginning.
        let launched = Event::Launched { name, incarnation, pid: self.next_pid };
        let launched = Due::Tell(Box::new(launched));
        let late = if self.random.one_in(10) { 500 } else { 0 };
        self.soon(launched, late);
    }

    /// What the keeper and the kernel tell a new engine.
    pub fn hand_back(&mut self) -> Vec<Event> {
        let mut told = Vec::new();
        for ((name, incarnation), process) in &self.processes {
            let (name, incarnation) = (name.clone(), *incarnation);
            if process.lives() {
                told.push(Event::Adopted(Adopted {
                    name: name.clone(),
                    incarnation,
                    pid: process.pid,
                    started: process.started,
                    started_wall: process.started_wall,
                    frozen: process.frozen,
                    id: Some(process.id.clone()),
                }));
            }
            if let Some(status) = process.exit
                && (!process.acknowledged || process.lives())
            {
                told.push(Event::Exited {
                    name: name.clone(),
                    incarnation,
                    how: How { status, ..How::UNKNOWN },
                });
                if !process.lives() {
                    told.push(Event::CgroupEmptied { name, incarnation });
                }
            }
        }
        told.push(Event::AdoptionDone);
        told
    }

    /// A new boot: nothing of what ran is left.
    pub fn reboot(&mut self) {
        self.processes.clear();
        self.due.clear();
        self.boot += 1;
        self.mono = Duration::from_secs(self.random.below(20));
        let jump = self.random.below(1 << 50) as i64;
        self.wall = self.wall.wrapping_add(jump - (1 << 49));
    }

    /// The engine is dead: what it was doing and what it was being told is lost.
    pub fn engine_died(&mut self) {
        self.due.retain(|(_, due)| matches!(due, Due::Ends(..)));
    }
}
