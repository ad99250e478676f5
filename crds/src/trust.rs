//! `TrustBundle` and `NodeAdmission`: they live in the cluster that was made, and are read by its verifier.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::node::{AttestationResult, Refusals, Role};

/// Owner-signed reference values. The verifier believes the signature, not the object.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[kube(
    group = "constellation.dev",
    version = "v1alpha1",
    kind = "TrustBundle",
    plural = "trustbundles",
    category = "constellation",
    namespaced,
    status = "TrustBundleStatus",
    derive = "PartialEq",
    doc = "Owner-signed reference values. The verifier believes the signature, not the object.",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct TrustBundleSpec {
    /// DSSE envelope (JSON) over a trust policy, see `constellation_attestation::policy::TrustPolicy`.
    #[schemars(length(min = 1, max = 524_288))]
    pub envelope: String,
    /// What makers of processors and clouds said about machines, by name, see `constellation_attestation::collateral`. Not
    /// signed by the owner: each of them signed its own, and the verifier checks that each time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256, "additionalProperties" = {"type": "string", "maxLength": 786_432}))]
    pub collateral: BTreeMap<String, String>,
}

/// Written by verifiers only, and believed by nobody: what the owner is told.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrustBundleStatus {
    /// Refusals of peers that named no node of this cluster, and joins that failed because of a verifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusals: Option<Refusals>,
}

/// A node that may join, and the record of its admission.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[kube(
    group = "constellation.dev",
    version = "v1alpha1",
    kind = "NodeAdmission",
    plural = "nodeadmissions",
    category = "constellation",
    namespaced,
    status = "NodeAdmissionStatus",
    derive = "PartialEq",
    doc = "A node that may join, and the record of its admission.",
    validation = Rule::new("self.metadata.name == self.spec.nodeUid").message("an admission is named after the uid of its node"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.role"),
    printcolumn(name = "Verdict", type_ = "string", json_path = ".status.lastAppraisal.verdict"),
    printcolumn(name = "Admitted", type_ = "string", json_path = ".status.admission.admittedAt"),
    printcolumn(name = "Evicted", type_ = "boolean", json_path = ".spec.evicted"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "MeasurementSet", type_ = "string", json_path = ".status.lastAppraisal.measurementSet", priority = 1)
)]
#[x_kube(
    validation = Rule::new("self.role == oldSelf.role && self.nodeName == oldSelf.nodeName && self.podCIDR == oldSelf.podCIDR")
        .message("role, nodeName and podCIDR of an admission can't be changed"),
    validation = Rule::new("!has(oldSelf.evicted) || !oldSelf.evicted || (has(self.evicted) && self.evicted)")
        .message("an eviction can't be taken back").field_path(".evicted")
)]
pub struct NodeAdmissionSpec {
    /// UID of the `ConfidentialNode`; also this object's name.
    #[schemars(length(min = 1, max = 63))]
    pub node_uid: String,
    /// Name that the Kubernetes node will have.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub node_name: String,
    /// Role.
    pub role: Role,
    /// SHA-256 of the launch configuration, hex.
    #[schemars(length(max = 64), regex(pattern = r"^[0-9a-f]{64}$"))]
    pub launch_config_digest: String,
    /// The node's part of the pod network, for example `10.244.3.0/24`.
    #[serde(rename = "podCIDR")]
    #[schemars(length(max = 18), regex(pattern = r"^([0-9]{1,3}\.){3}[0-9]{1,3}/[0-9]{1,2}$"))]
    pub pod_cidr: String,
    /// `spec.providerID` of the Kubernetes node.
    #[serde(rename = "providerID")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[A-Za-z0-9:/._()-]+$"))]
    pub provider_id: String,
    /// Labels of the Kubernetes node.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 63, "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"}))]
    pub labels: std::collections::BTreeMap<String, String>,
    /// Taints of the Kubernetes node, as kubelet's `--register-with-taints` reads them: `key=value:Effect`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(
            length(max = 512),
            regex(
                pattern = r"^([a-z0-9.-]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?(=([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?)?:(NoSchedule|PreferNoSchedule|NoExecute)$"
            )
        )
    )]
    pub taints: Vec<String>,
    /// Whether the state disk is authenticated (`Hmac`) or only encrypted (`None`).
    pub disk_integrity: crate::cluster::DiskIntegrity,
    /// The node is on its way out: refused from now on, and out of the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evicted: Option<bool>,
}

/// Written by the verifier only.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeAdmissionStatus {
    /// The admission, written once by compare-and-swap before a ticket is released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admission: Option<Admission>,
    /// The last appraisal, accepted or refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_appraisal: Option<AttestationResult>,
    /// Refusals in the node's name that say nothing about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusals: Option<Refusals>,
}

/// Record of an admission.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Admission {
    /// Name (TPM 2.0 part 1, 16) of the attestation key, hex: the anchor a returning node must show again.
    pub ak_name: String,
    /// SHA-256 of the EK certificate, hex.
    pub ek_certificate_digest: String,
    /// The TPM's reset counter; it may only grow.
    pub reset_count: u32,
    /// First admission, RFC 3339.
    pub admitted_at: String,
    /// Public `WireGuard` key of this boot, base64.
    pub wireguard_key: String,
    /// The node's address in the cluster's network.
    pub address: String,
    /// Which certificate the node's kubelet may renew. Workers have one; a control-plane node holds the cluster's CA, and may
    /// have any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubelet_certificate: Option<KubeletCertificate>,
}

/// The certificate with which a node's kubelet is known to Kubernetes: the ticket's, and then what it was renewed to. Another
/// one of the same name is a copy, and is renewed to nothing.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubeletCertificate {
    /// SHA-256 of the last certificate that the kubelet was given, hex.
    pub current: String,
    /// SHA-256 of the one before, hex: a kubelet that died before it had stored the last one asks again with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// When the request was made that the last one answers, RFC 3339; absent where a ticket had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_at: Option<String>,
}
