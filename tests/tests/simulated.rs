//! The operator as a process, over a real API server, with simulated machines: create, scale, repair, roll, delete,
//! and the same with the operator killed in the middle.
//!
//! Needs the program: `cargo build -p constellation-operator`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

use std::{collections::BTreeSet, net::SocketAddr, path::Path, time::Duration};

use constellation_crds::{
    ConfidentialNode, ConfidentialNodeStatus, ConstellationCluster, NodeAdmission, TrustBundle,
    node::{Refusals, Role},
};
use constellation_tests::{
    scan::{Places, Secret},
    world::World,
};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Secret as KubeSecret};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A roll, a creation: seconds when alone, more on a busy machine.
const LONG: Duration = Duration::from_mins(4);

async fn world(story: &str) -> World {
    World::start(Path::new(env!("CARGO_TARGET_TMPDIR")).join("simulated").join(story), "quickstart").await
}

/// With the example's cluster, whose three nodes are Ready.
async fn ready(story: &str) -> World {
    ready_with(story, &[]).await
}

async fn ready_with(story: &str, arguments: &[&str]) -> World {
    let mut world = world(story).await;
    world.operator(&[&["--allow-simulated"], arguments].concat());
    world.apply("simulated/nodeversion.yaml").await;
    world.apply("simulated/cluster.yaml").await;
    world.until("Ready", LONG, async |w| w.condition("Ready").await && w.nodes().await.len() == 3).await;
    world
}

#[tokio::test]
async fn a_cluster_lives_from_apply_to_nothing_left() {
    let mut world = ready("life").await;
    assert!(world.condition("Available").await && world.condition("ControlPlaneInitialized").await);
    let status = world.cluster().await.unwrap().status.unwrap();
    assert_eq!((status.desired_nodes, status.ready_nodes, status.attested_nodes), (Some(3), Some(3), Some(3)));
    assert!(status.cluster_id.is_some() && status.owner_key.is_some());
    for node in world.nodes().await {
        let attestation = node.status.unwrap().attestation.unwrap();
        assert_eq!((attestation.platform.as_str(), attestation.verdict.as_str()), ("simulated", "Accepted"));
    }
    assert_eq!(world.kube_nodes().await.len(), 3);

    assert_no_secret_is_out(&world).await;
    world.settle().await;
    let writes = world.writes_during(Duration::from_secs(15)).await;
    assert!(writes.is_empty(), "in steady state the operator wrote: {writes:#?}");

    world.scale(4).await;
    world.until("four workers", LONG, async |w| w.ready_workers().await == 4 && w.condition("Ready").await).await;
    world.scale(1).await;
    world
        .until("one worker", LONG, async |w| {
            w.nodes().await.len() == 2 && w.machines().await.len() == 2 && w.condition("Ready").await
        })
        .await;

    let victim = world.workers().await.pop().unwrap();
    world.script(json!({"vanish": victim})).await;
    world
        .until("a replacement", LONG, async |w| {
            let workers = w.workers().await;
            !workers.contains(&victim) && w.ready_workers().await == 1 && w.condition("Ready").await
        })
        .await;
    world.script(json!({})).await;

    let before: BTreeSet<_> = world.nodes().await.into_iter().filter_map(|n| n.metadata.uid).collect();
    world.apply("simulated/nodeversion-v2.yaml").await;
    world
        .until("the roll", LONG, async |w| {
            let nodes = w.nodes().await;
            nodes.len() == 2
                && nodes.iter().all(|n| n.spec.image == "v2" && !before.contains(n.metadata.uid.as_ref().unwrap()))
                && w.condition("Ready").await
                && w.condition("NodesUpToDate").await
        })
        .await;

    world.delete_cluster().await;
    world
        .until("nothing left", LONG, async |w| {
            w.cluster().await.is_none() && w.machines().await.is_empty() && w.kube_nodes().await.is_empty()
        })
        .await;
    world.assert_one_machine_per_node();
}

#[tokio::test]
async fn an_orphaned_cluster_keeps_its_machines_and_the_secrets_that_they_need() {
    let mut world = ready("orphan").await;
    let uid = world.cluster().await.unwrap().metadata.uid.unwrap();
    let secrets: Api<KubeSecret> = Api::default_namespaced(world.client());
    let owned = async || {
        let all = secrets.list(&ListParams::default()).await.unwrap().items;
        let owned = all.iter().filter(|s| s.metadata.owner_references.as_ref().is_some_and(|refs| !refs.is_empty()));
        (all.len(), owned.count())
    };
    // Kubernetes' garbage collector takes what an object owns, in a foreground deletion before the object goes.
    let (count, before) = owned().await;
    assert!(count >= 2 && before == 0, "the owner key and the master secret are nobody's while there are VMs");

    let clusters: Api<ConstellationCluster> = Api::default_namespaced(world.client());
    let orphan = Patch::Merge(json!({"spec": {"deletionPolicy": "Orphan"}}));
    clusters.patch(&world.cluster, &PatchParams::default(), &orphan).await.unwrap();
    world.delete_cluster().await;
    world.until("the objects gone", LONG, async |w| w.cluster().await.is_none() && w.nodes().await.is_empty()).await;
    assert_eq!(world.machines().await.len(), 3);
    assert_eq!(owned().await, (count, 0));
    let records: Api<ConfigMap> = Api::default_namespaced(world.client());
    records.get(&format!("orphaned-{uid}")).await.unwrap();
}

/// Whoever may read everything but Secrets, the operator's log and what processes show learns no secret of the cluster.
async fn assert_no_secret_is_out(world: &World) {
    let of = async |name: &str, key: &str| {
        let secrets: Api<KubeSecret> = Api::default_namespaced(world.client());
        secrets.get(&format!("quickstart-{name}")).await.unwrap().data.unwrap().remove(key).unwrap().0
    };
    let owner = String::from_utf8(of("owner-key", "key.pem").await).unwrap();
    let secrets = [
        Secret::new("master secret", &of("master-secret", "secret").await).unwrap(),
        Secret::of_key("owner key", &owner).unwrap(),
    ];
    let mut places = Places::default();
    places.add_file(&world.dir().join("operator.log")).unwrap();
    places.add_objects(&world.client()).await.unwrap();
    places.add_processes().unwrap();
    assert_eq!(places.find(&secrets), Vec::<String>::new());
    let pid = world.operator_pid();
    assert!(places.names().any(|name| name == format!("/proc/{pid}/environ")));
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"]);
}

#[tokio::test]
async fn a_killed_operator_changes_nothing_about_the_end() {
    let mut world = world("killed").await;
    let arguments = ["--allow-simulated"];
    world.operator(&arguments);
    world.apply("simulated/nodeversion.yaml").await;
    world.apply("simulated/cluster.yaml").await;
    for machines in [1, 2] {
        world.until("some machines", LONG, async |w| w.machines().await.len() >= machines).await;
        world.kill_operator();
        world.operator(&arguments);
    }
    world.until("Ready", LONG, async |w| w.condition("Ready").await && w.nodes().await.len() == 3).await;
    assert_eq!(world.machines().await.len(), 3);

    world.apply("simulated/nodeversion-v2.yaml").await;
    world
        .until("the first machine of the roll", LONG, async |w| w.nodes().await.iter().any(|n| n.spec.image == "v2"))
        .await;
    world.kill_operator();
    world.operator(&arguments);
    world
        .until("the roll", LONG, async |w| {
            let nodes = w.nodes().await;
            nodes.len() == 3 && nodes.iter().all(|n| n.spec.image == "v2") && w.condition("Ready").await
        })
        .await;
    assert_eq!(world.machines().await.len(), 3);

    world.delete_cluster().await;
    world.until("the first machine gone", LONG, async |w| w.machines().await.len() < 3).await;
    world.kill_operator();
    world.operator(&arguments);
    world
        .until("nothing left", LONG, async |w| {
            w.cluster().await.is_none() && w.machines().await.is_empty() && w.kube_nodes().await.is_empty()
        })
        .await;
    world.assert_one_machine_per_node();
}

#[tokio::test]
async fn simulated_is_refused_unless_it_is_allowed() {
    let mut world = world("forbidden").await;
    world.operator(&[]);
    world.apply("simulated/nodeversion.yaml").await;
    world.apply("simulated/cluster.yaml").await;
    world
        .until("a refusal", LONG, async |w| {
            let conditions = w.cluster().await.and_then(|c| c.status).map(|s| s.conditions).unwrap_or_default();
            conditions
                .iter()
                .any(|c| c.type_ == "Ready" && c.status == "False" && c.message.contains("--allow-simulated"))
        })
        .await;
    assert!(world.machines().await.is_empty());
}

#[tokio::test]
async fn a_roll_to_an_image_that_measures_otherwise_is_refused_and_taken_back() {
    let mut world = ready("tampered").await;
    world.release("v1-tampered").await;
    let tampered = async |w: &World| w.nodes().await.into_iter().find(|n| n.spec.image == "v1-tampered");
    world.until("the tampered node", LONG, async |w| tampered(w).await.is_some()).await;
    let refused = tampered(&world).await.unwrap().metadata.name.unwrap();
    world
        .until("a refusal", LONG, async |w| {
            let node = tampered(w).await;
            let result = node.and_then(|n| n.status).and_then(|s| s.attestation);
            result.is_some_and(|r| {
                r.verdict == "Refused"
                    && r.mismatches
                        .iter()
                        .any(|m| m.clause == "tpm.pcr.12" && m.expected.is_some() && m.actual.is_some())
            })
        })
        .await;
    assert_eq!(world.kube_nodes().await.len(), 3);
    assert!(world.condition("Available").await && !world.condition("Ready").await);
    world.until("its Event", LONG, async |w| !refusals(w, &refused).await.is_empty()).await;

    // Nobody does anything: the version is given up, and what is made meanwhile is of the one before.
    let all = async |w: &World, count: usize, image: &str| {
        let nodes = w.nodes().await;
        nodes.len() == count && nodes.iter().all(|n| n.spec.image == image)
    };
    let back = async |w: &World| all(w, 3, "v1").await && w.condition("Stalled").await;
    world.until("the nodes of before, and nothing else", LONG, back).await;
    let status = world.cluster().await.unwrap().status.unwrap();
    let given_up = status.rolled_back.unwrap();
    assert_eq!((Some(&given_up.to), given_up.node.as_str()), (status.current_version.as_ref(), refused.as_str()));
    assert!(given_up.message.contains("tpm.pcr.4"), "{given_up:?}");
    assert_eq!(status.accepted_versions.len(), 1, "what was given up is trusted no more");
    for kind in ["Ready", "NodesUpToDate"] {
        let condition = status.conditions.iter().find(|c| c.type_ == kind).unwrap();
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "RolledBack"), "{kind}");
        assert!(condition.message.contains(&refused), "{}", condition.message);
    }
    assert!(world.condition("Available").await);
    world.settle().await;
    let told = world.events("quickstart", "RolledBack").await;
    assert!(told.len() == 1 && told[0].type_.as_deref() == Some("Warning"), "{told:#?}");
    let time = |event: &Event| event.event_time.as_ref().map(|time| time.0);
    let others = world.events("quickstart", "InProgress").await.into_iter();
    let others: Vec<_> = others.filter(|other| time(other) > time(&told[0])).collect();
    assert_eq!(others, [], "from its beginning to its end the way back is one");
    let writes = world.writes_during(Duration::from_secs(15)).await;
    assert!(writes.is_empty(), "a cluster that rolled back is at rest: {writes:#?}");
    world.scale(3).await;
    world.until("one worker more", LONG, async |w| all(w, 4, "v1").await && w.ready_workers().await == 3).await;

    world.apply("simulated/nodeversion-v2.yaml").await;
    let rolled = async |w: &World| all(w, 4, "v2").await && w.condition("Ready").await;
    world.until("the roll to what was corrected", LONG, rolled).await;
    assert_eq!(world.cluster().await.unwrap().status.unwrap().rolled_back, None);
    let told = refusals(&world, &refused).await;
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].series.is_none() && told[0].message.as_ref().unwrap().contains("tpm.pcr.4"), "{told:#?}");
}

#[tokio::test]
async fn a_member_that_is_refused_is_tainted_or_replaced_as_its_owner_wants() {
    let mut world = ready("refused-member").await;
    let clusters: Api<ConstellationCluster> = Api::default_namespaced(world.client());
    let on_failure = async |what: &str| {
        let body = json!({"spec": {"attestation": {"onFailure": what}}});
        clusters.patch("quickstart", &PatchParams::default(), &Patch::Merge(body)).await.unwrap();
    };
    let tainted = async |w: &World| -> Vec<String> {
        let nodes = w.kube_nodes().await.into_iter();
        let ours = |node: &Node| {
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
            taints.is_some_and(|taints| taints.iter().any(|taint| taint.key == "constellation.dev/unattested"))
        };
        nodes.filter(ours).filter_map(|node| node.metadata.name).collect()
    };
    let victim = world.workers().await.pop().unwrap();
    on_failure("Taint").await;
    world.script(json!({"broken-evidence": victim})).await;
    world.until("its taint", LONG, async |w| tainted(w).await == [victim.clone()]).await;
    assert_eq!(world.nodes().await.len(), 3);
    world.script(json!({})).await;
    world.until("no taint", LONG, async |w| tainted(w).await.is_empty() && w.condition("Ready").await).await;
    assert!(world.workers().await.contains(&victim), "it proved itself again, and stays");

    on_failure("Replace").await;
    world.script(json!({"broken-evidence": victim})).await;
    world
        .until("a replacement", LONG, async |w| {
            !w.workers().await.contains(&victim)
                && w.ready_workers().await == 2
                && w.machines().await.len() == 3
                && w.condition("Ready").await
        })
        .await;
    world.assert_one_machine_per_node();
}

#[tokio::test]
async fn a_node_that_somebody_deletes_stays_while_it_is_paused_and_while_it_is_the_whole_control_plane() {
    let mut world = ready("stays").await;
    let nodes: Api<ConfidentialNode> = Api::default_namespaced(world.client());
    let clusters: Api<ConstellationCluster> = Api::default_namespaced(world.client());
    let pause = async |paused: bool| {
        let body = Patch::Merge(json!({"spec": {"paused": paused}}));
        clusters.patch("quickstart", &PatchParams::default(), &body).await.unwrap();
    };
    let says = async |w: &World, name: &str, words: &str| {
        let node = w.nodes().await.into_iter().find(|node| node.metadata.name.as_deref() == Some(name));
        node.and_then(|node| node.status?.summary).is_some_and(|summary| summary.contains(words))
    };
    let worker = world.workers().await.pop().unwrap();
    pause(true).await;
    world.until("the pause", LONG, async |w| w.condition("Paused").await).await;
    nodes.delete(&worker, &DeleteParams::default()).await.unwrap();
    world.until("its word", LONG, async |w| says(w, &worker, "is paused").await).await;
    world.settle().await;
    assert_eq!((world.machines().await.len(), world.kube_nodes().await.len()), (3, 3), "nothing changes in a pause");
    pause(false).await;
    let replaced = async |w: &World, name: &str| {
        let nodes = w.nodes().await;
        nodes.len() == 3
            && nodes.iter().all(|node| node.metadata.name.as_deref() != Some(name))
            && w.machines().await.len() == 3
            && w.condition("Ready").await
    };
    world.until("another worker in its place", LONG, async |w| replaced(w, &worker).await).await;

    let first = world.nodes().await.into_iter().find(|node| node.spec.role == Role::ControlPlane).unwrap();
    let (name, uid) = (first.metadata.name.unwrap(), first.metadata.uid.unwrap());
    let slow = [2, 3, 4, 5].map(|n| format!("quickstart-cp-{n}=10")).join("\n");
    world.script(json!({"slow-boot": slow})).await;
    nodes.delete(&name, &DeleteParams::default()).await.unwrap();
    let waits = "until another control-plane node is Ready";
    world.until("its word", LONG, async |w| says(w, &name, waits).await).await;
    assert!(world.condition("Available").await);
    let records = world.machines().await;
    let running = |map: &ConfigMap| map.data.as_ref().is_some_and(|data| data["record"].contains("\"Running\""));
    let mine = records.iter().find(|map| map.metadata.name.as_ref().is_some_and(|name| name.contains(&uid)));
    assert!(mine.is_some_and(running), "{records:#?}");
    world.until("another one in its place", LONG, async |w| replaced(w, &name).await).await;
    world.assert_one_machine_per_node();
}

/// What the operator answers at its health address.
async fn ask(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn an_operator_is_ready_and_its_metrics_tell_of_clusters_that_are_there_and_of_no_other() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut world = ready_with("metrics", &["--health-address", &address.to_string()]).await;
    for path in ["/healthz", "/readyz"] {
        assert!(ask(address, path).await.starts_with("HTTP/1.1 200"), "{path}");
    }
    let of = r#"{namespace="default",cluster="quickstart","#;
    let metrics = ask(address, "/metrics").await;
    for line in [
        format!("constellation_cluster_condition{of}type=\"Ready\",status=\"True\"}} 1\n"),
        format!("constellation_cluster_condition{of}type=\"Paused\",status=\"False\"}} 1\n"),
        format!("constellation_nodes{of}group=\"workers\",phase=\"Ready\"}} 2\n"),
        format!("constellation_nodes{of}group=\"control-plane\",phase=\"Ready\"}} 1\n"),
    ] {
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    let past = format!("constellation_cluster_condition{of}type=\"Ready\",status=\"False\"}}");
    assert!(!metrics.contains(&past), "{metrics}");
    world.delete_cluster().await;
    world.until("nothing left", LONG, async |w| w.cluster().await.is_none()).await;
    world.settle().await;
    let metrics = ask(address, "/metrics").await;
    assert!(!metrics.contains("quickstart"), "{metrics}");
}

#[tokio::test]
async fn refusals_of_strangers_are_shown_and_told_once_and_change_nothing_about_a_healthy_node() {
    let mut world = ready("strangers").await;
    let node = world.nodes().await.remove(0);
    let (name, uid) = (node.metadata.name.unwrap(), node.metadata.uid.unwrap());
    let calm = node.status.unwrap();
    let admissions: Api<NodeAdmission> = Api::default_namespaced(world.client());
    let bundles: Api<TrustBundle> = Api::default_namespaced(world.client());
    // As a verifier writes them: again and again for one reason, while the storm lasts.
    for count in [3, 10_000] {
        let last = json!({"verdict": "Refused", "platform": "simulated", "refusalId": "id-1",
            "mismatches": [{"clause": "hello.purpose", "message": "the conversation is for another purpose"}]});
        let told = Patch::Merge(json!({"status": {"refusals": {"count": count, "last": last}}}));
        admissions.patch_status(&uid, &PatchParams::default(), &told).await.unwrap();
        bundles.patch_status("quickstart-constellation", &PatchParams::default(), &told).await.unwrap();
        let shown = |refusals: Option<Refusals>| refusals.is_some_and(|refusals| refusals.count == count);
        let of = async |w: &World| w.nodes().await.into_iter().find(|n| n.metadata.uid.as_ref() == Some(&uid)).unwrap();
        world.until("the node's status", LONG, async |w| shown(of(w).await.status.unwrap().refusals)).await;
        world
            .until("the cluster's status", LONG, async |w| shown(w.cluster().await.unwrap().status.unwrap().refusals))
            .await;
        let after = of(&world).await.status.unwrap();
        assert_eq!(ConfidentialNodeStatus { refusals: None, ..after }, calm);
        assert!(world.condition("Ready").await && world.condition("AttestationVerified").await);
    }
    for object in [name.as_str(), "quickstart"] {
        let told = world.events(object, "PeerRefused").await;
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(told[0].series.is_none() && told[0].type_.as_deref() == Some("Warning"), "{told:#?}");
        assert!(told[0].message.as_ref().unwrap().contains("3 times so far, last: hello.purpose"), "{told:#?}");
    }
}

/// The Events that tell of a node's refusal.
async fn refusals(world: &World, node: &str) -> Vec<Event> {
    world.events(node, "AttestationRefused").await
}
