//! The operator's process over a scripted cloud: create, roll and delete, killed after every change that it makes
//! there and, in a second run, at every write to the API server as well.
//!
//! What runs is the operator's own program and the cloud's own room; only the cloud behind them is scripted, and its
//! machines are played (`operator/src/cloud/scripted.rs`).

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

#[path = "clouds/machines.rs"]
mod machines;

use std::{collections::BTreeSet, path::PathBuf, time::Instant};

use anyhow::{Result, ensure};
use constellation_cloud_scripted::{Deaths, Endpoint, Scripted};
use constellation_operator::cloud::simulated::SimulatedCloud;
use constellation_tests::faults::{
    flow::{Flow, anonymous, same},
    lane::{Lane, Setting, Want},
    management, picture,
    plan::{Plan, Side},
};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

/// Where a cloud's images, machines and clusters are.
struct Place {
    name: &'static str,
    provider: Value,
    instance_type: &'static str,
    image: fn(&str) -> Value,
    images: [&'static str; 2],
    /// What else the operator's process finds in its environment.
    environment: Vec<(&'static str, String)>,
}

/// What is disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disturbed {
    Nothing,
    /// The process dies after each change in the cloud.
    Cloud,
    /// And before each write to the API server.
    Both,
}

/// The end of one part of a life: what there is in both worlds.
type End = (String, Vec<String>);

async fn life<W: Scripted>(place: &Place, disturbed: Disturbed, prepare: fn(&mut W)) -> Result<Vec<End>> {
    let (dir, start) = (PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("clouds"), Instant::now());
    let endpoint = Endpoint::<W>::start().await;
    prepare(&mut endpoint.world());
    let plan = if disturbed == Disturbed::Both { Plan::every(Side::Before) } else { Plan::calm() };
    let setting = Setting {
        program: "constellation-operator-scripted",
        arguments: Vec::new(),
        environment: std::iter::once(("CONSTELLATION_SCRIPTED_ENDPOINT", endpoint.url()))
            .chain(place.environment.clone())
            .collect(),
        provider: place.provider.clone(),
        tee: "snp",
        instance_type: place.instance_type,
        image: place.image,
        next: place.images[1],
        custody: None,
    };
    let config = management(&dir.join("plane")).await?;
    let name = format!("{}-{disturbed:?}", place.name).to_lowercase();
    let lane =
        Lane::start_in(setting, config.clone(), &dir.join("lanes"), &name, plan, &["--sweep-seconds", "5"]).await?;
    let simulated = SimulatedCloud::new(Client::try_from(config)?, Some(name.clone()));
    lane.proxy.plan().arm();
    if disturbed != Disturbed::Nothing {
        endpoint.world().kill(Deaths::AfterEach(BTreeSet::new()));
    }
    let killer = async {
        loop {
            endpoint.killed().await;
            lane.restart();
        }
    };
    let parts = async {
        let (mut want, mut ends, mut uid) =
            (Want { control_plane: 1, workers: 1, image: place.images[0], given_up: false }, Vec::new(), None);
        for flow in [Flow::Create, Flow::Roll, Flow::Delete] {
            let left = flow.run(&lane, want).await?;
            want = left.unwrap_or(want);
            uid = lane.cluster().await?.and_then(|cluster| cluster.uid()).or(uid);
            let mut end = if left.is_some() { picture::of(&lane).await? } else { picture::left(&lane).await? };
            end.extend(seen(&endpoint, &lane, uid.as_deref().unwrap_or("none")));
            ends.push((format!("{flow:?}"), anonymous(&end, &name)));
            ensure!(endpoint.world().wrongs().is_empty(), "{name}: {:#?}", endpoint.world().wrongs());
        }
        // Whatever its tag says: nothing is left at all.
        ensure!(endpoint.world().picture().is_empty(), "{name}: left in the cloud: {:#?}", endpoint.world().picture());
        anyhow::Ok(ends)
    };
    let ends = tokio::select! {
        ends = parts => ends?,
        () = killer => unreachable!("it never ends"),
        () = machines::play(&endpoint, &lane, &simulated) => unreachable!("it never ends"),
    };
    println!("{name}: {} kills, {} s", lane.kills(), start.elapsed().as_secs());
    Ok(ends)
}

/// What there is in the cloud, by words that are the same in every run.
fn seen<W: Scripted>(endpoint: &Endpoint<W>, lane: &Lane, cluster: &str) -> Vec<String> {
    let nodes: Vec<String> = lane.proxy.seen(|seen| seen.names.keys().cloned().collect());
    let told =
        |line: String| nodes.iter().fold(line.replace(cluster, "<uid>"), |line, node| line.replace(node, "<node>"));
    endpoint.world().picture().into_iter().map(|line| hashless(&told(line))).collect()
}

/// Without the 16 hex digits that stand for the cluster in names where its own doesn't fit.
fn hashless(line: &str) -> String {
    let other = |c: char| !c.is_ascii_hexdigit() || c.is_ascii_uppercase();
    let word = |part: &str| {
        let (hex, end) = part.split_at(part.trim_end_matches(other).len());
        if hex.len() == 16 { format!("<hash>{end}") } else { part.to_owned() }
    };
    line.split_inclusive(other).map(word).collect()
}

/// Whatever is disturbed, each part of a life ends as when nothing is.
async fn ends_the_same<W: Scripted>(place: &Place, prepare: fn(&mut W)) {
    let run = |disturbed| Box::pin(life::<W>(place, disturbed, prepare));
    let (calm, cloud, both) = futures::join!(run(Disturbed::Nothing), run(Disturbed::Cloud), run(Disturbed::Both));
    let calm = calm.unwrap();
    for (disturbed, ends) in [("each change", cloud.unwrap()), ("each change and write", both.unwrap())] {
        assert_eq!(calm.len(), ends.len());
        for ((part, calm), (_, end)) in calm.iter().zip(&ends) {
            same(&format!("{} {part}, killed at {disturbed}", place.name), calm, end).unwrap();
        }
    }
}

#[cfg(feature = "aws")]
#[tokio::test(flavor = "multi_thread")]
async fn aws_ends_the_same_whenever_the_operator_dies() {
    use constellation_cloud_scripted::aws;

    let place = Place {
        name: "aws",
        provider: json!({"aws": {
            "region": "us-east-2", "zones": ["us-east-2a"], "reach": "External", "allowedSources": ["192.0.2.0/24"]}}),
        instance_type: "m6a.large",
        image: |image| json!({"aws": {"us-east-2": image}}),
        images: aws::IMAGES,
        // A profile of this machine must not be asked.
        environment: [("AWS_ACCESS_KEY_ID", "AKIATEST"), ("AWS_SECRET_ACCESS_KEY", "test")]
            .map(|(name, value)| (name, value.to_owned()))
            .into(),
    };
    ends_the_same::<aws::World>(&place, |_| {}).await;
}

#[cfg(feature = "azure")]
#[tokio::test(flavor = "multi_thread")]
async fn azure_ends_the_same_whenever_the_operator_dies() {
    let place = Place {
        name: "azure",
        provider: json!({"azure": {
            "subscriptionID": "00000000-0000-0000-0000-000000000001", "location": "westeurope", "zones": ["1"],
            "reach": "External", "allowedSources": ["192.0.2.0/24"]}}),
        instance_type: "Standard_DC4as_v5",
        image: |image| json!({"azure": image}),
        images: [
            "/subscriptions/s/resourceGroups/i/providers/Microsoft.Compute/galleries/g/images/node/versions/1.0.0",
            "/subscriptions/s/resourceGroups/i/providers/Microsoft.Compute/galleries/g/images/node/versions/2.0.0",
        ],
        environment: Vec::new(),
    };
    ends_the_same::<constellation_cloud_scripted::azure::World>(&place, |world| world.cores = 64).await;
}

#[cfg(feature = "gcp")]
#[tokio::test(flavor = "multi_thread")]
async fn gcp_ends_the_same_whenever_the_operator_dies() {
    let place = Place {
        name: "gcp",
        provider: json!({"gcp": {
            "project": "example", "region": "europe-west4", "zones": ["europe-west4-a"],
            "reach": "External", "allowedSources": ["192.0.2.0/24"]}}),
        instance_type: "n2d-standard-4",
        image: |image| json!({"gcp": image}),
        images: ["projects/example/global/images/node-1", "projects/example/global/images/node-2"],
        environment: Vec::new(),
    };
    ends_the_same::<constellation_cloud_scripted::gcp::World>(&place, |_| {}).await;
}
