//! Stub.
use serde::{Deserialize, Serialize};
/// x
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change { /// x
 pub name: crate::manifest::scalar::Name }
/// x
pub fn plan(_: &super::reconcile::Desired, _: &super::reconcile::Observed) -> Vec<Change> { vec![] }
