//! Fifty clusters in which nothing happens: no write, not even one that is refused, one listing of machines per cluster
//! and interval, in ten minutes, and no storm after a restart. `QUIET_SECONDS=65 CLUSTERS=9` is for who has less time.
//!
//! Needs the program: `cargo build -p constellation-operator`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

use std::{
    collections::BTreeMap,
    env,
    path::PathBuf,
    time::{Duration, Instant},
};

use constellation_crds::ConstellationCluster;
use constellation_tests::{
    audit::Audit,
    faults::{audited_management, flow::LONG, lane::Lane, plan::Plan},
};
use kube::api::{Patch, PatchParams};
use serde_json::json;

/// A Ready node's machine is looked for at most this often; half of the interval between two looks at a node.
const LISTING_SECONDS: u64 = 10;
/// No write for so long: what was asked for has settled.
const CALM: Duration = Duration::from_secs(8);

fn number(name: &str, absent: u64) -> u64 {
    env::var(name).map_or(absent, |text| text.parse().unwrap())
}

/// Waits until nobody tried to write for a while.
async fn settle(audit: &mut Audit) {
    let (end, mut since) = (Instant::now() + LONG, Instant::now());
    while since.elapsed() < CALM {
        let writes = audit.writes().unwrap();
        if !writes.is_empty() {
            since = Instant::now();
        }
        assert!(Instant::now() < end, "it never gets quiet: {writes:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Writes per object during a span of time, also those that were refused, and listings of machines.
async fn during(lane: &Lane, audit: &mut Audit, span: Duration) -> (BTreeMap<String, u32>, u64) {
    let lists = lane.proxy.seen(|seen| seen.provider_lists);
    audit.writes().unwrap();
    tokio::time::sleep(span).await;
    let mut per = BTreeMap::new();
    for write in audit.writes().unwrap() {
        *per.entry(write).or_default() += 1;
    }
    (per, lane.proxy.seen(|seen| seen.provider_lists) - lists)
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clusters_that_are_ready_cost_no_write_and_a_restart_none_either() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("quiet");
    let (config, mut audit) = audited_management(&dir.join("plane")).await.unwrap();
    let lane = Lane::start(config, &dir.join("lanes"), "quiet", Plan::calm(), &[]).await.unwrap();
    let (clusters, seconds) = (number("CLUSTERS", 50), number("QUIET_SECONDS", 600));
    lane.release("v1", true).await.unwrap();
    let start = Instant::now();
    for n in 0..clusters {
        let name = format!("quiet-{n}");
        let cluster = json!({
            "apiVersion": "constellation.dev/v1alpha1", "kind": "ConstellationCluster", "metadata": {"name": name},
            "spec": {
                "provider": {"simulated": {"bootSeconds": 0}}, "tee": "vtpm", "nodeVersion": lane.name,
                "controlPlane": {"replicas": 1, "instanceType": "any"},
                "nodeGroups": [{"name": "workers", "instanceType": "any", "replicas": 1}],
            },
        });
        let params = PatchParams::apply("tests").force();
        lane.api::<ConstellationCluster>().patch(&name, &params, &Patch::Apply(cluster)).await.unwrap();
    }
    lane.until("all clusters Ready", LONG, async |lane| {
        let all = lane.list::<ConstellationCluster>().await?;
        let ready = |c: &ConstellationCluster| {
            c.status.iter().flat_map(|s| &s.conditions).any(|c| c.type_ == "Ready" && c.status == "True")
        };
        Ok(all.iter().filter(|cluster| ready(cluster)).count() as u64 == clusters)
    })
    .await
    .unwrap();
    println!("{clusters} clusters of two nodes were Ready after {} s", start.elapsed().as_secs());

    settle(&mut audit).await;
    let (writes, lists) = during(&lane, &mut audit, Duration::from_secs(seconds)).await;
    println!("in {seconds} s: {} writes, {lists} listings of machines", writes.len());
    assert!(writes.is_empty(), "in steady state: {writes:#?}");
    // The played cloud reads its own books, machines and script, as often.
    let most = (clusters + 2) * (seconds / LISTING_SECONDS + 1);
    assert!(lists <= most, "{lists} listings of machines, at most {most} are needed");

    lane.restart();
    let (writes, _) = during(&lane, &mut audit, Duration::from_secs(30)).await;
    println!("in 30 s after a restart: {} writes", writes.len());
    assert!(writes.is_empty(), "after a restart: {writes:#?}");
    let idle = lane.proxy.seen(|seen| std::mem::take(&mut seen.idle));
    assert!(idle.is_empty(), "written, and nothing changed: {idle:#?}");
}
