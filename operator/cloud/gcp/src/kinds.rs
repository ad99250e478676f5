//! What an answer says that it is.
//!
//! Every member of an answer may be absent, so that anything at all is read as a list without instances, or as an
//! instance that is not ours; and then nodes look removed. `kind` is what no answer of Google's is without.

use google_cloud_compute_v1::model;

/// A type of answers.
pub trait Kind {
    /// What `kind` says ("Compute Engine API", the `kind` of each resource).
    const KIND: &'static str;

    /// What it says here.
    fn kind(&self) -> Option<&str>;
}

macro_rules! kinds {
    ($($model:ident = $kind:literal),+ $(,)?) => {$(
        impl Kind for model::$model {
            const KIND: &'static str = concat!("compute#", $kind);

            fn kind(&self) -> Option<&str> {
                self.kind.as_deref()
            }
        }
    )+};
}

kinds! {
    Address = "address",
    BackendService = "backendService",
    Firewall = "firewall",
    ForwardingRule = "forwardingRule",
    HealthCheck = "healthCheck",
    Instance = "instance",
    InstanceAggregatedList = "instanceAggregatedList",
    InstanceGroup = "instanceGroup",
    InstanceGroupsListInstances = "instanceGroupsListInstances",
    Network = "network",
    NetworkList = "networkList",
    Operation = "operation",
    Region = "region",
    Subnetwork = "subnetwork",
    Zone = "zone",
}
