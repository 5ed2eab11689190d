//! Health checks: when to look (pure, [`Watchman`]), and looking: a connection or a
//! request in the container's network, or a command inside it.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::handle::Probed;
use super::prepare::Job;
use super::reconcile::{Event, HealthStatus};
use super::run::{Answer, Effect, Engine, Purpose};
use crate::manifest::model::Health;
use crate::manifest::scalar::Name;

/// While nothing is known yet it is looked at least this often.
const EAGER: Duration = Duration::from_secs(1);

/// So many answers are remembered, as with Docker.
const REMEMBERED: usize = 5;

/// What a container's health checks said last.
#[derive(Debug, Clone, Default)]
pub struct Probes {
    /// The newest at the end.
    pub last: VecDeque<Probed>,
    /// Failures in a row.
    pub failing_streak: u32,
}

impl Probes {
    fn add(&mut self, probed: Probed) {
        self.failing_streak = match &probed.failure {
            Some(_) => self.failing_streak.saturating_add(1),
            None => 0,
        };
        while self.last.len() >= REMEMBERED {
            self.last.pop_front();
        }
        self.last.push_back(probed);
    }
}

/// Counts what probes said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Watchman {
    status: HealthStatus,
    failures: u32,
}

impl Watchman {
    /// Takes a probe's result; gives the status if it is another one now. Failures
    /// within the start period do not count.
    fn told(&mut self, health: &Health, well: bool, age: Duration) -> Option<HealthStatus> {
        let before = self.status;
        if well {
            (self.status, self.failures) = (HealthStatus::Healthy, 0);
        } else if self.status != HealthStatus::Starting || age >= health.start_period {
            self.failures = self.failures.saturating_add(1);
            if self.failures >= health.retries.max(1) {
                self.status = HealthStatus::Unhealthy;
            }
        }
        (self.status != before).then_some(self.status)
    }

    /// How long until the next probe.
    fn pause(&self, health: &Health) -> Duration {
        match self.status {
            HealthStatus::Starting => health.start_interval.unwrap_or(health.interval.min(EAGER)),
            _ => health.interval,
        }
    }
}

impl Engine {
    /// Looks after a container's health from now on, in place of an earlier look.
    pub(super) fn watch_health(&mut self, name: &Name, incarnation: u64) {
        let record = self.observed.record(name);
        let health = record.and_then(|record| record.health_check().cloned());
        let effects = self.effects.clone();
        self.unwatch_health(name);
        let Some(health) = health else { return };
        let live = self.lives.entry(name.clone()).or_default();
        let name = name.clone();
        // Another run, another list.
        live.probes = Arc::new(Mutex::new(Probes::default()));
        let cgroup = live.cgroup();
        let probes = Arc::clone(&live.probes);
        let task = tokio::task::spawn_local(async move {
            let began = Instant::now();
            let mut watchman = Watchman { status: HealthStatus::Starting, failures: 0 };
            let mut last = Ok(());
            loop {
                // Of what we hold still (for a commit, a clone) nothing is expected until it
                // goes on; nor that it answers in time when it was held still meanwhile.
                let standstills = || cgroup.as_ref().map_or(0, |cgroup| cgroup.standstills());
                let before = standstills();
                if cgroup.as_ref().is_some_and(|cgroup| cgroup.is_held()) {
                    tokio::time::sleep(watchman.pause(&health)).await;
                    continue;
                }
                let start = SystemTime::now();
                let (answer, answered) = oneshot::channel();
                let probe = Effect::Probe {
                    name: name.clone(),
                    incarnation,
                    health: Box::new(health.clone()),
                    answer,
                };
                if effects.send(probe).is_err() {
                    return;
                }
                let result = match tokio::time::timeout(health.timeout, answered).await {
                    Ok(Ok(result)) => result,
                    // It does not run any more.
                    Ok(Err(_)) => return,
                    Err(_) => {
                        let _ = effects.send(Effect::Abandoned);
                        let timeout = humantime::format_duration(health.timeout);
                        Err(format!("no answer within {timeout}"))
                    }
                };
                if result.is_err() && standstills() != before {
                    tokio::time::sleep(watchman.pause(&health)).await;
                    continue;
                }
                if let Ok(mut probes) = probes.lock() {
                    let failure = result.clone().err();
                    probes.add(Probed { start, end: SystemTime::now(), failure });
                }
                // A failure is told when it is news.
                if let Err(why) = &result
                    && last.as_ref() != Err(why)
                {
                    let _ = effects.send(Effect::Problem(format!("{name}: health check: {why}")));
                }
                let well = result.is_ok();
                last = result;
                if let Some(health) = watchman.told(&health, well, began.elapsed()) {
                    let changed = Event::HealthChanged { name: name.clone(), incarnation, health };
                    let _ = effects.send(Effect::Event(changed));
                }
                tokio::time::sleep(watchman.pause(&health)).await;
            }
        });
        live.probing = Some(task.abort_handle());
    }

    /// Looks after it no longer.
    pub(super) fn unwatch_health(&mut self, name: &Name) {
        let probing = self.lives.get_mut(name).and_then(|live| live.probing.take());
        if let Some(probing) = probing {
            probing.abort();
            // When the task is gone.
            let effects = self.effects.clone();
            tokio::task::spawn_local(async move { effects.send(Effect::Abandoned) });
        }
    }

    /// Looks once. Of one that is paused nothing is expected until it goes on.
    pub(super) fn probe(&mut self, name: Name, incarnation: u64, health: Health, answer: Answer) {
        let run = self.observed.record(&name).and_then(|record| record.phase.run());
        if run.is_none_or(|run| run.paused) {
            return;
        }
        if let Some(command) = health.exec {
            let job = Job { command, ..Job::default() };
            self.command(name, incarnation, job, Purpose::Probe(answer));
            return;
        }
        let running = self.lives.get(&name).and_then(|live| live.running(incarnation));
        let Some(pid) = running.map(|process| process.pid) else { return };
        let Ok(network) = std::fs::File::open(format!("/proc/{pid}/ns/net")) else { return };
        tokio::task::spawn_blocking(move || {
            let _ = answer.send(look(network.into(), &health));
        });
    }
}

/// Looks from inside a network namespace; a thread of its own enters it, so that no
/// other one is ever in the wrong network.
fn look(network: OwnedFd, health: &Health) -> Result<(), String> {
    let look = || -> Result<(), String> {
        nix::sched::setns(&network, nix::sched::CloneFlags::CLONE_NEWNET)
            .map_err(|errno| format!("entering its network: {errno}"))?;
        let timeout = health.timeout;
        match (&health.http, &health.tcp) {
            (Some(http), _) => {
                let (host, port, path) = crate::manifest::http_address(http)
                    .ok_or_else(|| format!("{http} is not an address"))?;
                request(connect(host, port, timeout)?, host, path, timeout)
            }
            (None, Some(tcp)) => {
                let (host, port) = crate::manifest::tcp_address(tcp)
                    .ok_or_else(|| format!("{tcp} is not an address"))?;
                connect(host, port, timeout).map(drop)
            }
            (None, None) => Err("it says nothing to look at".to_owned()),
        }
    };
    std::thread::scope(|scope| {
        let looked = std::thread::Builder::new().spawn_scoped(scope, look);
        let looked = looked.map_err(|error| format!("starting a thread: {error}"))?;
        looked.join().unwrap_or_else(|_| Err("the probe panicked".to_owned()))
    })
}

fn connect(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, String> {
    // Names are not looked up: a container's own address is meant.
    let host = if host.is_empty() || host == "localhost" { "127.0.0.1" } else { host };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address: IpAddr = host.parse().map_err(|_| format!("{host} is not an IP address"))?;
    let address = SocketAddr::new(address, port);
    TcpStream::connect_timeout(&address, timeout)
        .map_err(|error| format!("connecting to {address}: {error}"))
}

/// Whether a GET is answered with a status from 200 to 399.
fn request(mut stream: TcpStream, host: &str, path: &str, timeout: Duration) -> Result<(), String> {
    let host = if host.is_empty() { "localhost" } else { host };
    let mut head = [0u8; 12];
    stream
        .set_read_timeout(Some(timeout))
        .and_then(|()| stream.set_write_timeout(Some(timeout)))
        .and_then(|()| {
            write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        })
        .and_then(|()| stream.read_exact(&mut head))
        .map_err(|error| format!("asking for {path}: {error}"))?;
    if is_well(&head) {
        return Ok(());
    }
    Err(format!("{path} is answered with {:?}", String::from_utf8_lossy(&head)))
}

/// `HTTP/1.1 204`
fn is_well(head: &[u8; 12]) -> bool {
    head.starts_with(b"HTTP/1.")
        && matches!(head[9], b'2' | b'3')
        && head[10..].iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_after_the_start_period_and_in_a_row() {
        let health = Health {
            retries: 2,
            start_period: Duration::from_secs(10),
            interval: Duration::from_secs(30),
            ..Health::default()
        };
        let mut watchman = Watchman { status: HealthStatus::Starting, failures: 0 };
        let early = Duration::from_secs(1);
        let late = Duration::from_secs(11);
        for _ in 0..5 {
            assert_eq!(watchman.told(&health, false, early), None);
        }
        assert_eq!(watchman.pause(&health), EAGER);
        let patient = Duration::from_secs(5);
        let slow = Health { start_interval: Some(patient), ..health.clone() };
        assert_eq!(watchman.pause(&slow), patient);
        assert_eq!(watchman.told(&health, true, early), Some(HealthStatus::Healthy));
        assert_eq!(watchman.pause(&health), health.interval);
        assert_eq!(watchman.told(&health, false, late), None);
        assert_eq!(watchman.told(&health, true, late), None);
        assert_eq!(watchman.told(&health, false, late), None);
        assert_eq!(watchman.told(&health, false, late), Some(HealthStatus::Unhealthy));
        assert_eq!(watchman.told(&health, false, late), None);
    }

    #[test]
    fn answers_are_judged_by_their_status() {
        assert!(is_well(b"HTTP/1.1 204"));
        assert!(is_well(b"HTTP/1.0 302"));
        assert!(!is_well(b"HTTP/1.1 500"));
        assert!(!is_well(b"SSH-2.0-Open"));
    }
}
