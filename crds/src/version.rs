//! `NodeVersion`: a release of the node.

use std::{borrow::Cow, collections::BTreeMap};

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
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
    derive = "PartialEq",
    doc = "A release of the node: images, and what a machine that booted one of them measures.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Version", type_ = "string", json_path = ".spec.kubernetesVersion"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Revision", type_ = "integer", json_path = ".status.revision", priority = 1),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image.local", priority = 1),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.digest", priority = 1),
    printcolumn(name = "MeasurementSet", type_ = "string", json_path = ".status.sets[*].name", priority = 1)
)]
pub struct NodeVersionSpec {
    /// Where the image is, per provider.
    pub image: Image,
    /// Version of Kubernetes in the image, for example `v1.36.3`.
    #[schemars(length(max = 32), regex(pattern = r"^v1\.[0-9]{1,3}\.[0-9]{1,3}$"))]
    pub kubernetes_version: String,
    /// What a machine that booted the image measures.
    pub measurements: Measurements,
    /// How clusters are rolled to this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}

/// Where the image is.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.aws) || has(self.azure) || has(self.gcp) || has(self.local) || has(self.simulated)")
    .message("an image is needed for at least one provider: aws, azure, gcp, local or simulated"))]
pub struct Image {
    /// Provider `aws`: region to AMI, for example `us-east-2: ami-0123456789abcdef0`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 21, "pattern": "^ami-([0-9a-f]{8}|[0-9a-f]{17})$"}))]
    pub aws: BTreeMap<String, String>,
    /// Provider `azure`: id of an image or of an image version in a gallery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = r"^/[-._A-Za-z0-9/()]+$"))]
    pub azure: Option<String>,
    /// Provider `gcp`: `projects/<project>/global/images/<image>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = r"^projects/[-.:a-z0-9]+/global/images/[-a-z0-9]+$"))]
    pub gcp: Option<String>,
    /// Provider `local`: absolute path of the disk image on the operator's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = r"^/[^\x00]+$"))]
    pub local: Option<String>,
    /// Provider `simulated`: any word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub simulated: Option<String>,
}

/// Reference values: exactly one member.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.inline) != has(self.signed)")
    .message("measurements are either inline or signed"))]
pub struct Measurements {
    /// Sets written here; the person who may edit this object vouches for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
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
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub config_map: String,
    /// The publisher's public key, PEM (P-256).
    #[schemars(length(max = 1024), regex(pattern = r"^-----BEGIN PUBLIC KEY-----"))]
    pub public_key: String,
}

/// One set of reference values. A machine must match all of one set; sets are never mixed.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.pcrs.all(register, register.matches('^([0-9]|1[0-4])$'))")
        .message("a register is one of 0 to 14: PCR 15 can't be given, its value is known for each node; higher ones aren't quoted").field_path(".pcrs"),
    validation = Rule::new("self.platform == 'simulated' || ['4', '11', '12', '13'].all(register, register in self.pcrs)")
        .message("a TPM platform needs PCR 4 (boot loader), 11 (kernel), 12 (command line) and 13 (extensions)").field_path(".pcrs"),
    validation = Rule::new("!has(self.events) || self.events.all(register, register in self.pcrs)")
        .message("events are for registers whose value is given").field_path(".events")
)]
pub struct MeasurementSet {
    /// Name, unique in the version.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Platform the set is for: the provider and its hardware proof.
    #[schemars(extend("enum" = ["aws-nitro-tpm", "aws-snp", "azure-snp", "azure-tdx", "azure-trusted-launch", "gcp-sev-es", "gcp-snp", "gcp-tdx", "qemu-tdx", "qemu-vtpm", "simulated", "snp"]))]
    pub platform: String,
    /// PCRs: register number to accepted values, hex; SHA-256, on AWS SHA-384. PCR 4, 11, 12 and 13 are required for a TPM platform.
    /// PCR 15 can't be given: its value is known for each node.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 15, "additionalProperties" = {
        "type": "array", "minItems": 1, "maxItems": 16,
        "items": {"type": "string", "maxLength": 96, "pattern": "^([0-9a-f]{64}|[0-9a-f]{96})$"}
    }))]
    pub pcrs: BTreeMap<String, Vec<String>>,
    /// Register number to the SHA-256 digests of the events that lead to its value, hex, in order. Optional: with them a
    /// refusal names the event that differs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 15, "additionalProperties" = {
        "type": "array", "minItems": 1, "maxItems": 64,
        "items": {"type": "string", "maxLength": 64, "pattern": "^[0-9a-f]{64}$"}
    }))]
    pub events: BTreeMap<String, Vec<String>>,
    /// What the processor must report: `snp` or `tdx` with a clause for each of its claims, the launch measurement among
    /// them, in the form of a measurement manifest. There exactly where the platform's processor reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<Hardware>,
}

/// What a report of the hardware must be: `{"snp": {...}}` or `{"tdx": {...}}`, each clause as `exact`, `atLeast`,
/// `anyOf` or `waived` with a reason; `snp.floors` names dated floors of the TCB. What isn't in that form makes the version
/// unusable, and its condition says why.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(transparent)]
pub struct Hardware(pub serde_json::Map<String, serde_json::Value>);

impl JsonSchema for Hardware {
    fn schema_name() -> Cow<'static, str> {
        "Hardware".into()
    }

    /// The library owns the form; the API server keeps what is given. It looks at dated floors only, which stand in place of
    /// the members that they give (the library's `snp::floors`; a test of the operator holds that they are the same).
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let open = || serde_json::json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"snp": {
            "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {
                "floors": {
                    "type": "string", "maxLength": 10, "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
                    "description": "Date of the library's floors for the set's platform, as `constellation-attest floors` prints \
                        them, in place of `reportedTcb`, `committedTcb`, `launchTcb` and `provisional`. There is no default, and \
                        a date that isn't known makes the version unusable.",
                },
                "reportedTcb": open(), "committedTcb": open(), "launchTcb": open(), "provisional": open(),
            },
            "x-kubernetes-validations": [{
                "rule": "!has(self.floors) || !(has(self.reportedTcb) || has(self.committedTcb) || has(self.launchTcb) || has(self.provisional))",
                "message": "floors gives reportedTcb, committedTcb, launchTcb and provisional: give one of both", "fieldPath": ".floors",
            }],
        }}})
    }
}

/// How nodes are replaced.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rollout {
    /// How many nodes more than asked for there may be. Absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub max_surge: Option<u32>,
    /// Seconds a node's pods get to leave. Absent: 120.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 86_400))]
    pub drain_timeout_seconds: Option<u32>,
    /// Seconds a new node gets from launch to Ready. Absent: 900.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub node_timeout_seconds: Option<u32>,
    /// Whether nodes go back to the version before when one of the wanted version can't prove itself, or two in a row don't
    /// become Ready in their place. Absent: true. With `false` it is tried again and again, with growing pauses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_rollback: Option<bool>,
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
