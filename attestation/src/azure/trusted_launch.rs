//! Azure Trusted Launch: a TPM of the host whose attestation key Microsoft certifies. No processor reports: nothing but
//! Microsoft's word stands behind its registers, so it is none of a confidential pool's platforms.
//!
//! No root is part of this library: the one that such machines were given first ended in 2026, and others follow it. They
//! are the owner's argument, and so are lists of what was revoked.
//!
//! Sources: Microsoft, "Trusted Launch for Azure virtual machines", "vTPM"; TCG EK Credential Profile 2.5, 3.2.16.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use x509_parser::certificate::X509Certificate;

use super::clause;
use crate::{
    bytes::Bytes,
    reference::Requirement,
    result::Checks,
    tpm::{
        attest::Attest,
        public::Key,
        quote::{self, Claim},
        registers::Registers,
        replay,
    },
    verified::Verified,
    x509::{
        self, Algorithm, Revocation,
        chain::{Anchors, Chain},
    },
};

/// `tcg-kp-AIKCertificate`: the certificate is one of an attestation key.
const AIK: &str = "2.23.133.8.3";

pub use crate::tpm::quote::Certified as Evidence;

/// Whom the owner believes.
#[derive(Clone, Copy, Debug)]
pub struct Issuers<'a> {
    /// Microsoft's CAs for keys of TPMs.
    pub anchors: &'a Anchors,
    /// What they revoked: lists, DER.
    pub lists: &'a [Vec<u8>],
}

/// The key of a TPM that Microsoft certified.
#[derive(Clone, Debug)]
pub struct Tpm {
    /// The attestation key.
    pub key: Key,
    /// Common name of its certificate's subject; none where it has not exactly one.
    pub subject: Option<String>,
    /// Whether the certificate says to be one of an attestation key.
    pub attests: bool,
    /// What is known about revocation in the chain, at the worst.
    pub revocation: Revocation,
}

/// What a machine must be.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// Common name of the key's certificate, as in the inventory.
    pub subject: Requirement<String>,
    /// Whether the certificate says to be one of an attestation key.
    pub attests: Requirement<bool>,
    /// Lists of all issuers in the chain whose certificates say where one is. A certificate that a list revokes isn't
    /// accepted whatever stands here.
    pub revocation: Requirement<Revocation>,
    /// What the conversation wants attested by the TPM.
    pub nonce: Requirement<Bytes>,
    /// Registers of the quoted bank.
    pub registers: Registers,
}

impl Policy {
    /// The default; what only the owner or the conversation can know is refused until it is named.
    #[must_use]
    pub fn strict() -> Self {
        Self {
            subject: Requirement::AnyOf(Vec::new()),
            attests: Requirement::Exact(true),
            revocation: Requirement::Exact(Revocation::Current),
            nonce: Requirement::AnyOf(Vec::new()),
            registers: Registers(BTreeMap::new()),
        }
    }

    /// Waives a clause by its name; `false` when the policy has no requirement for it.
    pub fn waive(&mut self, name: &str, reason: &str) -> bool {
        let reason = reason.to_owned();
        match name {
            clause::AK_SUBJECT => self.subject = Requirement::Waived { reason },
            clause::AK_PURPOSE => self.attests = Requirement::Waived { reason },
            clause::AK_REVOCATION => self.revocation = Requirement::Waived { reason },
            _ => return false,
        }
        true
    }
}

/// Verifies the certificate of an attestation key at a time. Looks at every clause it can get to, whatever the ones
/// before said; the TPM comes out only if all of them hold.
pub fn verify(chain: &[Vec<u8>], issuers: Issuers<'_>, now: Timestamp, checks: &mut Checks) -> Option<Verified<Tpm>> {
    let mut own = Checks::default();
    let Some((leaf, intermediates)) = chain.split_first() else {
        checks.fails(clause::AK_STRUCTURE, "there is no certificate of the attestation key");
        return None;
    };
    let leaf = x509::unpadded(leaf);
    let tpm = certificate(leaf, &mut own);
    let names = [clause::AK_CHAIN, clause::AK_VALIDITY];
    let intermediates = intermediates.iter().map(Vec::as_slice);
    let chain = Chain::check(leaf, intermediates, issuers.anchors, &Algorithm::COMMON, now, names, &mut own);
    let revocation = chain.as_ref().map(|chain| chain.revocation(issuers.lists, &Algorithm::COMMON, now));
    if let Some((_, revoked)) = &revocation {
        own.check(
            clause::AK_REVOKED,
            revoked.is_none(),
            None,
            revoked.clone(),
            "no list names one of the certificates",
        );
    }
    let found = tpm.zip(revocation).map(|(tpm, (revocation, _))| Tpm { revocation, ..tpm });
    checks.prove(own, found, clause::AK_STRUCTURE).map(Verified::new)
}

fn certificate(der: &[u8], checks: &mut Checks) -> Option<Tpm> {
    let leaf = x509::certificate(der).map_err(|error| checks.fails(clause::AK_STRUCTURE, &error.to_string())).ok()?;
    let key = Key::from_spki(leaf.public_key()).map_err(|error| error.to_string());
    let message = key.as_ref().err().map_or("a key that a TPM can have", String::as_str);
    checks.check(clause::AK_STRUCTURE, key.is_ok(), None, None, message);
    let (usage, signs) = (leaf.subject().to_string(), x509::signs_only(&leaf));
    checks.check(clause::AK_USAGE, signs, None, usage, "the key signs and does nothing else");
    let subject = x509::common_name(leaf.subject()).map(str::to_owned);
    Some(Tpm { key: key.ok()?, subject, attests: attests(&leaf), revocation: Revocation::Unknown })
}

fn attests(leaf: &X509Certificate<'_>) -> bool {
    let purposes = leaf.extended_key_usage().ok().flatten();
    purposes.is_some_and(|purposes| purposes.value.other.iter().any(|purpose| purpose.to_id_string() == AIK))
}

/// Verifies the quote of a machine, and appraises machine and registers.
///
/// Never fails: what can't be parsed is a clause that doesn't hold. Registers that no quote proves aren't appraised.
#[must_use]
pub fn verify_and_appraise(evidence: &Evidence<'_>, issuers: Issuers<'_>, policy: &Policy, now: Timestamp) -> Checks {
    let mut checks = Checks::default();
    examine(evidence, issuers, policy, now, &mut checks);
    checks
}

/// As [`verify_and_appraise`]; also gives the genuine key and its quote, wanted or not.
pub fn examine(
    evidence: &Evidence<'_>,
    issuers: Issuers<'_>,
    policy: &Policy,
    now: Timestamp,
    checks: &mut Checks,
) -> Option<(Verified<Tpm>, Attest)> {
    let Evidence { chain, attest, signature, values, log } = *evidence;
    let tpm = verify(chain, issuers, now, checks)?;
    appraise(&tpm, policy, checks);
    let quote = quote::check(&Claim { attest, signature, key: &tpm.get().key, values, nonce: &policy.nonce }, checks)?;
    let log = log.and_then(|log| replay::check(log, &values.of_firmware(), checks));
    policy.registers.appraise(values, log.as_ref(), checks);
    Some((tpm, quote))
}

/// Appraises a genuine key against a policy.
pub fn appraise(tpm: &Verified<Tpm>, policy: &Policy, checks: &mut Checks) {
    let Tpm { subject, attests, revocation, .. } = tpm.get();
    policy.subject.apply(checks, clause::AK_SUBJECT, subject.as_ref(), String::clone, "whose key it is");
    let message = "the certificate is one of an attestation key";
    policy.attests.apply(checks, clause::AK_PURPOSE, Some(attests), bool::to_string, message);
    let show = |known: &Revocation| format!("{known:?}");
    let message = "a list in date for each certificate that says where one is";
    policy.revocation.apply(checks, clause::AK_REVOCATION, Some(revocation), show, message);
}
