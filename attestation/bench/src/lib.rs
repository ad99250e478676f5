//! What the benchmarks share: evidence, ready to be verified.

use constellation_attestation::tpm::quote;

/// Registers that our protocol quotes.
pub const QUOTED: [u8; 16] = constellation_attestation::appraise::QUOTED;

/// A genuine quote of a software TPM.
pub struct TpmQuote {
    attest: &'static [u8],
    signature: &'static [u8],
    ak_public: &'static [u8],
    values: &'static [u8],
}

/// The quote under the key of a kind, `ecc` or `rsa`.
#[must_use]
pub fn tpm_quote(kind: &str) -> TpmQuote {
    macro_rules! files {
        ($kind:literal) => {
            TpmQuote {
                attest: include_bytes!(concat!("../../vectors/qemu-swtpm/good_", $kind, "_sha256/quote.msg")),
                signature: include_bytes!(concat!("../../vectors/qemu-swtpm/good_", $kind, "_sha256/quote.sig")),
                ak_public: include_bytes!(concat!("../../vectors/qemu-swtpm/ak_", $kind, ".tpm2b_public")),
                values: include_bytes!(concat!("../../vectors/qemu-swtpm/good_", $kind, "_sha256/pcrs.bin")),
            }
        };
    }
    if kind == "rsa" { files!("rsa") } else { files!("ecc") }
}

impl TpmQuote {
    /// As the verifier is shown it.
    #[must_use]
    pub fn presented(&self) -> quote::Presented<'_> {
        quote::Presented {
            attest: self.attest,
            signature: self.signature,
            ak_public: self.ak_public,
            values: self.values,
            nonce: b"join-nonce-0001-swtpm-vector-set",
            pcrs: &QUOTED,
        }
    }
}

/// A log of so many events of 64 bytes over the quoted registers, with SHA-1 and SHA-256 digests as firmware writes it
/// (TCG PC Client Platform Firmware Profile 1.06, 10.2).
#[must_use]
pub fn event_log(events: u32) -> Vec<u8> {
    let mut log = Vec::new();
    let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| log.extend_from_slice(part));
    let specification: &[&[u8]] =
        &[b"Spec ID Event03\0", &[0, 0, 0, 0, 0, 2, 0, 2], &2_u32.to_le_bytes(), &[4, 0, 20, 0, 11, 0, 32, 0], &[0]];
    let size = specification.iter().map(|part| part.len()).sum::<usize>() as u32;
    put(&[&[0; 4], &3_u32.to_le_bytes(), &[0; 20], &size.to_le_bytes()]);
    put(specification);
    for number in 0..events {
        let register = number % QUOTED.len() as u32;
        put(&[&register.to_le_bytes(), &0x0d_u32.to_le_bytes(), &2_u32.to_le_bytes()]);
        put(&[&[4, 0], &[number as u8; 20], &[11, 0], &[number as u8; 32], &64_u32.to_le_bytes(), &[number as u8; 64]]);
    }
    log
}
