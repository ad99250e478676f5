//! An EC2 and a load balancing service that behave: client tokens, states, things in use, pages, lag, empty zones, lost answers.

mod elb;
mod groups;
mod instances;
pub mod model;
pub mod objects;
mod parts;
mod world;

pub use self::world::{IMAGES, World};

/// A running EC2.
pub type Endpoint = crate::Endpoint<World>;
