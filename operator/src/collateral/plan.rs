//! What a cluster needs of makers and clouds, and what of it is to be fetched now: plain functions of what was seen.
//!
//! Needs come from two sides. The owner's policy names products of AMD: their revocation lists are needed before the first
//! machine. Which platform, processor or issuer a machine has is known from its evidence only: whoever refuses it for want
//! of that writes so into its status (clause `evidence.collateral`). Evidence that isn't genuine may name anything, so a
//! name is read as an identifier of its exact length, and is worth a bounded number of requests.

use std::collections::BTreeMap;

use constellation_attestation::{
    appraise::clause,
    collateral::{Key, SKEW},
    endorsers::{GREATEST_AGE, Need, needs},
    platform::Platform,
    policy::{Hardware, MeasurementSet},
    reference::Requirement,
    snp::{self, KeyKind, Product},
};
use constellation_crds::node::AttestationResult;
use jiff::{SignedDuration, Timestamp};

/// When a refresh begins: ten days before it is too old, so that a maker may be away for a week.
pub const REFRESH: SignedDuration = SignedDuration::from_hours(20 * 24);
/// How long before something ends by its own dates a newer one is asked for.
const BEFORE_END: SignedDuration = SignedDuration::from_hours(7 * 24);
/// How soon at the earliest: some lists are dated for less than [`BEFORE_END`].
const SOONEST: SignedDuration = SignedDuration::from_hours(12);
/// When people are told that a refresh doesn't work: before it hurts.
const WARN: SignedDuration = SignedDuration::from_hours(5 * 24);
/// Things that machines of one cluster may be wanting at a time. At twice this a cluster's machines would be of more
/// kinds than makers have.
pub const MOST_HINTS: usize = 16;

/// Something that is needed, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// What.
    pub need: Need,
    /// Only a machine says so.
    pub hint: bool,
}

/// Something that stands in the `ConfigMap`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// When it was fetched.
    pub fetched: Timestamp,
    /// Until when it is good, or why it isn't.
    pub until: Result<Timestamp, String>,
}

/// How something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// A newer one is to be fetched; this long it is still good.
    Ageing(SignedDuration),
    /// Nothing to do.
    Fresh,
    /// It isn't there, or no good; says why.
    Lacking(String),
}

impl State {
    /// Whether people must know when it can't be fetched.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        match self {
            Self::Ageing(left) => *left < WARN,
            Self::Fresh => false,
            Self::Lacking(_) => true,
        }
    }
}

/// How something stands at a time.
#[must_use]
pub fn state(key: &Key, stored: Option<&Stored>, now: Timestamp) -> State {
    let Some(stored) = stored else { return State::Lacking("is missing".to_owned()) };
    let until = match &stored.until {
        Ok(until) => *until,
        Err(why) => return State::Lacking(format!("can't be used: {why}")),
    };
    let age = now.duration_since(stored.fetched);
    let mut left = until.duration_since(now);
    if key.ages() {
        left = left.min(GREATEST_AGE - age);
    }
    if age < -SKEW {
        return State::Lacking("bears a time of fetching that lies in the future".to_owned());
    }
    if left <= SignedDuration::ZERO {
        return State::Lacking("is too old".to_owned());
    }
    let ends = until.duration_since(now) < BEFORE_END && age >= SOONEST;
    if (key.ages() && age >= REFRESH) || ends { State::Ageing(left) } else { State::Fresh }
}

/// What a cluster needs, each thing once: by the sets that are accepted on its platform, by what stands there already, and
/// by what its machines were refused for want of. A platform that needs nothing wants nothing.
#[must_use]
pub fn wants<'a>(
    platform: &str,
    sets: impl IntoIterator<Item = &'a MeasurementSet>,
    stored: impl IntoIterator<Item = &'a Key>,
    results: impl IntoIterator<Item = &'a AttestationResult>,
) -> BTreeMap<Key, Want> {
    if !platform.parse::<Platform>().is_ok_and(Platform::needs_collateral) {
        return BTreeMap::new();
    }
    let lists = sets.into_iter().filter(|set| set.platform.as_str() == platform).flat_map(|set| match &set.hardware {
        Some(Hardware::Snp(policy)) => lists(policy),
        Some(Hardware::Tdx(_)) | None => Vec::new(),
    });
    let known = lists.chain(stored.into_iter().cloned());
    let mut wants: BTreeMap<_, _> =
        known.map(|key| (key.clone(), Want { need: Need::from(key), hint: false })).collect();
    for need in results.into_iter().flat_map(lacking).take(MOST_HINTS) {
        // A place is kept for what stands there already too: its refresh needs it.
        let want =
            wants.entry(need.key.clone()).or_insert_with(|| Want { need: Need::from(need.key.clone()), hint: true });
        want.need.place = want.need.place.take().or(need.place);
    }
    wants
}

/// What a machine was refused for want of; nothing when something else stands against it.
#[must_use]
pub fn lacking(result: &AttestationResult) -> Vec<Need> {
    let is_want = |clause: &str| clause == clause::COLLATERAL;
    let all = &result.mismatches;
    if result.verdict == "Accepted" || !needs::only_wanting(all.iter().map(|mismatch| mismatch.clause.as_str())) {
        return Vec::new();
    }
    let wanted = all.iter().filter(|mismatch| is_want(&mismatch.clause));
    wanted
        .filter_map(|wanted| {
            Some(Need { key: wanted.expected.as_deref()?.parse().ok()?, place: wanted.actual.clone() })
        })
        .collect()
}

/// Names of needs, for people.
#[must_use]
pub fn names(needs: &[Need]) -> String {
    needs.iter().map(|need| need.key.to_string()).collect::<Vec<_>>().join(", ")
}

/// The products that a policy accepts, if it wants their revocation lists.
fn lists(policy: &snp::Policy) -> Vec<Key> {
    if matches!(policy.revocation, Requirement::Waived { .. }) {
        return Vec::new();
    }
    let products = Product::ALL.into_iter();
    let products = products.filter(|p| policy.product.allows(p) && policy.reported_tcb.0.contains_key(p));
    let kinds = [KeyKind::Vcek, KeyKind::Vlek].into_iter().filter(|kind| policy.key.allows(kind));
    let list = |(product, kind): (Product, _)| Key::SnpCrl { product: product.to_string(), kind };
    products.flat_map(|product| kinds.clone().map(move |kind| (product, kind))).map(list).collect()
}

#[cfg(test)]
mod tests;
