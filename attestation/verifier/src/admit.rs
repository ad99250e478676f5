//! May this machine be this node? Pure: everything it needs is an argument.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_attestation::{
    appraise::Appraisal,
    protocol::{Hello, LaunchConfig, Role},
};
use constellation_crds::{
    NodeAdmissionSpec, NodeAdmissionStatus,
    node::{Mismatch, Role as NodeRole},
    trust::Admission,
};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::record;

/// The clause of a case that was appraised by an older trust bundle than one before.
pub const OLD_REVISION: &str = "admission.trust-revision";

/// How the machine came to be appraised; decides whether a node without a record may get one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// It asked to join, with the PCR 15 of a machine that isn't a member.
    Join,
    /// We asked a member, whose PCR 15 has the cluster's identity.
    Member,
    /// We asked the node that we run on. Its owner appraised it in Init or Recover, where no verifier could record it.
    Own,
}

/// Everything the decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// What the operator says about the node.
    pub spec: &'a NodeAdmissionSpec,
    /// What verifiers recorded about it.
    pub status: Option<&'a NodeAdmissionStatus>,
    /// What the node says; its keys are inside the evidence.
    pub hello: &'a Hello,
    /// The evidence's appraisal.
    pub appraisal: &'a Appraisal,
    /// The launch configuration's digest that the expected PCR 15 was made from.
    pub appraised_launch: &'a [u8; 32],
    /// Launch configuration of the node we run on: our cluster, our owner.
    pub ours: &'a LaunchConfig,
    /// Revision of the trust policy that the evidence was appraised against.
    pub revision: u64,
    /// How the machine came here.
    pub door: Door,
    /// The time.
    pub now: Timestamp,
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Its first admission; record this, then let it in.
    Admit(Admission),
    /// Known, and the same machine; record what changed, then let it in.
    Returning(Admission),
    /// No, with every reason.
    Refuse(Vec<Mismatch>),
}

/// Decides. Total.
#[must_use]
pub fn admit(seen: &Seen<'_>) -> Decision {
    let mut reasons = record::mismatches(seen.appraisal);
    reasons.extend(identity(seen));
    if seen.spec.evicted == Some(true) {
        reasons.push(reason("admission.evicted", None, None, "the node is on its way out"));
    }
    reasons.extend(revision(seen));
    let recorded = seen.status.and_then(|status| status.admission.as_ref());
    // Without a good appraisal the keys are mere claims, and comparing claims would raise false alarms.
    if seen.appraisal.accepted {
        reasons.extend(machine(seen, recorded));
    }
    if !reasons.is_empty() {
        return Decision::Refuse(reasons);
    }
    let admission = Admission {
        ak_name: seen.appraisal.ak_name.clone(),
        ek_certificate_digest: seen.appraisal.ek_certificate_digest.clone(),
        reset_count: seen.appraisal.reset_count,
        admitted_at: recorded.map_or_else(|| seen.now.to_string(), |record| record.admitted_at.clone()),
        wireguard_key: STANDARD.encode(&seen.hello.keys.wireguard),
        address: seen.hello.address.clone(),
        kubelet_certificate: recorded.and_then(|record| record.kubelet_certificate.clone()),
    };
    if recorded.is_some() { Decision::Returning(admission) } else { Decision::Admit(admission) }
}

/// The launch configuration that a node of this specification must have measured, if it is of our cluster and owner.
#[must_use]
pub fn launch_digest(spec: &NodeAdmissionSpec, ours: &LaunchConfig) -> [u8; 32] {
    let role = match spec.role {
        NodeRole::ControlPlane => Role::ControlPlane,
        NodeRole::Worker => Role::Worker,
    };
    let config = LaunchConfig {
        cluster_uid: ours.cluster_uid.clone(),
        node_uid: spec.node_uid.clone(),
        node_name: spec.node_name.clone(),
        role,
        owner_public_key: ours.owner_public_key.clone(),
    };
    Sha256::digest(config.to_bytes()).into()
}

/// Whether `uid` can be the name of a `NodeAdmission`. It goes into a URL, so it is checked before any look-up.
#[must_use]
pub fn is_uid(uid: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&uid.len()) && uid.bytes().all(plain) && !uid.starts_with('-') && !uid.ends_with('-')
}

/// A clause that doesn't hold.
#[must_use]
pub fn reason(clause: &str, expected: Option<&str>, actual: Option<&str>, message: &str) -> Mismatch {
    Mismatch {
        clause: clause.to_owned(),
        expected: expected.map(str::to_owned),
        actual: actual.map(str::to_owned),
        message: message.to_owned(),
    }
}

/// Role and name come from an object that API writers can change, so they must be the ones the node has measured.
fn identity(seen: &Seen<'_>) -> Vec<Mismatch> {
    let mut reasons = Vec::new();
    if seen.spec.node_uid != seen.hello.node_uid {
        let (expected, actual) = (Some(seen.spec.node_uid.as_str()), Some(seen.hello.node_uid.as_str()));
        reasons.push(reason("admission.node", expected, actual, "the admission is for another node"));
    }
    if seen.ours.cluster_uid != seen.hello.cluster_uid {
        let (expected, actual) = (Some(seen.ours.cluster_uid.as_str()), Some(seen.hello.cluster_uid.as_str()));
        reasons.push(reason("admission.cluster", expected, actual, "the node is of another cluster"));
    }
    let expected = hex::encode(launch_digest(seen.spec, seen.ours));
    let written = &seen.spec.launch_config_digest;
    let appraised = hex::encode(seen.appraised_launch);
    for actual in [written, &appraised] {
        if *actual != expected {
            let message = "name, role or uid in the admission aren't the ones in the measured launch configuration";
            reasons.push(reason("admission.launch-config", Some(&expected), Some(actual), message));
            break;
        }
    }
    reasons
}

/// Another verifier may have seen a newer bundle than the one we were given.
fn revision(seen: &Seen<'_>) -> Option<Mismatch> {
    let last = seen.status?.last_appraisal.as_ref()?.trust_revision?;
    (last > seen.revision).then(|| {
        let (expected, actual) = (format!("at least {last}"), seen.revision.to_string());
        let message = "a newer trust bundle was in force when this node was last appraised";
        reason(OLD_REVISION, Some(&expected), Some(&actual), message)
    })
}

fn machine(seen: &Seen<'_>, recorded: Option<&Admission>) -> Vec<Mismatch> {
    let mut reasons = Vec::new();
    let now = seen.appraisal;
    if now.ak_name.is_empty() || now.ek_certificate_digest.is_empty() {
        reasons.push(reason("admission.anchor", None, None, "the evidence names no attestation key"));
    }
    let Some(record) = recorded else {
        if seen.door == Door::Member {
            reasons.push(reason("admission.missing", None, None, "the node was never admitted"));
        }
        return reasons;
    };
    if record.ak_name != now.ak_name {
        let message = "another machine was admitted as this node; this may be an attempt to double it";
        reasons.push(reason("admission.second-key", Some(&record.ak_name), Some(&now.ak_name), message));
    }
    if record.ek_certificate_digest != now.ek_certificate_digest {
        let (expected, actual) = (&record.ek_certificate_digest, &now.ek_certificate_digest);
        let message = "another TPM was admitted as this node";
        reasons.push(reason("admission.second-tpm", Some(expected), Some(actual), message));
    }
    if now.reset_count < record.reset_count {
        let (expected, actual) = (format!("at least {}", record.reset_count), now.reset_count.to_string());
        let message = "the TPM's reset counter moved back, so its state is a copy of an earlier one";
        reasons.push(reason("admission.reset-count", Some(&expected), Some(&actual), message));
    }
    reasons
}

#[cfg(test)]
pub(crate) mod tests;
