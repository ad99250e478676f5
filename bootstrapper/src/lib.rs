//! The node agent: measures its launch configuration, proves its boot, then starts Kubernetes.
//!
//! The story, in the order it happens: while [`network`] gives the machine its address, [`source`] reads the launch
//! configuration, which [`machine`] measures into PCR 15 of the TPM of [`attester`] before [`serve`] opens a port. Then either
//! the owner calls (Init, Recover) or [`join`] finds a verifier. What was granted becomes a [`plan`], which [`host`] carries out. A
//! member answers re-attestations and keeps the [`mesh`].

pub mod api;
pub mod attester;
pub mod error;
pub mod etcd;
pub mod host;
pub mod https;
pub mod join;
pub mod kubeadm;
pub mod machine;
pub mod mesh;
pub mod metadata;
pub mod network;
pub mod plan;
pub mod platform;
pub mod progress;
pub mod serve;
pub mod source;
