//! Time: an answer that comes too late, and a verifier or a node whose clock is years off.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use constellation_attestation::{
    appraise::{pcr15_after_join, pcr15_before_join},
    binding::VerifierRole,
    channel::{Channel, Identity},
    protocol::{Evidence, Hello, Purpose, Role, Verdict},
    session::{self, EVIDENCE_TIMEOUT},
};
use constellation_crds::{NodeAdmissionStatus, node::Refusals};
use constellation_tests::clock::Clock;
use jiff::Zoned;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::{
    WORKER,
    machine::Machine,
    refusal,
    scene::{CLUSTER_ID, Scene},
};

/// How much longer than [`EVIDENCE_TIMEOUT`] a busy machine may take to close a connection.
const SLACK: Duration = Duration::from_secs(30);

async fn greeted(machine: &Machine, scene: &Scene, hello: &Hello) -> Channel<TcpStream> {
    let mut channel = machine.connect(scene.verifier).await.unwrap();
    channel.send(hello).await.unwrap();
    channel
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_expires_and_what_was_made_for_it_is_worth_nothing_on_a_new_connection() {
    let (scene, mut machine) = Scene::with_worker("expired").await.unwrap();
    let hello = machine.hello(Purpose::Join).unwrap();
    let mut late = greeted(&machine, &scene, &hello).await;
    let _challenge: Value = late.receive().await.unwrap();
    let begun = Instant::now();
    // The verifier waits for the evidence as long as the nonce lives, then it is gone.
    let ended = late.receive_within::<Value>(EVIDENCE_TIMEOUT + SLACK).await;
    assert!(ended.is_err() && begun.elapsed() < EVIDENCE_TIMEOUT + SLACK);
    assert!(begun.elapsed() + Duration::from_secs(1) >= EVIDENCE_TIMEOUT, "{:?}", begun.elapsed());
    let told = scene.refusals(WORKER, |_| true).await;
    assert_eq!((told.count, told.last.mismatches[0].clause.as_str()), (1, "evidence.late"));
    let status = scene.status(WORKER).await.unwrap();
    assert_eq!((status.admission, status.last_appraisal), (None, None));

    // A genuine quote for one conversation, shown in the next: the peer gets an id, the owner the reason.
    let recorded = Mutex::new(None);
    let keep = |evidence: &mut Evidence| {
        *recorded.lock().unwrap() = Some(evidence.clone());
        // So that this conversation ends without a record.
        evidence.quote = vec![0; 2 * constellation_attestation::protocol::MAX_FRAME];
    };
    let unsent = machine.join_altered(scene.verifier, |_| {}, keep).await;
    assert!(matches!(unsent, Err(session::Error::Channel(_))));
    let old = recorded.lock().unwrap().take().unwrap();
    let mut channel = greeted(&machine, &scene, &hello).await;
    let challenge: Value = channel.receive().await.unwrap();
    assert!(challenge["nonce"].is_string());
    channel.send(&old).await.unwrap();
    let said: Value = channel.receive_within(session::VERDICT_TIMEOUT).await.unwrap();
    let Ok(Verdict::Refused { id }) = serde_json::from_value(said.clone()) else { panic!("{said}") };
    assert_eq!(said.as_object().unwrap().len(), 1);
    assert_eq!(said.to_string().matches(':').count(), 2, "an id and nothing else: {said}");
    scene.assert_told(WORKER, &id, &["tpm.quote.nonce", "tpm.ak.credential"]).await;

    // And in time it is accepted, on a connection of the same shape.
    let mut channel = greeted(&machine, &scene, &hello).await;
    session::prove(&mut channel, &hello, VerifierRole::Cluster, &mut machine.tpm).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_whose_clock_is_years_off_admits_nobody_says_so_and_goes_on_when_it_is_set() {
    let (mut scene, mut machine) = Scene::with_worker("clock").await.unwrap();
    let clock = Clock::start(scene.folder.path()).unwrap();
    scene.environment = clock.environment().unwrap();
    scene.restart_verifier().await.unwrap();
    let clock_is = |years| format!("and not now, at {}", Zoned::now().year() + years);
    for (offset, words) in [("-2y", clock_is(-2)), ("+12y", clock_is(12)), ("+2y", "ertificate".to_owned())] {
        clock.set(offset).unwrap();
        let before = scene.log().unwrap().len();
        let result = machine.join(scene.verifier).await;
        assert!(matches!(result, Err(session::Error::Channel(_))), "{offset}: {:?}", result.map(drop));
        scene.wait_for_log_after(before, &words).await.unwrap();
        assert_eq!(scene.status(WORKER).await.unwrap(), NodeAdmissionStatus::default(), "{offset}");
    }
    clock.set("+0").unwrap();
    machine.join(scene.verifier).await.unwrap();
    // The owner is told, of the cluster and not of the node: at once or, where the API server wasn't believed, later.
    scene.strangers(|told| has(told, "verifier.files") && has(told, "verifier.clock")).await;
    // One that starts with a wrong clock waits for the right one.
    clock.set("-2y").unwrap();
    scene.begin_restart().unwrap();
    scene.wait_for_log("is the clock right?").await.unwrap();
    clock.set("+0").unwrap();
    scene.wait_until_it_listens().await.unwrap();
    machine.join(scene.verifier).await.unwrap();
    // What a join needs is there and the clock alone was wrong: evidence is refused as before.
    let id = refusal(machine.join_altered(scene.verifier, |_| {}, |evidence| evidence.signature.clear()).await);
    scene.assert_listed(WORKER, &id, &["tpm.signature"]).await;
}

fn has(told: &Refusals, clause: &str) -> bool {
    told.reasons().any(|result| result.mismatches[0].clause == clause)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_clock_is_years_off_is_told_of_and_joins_when_it_is_set() {
    let mut scene = Scene::start("node-clock", &[]).await.unwrap();
    let launch = scene.launch("worker-1", Role::Worker);
    let mut agent = scene.agent(&launch).await.unwrap();
    let own = Identity::owner_client(&scene.owner).unwrap();
    let clock = Clock::start(scene.folder.path()).unwrap();
    agent.environment = clock.environment().unwrap();
    for offset in ["-2y", "+2y"] {
        agent.kill().unwrap();
        clock.set(offset).unwrap();
        let before = scene.log().unwrap().len();
        agent.restart(&[scene.verifier]).await.unwrap();
        scene.wait_for_log_after(before, "ertificate").await.unwrap();
        // Nor does it believe its owner.
        let called = agent.call(&own, Purpose::Reattest).await;
        assert!(matches!(called, Err(session::Error::Channel(_))), "{offset}");
        assert_eq!(scene.status(WORKER).await.unwrap(), NodeAdmissionStatus::default(), "{offset}");
    }
    scene.strangers(|told| has(told, "verifier.clock")).await;
    clock.set("+0").unwrap();
    let before = pcr15_before_join(&launch.to_bytes());
    agent.wait_for_pcr15(&own, pcr15_after_join(&before, &CLUSTER_ID).sha256).await.unwrap();
    assert!(scene.status(WORKER).await.unwrap().admission.is_some());
}
