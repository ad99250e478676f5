//! What users get wrong: each gives a condition that says what to do, and is well again without a restart.
//!
//! Needs the program: `cargo build -p constellation-operator`. The rules of the API itself are in `crds/tests/cel.rs`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

#[path = "bad_input/clock.rs"]
mod clock;
#[path = "bad_input/full.rs"]
mod full;
#[path = "bad_input/host.rs"]
mod host;
#[path = "bad_input/keys.rs"]
mod keys;
#[path = "bad_input/names.rs"]
mod names;
#[path = "bad_input/secrets.rs"]
mod secrets;
#[path = "bad_input/stages.rs"]
mod stages;

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Result;
use constellation_attestation::{dsse, owner, policy::MANIFEST_TYPE};
use constellation_crds::{
    ConfidentialNode, ConstellationCluster, NodeVersion,
    condition::{Condition, reason},
};
use constellation_operator::cloud::simulated::claim;
use constellation_tests::faults::{
    flow::{LONG, SMALL},
    lane::{GROUP, Lane, Setting},
    management,
    plan::Plan,
};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Event, Secret},
};
use kube::{
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::ObjectMeta,
};
use serde_json::{Value, json};

async fn lane(name: &str) -> Lane {
    lane_in(Setting::default(), name).await
}

async fn lane_in(setting: Setting, name: &str) -> Lane {
    start(setting, name, Plan::calm()).await
}

async fn lane_with(name: &str, plan: Plan) -> Lane {
    start(Setting::default(), name, plan).await
}

async fn start(setting: Setting, name: &str, plan: Plan) -> Lane {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bad-input");
    let config = management(&dir.join("plane")).await.unwrap();
    Lane::start_in(setting, config, &dir.join("lanes"), name, plan, &["--sweep-seconds", "3"]).await.unwrap()
}

/// Waits until the cluster is not Ready for this reason, with a message that holds these words, and was told so.
async fn told(lane: &Lane, why: &str, words: &str) {
    told_of::<ConstellationCluster>(lane, &lane.name, why, words).await;
}

/// As [`told`], of any object with conditions: what a condition says that a person must change, a warning says too.
async fn told_of<K>(lane: &Lane, name: &str, why: &str, words: &str)
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    lane.until(&format!("{name}: {why}: {words}"), LONG, async |lane| {
        let object = serde_json::to_value(lane.api::<K>().get_opt(name).await?)?;
        let conditions: Option<Vec<Condition>> = serde_json::from_value(object["status"]["conditions"].clone())?;
        Ok(says(&conditions.unwrap_or_default(), why, words))
    })
    .await
    .unwrap();
    lane.until(&format!("the Event of {name}: {why}: {words}"), LONG, async |lane| {
        let of = format!("involvedObject.kind={},involvedObject.name={name},type=Warning,reason={why}", K::kind(&()));
        let events = lane.api::<Event>().list(&ListParams::default().fields(&of)).await?;
        Ok(events.items.iter().any(|event| event.message.as_ref().is_some_and(|message| message.contains(words))))
    })
    .await
    .unwrap();
}

fn says(conditions: &[Condition], why: &str, words: &str) -> bool {
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "False" && c.reason == why && c.message.contains(words))
}

async fn secret(lane: &Lane, name: &str, key: &str, value: &[u8]) -> Result<()> {
    let secrets = lane.api::<Secret>();
    let _ = secrets.delete(name, &DeleteParams::default()).await;
    let secret = Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: Some([(key.to_owned(), ByteString(value.to_vec()))].into()),
        ..Secret::default()
    };
    secrets.create(&PostParams::default(), &secret).await?;
    Ok(())
}

async fn change<K>(lane: &Lane, spec: Value)
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let patch = Patch::Merge(json!({"spec": spec}));
    lane.api::<K>().patch(&lane.name, &PatchParams::default(), &patch).await.unwrap();
}

async fn end(lane: &Lane) {
    lane.delete().await.unwrap();
    lane.gone(LONG).await.unwrap();
}

/// As [`end`]; a Secret that the user made must be left alone.
async fn end_without(lane: &Lane, users: &str) {
    lane.delete().await.unwrap();
    lane.until("no cluster", LONG, async |lane| Ok(lane.cluster().await?.is_none())).await.unwrap();
    lane.api::<Secret>().delete(users, &DeleteParams::default()).await.unwrap();
    lane.gone(LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_secret_that_is_missing_or_short_is_asked_for_by_name() {
    let lane = lane("master-secret").await;
    lane.release("v1", true).await.unwrap();
    let cluster = json!({
        "apiVersion": "constellation.dev/v1alpha1", "kind": "ConstellationCluster", "metadata": {"name": lane.name},
        "spec": {
            "provider": {"simulated": {"bootSeconds": 0}}, "tee": "vtpm", "nodeVersion": lane.name,
            "masterSecret": {"existingSecret": {"name": "mine"}},
            "controlPlane": {"replicas": 1, "instanceType": "any"},
            "nodeGroups": [{"name": GROUP, "instanceType": "any", "replicas": 1}],
        },
    });
    let params = PatchParams::apply("tests").force();
    lane.api::<ConstellationCluster>().patch(&lane.name, &params, &Patch::Apply(cluster)).await.unwrap();
    told(&lane, reason::SECRET_NOT_FOUND, "Secret mine").await;
    secret(&lane, "mine", "secret", b"too short").await.unwrap();
    told(&lane, reason::SECRET_INVALID, "has 9 bytes under `secret`: 32 are needed").await;
    secret(&lane, "mine", "password", &[7; 32]).await.unwrap();
    told(&lane, reason::SECRET_INVALID, "has nothing under `secret`").await;
    secret(&lane, "mine", "secret", &[7; 32]).await.unwrap();
    lane.settled(SMALL, LONG).await.unwrap();
    end_without(&lane, "mine").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_edited_to_something_impossible_waits_and_goes_on_when_that_is_taken_back() {
    let lane = lane("impossible").await;
    lane.create(SMALL).await.unwrap();
    lane.until("a first node", LONG, async |lane| Ok(!lane.list::<ConfidentialNode>().await?.is_empty()))
        .await
        .unwrap();
    change::<ConstellationCluster>(&lane, json!({"nodeVersion": "nowhere"})).await;
    told(&lane, reason::NODE_VERSION_NOT_FOUND, "there is no NodeVersion nowhere: create it").await;
    change::<ConstellationCluster>(&lane, json!({"nodeVersion": lane.name})).await;
    lane.settled(SMALL, LONG).await.unwrap();
    change::<NodeVersion>(&lane, json!({"image": {"simulated": null, "local": "/nowhere"}})).await;
    told(&lane, reason::IMAGE_NOT_FOUND, "names no image for this provider").await;
    assert_eq!(lane.kube_nodes().await.unwrap().len(), 2);
    lane.release("v1", true).await.unwrap();
    lane.settled(SMALL, LONG).await.unwrap();
    // And away, while it is impossible again.
    change::<ConstellationCluster>(&lane, json!({"nodeVersion": "nowhere"})).await;
    told(&lane, reason::NODE_VERSION_NOT_FOUND, "nowhere").await;
    end(&lane).await;
}

fn manifest(revision: u64, more: Option<(&str, Value)>) -> Vec<u8> {
    let pcrs: BTreeMap<_, _> = [4, 11, 12, 13].map(|n: u8| (n.to_string(), [claim("v1", n)])).into();
    let mut manifest = json!({
        "revision": revision, "kubernetesVersion": "v1.36.3", "imageSha256": "00".repeat(32),
        "sets": [{"name": "v1", "platform": "simulated", "pcrs": pcrs}],
    });
    if let Some((key, value)) = more {
        manifest[key] = value;
    }
    manifest.to_string().into_bytes()
}

/// Puts what claims to be a signed manifest where the lane's version looks for it.
async fn publish(lane: &Lane, envelope: &str) {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"manifest.dsse.json": envelope}});
    let params = PatchParams::apply("tests").force();
    lane.api::<ConfigMap>().patch("m", &params, &Patch::Apply(map)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_used_only_when_it_is_signed_whole_and_not_older() {
    let lane = lane("manifest").await;
    let (publisher, other) = (owner::SigningKey::generate().unwrap(), owner::SigningKey::generate().unwrap());
    lane.create(SMALL).await.unwrap();
    let signed = json!({"configMap": "m", "publicKey": owner::spki_to_pem(&publisher.public_spki())});
    change::<NodeVersion>(&lane, json!({"measurements": {"inline": null, "signed": signed}})).await;
    let version = async |why: &str, words: &str| told_of::<NodeVersion>(&lane, &lane.name, why, words).await;
    let publish = async |envelope: String| publish(&lane, &envelope).await;
    version(reason::MANIFEST_NOT_FOUND, "create it").await;
    told(&lane, reason::NODE_VERSION_NOT_READY, "ConfigMap m").await;
    publish("not an envelope".to_owned()).await;
    version(reason::SIGNATURE_INVALID, "is refused").await;
    publish(dsse::sign(MANIFEST_TYPE, &manifest(7, None), &other)).await;
    version(reason::SIGNATURE_INVALID, "is refused").await;
    publish(dsse::sign(MANIFEST_TYPE, &manifest(7, Some(("surprise", json!(true)))), &publisher)).await;
    version(reason::MANIFEST_INVALID, "surprise").await;
    publish(dsse::sign(MANIFEST_TYPE, &manifest(7, None), &publisher)).await;
    lane.settled(SMALL, LONG).await.unwrap();
    publish(dsse::sign(MANIFEST_TYPE, &manifest(6, None), &publisher)).await;
    version(reason::MANIFEST_TOO_OLD, "older than 7").await;
    publish(dsse::sign(MANIFEST_TYPE, &manifest(8, None), &publisher)).await;
    lane.settled(SMALL, LONG).await.unwrap();
    lane.one_machine_per_node().unwrap();
    end(&lane).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_may_have_the_longest_name_that_kubernetes_allows() {
    let lane = lane("long-name").await;
    lane.release("v1", true).await.unwrap();
    let mut version = lane.api::<NodeVersion>().get(&lane.name).await.unwrap();
    let name = format!("v1.{}", "x".repeat(250));
    version.metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
    version.status = None;
    lane.api().create(&PostParams::default(), &version).await.unwrap();
    lane.create(SMALL).await.unwrap();
    change::<ConstellationCluster>(&lane, json!({"nodeVersion": name})).await;
    lane.settled(SMALL, LONG).await.unwrap();
    end(&lane).await;
}
