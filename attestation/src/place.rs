//! Where an owner's machines may be: what a cloud says about a machine, as far as its owner knows it before it runs.
//!
//! A set of reference values says what a machine booted; anybody may boot that, in any account. Where the cloud's word
//! is all that stands behind a TPM, the place is what tells the owner's machine from a stranger's. There is no default:
//! without a place no machine of a cloud is accepted, and what the owner doesn't know has to be waived by name.

use serde::{Deserialize, Serialize};

use crate::{bytes::Bytes, gcp, nitro, reference::Requirement, tpm::registers::Registers};

/// What a cloud must say about a machine.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Place {
    /// EC2.
    Aws {
        /// Region, for example `eu-central-1`.
        region: Requirement<String>,
        /// Instance, for example `i-01cfb383223e42522`.
        instance: Requirement<String>,
    },
    /// Azure.
    Azure {
        /// Whether signatures are checked at boot.
        secure_boot: Requirement<bool>,
        /// Whether there is a console that the host can use.
        console: Requirement<bool>,
        /// The machine, `vmUniqueId` of the inventory.
        vm_id: Requirement<String>,
    },
    /// Google Cloud.
    Google {
        /// Whether the host is one of Google's production.
        production: Requirement<bool>,
        /// Name of the project.
        project: Requirement<String>,
        /// Zone.
        zone: Requirement<String>,
        /// Number of the instance.
        instance_id: Requirement<u64>,
    },
}

fn unknown<T>(why: &str) -> Requirement<T> {
    Requirement::Waived { reason: why.into() }
}

const LATER: &str = "known only once it runs; the launch configuration in PCR 15 says which node it is";

impl Place {
    /// A project of Google Cloud, in any zone of a region: zones are named by it and a letter.
    #[must_use]
    pub fn google(project: String, region: &str) -> Self {
        Self::Google {
            production: Requirement::Exact(true),
            project: Requirement::Exact(project),
            zone: Requirement::AnyOf(('a'..='z').map(|letter| format!("{region}-{letter}")).collect()),
            instance_id: unknown(LATER),
        }
    }

    /// A region of AWS.
    #[must_use]
    pub fn aws(region: String) -> Self {
        Self::Aws { region: Requirement::Exact(region), instance: unknown(LATER) }
    }

    /// Azure, whose paravisor names no subscription. Our images check the next stage themselves, so whether the firmware
    /// checks signatures is waived.
    #[must_use]
    pub fn azure() -> Self {
        Self::Azure {
            secure_boot: unknown("PCR 4 and 11 say exactly what was booted"),
            console: Requirement::Exact(false),
            vm_id: unknown(LATER),
        }
    }
}

/// A machine of Google Cloud of this place, in this state and conversation.
pub(crate) fn google(
    place: &Place,
    technology: Requirement<gcp::Technology>,
    nonce: Bytes,
    registers: Registers,
) -> Option<gcp::Policy> {
    let Place::Google { production, project, zone, instance_id } = place.clone() else { return None };
    Some(gcp::Policy {
        production,
        project,
        zone,
        instance_id,
        technology,
        nonce: Requirement::Exact(nonce),
        registers,
        ..gcp::Policy::strict()
    })
}

/// A document of AWS of this place, in this state and conversation.
pub(crate) fn aws(place: &Place, nonce: Bytes, public_key: Bytes, registers: Registers) -> Option<nitro::Policy> {
    let Place::Aws { region, instance } = place.clone() else { return None };
    Some(nitro::Policy {
        region,
        instance,
        nonce: Requirement::Exact(nonce),
        public_key: Requirement::Exact(public_key),
        registers,
        ..nitro::Policy::strict()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers() -> Registers {
        Registers::waived("test")
    }

    #[test]
    fn a_policy_is_of_the_place_the_conversation_and_the_registers_and_strict_in_the_rest() {
        let place = Place::google("project".into(), "eu-1");
        let technology = || Requirement::Exact(gcp::Technology::Snp);
        let nonce = || Bytes(vec![1]);
        let Place::Google { production, project, zone, instance_id } = place.clone() else { panic!("{place:?}") };
        let wanted = gcp::Policy {
            production,
            project,
            zone,
            instance_id,
            technology: technology(),
            nonce: Requirement::Exact(nonce()),
            registers: registers(),
            ..gcp::Policy::strict()
        };
        assert_eq!(google(&place, technology(), nonce(), registers()), Some(wanted));
        for other in [Place::aws("eu-1".into()), Place::azure()] {
            assert_eq!(google(&other, technology(), nonce(), registers()), None);
        }

        let place = Place::aws("eu-1".into());
        let Place::Aws { region, instance } = place.clone() else { panic!("{place:?}") };
        let wanted = nitro::Policy {
            region,
            instance,
            nonce: Requirement::Exact(nonce()),
            public_key: Requirement::Exact(Bytes(vec![2])),
            registers: registers(),
            ..nitro::Policy::strict()
        };
        assert_eq!(aws(&place, nonce(), Bytes(vec![2]), registers()), Some(wanted));
        for other in [Place::google("project".into(), "eu-1"), Place::azure()] {
            assert_eq!(aws(&other, nonce(), Bytes(vec![2]), registers()), None);
        }
    }
}
