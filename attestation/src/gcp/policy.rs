//! What a machine of Google Cloud must be: a closed set of requirements, none of which can be left out.

use serde::{Deserialize, Serialize};

use super::clause;
use crate::{bytes::Bytes, reference::Requirement, tpm::registers::Registers};

/// How the host says that it encrypts memory (`GCEConfidentialTechnology` of `go-tpm-tools`, `proto/attest.proto`).
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
#[serde(rename_all = "camelCase")]
pub enum Technology {
    /// Not at all.
    None,
    /// AMD SEV.
    Sev,
    /// AMD SEV-ES.
    SevEs,
    /// Intel TDX.
    Tdx,
    /// AMD SEV-SNP.
    Snp,
}

impl Technology {
    /// From the byte in the event.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::None),
            1 => Some(Self::Sev),
            2 => Some(Self::SevEs),
            3 => Some(Self::Tdx),
            4 => Some(Self::Snp),
            _ => None,
        }
    }
}

/// What a machine must be.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// Whether the host is one of Google's production.
    pub production: Requirement<bool>,
    /// Name of the project.
    pub project: Requirement<String>,
    /// Number of the project.
    pub project_number: Requirement<u64>,
    /// Zone.
    pub zone: Requirement<String>,
    /// Number of the instance.
    pub instance_id: Requirement<u64>,
    /// Name of the instance.
    pub instance_name: Requirement<String>,
    /// How memory is encrypted, as the host says; where the processor reports, its report says it better.
    pub technology: Requirement<Technology>,
    /// What the conversation wants attested by the TPM.
    pub nonce: Requirement<Bytes>,
    /// Registers of the quoted bank.
    pub registers: Registers,
}

impl Policy {
    /// The default: a production host; what only the owner or the conversation can know is refused until it is named.
    #[must_use]
    pub fn strict() -> Self {
        Self {
            production: Requirement::Exact(true),
            project: Requirement::AnyOf(Vec::new()),
            project_number: Requirement::Waived { reason: "the project's name says it".into() },
            zone: Requirement::AnyOf(Vec::new()),
            instance_id: Requirement::AnyOf(Vec::new()),
            instance_name: Requirement::Waived { reason: "the instance's number says it".into() },
            technology: Requirement::AnyOf(Vec::new()),
            nonce: Requirement::AnyOf(Vec::new()),
            registers: Registers(std::collections::BTreeMap::new()),
        }
    }

    /// Waives a clause by its name; `false` when the policy has no requirement for it.
    pub fn waive(&mut self, name: &str, reason: &str) -> bool {
        let reason = reason.to_owned();
        match name {
            clause::PRODUCTION => self.production = Requirement::Waived { reason },
            clause::PROJECT => self.project = Requirement::Waived { reason },
            clause::PROJECT_NUMBER => self.project_number = Requirement::Waived { reason },
            clause::ZONE => self.zone = Requirement::Waived { reason },
            clause::INSTANCE_ID => self.instance_id = Requirement::Waived { reason },
            clause::INSTANCE_NAME => self.instance_name = Requirement::Waived { reason },
            clause::TECHNOLOGY => self.technology = Requirement::Waived { reason },
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
            (clause::PRODUCTION, "production"),
            (clause::PROJECT, "project"),
            (clause::PROJECT_NUMBER, "projectNumber"),
            (clause::ZONE, "zone"),
            (clause::INSTANCE_ID, "instanceId"),
            (clause::INSTANCE_NAME, "instanceName"),
            (clause::TECHNOLOGY, "technology"),
        ];
        let others = [clause::AK_CHAIN, clause::REPORT_DATA, crate::tpm::clause::NONCE, "gcp.unknown"];
        assert_waives(&Policy::strict(), Policy::waive, &clauses, &others);
    }

    #[test]
    fn a_technology_is_one_of_the_bytes_that_are_known() {
        for (byte, technology) in [
            (0, Technology::None),
            (1, Technology::Sev),
            (2, Technology::SevEs),
            (3, Technology::Tdx),
            (4, Technology::Snp),
        ] {
            assert_eq!(Technology::from_byte(byte), Some(technology));
        }
        assert!((5..=u8::MAX).all(|byte| Technology::from_byte(byte).is_none()));
    }
}
