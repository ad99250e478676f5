//! What the first control-plane node is given: everything it needs to initialise Kubernetes.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_attestation::{
    keys,
    owner::SigningKey,
    platform::Platform,
    protocol::{self, ClusterSettings, InitRequest, LaunchConfig, NodeSettings, Purpose},
};
use constellation_crds::{
    ConfidentialNode, ConstellationCluster, LABEL_CLUSTER, LABEL_GROUP, LABEL_ROLE,
    cluster::{Cni, DiskIntegrity, POD_CIDR, SERVICE_CIDR, StateDisk, Taint},
    node::Role,
};
use kube::ResourceExt as _;

use super::talk::Secret;
use crate::cloud::Network;

impl Secret for InitRequest {
    const PURPOSE: Purpose = Purpose::Init;
}

/// The CA of the cluster's verifiers.
pub struct VerifierCa {
    /// Certificate, PEM.
    pub certificate: String,
    /// Private key, PEM.
    pub key: zeroize::Zeroizing<String>,
}

/// Puts the request together.
#[must_use]
pub fn request(
    cluster: &ConstellationCluster,
    node: &ConfidentialNode,
    network: &Network,
    kubernetes_version: &str,
    platform: Platform,
    master_secret: &[u8],
    ca: &VerifierCa,
) -> InitRequest {
    let disk_secret = keys::derive(master_secret, keys::DISK_SECRET);
    let uid = node.uid().unwrap_or_default();
    InitRequest {
        disk_key: keys::disk_key(disk_secret.as_slice(), &uid).to_vec(),
        disk_secret: disk_secret.to_vec(),
        cluster_id: keys::derive(master_secret, keys::CLUSTER_ID).to_vec(),
        verifier_ca_certificate: ca.certificate.clone(),
        verifier_ca_key: ca.key.to_string(),
        node: node_settings(cluster, node),
        cluster: cluster_settings(cluster, network, kubernetes_version, platform),
    }
}

/// What the cluster's nodes are told about it.
#[must_use]
pub fn cluster_settings(
    cluster: &ConstellationCluster,
    network: &Network,
    kubernetes_version: &str,
    platform: Platform,
) -> ClusterSettings {
    let spec = cluster.spec.network.clone().unwrap_or_default();
    let mut cert_sans = network.cert_sans.clone();
    cert_sans.extend(spec.api_server_cert_sans);
    ClusterSettings {
        name: cluster.name_any(),
        kubernetes_version: kubernetes_version.to_owned(),
        endpoint: network.endpoint.clone(),
        cert_sans,
        pod_cidr: spec.pod_cidr.unwrap_or_else(|| POD_CIDR.to_owned()),
        service_cidr: spec.service_cidr.unwrap_or_else(|| SERVICE_CIDR.to_owned()),
        mesh: spec.cni != Some(Cni::None),
        slow: cluster.spec.provider.local.is_some(),
        platform,
    }
}

/// What a node is told about itself.
#[must_use]
pub fn node_settings(cluster: &ConstellationCluster, node: &ConfidentialNode) -> NodeSettings {
    let pods = cluster.spec.network.as_ref().and_then(|network| network.pod_cidr.as_deref()).unwrap_or(POD_CIDR);
    let mut labels = node.spec.labels.clone();
    labels.insert(LABEL_CLUSTER.to_owned(), cluster.name_any());
    labels.insert(LABEL_GROUP.to_owned(), node.spec.node_group.clone());
    labels.insert(LABEL_ROLE.to_owned(), node.spec.role.as_str().to_owned());
    NodeSettings {
        node_name: node.name_any(),
        provider_id: node.status.as_ref().and_then(|status| status.provider_id.clone()).unwrap_or_default(),
        pod_cidr: pod_cidr(pods, node.spec.index),
        labels,
        taints: taints(&node.spec.taints),
        disk_integrity: disk_integrity(cluster, node.spec.state_disk.as_ref()),
    }
}

/// Taints as a kubelet takes them.
#[must_use]
pub fn taints(taints: &[Taint]) -> Vec<String> {
    let told = |taint: &Taint| format!("{}={}:{}", taint.key, taint.value.as_deref().unwrap_or_default(), taint.effect);
    taints.iter().map(told).collect()
}

/// Whether changed sectors of a state disk are detected.
#[must_use]
pub fn disk_integrity(cluster: &ConstellationCluster, disk: Option<&StateDisk>) -> bool {
    match disk.and_then(|disk| disk.integrity) {
        Some(integrity) => integrity == DiskIntegrity::Hmac,
        // Without hardware virtualisation each sector's HMAC is slow; everywhere else the host may be an attacker.
        None => cluster.spec.provider.local.is_none() && cluster.spec.provider.simulated.is_none(),
    }
}

/// The launch configuration of a node: the one writer of what the host delivers and the node measures into PCR 15.
#[must_use]
pub fn launch_config(cluster_uid: &str, node: &ConfidentialNode, owner: &SigningKey) -> Vec<u8> {
    LaunchConfig {
        cluster_uid: cluster_uid.to_owned(),
        node_uid: node.uid().unwrap_or_default(),
        node_name: node.name_any(),
        role: match node.spec.role {
            Role::ControlPlane => protocol::Role::ControlPlane,
            Role::Worker => protocol::Role::Worker,
        },
        owner_public_key: STANDARD.encode(owner.public_spki()),
    }
    .to_bytes()
}

/// The n-th /24 of the pod network.
#[must_use]
pub fn pod_cidr(pods: &str, index: u32) -> String {
    let base: std::net::Ipv4Addr =
        pods.split('/').next().and_then(|text| text.parse().ok()).unwrap_or(std::net::Ipv4Addr::new(10, 244, 0, 0));
    let network = u32::from(base).wrapping_add(index << 8);
    format!("{}/24", std::net::Ipv4Addr::from(network & 0xffff_ff00))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_gets_the_slice_of_its_number() {
        assert_eq!(pod_cidr("10.244.0.0/16", 3), "10.244.3.0/24");
        assert_eq!(pod_cidr("10.0.0.0/8", 254), "10.0.254.0/24");
    }
}
