//! Others' changes, heard of and put right.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use super::recover::Removed;
use super::{Networks, State};
use crate::network::firewall::watch::Heard;
use crate::network::spec::{Driver, Taken};
use crate::network::{Instance, Result, bridges, firewall};

/// Which of others' changes are listened to.
#[derive(Debug, Default)]
pub(super) struct Watching {
    links: bool,
    rules: bool,
    /// It was said that this can't be.
    told: bool,
    /// What of others' is in the way of containers, as it was told.
    in_the_way: BTreeSet<String>,
}

impl Watching {
    fn of(&mut self, what: Removed) -> &mut bool {
        match what {
            Removed::Link => &mut self.links,
            Removed::Rules | Removed::Unheard => &mut self.rules,
        }
    }
}

/// Hears of one kind of change.
enum Watcher {
    Links(bridges::Watcher),
    Rules(firewall::watch::Watcher),
}

impl Watcher {
    async fn heard(&mut self, instance: &Instance) -> Result<Change> {
        Ok(match self {
            Watcher::Links(watcher) => {
                let bridges::Heard { gone, placed, lost } = watcher.heard().await?;
                if lost || gone.iter().any(|name| instance.is_lasting(name)) {
                    // It is looked at what there is.
                    Change::Gone(Removed::Link)
                } else if gone.is_empty() {
                    Change::Placed(placed)
                } else {
                    Change::Ports { names: gone, placed }
                }
            }
            Watcher::Rules(watcher) => match watcher.heard().await? {
                Heard::Others => Change::Others,
                Heard::Lost => Change::Gone(Removed::Unheard),
                Heard::Removed => Change::Gone(Removed::Rules),
            },
        })
    }
}

/// What was heard of.
enum Change {
    /// Others changed rules of theirs.
    Others,
    /// The host got addresses, or routes.
    Placed(BTreeSet<IpNet>),
    /// Containers' interfaces are gone, most often by ourselves; and the host may have got
    /// addresses, too.
    Ports { names: Vec<String>, placed: BTreeSet<IpNet> },
    /// Something that is to be put back.
    Gone(Removed),
}

/// Who removes again what was put back makes the pauses before the next repair longer:
/// two programs that fight must not take the machine.
#[derive(Debug, Default)]
struct Brake {
    pause: Duration,
    last: Option<Instant>,
}

impl Brake {
    const LEAST: Duration = Duration::from_millis(10);
    const MOST: Duration = Duration::from_secs(1);
    /// After so long without a repair the next one is made at once.
    const QUIET: Duration = Duration::from_secs(5);

    fn pause(&mut self, now: Instant) -> Duration {
        let fights = self.last.is_some_and(|last| now.duration_since(last) < Self::QUIET);
        self.pause = match fights {
            true => (self.pause * 2).clamp(Self::LEAST, Self::MOST),
            false => Duration::ZERO,
        };
        self.last = Some(now + self.pause);
        self.pause
    }
}

impl State {
    /// Listens to one kind of change, if it is time to and nobody does.
    fn watch(&mut self, what: Removed) -> Option<Watcher> {
        let kernel = self.kernel.as_ref().filter(|_| !self.up.is_empty())?;
        if *self.watching.of(what) {
            return None;
        }
        let entered = self.runtime.enter();
        let opened = match what {
            Removed::Link => bridges::Watcher::open(&self.instance).map(Watcher::Links),
            Removed::Rules | Removed::Unheard => {
                firewall::watch::Watcher::open(&self.instance, &kernel.firewall).map(Watcher::Rules)
            }
        };
        drop(entered);
        match opened {
            Ok(watcher) => {
                *self.watching.of(what) = true;
                Some(watcher)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.watching.told, true) {
                    tracing::warn!("{error}; who removes {what} is not noticed");
                }
                None
            }
        }
    }
}

impl State {
    /// What the host got since that takes the place of a network's addresses: a longer
    /// prefix leads away from the bridge.
    fn overlaid(&mut self) -> Vec<String> {
        let Some(kernel) = &mut self.kernel else { return Vec::new() };
        let taken = match kernel.host.taken() {
            Ok(taken) => taken,
            Err(error) => {
                tracing::debug!("{error}");
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for up in self.up.values().filter(|up| up.spec.driver == Driver::Bridge) {
            let within = |one: &&Taken| up.spec.subnets().any(|subnet| subnet.contains(&one.net));
            found.extend(taken.iter().find(within).map(|taken| {
                let name = &up.spec.name;
                format!(
                    "the host got {}, which is within the network {name} ({}): containers there \
                     may not be reached; give the network another `subnet`, or take it away",
                    taken.by, up.spec.subnet
                )
            }));
        }
        found
    }
}

impl Networks {
    /// The first one to need the kernel has opened it: from then on changes by others
    /// are listened to. What can't be listened to now is tried with the next launch.
    pub(super) fn start_watching(&self) {
        for what in [Removed::Rules, Removed::Link] {
            let (watcher, runtime, instance) = self
                .locked(|state| (state.watch(what), state.runtime.clone(), state.instance.clone()));
            if let Some(watcher) = watcher {
                runtime.spawn(self.clone().keep_right(what, instance, watcher));
            }
        }
    }

    /// Says what of others' is in the way of containers, once until that changes.
    /// Waits for nothing.
    fn look_at_others(&self) {
        if self.looks.swap(true, Ordering::AcqRel) {
            return;
        }
        let networks = self.clone();
        let look = move || {
            networks.looks.store(false, Ordering::Release);
            let instance = networks.locked(|state| state.instance.clone());
            let mut found = match firewall::others::in_the_way(&instance) {
                Ok(found) => found,
                Err(error) => return tracing::debug!("{error}"),
            };
            found.extend(networks.locked(State::overlaid));
            let told = networks
                .locked(|state| std::mem::replace(&mut state.watching.in_the_way, found.clone()));
            for sentence in found.difference(&told) {
                tracing::warn!("{sentence}");
            }
        };
        tokio::spawn(async {
            // Whoever changes chains changes several, and shuts all while at it.
            tokio::time::sleep(Brake::MOST).await;
            let _ = tokio::task::spawn_blocking(look).await;
        });
    }

    async fn keep_right(self, what: Removed, instance: Instance, mut watcher: Watcher) {
        let mut brake = Brake::default();
        self.look_at_others();
        loop {
            let heard = watcher.heard(&instance).await;
            let gone = match &heard {
                Ok(Change::Others) => {
                    self.look_at_others();
                    continue;
                }
                Ok(Change::Ports { names, placed }) if !self.misses(names.clone()).await => {
                    self.look_at(placed);
                    continue;
                }
                Ok(Change::Placed(placed)) => {
                    self.look_at(placed);
                    continue;
                }
                Ok(Change::Gone(gone)) => *gone,
                _ => what,
            };
            tokio::time::sleep(brake.pause(Instant::now())).await;
            let networks = self.clone();
            let is_lost = heard.is_err();
            if let Err(error) = heard {
                tracing::warn!("{error}; listening anew");
            }
            let repaired = tokio::task::spawn_blocking(move || {
                let again = is_lost.then(|| {
                    networks.locked(|state| {
                        *state.watching.of(what) = false;
                        state.watch(what)
                    })
                });
                // Nobody listened meanwhile: it is looked at, whatever was heard.
                networks.repair(gone);
                again
            });
            // Whoever flushes rules makes others.
            self.look_at_others();
            match repaired.await {
                Ok(None) => {}
                Ok(Some(Some(another))) => watcher = another,
                // The next launch tries again.
                Ok(Some(None)) => return,
                Err(error) => tracing::error!("repairing {what}: {error}"),
            }
        }
    }

    /// The host got these: it is looked only if one is within a network of ours, for an
    /// IPv6 router's every word is such a change.
    fn look_at(&self, placed: &BTreeSet<IpNet>) {
        let seen = self.seen();
        let specs = seen.networks.values().filter_map(|view| view.spec.as_ref());
        let mut subnets = specs.flat_map(|spec| spec.subnets());
        if subnets.any(|subnet| placed.iter().any(|net| subnet.contains(net))) {
            self.look_at_others();
        }
    }

    /// Whether one of these interfaces is to be there.
    async fn misses(&self, names: Vec<String>) -> bool {
        let networks = self.clone();
        let look = move || networks.locked(|state| state.misses_port(&names));
        tokio::task::spawn_blocking(look).await.unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fight_gets_slower_and_a_single_removal_is_put_right_at_once() {
        let mut brake = Brake::default();
        let mut now = Instant::now();
        assert_eq!(brake.pause(now), Duration::ZERO);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            now += Duration::from_millis(5);
            let pause = brake.pause(now);
            now += pause;
            pauses.push(pause);
        }
        assert_eq!(pauses.first(), Some(&Brake::LEAST));
        assert_eq!(pauses.last(), Some(&Brake::MOST));
        assert!(pauses.is_sorted());
        assert_eq!(brake.pause(now + Brake::QUIET), Duration::ZERO);
    }
}
