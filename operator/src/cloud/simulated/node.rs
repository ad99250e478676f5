//! What a simulated machine claims, how the claim is appraised, and the `Node` it becomes. Pure.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_attestation::{
    dsse,
    platform::Platform,
    policy::{MeasurementSet, TRUST_POLICY_TYPE, TrustPolicy},
    protocol::LaunchConfig,
};
use constellation_crds::{
    NodeAdmission, NodeAdmissionStatus, TrustBundle,
    node::{AttestationResult, Mismatch, Role},
    trust::Admission,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{NAME, address, store::Record};

/// Verdicts.
const ACCEPTED: &str = "Accepted";
const REFUSED: &str = "Refused";
/// Registers that a simulated machine claims.
const REGISTERS: [u8; 4] = [4, 11, 12, 13];

/// What a machine that "booted" `image` claims for a register: SHA-256 of `simulated:<image>:<register>`, hex.
#[must_use]
pub fn claim(image: &str, register: u8) -> String {
    digest(&format!("{NAME}:{image}:{register}"))
}

/// The policy of a machine's cluster among these bundles: signed by the owner its launch configuration names.
pub fn policy(record: &Record, bundles: &[TrustBundle]) -> Option<TrustPolicy> {
    let config: LaunchConfig = serde_json::from_str(&record.launch_config).ok()?;
    let owner = STANDARD.decode(config.owner_public_key).ok()?;
    bundles
        .iter()
        .filter_map(|bundle| dsse::verify(&bundle.spec.envelope, TRUST_POLICY_TYPE, &owner).ok())
        .filter_map(|payload| serde_json::from_slice::<TrustPolicy>(&payload).ok())
        .filter(|policy| policy.cluster_uid == record.cluster && policy.validate().is_ok())
        .max_by_key(|policy| policy.revision)
}

/// Whether a machine's evidence is broken by the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// One register is not what the image gives.
    Broken,
    /// It is what the image gives.
    Whole,
}

/// Appraises a claim as a verifier would: the launch configuration, then every set; the best set's mismatches are listed.
pub fn appraise(
    record: &Record,
    evidence: Evidence,
    admission: &NodeAdmission,
    policy: &TrustPolicy,
    now: Timestamp,
) -> AttestationResult {
    let claims = claims(record, evidence);
    let mut wrong = Vec::new();
    let launched = digest(&record.launch_config);
    if launched != admission.spec.launch_config_digest {
        wrong.push(Mismatch {
            clause: "tpm.pcr.15".to_owned(),
            expected: Some(admission.spec.launch_config_digest.clone()),
            actual: Some(launched),
            message: "PCR 15 (simulated): the machine was launched with another launch configuration".to_owned(),
        });
    }
    let compared: Vec<_> = policy
        .sets
        .iter()
        .filter(|set| set.platform == Platform::Simulated)
        .map(|set| (set, compare(set, &claims, &record.image)))
        .collect();
    let best = compared.iter().min_by_key(|(_, mismatches)| mismatches.len());
    match best {
        None => wrong.push(Mismatch {
            clause: "policy.empty".to_owned(),
            message: "the trust policy has no set for platform simulated".to_owned(),
            ..Mismatch::default()
        }),
        Some((_, mismatches)) => wrong.extend(mismatches.iter().cloned()),
    }
    if admission.spec.evicted == Some(true) {
        wrong.push(Mismatch {
            clause: "admission.evicted".to_owned(),
            message: "the node was evicted".to_owned(),
            ..Mismatch::default()
        });
    }
    let accepted = wrong.is_empty();
    let evidence_digest = digest(&claims.values().cloned().collect::<Vec<_>>().join("\n"));
    AttestationResult {
        verdict: if accepted { ACCEPTED } else { REFUSED }.to_owned(),
        platform: NAME.to_owned(),
        measurement_set: best.filter(|_| accepted).map(|(set, _)| set.name.clone()),
        trust_revision: Some(policy.revision),
        time: Some(now.to_string()),
        refusal_id: (!accepted).then(|| evidence_digest.chars().take(12).collect()),
        evidence_digest: Some(evidence_digest),
        mismatches: wrong,
    }
}

/// Whether an appraisal was good.
pub fn accepted(result: &AttestationResult) -> bool {
    result.verdict == ACCEPTED
}

/// Whether writing `new` over `old` would tell anybody anything.
pub fn news(old: Option<&AttestationResult>, new: &AttestationResult) -> bool {
    old.is_none_or(|old| AttestationResult { time: new.time.clone(), ..old.clone() } != *new)
}

/// The status after an appraisal; an admission that is there stays as it is.
pub fn status(
    record: &Record,
    before: Option<&NodeAdmissionStatus>,
    result: AttestationResult,
    now: Timestamp,
) -> NodeAdmissionStatus {
    let there = before.and_then(|status| status.admission.clone());
    let fresh = || Admission {
        ak_name: format!("000b{}", digest(&format!("{NAME} attestation key of {}", record.node))),
        ek_certificate_digest: digest(&format!("{NAME} endorsement key of {}", record.node)),
        reset_count: 0,
        admitted_at: now.to_string(),
        wireguard_key: STANDARD.encode(Sha256::digest(format!("{NAME} mesh key of {}", record.node))),
        address: address(record.index).to_string(),
        kubelet_certificate: None,
    };
    let admission = there.or_else(|| accepted(&result).then(fresh));
    NodeAdmissionStatus {
        admission,
        last_appraisal: Some(result),
        refusals: before.and_then(|status| status.refusals.clone()),
    }
}

/// The Kubernetes node that an admitted machine becomes.
pub fn kube_node(record: &Record, admission: &NodeAdmission, now: Timestamp) -> Node {
    let spec = &admission.spec;
    let mut labels = spec.labels.clone();
    labels.insert("kubernetes.io/hostname".to_owned(), spec.node_name.clone());
    if spec.role == Role::ControlPlane {
        labels.insert("node-role.kubernetes.io/control-plane".to_owned(), String::new());
    }
    let node = json!({
        "metadata": {"name": spec.node_name, "labels": labels, "annotations": {"constellation.dev/simulated": "true"}},
        "spec": {"providerID": spec.provider_id, "podCIDR": spec.pod_cidr, "podCIDRs": [spec.pod_cidr], "taints": taints(admission)},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": address(record.index).to_string()},
                {"type": "Hostname", "address": spec.node_name}
            ],
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "simulated",
                "lastHeartbeatTime": rfc3339(now), "lastTransitionTime": rfc3339(now)
            }],
            "nodeInfo": {
                "architecture": "simulated", "bootID": record.node, "containerRuntimeVersion": "simulated://0",
                "kernelVersion": "simulated", "kubeProxyVersion": "", "kubeletVersion": "v1.36.3", "machineID": record.node,
                "operatingSystem": "linux", "osImage": format!("simulated {}", record.image), "systemUUID": record.node
            }
        }
    });
    serde_json::from_value(node).expect("the literal above has the shape of a Node")
}

/// Taints of the admission, `key=value:Effect` or `key:Effect`, as objects.
pub fn taints(admission: &NodeAdmission) -> Vec<serde_json::Value> {
    let parse = |text: &String| {
        let (head, effect) = text.rsplit_once(':')?;
        let (key, value) = head.split_once('=').unwrap_or((head, ""));
        Some(json!({"key": key, "value": value, "effect": effect}))
    };
    admission.spec.taints.iter().filter_map(parse).collect()
}

fn claims(record: &Record, evidence: Evidence) -> BTreeMap<u8, String> {
    let mut claims: BTreeMap<_, _> = REGISTERS.iter().map(|&n| (n, claim(&record.image, n))).collect();
    if evidence == Evidence::Broken {
        claims.insert(12, digest("simulated: a changed command line"));
    }
    claims
}

fn compare(set: &MeasurementSet, claims: &BTreeMap<u8, String>, image: &str) -> Vec<Mismatch> {
    set.pcrs
        .iter()
        .filter(|(register, values)| claims.get(register).is_none_or(|claim| !values.contains(claim)))
        .map(|(register, values)| Mismatch {
            clause: format!("tpm.pcr.{register}"),
            expected: Some(values.join(" or ")),
            actual: claims.get(register).cloned(),
            message: format!("PCR {register} (simulated): image {image:?} does not give what set {} wants", set.name),
        })
        .collect()
}

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

fn rfc3339(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests;
