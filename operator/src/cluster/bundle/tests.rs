//! Stories of an owner, a verifier, and somebody who puts genuine bundles back.

use std::collections::BTreeMap;

use super::*;

/// A policy that accepts this.
fn wanted(roots: &str) -> TrustPolicy {
    TrustPolicy {
        cluster_uid: "u".into(),
        revision: 0,
        sets: vec![],
        endorsement_roots: vec![roots.into()],
        place: None,
        reattestation_interval_seconds: None,
    }
}

/// What is in the two clusters, and what was ever signed.
#[derive(Default)]
struct Story {
    live: Option<TrustPolicy>,
    taken: Option<u64>,
    last: Option<TrustPolicy>,
    floor: u64,
    signed: BTreeMap<u64, TrustPolicy>,
}

/// How a write of the bundle ends.
#[derive(Clone, Copy, PartialEq)]
enum Write {
    Fails,
    Succeeds,
}

impl Story {
    /// One pass of the operator, as [`write`] and the report do it.
    fn pass(&mut self, roots: &str, write: Write) {
        let wanted = wanted(roots);
        let live = self.live.as_ref().map(|live| live.revision);
        if !is_current(self.live.as_ref(), &wanted, self.taken) {
            let next = next(wanted, self.last.as_ref(), live.max(self.taken));
            if let Next::New(policy) = &next {
                self.taken = Some(policy.revision);
            }
            let policy = next.policy().clone();
            let before = self.signed.insert(policy.revision, policy.clone());
            assert!(before.is_none_or(|before| before == policy), "revision {} has two contents", policy.revision);
            self.last = Some(policy.clone());
            if write == Write::Succeeds {
                self.live = Some(policy);
            }
        }
        self.taken = live.max(self.taken);
    }

    /// A verifier uses the bundle that is there, if it does.
    fn verifier_uses_it(&mut self) -> bool {
        let live = self.live.as_ref().map_or(0, |live| live.revision);
        let uses = live >= self.floor;
        self.floor = self.floor.max(live);
        uses
    }

    fn put_back(&mut self, revision: u64) {
        self.live = Some(self.signed[&revision].clone());
    }
}

/// Accepts `a`, then `b`, then `a` again: revisions 1 to 3, all of them used.
fn given_a_change_and_back() -> Story {
    let mut story = Story::default();
    for roots in ["a", "b", "a"] {
        story.pass(roots, Write::Succeeds);
        assert!(story.verifier_uses_it());
    }
    assert_eq!((story.taken, story.floor), (Some(3), 3));
    story
}

#[test]
fn a_bundle_that_says_what_is_wanted_is_left_alone() {
    let mut story = given_a_change_and_back();
    story.pass("a", Write::Succeeds);
    assert_eq!(story.taken, Some(3));
    assert_eq!(story.live.as_ref().map(|live| live.revision), Some(3));
}

#[test]
fn an_earlier_bundle_of_the_same_content_that_is_put_back_is_replaced() {
    for restarted in [false, true] {
        let mut story = given_a_change_and_back();
        story.put_back(1);
        assert!(!story.verifier_uses_it());
        if restarted {
            story.last = None;
        }
        story.pass("a", Write::Succeeds);
        assert!(story.verifier_uses_it());
        assert_eq!(story.taken, Some(if restarted { 4 } else { 3 }), "the status never goes back");
        story.pass("b", Write::Succeeds);
        assert!(story.verifier_uses_it());
    }
}

#[test]
fn an_earlier_bundle_of_another_content_is_replaced_also_when_the_first_write_fails() {
    for restarted in [false, true] {
        let mut story = given_a_change_and_back();
        story.put_back(2);
        story.pass("a", Write::Fails);
        assert_eq!(story.taken, Some(3));
        if restarted {
            story.last = None;
        }
        story.pass("a", Write::Succeeds);
        assert!(story.verifier_uses_it());
    }
}

#[test]
fn a_revision_whose_write_seemed_to_fail_is_never_another_contents() {
    for restarted in [false, true] {
        let mut story = given_a_change_and_back();
        // It was written, the answer was lost, and somebody undid it.
        story.pass("b", Write::Fails);
        if restarted {
            story.last = None;
        }
        story.pass("c", Write::Succeeds);
        assert_eq!((story.taken, story.signed.len()), (Some(5), 5));
        assert!(story.verifier_uses_it());
    }
}

#[test]
fn a_write_that_goes_on_failing_takes_one_revision() {
    let mut story = given_a_change_and_back();
    for _ in 0..9 {
        story.pass("b", Write::Fails);
    }
    assert_eq!(story.taken, Some(4));
}

#[test]
fn where_the_status_was_lost_the_live_revision_counts() {
    let mut story = given_a_change_and_back();
    (story.taken, story.last) = (None, None);
    story.pass("a", Write::Succeeds);
    assert_eq!(story.taken, Some(3));
    story.pass("b", Write::Succeeds);
    assert_eq!(story.taken, Some(4));
    assert!(story.verifier_uses_it());
}
