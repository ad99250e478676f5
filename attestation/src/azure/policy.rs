//! What a machine of Azure must be: a closed set of requirements, none of which can be left out.

use serde::{Deserialize, Serialize};

use super::clause;
use crate::{bytes::Bytes, reference::Requirement, snp, tdx, tpm::registers::Registers};

/// What its processor must say. The report's data aren't for an owner to want: they speak for the runtime data.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Hardware {
    /// AMD SEV-SNP.
    Snp(Box<snp::Policy>),
    /// Intel TDX. Azure's paravisor handles `#VE`, so `septVeDisable` has to be waived by name.
    Tdx(Box<tdx::Policy>),
}

/// What a machine must be.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// Processor, paravisor (measurement, identity key) and TCB.
    pub hardware: Hardware,
    /// Whether signatures are checked at boot.
    pub secure_boot: Requirement<bool>,
    /// Whether there is a console that the host can use.
    pub console: Requirement<bool>,
    /// The machine, `vmUniqueId` of the inventory.
    pub vm_id: Requirement<String>,
    /// What the guest asked the paravisor to have said.
    pub user_data: Requirement<Bytes>,
    /// What the conversation wants attested by the TPM.
    pub nonce: Requirement<Bytes>,
    /// Registers of the quoted bank.
    pub registers: Registers,
}

impl Policy {
    /// The default for a processor: a machine without console that checks signatures; what only the owner or the
    /// conversation can know is refused until it is named.
    #[must_use]
    pub fn strict(hardware: Hardware) -> Self {
        Self {
            hardware,
            secure_boot: Requirement::Exact(true),
            console: Requirement::Exact(false),
            vm_id: Requirement::AnyOf(Vec::new()),
            user_data: Requirement::Waived { reason: "the TPM's nonce says what is of this conversation".into() },
            nonce: Requirement::AnyOf(Vec::new()),
            registers: Registers(std::collections::BTreeMap::new()),
        }
    }

    /// Waives a clause by its name; `false` when the policy has no requirement for it.
    pub fn waive(&mut self, name: &str, reason: &str) -> bool {
        let reason = reason.to_owned();
        match name {
            clause::SECURE_BOOT => self.secure_boot = Requirement::Waived { reason },
            clause::CONSOLE => self.console = Requirement::Waived { reason },
            clause::VM_ID => self.vm_id = Requirement::Waived { reason },
            clause::USER_DATA => self.user_data = Requirement::Waived { reason },
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::tests::assert_waives;

    #[test]
    fn a_waiver_is_of_the_requirement_of_its_clause_and_of_nothing_else() {
        let clauses = [
            (clause::SECURE_BOOT, "secureBoot"),
            (clause::CONSOLE, "console"),
            (clause::VM_ID, "vmId"),
            (clause::USER_DATA, "userData"),
        ];
        let others = [clause::RUNTIME, clause::AK_CHAIN, crate::tpm::clause::NONCE, "azure.unknown"];
        assert_waives(&Policy::strict(Hardware::Tdx(Box::new(tdx::Policy::azure()))), Policy::waive, &clauses, &others);
    }
}
