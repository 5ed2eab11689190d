//! A change is answered when it holds: who asks next sees it.

use std::time::Duration;

use super::model::is_running;
use crate::engine::handle::{Handle, Refusal, View};

/// What changes in a running container takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a change does not hold: a sentence for the client.
pub enum Unsettled {
    /// The system refused it.
    Refused(String),
    /// It has not come about yet; it stays written down.
    Late(String),
}

impl From<Unsettled> for Refusal {
    fn from(why: Unsettled) -> Refusal {
        match why {
            Unsettled::Refused(why) | Unsettled::Late(why) => Refusal::Failed(why),
        }
    }
}

/// Waits until a container is as it was written down. `what` of it changed, as a noun.
///
/// # Errors
/// The system refused it, or it has not come about in ten seconds.
pub async fn settled(
    handle: &Handle,
    view: &View,
    what: &str,
    mut is_so: impl FnMut(&View) -> bool,
) -> Result<(), Unsettled> {
    let reached = handle
        .wait_until(&view.id, |view| is_so(view) || view.error.is_some() || !is_running(view));
    match tokio::time::timeout(PATIENCE, reached).await {
        // Whoever rests has what it was told from the next start on.
        Ok(view) => match view.filter(is_running).and_then(|view| view.error) {
            Some(error) => Err(Unsettled::Refused(error)),
            None => Ok(()),
        },
        Err(_) => Err(Unsettled::Late(format!(
            "{}: {what} is written down, but it does not hold after {PATIENCE:?}",
            view.name
        ))),
    }
}
