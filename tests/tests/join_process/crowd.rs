//! How long a join takes: one node's own process from its network to its ticket, and fifty nodes at once at the verifier.
//! `make bench` prints both.

use std::time::{Duration, Instant};

use constellation_attestation::protocol::Role;
use serde_json::Value;

use crate::{machine::Machine, scene::Scene};

const NODES: usize = 50;

/// The verifier's own times from a node's Hello to its ticket, sorted; from its log, which says them after the tickets.
async fn times(scene: &Scene, count: usize) -> Vec<Duration> {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let times = said(scene);
        if times.len() >= count {
            return times;
        }
        assert!(Instant::now() < deadline, "the log tells of {} joins", times.len());
        // Another process's file can only be looked at.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn said(scene: &Scene) -> Vec<Duration> {
    let log = scene.log().unwrap();
    // The last line may not be whole yet.
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let micros = lines.filter_map(|line| {
        let micros = &line["fields"]["microseconds"];
        // 128-bit numbers are written as text.
        micros.as_u64().or_else(|| micros.as_str()?.parse().ok())
    });
    let mut times: Vec<Duration> = micros.map(Duration::from_micros).collect();
    times.sort();
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_tells_its_own_time_from_its_network_to_its_ticket() {
    const ADMITTED: &str = "Admitted milliseconds=";
    let scene = Scene::start("alone", &[]).await.unwrap();
    let launch = scene.launch("worker-1", Role::Worker);
    let mut agent = scene.agent(&launch).await.unwrap();
    agent.restart(&[scene.verifier]).await.unwrap();
    agent.wait_for_log(ADMITTED).await.unwrap();
    let log = agent.log();
    let (_, parts) = log.lines().find_map(|line| line.split_once(ADMITTED)).unwrap();
    println!("join, the node's own time from its network to its ticket, in milliseconds: {parts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_nodes_that_join_at_once_are_all_admitted() {
    let (scene, mut first) = Scene::with_worker("fifty").await.unwrap();
    first.join(scene.verifier).await.unwrap();
    let alone = times(&scene, 1).await[0];
    let mut machines = Vec::new();
    for number in 0..NODES {
        let launch = scene.launch(&format!("crowd-{number}"), Role::Worker);
        scene.announce(&launch).await.unwrap();
        machines.push(Machine::boot_like(&first, &launch).unwrap());
    }
    let begun = Instant::now();
    // A thread for each: a TPM that works keeps nobody else waiting, as in machines of their own.
    let joins: Vec<_> = machines
        .into_iter()
        .map(|mut machine| {
            let verifier = scene.verifier;
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(machine.join(verifier)).map(|ticket| (machine.launch.node_name.clone(), ticket))
            })
        })
        .collect();
    for join in joins {
        let (name, ticket) = tokio::task::block_in_place(|| join.join()).unwrap().unwrap();
        assert_eq!(ticket.node.node_name, name);
    }
    let all = begun.elapsed();
    let mut times = times(&scene, NODES + 1).await;
    times.remove(times.iter().position(|time| *time == alone).unwrap());
    assert_eq!(times.len(), NODES);
    // Nearest rank.
    let at = |percent: usize| times[(NODES * percent).div_ceil(100) - 1];
    println!(
        "join, server time from Hello to ticket: alone {alone:.0?}; {NODES} at once median {:.0?}, p99 {:.0?}, all of \
         them in {all:.0?}",
        at(50),
        at(99)
    );
}
