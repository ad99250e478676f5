//! A Resource Manager that behaves: PUT by name, operations that take time and fail, things in use, pages, lag.

pub mod model;
mod world;

pub use self::world::World;
pub use crate::Fault;

/// A running Resource Manager.
pub type Endpoint = crate::Endpoint<World>;
