//! A Compute Engine that behaves: names, request ids, operations that take time and fail, things in use, pages, lag.

pub mod model;
mod world;

pub use self::world::World;
pub use crate::Fault;

/// A running Compute Engine.
pub type Endpoint = crate::Endpoint<World>;
