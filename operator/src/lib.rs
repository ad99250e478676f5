//! Makes the world match the resources: observe, plan, apply, report.

pub mod cloud;
