//! The words of the conversation between a node, its owner and the in-cluster verifier.
//!
//! One TLS 1.3 connection (ALPN [`ALPN`], no resumption) carries one conversation. A message is one frame:
//! length (u32, big endian, at most [`MAX_FRAME`]) and JSON; unknown members are an error.
//!
//! ```text
//! Join        node = TLS client,  verifier = TLS server (certificate under the owner key)
//! Init, Recover, Reattest, Leave
//!             node = TLS server,  owner/verifier = TLS client (certificate under the owner key)
//!
//! verifier -> Request    only when the verifier is the client: what it wants
//! node     -> Hello      who I am, the keys of this boot
//! verifier -> Challenge  nonce, policy revision, credential for the attestation key
//! node     -> Evidence   quote over the binding, PCR values, event log, opened credential
//! verifier -> Verdict    Refused{id}, or Sealed{box} with an InitRequest, a Ticket, a RecoverKey, or nothing
//! node     -> Progress*  (Init, Recover, Leave) phases and log lines, then Done
//! ```

pub mod machine;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::platform::Platform;

/// TLS application protocol; a version of its own so that a change of the words can't be misread.
pub const ALPN: &[u8] = b"constellation/1";
/// Greatest frame, bytes. An event log of a cloud VM is about 60 KiB; this leaves room for sixteen of them.
pub const MAX_FRAME: usize = 1024 * 1024;
/// Label of the TLS exporter (RFC 8446, 7.5).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-constellation-attest-1";
/// Life of a kubelet's certificate: as long may somebody act in a node's name who copied its key, once the node is evicted or
/// has joined again. A kubelet renews when 70 to 90 % of it have passed (client-go, `util/certificate`, `nextRotationDeadline`),
/// so all verifiers may be away for 17 hours and most nodes don't notice 33; a worker that was off for longer gets another one
/// when it joins again. At twice this a copy is good for two weeks, at half of it a night without verifiers costs nodes.
/// Verifiers give as long a one in tickets as kube-controller-manager signs (`cluster-signing-duration`).
pub const KUBELET_LIFE: Duration = Duration::from_hours(7 * 24);
/// Who signs kubelets' client certificates (`k8s.io/api/certificates/v1`, `KubeAPIServerClientKubeletSignerName`).
pub const KUBELET_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Port of the bootstrapper: Init, Recover, Reattest.
pub const BOOTSTRAPPER_PORT: u16 = 9000;
/// Port of the verifier: Join.
pub const VERIFIER_PORT: u16 = 9001;

/// What a conversation is for. Part of the binding, so evidence made for one purpose is worthless for another.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// First control-plane node: initialise Kubernetes.
    Init,
    /// Any later node, or a known node after a reboot.
    Join,
    /// A control-plane node is to leave etcd: its owner removes it.
    Leave,
    /// Prove again what is running.
    Reattest,
    /// Hand a node its own disk key while no verifier is up.
    Recover,
}

impl Purpose {
    /// The word in the binding.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Reattest => "reattest",
            Self::Recover => "recover",
        }
    }
}

/// Role of a node.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs etcd, the API server and the verifier.
    ControlPlane,
    /// Runs pods.
    Worker,
}

/// What the host gives a VM at launch, and the VM measures into PCR 15 before it opens a port.
///
/// The measured bytes are the JSON exactly as delivered; [`LaunchConfig::to_bytes`] is the one writer.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LaunchConfig {
    /// UID of the `ConstellationCluster`.
    pub cluster_uid: String,
    /// UID of the `ConfidentialNode`.
    pub node_uid: String,
    /// Name of the Kubernetes node.
    pub node_name: String,
    /// Role.
    pub role: Role,
    /// The owner's public key: SPKI, DER, base64.
    pub owner_public_key: String,
}

impl LaunchConfig {
    /// The bytes that are delivered and measured.
    ///
    /// # Panics
    /// Never: a struct of strings serialises.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a struct of strings serialises")
    }
}

/// First message when the verifier is the TLS client.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// What it wants.
    pub purpose: Purpose,
}

/// The node presents itself. Nothing in it is believed before the evidence binds it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hello {
    /// What the conversation is for.
    pub purpose: Purpose,
    /// UID of the node.
    pub node_uid: String,
    /// UID of the cluster.
    pub cluster_uid: String,
    /// Address in the cluster's network; a hint for routing, not part of any decision.
    pub address: String,
    /// The keys of this boot.
    pub keys: BootKeys,
    /// The TPM's endorsement key certificate, DER. Empty exactly where the verifier's platform has none and something
    /// else speaks for the attestation key ([`Platform::has_endorsement_key`](crate::platform::Platform::has_endorsement_key)).
    #[serde(with = "base64_bytes")]
    pub ek_certificate: Vec<u8>,
    /// `TPM2B_PUBLIC` of the endorsement key; empty as its certificate is.
    #[serde(with = "base64_bytes")]
    pub ek_public: Vec<u8>,
    /// `TPM2B_PUBLIC` of the attestation key.
    #[serde(with = "base64_bytes")]
    pub ak_public: Vec<u8>,
}

/// The keys a node makes at each boot; all are part of the binding.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BootKeys {
    /// Certificate signing request (DER) for the kubelet's client certificate. Only its key is used.
    #[serde(with = "base64_bytes")]
    pub csr: Vec<u8>,
    /// X25519 public key (32 bytes) that secrets are sealed to.
    #[serde(with = "base64_bytes")]
    pub encryption: Vec<u8>,
    /// `WireGuard` public key (32 bytes).
    #[serde(with = "base64_bytes")]
    pub wireguard: Vec<u8>,
}

/// The verifier's challenge.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Challenge {
    /// 32 random bytes, used once, valid for seconds.
    #[serde(with = "base64_bytes")]
    pub nonce: Vec<u8>,
    /// Revision of the trust policy the evidence will be appraised against.
    pub policy_revision: u64,
    /// `TPM2B_ID_OBJECT` of `TPM2_MakeCredential` for the AK's name under the EK; empty where there is no EK.
    #[serde(with = "base64_bytes")]
    pub credential: Vec<u8>,
    /// `TPM2B_ENCRYPTED_SECRET` that goes with it; empty where there is no EK.
    #[serde(with = "base64_bytes")]
    pub credential_secret: Vec<u8>,
}

/// The node's evidence: a quote of its TPM, and what speaks for the TPM's key where that is no endorsement key.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Evidence {
    /// `TPMS_ATTEST`. Its qualifying data is the binding; on a machine whose processor reports it is what names the
    /// binding and the report ([`machine::tpm_nonce`](crate::machine::tpm_nonce)).
    #[serde(with = "base64_bytes")]
    pub quote: Vec<u8>,
    /// `TPMT_SIGNATURE` over it.
    #[serde(with = "base64_bytes")]
    pub signature: Vec<u8>,
    /// Values of PCR 0 to 15 of the platform's bank, in order: SHA-256, 32 bytes each; of a `NitroTPM` SHA-384, 48 bytes
    /// each ([`Platform::register_bytes`](crate::platform::Platform::register_bytes)).
    #[serde(with = "base64_bytes")]
    pub pcrs: Vec<u8>,
    /// The firmware's event log (TCG2), which explains mismatches and proves nothing.
    #[serde(with = "base64_bytes")]
    pub event_log: Vec<u8>,
    /// The secret that `TPM2_ActivateCredential` gave; empty where there is no endorsement key.
    #[serde(with = "base64_bytes")]
    pub activated: Vec<u8>,
    /// What speaks for the TPM's key in a cloud; absent where the endorsement key's certificate does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<machine::Machine>,
}

/// The verifier's answer.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Verdict {
    /// No, and no more than an id; the owner's status has the reasons.
    Refused {
        /// Id under which the owner finds the reasons.
        id: String,
    },
    /// Yes, and nothing more (Reattest).
    Accepted {},
    /// Yes; the secret is sealed to [`BootKeys::encryption`].
    Sealed {
        /// HPKE encapsulated key.
        #[serde(with = "base64_bytes")]
        encapsulated: Vec<u8>,
        /// HPKE ciphertext of [`InitRequest`], [`Ticket`] or [`RecoverKey`] as JSON.
        #[serde(with = "base64_bytes")]
        ciphertext: Vec<u8>,
    },
}

/// What the first control-plane node needs to initialise Kubernetes. Sealed.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InitRequest {
    /// Key of this node's state disk, 32 bytes.
    #[serde(with = "base64_bytes")]
    pub disk_key: Vec<u8>,
    /// Secret from which verifiers derive nodes' disk keys: `HKDF(disk_secret, "disk:" + node uid)`; 32 bytes.
    #[serde(with = "base64_bytes")]
    pub disk_secret: Vec<u8>,
    /// Identity of the cluster, 32 bytes, extended into PCR 15.
    #[serde(with = "base64_bytes")]
    pub cluster_id: Vec<u8>,
    /// Certificate (PEM, signed by the owner key) of the CA that issues the verifiers' TLS certificates.
    pub verifier_ca_certificate: String,
    /// Its private key, PKCS#8 PEM.
    pub verifier_ca_key: String,
    /// What kubeadm and the kubelet are told.
    #[zeroize(skip)]
    pub node: NodeSettings,
    /// What kubeadm is told about the cluster.
    #[zeroize(skip)]
    pub cluster: ClusterSettings,
}

/// What a node is told about itself.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSettings {
    /// Name of the Kubernetes node.
    pub node_name: String,
    /// `spec.providerID` of the Kubernetes node.
    #[serde(rename = "providerID")]
    pub provider_id: String,
    /// The node's part of the pod network.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    /// Labels of the Kubernetes node.
    pub labels: BTreeMap<String, String>,
    /// Taints, `key=value:Effect`.
    pub taints: Vec<String>,
    /// Whether the state disk is authenticated.
    pub disk_integrity: bool,
}

/// What kubeadm is told about the cluster.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterSettings {
    /// Name of the cluster.
    pub name: String,
    /// Version of Kubernetes, for example `v1.36.3`.
    pub kubernetes_version: String,
    /// `host:port` of the API server as nodes see it.
    pub endpoint: String,
    /// More names in the API server's certificate.
    pub cert_sans: Vec<String>,
    /// Whole pod network.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    /// Service network.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: String,
    /// Whether we make the pod network (`mesh`) or the user does.
    pub mesh: bool,
    /// Whether machines may be so slow, without hardware virtualisation, that Kubernetes' own time limits would expire.
    pub slow: bool,
    /// The platform that all nodes must be on; the owner's choice. Absent in settings of before there were clouds.
    #[serde(default = "qemu")]
    pub platform: Platform,
}

const fn qemu() -> Platform {
    Platform::QemuVtpm
}

/// What an admitted node gets from the verifier. Sealed.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ticket {
    /// Key of this node's state disk, 32 bytes.
    #[serde(with = "base64_bytes")]
    pub disk_key: Vec<u8>,
    /// Identity of the cluster, 32 bytes.
    #[serde(with = "base64_bytes")]
    pub cluster_id: Vec<u8>,
    /// Kubelet's client certificate, PEM: for the key of the CSR and the admitted name.
    pub kubelet_certificate: String,
    /// The cluster's CA, PEM.
    pub ca_certificate: String,
    /// The kubelet's configuration, YAML (`kubelet.config.k8s.io/v1beta1`).
    pub kubelet_config: String,
    /// What the node is told about itself; from its `NodeAdmission`, never from the node.
    #[zeroize(skip)]
    pub node: NodeSettings,
    /// What the node is told about the cluster.
    #[zeroize(skip)]
    pub cluster: ClusterSettings,
    /// Only for role control plane.
    pub control_plane: Option<ControlPlaneMaterial>,
}

/// What a joining control-plane node gets on top.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlPlaneMaterial {
    /// Files below `/etc/kubernetes/pki`, relative path to contents: cluster, front-proxy and etcd CA with keys, service-account keys.
    #[zeroize(skip)]
    pub pki: BTreeMap<String, String>,
    /// An administrator's kubeconfig for kubeadm's discovery.
    pub admin_kubeconfig: String,
    /// As in [`InitRequest::disk_secret`].
    #[serde(with = "base64_bytes")]
    pub disk_secret: Vec<u8>,
    /// As in [`InitRequest::verifier_ca_certificate`].
    pub verifier_ca_certificate: String,
    /// As in [`InitRequest::verifier_ca_key`].
    pub verifier_ca_key: String,
    /// Greatest revision of the owner's trust policy that the giver used: the new verifier believes no older one.
    #[serde(default)]
    pub trust_revision: u64,
}

/// What a node gets from its owner while no verifier is up: its own disk key, never more. Sealed.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecoverKey {
    /// Key of this node's state disk, 32 bytes.
    #[serde(with = "base64_bytes")]
    pub disk_key: Vec<u8>,
    /// Identity of the cluster, 32 bytes.
    #[serde(with = "base64_bytes")]
    pub cluster_id: Vec<u8>,
}

/// What a node streams to its owner after it opened the box of Init or Recover.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Progress {
    /// A new phase began.
    Phase {
        /// Its name, for example `disk`, `certificates`, `etcd`, `api-server`.
        name: String,
    },
    /// A line of output.
    Line {
        /// The line; never a secret.
        text: String,
    },
    /// Finished.
    Done {
        /// Administrator's kubeconfig (Init; empty for Recover). Its server is `ClusterSettings::endpoint`.
        kubeconfig: String,
    },
    /// Failed for good; the node wants to be replaced.
    Failed {
        /// What failed and what to do.
        message: String,
    },
}

/// Bytes as base64 in JSON.
pub mod base64_bytes {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    /// Writes base64.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    /// Reads base64.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_configuration_is_delivered_as_its_json() {
        let text = |text: &str| text.to_owned();
        let config = LaunchConfig {
            cluster_uid: text("c"),
            node_uid: text("n"),
            node_name: text("node"),
            role: Role::ControlPlane,
            owner_public_key: text("key"),
        };
        let json =
            r#"{"clusterUid":"c","nodeUid":"n","nodeName":"node","role":"control-plane","ownerPublicKey":"key"}"#;
        assert_eq!(String::from_utf8(config.to_bytes()).unwrap(), json);
        assert_eq!(serde_json::from_str::<LaunchConfig>(json).unwrap(), config);
    }
}
