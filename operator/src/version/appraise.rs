//! From a version and its manifest to its status. Pure and total: whatever is missing or wrong is a condition.

use std::collections::BTreeMap;

use constellation_attestation::{
    dsse,
    owner::{fingerprint, spki_from_pem},
    platform::{self, Platform},
    policy::{self, MANIFEST_TYPE, MeasurementManifest},
    snp::floors,
};
use constellation_crds::{
    NodeVersion, NodeVersionStatus,
    condition::{self, Status, kind, reason},
    version::MeasurementSet,
};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

/// Key of the envelope in its `ConfigMap`.
pub const MANIFEST_KEY: &str = "manifest.dsse.json";
/// Platform that measures nothing and so needs no registers.
const SIMULATED: &str = "simulated";

/// What was found where the manifest should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// This envelope.
    Envelope(String),
    /// The sets stand in the version itself.
    Inline,
    /// Nothing.
    Missing,
}

/// Everything that is looked at.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// The version.
    pub version: &'a NodeVersion,
    /// Its manifest.
    pub manifest: &'a Manifest,
    /// When.
    pub now: Timestamp,
}

/// What stands behind the sets.
struct Resolved {
    sets: Vec<MeasurementSet>,
    signer: Option<String>,
    revision: Option<u64>,
}

/// Why a version can't be used: condition reason and what to do.
struct Problem(&'static str, String);

/// The version's status.
#[must_use]
pub fn appraise(seen: &Observed<'_>) -> NodeVersionStatus {
    let generation = seen.version.metadata.generation;
    let before = seen.version.status.clone().unwrap_or_default();
    let mut status = NodeVersionStatus {
        observed_generation: generation,
        conditions: before.conditions.clone(),
        ..NodeVersionStatus::default()
    };
    let mut set = |what, state, why, message: String| {
        condition::set(&mut status.conditions, what, state, why, message, generation, seen.now);
    };
    match resolve(seen, before.revision) {
        Ok(resolved) => {
            match &resolved.signer {
                Some(signer) => {
                    set(kind::SIGNATURE_VERIFIED, Status::True, reason::SIGNATURE_VALID, format!("signed by {signer}"));
                }
                None => set(
                    kind::SIGNATURE_VERIFIED,
                    Status::Unknown,
                    reason::INLINE,
                    "the sets stand in the object: whoever may edit it vouches for them".into(),
                ),
            }
            set(
                kind::READY,
                Status::True,
                reason::RECONCILED,
                format!("{} measurement set(s) can be used", resolved.sets.len()),
            );
            status.digest = Some(digest(seen.version, &resolved.sets));
            status.signer = resolved.signer;
            status.revision = resolved.revision;
            status.sets = resolved.sets;
        }
        Err(Problem(why, message)) => {
            let signed = matches!(why, reason::SIGNATURE_INVALID | reason::MANIFEST_NOT_FOUND);
            if signed {
                set(kind::SIGNATURE_VERIFIED, Status::False, why, message.clone());
            } else {
                set(kind::SIGNATURE_VERIFIED, Status::Unknown, why, "nothing was verified".into());
            }
            set(kind::READY, Status::False, why, message);
            // The highest revision ever accepted stays, or an older manifest would pass after a broken one.
            status.revision = before.revision;
        }
    }
    status
}

fn resolve(seen: &Observed<'_>, last: Option<u64>) -> Result<Resolved, Problem> {
    let spec = &seen.version.spec;
    let resolved = match (&spec.measurements.inline, &spec.measurements.signed, seen.manifest) {
        (Some(sets), None, _) => Resolved {
            sets: sets.iter().cloned().map(with_floors).collect::<Result<_, _>>()?,
            signer: None,
            revision: None,
        },
        (None, Some(signed), Manifest::Envelope(envelope)) => {
            let key = spki_from_pem(&signed.public_key).map_err(|e| {
                Problem(
                    reason::INVALID_SPEC,
                    format!("measurements.signed.publicKey: {e}; give the publisher's P-256 key as PEM"),
                )
            })?;
            let payload = dsse::verify(envelope, MANIFEST_TYPE, &key).map_err(|e| {
                Problem(
                    reason::SIGNATURE_INVALID,
                    format!("the manifest in ConfigMap {} is refused: {e}", signed.config_map),
                )
            })?;
            let manifest: MeasurementManifest = serde_json::from_slice(&payload)
                .map_err(|e| Problem(reason::MANIFEST_INVALID, format!("the signed manifest can't be read: {e}")))?;
            manifest
                .validate()
                .map_err(|e| Problem(reason::MANIFEST_INVALID, format!("the signed manifest can't be used: {e}")))?;
            if manifest.kubernetes_version != spec.kubernetes_version {
                let (wanted, given) = (&spec.kubernetes_version, &manifest.kubernetes_version);
                return Err(Problem(
                    reason::MANIFEST_INVALID,
                    format!("the manifest is for Kubernetes {given}, kubernetesVersion says {wanted}"),
                ));
            }
            manifest
                .in_force(last, seen.now)
                .map_err(|e| Problem(reason::MANIFEST_TOO_OLD, format!("the signed manifest is refused: {e}")))?;
            Resolved {
                sets: manifest.sets.into_iter().map(public).collect::<Result<_, _>>()?,
                signer: Some(fingerprint(&key)),
                revision: Some(manifest.revision),
            }
        }
        (None, Some(signed), _) => {
            let name = &signed.config_map;
            return Err(Problem(
                reason::MANIFEST_NOT_FOUND,
                format!("ConfigMap {name} with key {MANIFEST_KEY} isn't there; create it in this namespace"),
            ));
        }
        _ => {
            return Err(Problem(
                reason::INVALID_SPEC,
                "give exactly one of measurements.inline and measurements.signed".into(),
            ));
        }
    };
    if resolved.sets.is_empty() {
        return Err(Problem(reason::NO_MEASUREMENTS, "there is no measurement set: nothing would be accepted".into()));
    }
    for set in resolved.sets.iter().filter(|set| set.platform != SIMULATED) {
        private(set).and_then(|set| set.validate().map_err(|e| e.to_string())).map_err(|e| {
            Problem(reason::MANIFEST_INVALID, format!("measurement set {} can't be used: {e}", set.name))
        })?;
    }
    Ok(resolved)
}

/// The set with floors that it names by their date written out, so that status and trust bundle show what they are.
fn with_floors(mut set: MeasurementSet) -> Result<MeasurementSet, Problem> {
    let wanted = set.hardware.as_mut().and_then(|hardware| hardware.0.get_mut("snp")?.as_object_mut());
    // A platform that isn't one is refused later, by its name.
    if let (Some(wanted), Ok(platform)) = (wanted, set.platform.parse::<Platform>()) {
        floors::resolve(platform, wanted).map_err(|e| {
            Problem(reason::MANIFEST_INVALID, format!("measurement set {} can't be used: hardware.snp: {e}", set.name))
        })?;
    }
    Ok(set)
}

/// A set as the API shows it.
fn public(set: policy::MeasurementSet) -> Result<MeasurementSet, Problem> {
    let hardware = set.hardware.map(|hardware| serde_json::from_value(serde_json::json!(hardware))).transpose();
    Ok(MeasurementSet {
        hardware: hardware.map_err(|e| {
            Problem(reason::MANIFEST_INVALID, format!("measurement set {}: hardware can't be shown: {e}", set.name))
        })?,
        name: set.name,
        platform: set.platform.to_string(),
        pcrs: set.pcrs.into_iter().map(|(pcr, values)| (pcr.to_string(), values)).collect(),
        events: set.events.into_iter().map(|(pcr, digests)| (pcr.to_string(), digests)).collect(),
    })
}

/// A set as the trust policy has it.
///
/// # Errors
/// When a register's number isn't one, the platform is unknown, or what is wanted of the hardware can't be read.
pub fn private(set: &MeasurementSet) -> Result<policy::MeasurementSet, String> {
    let registers = |map: &BTreeMap<String, Vec<String>>| {
        map.iter()
            .map(|(pcr, values)| Ok((pcr.parse().map_err(|_| format!("{pcr} isn't a register"))?, values.clone())))
            .collect::<Result<BTreeMap<u8, _>, String>>()
    };
    let platform = set.platform.parse().map_err(|e: platform::Unknown| e.to_string())?;
    let found = policy::MeasurementSet::of_registers(set.name.clone(), platform, registers(&set.pcrs)?);
    let hardware = set.hardware.as_ref().map(|wanted| serde_json::from_value(serde_json::json!(wanted))).transpose();
    let hardware = hardware.map_err(|e| format!("hardware: {e}"))?;
    Ok(policy::MeasurementSet { events: registers(&set.events)?, hardware, ..found })
}

/// Two versions with the same digest are the same node: image, Kubernetes and sets, not names or revisions.
fn digest(version: &NodeVersion, sets: &[MeasurementSet]) -> String {
    let spec = &version.spec;
    let text = serde_json::json!([spec.image, spec.kubernetes_version, sets]).to_string();
    hex::encode(Sha256::digest(text))
}

#[cfg(test)]
mod tests;
