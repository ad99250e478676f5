//! What a cluster will ask of a cloud, for checks before the first create; and shapes of VMs, for autoscalers.

use std::collections::BTreeSet;

/// VMs of one type that a cluster will have, at most, at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Instance type.
    pub instance_type: String,
    /// Zones they are spread over; empty: wherever the cloud's settings allow.
    pub zones: BTreeSet<String>,
    /// How many, with those that a roll adds.
    pub count: u32,
}

/// All that a cluster will ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// One entry per group.
    pub groups: Vec<Wanted>,
    /// The image.
    pub image: Option<String>,
}

impl Demand {
    /// The instance types, each once.
    #[must_use]
    pub fn types(&self) -> BTreeSet<&str> {
        self.groups.iter().map(|group| group.instance_type.as_str()).collect()
    }
}

/// What a VM of a type has; an autoscaler simulates pods on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Instance type.
    pub instance_type: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Kubernetes' name of the architecture: `amd64`, `arm64`.
    pub architecture: String,
    /// Zones that offer the type.
    pub zones: BTreeSet<String>,
    /// Price per hour on demand, millionths of a US dollar; absent where the cloud's API doesn't tell.
    pub micro_dollars_per_hour: Option<u64>,
}
