//! Which key wraps the master secret.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::LocalRef;

/// The key that wraps the master secret: exactly one member.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("[has(self.aws), has(self.azure), has(self.gcp), has(self.vault)].exists_one(given, given)")
    .message("exactly one key service is needed: aws, azure, gcp or vault"),
    validation = Rule::new("has(self.aws) == has(oldSelf.aws) && has(self.azure) == has(oldSelf.azure) && has(self.gcp) == has(oldSelf.gcp) && has(self.vault) == has(oldSelf.vault) && (!has(self.vault) || self.vault.address == oldSelf.vault.address) && (!has(self.azure) || self.azure.vaultUrl == oldSelf.azure.vaultUrl)")
    .message("the key service can't be another: only one that opens the wrapped secret can wrap it again; another key of it can be named"))]
pub struct Kms {
    /// AWS KMS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws: Option<AwsKey>,
    /// Azure Managed HSM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureKey>,
    /// Google Cloud KMS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcp: Option<GcpKey>,
    /// The Transit engine of a Vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<VaultKey>,
}

/// A symmetric key of AWS KMS.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AwsKey {
    /// ARN of the key; not of an alias, which somebody could point elsewhere.
    #[schemars(length(max = 256), regex(pattern = r"^arn:aws[-a-z]*:kms:[-a-z0-9]+:[0-9]{12}:key/[-a-z0-9]+$"))]
    pub key_arn: String,
    /// Secret (same namespace) with `accessKeyID` and `secretAccessKey`; absent: the operator's own identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_ref: Option<LocalRef>,
}

/// An AES key (`oct-HSM`) of an Azure Managed HSM: what an RSA key of a vault opens, anybody may have wrapped.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AzureKey {
    /// URL of the HSM, for example `https://example.managedhsm.azure.net`. The operator's token goes there, so it can be
    /// no other domain.
    #[schemars(length(max = 256), regex(pattern = r"^https://[-a-zA-Z0-9]+\.managedhsm\.azure\.net$"))]
    pub vault_url: String,
    /// Name of the key.
    #[schemars(length(min = 1, max = 127), regex(pattern = r"^[-a-zA-Z0-9]+$"))]
    pub key: String,
}

/// A symmetric key of Google Cloud KMS.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GcpKey {
    /// `projects/…/locations/…/keyRings/…/cryptoKeys/…`.
    #[schemars(
        length(max = 512),
        regex(pattern = r"^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$")
    )]
    pub key: String,
}

/// A key of the Transit engine of a Vault.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VaultKey {
    /// URL of the Vault, for example `https://vault.example.com:8200`.
    #[schemars(length(max = 256), regex(pattern = r"^https://[-.a-zA-Z0-9]+(:[0-9]{1,5})?$"))]
    pub address: String,
    /// Where the engine is mounted. Absent: `transit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[-_a-zA-Z0-9]+(/[-_a-zA-Z0-9]+)*$"))]
    pub mount: Option<String>,
    /// Name of the key; of a type that authenticates what it encrypts, made with `derived=true`.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[-_a-zA-Z0-9]+$"))]
    pub key: String,
    /// Secret (same namespace) with `token`, and with `ca.crt` where the Vault's certificate is private.
    pub credentials_ref: LocalRef,
}
