//! What a user says about a cloud: where the VMs run, who reaches them, and as whom the operator acts.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::LocalRef;

/// Settings of the `aws` provider.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.zones) != has(self.subnets)")
    .message("give either zones, in which a VPC with subnets is made, or existing subnets"),
    validation = Rule::new("has(self.subnets) || self.reach == 'External'")
    .message("nodes without public addresses need a way out that you keep: give existing subnets with a NAT gateway"))]
pub struct AwsProvider {
    /// Region, for example `us-east-2`.
    #[schemars(length(min = 1, max = 32), regex(pattern = r"^[a-z]{2}(-[a-z]+)+-[0-9]$"))]
    pub region: String,
    /// Zones of the region that nodes without a zone are spread over. A VPC is made. Excludes `subnets`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 6), inner(length(min = 1, max = 32)))]
    pub zones: Vec<String>,
    /// Existing subnets of one VPC, at most one per zone. Excludes `zones`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 6), inner(length(max = 32), regex(pattern = r"^subnet-[0-9a-f]{8,17}$")))]
    pub subnets: Vec<String>,
    /// How the operator and users reach nodes and the endpoint.
    pub reach: Reach,
    /// Networks that may reach the API server (6443) and nodes' port for their owner (9000).
    #[schemars(
        length(min = 1, max = 16),
        inner(length(max = 18), regex(pattern = r"^([0-9]{1,3}\.){3}[0-9]{1,3}/[0-9]{1,2}$"))
    )]
    pub allowed_sources: Vec<String>,
    /// KMS key of the volumes; absent: the account's default key for EBS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = r"^arn:aws[-a-z]*:kms:"))]
    pub volume_key: Option<String>,
    /// Secret (same namespace) with `accessKeyID` and `secretAccessKey`; absent, and better: the operator's own
    /// identity (web identity, pod identity or instance profile).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_ref: Option<LocalRef>,
}

/// Settings of the `azure` provider.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AzureProvider {
    /// Subscription.
    #[serde(rename = "subscriptionID")]
    #[schemars(length(max = 36), regex(pattern = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"))]
    pub subscription_id: String,
    /// Existing resource group in which everything is made; absent: one is made for the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 90), regex(pattern = r"^[-._()A-Za-z0-9]+$"))]
    pub resource_group: Option<String>,
    /// Region, for example `westeurope`.
    #[schemars(length(min = 1, max = 32), regex(pattern = r"^[a-z0-9]+$"))]
    pub location: String,
    /// Zones of the region that nodes without a zone are spread over; absent: none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3), inner(length(min = 1, max = 1), regex(pattern = r"^[1-3]$")))]
    pub zones: Vec<String>,
    /// How the operator and users reach nodes and the endpoint.
    pub reach: Reach,
    /// Networks that may reach nodes' port for their owner (9000). The endpoint (6443, 9001) is open to everybody.
    #[schemars(
        length(min = 1, max = 16),
        inner(length(max = 18), regex(pattern = r"^([0-9]{1,3}\.){3}[0-9]{1,3}/[0-9]{1,2}$"))
    )]
    pub allowed_sources: Vec<String>,
    /// Secret (same namespace) with `tenantID`, `clientID` and `clientSecret`; absent, and better: the operator's own
    /// identity (workload identity or managed identity).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_ref: Option<LocalRef>,
}

/// Settings of the `gcp` provider.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GcpProvider {
    /// Id of the project.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[a-z][-.:a-z0-9]*$"))]
    pub project: String,
    /// Region, for example `europe-west4`.
    #[schemars(length(min = 1, max = 32), regex(pattern = r"^[a-z]+-[a-z]+[0-9]+$"))]
    pub region: String,
    /// Zones of the region that nodes without a zone are spread over.
    #[schemars(length(min = 1, max = 6), inner(length(min = 1, max = 32)))]
    pub zones: Vec<String>,
    /// How the operator and users reach nodes and the endpoint.
    pub reach: Reach,
    /// Networks that may reach nodes' port for their owner (9000). The endpoint (6443, 9001) is open to everybody.
    #[schemars(
        length(min = 1, max = 16),
        inner(length(max = 18), regex(pattern = r"^([0-9]{1,3}\.){3}[0-9]{1,3}/[0-9]{1,2}$"))
    )]
    pub allowed_sources: Vec<String>,
    /// E-mail of the service account that nodes run as; absent: none, which is all they need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), regex(pattern = r"^[-.a-z0-9]+@[-.a-z0-9]+$"))]
    pub service_account: Option<String>,
    /// Secret (same namespace) whose key `key.json` holds a service account's key; absent, and better: the operator's
    /// own identity (workload identity or the metadata server).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_ref: Option<LocalRef>,
}

/// How the operator and users reach nodes and the endpoint.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum Reach {
    /// By public addresses, from the allowed sources.
    External,
    /// By the cloud's own network only: the operator runs in it, or in one that is joined to it.
    #[default]
    Internal,
}
