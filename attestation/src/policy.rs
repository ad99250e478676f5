//! What the owner accepts: typed, signed, and never empty.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    place::Place,
    platform::{Platform, Tee},
    predict, snp, tdx,
    tpm::Hash,
};

/// DSSE payload type of a [`TrustPolicy`].
pub const TRUST_POLICY_TYPE: &str = "application/vnd.constellation.trust-policy.v1+json";
/// DSSE payload type of a [`MeasurementManifest`].
pub const MANIFEST_TYPE: &str = "application/vnd.constellation.measurements.v1+json";
/// Registers that every set for a TPM must give: boot loader, kernel image and command line (4, 11), anything the
/// host may add from outside (12, 13). Source: UAPI.7 and systemd-stub(7), "TPM PCR notes".
pub const REQUIRED_PCRS: [u8; 4] = [4, 11, 12, 13];
/// The register of the launch configuration: known for each node, so no set may give it.
pub const LAUNCH_PCR: u8 = 15;

/// Why a policy can't be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// It accepts nothing.
    #[error("{0} is empty; nothing would be accepted")]
    Empty(&'static str),
    /// A manifest has ended.
    #[error("it ended on {0}; publish a newer one, or set the clock if that day is yet to come")]
    Expired(Timestamp),
    /// A newer manifest was used before.
    #[error("its revision {given} is older than {last}, which was used before; publish a newer one")]
    Older {
        /// Its revision.
        given: u64,
        /// The greatest that was used.
        last: u64,
    },
    /// Two sets have one name.
    #[error("two sets are named {0}")]
    Name(String),
    /// A set lacks a register that must be pinned.
    #[error("set {set} doesn't give PCR {pcr}")]
    Missing {
        /// The set.
        set: String,
        /// The register.
        pcr: u8,
    },
    /// What a set wants of the hardware isn't what its platform has, or leaves open what was launched.
    #[error("set {set} for {platform}: {problem}")]
    Hardware {
        /// The set.
        set: String,
        /// Its platform.
        platform: Platform,
        /// What is wrong.
        problem: &'static str,
    },
    /// A set gives a register that can't be given, or a value that isn't one.
    #[error("set {set}: PCR {pcr} {problem}")]
    Register {
        /// The set.
        set: String,
        /// The register.
        pcr: u8,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// One set of reference values. A machine matches all of one set, or none.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeasurementSet {
    /// Name, unique in a policy.
    pub name: String,
    /// Platform it is for.
    pub platform: Platform,
    /// Register to accepted values, lower-case hex: of the SHA-384 bank where the TPM's own document proves them
    /// (`NitroTPM`), else of the SHA-256 bank. Empty where the platform has no TPM.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pcrs: BTreeMap<u8, Vec<String>>,
    /// Register to the digests of the events that lead from zero to its value, lower-case hex, in order. Where they are
    /// given, a refusal can name the event that differs; nothing is accepted for their sake.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub events: BTreeMap<u8, Vec<String>>,
    /// What the hardware must report, the launch clause first; there exactly where the platform has such hardware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<Hardware>,
}

/// What a report of the hardware must be. What the conversation wants attested is filled in by the verifier and stands
/// in no set.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Hardware {
    /// An AMD SEV-SNP report.
    Snp(Box<snp::Policy>),
    /// An Intel TDX quote.
    Tdx(Box<tdx::Policy>),
}

impl Hardware {
    /// The hardware it is about.
    #[must_use]
    pub const fn tee(&self) -> Tee {
        match self {
            Self::Snp(_) => Tee::Snp,
            Self::Tdx(_) => Tee::Tdx,
        }
    }

    /// Whether it says what was launched.
    fn names_launch(&self) -> bool {
        match self {
            // The one thing that a set may leave open is what a conversation wants attested.
            Self::Snp(policy) => {
                matches!(policy.validate(), Ok(()) | Err(snp::policy::Error::Open(snp::clause::REPORT_DATA)))
            }
            Self::Tdx(policy) => {
                matches!(policy.validate(), Ok(()) | Err(tdx::policy::Error::Open(tdx::clause::REPORT_DATA)))
            }
        }
    }
}

impl MeasurementSet {
    /// A set of registers of a TPM.
    #[must_use]
    pub fn of_registers(name: String, platform: Platform, pcrs: BTreeMap<u8, Vec<String>>) -> Self {
        Self { name, platform, pcrs, events: BTreeMap::new(), hardware: None }
    }

    /// Checks that the set pins what must be pinned, with values that can be met.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), Error> {
        if self.name.is_empty() {
            return Err(Error::Empty("a set's name"));
        }
        self.validate_hardware()?;
        let Some(register_bytes) = self.platform.register_bytes() else {
            return match self.pcrs.keys().next() {
                Some(&pcr) => Err(Error::Register {
                    set: self.name.clone(),
                    pcr,
                    problem: "is given, but the platform has no TPM",
                }),
                None => Ok(()),
            };
        };
        for pcr in REQUIRED_PCRS {
            if !self.pcrs.contains_key(&pcr) {
                return Err(Error::Missing { set: self.name.clone(), pcr });
            }
        }
        for (&pcr, values) in &self.pcrs {
            let refuse = |problem| Err(Error::Register { set: self.name.clone(), pcr, problem });
            if pcr == LAUNCH_PCR {
                return refuse("is known for each node and can't be given");
            }
            if pcr > 15 {
                return refuse("can be reset and can't be given");
            }
            if values.is_empty() {
                return refuse("has no value");
            }
            let is_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
            if values.iter().any(|value| value.len() != 2 * register_bytes || !value.bytes().all(is_hex)) {
                return refuse("isn't a digest of the platform's bank in lower-case hex");
            }
        }
        self.validate_events()
    }

    /// Events that lead elsewhere would explain a refusal wrongly.
    fn validate_events(&self) -> Result<(), Error> {
        for pcr in self.events.keys() {
            let value = self.events_of(*pcr).map(|events| hex::encode(predict::replay(Hash::Sha256, &events)));
            let leads = value.zip(self.pcrs.get(pcr)).is_some_and(|(value, wanted)| wanted.contains(&value));
            if !leads {
                return Err(Error::Register {
                    set: self.name.clone(),
                    pcr: *pcr,
                    problem: "isn't what its events lead to",
                });
            }
        }
        Ok(())
    }

    /// Digests of a register's events; none where the set doesn't give them.
    #[must_use]
    pub fn events_of(&self, pcr: u8) -> Option<Vec<[u8; 32]>> {
        let parse = |text: &String| hex::decode(text).ok()?.try_into().ok();
        self.events.get(&pcr)?.iter().map(parse).collect()
    }

    fn validate_hardware(&self) -> Result<(), Error> {
        let refuse = |problem| Err(Error::Hardware { set: self.name.clone(), platform: self.platform, problem });
        match (self.platform.tee(), &self.hardware) {
            (None, Some(_)) => refuse("its hardware gives no report, so none can be wanted"),
            (Some(_), None) => refuse("it has no launch clause"),
            (Some(tee), Some(wanted)) if wanted.tee() != tee => refuse("it wants a report of other hardware"),
            (Some(_), Some(wanted)) if !wanted.names_launch() => {
                refuse("its launch clause accepts anything or nothing")
            }
            (None, None) | (Some(_), Some(_)) => Ok(()),
        }
    }
}

/// What the owner of a cluster accepts, at one revision.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustPolicy {
    /// UID of the cluster.
    pub cluster_uid: String,
    /// Grows with every change; an older one is refused.
    pub revision: u64,
    /// Accepted sets, each as a whole.
    pub sets: Vec<MeasurementSet>,
    /// CAs (PEM) of endorsement keys; empty refuses every TPM that its maker has to endorse.
    pub endorsement_roots: Vec<String>,
    /// Where machines of a cloud may be; absent refuses all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Seconds between two re-attestations of a member; 0: never. Absent: as its verifiers were started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reattestation_interval_seconds: Option<u32>,
}

impl TrustPolicy {
    /// Checks every set.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), Error> {
        if self.cluster_uid.is_empty() {
            return Err(Error::Empty("the cluster's UID"));
        }
        validate_sets(&self.sets)
    }
}

/// What the publisher of an image says a machine measures that booted it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeasurementManifest {
    /// Grows with every release; an older one is refused.
    pub revision: u64,
    /// Version of Kubernetes in the image, for example `v1.36.3`.
    pub kubernetes_version: String,
    /// SHA-256 of the disk image, hex.
    pub image_sha256: String,
    /// Its sets.
    pub sets: Vec<MeasurementSet>,
    /// When it ends, if its publisher says so: no node is made by it then, so that who holds back newer ones gains time
    /// but not for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

impl MeasurementManifest {
    /// Whether it may be used at a time, after another one of revision `last` was used.
    ///
    /// # Errors
    /// When it is older than that one, or has ended.
    pub fn in_force(&self, last: Option<u64>, now: Timestamp) -> Result<(), Error> {
        if let Some(last) = last.filter(|last| self.revision < *last) {
            return Err(Error::Older { given: self.revision, last });
        }
        match self.expires {
            Some(end) if now >= end => Err(Error::Expired(end)),
            _ => Ok(()),
        }
    }

    /// Checks every set.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), Error> {
        validate_sets(&self.sets)
    }
}

fn validate_sets(sets: &[MeasurementSet]) -> Result<(), Error> {
    if sets.is_empty() {
        return Err(Error::Empty("the list of sets"));
    }
    let mut names = std::collections::BTreeSet::new();
    for set in sets {
        set.validate()?;
        if !names.insert(&set.name) {
            return Err(Error::Name(set.name.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Requirement;

    fn good() -> MeasurementSet {
        MeasurementSet::of_registers("a".into(), Platform::QemuVtpm, registers(64))
    }

    fn registers(digits: usize) -> BTreeMap<u8, Vec<String>> {
        REQUIRED_PCRS.into_iter().map(|pcr| (pcr, vec!["0".repeat(digits)])).collect()
    }

    fn tdx(platform: Platform) -> MeasurementSet {
        let mut policy = tdx::Policy::strict();
        policy.mrtd = Requirement::Exact(tdx::bytes::Hex([1; 48]));
        let pcrs = platform.register_bytes().map(|bytes| registers(2 * bytes)).unwrap_or_default();
        MeasurementSet {
            hardware: Some(Hardware::Tdx(Box::new(policy))),
            ..MeasurementSet::of_registers("t".into(), platform, pcrs)
        }
    }

    fn snp(platform: Platform) -> MeasurementSet {
        let mut policy = snp::Policy::strict();
        policy.measurement = Requirement::Exact(crate::bytes::Hex([1; 48]));
        policy.reported_tcb =
            snp::tcb::PerProduct::every(&Requirement::AtLeast("bl=1,tee=0,snp=1,ucode=1".parse().unwrap()));
        let pcrs = platform.register_bytes().map(|bytes| registers(2 * bytes)).unwrap_or_default();
        MeasurementSet {
            hardware: Some(Hardware::Snp(Box::new(policy))),
            ..MeasurementSet::of_registers("s".into(), platform, pcrs)
        }
    }

    #[test]
    fn a_set_for_snp_says_what_was_launched_and_under_which_tcb() {
        for platform in [Platform::Snp, Platform::AwsSnp, Platform::AzureSnp, Platform::GcpSnp] {
            assert_eq!(snp(platform).validate(), Ok(()), "{platform}");
            for clause in [snp::clause::MEASUREMENT, snp::clause::TCB_REPORTED] {
                let mut set = snp(platform);
                let Some(Hardware::Snp(policy)) = &mut set.hardware else { unreachable!("made above") };
                assert!(policy.waive(clause, "no"));
                assert!(matches!(set.validate(), Err(Error::Hardware { .. })), "{platform} {clause}");
            }
        }
        let set = MeasurementSet { platform: Platform::QemuTdx, ..snp(Platform::Snp) };
        assert!(matches!(set.validate(), Err(Error::Hardware { .. })));
    }

    #[test]
    fn a_set_for_hardware_without_a_launch_clause_is_invalid() {
        for platform in Platform::ALL.into_iter().filter(|platform| platform.tee().is_some()) {
            let pcrs = platform.register_bytes().map(|bytes| registers(2 * bytes)).unwrap_or_default();
            let set = MeasurementSet::of_registers("t".into(), platform, pcrs);
            assert!(matches!(set.validate(), Err(Error::Hardware { .. })), "{platform}");
        }
        for platform in [Platform::QemuTdx, Platform::GcpTdx, Platform::AzureTdx] {
            assert_eq!(tdx(platform).validate(), Ok(()), "{platform}");
            for open in [Requirement::AnyOf(vec![]), Requirement::Waived { reason: "no".into() }] {
                let mut set = tdx(platform);
                let Some(Hardware::Tdx(policy)) = &mut set.hardware else { unreachable!("made above") };
                policy.mrtd = open;
                assert!(matches!(set.validate(), Err(Error::Hardware { .. })), "{platform}");
            }
        }
        for other in [Platform::QemuVtpm, Platform::Snp] {
            let set = MeasurementSet { platform: other, ..tdx(Platform::QemuTdx) };
            assert!(matches!(set.validate(), Err(Error::Hardware { .. })), "{other}");
        }
    }

    #[test]
    fn registers_are_of_the_platforms_bank_and_none_where_there_is_no_tpm() {
        for (platform, digits) in [(Platform::QemuVtpm, 64), (Platform::AwsNitroTpm, 96)] {
            assert_eq!(MeasurementSet::of_registers("a".into(), platform, registers(digits)).validate(), Ok(()));
            let other = MeasurementSet::of_registers("a".into(), platform, registers(160 - digits));
            assert!(matches!(other.validate(), Err(Error::Register { .. })), "{platform}");
        }
        let set = MeasurementSet { pcrs: registers(64), ..tdx(Platform::QemuTdx) };
        assert!(matches!(set.validate(), Err(Error::Register { .. })));
    }

    #[test]
    fn a_set_of_registers_is_the_json_it_always_was() {
        let json = format!(
            r#"{{"name":"a","platform":"qemu-vtpm","pcrs":{{"4":["{0}"],"11":["{0}"],"12":["{0}"],"13":["{0}"]}}}}"#,
            "0".repeat(64)
        );
        assert_eq!(serde_json::to_string(&good()).unwrap(), json);
        assert_eq!(serde_json::from_str::<MeasurementSet>(&json).unwrap(), good());
    }

    #[test]
    fn a_set_that_pins_what_must_be_pinned_is_valid_and_each_lack_is_named() {
        assert_eq!(good().validate(), Ok(()));
        for pcr in REQUIRED_PCRS {
            let mut set = good();
            set.pcrs.remove(&pcr);
            assert_eq!(set.validate(), Err(Error::Missing { set: "a".into(), pcr }));
            set.pcrs.insert(pcr, vec![]);
            assert!(matches!(set.validate(), Err(Error::Register { problem: "has no value", .. })));
        }
        for pcr in [LAUNCH_PCR, 16, 23] {
            let mut set = good();
            set.pcrs.insert(pcr, vec!["0".repeat(64)]);
            assert!(matches!(set.validate(), Err(Error::Register { .. })));
        }
    }

    #[test]
    fn a_manifest_that_is_older_or_has_ended_is_not_in_force() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut manifest = MeasurementManifest {
            revision: 3,
            kubernetes_version: "v1.36.3".into(),
            image_sha256: "0".repeat(64),
            sets: vec![good()],
            expires: None,
        };
        assert_eq!(manifest.in_force(None, at(100)), Ok(()));
        assert_eq!(manifest.in_force(Some(3), at(100)), Ok(()));
        assert_eq!(manifest.in_force(Some(4), at(100)), Err(Error::Older { given: 3, last: 4 }));
        assert!(!serde_json::to_string(&manifest).unwrap().contains("expires"));
        manifest.expires = Some(at(100));
        assert_eq!(manifest.in_force(None, at(99)), Ok(()));
        assert_eq!(manifest.in_force(None, at(100)), Err(Error::Expired(at(100))));
    }

    #[test]
    fn a_manifest_is_as_good_as_each_of_its_sets() {
        let mut manifest = MeasurementManifest {
            revision: 1,
            kubernetes_version: "v1.36.3".into(),
            image_sha256: "0".repeat(64),
            sets: vec![good()],
            expires: None,
        };
        assert_eq!(manifest.validate(), Ok(()));
        manifest.sets.push(good());
        assert_eq!(manifest.validate(), Err(Error::Name("a".into())));
        manifest.sets.pop();
        manifest.sets[0].pcrs.remove(&4);
        assert_eq!(manifest.validate(), Err(Error::Missing { set: "a".into(), pcr: 4 }));
        manifest.sets.clear();
        assert!(matches!(manifest.validate(), Err(Error::Empty(_))));
    }

    #[test]
    fn a_policy_without_sets_or_with_two_of_one_name_is_invalid() {
        let mut policy = TrustPolicy {
            cluster_uid: "c".into(),
            revision: 1,
            sets: vec![good()],
            endorsement_roots: vec![],
            place: None,
            reattestation_interval_seconds: None,
        };
        assert_eq!(policy.validate(), Ok(()));
        policy.sets.push(good());
        assert_eq!(policy.validate(), Err(Error::Name("a".into())));
        policy.sets.clear();
        assert!(matches!(policy.validate(), Err(Error::Empty(_))));
    }

    #[test]
    fn a_policy_says_how_often_members_are_asked_and_one_from_before_that_is_read() {
        let before = format!(
            r#"{{"clusterUid":"c","revision":1,"sets":[{}],"endorsementRoots":[]}}"#,
            serde_json::to_string(&good()).unwrap()
        );
        let mut policy: TrustPolicy = serde_json::from_str(&before).unwrap();
        assert_eq!(policy.reattestation_interval_seconds, None);
        assert_eq!(serde_json::to_string(&policy).unwrap(), before);
        policy.reattestation_interval_seconds = Some(0);
        let told = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<TrustPolicy>(&told).unwrap(), policy);
        let unknown = told.replace("reattestationIntervalSeconds", "reattestationIntervalMinutes");
        assert!(serde_json::from_str::<TrustPolicy>(&unknown).is_err());
    }

    #[test]
    fn events_lead_to_a_value_of_their_register_or_the_set_is_refused() {
        let event = [7; 32];
        let mut set = good();
        set.pcrs.insert(11, vec![hex::encode(predict::replay(Hash::Sha256, &[event]))]);
        set.events.insert(11, vec![hex::encode(event)]);
        assert_eq!(set.validate(), Ok(()));
        for wrong in [vec![hex::encode([8; 32])], vec![], vec!["07".into()]] {
            set.events.insert(11, wrong);
            assert!(matches!(set.validate(), Err(Error::Register { pcr: 11, .. })));
        }
    }
}
