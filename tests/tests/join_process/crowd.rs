//! Fifty nodes that join at once, and how long the verifier takes for each; `make bench` prints it.

use std::time::{Duration, Instant};

use constellation_attestation::protocol::Role;
use serde_json::Value;

use crate::{machine::Machine, scene::Scene};

const NODES: usize = 50;

/// The verifier's own times from a node's Hello to its ticket, sorted; from its log.
fn times(scene: &Scene) -> Vec<Duration> {
    let log = scene.log().unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
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
async fn fifty_nodes_that_join_at_once_are_all_admitted() {
    let (scene, mut first) = Scene::with_worker("fifty").await.unwrap();
    first.join(scene.verifier).await.unwrap();
    let alone = times(&scene)[0];
    let mut machines = Vec::new();
    for number in 0..NODES {
        let launch = scene.launch(&format!("crowd-{number}"), Role::Worker);
        scene.announce(&launch).await.unwrap();
        machines.push(Machine::boot_like(&first, &launch).unwrap());
    }
    let begun = Instant::now();
    let joins: Vec<_> = machines
        .into_iter()
        .map(|mut machine| {
            let verifier = scene.verifier;
            tokio::spawn(async move { machine.join(verifier).await.map(|ticket| (machine.launch.node_name, ticket)) })
        })
        .collect();
    for join in joins {
        let (name, ticket) = join.await.unwrap().unwrap();
        assert_eq!(ticket.node.node_name, name);
    }
    let all = begun.elapsed();
    let times = times(&scene);
    assert_eq!(times.len(), NODES + 1);
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "join, server time from Hello to ticket: alone {alone:.0?}; {NODES} at once median {:.0?}, p99 {:.0?}, all of \
         them in {all:.0?}",
        at(50),
        at(99)
    );
}
