//! Makes the world match the resources: observe, plan, apply, report.

pub mod backoff;
pub mod cloud;
pub mod context;
pub mod error;
pub mod events;
pub mod init;
pub mod telemetry;
pub mod version;
pub mod workload;
