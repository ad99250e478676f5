//! Whether a report is genuine: a chain to an anchor, a certificate for exactly this machine and TCB, and a signature
//! over the bytes as they came.

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use jiff::Timestamp;

use super::{
    Anchors, Evidence, clause,
    endorsement::{self, Endorsement},
    parse::{Report, SIGNATURE_NUMBER, SIGNED_BYTES},
    product::{KeyKind, Product},
};
use crate::{bytes::Hex, result::Checks, verified::Verified, x509::Revocation};

/// `SIGNATURE_ALGO`: ECDSA P-384 with SHA-384 (AMD document 56860, table "`SIGNATURE_ALGO`").
const ECDSA_P384_SHA384: u32 = 1;
/// Bytes of a number on P-384.
const NUMBER: usize = 48;

/// A guest, as a genuine report and its endorsement describe it.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The report.
    pub report: Report,
    /// The product that AMD endorses the key for.
    pub product: Product,
    /// The kind of key that signed.
    pub key: KeyKind,
    /// The cloud that holds the key; only of a VLEK.
    pub csp_id: Option<String>,
    /// What is known about revocation.
    pub revocation: Revocation,
}

/// Verifies a report with its endorsement at a time. Looks at every clause it can get to, whatever the ones before said;
/// the guest comes out only if all of them hold.
pub fn verify(
    evidence: &Evidence<'_>,
    anchors: &Anchors,
    now: Timestamp,
    checks: &mut Checks,
) -> Option<Verified<Guest>> {
    let mut own = Checks::default();
    let report = report(evidence.report, &mut own);
    let endorsement = endorsement::verify(evidence, anchors, now, &mut own);
    if let (Some(report), Some(endorsement)) = (&report, &endorsement) {
        subject(report, endorsement, &mut own);
        signature(evidence.report, report, &endorsement.key, &mut own);
    }
    let found = report.zip(endorsement);
    let (report, Endorsement { product, kind, claims, revocation, .. }) =
        checks.prove(own, found, clause::REPORT_STRUCTURE)?;
    Some(Verified::new(Guest { report, product, key: kind, csp_id: claims.csp_id, revocation }))
}

fn report(bytes: &[u8], checks: &mut Checks) -> Option<Report> {
    match Report::parse(bytes) {
        Ok(report) => {
            checks.holds(clause::REPORT_STRUCTURE, "1184 bytes");
            checks.check(clause::REPORT_VERSION, true, None, report.version.to_string(), "a known version");
            Some(report)
        }
        Err(error) => {
            checks.fails(error.clause(), &error.to_string());
            None
        }
    }
}

/// Whether the endorsement is for the machine that the report is about.
fn subject(report: &Report, endorsement: &Endorsement, checks: &mut Checks) {
    let Endorsement { product, kind, claims, .. } = endorsement;
    let said = KeyKind::of_report(report.key_info);
    checks.check(
        clause::SIGNING_KEY,
        said == Some(*kind),
        kind.to_string(),
        said.map_or_else(|| "none".to_owned(), |kind| kind.to_string()),
        "the report names the kind of key that it is shown with",
    );
    // Version 2 doesn't say; there the certificate alone does.
    if let Some(cpuid) = report.cpuid {
        let said = Product::of_cpuid(cpuid);
        checks.check(
            clause::REPORT_PRODUCT,
            said == Some(*product),
            product.to_string(),
            said.map_or_else(|| format!("{cpuid:?}"), |product| product.to_string()),
            "the report is of the product that the key is for",
        );
    }
    let reported = report.reported_tcb.of(*product);
    checks.check(
        clause::VEK_TCB,
        reported.is_some() && reported == claims.tcb,
        claims.tcb.map_or_else(|| "more than there is".to_owned(), |tcb| tcb.to_string()),
        reported.map_or_else(|| report.reported_tcb.to_string(), |tcb| tcb.to_string()),
        "the key is for exactly the reported TCB",
    );
    let chip = &report.chip_id;
    // Where report and certificate don't agree on the kind of key, there is nothing to compare.
    match (&claims.hwid, said) {
        (Some(hwid), Some(KeyKind::Vcek)) => {
            checks.check(
                clause::VEK_HWID,
                is_chip(chip, hwid, *product),
                hex::encode(hwid),
                chip.to_string(),
                "the key is of exactly this processor",
            );
        }
        (None, Some(KeyKind::Vlek)) => {
            let message = "a cloud's key names no processor";
            checks.check(clause::REPORT_CHIP_ID, *chip == Hex::ZERO, "zero".to_owned(), chip.to_string(), message);
        }
        _ => {}
    }
}

/// Whether the report names this processor: as many bytes as the product has, zero after them, and not all zero (which
/// the host can ask for).
fn is_chip(chip: &Hex<64>, hwid: &[u8], product: Product) -> bool {
    let mut padded = Hex::<64>::ZERO;
    let Some(head) = padded.0.get_mut(..hwid.len()) else { return false };
    head.copy_from_slice(hwid);
    hwid.len() == product.hwid_bytes() && *chip == padded && padded != Hex::ZERO
}

fn signature(bytes: &[u8], report: &Report, key: &[u8], checks: &mut Checks) {
    checks.check(
        clause::SIGNATURE_ALGORITHM,
        report.signature_algo == ECDSA_P384_SHA384,
        ECDSA_P384_SHA384.to_string(),
        report.signature_algo.to_string(),
        "signed with ECDSA P-384 and SHA-384",
    );
    let (r, s) = (big_endian(&report.signature_r), big_endian(&report.signature_s));
    let format = "48 bytes of each number, and zero after them";
    if !checks.check(
        clause::SIGNATURE_FORMAT,
        report.signature_rest_is_zero && r.is_some() && s.is_some(),
        None,
        None,
        format,
    ) {
        return;
    }
    let numbers = [r.unwrap_or_default(), s.unwrap_or_default()].concat();
    let signed = bytes.get(..SIGNED_BYTES).unwrap_or_default();
    let holds = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key).verify(signed, &numbers).is_ok();
    checks.check(clause::SIGNATURE, holds, None, None, "the endorsed key signed the report");
}

/// A number of the signature, big-endian; `None` when it is longer than the curve's.
fn big_endian(number: &Hex<SIGNATURE_NUMBER>) -> Option<Vec<u8>> {
    let (low, high) = number.0.split_at_checked(NUMBER)?;
    high.iter().all(|byte| *byte == 0).then(|| low.iter().rev().copied().collect())
}
