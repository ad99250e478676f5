//! Makes the world match the resources: observe, plan, apply, report.

pub mod args;
pub mod backoff;
pub mod cli;
pub mod cloud;
pub mod cluster;
pub mod collateral;
pub mod context;
pub mod custody;
pub mod error;
pub mod events;
pub mod group;
pub mod health;
pub mod init;
pub mod lease;
pub mod metrics;
pub mod node;
pub mod permissions;
pub mod refusals;
pub mod run;
pub mod status;
pub mod telemetry;
pub mod version;
pub mod watch;
pub mod workload;
