//! The ticket: everything an admitted node gets, and nothing that it chose.

use std::{collections::BTreeMap, path::Path, time::Duration};

use constellation_attestation::{
    keys,
    protocol::{ControlPlaneMaterial, NodeSettings, Ticket},
};
use constellation_crds::{NodeAdmissionSpec, cluster::DiskIntegrity, node::Role};
use jiff::Timestamp;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use x509_parser::pem::parse_x509_pem;
use zeroize::{Zeroize as _, Zeroizing};

use crate::home::{self, Home};

/// Life of a kubelet's client certificate; the kubelet renews it itself long before.
const KUBELET_CERTIFICATE: Duration = Duration::from_hours(365 * 24);
/// Guests take their clocks from their hosts, which may lag.
const BACKDATED: Duration = Duration::from_mins(5);
/// Bytes of a serial number. RFC 5280, 4.1.2.2 allows 20; 16 random ones never collide.
const SERIAL_BYTES: usize = 16;
/// What kubeadm needs to make another control-plane node, below its certificate folder.
const CONTROL_PLANE_FILES: [&str; 8] = [
    "ca.crt",
    "ca.key",
    "sa.key",
    "sa.pub",
    "front-proxy-ca.crt",
    "front-proxy-ca.key",
    "etcd/ca.crt",
    "etcd/ca.key",
];

/// Why no ticket can be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster's CA can't sign.
    #[error("the cluster's CA can't be used: {0}")]
    Authority(&'static str),
    /// Signing failed.
    #[error("signing the kubelet's certificate failed")]
    Certificate(#[source] rcgen::Error),
    /// A file is missing.
    #[error("a file for the ticket can't be read")]
    File(#[from] home::Error),
    /// The name in the admission can't be a node's.
    #[error("{0:?} can't be the name of a node")]
    Name(String),
    /// The random source failed.
    #[error("the random source failed")]
    Random,
    /// The signing request is malformed or not signed by its key.
    #[error("the kubelet's signing request is malformed or not signed by its key")]
    Request(#[source] rcgen::Error),
}

/// The ticket for the node that `spec` describes, with a certificate for the key in `csr`.
pub fn prepare(
    home: &Home,
    spec: &NodeAdmissionSpec,
    csr: &[u8],
    kubelet_config: &str,
    now: Timestamp,
) -> Result<Ticket, Error> {
    let ca_certificate = home::text(&home.paths.pki.join("ca.crt"))?;
    let ca_key = home::text(&home.paths.pki.join("ca.key"))?;
    let kubelet_certificate = kubelet_certificate(&ca_certificate, &ca_key, csr, &spec.node_name, now)?;
    let control_plane = match spec.role {
        Role::ControlPlane => Some(control_plane(home)?),
        Role::Worker => None,
    };
    Ok(Ticket {
        disk_key: keys::disk_key(&home.disk_secret, &spec.node_uid).to_vec(),
        cluster_id: home.cluster_id.clone(),
        kubelet_certificate,
        ca_certificate: ca_certificate.to_string(),
        kubelet_config: kubelet_config.to_owned(),
        node: NodeSettings {
            node_name: spec.node_name.clone(),
            provider_id: spec.provider_id.clone(),
            pod_cidr: spec.pod_cidr.clone(),
            labels: spec.labels.clone(),
            taints: spec.taints.clone(),
            disk_integrity: spec.disk_integrity == DiskIntegrity::Hmac,
        },
        cluster: home.cluster.clone(),
        control_plane,
    })
}

/// A client certificate (PEM) for the key in `csr` and the user `system:node:<name>`, whatever else `csr` asks for.
///
/// Valid for a year, but never longer than the CA. See Kubernetes, "Using Node Authorization".
pub fn kubelet_certificate(
    ca_certificate: &str,
    ca_key: &str,
    csr: &[u8],
    node_name: &str,
    now: Timestamp,
) -> Result<String, Error> {
    if !is_node_name(node_name) {
        return Err(Error::Name(node_name.to_owned()));
    }
    let request = CertificateSigningRequestParams::from_der(&csr.into()).map_err(Error::Request)?;
    let key = Key(KeyPair::from_pem(ca_key).map_err(|_| Error::Authority("its key isn't a private key"))?);
    let (from, until) = validity(ca_certificate, &key.0, now)?;
    let issuer = Issuer::from_ca_cert_pem(ca_certificate, &key.0)
        .map_err(|_| Error::Authority("its certificate can't be parsed"))?;

    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node_name}"));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial()?);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from);
    params.not_after = epoch + Duration::from_secs(until);
    Ok(params.signed_by(&request.public_key, &issuer).map_err(Error::Certificate)?.pem())
}

/// Whether the name is a DNS subdomain (RFC 1123), which names of Kubernetes nodes are.
fn is_node_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=253).contains(&name.len())
        && name.split('.').all(|label| {
            let edges = [label.bytes().next(), label.bytes().last()];
            label.bytes().all(|byte| plain(byte) || byte == b'-') && edges.into_iter().all(|edge| edge.is_some_and(plain))
        })
}

/// Seconds since 1970 between which a certificate under this CA can be valid.
fn validity(ca_certificate: &str, key: &KeyPair, now: Timestamp) -> Result<(u64, u64), Error> {
    let unreadable = Error::Authority("its certificate can't be parsed");
    let Ok((_, pem)) = parse_x509_pem(ca_certificate.as_bytes()) else { return Err(unreadable) };
    let Ok(ca) = pem.parse_x509() else { return Err(unreadable) };
    if !ca.is_ca() {
        return Err(Error::Authority("its certificate isn't a CA's"));
    }
    if ca.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err(Error::Authority("its key isn't the certificate's"));
    }
    let seconds = |time: i64| u64::try_from(time).unwrap_or_default();
    let now = seconds(now.as_second());
    let from = now.saturating_sub(BACKDATED.as_secs()).max(seconds(ca.validity().not_before.timestamp()));
    let until = (now + KUBELET_CERTIFICATE.as_secs()).min(seconds(ca.validity().not_after.timestamp()));
    if until <= now || from > now {
        return Err(Error::Authority("it isn't valid now"));
    }
    Ok((from, until))
}

fn serial() -> Result<SerialNumber, Error> {
    let mut bytes = [0; SERIAL_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Random)?;
    // Positive and without leading zeros, as DER wants it.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn control_plane(home: &Home) -> Result<ControlPlaneMaterial, Error> {
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
        verifier_ca_key: Zeroizing::clone(&home.verifier_ca_key).to_string(),
    })
}

/// Zeroes the serialised key when dropped.
struct Key(KeyPair);

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests;
