//! The trust policy of a cluster: what is accepted, signed by its owner key.

use std::collections::BTreeSet;

use constellation_attestation::{
    dsse,
    owner::SigningKey,
    policy::{MeasurementSet, TRUST_POLICY_TYPE, TrustPolicy},
};
use constellation_crds::cluster::AcceptedVersion;

use crate::version::appraise::private;

/// The policy that accepts these versions on one platform.
#[must_use]
pub fn policy(
    cluster_uid: &str,
    revision: u64,
    accepted: &[AcceptedVersion],
    platform: &str,
    endorsement_roots: Vec<String>,
) -> TrustPolicy {
    let mut names = BTreeSet::new();
    let mut sets = Vec::new();
    for version in accepted {
        for set in version.sets.iter().filter(|set| set.platform == platform) {
            // A register that is no number or a platform that is unknown can't be checked: the whole set accepts nothing.
            let Ok(set) = private(set) else { continue };
            let mut name = set.name.clone();
            if !names.insert(name.clone()) {
                name = format!("{name}-{}", version.digest.get(..8).unwrap_or(&version.digest));
                names.insert(name.clone());
            }
            sets.push(MeasurementSet { name, ..set });
        }
    }
    TrustPolicy { cluster_uid: cluster_uid.to_owned(), revision, sets, endorsement_roots }
}

/// The envelope for a trust bundle.
///
/// # Panics
/// Never: a struct of strings and numbers serialises.
#[must_use]
pub fn sign(policy: &TrustPolicy, owner: &SigningKey) -> String {
    let json = serde_json::to_vec(policy).expect("a struct of strings and numbers serialises");
    dsse::sign(TRUST_POLICY_TYPE, &json, owner)
}

/// The policy in an envelope, if the owner signed it.
#[must_use]
pub fn read(envelope: &str, owner_spki: &[u8]) -> Option<TrustPolicy> {
    serde_json::from_slice(&dsse::verify(envelope, TRUST_POLICY_TYPE, owner_spki).ok()?).ok()
}

/// Whether two policies accept the same.
#[must_use]
pub fn same(a: &TrustPolicy, b: &TrustPolicy) -> bool {
    TrustPolicy { revision: 0, ..a.clone() } == TrustPolicy { revision: 0, ..b.clone() }
}

#[cfg(test)]
mod tests {
    use constellation_crds::version::MeasurementSet as Set;

    use super::*;

    fn version(digest: &str, platform: &str) -> AcceptedVersion {
        let pcrs = ["4", "11", "12", "13"].map(|pcr| (pcr.to_owned(), vec!["0".repeat(64)]));
        let set = Set { name: "base".into(), platform: platform.into(), pcrs: pcrs.into(), events: [].into() };
        AcceptedVersion { digest: digest.into(), name: "v".into(), sets: vec![set] }
    }

    #[test]
    fn sets_of_another_platform_are_left_out_and_names_stay_unique() {
        let accepted = [version("a", "qemu-vtpm"), version("b", "qemu-vtpm"), version("c", "simulated")];
        let policy = policy("u", 1, &accepted, "qemu-vtpm", vec![]);
        policy.validate().unwrap();
        assert_eq!(policy.sets.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["base", "base-b"]);
    }

    #[test]
    fn only_the_owners_signature_is_believed() {
        let (owner, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let policy = policy("u", 7, &[version("a", "x")], "x", vec![]);
        let envelope = sign(&policy, &owner);
        assert_eq!(read(&envelope, &owner.public_spki()), Some(policy));
        assert_eq!(read(&envelope, &other.public_spki()), None);
    }
}
