//! The real bootstrapper under attack and under crashes: whom it obeys, and that it converges wherever it was cut off.

use std::time::Duration;

use constellation_attestation::{
    appraise::{pcr15_after_join, pcr15_before_join},
    channel::{Channel, Identity},
    keys,
    owner::SigningKey,
    protocol::{InitRequest, LaunchConfig, NodeSettings, Progress, Purpose, RecoverKey, Role},
    session,
    told::chain,
};
use constellation_tests::{
    agent::{ADMIN, Agent},
    disk::Disk,
};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
};

use crate::{
    WORKER,
    gate::{Turn, relay_until},
    hostile::closed,
    scene::{CLUSTER_ID, DISK_SECRET, Scene, launch_config, settings},
};

pub const HOME: &str = "etc/kubernetes/constellation";

pub fn init_request(owner: &SigningKey, disk_secret: [u8; 32], cluster_id: [u8; 32]) -> InitRequest {
    let (certificate, key) = Identity::issue_verifier_ca(owner).unwrap();
    InitRequest {
        disk_key: keys::disk_key(&disk_secret, "uid-cp-0").to_vec(),
        disk_secret: disk_secret.to_vec(),
        cluster_id: cluster_id.to_vec(),
        verifier_ca_certificate: certificate,
        verifier_ca_key: key.to_string(),
        node: NodeSettings {
            node_name: "cp-0".to_owned(),
            provider_id: "local://uid-cp-0".to_owned(),
            pod_cidr: "10.244.0.0/24".to_owned(),
            labels: std::collections::BTreeMap::new(),
            taints: Vec::new(),
            disk_integrity: false,
        },
        cluster: settings(),
    }
}

/// An owner and its first control-plane node, which waits for Init.
async fn given_first_node() -> (SigningKey, LaunchConfig, Agent) {
    let owner = SigningKey::generate().unwrap();
    let launch = launch_config(&owner, "cp-0", Role::ControlPlane);
    let agent = Agent::start(&launch, &[]).await.unwrap();
    (owner, launch, agent)
}

/// Follows the node's progress to its last word.
async fn last_word(channel: &mut Channel<TcpStream>) -> Progress {
    loop {
        let entry = channel.receive_within(Duration::from_mins(1)).await.unwrap();
        if matches!(entry, Progress::Done { .. } | Progress::Failed { .. }) {
            return entry;
        }
    }
}

/// Asks for Init, and gives what the node needs for it.
pub async fn begin_init(agent: &Agent, owner: &Identity, request: &InitRequest) -> Channel<TcpStream> {
    let (mut channel, proof) = agent.prove(owner, Purpose::Init).await.unwrap();
    session::grant(&mut channel, &proof, request).await.unwrap();
    channel
}

/// Init to its end; gives the kubeconfig.
pub async fn init(agent: &Agent, owner: &Identity, request: &InitRequest) -> String {
    match last_word(&mut begin_init(agent, owner, request).await).await {
        Progress::Done { kubeconfig } => kubeconfig,
        Progress::Failed { message } => panic!("{message}"),
        Progress::Phase { .. } | Progress::Line { .. } => unreachable!("not the last word"),
    }
}

/// Recover to its end; what failed is the node's own words.
pub async fn recover(agent: &Agent, owner: &Identity, key: &RecoverKey) -> Result<(), String> {
    let (mut channel, proof) = agent.prove(owner, Purpose::Recover).await.unwrap();
    session::grant(&mut channel, &proof, key).await.unwrap();
    match last_word(&mut channel).await {
        Progress::Failed { message } => Err(message),
        _ => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_started_by_its_own_owner_and_by_nobody_else() {
    let (owner, launch, agent) = given_first_node().await;
    let own = Identity::owner_client(&owner).unwrap();
    let (ca, ca_key) = Identity::issue_verifier_ca(&owner).unwrap();
    let verifier = Identity::verifier(&ca, &ca_key).unwrap();
    let other = SigningKey::generate().unwrap();
    let foreign = "doesn't chain to the owner's key";
    for (what, caller, purpose, why) in [
        ("the owner of another cluster", &Identity::owner_client(&other).unwrap(), Purpose::Init, foreign),
        ("a stranger", &Identity::self_signed("stranger").unwrap(), Purpose::Init, foreign),
        ("a verifier", &verifier, Purpose::Init, "init refused: only the owner may"),
        ("a verifier that recovers", &verifier, Purpose::Recover, "recover refused: only the owner may"),
        ("a verifier that removes", &verifier, Purpose::Leave, "leave refused: only the owner may"),
        ("the owner, for another purpose", &own, Purpose::Join, "join refused: a node asks for that itself"),
        ("the owner, of no member", &own, Purpose::Leave, "leave refused: this node isn't a member"),
    ] {
        let before = agent.log().len();
        let Err(error @ session::Error::Channel(_)) = agent.call(caller, purpose).await else { panic!("{what}") };
        // The node says why in its own log, and the peer finds its connection closed.
        agent.wait_for_log_after(before, why).await.unwrap();
        let heard = chain(&error);
        assert!(!heard.contains(why) && !heard.contains("owner") && !heard.contains("refused:"), "{what}: {heard}");
    }
    let request = init_request(&owner, DISK_SECRET, CLUSTER_ID);
    // A box for another conversation, and no box at all.
    let (mut channel, mut proof) = agent.prove(&own, Purpose::Init).await.unwrap();
    proof.binding[0] ^= 1;
    session::grant(&mut channel, &proof, &request).await.unwrap();
    assert!(channel.receive::<Progress>().await.is_err());
    let (mut channel, _) = agent.prove(&own, Purpose::Init).await.unwrap();
    session::accept(&mut channel).await.unwrap();
    assert!(channel.receive::<Progress>().await.is_err());
    // Evidence for one purpose under the name of another.
    let (channel, hello) = agent.call(&own, Purpose::Reattest).await.unwrap();
    assert_eq!(hello.purpose, Purpose::Reattest);
    drop(channel);
    let before = pcr15_before_join(&launch.to_bytes());
    assert_eq!(agent.pcr15(&own).await.unwrap(), before.sha256);
    assert!(!agent.path(HOME).exists());

    assert_eq!(init(&agent, &own, &request).await, ADMIN);
    assert_eq!(agent.pcr15(&own).await.unwrap(), pcr15_after_join(&before, &CLUSTER_ID).sha256);
    assert_eq!(agent.read(&format!("{HOME}/disk-secret")).unwrap(), DISK_SECRET);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_init_follows_the_first_and_changes_nothing() {
    let (owner, launch, mut agent) = given_first_node().await;
    let own = Identity::owner_client(&owner).unwrap();
    assert_eq!(init(&agent, &own, &init_request(&owner, DISK_SECRET, CLUSTER_ID)).await, ADMIN);
    let member = pcr15_after_join(&pcr15_before_join(&launch.to_bytes()), &CLUSTER_ID).sha256;
    // Also where the process that was a member's is another one by now.
    for restarted in [false, true] {
        if restarted {
            agent.kill().unwrap();
            agent.restart(&[]).await.unwrap();
        }
        assert_eq!(init(&agent, &own, &init_request(&owner, [1; 32], [2; 32])).await, ADMIN);
        assert_eq!(agent.read(&format!("{HOME}/disk-secret")).unwrap(), DISK_SECRET);
        assert_eq!(agent.read(&format!("{HOME}/cluster-id")).unwrap(), CLUSTER_ID);
        assert_eq!(agent.pcr15(&own).await.unwrap(), member);
        // Nor does a Recover with another key.
        let key = RecoverKey { disk_key: vec![1; 32], cluster_id: vec![2; 32] };
        recover(&agent, &own, &key).await.unwrap();
        assert_eq!(agent.pcr15(&own).await.unwrap(), member);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_keeps_its_verdict_to_itself_keeps_no_owner_out() {
    let (owner, _, agent) = given_first_node().await;
    let own = Identity::owner_client(&owner).unwrap();
    // Evidence was given, and the node waits a minute for what comes of it.
    let (waiting, _) = agent.prove(&own, Purpose::Reattest).await.unwrap();
    let (unchallenged, _) = agent.call(&own, Purpose::Reattest).await.unwrap();
    assert_eq!(init(&agent, &own, &init_request(&owner, DISK_SECRET, CLUSTER_ID)).await, ADMIN);
    drop((waiting, unchallenged));
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_say_nothing_keep_no_owner_out() {
    let (owner, _, agent) = given_first_node().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(agent.address).await.unwrap());
    }
    let own = Identity::owner_client(&owner).unwrap();
    assert_eq!(init(&agent, &own, &init_request(&owner, DISK_SECRET, CLUSTER_ID)).await, ADMIN);
    // Those that had a seat lose it after 20 s.
    let limit = Duration::from_secs(40);
    for mut stream in silent {
        assert!(closed(&tokio::time::timeout(limit, stream.read(&mut [0])).await.unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_takes_no_init() {
    let owner = SigningKey::generate().unwrap();
    let agent = Agent::start(&launch_config(&owner, "worker-1", Role::Worker), &[]).await.unwrap();
    let own = Identity::owner_client(&owner).unwrap();
    let result = agent.call(&own, Purpose::Init).await;
    assert!(matches!(result, Err(session::Error::Channel(_))));
    agent.call(&own, Purpose::Reattest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_that_was_cut_off_anywhere_is_carried_out_by_the_next_one() {
    let (owner, launch, mut agent) = given_first_node().await;
    let own = Identity::owner_client(&owner).unwrap();
    let request = init_request(&owner, DISK_SECRET, CLUSTER_ID);
    let before = pcr15_before_join(&launch.to_bytes());
    // Between the evidence and the box.
    let (channel, _) = agent.prove(&own, Purpose::Init).await.unwrap();
    agent.kill().unwrap();
    drop(channel);
    agent.restart(&[]).await.unwrap();
    for file in ["disk-secret", "cluster-id", "node.json", "kubeadm.yaml", "member"] {
        let trap = agent.trap(&format!("{HOME}/{file}")).unwrap();
        let _channel = begin_init(&agent, &own, &request).await;
        trap.kill(&mut agent).await.unwrap();
        agent.restart(&[]).await.unwrap();
        assert_eq!(agent.pcr15(&own).await.unwrap(), before.sha256, "{file}: it isn't a member yet");
    }
    assert_eq!(init(&agent, &own, &request).await, ADMIN);
    // A member that is restarted knows it, and gives the kubeconfig to an owner that lost its connection.
    agent.kill().unwrap();
    agent.restart(&[]).await.unwrap();
    assert_eq!(agent.pcr15(&own).await.unwrap(), pcr15_after_join(&before, &CLUSTER_ID).sha256);
    assert_eq!(init(&agent, &own, &request).await, ADMIN);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_was_cut_off_anywhere_is_carried_out_by_the_next_one() {
    let scene = Scene::start("cut-off", &[]).await.unwrap();
    let launch = scene.launch("worker-1", Role::Worker);
    let own = Identity::owner_client(&scene.owner).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gate = listener.local_addr().unwrap();
    let mut agent = scene.agent(&launch).await.unwrap();
    for turn in Turn::ALL {
        agent.kill().unwrap();
        agent.restart(&[gate]).await.unwrap();
        let held = relay_until(&listener, scene.verifier, turn).await.unwrap();
        agent.kill().unwrap();
        drop(held);
        scene.assert_recorded_after(turn, WORKER).await;
        agent.restart(&[]).await.unwrap();
    }
    let first = scene.status(WORKER).await.unwrap().admission.unwrap();
    let own_files = ["cluster-id", "node.json", "member"].map(|file| format!("{HOME}/{file}"));
    for file in own_files.iter().map(String::as_str).chain(["etc/kubernetes/kubelet.conf"]) {
        agent.kill().unwrap();
        let trap = agent.trap(file).unwrap();
        agent.restart(&[scene.verifier]).await.unwrap();
        trap.kill(&mut agent).await.unwrap();
        agent.restart(&[]).await.unwrap();
    }
    let before = pcr15_before_join(&launch.to_bytes());
    assert_eq!(agent.pcr15(&own).await.unwrap(), before.sha256);
    agent.kill().unwrap();
    agent.restart(&[scene.verifier]).await.unwrap();
    agent.wait_for_pcr15(&own, pcr15_after_join(&before, &CLUSTER_ID).sha256).await.unwrap();
    let admission = scene.status(WORKER).await.unwrap().admission.unwrap();
    assert_eq!((admission.ak_name, admission.admitted_at), (first.ak_name, first.admitted_at));
    assert_eq!(agent.read(&own_files[0]).unwrap(), CLUSTER_ID);
    assert!(agent.path(&own_files[2]).exists());
}

/// A folder where a file is to be written first: its writer fails.
fn obstacle(agent: &Agent, name: &str) -> std::path::PathBuf {
    let path = agent.path(&format!("{name}.new"));
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_return_fails_tries_again_and_a_new_node_gives_up() {
    let scene = Scene::start("return", &[]).await.unwrap();
    let own = Identity::owner_client(&scene.owner).unwrap();
    let mut agents = Vec::new();
    for (name, member) in [("worker-1", true), ("worker-2", false)] {
        let launch = scene.launch(name, Role::Worker);
        scene.announce(&launch).await.unwrap();
        let mut agent = Agent::start(&launch, &[]).await.unwrap();
        agent.kill().unwrap();
        if member {
            agent.prepare(&format!("{HOME}/member"), "").unwrap();
        }
        let obstacle = obstacle(&agent, &format!("{HOME}/node.json"));
        agents.push((agent, launch, obstacle));
    }
    scene.trust_agents(&agents.iter().map(|(agent, ..)| agent).collect::<Vec<_>>()).await.unwrap();
    for ((agent, launch, obstacle), end) in
        agents.iter_mut().zip(["Returning failed; it is tried again", "Joining failed; the node must be replaced"])
    {
        agent.restart(&[scene.verifier]).await.unwrap();
        agent.wait_for_log(end).await.unwrap();
        assert_eq!(agent.pcr15(&own).await.unwrap(), pcr15_before_join(&launch.to_bytes()).sha256);
        std::fs::remove_dir(obstacle).unwrap();
    }
    let [(member, launch, _), (new, ..)] = &agents[..] else { unreachable!("there are two") };
    let before = pcr15_before_join(&launch.to_bytes());
    member.wait_for_pcr15(&own, pcr15_after_join(&before, &CLUSTER_ID).sha256).await.unwrap();
    let asked = new.log().matches("Admitted").count();
    assert_eq!(asked, 1, "a node that gave up asks for nothing: {}", new.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_disk_is_full_says_so_and_returns_when_there_is_room() {
    let scene = Scene::start("full", &[]).await.unwrap();
    let own = Identity::owner_client(&scene.owner).unwrap();
    let launch = scene.launch("worker-1", Role::Worker);
    let mut agent = scene.agent(&launch).await.unwrap();
    let disk = Disk::full(agent.path(HOME)).unwrap();
    // An empty file takes no room.
    agent.prepare(&format!("{HOME}/member"), "").unwrap();
    agent.restart(&[scene.verifier]).await.unwrap();
    agent.wait_for_log("Returning failed; it is tried again").await.unwrap();
    assert!(agent.log().contains("No space left on device"), "{}", agent.log());
    let before = pcr15_before_join(&launch.to_bytes());
    assert_eq!(agent.pcr15(&own).await.unwrap(), before.sha256);
    disk.resize("1m").unwrap();
    agent.wait_for_pcr15(&own, pcr15_after_join(&before, &CLUSTER_ID).sha256).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_fails_is_told_and_the_next_one_counts() {
    let (owner, launch, agent) = given_first_node().await;
    let own = Identity::owner_client(&owner).unwrap();
    let request = init_request(&owner, DISK_SECRET, CLUSTER_ID);
    let key = RecoverKey { disk_key: request.disk_key.clone(), cluster_id: CLUSTER_ID.to_vec() };
    let recover = async || recover(&agent, &own, &key).await;
    assert!(recover().await.unwrap_err().contains("recover"), "there is nothing");
    agent.prepare(&format!("{HOME}/member"), "").unwrap();
    assert!(recover().await.unwrap_err().contains("node.json"), "its files are not there yet");
    let before = pcr15_before_join(&launch.to_bytes());
    assert_eq!(agent.pcr15(&own).await.unwrap(), before.sha256);
    agent.prepare(&format!("{HOME}/node.json"), &serde_json::json!(request.node).to_string()).unwrap();
    agent.prepare(&format!("{HOME}/cluster.json"), &serde_json::json!(request.cluster).to_string()).unwrap();
    recover().await.unwrap();
    assert_eq!(agent.pcr15(&own).await.unwrap(), pcr15_after_join(&before, &CLUSTER_ID).sha256);
}
