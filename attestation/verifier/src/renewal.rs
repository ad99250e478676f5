//! May this kubelet have another certificate, and which one may it renew after that? Pure: everything it needs is an argument.
//!
//! Kubernetes itself would renew by name: whoever copied a kubelet's key may then act as a node of that name for ever, also
//! once the node was evicted and the name given again. So the record of an admission names the very certificate that its
//! ticket had, by the digest with which the API server marks who asks, and moves on with each one that was issued.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_attestation::protocol::KUBELET_SIGNER;
use constellation_crds::{
    NodeAdmission,
    node::{Mismatch, Role},
    trust::{Admission, KubeletCertificate},
};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use rcgen::CertificateSigningRequestParams;
use sha2::{Digest as _, Sha256};
use x509_parser::{
    certification_request::X509CertificationRequest,
    der_parser::Oid,
    oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME},
    pem::Pem,
    prelude::FromDer as _,
    x509::{RelativeDistinguishedName, X509Name},
};

use crate::admit::reason;

/// The request hasn't the form of a kubelet's.
pub const REQUEST: &str = "renewal.request";
/// There is no one member of that name.
pub const NODE: &str = "renewal.node";
/// It is asked with another certificate than the member's.
pub const CERTIFICATE: &str = "renewal.certificate";
/// What the API server says of whoever showed it a certificate (`k8s.io/apiserver/pkg/authentication/user`,
/// `CredentialIDKey`; since Kubernetes 1.32).
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";
/// Before the SHA-256 of the certificate, in hex (`k8s.io/apiserver/pkg/authentication/request/x509`, `CommonNameUserConversion`).
const CREDENTIAL_KIND: &str = "X509SHA256=";
/// Kubernetes, "Using Node Authorization".
const GROUP: &str = "system:nodes";
const USER: &str = "system:node:";
/// What a kubelet asks for, with the first one for RSA keys alone (Kubernetes, "Certificates and Certificate Signing
/// Requests", kube-apiserver-client-kubelet).
const USAGES: [&str; 3] = ["key encipherment", "client auth", "digital signature"];
/// Of a PEM line (RFC 7468, 2).
const LINE: usize = 64;

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is answered already.
    Leave,
    /// Who asks isn't admitted yet, and may be in a moment.
    Wait,
    /// The member of this uid renews.
    Approve(String),
    /// No.
    Deny {
        /// The node in whose name it was asked, as far as there is one.
        uid: Option<String>,
        /// Why, for the owner.
        reason: Mismatch,
    },
}

/// Decides. Total. `own` is the name of the node that we run on, whose admission the operator writes only when its kubelet
/// has asked already: of the first node there is none before Init.
#[must_use]
pub fn decide(request: &CertificateSigningRequest, nodes: &[NodeAdmission], own: &str) -> Decision {
    if is_answered(request) {
        return Decision::Leave;
    }
    let named: Vec<&NodeAdmission> =
        nodes.iter().filter(|node| node_of(request) == Some(node.spec.node_name.as_str())).collect();
    // Of several with this name the last is meant, or nobody knows.
    let last = named.iter().max_by_key(|node| (!leaves(node), created(node))).map(|node| node.spec.node_uid.clone());
    let deny = |uid: Option<String>, clause: &str, message: &str| {
        let reason = reason(clause, None, None, message);
        Decision::Deny { uid, reason }
    };
    let asked = match asked(&request.spec) {
        Ok(asked) => asked,
        Err(message) => return deny(last, REQUEST, message),
    };
    if named.is_empty() && asked.name == own {
        return Decision::Wait;
    }
    let staying: Vec<_> = named.into_iter().filter(|node| !leaves(node)).collect();
    let mut members = staying.iter().filter_map(|node| Some((node, node.status.as_ref()?.admission.as_ref()?)));
    let (node, admission) = match (members.next(), members.next()) {
        (Some(member), None) => member,
        (None, _) if !staying.is_empty() => return Decision::Wait,
        (None, _) => return deny(last, NODE, "no node of this name is a member, or it is on its way out"),
        (Some(_), Some(_)) => return deny(last, NODE, "two nodes of this name are members"),
    };
    let uid = node.spec.node_uid.clone();
    match (&admission.kubelet_certificate, node.spec.role, asked.credential) {
        // It holds the cluster's CA: what it were refused here it could sign for itself.
        (None, Role::ControlPlane, _) => Decision::Approve(uid),
        (Some(record), _, Some(credential)) if knows(record, credential) => Decision::Approve(uid),
        _ => deny(
            Some(uid),
            CERTIFICATE,
            "another certificate was given to this node: this may be a copy of an older one",
        ),
    }
}

/// What the node's kubelet may renew from now on, if that changed: what was issued in answer to a request with the
/// certificate on record. Requests stay for an hour after their answer (Kubernetes, "csrcleaner"), so the same ones are seen
/// again and again, by each verifier: whichever of them are seen together, the record only moves on.
#[must_use]
pub fn moved(node: &NodeAdmission, requests: &[CertificateSigningRequest]) -> Option<KubeletCertificate> {
    let before = node.status.as_ref()?.admission.as_ref()?.kubelet_certificate.as_ref()?;
    // By name first: to read one costs a signature.
    let own = requests.iter().filter(|request| node_of(request) == Some(node.spec.node_name.as_str()));
    let mut issued: Vec<Issued> = own.filter_map(issued).collect();
    issued.sort_by(|one, other| (one.time, one.uid).cmp(&(other.time, other.uid)));
    let after = issued.into_iter().fold(before.clone(), |record, issued| {
        let Issued { credential, certificate, time, .. } = issued;
        let renewed = record.current == credential;
        // The kubelet lost what it was given, and asked once more: what it asked for last is what it has.
        let again = record.previous.as_deref() == Some(credential) && is_later(time, record.requested_at.as_deref());
        if certificate == record.current || !renewed && !again {
            return record;
        }
        KubeletCertificate {
            current: certificate,
            previous: Some(credential.to_owned()),
            requested_at: Some(time.to_string()),
        }
    });
    (after != *before).then_some(after)
}

/// What the node's kubelet may renew once it has joined with a ticket, whose certificate is this one. Copies of what its
/// kubelet had at an earlier boot end here. At the same boot it may have got only the ticket before.
#[must_use]
pub fn joined(recorded: Option<&Admission>, now: &Admission, certificate: String) -> KubeletCertificate {
    let same_boot = recorded.filter(|recorded| recorded.wireguard_key == now.wireguard_key);
    let previous =
        same_boot.and_then(|recorded| recorded.kubelet_certificate.as_ref()).map(|last| last.current.clone());
    KubeletCertificate { current: certificate, previous, requested_at: None }
}

/// SHA-256 of the first certificate in a PEM text, hex, as the API server names whoever shows it.
#[must_use]
pub fn fingerprint(pem: &[u8]) -> Option<String> {
    let pem = Pem::iter_from_buffer(pem).next()?.ok()?;
    (pem.label == "CERTIFICATE").then(|| hex::encode(Sha256::digest(&pem.contents)))
}

/// The name of the node in whose name a request was made.
#[must_use]
pub fn node_of(request: &CertificateSigningRequest) -> Option<&str> {
    request.spec.username.as_deref()?.strip_prefix(USER)
}

/// A request that has the form of a kubelet's.
struct Asked<'a> {
    name: &'a str,
    /// SHA-256 of the certificate that was shown for it, hex; nothing where another credential was.
    credential: Option<&'a str>,
}

/// A certificate that a kubelet got for another one.
struct Issued<'a> {
    credential: &'a str,
    certificate: String,
    time: Timestamp,
    uid: &'a str,
}

fn asked(spec: &CertificateSigningRequestSpec) -> Result<Asked<'_>, &'static str> {
    if spec.signer_name != KUBELET_SIGNER {
        return Err("the request is for another signer");
    }
    let user = spec.username.as_deref().unwrap_or_default();
    let name =
        user.strip_prefix(USER).filter(|name| !name.is_empty()).ok_or("a kubelet's certificate is for a node alone")?;
    if !spec.groups.iter().flatten().any(|group| group == GROUP) {
        return Err("who asks isn't in the group of nodes");
    }
    let wanted: BTreeSet<&str> = spec.usages.iter().flatten().map(String::as_str).collect();
    if wanted != USAGES.into() && wanted != USAGES[1..].iter().copied().collect() {
        return Err("other usages are wanted than a kubelet's");
    }
    is_kubelets(&spec.request.0, user)?;
    Ok(Asked { name, credential: credential(spec) })
}

/// Whether the request itself is what a kubelet of this user sends: its name and group, nothing else, signed by its key. The
/// text has to be exactly what its bytes are written as, so that nobody reads another request out of it.
fn is_kubelets(text: &[u8], user: &str) -> Result<(), &'static str> {
    let bytes = Pem::iter_from_buffer(text).next().and_then(Result::ok).map(|pem| pem.contents).unwrap_or_default();
    if armor(&bytes).as_bytes() != text {
        return Err("the request isn't one whole PEM block");
    }
    let Ok(([], request)) = X509CertificationRequest::from_der(&bytes) else { return Err("the request is malformed") };
    let info = &request.certification_request_info;
    if !info.attributes().is_empty() {
        return Err("the request wants more than a name");
    }
    if !is_subject(&info.subject, user) {
        return Err("the request is for another name");
    }
    match CertificateSigningRequestParams::from_der(&bytes.as_slice().into()) {
        Ok(_) => Ok(()),
        Err(_) => Err("the request isn't signed by its key"),
    }
}

/// Whether a name is the group and the user, in this order and each once.
fn is_subject(name: &X509Name<'_>, user: &str) -> bool {
    let is = |part: Option<&RelativeDistinguishedName<'_>>, kind: &Oid<'_>, value: &str| {
        let mut all = part.into_iter().flat_map(RelativeDistinguishedName::iter);
        let one = all.next().is_some_and(|one| one.attr_type() == kind && one.as_str().is_ok_and(|text| text == value));
        one && all.next().is_none()
    };
    let mut parts = name.iter();
    is(parts.next(), &OID_X509_ORGANIZATION_NAME, GROUP)
        && is(parts.next(), &OID_X509_COMMON_NAME, user)
        && parts.next().is_none()
}

/// As Go writes it, and so each kubelet (`encoding/pem`, `Encode`).
fn armor(bytes: &[u8]) -> String {
    let text = STANDARD.encode(bytes);
    let lines: Vec<&str> = text.as_bytes().chunks(LINE).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n", lines.join("\n"))
}

/// With which certificate it was asked. The API server puts this into a request, and takes nothing else there.
fn credential(spec: &CertificateSigningRequestSpec) -> Option<&str> {
    let [id] = spec.extra.as_ref()?.get(CREDENTIAL)?.as_slice() else { return None };
    let digest = id.strip_prefix(CREDENTIAL_KIND)?;
    let is_hex = digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (digest.len() == 2 * 32 && is_hex).then_some(digest)
}

fn issued(request: &CertificateSigningRequest) -> Option<Issued<'_>> {
    let is = |kind: &str| conditions(request).any(|condition| condition == kind);
    if !is(APPROVED) || is(DENIED) || is(FAILED) {
        return None;
    }
    let Asked { credential, .. } = asked(&request.spec).ok()?;
    let certificate = fingerprint(&request.status.as_ref()?.certificate.as_ref()?.0)?;
    let time = request.metadata.creation_timestamp.as_ref()?.0;
    Some(Issued { credential: credential?, certificate, time, uid: request.metadata.uid.as_deref()? })
}

/// Types of conditions (`k8s.io/api/certificates/v1`, `RequestConditionType`).
pub const APPROVED: &str = "Approved";
/// See [`APPROVED`].
pub const DENIED: &str = "Denied";
const FAILED: &str = "Failed";

fn conditions(request: &CertificateSigningRequest) -> impl Iterator<Item = &str> {
    request.status.iter().flat_map(|status| &status.conditions).flatten().map(|condition| condition.type_.as_str())
}

fn is_answered(request: &CertificateSigningRequest) -> bool {
    conditions(request).any(|condition| [APPROVED, DENIED, FAILED].contains(&condition))
}

fn knows(record: &KubeletCertificate, credential: &str) -> bool {
    record.current == credential || record.previous.as_deref() == Some(credential)
}

/// Whether the node has no rights any more, whatever it has.
fn leaves(node: &NodeAdmission) -> bool {
    node.spec.evicted == Some(true) || node.metadata.deletion_timestamp.is_some()
}

fn created(node: &NodeAdmission) -> Option<Timestamp> {
    node.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

fn is_later(time: Timestamp, last: Option<&str>) -> bool {
    last.is_none_or(|last| last.parse::<Timestamp>().is_ok_and(|last| time > last))
}

#[cfg(test)]
mod tests;
