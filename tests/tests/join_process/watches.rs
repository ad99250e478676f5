//! What a verifier has at hand by watches: it saves a node time, and decides nothing, however long a watch stands still.

use std::time::{Duration, Instant};

use constellation_tests::faults::{plan::Plan, proxy::Proxy};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::{
    WORKER, assert_refused,
    machine::Machine,
    refusal,
    scene::{Scene, policy},
    victim::behind,
};

const PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);

/// A worker that a verifier knows by its watches, which stand still once the plan is armed.
async fn given(name: &str) -> (Scene, Machine, Proxy) {
    let (scene, machine) = Scene::with_worker(name).await.unwrap();
    watching(scene, machine).await
}

async fn watching(mut scene: Scene, machine: Machine) -> (Scene, Machine, Proxy) {
    let (_, proxy) = behind(&scene, Plan::deaf(), scene.namespace()).await;
    scene.restart_verifier().await.unwrap();
    let begun = Instant::now();
    // A watch begins when its list has been taken in.
    let known = |resource: &str| proxy.seen(|seen| seen.watched.contains(resource));
    while !["nodeadmissions", "trustbundles"].iter().all(|resource| known(resource)) {
        assert!(begun.elapsed() < PATIENCE, "nothing is watched: {}", scene.log().unwrap());
        tokio::time::sleep(POLL).await;
    }
    (scene, machine, proxy)
}

async fn evict(scene: &Scene) {
    let patch = Patch::Merge(json!({"spec": {"evicted": true}}));
    scene.nodes().patch(WORKER, &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_at_hand_costs_one_look_at_the_bundle_and_one_write() {
    let (scene, mut machine, proxy) = given("watched").await;
    proxy.seen(|seen| (seen.reads.clear(), seen.writes.clear()));
    machine.join(scene.verifier).await.unwrap();
    let (mut reads, writes) = proxy.seen(|seen| (seen.reads.clone(), seen.writes.len()));
    // Beside joins a verifier reads the kubelets' configuration, the bundle's interval and its own node's admission.
    let look = "trustbundles constellation metadata";
    reads.retain(|read| read == look || read.contains(WORKER));
    assert_eq!((reads, writes), (vec![look.to_owned()], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_was_replaced_counts_although_the_watch_stands_still() {
    let (scene, mut machine, proxy) = given("still-bundle").await;
    proxy.plan().arm();
    let mut other = policy(2, &[&machine]).unwrap();
    for set in &mut other.sets {
        set.pcrs.insert(11, vec!["bb".repeat(32)]);
    }
    scene.sign(&other).await.unwrap();
    assert_refused(&scene, machine.join(scene.verifier).await, &["tpm.pcr.11"]).await;

    scene.trust(3, &[&machine]).await.unwrap();
    machine.join(scene.verifier).await.unwrap();
    let last = scene.status(WORKER).await.unwrap().last_appraisal.unwrap();
    assert_eq!((last.verdict.as_str(), last.trust_revision), ("Accepted", Some(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_is_believed_no_longer_is_told_of_although_the_watch_stands_still() {
    let (scene, mut machine, proxy) = given("still-trust").await;
    proxy.plan().arm();
    scene.publish("{}").await.unwrap();
    let id = refusal(machine.join(scene.verifier).await);
    scene.assert_listed(WORKER, &id, &["trust.signature"]).await;
    assert_eq!(scene.status(WORKER).await.unwrap().admission, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admission_that_was_changed_counts_although_the_watch_stands_still() {
    let (scene, mut machine, proxy) = given("still-node").await;
    proxy.plan().arm();
    evict(&scene).await;
    assert_refused(&scene, machine.join(scene.verifier).await, &["admission.evicted"]).await;

    scene.nodes().delete(WORKER, &DeleteParams::default()).await.unwrap();
    let id = refusal(machine.join(scene.verifier).await);
    let told = scene.strangers(|refusals| refusals.last.refusal_id.as_ref() == Some(&id)).await;
    assert_eq!(told.last.mismatches[0].clause, "admission.unknown");

    scene.announce(&machine.launch).await.unwrap();
    machine.join(scene.verifier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admission_that_took_the_place_of_an_evicted_one_counts_although_the_watch_stands_still() {
    let (scene, machine) = Scene::with_worker("still-evicted").await.unwrap();
    evict(&scene).await;
    let (scene, mut machine, proxy) = watching(scene, machine).await;
    proxy.plan().arm();
    scene.nodes().delete(WORKER, &DeleteParams::default()).await.unwrap();
    scene.announce(&machine.launch).await.unwrap();
    machine.join(scene.verifier).await.unwrap();
}
