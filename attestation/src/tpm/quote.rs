//! Verifies a quote: magic, type, signer, nonce, selection, digest. Lists every check.

use std::collections::BTreeMap;

use subtle::ConstantTimeEq;

use super::{
    Error, Hash,
    attest::{Attest, Selection},
    clause,
    public::{Key, Public},
    signature::Signature,
};
use crate::{appraise::Mismatch, bytes::Bytes, reference::Requirement, result::Checks};

/// Registers of a TPM (TCG PC Client Platform TPM Profile 1.06, 4.6.2).
pub const REGISTERS: u8 = 24;

/// Values of registers of one bank, as the attester shows them; proven by a quote and by nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values {
    /// Hash of the bank.
    pub bank: Hash,
    /// Register to value.
    pub pcrs: BTreeMap<u8, Vec<u8>>,
}

impl Values {
    /// Cuts the concatenated values of `pcrs` (ascending) apart; `None` when the length isn't theirs.
    #[must_use]
    pub fn cut(bank: Hash, pcrs: &[u8], values: &[u8]) -> Option<Self> {
        let whole = values.len() == pcrs.len() * bank.size() && pcrs.is_sorted_by(|a, b| a < b);
        let chunks = values.chunks_exact(bank.size()).map(<[u8]>::to_vec);
        whole.then(|| Self { bank, pcrs: pcrs.iter().copied().zip(chunks).collect() })
    }

    /// The registers of the firmware alone: what comes after it measures on when the firmware's log has ended.
    #[must_use]
    pub fn of_firmware(&self) -> Self {
        let of = self.pcrs.range(0..=7).map(|(pcr, value)| (*pcr, value.clone()));
        Self { bank: self.bank, pcrs: of.collect() }
    }
}

/// What an attester sent whose key a cloud certified. None of it is trusted.
#[derive(Clone, Copy, Debug)]
pub struct Certified<'a> {
    /// Certificate of the attestation key, then its issuers, DER.
    pub chain: &'a [Vec<u8>],
    /// `TPMS_ATTEST`.
    pub attest: &'a [u8],
    /// Signature over it.
    pub signature: &'a Signature,
    /// Register values.
    pub values: &'a Values,
    /// The firmware's event log.
    pub log: Option<&'a [u8]>,
}

/// A quote, and what it must be about.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// `TPMS_ATTEST`.
    pub attest: &'a [u8],
    /// Signature over it.
    pub signature: &'a Signature,
    /// The attestation key, believed for a reason of its own.
    pub key: &'a Key,
    /// The shown values: the quote must cover exactly these registers of this bank.
    pub values: &'a Values,
    /// The qualifying data that was asked for; compared in full, and an empty one is none.
    pub nonce: &'a Requirement<Bytes>,
}

/// Checks a quote clause by clause. `Some` exactly when every check holds.
pub fn check(claim: &Claim<'_>, checks: &mut Checks) -> Option<Attest> {
    let signed = check_signer(claim.signature, claim.key, claim.attest, checks);
    check_statement(claim.attest, claim.signature.hash(), claim.values, claim.nonce, checks).filter(|_| signed)
}

fn check_signer(signature: &Signature, key: &Key, attest: &[u8], checks: &mut Checks) -> bool {
    let valid = signature.is_valid(key, attest);
    checks.check(clause::SIGNATURE, valid, None, None, "the quote is signed by the attestation key")
}

fn check_statement(
    bytes: &[u8],
    hash: Hash,
    values: &Values,
    nonce: &Requirement<Bytes>,
    checks: &mut Checks,
) -> Option<Attest> {
    let attest = match Attest::parse(bytes) {
        Ok(attest) => attest,
        Err(e) => {
            let name = match e {
                Error::Value { what: "magic", .. } => clause::MAGIC,
                Error::Value { what: "type", .. } => clause::TYPE,
                _ => clause::STRUCTURE,
            };
            checks.fails(name, &format!("the quote can't be accepted: {e}"));
            return None;
        }
    };
    checks.holds(clause::MAGIC, "the TPM made what it signed");
    checks.holds(clause::TYPE, "it is a quote");
    checks.holds(clause::STRUCTURE, "it is one whole structure");
    check_contents(&attest, hash, values, nonce, checks).then_some(attest)
}

fn check_contents(
    attest: &Attest,
    hash: Hash,
    values: &Values,
    nonce: &Requirement<Bytes>,
    checks: &mut Checks,
) -> bool {
    let said = Some(Bytes(attest.extra_data.clone())).filter(|data| !data.0.is_empty());
    let fresh =
        nonce.apply(checks, clause::NONCE, said.as_ref(), Bytes::to_string, "the quote is about this conversation");
    let wanted = Selection { bank: values.bank.id(), pcrs: values.pcrs.keys().copied().collect() };
    let selected = checks.check(
        clause::SELECTION,
        attest.selections.as_slice() == std::slice::from_ref(&wanted)
            && wanted.pcrs.last().is_some_and(|last| *last < REGISTERS),
        show(std::slice::from_ref(&wanted)),
        show(&attest.selections),
        "the quote covers exactly the registers whose values are shown",
    );
    let parts: Vec<_> = values.pcrs.values().map(Vec::as_slice).collect();
    let digest = hash.digest(&parts);
    let whole = parts.iter().all(|value| value.len() == values.bank.size());
    let quoted = checks.check(
        clause::DIGEST,
        whole && bool::from(attest.pcr_digest.ct_eq(&digest)),
        hex::encode(&attest.pcr_digest),
        hex::encode(digest),
        "the register values are the ones that the TPM quoted",
    );
    fresh && selected && quoted
}

fn show(selections: &[Selection]) -> String {
    let one = |s: &Selection| match Hash::from_id(s.bank) {
        Ok(Hash::Sha256) => format!("sha256 {:?}", s.pcrs),
        Ok(Hash::Sha384) => format!("sha384 {:?}", s.pcrs),
        Err(_) => format!("{:#06x} {:?}", s.bank, s.pcrs),
    };
    selections.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Records whether the area is of a key that signs only what the TPM made.
pub fn check_attributes(ak: &Public, checks: &mut Checks) -> bool {
    checks.check(
        clause::AK_ATTRIBUTES,
        ak.is_attestation_key(),
        "fixedTPM fixedParent sensitiveDataOrigin restricted sign, not decrypt".to_owned(),
        format!("{:#010x}", ak.attributes),
        "the key is a restricted signing key of the TPM; another would sign anything",
    )
}

/// A quote and what it must be about, as our own protocol carries it.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// `TPMS_ATTEST`.
    pub attest: &'a [u8],
    /// `TPMT_SIGNATURE`.
    pub signature: &'a [u8],
    /// `TPM2B_PUBLIC` of the attestation key.
    pub ak_public: &'a [u8],
    /// Values of the selected registers of the SHA-256 bank, ascending, 32 bytes each.
    pub values: &'a [u8],
    /// The qualifying data that was asked for; compared in full.
    pub nonce: &'a [u8],
    /// The selection that was asked for, ascending: exactly these registers of the SHA-256 bank.
    pub pcrs: &'a [u8],
}

/// A quote that passed every check.
#[derive(Clone, Debug)]
pub struct Quote {
    /// What the TPM said.
    pub attest: Attest,
    /// The attestation key.
    pub ak: Public,
}

/// Verifies a quote. That the key is a genuine TPM's is not known after this; see [`crate::endorsement`].
///
/// # Errors
/// Every check that fails.
pub fn verify(presented: &Presented<'_>) -> Result<Quote, Vec<Mismatch>> {
    let mut checks = Checks::default();
    let ak = Public::parse(presented.ak_public)
        .map_err(|e| checks.fails(clause::AK_ATTRIBUTES, &format!("the attestation key can't be parsed: {e}")))
        .ok();
    let signature = Signature::parse(presented.signature)
        .map_err(|e| checks.fails(clause::SIGNATURE, &format!("the signature can't be accepted: {e}")))
        .ok();
    if let Some(ak) = &ak {
        check_attributes(ak, &mut checks);
    }
    // Values of the wrong length can't be the quoted ones, whatever was selected.
    let values = Values::cut(Hash::Sha256, presented.pcrs, presented.values).unwrap_or_else(|| Values {
        bank: Hash::Sha256,
        pcrs: presented.pcrs.iter().map(|pcr| (*pcr, Vec::new())).collect(),
    });
    if let (Some(ak), Some(signature)) = (&ak, &signature) {
        check_signer(signature, &ak.key, presented.attest, &mut checks);
    }
    // Also without key or signature: the owner is told everything at once.
    let hash = signature.as_ref().map_or(Hash::Sha256, Signature::hash);
    let nonce = Requirement::Exact(Bytes::from(presented.nonce));
    let attest = check_statement(presented.attest, hash, &values, &nonce, &mut checks);
    match (ak, attest) {
        (Some(ak), Some(attest)) if checks.accepted() => Ok(Quote { attest, ak }),
        _ => Err(checks.failures().map(Mismatch::from).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attest(bank: u16, pcrs: &[u8], values: &Values) -> Attest {
        let parts: Vec<_> = values.pcrs.values().map(Vec::as_slice).collect();
        Attest {
            extra_data: vec![1],
            clock: 0,
            reset_count: 0,
            restart_count: 0,
            safe: true,
            firmware_version: 0,
            selections: vec![Selection { bank, pcrs: pcrs.to_vec() }],
            pcr_digest: Hash::Sha256.digest(&parts),
        }
    }

    fn values(bank: Hash, pcrs: &[u8]) -> Values {
        Values { bank, pcrs: pcrs.iter().map(|pcr| (*pcr, vec![*pcr; bank.size()])).collect() }
    }

    #[test]
    fn a_quote_covers_exactly_the_shown_registers_and_none_that_a_tpm_has_not() {
        let nonce = Requirement::Exact(Bytes(vec![1]));
        for (bank, quoted, shown, selected) in [
            (0x0b, &[0, 23][..], values(Hash::Sha256, &[0, 23]), true),
            (0x0c, &[0, 23], values(Hash::Sha384, &[0, 23]), true),
            (0x0b, &[0, 24], values(Hash::Sha256, &[0, 24]), false),
            (0x0b, &[0], values(Hash::Sha256, &[0, 23]), false),
            (0x0c, &[0, 23], values(Hash::Sha256, &[0, 23]), false),
            (0x0b, &[], values(Hash::Sha256, &[]), false),
        ] {
            let mut checks = Checks::default();
            let attest = attest(bank, quoted, &shown);
            assert_eq!(check_contents(&attest, Hash::Sha256, &shown, &nonce, &mut checks), selected, "{quoted:?}");
            let failed: Vec<_> = checks.failures().map(|clause| clause.name.as_str()).collect();
            assert_eq!(failed, if selected { vec![] } else { vec![clause::SELECTION] }, "{quoted:?}");
        }
    }

    #[test]
    fn a_selection_is_told_by_its_bank_and_its_registers() {
        let selections = [0x0b, 0x0c, 0x04].map(|bank| Selection { bank, pcrs: vec![0, 7] });
        assert_eq!(show(&selections), "sha256 [0, 7], sha384 [0, 7], 0x0004 [0, 7]");
        assert_eq!(show(&[]), "");
    }

    #[test]
    fn whether_the_key_is_one_for_attestation_is_said_and_recorded() {
        for (attributes, good) in [(0x0005_0072, true), (0x0004_0072, false)] {
            let key = Key::P256 { x: [1; 32], y: [2; 32] };
            let mut checks = Checks::default();
            let ak = Public { attributes, scheme: None, key, name: Vec::new() };
            assert_eq!((check_attributes(&ak, &mut checks), checks.accepted()), (good, good));
        }
    }
}
