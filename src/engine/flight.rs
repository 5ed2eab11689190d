//! One launch from the order to its outcome. Three things are told about it, in
//! any order: the keeper cloned (or refused), the error pipe closed (the payload
//! was executed, or failed before), the keeper reaped. Pure.

use crate::sandbox::status::{End, Status};

/// What is known of a launch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Flight {
    cloned: Option<u32>,
    refused: Option<i32>,
    /// The status file as it was when the pipe closed.
    pipe_closed: Option<Status>,
    ended: Option<Option<End>>,
    said_launched: bool,
}

/// What the reconciler is to be told.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The payload runs.
    Launched {
        /// Its supervisor.
        pid: u32,
    },
    /// It never ran. The status says why; without a word in it the errno of the
    /// keeper is all there is.
    Failed {
        /// The status file.
        status: Status,
        /// What clone3(2) said.
        errno: Option<i32>,
    },
    /// It ran, and has ended.
    Ended(Option<End>),
}

impl Flight {
    /// A flight that is known to run already: adopted.
    pub fn running(pid: u32) -> Self {
        Flight {
            cloned: Some(pid),
            pipe_closed: Some(Status::default()),
            said_launched: true,
            ..Flight::default()
        }
    }

    /// The keeper cloned.
    pub fn cloned(&mut self, pid: u32) -> Vec<Outcome> {
        self.cloned = Some(pid);
        self.outcomes()
    }

    /// The keeper could not clone.
    pub fn refused(&mut self, errno: i32) -> Vec<Outcome> {
        self.refused = Some(errno);
        self.outcomes()
    }

    /// The error pipe closed; this is the status file.
    pub fn pipe_closed(&mut self, status: Status) -> Vec<Outcome> {
        self.pipe_closed = Some(status);
        self.outcomes()
    }

    /// The keeper reaped it.
    pub fn ended(&mut self, end: Option<End>) -> Vec<Outcome> {
        self.ended = Some(end);
        self.outcomes()
    }

    /// Whether nothing more comes.
    pub fn is_over(&self) -> bool {
        self.pipe_closed.is_some() && (self.ended.is_some() || self.refused.is_some())
    }

    fn outcomes(&mut self) -> Vec<Outcome> {
        let Some(status) = self.pipe_closed else {
            return Vec::new();
        };
        if let Some(errno) = self.refused {
            return vec![Outcome::Failed { status, errno: Some(errno) }];
        }
        let Some(pid) = self.cloned else {
            return Vec::new();
        };
        if status.failure.is_some() {
            // It is over when nothing is left of the attempt.
            return match self.ended {
                Some(_) => vec![Outcome::Failed { status, errno: None }],
                None => Vec::new(),
            };
        }
        let mut outcomes = Vec::new();
        if !self.said_launched {
            self.said_launched = true;
            outcomes.push(Outcome::Launched { pid });
        }
        if let Some(end) = self.ended {
            outcomes.push(Outcome::Ended(end));
        }
        outcomes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::status::{Failure, Step};
    use rustix::io::Errno;

    #[test]
    fn the_order_of_what_is_told_does_not_matter() {
        let end = Some(End::Exit(0));
        let told: [fn(&mut Flight) -> Vec<Outcome>; 3] = [
            |f| f.cloned(5),
            |f| f.pipe_closed(Status::default()),
            |f| f.ended(Some(End::Exit(0))),
        ];
        for order in [[0, 1, 2], [1, 0, 2], [0, 2, 1]] {
            let mut flight = Flight::default();
            let outcomes: Vec<_> = order.iter().flat_map(|i| told[*i](&mut flight)).collect();
            assert_eq!(outcomes, [Outcome::Launched { pid: 5 }, Outcome::Ended(end)], "{order:?}");
            assert!(flight.is_over());
        }
    }

    #[test]
    fn a_failure_is_told_once_and_when_nothing_is_left() {
        let failure = Failure { step: Step::Exec, index: 0, errno: Errno::NOENT };
        let status = Status { failure: Some(failure), ..Status::default() };
        let mut flight = Flight::default();
        assert_eq!(flight.cloned(5), []);
        assert_eq!(flight.pipe_closed(status), []);
        assert!(!flight.is_over());
        let outcomes = flight.ended(Some(End::Exit(127)));
        assert_eq!(outcomes, [Outcome::Failed { status, errno: None }]);
        let mut refused = Flight::default();
        refused.pipe_closed(status);
        assert_eq!(refused.refused(11), [Outcome::Failed { status, errno: Some(11) }]);
        assert!(refused.is_over());
    }
}
