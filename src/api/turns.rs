//! Turns at work that keeps a thread busy. The threads that may block are so many and no
//! more, and launches need them, too: however much clients ask for, most of them stay
//! free. A turn lasts as long as the work, not as long as the client waits for it.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Work of one kind, of which so much is done at a time. Whoever comes later waits.
#[derive(Debug)]
pub struct Turns(Semaphore);

/// What walks over the disk: bytes that are counted, trees that are compared. More at
/// once would only be slower; also for the programs that are started to look.
pub static LOOKS: Turns = Turns(Semaphore::const_new(8));

/// What may last minutes, and waits for nobody: commits, copies.
pub static LONG: Turns = Turns(Semaphore::const_new(64));

/// Archives that are written to clients, which take as long as those like. With
/// [`INCOMING`] and [`LONG`] half of the threads that there are.
pub static OUTGOING: Turns = Turns(Semaphore::const_new(96));

/// Archives that are read from clients. Turns of their own, for what a client sends may
/// be what it is being sent: if both took from the same ones, each could hold what the
/// other waits for. For the same reason they are taken when the first bytes are there
/// ([`super::body::Reader::begun`]).
pub static INCOMING: Turns = Turns(Semaphore::const_new(96));

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Turn(Option<SemaphorePermit<'static>>);

impl Turns {
    /// Waits for a turn.
    pub async fn turn(&'static self) -> Turn {
        // Nobody ever closes it; without it there would just be no bound.
        Turn(self.0.acquire().await.ok())
    }
}

impl Turn {
    /// The same work, which holds the turn until it is done.
    pub fn with<T>(self, work: impl FnOnce() -> T) -> impl FnOnce() -> T {
        move || {
            let result = work();
            drop(self.0);
            result
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_ends_with_the_work_and_not_with_who_waits_for_it() {
        static ONE: Turns = Turns(Semaphore::const_new(1));
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let work = ONE.turn().await.with(move || wait.recv().is_ok());
        let waiting = tokio::task::spawn_blocking(work);
        drop(waiting);
        assert_eq!(ONE.0.available_permits(), 0);
        go.send(()).unwrap();
        drop(ONE.turn().await);
        assert_eq!(ONE.0.available_permits(), 1);
    }
}
