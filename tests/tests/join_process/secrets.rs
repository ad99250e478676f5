//! No secret of a cluster is where none may be after an Init and after joins, and the scan finds one that is.

use std::{
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use constellation_attestation::{
    channel::Identity,
    dsse, keys,
    policy::TRUST_POLICY_TYPE,
    protocol::{LaunchConfig, Progress, Purpose, Role},
    session,
};
use constellation_tests::{
    agent::Agent,
    scan::{Places, Secret},
};
use k8s_openapi::api::core::v1::{ConfigMap, Event};
use kube::{Api, api::PostParams};
use serde_json::json;

use crate::{
    bootstrapper::init_request,
    cluster,
    machine::Machine,
    refusal,
    scene::{Scene, launch_config, policy},
};

/// Others' constants are in their own processes and logs: these are of this test alone.
const DISK_SECRET: [u8; 32] = *b"the disk secret of one test only";
const CLUSTER_ID: [u8; 32] = *b"no secret, but nobody's business";

fn assert_dumps_nothing(pid: u32) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"]);
}

/// Init to its end; gives what the node told its owner meanwhile.
async fn init(agent: &Agent, scene: &Scene) -> String {
    let own = Identity::owner_client(&scene.owner).unwrap();
    let mut request = init_request(&scene.owner, DISK_SECRET, CLUSTER_ID);
    // The verifier's files are what Init would have brought.
    let file = |name: &str| std::fs::read_to_string(scene.folder.path().join(name)).unwrap();
    (request.verifier_ca_certificate, request.verifier_ca_key) = (file("verifier-ca.crt"), file("verifier-ca.key"));
    let (mut channel, proof) = agent.prove(&own, Purpose::Init).await.unwrap();
    session::grant(&mut channel, &proof, &request).await.unwrap();
    let mut told = String::new();
    loop {
        let entry: Progress = channel.receive_within(session::VERDICT_TIMEOUT).await.unwrap();
        told += &serde_json::to_string(&entry).unwrap();
        match entry {
            Progress::Done { .. } => return told,
            Progress::Failed { message } => panic!("{message}"),
            Progress::Phase { .. } | Progress::Line { .. } => {}
        }
    }
}

async fn trust(scene: &Scene, roots: Vec<String>) {
    let mut trusted = policy(1, &[]).unwrap();
    trusted.endorsement_roots = roots;
    scene.publish(&dsse::sign(TRUST_POLICY_TYPE, &serde_json::to_vec(&trusted).unwrap(), &scene.owner)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_init_and_joins_no_secret_is_in_a_log_the_api_or_a_process() {
    let mut scene = Scene::start("secrets", &[]).await.unwrap();
    for (name, bytes) in [("disk-secret", DISK_SECRET), ("cluster-id", CLUSTER_ID)] {
        std::fs::write(scene.folder.path().join(name), bytes).unwrap();
    }
    scene.restart_verifier().await.unwrap();
    let first = Agent::start(&launch_config(&scene.owner, "cp-0", Role::ControlPlane), &[]).await.unwrap();
    let told = init(&first, &scene).await;
    let launch: LaunchConfig = scene.launch("worker-1", Role::Worker);
    let worker = Agent::start(&launch, &[]).await.unwrap();
    let mut control_plane = Machine::boot(&scene.launch("cp-1", Role::ControlPlane)).unwrap();
    let roots = [worker.endorsement_roots().unwrap(), control_plane.endorsement_roots().unwrap()].concat();
    trust(&scene, roots).await;
    scene.announce(&launch).await.unwrap();
    scene.announce(&control_plane.launch).await.unwrap();
    // One refusal, so that its reasons are there too.
    refusal(control_plane.join_altered(scene.verifier, |_| {}, |evidence| evidence.signature.clear()).await);
    let ticket = control_plane.join(scene.verifier).await.unwrap();
    let worker = {
        let mut worker = worker;
        worker.kill().unwrap();
        worker.restart(&[scene.verifier]).await.unwrap();
        worker
    };
    let own = Identity::owner_client(&scene.owner).unwrap();
    let before = constellation_attestation::appraise::pcr15_before_join(&launch.to_bytes());
    let member = constellation_attestation::appraise::pcr15_after_join(&before, &CLUSTER_ID).sha256;
    worker.wait_for_pcr15(&own, member).await.unwrap();

    let mut secrets = vec![Secret::new("disk secret", &DISK_SECRET).unwrap()];
    for uid in ["uid-cp-0", "uid-cp-1", "uid-worker-1"] {
        let key = keys::disk_key(&DISK_SECRET, uid);
        secrets.push(Secret::new(&format!("disk key of {uid}"), key.as_slice()).unwrap());
    }
    let material = ticket.control_plane.as_ref().unwrap();
    let mut pems = vec![
        ("owner key".to_owned(), scene.owner.to_pkcs8_pem().to_string()),
        ("verifier CA's key".to_owned(), material.verifier_ca_key.clone()),
        ("kubelet's key".to_owned(), control_plane.secrets.kubelet_key_pem().to_string()),
    ];
    let keys = material.pki.iter().filter(|(_, pem)| pem.contains("PRIVATE KEY"));
    pems.extend(keys.map(|(name, pem)| (name.clone(), pem.clone())));
    assert_eq!(pems.len(), 7);
    secrets.extend(pems.iter().map(|(name, pem)| Secret::of_key(name, pem).unwrap()));

    let mut places = Places::default();
    places.add("verifier's log", scene.log().unwrap().as_bytes());
    for (name, agent) in [("first node", &first), ("worker", &worker)] {
        places.add(&format!("log of the {name}"), agent.log().as_bytes());
    }
    places.add("what Init told the owner", told.as_bytes());
    places.add_objects(&scene.client).await.unwrap();
    places.add_processes().unwrap();
    assert_eq!(places.find(&secrets), Vec::<String>::new());
    // It looked where it should have.
    let pids = [scene.verifier_pid().as_raw_nonzero().get().cast_unsigned(), first.pid(), worker.pid()];
    for pid in pids {
        for what in ["cmdline", "environ"] {
            assert!(places.names().any(|name| name == format!("/proc/{pid}/{what}")));
        }
        assert_dumps_nothing(pid);
    }
    for kind in ["nodeadmissions", "trustbundles", "events", "configmaps", "namespaces"] {
        assert!(places.names().any(|name| name.starts_with(&format!("{kind} of "))), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_was_left_anywhere_is_found() {
    let plane = cluster::shared();
    let client = plane.client(&plane.kubeconfig("admin")).await.unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let (pem, bytes) = (key.serialize_pem(), *b"a secret that was planted by us!");
    let secrets = [Secret::new("bytes", &bytes).unwrap(), Secret::of_key("key", &pem).unwrap()];
    let params = PostParams::default();
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "planted"}, "data": {"a": pem}})).unwrap();
    Api::<ConfigMap>::namespaced(client.clone(), "default").create(&params, &map).await.unwrap();
    let event: Event = serde_json::from_value(json!({
        "metadata": {"name": "planted"}, "message": format!("the key is {}", hex::encode(bytes)),
        "involvedObject": {"namespace": "default", "kind": "ConfigMap", "name": "planted"},
    }))
    .unwrap();
    Api::<Event>::namespaced(client.clone(), "default").create(&params, &event).await.unwrap();
    let mut child = Command::new("sleep")
        .env("PLANTED", pem.replace('\n', ""))
        .args(["600", &format!("0.{}", 1)])
        .arg0(std::str::from_utf8(&bytes).unwrap())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut places = Places::default();
    places.add("log", format!("{bytes:?}").as_bytes());
    places.add_objects(&client).await.unwrap();
    places.add_processes().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let pid = child.id();
    let found = places.find(&secrets);
    for expected in [
        "bytes as debug in log".to_owned(),
        "key as base64 in configmaps of v1".to_owned(),
        "bytes as hex in events of v1".to_owned(),
        format!("bytes as raw in /proc/{pid}/cmdline"),
        format!("key as base64 in /proc/{pid}/environ"),
    ] {
        assert!(found.contains(&expected), "{expected} not in {found:#?}");
    }
}
