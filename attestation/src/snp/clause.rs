//! Stable names of the clauses that AMD SEV-SNP evidence is checked by.

/// The report is one whole structure of 1184 bytes.
pub const REPORT_STRUCTURE: &str = "snp.report.structure";
/// The report is of a version that we know, 2 to 5.
pub const REPORT_VERSION: &str = "snp.report.version";
/// The processor that the report names (version 3 and later) is of the product that its key is endorsed for.
pub const REPORT_PRODUCT: &str = "snp.report.product";
/// A report that a cloud's key signed names no processor.
pub const REPORT_CHIP_ID: &str = "snp.report.chip_id";

/// The trust anchor is in date.
pub const ARK_VALIDITY: &str = "snp.ark.validity";
/// The trust anchor hasn't revoked itself.
pub const ARK_REVOKED: &str = "snp.ark.revoked";
/// The intermediate's certificate (ASK or ASVK) is there.
pub const INTERMEDIATE_STRUCTURE: &str = "snp.intermediate.structure";
/// It is of a CA that may issue certificates.
pub const INTERMEDIATE_USAGE: &str = "snp.intermediate.usage";
/// It names a product and a kind of key that we know.
pub const INTERMEDIATE_NAME: &str = "snp.intermediate.name";
/// The trust anchor of that product issued it.
pub const INTERMEDIATE_ISSUER: &str = "snp.intermediate.issuer";
/// It is in date.
pub const INTERMEDIATE_VALIDITY: &str = "snp.intermediate.validity";
/// The revocation list that was given doesn't name it.
pub const INTERMEDIATE_REVOKED: &str = "snp.intermediate.revoked";

/// The certificate of the key that signs reports (VEK: VCEK or VLEK) is there and holds such a key.
pub const VEK_STRUCTURE: &str = "snp.vek.structure";
/// The intermediate issued it.
pub const VEK_ISSUER: &str = "snp.vek.issuer";
/// It is in date.
pub const VEK_VALIDITY: &str = "snp.vek.validity";
/// It is of the kind, VCEK or VLEK, that the intermediate issues.
pub const VEK_KIND: &str = "snp.vek.kind";
/// It says everything AMD's certificates say about the machine, each once.
pub const VEK_EXTENSIONS: &str = "snp.vek.extensions";
/// It is for the product that the intermediate is for.
pub const VEK_PRODUCT: &str = "snp.vek.product";
/// It is for exactly the TCB that the report names as reported.
pub const VEK_TCB: &str = "snp.vek.tcb";
/// It is for exactly the processor that the report names.
pub const VEK_HWID: &str = "snp.vek.hwid";

/// The report says it was signed by a key of the kind that the certificate is for.
pub const SIGNING_KEY: &str = "snp.signing_key";
/// The report names ECDSA P-384 with SHA-384 as its signature's algorithm.
pub const SIGNATURE_ALGORITHM: &str = "snp.signature.algorithm";
/// The signature's numbers have 48 bytes; what follows them is zero.
pub const SIGNATURE_FORMAT: &str = "snp.signature.format";
/// The endorsed key signed the report.
pub const SIGNATURE: &str = "snp.signature";

/// A revocation list that the trust anchor signed is there and in date.
pub const CRL: &str = "snp.crl";
/// The processor is of this product.
pub const PRODUCT: &str = "snp.product";
/// A key of this kind signed: the processor's (VCEK) or the cloud's (VLEK).
pub const KEY_KIND: &str = "snp.signing_key.kind";
/// The cloud whose key (VLEK) signed.
pub const CSP_ID: &str = "snp.vlek.csp_id";
/// The processor, where it is named.
pub const CHIP_ID: &str = "snp.chip_id";

/// The guest asked at this privilege level; a report that the host asked for never holds.
pub const VMPL: &str = "snp.vmpl";
/// Whether the host may read and change the guest.
pub const POLICY_DEBUG: &str = "snp.policy.debug";
/// Whether a migration agent may be bound.
pub const POLICY_MIGRATION: &str = "snp.policy.migration";
/// No migration agent is bound, unless the policy lets one be.
pub const REPORT_ID_MA: &str = "snp.report_id_ma";
/// Whether the guest lets two threads share a core.
pub const POLICY_SMT: &str = "snp.policy.smt";
/// Whether the guest runs on one socket only.
pub const POLICY_SINGLE_SOCKET: &str = "snp.policy.single_socket";
/// Whether the guest lets CXL devices be there.
pub const POLICY_CXL: &str = "snp.policy.cxl";
/// Whether the guest wants AES-256-XTS for its memory.
pub const POLICY_AES_256_XTS: &str = "snp.policy.aes_256_xts";
/// Whether the guest wants power measurement (RAPL) off.
pub const POLICY_RAPL_DISABLED: &str = "snp.policy.rapl_disabled";
/// Whether the guest wants its ciphertext hidden from the host.
pub const POLICY_CIPHERTEXT_HIDING: &str = "snp.policy.ciphertext_hiding";
/// Whether the guest wants its pages not to be swapped or moved.
pub const POLICY_PAGE_SWAP_DISABLED: &str = "snp.policy.page_swap_disabled";
/// Bit 17 of the guest's policy is one, as the firmware demands.
pub const POLICY_RESERVED: &str = "snp.policy.reserved";
/// Bits of the guest's policy that we don't know the meaning of.
pub const POLICY_UNKNOWN: &str = "snp.policy.unknown";

/// Whether two threads share a core.
pub const PLATFORM_SMT: &str = "snp.platform.smt";
/// Whether all memory is encrypted.
pub const PLATFORM_TSME: &str = "snp.platform.tsme";
/// Whether memory corrects errors.
pub const PLATFORM_ECC: &str = "snp.platform.ecc";
/// Whether power measurement (RAPL) is off.
pub const PLATFORM_RAPL_DISABLED: &str = "snp.platform.rapl_disabled";
/// Whether ciphertext is hidden from the host.
pub const PLATFORM_CIPHERTEXT_HIDING: &str = "snp.platform.ciphertext_hiding";
/// Whether the firmware looked for memory aliases since the last reset and found none (`BadRAM`).
pub const PLATFORM_ALIAS_CHECK: &str = "snp.platform.alias_check";
/// Whether trusted I/O is on.
pub const PLATFORM_TIO: &str = "snp.platform.tio";

/// The reported TCB, that the key stands for, is at the floor of its product or above in each part.
pub const TCB_REPORTED: &str = "snp.tcb.reported";
/// The committed TCB, below which the firmware can't be rolled back, is at the floor or above in each part.
pub const TCB_COMMITTED: &str = "snp.tcb.committed";
/// The TCB when the guest was launched is at the floor or above in each part.
pub const TCB_LAUNCH: &str = "snp.tcb.launch";
/// Whether the firmware is provisional: newer than what it is committed to, so it can be rolled back.
pub const TCB_PROVISIONAL: &str = "snp.tcb.provisional";
/// The firmware below which it can't be rolled back.
pub const FIRMWARE: &str = "snp.firmware.committed";
/// Mitigations that were there when the guest was launched (report version 5).
pub const MITIGATION_LAUNCH: &str = "snp.mitigation.launch";
/// Mitigations that are there now (report version 5).
pub const MITIGATION_CURRENT: &str = "snp.mitigation.current";

/// The launch clause: digest of what the guest's memory held when it started.
pub const MEASUREMENT: &str = "snp.measurement";
/// What the host told the guest's launch.
pub const HOST_DATA: &str = "snp.host_data";
/// Digest of the key that signed the guest's identity.
pub const ID_KEY_DIGEST: &str = "snp.id_key_digest";
/// Digest of the key that signed that key.
pub const AUTHOR_KEY_DIGEST: &str = "snp.author_key_digest";
/// Family in the guest's identity.
pub const FAMILY_ID: &str = "snp.family_id";
/// Image in the guest's identity.
pub const IMAGE_ID: &str = "snp.image_id";
/// Security version in the guest's identity.
pub const GUEST_SVN: &str = "snp.guest_svn";
/// What the conversation wants attested.
pub const REPORT_DATA: &str = "snp.report_data";

/// The clauses that a policy has a requirement for, in the order they are appraised.
pub const REFERENCE: [&str; 39] = [
    PRODUCT,
    KEY_KIND,
    CSP_ID,
    CRL,
    CHIP_ID,
    VMPL,
    POLICY_DEBUG,
    POLICY_MIGRATION,
    REPORT_ID_MA,
    POLICY_SMT,
    POLICY_SINGLE_SOCKET,
    POLICY_CXL,
    POLICY_AES_256_XTS,
    POLICY_RAPL_DISABLED,
    POLICY_CIPHERTEXT_HIDING,
    POLICY_PAGE_SWAP_DISABLED,
    POLICY_UNKNOWN,
    PLATFORM_SMT,
    PLATFORM_TSME,
    PLATFORM_ECC,
    PLATFORM_RAPL_DISABLED,
    PLATFORM_CIPHERTEXT_HIDING,
    PLATFORM_ALIAS_CHECK,
    PLATFORM_TIO,
    TCB_REPORTED,
    TCB_COMMITTED,
    TCB_LAUNCH,
    TCB_PROVISIONAL,
    FIRMWARE,
    MITIGATION_LAUNCH,
    MITIGATION_CURRENT,
    MEASUREMENT,
    HOST_DATA,
    ID_KEY_DIGEST,
    AUTHOR_KEY_DIGEST,
    FAMILY_ID,
    IMAGE_ID,
    GUEST_SVN,
    REPORT_DATA,
];
