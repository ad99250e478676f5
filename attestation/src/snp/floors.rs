//! Floors of the TCB as dated data: what AMD's bulletins ask for, cloud by cloud, since when and why.
//!
//! A cloud is at its own pace: EC2 reports less microcode than it runs, so AMD's floor would refuse all of it. A bundle is
//! a proposal for an owner's policy and never applied by itself; the values are from genuine reports and public tables
//! (`docs/trust.md`), and no bulletin's text was at hand.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    policy::Policy,
    product::Product,
    tcb::{PerProduct, Tcb},
};
use crate::{platform::Platform, reference::Requirement};

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
}
