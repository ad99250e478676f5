//! Members that are asked again: how often, and what is recorded of one that keeps silent.

use std::{collections::BTreeMap, time::Duration};

use constellation_attestation::{
    channel::Identity,
    dsse,
    policy::{MeasurementSet, REQUIRED_PCRS, TRUST_POLICY_TYPE, TrustPolicy},
    protocol::{Request, Verdict},
};
use tokio::net::TcpListener;

use super::*;
use crate::{
    reattest::{self, Interval, Schedule},
    silence,
};

impl Given {
    /// The owner writes a bundle that says how often members are asked.
    fn ask_each(&self, revision: u64, seconds: Option<u32>) {
        let pcrs = REQUIRED_PCRS.into_iter().map(|pcr| (pcr, vec!["0".repeat(64)])).collect();
        let policy = TrustPolicy {
            cluster_uid: "cluster-1".to_owned(),
            revision,
            sets: vec![MeasurementSet::of_registers("v1".to_owned(), Platform::QemuVtpm, pcrs)],
            endorsement_roots: vec![String::new()],
            place: None,
            reattestation_interval_seconds: seconds,
        };
        let envelope = dsse::sign(TRUST_POLICY_TYPE, &serde_json::to_vec(&policy).unwrap(), &self.owner);
        let bundle = TrustBundleSpec { envelope, collateral: BTreeMap::default() };
        *self.verifier.store.bundle.lock().unwrap() = Some(bundle);
    }

    /// Rounds within this time.
    async fn rounds(&self, time: Duration) -> u32 {
        let before = self.verifier.store.rounds.load(Ordering::Relaxed);
        tokio::time::sleep(time).await;
        self.verifier.store.rounds.load(Ordering::Relaxed) - before
    }

    /// The member is asked in the nth round, an hour after the one before, and gives no evidence.
    async fn silent(&self, round: u32) -> Result<(), Error> {
        let asked = self.verifier.store.node.lock().unwrap().clone();
        silence::missed(
            &self.verifier,
            &asked,
            "connecting took too long",
            (self.begun + round * HOUR, Timestamp::now()),
        )
        .await
    }

    fn last(&self) -> AttestationResult {
        self.verifier.store.node.lock().unwrap().clone().status.unwrap().last_appraisal.unwrap()
    }

    fn writes(&self) -> usize {
        self.verifier.store.writes.lock().unwrap().len()
    }
}

const HOUR: Duration = Duration::from_hours(1);

/// A member that proved itself.
async fn given_member() -> Given {
    let given = given([]);
    let settled = given.verifier.settle(given.node.clone(), &given.case, |_| Ok(())).await;
    assert!(granted(&settled));
    given
}

#[tokio::test]
async fn a_member_that_keeps_silent_is_refused_once_and_accepted_when_it_answers_again() {
    let given = given_member().await;
    for (round, writes) in [(0, 1), (1, 1), (2, 2), (3, 2), (4, 2), (5, 2), (30, 2)] {
        given.silent(round).await.unwrap();
        assert_eq!(given.writes(), writes, "round {round}");
    }
    let told = given.last();
    assert_eq!((told.verdict.as_str(), told.trust_revision), (record::REFUSED, Some(3)));
    assert_eq!(told.mismatches[0].clause, silence::CLAUSE);
    let message = &told.mismatches[0].message;
    assert!(message.contains("3 rounds since") && message.contains("connecting took too long"), "{message}");
    assert!(told.refusal_id.is_some() && told.evidence_digest.is_none());
    let node = given.verifier.store.node.lock().unwrap().clone();
    assert!(granted(&given.verifier.settle(node, &given.case, |_| Ok(())).await));
    assert_eq!((given.last().verdict.as_str(), given.writes()), (record::ACCEPTED, 3));
}

#[tokio::test]
async fn a_silence_is_not_written_where_something_bad_is_recorded_already() {
    for (clause, writes, after) in [
        ("tpm.pcr.11", 1, "tpm.pcr.11"),
        (silence::CLAUSE, 1, silence::CLAUSE),
        // That isn't bad: nothing would follow from it.
        ("evidence.collateral", 2, silence::CLAUSE),
    ] {
        let given = given_member().await;
        let other = refused_status(&given, clause);
        given.verifier.store.node.lock().unwrap().status = Some(other);
        for round in 0..7 {
            given.silent(round).await.unwrap();
        }
        assert_eq!((given.writes(), given.last().mismatches[0].clause.as_str()), (writes, after), "{clause}");
    }
}

fn refused_status(given: &Given, clause: &str) -> NodeAdmissionStatus {
    let reasons = vec![reason(clause, None, None, "why")];
    let result = record::refused(reasons, None, Platform::QemuVtpm, Some(3), "1", Timestamp::now());
    let status = given.verifier.store.node.lock().unwrap().status.clone();
    record::next(status.as_ref(), None, result).unwrap()
}

#[tokio::test]
async fn a_silence_that_could_not_be_recorded_is_recorded_in_the_next_round() {
    let given = given_member().await;
    *given.verifier.store.script.lock().unwrap() = VecDeque::from([Write::Fail]);
    for (round, is_ok, writes) in [(0, true, 1), (1, true, 1), (2, false, 1), (3, true, 2)] {
        assert_eq!(given.silent(round).await.is_ok(), is_ok, "round {round}");
        assert_eq!(given.writes(), writes, "round {round}");
    }
}

#[tokio::test]
async fn who_joined_again_or_was_sent_away_meanwhile_is_not_silent() {
    for change in [(|node: &mut NodeAdmission| node.spec.evicted = Some(true)) as fn(&mut NodeAdmission), |node| {
        let status = node.status.as_mut().unwrap();
        status.admission.as_mut().unwrap().wireguard_key = "of another boot".to_owned();
    }] {
        let given = given_member().await;
        let asked = given.verifier.store.node.lock().unwrap().clone();
        given.silent(0).await.unwrap();
        given.silent(1).await.unwrap();
        change(&mut given.verifier.store.node.lock().unwrap());
        silence::missed(&given.verifier, &asked, "", (given.begun + 2 * HOUR, Timestamp::now())).await.unwrap();
        assert_eq!((given.writes(), given.last().verdict.as_str()), (1, record::ACCEPTED));
    }
}

/// Answers a verifier once, as far as it goes.
async fn answer(listener: TcpListener, owner: &SigningKey, hello: Option<Hello>) {
    let identity = Identity::self_signed("node").unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let mut channel = channel::node_accept(stream, &identity, &owner.public_spki()).await.unwrap();
    channel.receive::<Request>().await.unwrap();
    if let Some(hello) = hello {
        channel.send(&hello).await.unwrap();
        let _ = channel.receive::<Verdict>().await;
    }
}

#[tokio::test]
async fn a_round_is_missed_by_whoever_shows_nothing_of_its_own_and_not_for_what_fails_here() {
    let hello = || Hello { purpose: Purpose::Reattest, ..given_case([0; 32]).proof.hello };
    let other = Hello { node_uid: "uid-2".to_owned(), ..hello() };
    let own = |given: &Given| given.ask_each(1, None);
    let nobodys = |given: &Given| {
        let bundle = TrustBundleSpec { envelope: String::new(), collateral: BTreeMap::default() };
        *given.verifier.store.bundle.lock().unwrap() = Some(bundle);
    };
    let join = Hello { purpose: Purpose::Join, ..hello() };
    for (what, bundle, said, missed, told) in [
        ("nobody is there", own as fn(&Given), None, 1, None),
        ("it closes instead of a Hello", own, Some(None), 1, None),
        ("another node answers", own, Some(Some(other)), 1, Some("hello.node")),
        ("its Hello is for a join", own, Some(Some(join)), 1, Some("hello.purpose")),
        ("its Hello has no keys", own, Some(Some(hello())), 1, Some("hello.keys")),
        ("nobody is asked, for there is no bundle", |_| {}, None, 0, Some("verifier.trust")),
        ("the bundle isn't the owner's", nobodys, Some(Some(hello())), 0, Some("trust.signature")),
    ] {
        let given = given_member().await;
        bundle(&given);
        let here = |status: &mut NodeAdmissionStatus| status.admission.as_mut().unwrap().address = "127.0.0.1".into();
        here(given.verifier.store.node.lock().unwrap().status.as_mut().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let schedule = Schedule {
            interval: Interval::Never,
            port: listener.local_addr().unwrap().port(),
            own_address: std::net::Ipv4Addr::LOCALHOST.into(),
        };
        let round = reattest::round(&given.verifier, &schedule);
        if let Some(hello) = said {
            tokio::join!(round, answer(listener, &given.owner, hello));
        } else {
            drop(listener);
            round.await;
        }
        assert_eq!((given.verifier.silence.rounds("uid-1"), given.writes()), (missed, 1), "{what}");
        let news = given.verifier.ledger.due(Instant::now());
        let clauses: Vec<&str> = news.iter().map(|news| news.reasons[0].mismatches[0].clause.as_str()).collect();
        assert_eq!(clauses, Vec::from_iter(told), "{what}");
    }
}

/// Time stands still as long as there is something to do.
#[tokio::test(start_paused = true)]
async fn members_are_asked_as_often_as_the_owner_says_by_then() {
    let given = given([]);
    let schedule = Schedule {
        interval: Interval::Every(Duration::from_mins(30)),
        port: 9000,
        own_address: std::net::Ipv4Addr::LOCALHOST.into(),
    };
    let story = async {
        assert_eq!(given.rounds(HOUR + Duration::from_mins(1)).await, 2, "no bundle yet: as we were started");
        given.ask_each(1, None);
        assert_eq!(given.rounds(2 * HOUR).await, 4, "the bundle says nothing");
        given.ask_each(2, Some(0));
        assert!(given.rounds(HOUR).await <= 1, "it may have been due before that was read");
        assert_eq!(given.rounds(24 * HOUR).await, 0, "never");
        given.ask_each(3, Some(3600));
        assert_eq!(given.rounds(Duration::from_mins(11)).await, 1, "the last round is longer ago than that");
        assert_eq!(given.rounds(2 * HOUR).await, 2);
        given.ask_each(4, Some(60));
        given.rounds(Duration::from_mins(11)).await;
        // Timers are late by up to a millisecond, so a round may fall on either side of an end.
        let rounds = given.rounds(HOUR).await;
        assert!((59..=61).contains(&rounds), "{rounds}");
        // One that isn't believed changes nothing.
        given.ask_each(3, Some(0));
        let rounds = given.rounds(HOUR).await;
        assert!((59..=61).contains(&rounds), "{rounds} while it isn't believed");
        assert_eq!(given.writes(), 0);
    };
    tokio::select! {
        () = reattest::rounds(&given.verifier, &schedule) => panic!("they go on for ever"),
        () = story => {}
    }
}
