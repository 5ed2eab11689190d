//! Times at which containers have to be looked at: at most one for each name.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::manifest::scalar::Name;

/// Names and their times. One that was due is told of once, and stays known until another
/// is set.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    of: BTreeMap<Name, Duration>,
    coming: BTreeSet<(Duration, Name)>,
}

impl Deadlines {
    /// Sets a name's time, in place of an earlier one.
    pub fn set(&mut self, name: &Name, at: Option<Duration>) {
        if self.get(name) == at {
            return;
        }
        if let Some(before) = self.of.remove(name) {
            self.coming.remove(&(before, name.clone()));
        }
        if let Some(at) = at {
            self.of.insert(name.clone(), at);
            self.coming.insert((at, name.clone()));
        }
    }

    /// A name's time, whether it has passed or not.
    pub fn get(&self, name: &Name) -> Option<Duration> {
        self.of.get(name).copied()
    }

    /// The names whose time has come, as far as they were not told of.
    pub fn due(&self, now: Duration) -> impl Iterator<Item = &Name> {
        self.coming.iter().take_while(move |(at, _)| *at <= now).map(|(_, name)| name)
    }

    /// Takes the next of [`Deadlines::due`].
    pub fn take_due(&mut self, now: Duration) -> Option<Name> {
        self.coming.first().filter(|(at, _)| *at <= now)?;
        self.coming.pop_first().map(|(_, name)| name)
    }

    /// The first time after `now`.
    pub fn next(&self, now: Duration) -> Option<Duration> {
        self.coming.iter().map(|(at, _)| *at).find(|at| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_once_and_replaced() {
        let seconds = Duration::from_secs;
        let [a, b] = ["a", "b"].map(|name| name.parse::<Name>().unwrap());
        let mut deadlines = Deadlines::default();
        deadlines.set(&a, Some(seconds(5)));
        deadlines.set(&b, Some(seconds(3)));
        deadlines.set(&a, Some(seconds(2)));
        assert_eq!(deadlines.due(seconds(3)).collect::<Vec<_>>(), [&a, &b]);
        assert_eq!(deadlines.take_due(seconds(2)), Some(a.clone()));
        assert_eq!(deadlines.take_due(seconds(2)), None);
        assert_eq!(deadlines.get(&a), Some(seconds(2)), "it is known, and has passed");
        deadlines.set(&a, Some(seconds(2)));
        assert_eq!(deadlines.next(seconds(0)), Some(seconds(3)), "it was told of already");
        deadlines.set(&b, None);
        assert_eq!(deadlines.next(seconds(0)), None);
    }
}
