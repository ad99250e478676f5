//! `NodeVersion`: a release of the node.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::Condition;

/// A release of the node: images, and what a machine that booted one of them measures.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[kube(
    group = "constellation.dev",
    version = "v1alpha1",
    kind = "NodeVersion",
    plural = "nodeversions",
    shortname = "nv",
    category = "constellation",
    namespaced,
    status = "NodeVersionStatus",
    derive = "PartialEq"
)]
pub struct NodeVersionSpec {
    /// Where the image is, per provider.
    pub image: Image,
    /// Version of Kubernetes in the image, for example `v1.36.3`.
    pub kubernetes_version: String,
    /// What a machine that booted the image measures.
    pub measurements: Measurements,
    /// How clusters are rolled to this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}

/// Where the image is.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Image {
    /// Provider `local`: absolute path of the disk image on the operator's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// Provider `simulated`: any word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simulated: Option<String>,
}

/// Reference values: exactly one member.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Measurements {
    /// Sets written here; the person who may edit this object vouches for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<Vec<MeasurementSet>>,
    /// A manifest signed by the publisher of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<SignedManifest>,
}

/// A DSSE envelope over a measurement manifest, and whose signature it must bear.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignedManifest {
    /// `ConfigMap` (same namespace) whose key `manifest.dsse.json` holds the envelope.
    pub config_map: String,
    /// The publisher's public key, PEM (P-256).
    pub public_key: String,
}

/// One set of reference values. A machine must match all of one set; sets are never mixed.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeasurementSet {
    /// Name, unique in the version.
    pub name: String,
    /// Platform the set is for: `qemu-vtpm`, `simulated`.
    pub platform: String,
    /// SHA-256 PCRs: register number to accepted values, hex. PCR 4, 11, 12 and 13 are required for a TPM platform.
    /// PCR 15 can't be given: its value is known for each node.
    pub pcrs: BTreeMap<String, Vec<String>>,
}

/// How nodes are replaced.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rollout {
    /// How many nodes more than asked for there may be. Absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_surge: Option<u32>,
    /// Seconds a node's pods get to leave. Absent: 120.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_timeout_seconds: Option<u32>,
    /// Seconds a new node gets from launch to Ready. Absent: 900.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_timeout_seconds: Option<u32>,
}

/// What is known about a node version.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeVersionStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Condition>", extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// SHA-256 over image and resolved sets, hex: two versions with the same digest are the same node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// SHA-256 of the key that signed the manifest, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// Revision of the manifest; an older one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The verified sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<MeasurementSet>,
}
