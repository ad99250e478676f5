//! Clouds for tests: endpoints over HTTP that behave as the vendors' do, and whose callers may die at any change.
//!
//! Every request is checked against the vendor's own model first; what doesn't keep to it is refused and remembered.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a test says what is wrong by failing"
)]
#![allow(missing_docs, reason = "what a vendor calls it is what it is")]

pub mod aws;
pub mod azure;
pub mod gcp;
pub mod story;

mod deaths;
mod endpoint;
mod faults;

use std::collections::BTreeMap;

pub use self::{
    deaths::Deaths,
    endpoint::{Endpoint, Request},
    faults::{Fault, Faults},
};

/// What there is of a scripted cloud, and how it answers.
pub trait Scripted: Sized + Send + 'static {
    /// A cloud at this URL, with nothing in it.
    fn at(url: &str) -> Self;

    /// Answers a request.
    fn respond(&mut self, request: &Request) -> axum::response::Response;

    /// Which callers die from now on.
    fn kill(&mut self, deaths: Deaths);

    /// Whether the caller of the last call is to die.
    fn dies(&mut self) -> bool;

    /// Time passes for everything that was begun.
    fn pass(&mut self);

    /// All that there is, without what differs from run to run.
    fn picture(&self) -> Vec<String>;

    /// VMs that run, as they were launched.
    fn machines(&self) -> Vec<Machine>;

    /// Calls by kind.
    fn calls(&self) -> BTreeMap<String, u64>;

    /// Requests that didn't keep to the vendor's model.
    fn violations(&self) -> &[String];

    /// How often each VM was made.
    fn made(&self) -> &BTreeMap<String, u32>;

    /// What was done against the vendor's model, and VMs that were made twice.
    fn wrongs(&self) -> Vec<String> {
        let twice = self.made().iter().filter(|(_, times)| **times > 1);
        let twice = twice.map(|(what, times)| format!("{what} was made {times} times"));
        self.violations().iter().cloned().chain(twice).collect()
    }
}

/// A VM, as its launch described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// UID of its cluster, by its tag.
    pub cluster: String,
    /// UID of its node, by its tag.
    pub node: String,
    /// Its image.
    pub image: String,
    /// What the cloud hands out inside it.
    pub user_data: Vec<u8>,
}
