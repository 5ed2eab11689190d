//! Images: what a container's root filesystem is made of.

pub mod layer;
