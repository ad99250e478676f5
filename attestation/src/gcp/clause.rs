//! Stable names of the clauses that evidence of a Google Cloud machine is checked by, besides those of its TPM and
//! its processor.

/// The attestation key's certificate is there and holds a key that a TPM can have.
pub const AK_STRUCTURE: &str = "gcp.ak.structure";
/// The certificates it brings lead to a trust anchor.
pub const AK_CHAIN: &str = "gcp.ak.chain";
/// All of them are in date, and so is the anchor.
pub const AK_VALIDITY: &str = "gcp.ak.validity";
/// The certificate is one of a key that signs and does nothing else: an endorsement key's names the same machine.
pub const AK_USAGE: &str = "gcp.ak.usage";
/// The certificate names the machine.
pub const AK_INSTANCE: &str = "gcp.ak.instance";

/// The TPM is one of Google's production hosts.
pub const PRODUCTION: &str = "gcp.production";
/// The project's name.
pub const PROJECT: &str = "gcp.project";
/// The project's number.
pub const PROJECT_NUMBER: &str = "gcp.project.number";
/// The zone.
pub const ZONE: &str = "gcp.zone";
/// The instance's number, as in the inventory: no other machine ever has it.
pub const INSTANCE_ID: &str = "gcp.instance.id";
/// The instance's name.
pub const INSTANCE_NAME: &str = "gcp.instance.name";
/// How memory is encrypted, as the host says in a log that replays to the quoted PCR 0.
pub const TECHNOLOGY: &str = "gcp.technology";
/// The processor's report attests to this conversation and to the TPM's key.
pub const REPORT_DATA: &str = "gcp.report_data";

/// The launch endorsement is one whole structure.
pub const ENDORSEMENT_STRUCTURE: &str = "gcp.endorsement.structure";
/// The certificates it brings lead to a trust anchor.
pub const ENDORSEMENT_CHAIN: &str = "gcp.endorsement.chain";
/// All of them are in date, and so is the anchor.
pub const ENDORSEMENT_VALIDITY: &str = "gcp.endorsement.validity";
/// The key of its certificate signed it.
pub const ENDORSEMENT_SIGNATURE: &str = "gcp.endorsement.signature";
/// It names what the processor measured at launch.
pub const ENDORSEMENT_MEASUREMENT: &str = "gcp.endorsement.measurement";
/// The firmware's security version is at the floor or above.
pub const ENDORSEMENT_SVN: &str = "gcp.endorsement.svn";

/// The clauses that a policy has a requirement for, besides registers.
pub const REFERENCE: [&str; 7] = [PRODUCTION, PROJECT, PROJECT_NUMBER, ZONE, INSTANCE_ID, INSTANCE_NAME, TECHNOLOGY];
