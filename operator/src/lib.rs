//! Makes the world match the resources: observe, plan, apply, report.

pub mod backoff;
pub mod cloud;
pub mod error;
pub mod telemetry;
pub mod version;
