//! Two operators and a lost lease: who was suspended while it led, or could not renew its lease, changes nothing when the
//! other one leads.
//!
//! Needs the program: `cargo build -p constellation-operator`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

use std::{path::PathBuf, time::Duration};

use constellation_tests::faults::{
    flow::{Flow, LONG, SMALL, anonymous, same, story},
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

/// What a cluster is at the end of a change, where nobody disturbs it.
async fn calm(name: &str, change: Flow) -> Vec<String> {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("takeover");
    let config = management(&dir.join("plane")).await.unwrap();
    let lane = Lane::start(config, &dir.join("calm"), name, Plan::calm(), &[]).await.unwrap();
    anonymous(&story(&lane, change, SMALL).await.unwrap(), name)
}

/// During a change the leader can't renew its lease, while all else that it says arrives, though late; the other one ends it.
async fn deposed_during(change: Flow) {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("takeover");
    let config = management(&dir.join("plane")).await.unwrap();
    let (name, elect) = (format!("deposed-{change:?}").to_lowercase(), "--leader-elect=true");
    let first = Lane::start(config.clone(), &dir.join("first"), &name, Plan::deposed(), &[elect]).await.unwrap();
    let leads = async |lane: &Lane| Ok(lane.reigns()[0] == 1);
    first.until("it leads", LONG, leads).await.unwrap();
    let second = Lane::start(config, &dir.join("second"), &name, Plan::calm(), &[elect]).await.unwrap();
    let lanes = first.beside(second);
    let end = story(&lanes, change, SMALL).await.unwrap();
    same(
        &format!("{change:?} under two operators"),
        &calm(&format!("calm-{change:?}").to_lowercase(), change).await,
        &anonymous(&end, &name),
    )
    .unwrap();

    lanes.in_turn().unwrap();
    lanes.one_machine_per_node().unwrap();
    let done = lanes.proxy.plan().done();
    let count = |kind: &str| done.iter().filter(|what| what.starts_with(kind)).count();
    let (refused, late, second) = (count("Write Refuse"), count("Write Late"), lanes.written()[1]);
    println!("{name}: {refused} renewals refused, {late} late writes by the first, {second} by the second");
    assert!(refused > 3 && late > 0 && second > 0, "the change was in the hands of both");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_whose_lease_is_not_renewed_hands_a_creation_over() {
    deposed_during(Flow::Create).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_whose_lease_is_not_renewed_hands_a_roll_over() {
    deposed_during(Flow::Roll).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_whose_lease_is_not_renewed_hands_a_deletion_over() {
    deposed_during(Flow::Delete).await;
}
