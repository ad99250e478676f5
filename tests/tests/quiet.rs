//! Fifty clusters in which nothing happens: no write, not even one that is refused, in ten minutes, and no storm after a
//! restart. Of its cloud each costs one listing of machines per interval and what a sweep and the mending of networks ask;
//! all are counted, and nothing else may be asked. `QUIET_SECONDS=65 CLUSTERS=9` is for who has less time.
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
use constellation_operator::{cloud::simulated::SCRIPT, cluster::sweep::LABEL_ORPHANED};
use constellation_tests::{
    audit::Audit,
    faults::{audited_management, flow::LONG, lane::Lane, plan::Plan},
};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

/// A Ready node's machine is looked for at most this often; half of the interval between two looks at a node.
const LISTING_SECONDS: u64 = 10;
/// The operator's own `--sweep-seconds`, of which this test changes nothing: machines of every cluster are listed once more.
const SWEEP_SECONDS: u64 = 300;
/// A network and its endpoint's targets are looked at this often, and mended: a listing of networks for each of the two.
const REPAIR_SECONDS: u64 = 300;
/// The operator's own `--relist-seconds`.
const RELIST_SECONDS: u64 = 300;
/// The played cloud reads its own books, machines and script, this often.
const BOOKS_SECONDS: u64 = 10;
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

/// What went on in a span of time.
struct Seen {
    /// Writes per object, also those that were refused.
    writes: BTreeMap<String, u32>,
    /// Listings of the cloud's books, by what they select.
    lists: BTreeMap<String, u64>,
}

async fn during(lane: &Lane, audit: &mut Audit, span: Duration) -> Seen {
    audit.writes().unwrap();
    lane.proxy.seen(|seen| seen.provider_lists.clear());
    tokio::time::sleep(span).await;
    let lists = lane.proxy.seen(|seen| std::mem::take(&mut seen.provider_lists));
    let mut writes = BTreeMap::new();
    for write in audit.writes().unwrap() {
        *writes.entry(write).or_default() += 1;
    }
    Seen { writes, lists }
}

/// How often something happens at most that comes every so many seconds.
fn times(seconds: u64, every: u64) -> u64 {
    seconds / every + 1
}

/// Each listing that there may be, and how many of it.
fn allowed(clusters: &[String], seconds: u64) -> BTreeMap<String, u64> {
    let (sweeps, books) = (times(seconds, SWEEP_SECONDS), times(seconds, BOOKS_SECONDS));
    let label = |kind: &str| format!("constellation.dev/simulated={kind}");
    let of = |kind: &str, uid: &String| format!("{},constellation.dev/cluster-uid={uid}", label(kind));
    let machines = clusters.iter().map(|uid| (of("instance", uid), times(seconds, LISTING_SECONDS) + sweeps));
    let networks = clusters.iter().map(|uid| (of("network", uid), 2 * times(seconds, REPAIR_SECONDS)));
    let whole = [
        (label("instance"), books + sweeps),
        (label("network"), sweeps),
        (format!("metadata.name={SCRIPT}"), books),
        // For each of the two clouds on offer.
        (LABEL_ORPHANED.to_owned(), 2 * sweeps),
        // No cloud's: signed manifests are in ConfigMaps, whose watch begins anew.
        (String::new(), times(seconds, RELIST_SECONDS)),
    ];
    machines.chain(networks).chain(whole).collect()
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
    let uids: Vec<_> = lane.list::<ConstellationCluster>().await.unwrap().iter().filter_map(ResourceExt::uid).collect();
    let Seen { writes, lists } = during(&lane, &mut audit, Duration::from_secs(seconds)).await;
    let most =
        |kind: &str| lists.iter().filter(|(what, _)| what.contains(&format!("{kind},"))).map(|(_, count)| *count).max();
    let of_all = lists.iter().filter(|(what, _)| !what.contains("uid=")).collect::<Vec<_>>();
    println!(
        "in {seconds} s: {} writes; of one cluster at most {:?} listings of machines and {:?} of networks; of all {of_all:?}",
        writes.len(),
        most("instance"),
        most("network"),
    );
    assert!(writes.is_empty(), "in steady state: {writes:#?}");
    let allowed = allowed(&uids, seconds);
    let beyond: Vec<_> =
        lists.iter().filter(|(what, count)| allowed.get(*what).is_none_or(|most| *count > most)).collect();
    assert!(beyond.is_empty(), "more than is needed: {beyond:#?}");
    assert!(most("instance").is_some(), "the listings of machines are not seen: {lists:#?}");

    lane.restart();
    let Seen { writes, .. } = during(&lane, &mut audit, Duration::from_secs(30)).await;
    println!("in 30 s after a restart: {} writes", writes.len());
    assert!(writes.is_empty(), "after a restart: {writes:#?}");
    let idle = lane.proxy.seen(|seen| std::mem::take(&mut seen.idle));
    assert!(idle.is_empty(), "written, and nothing changed: {idle:#?}");
}
