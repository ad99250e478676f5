//! Stable names of the clauses that Intel TDX evidence is checked by.

/// The quote is one whole structure: lengths agree and stay inside the bytes.
pub const QUOTE_STRUCTURE: &str = "tdx.quote.structure";
/// It is a version 4 or 5 quote.
pub const QUOTE_VERSION: &str = "tdx.quote.version";
/// It is about a trust domain, not an SGX enclave.
pub const QUOTE_TEE_TYPE: &str = "tdx.quote.tee_type";
/// Its attestation key is of ECDSA P-256.
pub const QUOTE_KEY_TYPE: &str = "tdx.quote.key_type";
/// Intel's quoting enclave made it.
pub const QUOTE_VENDOR: &str = "tdx.quote.vendor";
/// The attestation key signed it.
pub const SIGNATURE: &str = "tdx.signature";

/// The collateral is one whole structure.
pub const COLLATERAL_STRUCTURE: &str = "tdx.collateral.structure";
/// The trust anchor is inside its validity.
pub const ROOT_VALIDITY: &str = "tdx.root.validity";
/// The trust anchor hasn't revoked itself.
pub const ROOT_REVOKED: &str = "tdx.root.revoked";
/// The revocation list of the root is there and the trust anchor signed it.
pub const ROOT_CRL_SIGNATURE: &str = "tdx.crl.root.signature";
/// The revocation list of the root is in date.
pub const ROOT_CRL_VALIDITY: &str = "tdx.crl.root.validity";
/// The chain that comes with the revocation list of the PCK CA leads to the trust anchor.
pub const PCK_CRL_ISSUER: &str = "tdx.crl.pck.issuer";
/// The revocation list of the PCK CA is there and the CA that issued the PCK certificate signed it.
pub const PCK_CRL_SIGNATURE: &str = "tdx.crl.pck.signature";
/// The revocation list of the PCK CA is in date.
pub const PCK_CRL_VALIDITY: &str = "tdx.crl.pck.validity";

/// A TCB signing certificate that the trust anchor issued is there for the TCB info.
pub const TCB_INFO_ISSUER: &str = "tdx.tcb_info.issuer";
/// It is in date.
pub const TCB_INFO_ISSUER_VALIDITY: &str = "tdx.tcb_info.issuer_validity";
/// It isn't revoked.
pub const TCB_INFO_ISSUER_REVOKED: &str = "tdx.tcb_info.issuer_revoked";
/// The TCB signing certificate signed the TCB info, byte for byte.
pub const TCB_INFO_SIGNATURE: &str = "tdx.tcb_info.signature";
/// The TCB info is one for TDX, of a version we know.
pub const TCB_INFO_STRUCTURE: &str = "tdx.tcb_info.structure";
/// The TCB info is in date.
pub const TCB_INFO_VALIDITY: &str = "tdx.tcb_info.validity";
/// A TCB signing certificate that the trust anchor issued is there for the QE identity.
pub const QE_IDENTITY_ISSUER: &str = "tdx.qe_identity.issuer";
/// It is in date.
pub const QE_IDENTITY_ISSUER_VALIDITY: &str = "tdx.qe_identity.issuer_validity";
/// It isn't revoked.
pub const QE_IDENTITY_ISSUER_REVOKED: &str = "tdx.qe_identity.issuer_revoked";
/// The TCB signing certificate signed the QE identity, byte for byte.
pub const QE_IDENTITY_SIGNATURE: &str = "tdx.qe_identity.signature";
/// The QE identity is one for the TD quoting enclave, of a version we know.
pub const QE_IDENTITY_STRUCTURE: &str = "tdx.qe_identity.structure";
/// The QE identity is in date.
pub const QE_IDENTITY_VALIDITY: &str = "tdx.qe_identity.validity";

/// The PCK certificate chain is there: in the quote (certification data type 5) or in the collateral.
pub const PCK_CERTIFICATION_DATA: &str = "tdx.pck.certification_data";
/// The PCK certificate chain leads to the trust anchor.
pub const PCK_CHAIN: &str = "tdx.pck.chain";
/// All certificates of the PCK chain are in date.
pub const PCK_VALIDITY: &str = "tdx.pck.validity";
/// No certificate of the PCK chain is revoked.
pub const PCK_REVOKED: &str = "tdx.pck.revoked";
/// The PCK certificate names its platform in Intel's SGX extension.
pub const PCK_EXTENSION: &str = "tdx.pck.extension";

/// The platform's PCK signed the report of the quoting enclave.
pub const QE_SIGNATURE: &str = "tdx.qe.signature";
/// The quoting enclave's report is about the attestation key.
pub const QE_KEY: &str = "tdx.qe.key";
/// The quoting enclave is no debug enclave.
pub const QE_DEBUG: &str = "tdx.qe.debug";
/// The quoting enclave is signed by Intel.
pub const QE_MRSIGNER: &str = "tdx.qe.mrsigner";
/// The quoting enclave is the one for trust domains.
pub const QE_PRODUCT: &str = "tdx.qe.isvprodid";
/// The quoting enclave's MISCSELECT is what the QE identity wants.
pub const QE_MISCSELECT: &str = "tdx.qe.miscselect";
/// The quoting enclave's attributes are what the QE identity wants.
pub const QE_ATTRIBUTES: &str = "tdx.qe.attributes";
/// A level of the QE identity covers the quoting enclave's security version.
pub const QE_LEVEL: &str = "tdx.qe.level";

/// The TCB info is for the platform's family (FMSPC).
pub const TCB_FMSPC: &str = "tdx.tcb.fmspc";
/// The TCB info is for the platform's provisioning certification enclave.
pub const TCB_PCE_ID: &str = "tdx.tcb.pceid";
/// A level of the TCB info covers the platform; for TD 1.5 also as it is now (`TEE_TCB_SVN_2`).
pub const TCB_LEVEL: &str = "tdx.tcb.level";
/// The TCB info knows the TDX module's version and a level covers its security version.
pub const TCB_MODULE: &str = "tdx.tcb.module";
/// The status of platform, module and quoting enclave together is one the policy accepts.
pub const TCB_STATUS: &str = "tdx.tcb.status";
/// TCB info and QE identity are of a TCB recovery the policy accepts.
pub const TCB_EVALUATION_NUMBER: &str = "tdx.tcb.evaluation_number";
/// No advisory that the policy refuses is open on the platform.
pub const TCB_ADVISORIES: &str = "tdx.tcb.advisories";

/// The TDX module is signed by Intel, as the TCB info says.
pub const MRSIGNERSEAM: &str = "tdx.mrsignerseam";
/// The TDX module's attributes are what the TCB info wants.
pub const SEAM_ATTRIBUTES: &str = "tdx.seam_attributes";
/// Measurement of the TDX module.
pub const MRSEAM: &str = "tdx.mrseam";

/// The host can't debug the trust domain.
pub const DEBUG: &str = "tdx.attributes.debug";
/// The host can't profile the trust domain (`HGS_PLUS_PROF`, `PERF_PROF`, `PMT_PROF`).
pub const PROFILING: &str = "tdx.attributes.profiling";
/// The trust domain can't be migrated.
pub const MIGRATABLE: &str = "tdx.attributes.migratable";
/// The host can't inject `#VE` by taking pages away.
pub const SEPT_VE_DISABLE: &str = "tdx.attributes.sept_ve_disable";
/// Supervisor protection keys.
pub const PKS: &str = "tdx.attributes.pks";
/// Key Locker.
pub const KEY_LOCKER: &str = "tdx.attributes.key_locker";
/// Performance monitoring by the guest.
pub const PERFMON: &str = "tdx.attributes.perfmon";
/// No attribute is set that this verifier doesn't know.
pub const RESERVED: &str = "tdx.attributes.reserved";
/// Extended features the trust domain may use.
pub const XFAM: &str = "tdx.xfam";

/// Measurement of the initial contents of the trust domain: the firmware.
pub const MRTD: &str = "tdx.mrtd";
/// Run-time measurement registers 0 to 3.
pub const RTMR: [&str; 4] = ["tdx.rtmr0", "tdx.rtmr1", "tdx.rtmr2", "tdx.rtmr3"];
/// The configuration the host gave the trust domain.
pub const MRCONFIGID: &str = "tdx.mrconfigid";
/// The owner the host names.
pub const MROWNER: &str = "tdx.mrowner";
/// The owner's configuration the host names.
pub const MROWNERCONFIG: &str = "tdx.mrownerconfig";
/// Hash of the service TDs bound to the trust domain: zero when there is none.
pub const MRSERVICETD: &str = "tdx.mrservicetd";
/// What the trust domain wanted to have attested, in full length.
pub const REPORT_DATA: &str = "tdx.report_data";

/// The firmware's log (CCEL) is one whole log with SHA-384.
pub const CCEL_STRUCTURE: &str = "tdx.ccel.structure";
/// The firmware's log replays to the run-time measurement registers 0 to 3.
pub const CCEL_RTMR: [&str; 4] = ["tdx.ccel.rtmr0", "tdx.ccel.rtmr1", "tdx.ccel.rtmr2", "tdx.ccel.rtmr3"];
/// The digests in the firmware's log are those of the data it shows.
pub const CCEL_DATA: &str = "tdx.ccel.data";

/// The clauses whose value only the owner can know: what the trust domain started with, what the host gave it, and
/// what it was asked to attest.
pub const REFERENCE: [&str; 9] =
    [MRTD, RTMR[0], RTMR[1], RTMR[2], RTMR[3], MRCONFIGID, MROWNER, MROWNERCONFIG, REPORT_DATA];
