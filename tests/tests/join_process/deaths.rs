//! A verifier's process is killed: at any turn of a join, on either side of its record, alone and beside another one.

use constellation_attestation::{appraise, channel::Identity, protocol::Role, session};
use constellation_tests::faults::plan::Side;
use rustix::process::{Signal, kill_process};
use tokio::net::TcpListener;

use crate::{
    WORKER,
    gate::{Turn, relay_until},
    scene::{CLUSTER_ID, Scene, but_its_ticket},
    victim::{behind_proxy, without_proxy},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_that_dies_at_any_turn_of_a_join_gives_the_ticket_on_the_next_try() {
    let (mut scene, mut machine) = Scene::with_worker("killed").await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gate = listener.local_addr().unwrap();
    for turn in Turn::ALL {
        let cut = async {
            let held = relay_until(&listener, scene.verifier, turn).await.unwrap();
            kill_process(scene.verifier_pid(), Signal::KILL).unwrap();
            drop(held);
        };
        let (join, ()) = tokio::join!(machine.join(gate), cut);
        assert!(matches!(join, Err(session::Error::Channel(_))), "{turn:?}");
        scene.assert_recorded_after(turn, WORKER).await;
        scene.restart_verifier().await.unwrap();
    }
    let recorded = scene.node(WORKER).await.unwrap();
    machine.join(scene.verifier).await.unwrap();
    let again = scene.node(WORKER).await.unwrap();
    assert_eq!(but_its_ticket(again), but_its_ticket(recorded), "nothing else was left to write");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_that_dies_on_either_side_of_its_record_gives_the_ticket_on_the_next_try() {
    for (side, namespace) in [(Side::Before, "dies-before"), (Side::After, "dies-after")] {
        let (mut scene, mut machine) = Scene::with_worker(namespace).await.unwrap();
        let (victim, proxy) = behind_proxy(&scene, side, namespace).await;
        scene.restart_verifier().await.unwrap();
        victim.is(scene.verifier_pid());
        proxy.plan().arm();

        let join = machine.join(scene.verifier).await;
        assert!(matches!(join, Err(session::Error::Channel(_))), "{side:?}");
        assert_eq!(proxy.plan().met(), 1, "the record is the one thing that is written: {:?}", proxy.plan().done());
        let left = scene.node(WORKER).await.unwrap();
        let recorded = left.status.as_ref().is_some_and(|status| status.admission.is_some());
        assert_eq!(recorded, side == Side::After);

        // Another ticket is another thing to write: from here on nobody dies for it.
        without_proxy(&scene);
        scene.restart_verifier().await.unwrap();
        machine.join(scene.verifier).await.unwrap();
        let node = scene.node(WORKER).await.unwrap();
        let same = but_its_ticket(node.clone()) == but_its_ticket(left);
        assert_eq!(same, recorded, "{side:?}: what was recorded is not written again");
        assert!(node.status.unwrap().admission.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_verifier_dies_beside_another_one_that_one_gives_the_ticket() {
    let mut scene = Scene::start("replicas", &[]).await.unwrap();
    let replica = scene.replica().await.unwrap();
    let own = Identity::owner_client(&scene.owner).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gate = listener.local_addr().unwrap();
    for (turn, name) in [(Turn::Evidence, "worker-1"), (Turn::Verdict, "worker-2")] {
        let launch = scene.launch(name, Role::Worker);
        let mut agent = scene.agent(&launch).await.unwrap();
        agent.restart(&[gate, replica.verifier]).await.unwrap();
        let held = relay_until(&listener, scene.verifier, turn).await.unwrap();
        kill_process(scene.verifier_pid(), Signal::KILL).unwrap();
        // It keeps the node waiting until here: nobody else was asked.
        let left = scene.node(&launch.node_uid).await.unwrap();
        drop(held);
        let recorded = left.status.as_ref().is_some_and(|status| status.admission.is_some());
        assert_eq!(recorded, turn == Turn::Verdict, "{turn:?}");

        let member = appraise::pcr15_after_join(&appraise::pcr15_before_join(&launch.to_bytes()), &CLUSTER_ID).sha256;
        agent.wait_for_pcr15(&own, member).await.unwrap();
        let node = scene.node(&launch.node_uid).await.unwrap();
        let same = but_its_ticket(node.clone()) == but_its_ticket(left);
        assert_eq!(same, recorded, "{turn:?}: a record counts for whoever comes next");
        assert!(node.status.unwrap().admission.is_some());
        scene.restart_verifier().await.unwrap();
    }
}
