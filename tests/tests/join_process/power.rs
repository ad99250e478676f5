//! The real bootstrapper loses its machine's power anywhere: registers and memory are gone, the state disk has what was
//! synced, and the node becomes a member all the same, once and as the same machine.

use std::net::SocketAddr;

use constellation_attestation::{
    appraise::{pcr15_after_join, pcr15_before_join},
    channel::Identity,
    owner::SigningKey,
    protocol::{LaunchConfig, Purpose, RecoverKey, Role},
};
use constellation_crds::trust::Admission;
use constellation_tests::agent::{ADMIN, Agent};
use tokio::net::TcpListener;

use crate::{
    bootstrapper::{HOME, begin_init, init, init_request, recover},
    gate::{TpmGate, Turn, relay_until},
    scene::{CLUSTER_ID, DISK_SECRET, Scene, launch_config},
};

const MEMBER: &str = "etc/kubernetes/constellation/member";
const KUBECONFIG: &str = "etc/kubernetes/admin.conf";
const RENEWED: &str = "var/lib/kubelet/pki/kubelet-client-current.pem";
/// Lies in memory on a node.
const CNI: &str = "etc/cni/net.d/10-constellation.conflist";

/// PCR 15 before and after.
fn registers(launch: &LaunchConfig) -> ([u8; 32], [u8; 32]) {
    let before = pcr15_before_join(&launch.to_bytes());
    (before.sha256, pcr15_after_join(&before, &CLUSTER_ID).sha256)
}

/// Boots it with a gate between it and its TPM that holds the measurement which would make it a member.
async fn boot_behind_gate(agent: &mut Agent, peers: &[SocketAddr]) -> TpmGate {
    // Its first extension is the launch configuration's.
    let gate = TpmGate::before_extension(2, &agent.measure_again().unwrap()).await.unwrap();
    agent.restart_by(&gate.tcti(), peers).await.unwrap();
    gate
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_whose_power_was_cut_anywhere_is_carried_out_by_the_next_one() {
    let owner = SigningKey::generate().unwrap();
    let own = Identity::owner_client(&owner).unwrap();
    let launch = launch_config(&owner, "cp-0", Role::ControlPlane);
    let (before, member) = registers(&launch);
    let request = init_request(&owner, DISK_SECRET, CLUSTER_ID);
    let key = RecoverKey { disk_key: request.disk_key.clone(), cluster_id: CLUSTER_ID.to_vec() };
    let mut agent = Agent::start_on_disk(&launch, &[]).await.unwrap();
    // Between the evidence and the box.
    let (channel, _) = agent.prove(&own, Purpose::Init).await.unwrap();
    agent.power_cut().unwrap();
    drop(channel);
    for file in ["disk-secret", "cluster-id", "node.json", "kubeadm.yaml", "member"] {
        agent.boot(&[]).await.unwrap();
        assert_eq!(agent.pcr15(&own).await.unwrap(), before, "{file}");
        agent.run_kubeadm().unwrap();
        let trap = agent.trap(&format!("{HOME}/{file}")).unwrap();
        let _channel = begin_init(&agent, &own, &request).await;
        trap.power_cut(&mut agent).await.unwrap();
        assert!(!agent.path(MEMBER).exists(), "{file}: it isn't a member yet");
    }
    // Between the last file and the measurement that makes a member.
    let mut gate = boot_behind_gate(&mut agent, &[]).await;
    let refused = recover(&agent, &own, &key).await.unwrap_err();
    assert!(refused.contains("nothing to recover"), "{refused}");
    agent.run_kubeadm().unwrap();
    let channel = begin_init(&agent, &own, &request).await;
    gate.reached().await.unwrap();
    assert!(agent.log().contains("kubeadm init --config"), "{}", agent.log());
    agent.power_cut().unwrap();
    drop((channel, gate));
    assert!(agent.path(MEMBER).exists());

    // Its owner knows no better than to ask for Init again, and later has it recovered, twice: it is a member each time.
    agent.boot(&[]).await.unwrap();
    assert_eq!(agent.pcr15(&own).await.unwrap(), before);
    assert_eq!(init(&agent, &own, &request).await, ADMIN, "what kubeadm wrote is whole");
    for _ in 0..2 {
        assert_eq!(agent.pcr15(&own).await.unwrap(), member);
        assert!(!agent.log().contains("kubeadm init --config"), "kubeadm ran already: {}", agent.log());
        let made = "kubeadm init phase kubeconfig kubelet";
        assert!(agent.log().contains(made), "its kubelet has a new certificate: {}", agent.log());
        assert!(agent.path(CNI).exists());
        agent.power_cut().unwrap();
        assert!(!agent.path(CNI).exists(), "memory is gone");
        agent.boot(&[]).await.unwrap();
        assert_eq!(agent.pcr15(&own).await.unwrap(), before);
        recover(&agent, &own, &key).await.unwrap();
    }
    assert_eq!(agent.pcr15(&own).await.unwrap(), member);
    assert_eq!(agent.read(KUBECONFIG).unwrap(), ADMIN.as_bytes());
    assert_eq!(agent.read(&format!("{HOME}/disk-secret")).unwrap(), DISK_SECRET);
    assert_eq!(agent.read(&format!("{HOME}/cluster-id")).unwrap(), CLUSTER_ID);
}

/// The record of a node, which is of the machine that it was of, `since` it was booted again.
async fn recorded_again(scene: &Scene, uid: &str, since: &Admission) -> Admission {
    let admission = scene.status(uid).await.unwrap().admission.unwrap();
    assert_eq!((&admission.ak_name, &admission.admitted_at), (&since.ak_name, &since.admitted_at));
    assert!(admission.reset_count > since.reset_count, "{} resets, then {}", since.reset_count, admission.reset_count);
    admission
}

/// Cuts the power at each turn and each of these files of a join, before the last measurement and of a member.
async fn cut_off(namespace: &str, name: &str, role: Role, files: &[&str]) {
    let scene = Scene::start(namespace, &[]).await.unwrap();
    let own = Identity::owner_client(&scene.owner).unwrap();
    let launch = scene.launch(name, role);
    let (uid, (before, member)) = (launch.node_uid.as_str(), registers(&launch));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = listener.local_addr().unwrap();
    let mut agent = Agent::start_on_disk(&launch, &[]).await.unwrap();
    scene.trust_agents(&[&agent]).await.unwrap();
    scene.announce(&launch).await.unwrap();
    agent.power_cut().unwrap();
    for turn in Turn::ALL {
        agent.boot(&[relay]).await.unwrap();
        let held = relay_until(&listener, scene.verifier, turn).await.unwrap();
        agent.power_cut().unwrap();
        drop(held);
        scene.assert_recorded_after(turn, uid).await;
        assert!(!agent.path(HOME).exists(), "{turn:?}: there was no ticket");
    }
    let mut last = scene.status(uid).await.unwrap().admission.unwrap();
    for file in files {
        let trap = agent.trap(file).unwrap();
        agent.boot(&[scene.verifier]).await.unwrap();
        trap.power_cut(&mut agent).await.unwrap();
        last = recorded_again(&scene, uid, &last).await;
        assert!(!agent.path(MEMBER).exists(), "{file}: it isn't a member yet");
    }
    // Between the last file and the measurement that makes a member.
    agent.run_kubeadm().unwrap();
    let mut gate = boot_behind_gate(&mut agent, &[scene.verifier]).await;
    gate.reached().await.unwrap();
    assert_eq!(agent.log().contains("kubeadm join"), role == Role::ControlPlane, "{}", agent.log());
    agent.power_cut().unwrap();
    drop(gate);
    last = recorded_again(&scene, uid, &last).await;
    assert!(agent.path(MEMBER).exists());
    // A member's file, and a member.
    for _ in 0..2 {
        assert_eq!(agent.read(KUBECONFIG).unwrap(), ADMIN.as_bytes(), "what programs wrote is whole");
        assert!(!agent.path(CNI).exists(), "memory is gone");
        agent.boot(&[]).await.unwrap();
        assert_eq!(agent.pcr15(&own).await.unwrap(), before);
        agent.power_cut().unwrap();
        // As a kubelet leaves it whose power went while it renewed its certificate.
        agent.prepare(RENEWED, "").unwrap();
        agent.boot(&[scene.verifier]).await.unwrap();
        agent.wait_for_pcr15(&own, member).await.unwrap();
        last = recorded_again(&scene, uid, &last).await;
        assert!(!agent.log().contains("kubeadm"), "a member runs no kubeadm: {}", agent.log());
        assert!(agent.path(CNI).exists());
        assert!(agent.read(RENEWED).unwrap().starts_with(b"-----BEGIN CERTIFICATE"), "the kubelet wouldn't start");
        assert_eq!(agent.read(&format!("{HOME}/cluster-id")).unwrap(), CLUSTER_ID);
        agent.power_cut().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workers_join_whose_power_was_cut_anywhere_is_carried_out_by_the_next_one() {
    let own = ["cluster-id", "node.json", "member"].map(|file| format!("{HOME}/{file}"));
    let files = [&["etc/kubernetes/kubelet.conf"][..], &own.each_ref().map(String::as_str)].concat();
    cut_off("power-worker", "worker-1", Role::Worker, &files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_nodes_join_whose_power_was_cut_anywhere_is_carried_out_by_the_next_one() {
    let own =
        ["disk-secret", "node.json", "trust-revision", "kubeadm.yaml", "member"].map(|file| format!("{HOME}/{file}"));
    let files = [&["etc/kubernetes/pki/ca.key"][..], &own.each_ref().map(String::as_str)].concat();
    cut_off("power-control-plane", "cp-1", Role::ControlPlane, &files).await;
}
