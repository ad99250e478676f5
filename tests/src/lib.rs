//! What tests share: real control planes, real TPMs, real VMs.

pub mod agent;
pub mod audit;
pub mod capture;
pub mod clock;
pub mod controlplane;
pub mod disk;
pub mod faults;
pub mod kubeadm;
pub mod operator;
pub mod process;
pub mod scan;
pub mod swtpm;
pub mod world;
