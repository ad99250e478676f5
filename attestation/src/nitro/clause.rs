//! Stable names of the clauses that a `NitroTPM` document is checked by.

/// The document is one COSE structure with the members of an attestation, each in its form and no others.
pub const STRUCTURE: &str = "nitro.structure";
/// It is of a TPM and not of an enclave, whose documents the same root endorses.
pub const KIND: &str = "nitro.kind";
/// It names ECDSA P-384 with SHA-384 as its signature's algorithm, and nothing else in its header.
pub const ALGORITHM: &str = "nitro.signature.algorithm";
/// The key of its certificate signed it.
pub const SIGNATURE: &str = "nitro.signature";
/// The certificates it brings lead to a trust anchor.
pub const CHAIN: &str = "nitro.chain";
/// All of them are in date, and so is the anchor.
pub const VALIDITY: &str = "nitro.chain.validity";
/// Its certificate is one for signatures, of exactly the module that the document names.
pub const MODULE: &str = "nitro.certificate.module";
/// Its time is recent: freshness comes from the nonce, this bounds what a clock may be off.
pub const TIMESTAMP: &str = "nitro.timestamp";
/// It is about this conversation.
pub const NONCE: &str = "nitro.nonce";
/// What its caller wanted to have said.
pub const USER_DATA: &str = "nitro.user_data";
/// The key that its caller named: the attestation key of the same TPM.
pub const PUBLIC_KEY: &str = "nitro.public_key";
/// The instance, as in the inventory.
pub const INSTANCE: &str = "nitro.instance";
/// The region.
pub const REGION: &str = "nitro.region";
/// The TPM's quote is under the key that the document names.
pub const QUOTE_KEY: &str = "nitro.quote.key";
/// The TPM quotes the register values that the document says.
pub const QUOTE_REGISTERS: &str = "nitro.quote.registers";
/// The cloud's key that signed the SEV-SNP report is of the region that the document is of.
pub const SNP_REGION: &str = "nitro.snp.region";
/// The SEV-SNP report attests to this conversation and to the key that the document names.
pub const SNP_REPORT_DATA: &str = "nitro.snp.report_data";

/// The clauses that a policy has a requirement for, besides registers.
pub const REFERENCE: [&str; 6] = [TIMESTAMP, NONCE, USER_DATA, PUBLIC_KEY, INSTANCE, REGION];
