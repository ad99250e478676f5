//! What tests share: real control planes, real TPMs, real VMs.

pub mod capture;
pub mod controlplane;
pub mod faults;
pub mod operator;
pub mod scan;
pub mod swtpm;
pub mod world;
