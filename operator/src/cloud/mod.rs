//! The clouds that the operator can use: the trait, and one room per cloud.

pub mod local;
pub mod offer;
#[cfg(feature = "rooms")]
mod rooms;
#[cfg(feature = "scripted")]
mod scripted;
pub mod simulated;

pub use constellation_cloud::*;
