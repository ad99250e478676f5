//! Verifies a node's evidence and appraises it against the owner's policy. Lists every clause that doesn't hold.

mod cloud;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256, Sha384};
use subtle::ConstantTimeEq;

use crate::{
    endorsement,
    endorsers::{Endorsers, Need, needs},
    machine::quote_nonce,
    platform::Platform,
    policy::{LAUNCH_PCR, MeasurementSet, TrustPolicy},
    protocol::{
        Evidence, Hello,
        machine::{Machine, Report},
    },
    result::{Checks, Clause},
    tpm::{
        Hash,
        attest::Attest,
        eventlog::EventLog,
        public::Public,
        quote::{self, Quote},
        signature::Signature,
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
    /// The policy says where machines of the verifier's cloud may be.
    pub const POLICY_PLACE: &str = "policy.place";
    /// What speaks for the TPM has the form of the verifier's platform: nothing but the endorsement on `qemu-vtpm`, a
    /// report of the hardware where the platform has one and nowhere else.
    pub const MACHINE: &str = "evidence.machine";
    /// The key that the cloud speaks for is the one that the node names.
    pub const MACHINE_KEY: &str = "evidence.machine.key";
    /// What makers and clouds have to have said about the machine is there. Only said of a machine that nothing else
    /// stands against: it isn't refused for good, but until somebody fetched it.
    pub const COLLATERAL: &str = "evidence.collateral";
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
    pub expected_pcr15: &'a LaunchRegister,
}

/// PCR 15 in both banks: which node a machine is, and whether it is a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchRegister {
    /// In the SHA-256 bank.
    pub sha256: [u8; 32],
    /// In the SHA-384 bank, which is extended by the SHA-384 of what the other one is extended by.
    pub sha384: [u8; 48],
}

impl LaunchRegister {
    /// Of a machine that was just switched on.
    pub const ZERO: Self = Self { sha256: [0; 32], sha384: [0; 48] };

    /// After one more event, 32 bytes.
    #[must_use]
    pub fn extended(&self, event: &[u8]) -> Self {
        let sha384 = Sha384::new().chain_update(self.sha384).chain_update(Sha384::digest(event));
        Self {
            sha256: Sha256::new().chain_update(self.sha256).chain_update(event).finalize().into(),
            sha384: sha384.finalize().into(),
        }
    }

    /// In one bank.
    #[must_use]
    pub fn of(&self, bank: Hash) -> &[u8] {
        match bank {
            Hash::Sha256 => &self.sha256,
            Hash::Sha384 => &self.sha384,
        }
    }
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

impl From<&Need> for Mismatch {
    fn from(need: &Need) -> Self {
        Self {
            clause: clause::COLLATERAL.into(),
            expected: Some(need.key.to_string()),
            actual: need.place.clone(),
            message: "it isn't there, or too old, and was asked for".into(),
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

/// Whose word the evidence is, whether it is good or not.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Anybody's.
    Unknown,
    /// The attestation key's that the node names: it signed in this conversation. Whose key that is isn't known.
    Key,
    /// A machine's of the verifier's platform: its maker or its cloud speaks for the key as well.
    Machine,
}

/// Result of an appraisal.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Appraisal {
    /// Whether every clause holds.
    pub accepted: bool,
    /// Whose word it is.
    pub origin: Origin,
    /// The set that matched.
    pub set: Option<String>,
    /// Every clause that doesn't hold; empty exactly when accepted.
    pub mismatches: Vec<Mismatch>,
    /// What is missing, if nothing but that stands against the machine: with it the verdict may be another one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacking: Vec<Need>,
    /// Name of the attestation key, hex; empty when it can't be parsed.
    pub ak_name: String,
    /// SHA-256 of what endorses the attestation key, hex: the endorsement key's certificate, or the cloud's name for the
    /// machine; empty when that isn't genuine.
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

impl Appraisal {
    /// Why it isn't accepted, for the owner. What is missing comes first: whoever fetches must not lose it to a limit.
    pub fn reasons(&self) -> impl Iterator<Item = Mismatch> {
        self.lacking.iter().map(Mismatch::from).chain(self.mismatches.iter().cloned())
    }
}

/// PCR 15 of a node that measured this launch configuration and nothing else.
#[must_use]
pub fn pcr15_before_join(launch_config: &[u8]) -> LaunchRegister {
    pcr15_from_digest(&Sha256::digest(launch_config).into())
}

/// As [`pcr15_before_join`], from the SHA-256 of the launch configuration.
#[must_use]
pub fn pcr15_from_digest(launch_config_sha256: &[u8; 32]) -> LaunchRegister {
    LaunchRegister::ZERO.extended(launch_config_sha256)
}

/// PCR 15 of a member: the cluster's identity (32 bytes) follows the launch configuration.
#[must_use]
pub fn pcr15_after_join(before: &LaunchRegister, cluster_id: &[u8]) -> LaunchRegister {
    before.extended(cluster_id)
}

/// What an examination found, whatever the platform.
struct Found {
    /// What the TPM said; there exactly when it is genuine.
    attest: Option<Attest>,
    /// SHA-256 of what endorses the attestation key, hex.
    endorsed: String,
    /// The set that is matched.
    set: Option<String>,
    /// Every clause that doesn't hold.
    mismatches: Vec<Mismatch>,
}

/// Verifies and appraises. Total: anything that is missing, empty or unknown is a mismatch.
#[must_use]
pub fn appraise(presented: &Presented<'_>, policy: &TrustPolicy, endorsers: &Endorsers, now: Timestamp) -> Appraisal {
    let Found { attest, endorsed, set, mut mismatches } = match presented.platform {
        Platform::AwsNitroTpm
        | Platform::AwsSnp
        | Platform::AzureSnp
        | Platform::AzureTdx
        | Platform::GcpSevEs
        | Platform::GcpSnp
        | Platform::GcpTdx => in_cloud(presented, policy, endorsers, now),
        Platform::QemuVtpm => of_endorsed_tpm(presented, policy, now),
        Platform::AzureTrustedLaunch | Platform::QemuTdx | Platform::Simulated | Platform::Snp => {
            let mut found = of_endorsed_tpm(presented, policy, now);
            found.mismatches.push(unsupported(presented.platform));
            found
        }
    };
    if policy.cluster_uid.is_empty() || policy.cluster_uid != presented.hello.cluster_uid {
        mismatches.push(Mismatch {
            clause: clause::POLICY_CLUSTER.into(),
            expected: Some(policy.cluster_uid.clone()),
            actual: Some(presented.hello.cluster_uid.clone()),
            message: "the node says that it belongs to another cluster".into(),
        });
    }
    let accepted = mismatches.is_empty() && attest.is_some() && set.is_some();
    let ak = Public::parse(&presented.hello.ak_public);
    let clauses = mismatches.iter().map(|mismatch| mismatch.clause.as_str());
    let wanting = !mismatches.is_empty() && needs::only_wanting(clauses);
    let machine = presented.evidence.machine.as_ref().filter(|_| wanting);
    let lacking = machine.map(|machine| endorsers.lacking(machine, now)).unwrap_or_default();
    let origin = match &attest {
        // A genuine machine may name any key; what it says is the key's only where that key signed.
        Some(_) if is_signed(presented) => Origin::Machine,
        None if is_signed(presented) => Origin::Key,
        _ => Origin::Unknown,
    };
    Appraisal {
        accepted,
        origin,
        set: set.filter(|_| accepted),
        mismatches,
        lacking,
        ak_name: ak.map(|ak| hex::encode(ak.name)).unwrap_or_default(),
        ek_certificate_digest: endorsed,
        reset_count: attest.as_ref().map_or(0, |attest| attest.reset_count),
        restart_count: attest.as_ref().map_or(0, |attest| attest.restart_count),
        clock: attest.as_ref().map_or(0, |attest| attest.clock),
        evidence_digest: serde_json::to_vec(presented.evidence)
            .map(|b| hex::encode(Sha256::digest(b)))
            .unwrap_or_default(),
    }
}

/// Whether the attestation key that the node names signed for this conversation.
fn is_signed(presented: &Presented<'_>) -> bool {
    let evidence = presented.evidence;
    let report = match &evidence.machine {
        None => None,
        Some(Machine::Azure { report, .. }) => Some(report.as_slice()),
        Some(Machine::Aws { report, .. } | Machine::Google { report, .. }) => report.as_ref().map(Report::signed),
    };
    let nonce = quote_nonce(presented.binding, report);
    let ak = Public::parse(&presented.hello.ak_public).ok().filter(Public::is_attestation_key);
    let signature = Signature::parse(&evidence.signature).ok();
    let attest = Attest::parse(&evidence.quote).ok();
    ak.zip(signature).zip(attest).is_some_and(|((ak, signature), attest)| {
        signature.is_valid(&ak.key, &evidence.quote) && bool::from(attest.extra_data.ct_eq(&nonce))
    })
}

/// A TPM that its maker endorses, and nothing beside it.
fn of_endorsed_tpm(presented: &Presented<'_>, policy: &TrustPolicy, now: Timestamp) -> Found {
    let (attest, mut mismatches) = match verify(presented, policy, now) {
        Ok(verified) => (Some(verified.get().attest.clone()), Vec::new()),
        Err(mismatches) => (None, mismatches),
    };
    // The values are compared even when the quote isn't believed: the owner is told everything at once.
    let set = compare(presented, policy).map_err(|more| mismatches.extend(more)).ok();
    let endorsed = hex::encode(Sha256::digest(&presented.hello.ek_certificate));
    Found { attest, endorsed, set, mismatches }
}

/// A machine of a cloud: all of one set, or the differences to the nearest one.
fn in_cloud(presented: &Presented<'_>, policy: &TrustPolicy, endorsers: &Endorsers, now: Timestamp) -> Found {
    let examined = policy.sets.iter().filter(|set| set.platform == presented.platform).map(|set| {
        let mut checks = Checks::default();
        let genuine = match set.validate() {
            Ok(()) => cloud::examine(presented, set, policy.place.as_ref(), endorsers, now, &mut checks),
            Err(error) => {
                checks.fails(clause::POLICY_EMPTY, &format!("a set of the trust policy can't be used: {error}"));
                None
            }
        };
        (set, checks, genuine)
    });
    let Some((set, checks, genuine)) = examined.min_by_key(|(_, checks, _)| checks.failures().count()) else {
        return Found {
            attest: None,
            endorsed: String::new(),
            set: None,
            mismatches: vec![no_set(presented.platform)],
        };
    };
    let mismatches: Vec<_> = checks.failures().map(Mismatch::from).collect();
    let set = checks.accepted().then(|| set.name.clone());
    let (attest, endorsed) = genuine.map(|it| (it.attest, hex::encode(Sha256::digest(it.name)))).unzip();
    Found { attest, endorsed: endorsed.unwrap_or_default(), set, mismatches }
}

/// A TPM alone proves a machine of QEMU and nothing more: where a report of the hardware has to be there as well, or
/// nobody but the cloud speaks for the TPM, a join has no place for it.
fn unsupported(platform: Platform) -> Mismatch {
    Mismatch {
        clause: clause::POLICY_PLATFORM.into(),
        expected: None,
        actual: Some(platform.to_string()),
        message: "a quote of a TPM is all that a join shows, which isn't enough for this platform".into(),
    }
}

fn no_set(platform: Platform) -> Mismatch {
    Mismatch {
        clause: clause::POLICY_EMPTY.into(),
        expected: Some(platform.to_string()),
        actual: None,
        message: "the trust policy has no reference values for this platform".into(),
    }
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
    if !bool::from(actual.ct_eq(&presented.expected_pcr15.sha256)) {
        own.push(Mismatch {
            clause: format!("{}{LAUNCH_PCR}", clause::PCR),
            expected: Some(hex::encode(presented.expected_pcr15.sha256)),
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
        None => own.push(no_set(presented.platform)),
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
