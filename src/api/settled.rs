//! A change is answered when it holds: who asks next sees it.

use std::time::Duration;

use super::model::is_running;
use crate::engine::handle::{Handle, Refusal, View};

/// What changes in a running container takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until a container is as it was written down. `what` of it changed, as a noun.
///
/// # Errors
/// The system refused it, or it has not come about in ten seconds; it stays written down.
pub async fn settled(
    handle: &Handle,
    view: &View,
    what: &str,
    mut is_so: impl FnMut(&View) -> bool,
) -> Result<(), Refusal> {
    let reached = handle
        .wait_until(&view.id, |view| is_so(view) || view.error.is_some() || !is_running(view));
    match tokio::time::timeout(PATIENCE, reached).await {
        // Whoever rests has what it was told from the next start on.
        Ok(view) => match view.filter(is_running).and_then(|view| view.error) {
            Some(error) => Err(Refusal::Failed(error)),
            None => Ok(()),
        },
        Err(_) => Err(Refusal::Failed(format!(
            "{}: {what} is written down, but it does not hold after {PATIENCE:?}",
            view.name
        ))),
    }
}
