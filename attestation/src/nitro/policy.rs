//! What a `NitroTPM` document must say: a closed set of requirements, none of which can be left out.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::clause;
use crate::{bytes::Bytes, reference::Requirement, tpm::registers::Registers};

/// How old a document is.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
#[serde(rename_all = "camelCase")]
pub enum Age {
    /// Not older than the policy lets it be.
    Recent,
    /// Older.
    Old,
    /// From later than now, by more than clocks may differ.
    Future,
}

/// What a document must say.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// Whether it is recent.
    pub age: Requirement<Age>,
    /// How old a recent document may be.
    pub recent: SignedDuration,
    /// What the conversation wants attested.
    pub nonce: Requirement<Bytes>,
    /// What the node wanted to have said.
    pub user_data: Requirement<Bytes>,
    /// The key that the node named.
    pub public_key: Requirement<Bytes>,
    /// The instance, for example `i-01cfb383223e42522`.
    pub instance: Requirement<String>,
    /// The region, for example `us-east-1`.
    pub region: Requirement<String>,
    /// Registers of the SHA-384 bank.
    pub registers: Registers,
}

impl Policy {
    /// The default: a recent document; what only the owner or the conversation can know is refused until it is named.
    #[must_use]
    pub fn strict() -> Self {
        Self {
            age: Requirement::Exact(Age::Recent),
            recent: SignedDuration::from_mins(5),
            nonce: Requirement::AnyOf(Vec::new()),
            user_data: Requirement::Waived { reason: "the nonce and the key say everything".into() },
            public_key: Requirement::AnyOf(Vec::new()),
            instance: Requirement::AnyOf(Vec::new()),
            region: Requirement::AnyOf(Vec::new()),
            registers: Registers(std::collections::BTreeMap::new()),
        }
    }

    /// Waives a clause by its name; `false` when the policy has no requirement for it.
    pub fn waive(&mut self, name: &str, reason: &str) -> bool {
        let reason = reason.to_owned();
        match name {
            clause::TIMESTAMP => self.age = Requirement::Waived { reason },
            clause::NONCE => self.nonce = Requirement::Waived { reason },
            clause::USER_DATA => self.user_data = Requirement::Waived { reason },
            clause::PUBLIC_KEY => self.public_key = Requirement::Waived { reason },
            clause::INSTANCE => self.instance = Requirement::Waived { reason },
            clause::REGION => self.region = Requirement::Waived { reason },
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
            (clause::TIMESTAMP, "age"),
            (clause::NONCE, "nonce"),
            (clause::USER_DATA, "userData"),
            (clause::PUBLIC_KEY, "publicKey"),
            (clause::INSTANCE, "instance"),
            (clause::REGION, "region"),
        ];
        let others = [clause::SIGNATURE, clause::MODULE, clause::QUOTE_KEY, "nitro.unknown"];
        assert_waives(&Policy::strict(), Policy::waive, &clauses, &others);
    }
}
