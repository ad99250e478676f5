//! Two operators and a lost lease: who was suspended while it led changes nothing when it wakes up.
//!
//! Needs the program: `cargo build -p constellation-operator`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

use std::{path::PathBuf, time::Duration};

use constellation_crds::ConfidentialNode;
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
    let elect = ["--leader-elect=true"];
    let first = Lane::start(config.clone(), &dir.join("first"), "takeover", Plan::calm(), &elect).await.unwrap();
    first.create(SMALL).await.unwrap();
    first.settled(SMALL, LONG).await.unwrap();
    let second = Lane::start(config, &dir.join("second"), "takeover", Plan::calm(), &elect).await.unwrap();

    // In the middle of growing, the leader is suspended.
    first.scale(3).await.unwrap();
    let more = async |lane: &Lane| Ok(lane.list::<ConfidentialNode>().await?.len() > 2);
    first.until("it grows", LONG, more).await.unwrap();
    first.pause();
    let grown = Want { workers: 3, ..SMALL };
    second.settled(grown, LONG).await.unwrap();
    assert!(second.proxy.seen(|seen| !seen.writes.is_empty()), "the second one went on");
    second.scale(1).await.unwrap();
    second.settled(SMALL, LONG).await.unwrap();

    // It wakes up with yesterday's plan: three workers.
    let before = first.proxy.seen(|seen| seen.writes.len());
    first.resume();
    let end = tokio::time::Instant::now() + Duration::from_mins(1);
    while first.alive() {
        assert!(tokio::time::Instant::now() < end, "it goes on without a lease");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let late = first.proxy.seen(|seen| seen.writes.split_off(before));
    second.settled(SMALL, LONG).await.unwrap();
    assert!(!late.iter().any(|write| write.starts_with("create configmaps")), "it launched: {late:?}");
    first.one_machine_per_node().unwrap();
    second.one_machine_per_node().unwrap();
    second.delete().await.unwrap();
    second.gone(LONG).await.unwrap();
}
