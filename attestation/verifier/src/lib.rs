//! The in-cluster verifier: decides who may join, hands out tickets, and asks members to prove themselves again.
//!
//! The story of a join, in the order it happens: [`server`] takes a connection; [`join`] opens attested TLS, hears the
//! node's Hello and takes its `NodeAdmission` and the owner-signed trust bundle from a watch, or reads them ([`watched`],
//! [`store`], [`trust`]); it challenges the node, asks the API whether the bundle is the one that is there now, and appraises
//! the evidence; [`admit`] decides from plain values; the ticket is prepared ([`ticket`]); the admission is recorded by
//! compare-and-swap ([`record`], [`verifier`]); only then the ticket leaves, sealed to the key inside the evidence. [`reattest`] asks members again, and enrols the node that the
//! verifier itself runs on, which its owner had appraised; who keeps silent is refused in the end ([`silence`]). A kubelet
//! renews the certificate of its ticket while its node is a member, and nobody else does ([`approver`], [`renewal`]). Whom it
//! refuses, and why, is in the status of the node; what says nothing about a node is counted beside that ([`refusals`]).

pub mod admit;
pub mod approver;
pub mod authority;
pub mod home;
pub mod join;
pub mod metrics;
pub mod reattest;
pub mod record;
pub mod refusals;
pub mod renewal;
pub mod server;
pub mod silence;
pub mod store;
pub mod ticket;
pub mod trust;
pub mod turns;
pub mod verifier;
pub mod watched;
