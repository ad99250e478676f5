//! Two operators and a lost lease: who was suspended while it led changes nothing when it wakes up.
//!
//! Needs the program: `cargo build -p constellation-operator`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

use std::{path::PathBuf, time::Duration};

use constellation_tests::faults::{
    flow::{LONG, SMALL},
    lane::{Lane, Want},
    management,
    plan::Plan,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_wakes_up_without_its_lease_ends_and_changes_nothing() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("takeover");
    let config = management(&dir.join("plane")).await.unwrap();
    let elect = "--leader-elect=true";
    // The last that a launch asks before it makes a machine: whose cluster it is.
    let launches = Plan::suspended_at(|call| {
        call.verb == "read" && call.resource == "constellationclusters" && call.name.is_none()
    });
    let first = Lane::start(config.clone(), &dir.join("first"), "takeover", launches, &[elect]).await.unwrap();
    first.create(SMALL).await.unwrap();
    first.settled(SMALL, LONG).await.unwrap();
    let sweeps = [elect, "--sweep-seconds", "3"];
    let second = Lane::start(config, &dir.join("second"), "takeover", Plan::calm(), &sweeps).await.unwrap();

    // The leader is suspended in the middle of a launch.
    first.proxy.plan().arm();
    first.scale(2).await.unwrap();
    let suspended = async |lane: &Lane| Ok(!lane.proxy.plan().done().is_empty());
    first.until("it launches", LONG, suspended).await.unwrap();
    let grown = Want { workers: 2, ..SMALL };
    second.settled(grown, LONG).await.unwrap();
    assert!(second.proxy.seen(|seen| !seen.writes.is_empty()), "the second one went on");
    second.scale(1).await.unwrap();
    second.settled(SMALL, LONG).await.unwrap();

    // It wakes up with yesterday's plan: one more worker.
    let before = first.proxy.seen(|seen| (seen.writes.len(), seen.errors.len()));
    first.resume();
    let end = tokio::time::Instant::now() + Duration::from_mins(1);
    while first.alive() {
        assert!(tokio::time::Instant::now() < end, "it goes on without a lease");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let late = first.proxy.seen(|seen| (seen.writes.split_off(before.0), seen.errors.split_off(before.1)));
    assert_eq!(late, (Vec::new(), Vec::new()), "it wrote what it may not");
    second.settled(SMALL, LONG).await.unwrap();
    first.one_machine_per_node().unwrap();
    second.one_machine_per_node().unwrap();
    second.delete().await.unwrap();
    second.gone(LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_goes_before_it_is_marked_gets_nothing_that_nobody_would_remove() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("takeover");
    let config = management(&dir.join("plane")).await.unwrap();
    // What a first look reads: the cluster has no finalizer yet.
    let looks = Plan::suspended_at(|call| {
        call.verb == "read"
            && call.resource == "secrets"
            && call.name.as_ref().is_some_and(|n| n.ends_with("-owner-key"))
    });
    let lane = Lane::start(config, &dir.join("went"), "went", looks, &[]).await.unwrap();
    lane.proxy.plan().arm();
    lane.create(SMALL).await.unwrap();
    lane.until("it looks", LONG, async |lane| Ok(!lane.proxy.plan().done().is_empty())).await.unwrap();
    assert_eq!(lane.cluster().await.unwrap().unwrap().metadata.finalizers, None);
    lane.delete().await.unwrap();
    assert!(lane.cluster().await.unwrap().is_none());
    lane.resume();
    // A cluster of this name takes no Secret that was made for another.
    lane.create(SMALL).await.unwrap();
    lane.settled(SMALL, LONG).await.unwrap();
    lane.delete().await.unwrap();
    lane.gone(LONG).await.unwrap();
}
