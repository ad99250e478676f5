//! Floors of the TCB as dated data: what AMD's bulletins ask for, cloud by cloud, since when and why.
//!
//! A cloud is at its own pace: EC2 reports less microcode than it runs, so AMD's floor would refuse all of it. A bundle is
//! a proposal for an owner's policy and never applied by itself: an owner copies its values, or names it by its date
//! ([`resolve`]). The values are from genuine reports and public tables (`docs/trust.md`), and no bulletin's text was at hand.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    policy::Policy,
    product::Product,
    tcb::{PerProduct, Tcb},
};
use crate::{platform::Platform, reference::Requirement};

/// Member of what is wanted of a report that names a bundle by its date, `YYYY-MM-DD`, in place of [`MEMBERS`].
pub const NAME: &str = "floors";
/// Members of a [`Policy`] that a bundle gives.
pub const MEMBERS: [&str; 4] = ["reportedTcb", "committedTcb", "launchTcb", "provisional"];
/// The data.
const BUNDLES: &str = include_str!("floors.json");

/// Floors for the machines of one platform, from a time on.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Since when it should be held.
    pub from: Timestamp,
    /// Whose machines it is for.
    pub platform: Platform,
    /// Whether that platform runs firmware that it can still roll back.
    pub provisional: bool,
    /// Floors of what the signing key stands for. A product that isn't named isn't accepted.
    pub reported: BTreeMap<Product, Tcb>,
    /// Floors of what can't be rolled back.
    pub committed: BTreeMap<Product, Tcb>,
    /// Floors of what the guest was launched under.
    pub launch: BTreeMap<Product, Tcb>,
    /// Bulletins, and what else decides.
    pub because: String,
}

impl Bundle {
    /// The newest bundle for a platform that is held at a time.
    #[must_use]
    pub fn of(platform: Platform, at: Timestamp) -> Option<Self> {
        let held = bundles().into_iter().filter(|bundle| bundle.platform == platform && bundle.from <= at);
        held.max_by_key(|bundle| bundle.from)
    }

    /// The day since which it should be held, which is its name: `YYYY-MM-DD`.
    #[must_use]
    pub fn date(&self) -> String {
        self.from.strftime("%Y-%m-%d").to_string()
    }

    /// Writes the floors into a policy.
    pub fn apply(&self, policy: &mut Policy) {
        let floors = |floors: &BTreeMap<Product, Tcb>| PerProduct::at_least(floors.clone());
        policy.reported_tcb = floors(&self.reported);
        policy.committed_tcb = floors(&self.committed);
        policy.launch_tcb = floors(&self.launch);
        policy.provisional =
            if self.provisional { Requirement::AnyOf(vec![false, true]) } else { Requirement::Exact(false) };
    }
}

/// Why floors that are named can't be used.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A member is given that the floors would give.
    #[error("floors names the values of {0}: give one of both")]
    Both(&'static str),
    /// There is no bundle of that date for the platform.
    #[error("floors of {given} aren't known for {platform}; known are {}", or_none(known))]
    Unknown {
        /// What was given.
        given: String,
        /// Whose machines it is for.
        platform: Platform,
        /// The dates that are known for it.
        known: Vec<String>,
    },
}

fn or_none(known: &[String]) -> String {
    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
}

/// Puts the floors of the bundle that `wanted`, a [`Policy`] as JSON, names by its date into it; without a name it stays as
/// it is. Only a bundle's very own date names it, so what a name means never changes.
///
/// # Errors
/// When no bundle of the platform is of that date, or floors are given as well. Nothing is ever assumed.
pub fn resolve(platform: Platform, wanted: &mut Map<String, Value>) -> Result<(), Error> {
    let Some(given) = wanted.get(NAME) else { return Ok(()) };
    if let Some(member) = MEMBERS.into_iter().find(|member| wanted.contains_key(*member)) {
        return Err(Error::Both(member));
    }
    let of_platform: Vec<_> = bundles().into_iter().filter(|bundle| bundle.platform == platform).collect();
    let Some(bundle) = of_platform.iter().find(|bundle| given.as_str() == Some(&bundle.date())) else {
        let given = given.as_str().map_or_else(|| given.to_string(), ToOwned::to_owned);
        return Err(Error::Unknown { given, platform, known: of_platform.iter().map(Bundle::date).collect() });
    };
    let mut policy = Policy::strict();
    bundle.apply(&mut policy);
    let Policy { reported_tcb, committed_tcb, launch_tcb, provisional, .. } = policy;
    let values = [json!(reported_tcb), json!(committed_tcb), json!(launch_tcb), json!(provisional)];
    wanted.remove(NAME);
    wanted.extend(MEMBERS.map(ToOwned::to_owned).into_iter().zip(values));
    Ok(())
}

/// All bundles; none, should the data not be readable (a test holds that they are).
#[must_use]
pub fn bundles() -> Vec<Bundle> {
    serde_json::from_str(BUNDLES).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn every_bundle_can_be_read_and_says_why() {
        let all: Vec<Bundle> = serde_json::from_str(BUNDLES).unwrap();
        for bundle in &all {
            let name = (bundle.platform, bundle.from);
            assert!(bundle.because.contains("AMD-SB-"), "{name:?}");
            assert!(!bundle.reported.is_empty(), "{name:?}");
            for (product, launch) in &bundle.launch {
                assert!(bundle.reported[product] <= *launch && bundle.committed[product] >= *launch, "{name:?}");
            }
            assert_eq!(all.iter().filter(|other| (other.platform, other.from) == name).count(), 1, "{name:?}");
        }
        let clouds = [Platform::AwsSnp, Platform::AzureSnp, Platform::GcpSnp, Platform::Snp];
        assert!(clouds.into_iter().all(|cloud| Bundle::of(cloud, at("2026-11-28T00:00:00Z")).is_some()));
    }

    #[test]
    fn floors_never_fall() {
        let all = bundles();
        for old in &all {
            for new in all.iter().filter(|new| new.platform == old.platform && new.from > old.from) {
                for (product, floor) in &old.reported {
                    assert!(new.reported[product] >= *floor, "{} {product}", new.platform);
                }
            }
        }
    }

    #[test]
    fn the_newest_that_is_held_is_taken() {
        let of = |time| Bundle::of(Platform::GcpSnp, at(time)).map(|bundle| bundle.reported[&Product::Milan].snp);
        assert_eq!(of("2025-02-02T23:59:59Z"), None);
        assert_eq!(of("2025-02-03T00:00:00Z"), Some(24));
        assert_eq!(of("2026-11-26T23:59:59Z"), Some(24));
        assert_eq!(of("2026-11-27T00:00:00Z"), Some(27));
        assert_eq!(Bundle::of(Platform::QemuTdx, at("2026-11-28T00:00:00Z")), None);
    }

    #[test]
    fn a_policy_gets_its_cloud_s_floors_and_no_others() {
        let mut policy = Policy::strict();
        Bundle::of(Platform::AwsSnp, at("2026-11-28T00:00:00Z")).unwrap().apply(&mut policy);
        let floor: Tcb = "bl=4,tee=0,snp=24,ucode=217".parse().unwrap();
        assert_eq!(policy.reported_tcb.of(Product::Milan), Requirement::AtLeast(floor));
        assert_eq!(policy.reported_tcb.of(Product::Genoa), Requirement::AnyOf(Vec::new()));
        assert_eq!(policy.provisional, Requirement::AnyOf(vec![false, true]));
    }

    #[test]
    fn floors_are_named_by_their_own_date_or_refused_with_those_that_are_known() {
        let mut explicit = Policy::strict();
        Bundle::of(Platform::GcpSnp, at("2026-11-28T00:00:00Z")).unwrap().apply(&mut explicit);
        let Value::Object(explicit) = json!(explicit) else { unreachable!("a policy is an object") };
        let mut named = explicit.clone();
        named.retain(|member, _| !MEMBERS.contains(&member.as_str()));
        // A policy without floors and without a name for some is none: nothing is assumed.
        assert!(serde_json::from_value::<Policy>(json!(named)).is_err());
        named.insert(NAME.into(), json!("2026-11-27"));
        let mut resolved = named.clone();
        assert_eq!(resolve(Platform::GcpSnp, &mut resolved), Ok(()));
        assert_eq!(resolved, explicit);
        assert_eq!(resolve(Platform::GcpSnp, &mut resolved), Ok(()), "once is enough");
        for date in [
            json!("2026-11-28"),
            json!("2026-11-27T00:00:00Z"),
            json!("latest"),
            json!(""),
            json!(20_261_127),
            Value::Null,
        ] {
            let mut wrong = named.clone();
            wrong.insert(NAME.into(), date);
            let error = resolve(Platform::GcpSnp, &mut wrong).unwrap_err().to_string();
            assert!(error.ends_with("aren't known for gcp-snp; known are 2025-02-03, 2026-11-27"), "{error}");
        }
        // A date of another platform's, and a platform that has none.
        assert!(matches!(resolve(Platform::AwsSnp, &mut named.clone()), Err(Error::Unknown { .. })));
        let error = resolve(Platform::GcpTdx, &mut named.clone()).unwrap_err().to_string();
        assert!(error.ends_with("known are none"), "{error}");
        for member in MEMBERS {
            let mut both = named.clone();
            both.insert(member.into(), explicit[member].clone());
            assert_eq!(resolve(Platform::GcpSnp, &mut both), Err(Error::Both(member)));
        }
    }

    #[test]
    fn no_two_bundles_of_a_platform_have_one_name() {
        let mut names: Vec<_> = bundles().iter().map(|bundle| (bundle.platform, bundle.date())).collect();
        names.sort();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
