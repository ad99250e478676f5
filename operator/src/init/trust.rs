//! The trust policy of a cluster: what is accepted, signed by its owner key.

use std::collections::BTreeSet;

use constellation_attestation::{
    dsse,
    owner::SigningKey,
    place::Place,
    policy::{MeasurementSet, TRUST_POLICY_TYPE, TrustPolicy},
};
use constellation_crds::{
    ConstellationClusterSpec,
    cluster::{AcceptedVersion, Provider},
};

use crate::version::appraise::private;

/// The policy that accepts these versions on one platform, with what the cluster's spec says of places and of members.
#[must_use]
pub fn policy(
    cluster_uid: &str,
    revision: u64,
    accepted: &[AcceptedVersion],
    platform: &str,
    endorsement_roots: Vec<String>,
    spec: &ConstellationClusterSpec,
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
    TrustPolicy {
        cluster_uid: cluster_uid.to_owned(),
        revision,
        sets,
        endorsement_roots,
        place: place(&spec.provider),
        reattestation_interval_seconds: spec
            .attestation
            .as_ref()
            .and_then(|after| after.reattestation_interval_seconds),
    }
}

/// Where a cluster's machines may be, as far as its spec says.
fn place(provider: &Provider) -> Option<Place> {
    let google = provider.gcp.as_ref().map(|gcp| Place::google(gcp.project.clone(), &gcp.region));
    let aws = || provider.aws.as_ref().map(|aws| Place::aws(aws.region.clone()));
    google.or_else(aws).or_else(|| provider.azure.as_ref().map(|_| Place::azure()))
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
    use constellation_attestation::reference::Requirement;
    use constellation_crds::{
        cluster::{AttestationPolicy, ControlPlane, LocalProvider, Tee},
        provider::{AwsProvider, AzureProvider, GcpProvider},
        version::MeasurementSet as Set,
    };

    use super::*;

    fn version(digest: &str, platform: &str) -> AcceptedVersion {
        let pcrs = ["4", "11", "12", "13"].map(|pcr| (pcr.to_owned(), vec!["0".repeat(64)]));
        let set = Set {
            name: "base".into(),
            platform: platform.into(),
            pcrs: pcrs.into(),
            events: [].into(),
            hardware: None,
        };
        AcceptedVersion { digest: digest.into(), name: "v".into(), sets: vec![set], image: None }
    }

    fn spec() -> ConstellationClusterSpec {
        ConstellationClusterSpec {
            provider: Provider { local: Some(LocalProvider {}), ..Provider::default() },
            tee: Tee::Vtpm,
            node_version: "v".into(),
            control_plane: ControlPlane { replicas: 1, instance_type: "2x2048".into(), state_disk: None },
            node_groups: vec![],
            network: None,
            master_secret: None,
            attestation: None,
            rollout: None,
            paused: None,
            deletion_protection: None,
            deletion_policy: None,
        }
    }

    #[test]
    fn sets_of_another_platform_are_left_out_and_names_stay_unique() {
        let accepted = [version("a", "qemu-vtpm"), version("b", "qemu-vtpm"), version("c", "simulated")];
        let policy = policy("u", 1, &accepted, "qemu-vtpm", vec![], &spec());
        policy.validate().unwrap();
        assert_eq!(policy.sets.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["base", "base-b"]);
    }

    #[test]
    fn a_place_is_the_providers_and_a_machine_of_qemu_has_none() {
        let gcp = GcpProvider { project: "p".into(), region: "europe-west4".into(), ..GcpProvider::default() };
        let place = place(&Provider { gcp: Some(gcp), ..Provider::default() });
        let Some(Place::Google { project, zone: Requirement::AnyOf(zones), .. }) = place else { panic!("{place:?}") };
        assert_eq!(project, Requirement::Exact("p".into()));
        assert!(zones.contains(&"europe-west4-a".to_owned()) && !zones.contains(&"europe-west1-a".to_owned()));
        let aws = AwsProvider { region: "eu-central-1".into(), ..AwsProvider::default() };
        let aws = super::place(&Provider { aws: Some(aws), ..Provider::default() });
        assert!(matches!(aws, Some(Place::Aws { region: Requirement::Exact(region), .. }) if region == "eu-central-1"));
        let azure = super::place(&Provider { azure: Some(AzureProvider::default()), ..Provider::default() });
        assert!(matches!(azure, Some(Place::Azure { console: Requirement::Exact(false), .. })));
        assert_eq!(super::place(&Provider { local: Some(LocalProvider {}), ..Provider::default() }), None);
    }

    #[test]
    fn another_interval_is_another_policy() {
        let with = |seconds| {
            let after = AttestationPolicy { reattestation_interval_seconds: seconds, on_failure: None };
            policy("u", 1, &[], "x", vec![], &ConstellationClusterSpec { attestation: Some(after), ..spec() })
        };
        assert_eq!(with(Some(60)).reattestation_interval_seconds, Some(60));
        assert!(same(&policy("u", 7, &[], "x", vec![], &spec()), &with(None)), "as before there was a setting");
        assert!(same(&with(Some(60)), &with(Some(60))));
        assert!(!same(&with(None), &with(Some(60))) && !same(&with(Some(0)), &with(Some(60))));
    }

    #[test]
    fn only_the_owners_signature_is_believed() {
        let (owner, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let policy = policy("u", 7, &[version("a", "x")], "x", vec![], &spec());
        let envelope = sign(&policy, &owner);
        assert_eq!(read(&envelope, &owner.public_spki()), Some(policy));
        assert_eq!(read(&envelope, &other.public_spki()), None);
    }
}
