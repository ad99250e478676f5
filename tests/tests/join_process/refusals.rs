//! What the owner is told of peers that are refused without evidence of a node's own: the reason, a number, no more.

use std::collections::BTreeSet;

use constellation_attestation::protocol::{Hello, Purpose, Verdict};
use constellation_crds::NodeAdmissionStatus;
use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::WatchParams;
use serde_json::json;

use crate::{WORKER, machine::Machine, refusal, scene::Scene};

type Change = fn(&mut Hello);

/// Says Hello and gives the verdict, of which the peer learns an id.
async fn greet(scene: &Scene, machine: &Machine, hello: &Hello) -> String {
    let mut channel = machine.connect(scene.verifier).await.unwrap();
    channel.send(hello).await.unwrap();
    match channel.receive().await.unwrap() {
        Verdict::Refused { id } => id,
        _ => panic!("not refused"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_in_a_members_name_is_told_with_its_reason_and_leaves_the_member_as_it_is() {
    let (scene, mut machine) = Scene::with_worker("in-its-name").await.unwrap();
    machine.join(scene.verifier).await.unwrap();
    let hellos: [(&str, &str, Change); 6] = [
        ("purpose", "hello.purpose", |hello| hello.purpose = Purpose::Reattest),
        ("cluster", "hello.cluster", |hello| hello.cluster_uid = "other".to_owned()),
        ("address", "hello.address", |hello| hello.address = "example.com".to_owned()),
        ("no-key", "hello.keys", |hello| hello.ak_public.clear()),
        ("long-request", "hello.keys", |hello| hello.keys.csr = vec![0; 5000]),
        ("endorsement-key", "hello.endorsement-key", |hello| hello.ek_public = vec![1; 32]),
    ];
    for (name, clause, change) in hellos {
        let mut member = scene.worker_like(&machine, name).await.unwrap();
        member.join(scene.verifier).await.unwrap();
        let mut hello = member.hello(Purpose::Join).unwrap();
        let uid = hello.node_uid.clone();
        let before = scene.status(&uid).await.unwrap();
        change(&mut hello);
        let id = greet(&scene, &member, &hello).await;
        scene.assert_listed(&uid, &id, &[clause]).await;
        let after = scene.status(&uid).await.unwrap();
        assert_eq!(NodeAdmissionStatus { refusals: None, ..after }, before, "{name}");
    }
    let before = scene.status(WORKER).await.unwrap();
    // Something else than evidence closes the channel.
    let hello = machine.hello(Purpose::Join).unwrap();
    let mut channel = machine.connect(scene.verifier).await.unwrap();
    channel.send(&hello).await.unwrap();
    let _challenge: serde_json::Value = channel.receive().await.unwrap();
    channel.send(&json!({"quote": "trust me"})).await.unwrap();
    assert!(channel.receive::<serde_json::Value>().await.is_err());
    scene.refusals(WORKER, |told| told.last.mismatches[0].clause == "evidence.malformed").await;
    // Evidence, of another machine.
    let mut stranger = Machine::boot(&machine.launch).unwrap();
    let id = refusal(stranger.join(scene.verifier).await);
    let told = scene.refusals(WORKER, |told| told.last.refusal_id.as_ref() == Some(&id)).await;
    assert!(told.count == 2 && told.last.evidence_digest.is_some(), "{told:?}");
    assert!(told.last.mismatches.iter().any(|mismatch| mismatch.clause == "tpm.ek.certificate"), "{told:?}");
    let after = scene.status(WORKER).await.unwrap();
    assert_eq!(NodeAdmissionStatus { refusals: None, ..after }, before);
    machine.join(scene.verifier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_name_no_node_are_told_of_the_cluster() {
    let (scene, mut machine) = Scene::with_worker("no-name").await.unwrap();
    for (clause, uid) in [("admission.unknown", "uid-worker-9"), ("hello.node", "../trustbundles/constellation")] {
        let mut hello = machine.hello(Purpose::Join).unwrap();
        uid.clone_into(&mut hello.node_uid);
        let id = greet(&scene, &machine, &hello).await;
        let told = scene.strangers(|told| told.last.refusal_id.as_ref() == Some(&id)).await;
        assert_eq!(told.last.mismatches[0].clause, clause);
    }
    assert_eq!(scene.status(WORKER).await.unwrap(), NodeAdmissionStatus::default());
    machine.join(scene.verifier).await.unwrap();
    assert_eq!(scene.status(WORKER).await.unwrap().refusals, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_refusals_in_a_members_name_is_a_few_writes_that_count_them_all() {
    const CALLS: u64 = 500;
    const ABREAST: usize = 16;
    let (scene, mut machine) = Scene::with_worker("storm").await.unwrap();
    machine.join(scene.verifier).await.unwrap();
    let before = scene.node(WORKER).await.unwrap();
    let hello = Hello { purpose: Purpose::Reattest, ..machine.hello(Purpose::Join).unwrap() };
    let calls = futures::stream::iter(0..CALLS).map(|_| greet(&scene, &machine, &hello));
    let ids: BTreeSet<String> = calls.buffer_unordered(ABREAST).collect().await;
    assert_eq!(ids.len(), 1, "one reason has one id");
    let told = scene.refusals(WORKER, |told| told.count == CALLS).await;
    assert_eq!(told.last.refusal_id, ids.into_iter().next());
    // Everything that was written since, from the API server's own history.
    let since = before.metadata.resource_version.unwrap();
    let params = WatchParams::default().fields(&format!("metadata.name={WORKER}")).timeout(1);
    let history: Vec<_> = scene.nodes().watch(&params, &since).await.unwrap().try_collect().await.unwrap();
    assert!((2..=8).contains(&history.len()), "{} writes", history.len());
    machine.join(scene.verifier).await.unwrap();
}
