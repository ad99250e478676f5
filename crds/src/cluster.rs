//! `ConstellationCluster`: what the user owns.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::Condition;

/// A Kubernetes cluster in which every node is a confidential VM that proved what it booted.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[kube(
    group = "constellation.dev",
    version = "v1alpha1",
    kind = "ConstellationCluster",
    plural = "constellationclusters",
    shortname = "cc",
    category = "constellation",
    namespaced,
    status = "ConstellationClusterStatus",
    derive = "PartialEq"
)]
pub struct ConstellationClusterSpec {
    /// Where the VMs run. Exactly one member is set; it can't be changed.
    pub provider: Provider,
    /// What kind of hardware proof every node must give. Never inferred; it can't be changed.
    pub tee: Tee,
    /// Name of the `NodeVersion` (same namespace) that all nodes run. Editing it, or naming another one, rolls the nodes.
    pub node_version: String,
    /// The control-plane nodes.
    pub control_plane: ControlPlane,
    /// Groups of worker nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_groups: Vec<WorkerGroup>,
    /// Networks and the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Where the master secret comes from. Absent: generated and kept in Secret `<cluster>-master-secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master_secret: Option<MasterSecret>,
    /// What happens after the join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<AttestationPolicy>,
    /// Defaults of a roll; a `NodeVersion` may say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<crate::version::Rollout>,
    /// While true the operator changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// While true the API server refuses to delete this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_protection: Option<bool>,
    /// What deleting this object does to the VMs. Absent: `Delete`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
}

/// Where the VMs run: exactly one member.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Provider {
    /// QEMU virtual machines with a software TPM on the host of the operator. No protection from that host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalProvider>,
    /// No machines at all: for trying the operator out. Proves nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simulated: Option<SimulatedProvider>,
}

/// Settings of the `local` provider.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalProvider {}

/// Settings of the `simulated` provider.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SimulatedProvider {
    /// Seconds from launch until a simulated node sends its evidence. Absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_seconds: Option<u32>,
}

/// What kind of hardware proof every node must give.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tee {
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
    /// A TPM run by the host: measured boot, no protection from the host.
    Vtpm,
}

/// The control-plane nodes.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlPlane {
    /// 1, 3 or 5.
    pub replicas: u32,
    /// Instance type; provider `local` reads `<vCPUs>x<MiB>`, for example `2x2048`.
    pub instance_type: String,
    /// The encrypted disk for everything that changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_disk: Option<StateDisk>,
}

/// A group of equal worker nodes.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerGroup {
    /// Name, unique in the cluster; not `control-plane`.
    pub name: String,
    /// Zones the nodes are spread over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// Instance type; provider `local` reads `<vCPUs>x<MiB>`.
    pub instance_type: String,
    /// The encrypted disk for everything that changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_disk: Option<StateDisk>,
    /// Labels of the Kubernetes nodes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Taints of the Kubernetes nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
    /// Number of nodes. Excludes `autoscaling`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Bounds for an autoscaler. Excludes `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
}

/// Bounds within which an autoscaler may set a group's size.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Autoscaling {
    /// Least number of nodes.
    pub min: u32,
    /// Greatest number of nodes.
    pub max: u32,
}

/// A taint of a Kubernetes node.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// The encrypted disk for everything that changes.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StateDisk {
    /// Size in GiB. Absent: 8 for `local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_gib: Option<u32>,
    /// Whether changed sectors are detected. Absent: `None` for `local`, where wiping is slow, `Hmac` elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integrity: Option<DiskIntegrity>,
}

/// Protection of the state disk's sectors against change.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum DiskIntegrity {
    /// Authenticated: dm-integrity with HMAC-SHA-256 under LUKS2.
    Hmac,
    /// Encrypted only (AES-XTS).
    None,
}

/// Networks and the endpoint.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Network {
    /// Pods' addresses. Absent: 10.244.0.0/16. Each node gets a /24 of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_cidr: Option<String>,
    /// Services' addresses. Absent: 10.96.0.0/16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_cidr: Option<String>,
    /// Nodes' addresses. Absent: 10.77.0.0/24 for `local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_cidr: Option<String>,
    /// Who makes the pod network. Absent: `mesh`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni: Option<Cni>,
    /// More names in the API server's certificate.
    #[serde(default, rename = "apiServerCertSANs", skip_serializing_if = "Vec::is_empty")]
    pub api_server_cert_sans: Vec<String>,
}

/// Who makes the pod network.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Cni {
    /// A `WireGuard` mesh keyed by attestation.
    Mesh,
    /// The user.
    None,
}

/// Where the master secret comes from.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MasterSecret {
    /// An existing Secret (same namespace) whose key `secret` holds 32 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing_secret: Option<LocalRef>,
}

/// An object in the same namespace.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalRef {
    /// Its name.
    pub name: String,
}

/// What happens after the join.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AttestationPolicy {
    /// Seconds between re-attestations of a node. Absent: 3600. 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reattestation_interval_seconds: Option<u32>,
    /// What a failed re-attestation leads to. Absent: `Report`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
}

/// What a failed re-attestation leads to.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum OnFailure {
    /// The node is replaced.
    Replace,
    /// Conditions and an Event say so.
    Report,
    /// The node is tainted `constellation.dev/unattested:NoExecute`.
    Taint,
}

/// What deleting the cluster does to the VMs.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum DeletionPolicy {
    /// They are terminated.
    Delete,
    /// They are left running.
    Orphan,
}

/// What is known about a cluster.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConstellationClusterStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Condition>", extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// One line for people: what is going on and what comes next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// The operator's next steps, in order, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<String>,
    /// Identity of the cluster, hex; extended into PCR 15 of every member.
    #[serde(default, rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// SHA-256 of the owner key's SPKI, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_key: Option<String>,
    /// `host:port` of the API server as nodes see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Secret that holds the kubeconfig, key `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig_ref: Option<LocalRef>,
    /// Number of nodes that the spec asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_nodes: Option<u32>,
    /// Number of nodes that exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_nodes: Option<u32>,
    /// Number of nodes that are Ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_nodes: Option<u32>,
    /// Number of nodes of the target version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to_date_nodes: Option<u32>,
    /// Number of nodes whose evidence was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attested_nodes: Option<u32>,
    /// Digest of the node version that all nodes run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_version: Option<String>,
    /// Digest of the node version that nodes are rolled to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_version: Option<String>,
    /// Digests of node versions whose measurements are accepted now, each with its sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted_versions: Vec<AcceptedVersion>,
    /// Revision of the owner-signed trust bundle that was written last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_revision: Option<u64>,
    /// Cloud objects of the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<CloudResource>,
    /// Facts that are written once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initialization: Option<Initialization>,
}

/// A node version whose measurements are accepted.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedVersion {
    /// Digest of the node version, see [`crate::version::NodeVersionStatus::digest`].
    pub digest: String,
    /// Name of the `NodeVersion` it came from.
    pub name: String,
    /// Its reference values, as in the verified manifest.
    pub sets: Vec<crate::version::MeasurementSet>,
}

/// A cloud object of a cluster.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloudResource {
    /// For example `network`, `endpoint`, `instance`.
    pub kind: String,
    /// The cloud's id.
    pub id: String,
}

/// Facts that are written once.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Initialization {
    /// When the first control-plane node's Kubernetes was initialised, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_plane_initialized_at: Option<String>,
}
