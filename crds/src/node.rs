//! `ConfidentialNode`: one VM, one launch. Its UID is the idempotency token of every cloud call.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    cluster::{LocalRef, StateDisk, Taint},
    condition::Condition,
};

/// One VM and its one launch. Made by the operator, read by people.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[kube(
    group = "constellation.dev",
    version = "v1alpha1",
    kind = "ConfidentialNode",
    plural = "confidentialnodes",
    shortname = "cnode",
    category = "constellation",
    namespaced,
    status = "ConfidentialNodeStatus",
    derive = "PartialEq",
    selectable = ".spec.clusterRef.name",
    selectable = ".spec.nodeGroup",
    selectable = ".status.phase",
    doc = "One VM and its one launch. Made by the operator, read by people.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Version", type_ = "string", json_path = ".spec.nodeVersion"),
    printcolumn(name = "Group", type_ = "string", json_path = ".spec.nodeGroup"),
    printcolumn(name = "Attested", type_ = "string", json_path = ".status.attestation.verdict"),
    printcolumn(name = "Platform", type_ = "string", json_path = ".status.attestation.platform"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "MeasurementSet",
        type_ = "string",
        json_path = ".status.attestation.measurementSet",
        priority = 1
    ),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address", priority = 1),
    printcolumn(name = "ProviderID", type_ = "string", json_path = ".status.providerID", priority = 1),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image", priority = 1),
    printcolumn(name = "Summary", type_ = "string", json_path = ".status.summary", priority = 1)
)]
#[x_kube(validation = Rule::new("self == oldSelf")
    .message("a node is one VM and one launch, its spec can't be changed: delete it and another takes its place"))]
pub struct ConfidentialNodeSpec {
    /// The cluster.
    pub cluster_ref: LocalRef,
    /// Group in the cluster's spec; `control-plane` for the control plane.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub node_group: String,
    /// Role; measured into PCR 15 by the node.
    pub role: Role,
    /// Name of the `NodeVersion` at launch.
    #[schemars(length(min = 1, max = 253))]
    pub node_version: String,
    /// Digest of that version at launch.
    #[schemars(length(max = 64), regex(pattern = r"^[0-9a-f]{64}$"))]
    pub version_digest: String,
    /// The image that is booted.
    #[schemars(length(min = 1, max = 1024))]
    pub image: String,
    /// Instance type.
    #[schemars(length(min = 1, max = 64))]
    pub instance_type: String,
    /// Zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub zone: Option<String>,
    /// The encrypted disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_disk: Option<StateDisk>,
    /// Number that fixes the node's pod network (the n-th /24 of the pod CIDR) and, for `local`, its address. Unique in the cluster.
    #[schemars(range(max = 254))]
    pub index: u32,
    /// Labels of the Kubernetes node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 63, "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"}))]
    pub labels: BTreeMap<String, String>,
    /// Taints of the Kubernetes node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["key", "effect"]))]
    pub taints: Vec<Taint>,
}

/// Role of a node.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs etcd, the API server and the verifier.
    ControlPlane,
    /// Runs pods.
    Worker,
}

impl Role {
    /// As in labels and in the launch configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::Worker => "worker",
        }
    }
}

/// Where a node is in its life; for people. Derived anew on every look, never read back.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum Phase {
    /// No VM yet.
    Pending,
    /// The VM runs; it has not been heard from.
    Booting,
    /// Its evidence was accepted.
    Attested,
    /// Kubernetes knows it.
    Joined,
    /// Kubernetes says it is Ready.
    Ready,
    /// Pods are leaving.
    Draining,
    /// The VM is being removed.
    Terminating,
    /// Refused, vanished or out of time; it will be replaced.
    Failed,
}

/// What is known about a node.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfidentialNodeStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Condition>", extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Phase, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// One line for people: what it waits for, or why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// The cloud's id of the VM.
    #[serde(default, rename = "providerID", skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    /// The VM's address in the cluster's network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Name of the Kubernetes node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_node: Option<String>,
    /// SHA-256 of the launch configuration, hex: what the node measures into PCR 15.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_config_digest: Option<String>,
    /// Result of the last appraisal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<AttestationResult>,
    /// Refusals in its name that say nothing about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusals: Option<Refusals>,
    /// When each phase was reached, RFC 3339.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub phase_times: BTreeMap<String, String>,
    /// Last lines that the node's bootstrapper streamed while it initialised Kubernetes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub progress: Vec<String>,
}

/// Result of an appraisal.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttestationResult {
    /// `Accepted` or `Refused`.
    pub verdict: String,
    /// What stands behind the claim: `qemu-vtpm` (software TPM, no hardware), `simulated` (nothing).
    pub platform: String,
    /// The set that matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measurement_set: Option<String>,
    /// Revision of the trust bundle it was appraised against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_revision: Option<u64>,
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// SHA-256 of the evidence, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence_digest: Option<String>,
    /// Id that the refused peer was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal_id: Option<String>,
    /// Every clause that did not hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mismatches: Vec<Mismatch>,
}

/// Refusals that say nothing about a machine: whoever knocks may give any name, and no evidence of the node's own was
/// bad. They are counted and shown, and change no condition.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Refusals {
    /// How many there were; written seconds to minutes after they happened.
    pub count: u64,
    /// When the first was written, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The last one.
    pub last: AttestationResult,
    /// The last of each other reason, newest first; a few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7))]
    pub others: Vec<AttestationResult>,
}

impl Refusals {
    /// The last of each reason, newest first.
    pub fn reasons(&self) -> impl Iterator<Item = &AttestationResult> {
        std::iter::once(&self.last).chain(&self.others)
    }
}

/// A clause that did not hold.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mismatch {
    /// Stable name, for example `tpm.pcr.11`.
    pub clause: String,
    /// What was expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What the evidence says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual: Option<String>,
    /// In words; names the event-log entry that explains it.
    pub message: String,
}
