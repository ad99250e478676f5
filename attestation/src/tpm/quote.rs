//! Verifies a quote: magic, type, signer, nonce, selection, digest. Lists every check that fails.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{ALG_SHA256, Error, attest::Attest, public::Public, signature::Signature};
use crate::appraise::{Mismatch, clause};

/// A quote and what it must be about.
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
    let mut wrong = Vec::new();
    let ak = Public::parse(presented.ak_public)
        .map_err(|e| wrong.push(Mismatch::new(clause::AK_ATTRIBUTES, "the attestation key can't be parsed", &e)))
        .ok();
    if let Some(ak) = &ak
        && !ak.is_attestation_key()
    {
        wrong.push(Mismatch {
            clause: clause::AK_ATTRIBUTES.into(),
            expected: Some("fixedTPM fixedParent sensitiveDataOrigin restricted sign, not decrypt".into()),
            actual: Some(format!("{:#010x}", ak.attributes)),
            message: "the key isn't a restricted signing key of the TPM; it would sign anything".into(),
        });
    }
    match Signature::parse(presented.signature) {
        Err(e) => wrong.push(Mismatch::new(clause::SIGNATURE, "the signature can't be accepted", &e)),
        Ok(signature) => {
            if let Some(ak) = &ak
                && !signature.is_valid(&ak.key, presented.attest)
            {
                wrong.push(Mismatch::plain(clause::SIGNATURE, "the quote isn't signed by the attestation key"));
            }
        }
    }
    let attest = match Attest::parse(presented.attest) {
        Ok(attest) => {
            check_contents(&attest, presented, &mut wrong);
            Some(attest)
        }
        Err(e) => {
            let clause = match e {
                Error::Value { what: "magic", .. } => clause::MAGIC,
                Error::Value { what: "type", .. } => clause::TYPE,
                _ => clause::STRUCTURE,
            };
            wrong.push(Mismatch::new(clause, "the quote can't be accepted", &e));
            None
        }
    };
    match (ak, attest) {
        (Some(ak), Some(attest)) if wrong.is_empty() => Ok(Quote { attest, ak }),
        _ => Err(wrong),
    }
}

fn check_contents(attest: &Attest, presented: &Presented<'_>, wrong: &mut Vec<Mismatch>) {
    if presented.nonce.is_empty() || !bool::from(attest.extra_data.ct_eq(presented.nonce)) {
        wrong.push(Mismatch {
            clause: clause::NONCE.into(),
            expected: Some(hex::encode(presented.nonce)),
            actual: Some(hex::encode(&attest.extra_data)),
            message: "the quote is about another conversation".into(),
        });
    }
    let exact = match attest.selections.as_slice() {
        [one] => one.bank == ALG_SHA256 && one.pcrs == presented.pcrs,
        _ => false,
    };
    if !exact || presented.pcrs.is_empty() {
        wrong.push(Mismatch {
            clause: clause::SELECTION.into(),
            expected: Some(format!("sha256 {:?}", presented.pcrs)),
            actual: Some(
                attest
                    .selections
                    .iter()
                    .map(|s| format!("{:#06x} {:?}", s.bank, s.pcrs))
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
            message: "the quote covers other registers than were asked for".into(),
        });
    }
    let digest = Sha256::digest(presented.values);
    let whole = presented.values.len() == presented.pcrs.len() * 32;
    if !whole || !bool::from(attest.pcr_digest.ct_eq(&digest)) {
        wrong.push(Mismatch {
            clause: clause::DIGEST.into(),
            expected: Some(hex::encode(&attest.pcr_digest)),
            actual: Some(hex::encode(digest)),
            message: "the register values aren't the ones that the TPM quoted".into(),
        });
    }
}
