//! The process dies after every single call of create, roll and delete: another one goes on, and the end is the same.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

mod story;

use constellation_cloud::{Cloud, CloudError, InstanceState, NodeUid};
use constellation_cloud_aws::AwsCloud;
use constellation_cloud_scripted::{
    Deaths, Scripted as _,
    aws::{
        Endpoint,
        objects::{Kind, Object},
    },
    story::{cluster, network},
};

use story::{cloud, process, removed, request, settings};

/// A part of a cluster's life, as the operator drives it: from what is seen, towards what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Create,
    Roll,
    Delete,
}

const PHASES: [Phase; 3] = [Phase::Create, Phase::Roll, Phase::Delete];

async fn live(cloud: &AwsCloud, phase: Phase) -> Result<(), CloudError> {
    let nodes: [&str; 2] = match phase {
        Phase::Create => ["n-1", "n-2"],
        Phase::Roll => ["n-2", "n-3"],
        Phase::Delete => {
            end(cloud, &[]).await?;
            removed(cloud).await;
            return Ok(());
        }
    };
    cloud.ensure_network(&network()).await?;
    let mut ids = Vec::new();
    for (index, node) in (0..).zip(nodes) {
        ids.push(cloud.launch(&request(node, index)).await?.id);
    }
    cloud.set_endpoint_targets(&cluster(), &ids).await?;
    end(cloud, &nodes).await
}

/// Terminates every node but these, until they are not found.
async fn end(cloud: &AwsCloud, keep: &[&str]) -> Result<(), CloudError> {
    for instance in cloud.find(&cluster()).await? {
        let NodeUid(node) = &instance.node;
        while !keep.contains(&node.as_str()) {
            match cloud.terminate(&cluster(), &instance.id).await {
                Err(CloudError::NotFound(_)) => break,
                done => done?,
            }
        }
    }
    Ok(())
}

/// Lists catch up, and the operator looks once more, as it does every few minutes.
async fn settle(endpoint: &Endpoint, phase: Phase) {
    endpoint.world().lag = 0;
    endpoint.world().pass();
    live(&cloud(process(endpoint).await, settings()), phase).await.unwrap();
}

async fn before(phase: Phase) -> Endpoint {
    let endpoint = Endpoint::start().await;
    for earlier in PHASES.into_iter().take_while(|earlier| *earlier != phase) {
        live(&cloud(process(&endpoint).await, settings()), earlier).await.unwrap();
    }
    endpoint
}

async fn dies_after_every_call_of(phase: Phase, lag: u64) {
    let calm = before(phase).await;
    settle(&calm, phase).await;
    let wanted = calm.world().picture();
    for call in 0.. {
        let endpoint = before(phase).await;
        endpoint.world().lag = lag;
        endpoint.world().reads_count = true;
        endpoint.world().kill(Deaths::After(call));
        let first = cloud(process(&endpoint).await, settings());
        let done = tokio::select! {
            done = live(&first, phase) => Some(done),
            () = endpoint.killed() => None,
        };
        if let Some(done) = done {
            done.unwrap();
            assert!(call >= 10, "{phase:?} has only {call} calls");
            println!("aws: killed after each of {call} calls of {phase:?}, lag {lag}");
            return;
        }
        drop(first);
        // The next process begins with what it can see. What can't be yet is another pass's.
        let second = cloud(process(&endpoint).await, settings());
        for _ in 0..20 {
            match live(&second, phase).await {
                Err(CloudError::Transient(_) | CloudError::NotFound(_)) => {}
                done => {
                    done.unwrap();
                    break;
                }
            }
        }
        settle(&endpoint, phase).await;
        assert_eq!(endpoint.world().picture(), wanted, "{phase:?}, killed after call {call}, lag {lag}");
        endpoint.kept_to_the_model();
        let world = endpoint.world();
        let alive = world.of(Kind::Instance).into_iter().filter(|one| one.get("instance-state-name") == "running");
        assert_eq!(alive.count(), if phase == Phase::Delete { 0 } else { 2 });
    }
}

#[tokio::test]
async fn create_ends_the_same_whenever_the_process_dies() {
    dies_after_every_call_of(Phase::Create, 0).await;
}

#[tokio::test]
async fn create_ends_the_same_whenever_the_process_dies_and_lists_lag() {
    dies_after_every_call_of(Phase::Create, 4).await;
}

#[tokio::test]
async fn a_roll_ends_the_same_whenever_the_process_dies() {
    dies_after_every_call_of(Phase::Roll, 0).await;
}

#[tokio::test]
async fn a_roll_ends_the_same_whenever_the_process_dies_and_lists_lag() {
    dies_after_every_call_of(Phase::Roll, 4).await;
}

#[tokio::test]
async fn delete_ends_with_nothing_whenever_the_process_dies() {
    dies_after_every_call_of(Phase::Delete, 0).await;
}

#[tokio::test]
async fn a_duplicate_that_a_crash_between_two_zones_left_goes() {
    let endpoint = before(Phase::Roll).await;
    {
        let mut world = endpoint.world();
        let of_node = |one: &&Object| one.tags["constellation.dev/node-uid"] == "n-1";
        let first = world.of(Kind::Instance).into_iter().find(of_node).unwrap().clone();
        let of = [
            ("instance-state-name", "running"),
            ("launched", "2026-11-23T01:00:00.000Z"),
            ("zone", first.get("zone")),
            ("private", "10.77.0.251"),
        ];
        world.add(Kind::Instance, "i-0ffffffffffffffff", &of, first.tags.clone());
    }
    let cloud = cloud(process(&endpoint).await, settings());
    let found = cloud.find(&cluster()).await.unwrap();
    assert_eq!(found.iter().filter(|one| one.node.0 == "n-1" && one.state == InstanceState::Running).count(), 1);
    assert!(!found.iter().any(|one| one.id.0.ends_with("i-0ffffffffffffffff")), "the one launched first stays");
    let world = endpoint.world();
    assert_ne!(world.objects["i-0ffffffffffffffff"].get("instance-state-name"), "running");
}
