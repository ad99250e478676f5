//! Stable names of the clauses about a TPM. Registers are `tpm.pcr.<n>`.

/// The attestation key is a restricted signing key of the TPM.
pub const AK_ATTRIBUTES: &str = "tpm.ak.attributes";
/// The TPM that holds the endorsement key opened the credential for the attestation key.
pub const AK_CREDENTIAL: &str = "tpm.ak.credential";
/// The endorsement key's certificate is of a CA that the owner named.
pub const EK_CERTIFICATE: &str = "tpm.ek.certificate";
/// The TPM made what it signed.
pub const MAGIC: &str = "tpm.quote.magic";
/// It is a quote.
pub const TYPE: &str = "tpm.quote.type";
/// It is one whole structure.
pub const STRUCTURE: &str = "tpm.quote.structure";
/// It is about this conversation.
pub const NONCE: &str = "tpm.quote.nonce";
/// It covers exactly the registers that were asked for, of one accepted bank.
pub const SELECTION: &str = "tpm.quote.selection";
/// It is over the values that are shown.
pub const DIGEST: &str = "tpm.quote.digest";
/// The attestation key signed it, by a scheme on the list.
pub const SIGNATURE: &str = "tpm.signature";
/// A register has the wanted value; the number follows.
pub const PCR: &str = "tpm.pcr.";
/// The policy wants something of the registers, and all it must want.
pub const PCR_POLICY: &str = "tpm.pcr.policy";
/// The TPM wasn't reset since the last evidence of the same boot.
pub const CLOCK_RESET: &str = "tpm.clock.reset";
/// The TPM wasn't restarted since the last evidence of the same boot.
pub const CLOCK_RESTART: &str = "tpm.clock.restart";
/// The TPM's clock went on since the last evidence of the same boot.
pub const CLOCK_TIME: &str = "tpm.clock.time";
/// The event log is one whole crypto-agile log with the wanted bank.
pub const LOG_STRUCTURE: &str = "tpm.log.structure";
/// The event log replays to a register's value; the number follows.
pub const LOG_REPLAY: &str = "tpm.log.replay.";
/// Data of events whose digest is one of the data is what was digested.
pub const LOG_DATA: &str = "tpm.log.data";
/// Firmware measured nothing more into a register after the separator that hands it to the operating system.
pub const LOG_SEPARATOR: &str = "tpm.log.separator";
/// The firmware says that it left its boot services.
pub const LOG_EXIT: &str = "tpm.log.exit";
