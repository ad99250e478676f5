//! Two pieces of evidence of one machine: each names the other, so neither can be of another machine or conversation.
//!
//! A guest of a cloud has a report of its processor and a quote of its TPM. The report proves where the guest runs and
//! the quote what it booted; nothing but this binding says that both are the same guest. First the node has
//! [`report_data`] attested by the processor, then [`tpm_nonce`] by the TPM: the report names the TPM's key, and the TPM
//! the whole report. Only evidence whose processor *and* TPM took part passes.

use sha2::{Digest, Sha256, Sha512};

const REPORT: &[u8] = b"constellation.machine.report.v1\0";
const NONCE: &[u8] = b"constellation.machine.nonce.v1\0";

/// What the processor must attest to: the conversation and the TPM's attestation key, in the form the TPM's side names
/// it. Both lengths are fixed, so no other pair gives the same bytes.
#[must_use]
pub fn report_data(binding: &[u8; 32], key: &[u8]) -> [u8; 64] {
    Sha512::new().chain_update(REPORT).chain_update(binding).chain_update(Sha256::digest(key)).finalize().into()
}

/// What the TPM must attest to: the conversation and the processor's report, byte for byte.
#[must_use]
pub fn tpm_nonce(binding: &[u8; 32], report: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(NONCE).chain_update(binding).chain_update(Sha256::digest(report)).finalize().into()
}

/// What the TPM is asked with: as [`tpm_nonce`], or the binding itself where there is no report.
#[must_use]
pub fn quote_nonce(binding: &[u8; 32], report: Option<&[u8]>) -> [u8; 32] {
    report.map_or(*binding, |report| tpm_nonce(binding, report))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_names_the_conversation_and_the_other_piece() {
        let same = (report_data(&[1; 32], b"key"), tpm_nonce(&[1; 32], b"report"));
        assert_eq!(same, (report_data(&[1; 32], b"key"), tpm_nonce(&[1; 32], b"report")));
        assert_ne!(same.0, report_data(&[2; 32], b"key"));
        assert_ne!(same.0, report_data(&[1; 32], b"keys"));
        assert_ne!(same.1, tpm_nonce(&[2; 32], b"report"));
        assert_ne!(same.1, tpm_nonce(&[1; 32], b"reporu"));
        assert_ne!(same.0[..32], same.1);
    }

    #[test]
    fn a_tpm_is_asked_with_the_report_or_where_there_is_none_with_the_conversation_alone() {
        assert_eq!(quote_nonce(&[3; 32], None), [3; 32]);
        assert_eq!(quote_nonce(&[3; 32], Some(b"report")), tpm_nonce(&[3; 32], b"report"));
        assert_ne!(quote_nonce(&[3; 32], Some(b"")), [3; 32]);
    }
}
