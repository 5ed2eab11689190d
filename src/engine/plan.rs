//! What a set of manifests would change.
