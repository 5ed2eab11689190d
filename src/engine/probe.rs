//! Health checks: when to look (pure, [`Watchman`]), and looking: a connection or a
//! request in the container's network, or a command inside it.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

use super::handle::Probed;
use super::heard::{Asked, Heard, Listening, Unwell};
use super::prepare::{Job, Stdio};
use super::reconcile::{Event, HealthStatus};
use super::run::{Effect, Engine, Purpose, monotonic};
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
    fn add(&mut self, probed: Probed, failing_streak: u32) {
        self.failing_streak = failing_streak;
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
    /// In a row, that count.
    failures: u32,
    /// Its container's age when the last one of them was counted.
    counted: Duration,
}

impl Watchman {
    fn new(status: HealthStatus) -> Self {
        Watchman { status, failures: 0, counted: Duration::ZERO }
    }

    /// Takes a probe's result; gives the status if it is another one now. Failures
    /// within the start period do not count; nor, while it is looked more often than
    /// after each interval to see a good start at once, those between.
    fn told(&mut self, health: &Health, well: bool, age: Duration) -> Option<HealthStatus> {
        let before = self.status;
        if well {
            (self.status, self.failures) = (HealthStatus::Healthy, 0);
        } else if self.status != HealthStatus::Starting
            || age >= health.start_period && age >= self.counted.saturating_add(health.interval)
        {
            self.counted = age;
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
            HealthStatus::Starting => health.start_interval.unwrap_or(EAGER).min(health.interval),
            _ => health.interval,
        }
    }
}

/// How long a container has run that `began` then, whichever engines have looked after it.
fn age(began: Duration) -> Duration {
    monotonic().saturating_sub(began)
}

impl Engine {
    /// Looks after a container's health from now on, in place of an earlier look.
    pub(super) fn watch_health(&mut self, name: &Name, incarnation: u64) {
        let record = self.observed.record(name);
        let health = record.and_then(|record| record.health_check().cloned());
        // One that went on after a pause, or that an engine before us knew, does not start.
        let run = record.and_then(|record| record.phase.run());
        let status = run.and_then(|run| run.health).unwrap_or(HealthStatus::Starting);
        let began = run.map_or_else(monotonic, |run| run.started);
        let effects = self.effects.clone();
        self.unwatch_health(name);
        let Some(health) = health else { return };
        let live = self.lives.entry(name.clone()).or_default();
        let name = name.clone();
        if live.watched != Some(incarnation) {
            // Another run, another list.
            live.probes = Arc::new(Mutex::new(Probes::default()));
            live.watched = Some(incarnation);
        }
        let cgroup = live.cgroup();
        let probes = Arc::clone(&live.probes);
        let task = tokio::task::spawn_local(async move {
            let mut watchman = Watchman::new(status);
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
                let heard = Heard::default();
                let probe = Effect::Probe {
                    name: name.clone(),
                    incarnation,
                    health: Box::new(health.clone()),
                    asked: Asked { answer, heard: heard.clone(), listening: Listening::default() },
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
                        Err(Unwell { code: -1, why: format!("no answer within {timeout}") })
                    }
                };
                if result.is_err() && standstills() != before {
                    tokio::time::sleep(watchman.pause(&health)).await;
                    continue;
                }
                // A failure is told when it is news.
                if let Err(Unwell { why, .. }) = &result
                    && last != result
                {
                    let what = format!("health check: {why}");
                    let _ = effects.send(Effect::Problem { name: name.clone(), what });
                }
                let well = result.is_ok();
                let changed = watchman.told(&health, well, age(began));
                if let Ok(mut probes) = probes.lock() {
                    let (end, output) = (SystemTime::now(), heard.text());
                    let code = result.as_ref().err().map_or(0, |unwell| unwell.code);
                    let failure = result.as_ref().err().map(|unwell| unwell.why.clone());
                    let probed = Probed { start, end, failure, code, output };
                    probes.add(probed, watchman.failures);
                }
                last = result;
                if let Some(health) = changed {
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
    pub(super) fn probe(&mut self, name: Name, incarnation: u64, health: Health, asked: Asked) {
        let run = self.observed.record(&name).and_then(|record| record.phase.run());
        if run.is_none_or(|run| run.paused) {
            return;
        }
        if let Some(command) = health.exec {
            let stdio = Stdio::Pipes { stdin: false, stdout: true, stderr: true };
            let job = Job { command, stdio, ..Job::default() };
            self.command(name, incarnation, job, Purpose::Probe(asked));
            return;
        }
        let running = self.lives.get(&name).and_then(|live| live.running(incarnation));
        let Some(pid) = running.map(|process| process.pid) else { return };
        let Ok(network) = std::fs::File::open(format!("/proc/{pid}/ns/net")) else { return };
        tokio::task::spawn_blocking(move || {
            let _ = asked.answer.send(look(network.into(), &health).map_err(Unwell::from));
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
        let mut watchman = Watchman::new(HealthStatus::Starting);
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

    /// A program that takes twenty seconds to begin, looked at each second.
    #[test]
    fn looking_more_often_at_a_start_makes_no_failures() {
        let health = Health { retries: 2, interval: Duration::from_secs(30), ..Health::default() };
        let at = Duration::from_secs;
        let mut watchman = Watchman::new(HealthStatus::Starting);
        for second in 0..20 {
            assert_eq!(watchman.told(&health, false, at(second)), None);
        }
        assert_eq!(watchman.told(&health, true, at(20)), Some(HealthStatus::Healthy));
        let mut watchman = Watchman::new(HealthStatus::Starting);
        let told: Vec<u64> = (0..100)
            .filter(|second| watchman.told(&health, false, at(*second)).is_some())
            .collect();
        assert_eq!(told, [60]);
        let slower = Health { start_interval: Some(at(5)), ..health };
        assert_eq!(Watchman::new(HealthStatus::Starting).pause(&slower), at(5));
        assert_eq!(Watchman::new(HealthStatus::Healthy).pause(&slower), at(30));
    }

    #[test]
    fn answers_are_judged_by_their_status() {
        assert!(is_well(b"HTTP/1.1 204"));
        assert!(is_well(b"HTTP/1.0 302"));
        assert!(!is_well(b"HTTP/1.1 500"));
        assert!(!is_well(b"SSH-2.0-Open"));
    }
}
