//! Stable names of the clauses that a machine of Azure is checked by, beside those of the processor and the TPM.

/// The report is one whole structure, and says which processor's report is in it.
pub const STRUCTURE: &str = "azure.hcl.structure";
/// The processor's report is of the kind that the policy is for.
pub const KIND: &str = "azure.hcl.kind";
/// The runtime data are in their form: members once, one attestation key, one machine.
pub const RUNTIME: &str = "azure.runtime_data";
/// Whether the machine was set up to check signatures at boot.
pub const SECURE_BOOT: &str = "azure.secure_boot";
/// Whether the machine has a console that the host can use.
pub const CONSOLE: &str = "azure.console";
/// The machine, as in the inventory.
pub const VM_ID: &str = "azure.vm.id";
/// What the guest asked the paravisor to have said.
pub const USER_DATA: &str = "azure.user_data";

/// Trusted Launch: the attestation key's certificate is there and holds a key that a TPM can have.
pub const AK_STRUCTURE: &str = "azure.ak.structure";
/// Trusted Launch: the certificates it brings lead to a trust anchor of the owner's.
pub const AK_CHAIN: &str = "azure.ak.chain";
/// Trusted Launch: all of them are in date, and so is the anchor.
pub const AK_VALIDITY: &str = "azure.ak.validity";
/// Trusted Launch: no revocation list that was given names one of them.
pub const AK_REVOKED: &str = "azure.ak.revoked";
/// Trusted Launch: the certificate is one of a key that signs and does nothing else.
pub const AK_USAGE: &str = "azure.ak.usage";
/// Trusted Launch: the certificate says to be one of an attestation key.
pub const AK_PURPOSE: &str = "azure.ak.purpose";
/// Trusted Launch: whose key it is, as in the inventory.
pub const AK_SUBJECT: &str = "azure.ak.subject";
/// Trusted Launch: for each certificate that says where a revocation list is, one in date is there.
pub const AK_REVOCATION: &str = "azure.ak.revocation";

/// The clauses that a policy of Trusted Launch has a requirement for, besides registers.
pub const TRUSTED_LAUNCH: [&str; 3] = [AK_PURPOSE, AK_SUBJECT, AK_REVOCATION];
/// The clauses that a policy has a requirement for, besides the processor's and registers.
pub const REFERENCE: [&str; 4] = [SECURE_BOOT, CONSOLE, VM_ID, USER_DATA];
