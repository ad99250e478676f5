//! `TrustBundle` and `NodeAdmission`: they live in the cluster that was made, and are read by its verifier.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::node::{AttestationResult, Role};

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
    derive = "PartialEq"
)]
pub struct TrustBundleSpec {
    /// DSSE envelope (JSON) over a trust policy, see `constellation_attestation::policy::TrustPolicy`.
    pub envelope: String,
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
    derive = "PartialEq"
)]
pub struct NodeAdmissionSpec {
    /// UID of the `ConfidentialNode`; also this object's name.
    pub node_uid: String,
    /// Name that the Kubernetes node will have.
    pub node_name: String,
    /// Role.
    pub role: Role,
    /// SHA-256 of the launch configuration, hex.
    pub launch_config_digest: String,
    /// The node's part of the pod network, for example `10.244.3.0/24`.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    /// `spec.providerID` of the Kubernetes node.
    #[serde(rename = "providerID")]
    pub provider_id: String,
    /// Labels of the Kubernetes node.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub labels: std::collections::BTreeMap<String, String>,
    /// Taints of the Kubernetes node, as kubelet's `--register-with-taints` reads them: `key=value:Effect`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
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
}
