//! What a lane's cluster should be, and where its machines and keys are.

use serde_json::{Value, json};

use super::vault::Custody;

/// What a cluster should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Number of control-plane nodes.
    pub control_plane: usize,
    /// Number of workers.
    pub workers: usize,
    /// Image of every node.
    pub image: &'static str,
    /// Another one was wanted, and given up.
    pub given_up: bool,
}

/// Where a lane's machines are, and which operator makes them.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The operator's program.
    pub program: &'static str,
    /// What it is started with, beside what all are.
    pub arguments: Vec<String>,
    /// Its environment.
    pub environment: Vec<(&'static str, String)>,
    /// The cluster's `provider`, `tee` and instance type.
    pub provider: Value,
    /// How memory is protected.
    pub tee: &'static str,
    /// Instance type of every node.
    pub instance_type: &'static str,
    /// The release's `image` for an image.
    pub image: fn(&str) -> Value,
    /// The image that a cluster rolls to.
    pub next: &'static str,
    /// The Vault whose keys wrap the master secret; absent: it is in the clear.
    pub custody: Option<Custody>,
}

impl Default for Setting {
    /// Provider `simulated`, whose books are on the API server.
    fn default() -> Self {
        Self {
            program: "constellation-operator",
            arguments: vec!["--allow-simulated".to_owned()],
            environment: Vec::new(),
            provider: json!({"simulated": {"bootSeconds": 0}}),
            tee: "vtpm",
            instance_type: "any",
            image: |image| json!({"simulated": image}),
            next: "v2",
            custody: None,
        }
    }
}
