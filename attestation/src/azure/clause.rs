//! Stable names of the clauses that a paravisor's report is checked by, beside those of the processor and the TPM.

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

/// The clauses that a policy has a requirement for, besides the processor's and registers.
pub const REFERENCE: [&str; 4] = [SECURE_BOOT, CONSOLE, VM_ID, USER_DATA];
