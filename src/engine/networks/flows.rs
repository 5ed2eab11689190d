//! Flows that go on as they began, forgotten beside everything else: how many there are
//! strangers decide, and no launch waits for them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::network::firewall::{Plan, forget_flows};

/// The newest plan that has not been looked at, and whether somebody is at it.
#[derive(Debug, Clone, Default)]
pub(super) struct Flows(Arc<Mutex<(Option<Plan>, bool)>>);

impl Flows {
    /// Has those forgotten that go another way than this plan says, in a while.
    pub fn follow(&self, plan: Plan, runtime: &tokio::runtime::Handle) {
        let mut state = self.lock();
        state.0 = Some(plan);
        if std::mem::replace(&mut state.1, true) {
            return;
        }
        drop(state);
        let flows = self.clone();
        runtime.spawn_blocking(move || {
            while let Some(plan) = flows.next() {
                forget_flows(&plan);
            }
        });
    }

    fn next(&self) -> Option<Plan> {
        let mut state = self.lock();
        let next = state.0.take();
        state.1 = next.is_some();
        next
    }

    fn lock(&self) -> MutexGuard<'_, (Option<Plan>, bool)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
