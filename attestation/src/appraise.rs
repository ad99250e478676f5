//! Verifies a node's evidence and appraises it against the owner's policy. Lists every clause that doesn't hold.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    endorsement,
    platform::Platform,
    policy::{LAUNCH_PCR, MeasurementSet, TrustPolicy},
    protocol::{Evidence, Hello},
    result::Clause,
    tpm::{
        eventlog::EventLog,
        public::Public,
        quote::{self, Quote},
    },
    verified::Verified,
};

/// Stable names of the clauses; those about the TPM itself stand in [`crate::tpm::clause`].
pub mod clause {
    pub use crate::tpm::clause::*;
    /// The policy has a set for the platform.
    pub const POLICY_EMPTY: &str = "policy.empty";
    /// The verifier's platform is one whose evidence a join carries whole.
    pub const POLICY_PLATFORM: &str = "policy.platform";
    /// What speaks for the TPM has the form of the verifier's platform: nothing but the endorsement on `qemu-vtpm`.
    pub const MACHINE: &str = "evidence.machine";
    /// The policy is of the node's cluster.
    pub const POLICY_CLUSTER: &str = "policy.cluster";
}

/// Registers our protocol quotes: all that can't be reset without a reset of the TPM.
pub const QUOTED: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// A node's evidence and what it must be about.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// What the node said about itself.
    pub hello: &'a Hello,
    /// Its evidence.
    pub evidence: &'a Evidence,
    /// Digest of the conversation, see [`crate::binding`].
    pub binding: &'a [u8; 32],
    /// The secret in the challenge's credential.
    pub credential_secret: &'a [u8],
    /// Platform; chosen by the verifier, never by the evidence.
    pub platform: Platform,
    /// Value that PCR 15 must have.
    pub expected_pcr15: &'a [u8; 32],
}

/// A clause that doesn't hold.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mismatch {
    /// Stable name, see [`clause`].
    pub clause: String,
    /// What was expected.
    pub expected: Option<String>,
    /// What the evidence says.
    pub actual: Option<String>,
    /// In words.
    pub message: String,
}

impl From<&Clause> for Mismatch {
    fn from(clause: &Clause) -> Self {
        Self {
            clause: clause.name.clone(),
            expected: clause.expected.clone(),
            actual: clause.actual.clone(),
            message: format!("this doesn't hold: {}", clause.message),
        }
    }
}

impl Mismatch {
    pub(crate) fn plain(clause: &str, message: &str) -> Self {
        Self { clause: clause.into(), expected: None, actual: None, message: message.into() }
    }

    pub(crate) fn new(clause: &str, message: &str, error: &dyn std::error::Error) -> Self {
        Self::plain(clause, &format!("{message}: {error}"))
    }
}

/// Result of an appraisal.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Appraisal {
    /// Whether every clause holds.
    pub accepted: bool,
    /// The set that matched.
    pub set: Option<String>,
    /// Every clause that doesn't hold; empty exactly when accepted.
    pub mismatches: Vec<Mismatch>,
    /// Name of the attestation key, hex; empty when it can't be parsed.
    pub ak_name: String,
    /// SHA-256 of the endorsement key's certificate, hex.
    pub ek_certificate_digest: String,
    /// The TPM's reset counter; 0 when the quote can't be parsed.
    pub reset_count: u32,
    /// The TPM's restart counter; 0 when the quote can't be parsed.
    pub restart_count: u32,
    /// Milliseconds the TPM has been powered; 0 when the quote can't be parsed.
    pub clock: u64,
    /// SHA-256 of the evidence as JSON, hex.
    pub evidence_digest: String,
}

/// PCR 15 of a node that measured this launch configuration and nothing else.
#[must_use]
pub fn pcr15_before_join(launch_config: &[u8]) -> [u8; 32] {
    pcr15_from_digest(&Sha256::digest(launch_config).into())
}

/// As [`pcr15_before_join`], from the SHA-256 of the launch configuration.
#[must_use]
pub fn pcr15_from_digest(launch_config_sha256: &[u8; 32]) -> [u8; 32] {
    extend(&[0; 32], launch_config_sha256)
}

/// PCR 15 of a member: the cluster's identity (32 bytes) follows the launch configuration.
#[must_use]
pub fn pcr15_after_join(before: &[u8; 32], cluster_id: &[u8]) -> [u8; 32] {
    extend(before, cluster_id)
}

fn extend(value: &[u8; 32], digest: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(value).chain_update(digest).finalize().into()
}

/// Verifies and appraises. Total: anything that is missing, empty or unknown is a mismatch.
#[must_use]
pub fn appraise(presented: &Presented<'_>, policy: &TrustPolicy, now: Timestamp) -> Appraisal {
    let (verified, mut mismatches) = match verify(presented, policy, now) {
        Ok(verified) => (Some(verified), Vec::new()),
        Err(mismatches) => (None, mismatches),
    };
    mismatches.extend(unsupported(presented.platform));
    if policy.cluster_uid.is_empty() || policy.cluster_uid != presented.hello.cluster_uid {
        mismatches.push(Mismatch {
            clause: clause::POLICY_CLUSTER.into(),
            expected: Some(policy.cluster_uid.clone()),
            actual: Some(presented.hello.cluster_uid.clone()),
            message: "the node says that it belongs to another cluster".into(),
        });
    }
    // The values are compared even when the quote isn't believed: the owner is told everything at once.
    let set = match compare(presented, policy) {
        Ok(set) => Some(set),
        Err(more) => {
            mismatches.extend(more);
            None
        }
    };
    let quote = verified.as_ref().map(Verified::get);
    let accepted = mismatches.is_empty() && quote.is_some() && set.is_some();
    let ak = Public::parse(&presented.hello.ak_public);
    Appraisal {
        accepted,
        set: set.filter(|_| accepted),
        mismatches,
        ak_name: ak.map(|ak| hex::encode(ak.name)).unwrap_or_default(),
        ek_certificate_digest: hex::encode(Sha256::digest(&presented.hello.ek_certificate)),
        reset_count: quote.map_or(0, |q| q.attest.reset_count),
        restart_count: quote.map_or(0, |q| q.attest.restart_count),
        clock: quote.map_or(0, |q| q.attest.clock),
        evidence_digest: serde_json::to_vec(presented.evidence)
            .map(|b| hex::encode(Sha256::digest(b)))
            .unwrap_or_default(),
    }
}

/// A TPM alone proves a machine of QEMU and nothing more: where a report of the hardware or a cloud's word about the TPM
/// has to be there as well, a join has no place for it yet.
fn unsupported(platform: Platform) -> Option<Mismatch> {
    (platform != Platform::QemuVtpm).then(|| Mismatch {
        clause: clause::POLICY_PLATFORM.into(),
        expected: Some(Platform::QemuVtpm.to_string()),
        actual: Some(platform.to_string()),
        message: "a quote of a TPM is all that a join shows, which isn't enough for this platform".into(),
    })
}

/// Is it genuine? Quote, attestation key, and the endorsement of the TPM that holds it.
fn verify(presented: &Presented<'_>, policy: &TrustPolicy, now: Timestamp) -> Result<Verified<Quote>, Vec<Mismatch>> {
    let mut wrong = Vec::new();
    let quote = quote::verify(&quote::Presented {
        attest: &presented.evidence.quote,
        signature: &presented.evidence.signature,
        ak_public: &presented.hello.ak_public,
        values: &presented.evidence.pcrs,
        nonce: presented.binding,
        pcrs: &QUOTED,
    })
    .map_err(|more| wrong.extend(more))
    .ok();
    match Public::parse(&presented.hello.ek_public) {
        Err(e) => wrong.push(Mismatch::new(clause::EK_CERTIFICATE, "the endorsement key can't be parsed", &e)),
        Ok(ek) => {
            if let Err(e) = endorsement::verify(&presented.hello.ek_certificate, &ek, &policy.endorsement_roots, now) {
                wrong.push(Mismatch::plain(clause::EK_CERTIFICATE, &e.to_string()));
            }
        }
    }
    let secret = presented.credential_secret;
    if secret.is_empty() || !bool::from(presented.evidence.activated.ct_eq(secret)) {
        wrong.push(Mismatch::plain(
            clause::AK_CREDENTIAL,
            "the TPM of the endorsement key didn't vouch for the attestation key",
        ));
    }
    if presented.evidence.machine.is_some() {
        wrong.push(Mismatch::plain(clause::MACHINE, "the node says that it is a machine of a cloud"));
    }
    match quote {
        Some(quote) if wrong.is_empty() => Ok(Verified::new(quote)),
        _ => Err(wrong),
    }
}

/// Is it wanted? All of one set, and the node's own PCR 15. Gives the set, or the differences to the nearest one.
fn compare(presented: &Presented<'_>, policy: &TrustPolicy) -> Result<String, Vec<Mismatch>> {
    let values: BTreeMap<u8, &[u8]> = QUOTED.into_iter().zip(presented.evidence.pcrs.chunks_exact(32)).collect();
    let log = EventLog::parse(&presented.evidence.event_log);
    let explain = |set: &MeasurementSet, pcr: u8, actual: &[u8]| match &log {
        Ok(log) => log.explain(pcr, actual, set.events_of(pcr).as_deref()),
        Err(e) => format!("the event log can't be read: {e}"),
    };
    let mut own = Vec::new();
    let actual = values.get(&LAUNCH_PCR).copied().unwrap_or_default();
    if !bool::from(actual.ct_eq(presented.expected_pcr15)) {
        own.push(Mismatch {
            clause: format!("{}{LAUNCH_PCR}", clause::PCR),
            expected: Some(hex::encode(presented.expected_pcr15)),
            actual: Some(hex::encode(actual)),
            message:
                "the node measured another launch configuration, or isn't in the state that this conversation is for"
                    .into(),
        });
    }
    let nearest = policy
        .sets
        .iter()
        .filter(|set| set.platform == presented.platform)
        .map(|set| (set, differences(set, &values, &explain)))
        .min_by_key(|(_, differences)| differences.len());
    match nearest {
        None => own.push(Mismatch {
            clause: clause::POLICY_EMPTY.into(),
            expected: Some(presented.platform.to_string()),
            actual: None,
            message: "the trust policy has no reference values for this platform".into(),
        }),
        Some((set, differences)) if differences.is_empty() && own.is_empty() => return Ok(set.name.clone()),
        Some((_, differences)) => own.extend(differences),
    }
    Err(own)
}

fn differences(
    set: &MeasurementSet,
    values: &BTreeMap<u8, &[u8]>,
    explain: &dyn Fn(&MeasurementSet, u8, &[u8]) -> String,
) -> Vec<Mismatch> {
    if let Err(e) = set.validate() {
        return vec![Mismatch::new(clause::POLICY_EMPTY, "a set of the trust policy can't be used", &e)];
    }
    let wrong = |(&pcr, wanted): (&u8, &Vec<String>)| {
        let actual = values.get(&pcr).copied().unwrap_or_default();
        let text = hex::encode(actual);
        (!wanted.contains(&text)).then(|| Mismatch {
            clause: format!("{}{pcr}", clause::PCR),
            expected: Some(wanted.join(" or ")),
            message: format!("set {}: {}", set.name, explain(set, pcr, actual)),
            actual: Some(text),
        })
    };
    set.pcrs.iter().filter_map(wrong).collect()
}
