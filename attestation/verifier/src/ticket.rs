//! The ticket: everything an admitted node gets, and nothing that it chose.

use std::{collections::BTreeMap, path::Path};

use constellation_attestation::{
    keys,
    protocol::{ControlPlaneMaterial, KUBELET_LIFE, NodeSettings, Ticket},
    settings,
};
use constellation_crds::{NodeAdmissionSpec, cluster::DiskIntegrity, node::Role};
use jiff::Timestamp;
use rcgen::CertificateSigningRequestParams;

use crate::{
    authority::{self, Subject},
    home::{self, Home},
};

/// What kubeadm needs to make another control-plane node, below its certificate folder.
const CONTROL_PLANE_FILES: [&str; 8] =
    ["ca.crt", "ca.key", "sa.key", "sa.pub", "front-proxy-ca.crt", "front-proxy-ca.key", "etcd/ca.crt", "etcd/ca.key"];

/// Why no ticket can be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster's CA can't sign.
    #[error("the kubelet gets no certificate")]
    Authority(#[from] authority::Error),
    /// What the CA signed can't be read.
    #[error("the kubelet's certificate can't be read")]
    Certificate,
    /// A file is missing.
    #[error("a file for the ticket can't be read")]
    File(#[from] home::Error),
    /// The name in the admission can't be a node's.
    #[error("{0:?} can't be the name of a node")]
    Name(String),
    /// The admission says something of the node that nothing can be told of itself.
    #[error("the admission can't be used")]
    Settings(#[from] settings::Error),
    /// The signing request is malformed or not signed by its key.
    #[error("the kubelet's signing request is malformed or not signed by its key")]
    Request(#[source] rcgen::Error),
}

/// The ticket for the node that `spec` describes, with a certificate for the key in `csr`. `trust_revision` is the
/// greatest that was used here.
pub fn prepare(
    home: &Home,
    spec: &NodeAdmissionSpec,
    csr: &[u8],
    kubelet_config: &str,
    trust_revision: u64,
    now: Timestamp,
) -> Result<Ticket, Error> {
    let node = NodeSettings {
        node_name: spec.node_name.clone(),
        provider_id: spec.provider_id.clone(),
        pod_cidr: spec.pod_cidr.clone(),
        labels: spec.labels.clone(),
        taints: spec.taints.clone(),
        disk_integrity: spec.disk_integrity == DiskIntegrity::Hmac,
    };
    node.validate()?;
    let ca_certificate = home::text(&home.paths.pki.join("ca.crt"))?;
    let ca_key = home::text(&home.paths.pki.join("ca.key"))?;
    let kubelet_certificate = kubelet_certificate(&ca_certificate, &ca_key, csr, &spec.node_name, now)?;
    let control_plane = match spec.role {
        Role::ControlPlane => Some(control_plane(home, trust_revision)?),
        Role::Worker => None,
    };
    Ok(Ticket {
        disk_key: keys::disk_key(&home.disk_secret, &spec.node_uid).to_vec(),
        cluster_id: home.cluster_id.clone(),
        kubelet_certificate,
        ca_certificate: ca_certificate.to_string(),
        kubelet_config: kubelet_config.to_owned(),
        node,
        cluster: home.cluster.clone(),
        control_plane,
    })
}

/// A client certificate (PEM) for the key in `csr` and the user `system:node:<name>`, whatever else `csr` asks for.
///
/// Valid for [`KUBELET_LIFE`], but never longer than the CA. See Kubernetes, "Using Node Authorization".
pub fn kubelet_certificate(
    ca_certificate: &str,
    ca_key: &str,
    csr: &[u8],
    node_name: &str,
    now: Timestamp,
) -> Result<String, Error> {
    if !settings::is_subdomain(node_name) {
        return Err(Error::Name(node_name.to_owned()));
    }
    let request = CertificateSigningRequestParams::from_der(&csr.into()).map_err(Error::Request)?;
    let user = format!("system:node:{node_name}");
    let subject = Subject { organization: Some("system:nodes"), common_name: &user };
    Ok(authority::client_certificate(ca_certificate, ca_key, &request.public_key, subject, (now, KUBELET_LIFE))?)
}

fn control_plane(home: &Home, trust_revision: u64) -> Result<ControlPlaneMaterial, Error> {
    let read = |path: &Path| home::text(path).map(|text| text.to_string());
    let mut pki = BTreeMap::new();
    for name in CONTROL_PLANE_FILES {
        pki.insert(name.to_owned(), read(&home.paths.pki.join(name))?);
    }
    Ok(ControlPlaneMaterial {
        pki,
        admin_kubeconfig: read(&home.paths.admin_kubeconfig)?,
        disk_secret: home.disk_secret.to_vec(),
        verifier_ca_certificate: home.verifier_ca_certificate.clone(),
        verifier_ca_key: home.verifier_ca_key.to_string(),
        trust_revision,
    })
}

#[cfg(test)]
mod tests;
