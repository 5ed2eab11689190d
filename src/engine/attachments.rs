//! Who still reads what a container printed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Counts the clients that still read what a container printed: one that is to be
/// removed at its end waits for them.
#[derive(Debug, Clone, Default)]
pub struct Attachments(Arc<Mutex<BTreeMap<String, u32>>>);

/// A client that is attached, until this is dropped.
#[derive(Debug)]
pub struct Attached(Attachments, String);

impl Attachments {
    /// A client comes to the container of this id.
    pub fn enter(&self, id: &str) -> Attached {
        if let Ok(mut counts) = self.0.lock() {
            *counts.entry(id.to_owned()).or_default() += 1;
        }
        Attached(self.clone(), id.to_owned())
    }

    /// Whether anybody is attached to a container.
    pub fn any(&self, id: &str) -> bool {
        self.0.lock().is_ok_and(|counts| counts.contains_key(id))
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Ok(mut counts) = self.0.0.lock()
            && let Some(count) = counts.get_mut(&self.1)
        {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}
