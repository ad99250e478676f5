//! Forms of what a guest's own host tells it: read by nodes, believed by nobody, and free of devices and networks.
//!
//! [`collect`](crate::collect) fetches the bytes. Each parser here is bounded and strict: a host that sends nonsense
//! costs its guest an error and no more. What they give is evidence or a hint, which a verifier checks.

pub mod ccel;
pub mod certificates;
pub mod commands;
pub mod nsm;
pub mod thim;
pub mod wire;
