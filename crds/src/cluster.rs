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
    derive = "PartialEq",
    doc = "A Kubernetes cluster in which every node is a confidential VM that proved what it booted.",
    validation = Rule::new("size(self.metadata.name) <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("the name of a cluster is a DNS label of at most 40 characters that begins with a letter: it is part of its nodes' host names"),
    validation = Rule::new("!has(self.spec.nodeGroups) || self.spec.nodeGroups.all(g, size(self.metadata.name) + size(g.name) <= 54)")
        .message("a cluster's name and a group's name have at most 54 characters together: a node is called <cluster>-<group>-<suffix>"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Version", type_ = "string", json_path = ".spec.nodeVersion"),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.desiredNodes"),
    printcolumn(name = "Current", type_ = "integer", json_path = ".status.currentNodes"),
    printcolumn(name = "UpToDate", type_ = "integer", json_path = ".status.upToDateNodes"),
    printcolumn(name = "Attested", type_ = "integer", json_path = ".status.attestedNodes"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "TEE", type_ = "string", json_path = ".spec.tee", priority = 1),
    printcolumn(name = "Paused", type_ = "boolean", json_path = ".spec.paused", priority = 1),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".status.endpoint", priority = 1),
    printcolumn(name = "Summary", type_ = "string", json_path = ".status.summary", priority = 1)
)]
#[x_kube(
    validation = Rule::new("self.provider == oldSelf.provider")
        .message("provider can't be changed: create another cluster").field_path(".provider"),
    validation = Rule::new("self.tee == oldSelf.tee")
        .message("tee can't be changed: create another cluster").field_path(".tee"),
    validation = Rule::new("!has(self.provider.local) || self.tee == 'vtpm'")
        .message("provider local has software TPMs only: tee must be vtpm").field_path(".tee"),
    validation = Rule::new("!has(self.provider.simulated) || self.tee == 'vtpm'")
        .message("provider simulated proves nothing, so it can't claim hardware: tee must be vtpm").field_path(".tee"),
    validation = Rule::new("!has(self.provider.aws) || self.tee in ['snp', 'vtpm']")
        .message("AWS has no TDX: tee must be snp, or vtpm for a NitroTPM without memory encryption").field_path(".tee"),
    validation = Rule::new("has(self.network) == has(oldSelf.network) && (!has(self.network) || self.network == oldSelf.network)")
        .message("network can't be changed: create another cluster").field_path(".network"),
    validation = Rule::new("has(self.masterSecret) == has(oldSelf.masterSecret) && (!has(self.masterSecret) || self.masterSecret == oldSelf.masterSecret || (has(self.masterSecret.kms) && has(oldSelf.masterSecret.kms)))")
        .message("masterSecret can't be changed: the disks are encrypted under it; only the key of a kms may be another").field_path(".masterSecret")
)]
pub struct ConstellationClusterSpec {
    /// Where the VMs run. Exactly one member is set; it can't be changed.
    pub provider: Provider,
    /// What kind of hardware proof every node must give. Never inferred; it can't be changed.
    pub tee: Tee,
    /// Name of the `NodeVersion` (same namespace) that all nodes run. Editing it, or naming another one, rolls the nodes.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub node_version: String,
    /// The control-plane nodes.
    pub control_plane: ControlPlane,
    /// Groups of worker nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
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

impl ConstellationClusterSpec {
    /// What a failed re-attestation leads to.
    #[must_use]
    pub fn on_failure(&self) -> OnFailure {
        self.attestation.as_ref().and_then(|after| after.on_failure).unwrap_or(OnFailure::Report)
    }
}

/// Where the VMs run: exactly one member.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("[has(self.aws), has(self.azure), has(self.gcp), has(self.local), has(self.simulated)].exists_one(given, given)")
    .message("exactly one provider is needed: aws, azure, gcp, local or simulated"))]
pub struct Provider {
    /// AWS: EC2 in one region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws: Option<crate::provider::AwsProvider>,
    /// Azure: one resource group in one region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<crate::provider::AzureProvider>,
    /// Google Cloud: Compute Engine in one region of one project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcp: Option<crate::provider::GcpProvider>,
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
    #[schemars(range(max = 3600))]
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
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.replicas in [1, 3, 5]")
    .message("a control plane has 1, 3 or 5 nodes: etcd needs a majority, and an even number adds no safety").field_path(".replicas"))]
pub struct ControlPlane {
    /// 1, 3 or 5.
    pub replicas: u32,
    /// Instance type, as the cloud calls it; provider `local` reads `<vCPUs>x<MiB>`, for example `2x2048`.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9][-._A-Za-z0-9]*$"))]
    pub instance_type: String,
    /// The encrypted disk for everything that changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_disk: Option<StateDisk>,
}

/// A group of equal worker nodes.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!(self.name in ['control-plane', 'cp'])")
        .message("control-plane and cp are the control plane's own: its nodes are called <cluster>-cp-<index>").field_path(".name"),
    validation = Rule::new("has(self.replicas) != has(self.autoscaling)")
        .message("a group has either replicas or autoscaling")
)]
pub struct WorkerGroup {
    /// Name, unique in the cluster; not `control-plane`.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Zones the nodes are spread over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 63)))]
    pub zones: Vec<String>,
    /// Instance type; provider `local` reads `<vCPUs>x<MiB>`.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9][-._A-Za-z0-9]*$"))]
    pub instance_type: String,
    /// The encrypted disk for everything that changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_disk: Option<StateDisk>,
    /// Labels of the Kubernetes nodes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 63, "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"}))]
    pub labels: BTreeMap<String, String>,
    /// Taints of the Kubernetes nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["key", "effect"]))]
    pub taints: Vec<Taint>,
    /// Number of nodes. Excludes `autoscaling`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 240))]
    pub replicas: Option<u32>,
    /// Bounds for an autoscaler. Excludes `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
}

/// Bounds within which an autoscaler may set a group's size.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.min <= self.max")
    .message("min must not be greater than max").field_path(".min"))]
pub struct Autoscaling {
    /// Least number of nodes.
    #[schemars(range(max = 240))]
    pub min: u32,
    /// Greatest number of nodes.
    #[schemars(range(max = 240))]
    pub max: u32,
}

/// A taint of a Kubernetes node.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Taint {
    /// Key.
    #[schemars(
        length(min = 1, max = 316),
        regex(pattern = r"^([a-z0-9]([-.a-z0-9]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
    )]
    pub key: String,
    /// Value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"))]
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    #[schemars(extend("enum" = ["NoExecute", "NoSchedule", "PreferNoSchedule"]))]
    pub effect: String,
}

/// The encrypted disk for everything that changes.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StateDisk {
    /// Size in GiB. Absent: 8 for every provider, which is enough to try it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub size_gib: Option<u32>,
    /// Whether changed sectors are detected. Absent: `None` for `local`, where it is slow, `Hmac` on clouds.
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

/// Pods' addresses where a cluster says nothing.
pub const POD_CIDR: &str = "10.244.0.0/16";
/// Services' addresses where a cluster says nothing.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// Nodes' addresses on a host where a cluster says nothing.
pub const HOST_NODE_CIDR: &str = "10.77.0.0/24";
/// Nodes' addresses in a cloud where a cluster says nothing; it holds those on a host.
pub const CLOUD_NODE_CIDR: &str = "10.77.0.0/16";

/// Member of [`Network`], and what holds where it is absent.
type Range = [&'static str; 2];
const PODS: Range = ["podCIDR", POD_CIDR];
const SERVICES: Range = ["serviceCIDR", SERVICE_CIDR];
const NODES: Range = ["nodeCIDR", CLOUD_NODE_CIDR];

/// Neither of two networks is in the other. Written out for what is given, because the API server bounds the cost of a rule
/// by the lengths of members, and knows no length of a choice.
fn apart([one, first]: Range, [other, second]: Range) -> String {
    let apart = |a: &str, b: &str| format!("!cidr({a}).containsCIDR({b}) && !cidr({b}).containsCIDR({a})");
    let (a, b) = (format!("self.{one}"), format!("self.{other}"));
    let (first, second) = (format!("'{first}'"), format!("'{second}'"));
    format!(
        "has({a}) ? (has({b}) ? {} : {}) : (has({b}) ? {} : true)",
        apart(&a, &b),
        apart(&a, &second),
        apart(&first, &b)
    )
}

/// Networks and the endpoint.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new(apart(PODS, SERVICES)).message("podCIDR and serviceCIDR must not overlap: an address would lead to two places"),
    validation = Rule::new(apart(PODS, NODES)).message("podCIDR and nodeCIDR must not overlap: an address would lead to two places"),
    validation = Rule::new(apart(SERVICES, NODES)).message("serviceCIDR and nodeCIDR must not overlap: an address would lead to two places")
)]
pub struct Network {
    /// Pods' addresses. Absent: 10.244.0.0/16. Each node gets a /24 of it: there are at most as many nodes, those that a
    /// roll adds included, as it has of these, less one.
    #[serde(default, rename = "podCIDR", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 18), regex(pattern = r"^([0-9]{1,3}\.){3}[0-9]{1,3}/[0-9]{1,2}$"))]
    #[x_kube(validation = Rule::new("isCIDR(self) && cidr(self).masked() == cidr(self) && cidr(self).prefixLength() <= 23").message("must be an IPv4 network of at least two /24, for example 10.244.0.0/16"))]
    pub pod_cidr: Option<String>,
    /// Services' addresses. Absent: 10.96.0.0/16.
    #[serde(default, rename = "serviceCIDR", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 18), regex(pattern = r"^([0-9]{1,3}\.){3}[0-9]{1,3}/[0-9]{1,2}$"))]
    #[x_kube(validation = Rule::new("isCIDR(self) && cidr(self).masked() == cidr(self) && cidr(self).prefixLength() >= 12 && cidr(self).prefixLength() <= 24").message("must be an IPv4 network from /12 to /24, for example 10.96.0.0/16"))]
    pub service_cidr: Option<String>,
    /// Nodes' addresses. Absent: 10.77.0.0/24 for `local`, 10.77.0.0/16 in clouds.
    #[serde(default, rename = "nodeCIDR", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 18), regex(pattern = r"^([0-9]{1,3}\.){3}[0-9]{1,3}/[0-9]{1,2}$"))]
    #[x_kube(validation = Rule::new("isCIDR(self) && cidr(self).masked() == cidr(self) && cidr(self).prefixLength() <= 28").message("must be an IPv4 network of at least a /28, for example 10.77.0.0/24"))]
    pub node_cidr: Option<String>,
    /// Who makes the pod network. Absent: `mesh`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni: Option<Cni>,
    /// More names in the API server's certificate.
    #[serde(default, rename = "apiServerCertSANs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 253)))]
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

/// Where the master secret comes from: one member.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.existingSecret) != has(self.kms)")
    .message("a master secret comes either from existingSecret or from a kms; leave masterSecret out to have it generated and kept in a Secret"))]
pub struct MasterSecret {
    /// An existing Secret (same namespace) whose key `secret` holds 32 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing_secret: Option<LocalRef>,
    /// Generated, and kept in a Secret only in the form that this key wrapped. Naming another key wraps it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms: Option<crate::custody::Kms>,
}

/// An object in the same namespace.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
}

/// What happens after the join.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AttestationPolicy {
    /// Seconds between re-attestations of a node. Absent: 3600. 0: never. The verifiers follow a change within ten minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 31_536_000))]
    pub reattestation_interval_seconds: Option<u32>,
    /// What follows when a member's evidence is refused, or when it gives none in three rounds (and 15 minutes). Absent:
    /// `Report`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
}

/// What a failed re-attestation leads to. Conditions and an Event say so in any case.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum OnFailure {
    /// The node is replaced, one at a time and only once another one proved itself and is Ready. A control-plane node only
    /// while the others have a majority, so never the only one.
    Replace,
    /// Nothing else.
    Report,
    /// The node is tainted `constellation.dev/unattested:NoExecute` until it is accepted again.
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
    /// The wanted version, where it was given up because a node of it didn't prove itself: until another one is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<RolledBack>,
    /// Revision of the owner-signed trust bundle that was written last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_revision: Option<u64>,
    /// Refusals of peers that named no node of this cluster, and joins that failed because of a verifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusals: Option<crate::node::Refusals>,
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
    /// Its image for the cluster's provider: nodes can go back to it when the `NodeVersion` says something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// A version that was given up.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolledBack {
    /// Digest of the version that was given up.
    pub from: String,
    /// Digest of the version that nodes are of instead: one of `acceptedVersions`.
    pub to: String,
    /// The node that didn't prove itself.
    pub node: String,
    /// What was wrong with it.
    pub message: String,
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
