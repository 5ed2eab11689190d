//! Compiled seccomp filters: most containers have the same one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::manifest::model::Container;
use crate::spec;

/// Compiled seccomp filters: most containers have the same one.
#[derive(Debug, Clone, Default)]
pub struct Filters(Arc<Mutex<VecDeque<Compiled>>>);

/// A filter, and its program for seccomp(2).
type Compiled = (spec::Filter, Vec<u8>);

impl Filters {
    /// As many as there may be different ones in use.
    const KEPT: usize = 8;

    /// The filter of a container, for seccomp(2); empty when it has none.
    pub(super) fn of(
        &self,
        manifest: &Container,
        context: &spec::Context,
    ) -> Result<Vec<u8>, String> {
        let filter = spec::Filter::of(manifest, context).map_err(|error| error.to_string())?;
        // A lock that somebody died with still holds whole entries.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, program)) = known.iter().find(|(other, _)| *other == filter) {
            return Ok(program.clone());
        }
        let program = match filter.profile().map_err(|error| error.to_string())? {
            None => Vec::new(),
            Some(profile) => {
                spec::seccomp::compile(&profile).map_err(|error| error.to_string())?.to_bytes()
            }
        };
        known.truncate(Self::KEPT - 1);
        known.push_front((filter, program.clone()));
        Ok(program)
    }
}
