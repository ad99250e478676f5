//! The life of clusters on a scripted Compute Engine: the contract, crashes, failures, foreign things, what it costs.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

mod story;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use constellation_cloud::{
    Cloud, CloudError, ClusterUid, InstanceId, InstanceState, LaunchRequest, NetworkRequest, contract,
    demand::{Demand, Wanted},
};
use constellation_cloud_gcp::{CALLS, GcpCloud};
use constellation_cloud_scripted::{
    Scripted as _,
    gcp::{Endpoint, Fault},
    story::{cluster, network, print_calls},
};
use serde_json::json;

use story::{ZONES, given, node, settings, subject};

const MINE: &str = "projects/example/global/networks/constellation-c-1";

#[tokio::test]
async fn the_contract_holds() {
    let (endpoint, cloud) = given().await;
    contract::check(Arc::new(cloud), &subject(), "gcp").await.unwrap();
    endpoint.kept_to_the_model();
    assert!(endpoint.world().things.is_empty(), "left behind: {:?}", endpoint.world().things.keys());
}

#[tokio::test]
async fn the_contract_holds_with_slow_operations_small_pages_late_and_shared_lists() {
    let (endpoint, _) = given().await;
    {
        let mut world = endpoint.world();
        (world.slowness, world.page, world.lag) = (3, Some(1), 2);
    }
    let mut slow = settings(&endpoint);
    slow.pace.launch = Duration::from_millis(1);
    slow.pace.list = Duration::from_millis(300);
    let cloud = GcpCloud::connect(slow).await.unwrap();
    contract::check(Arc::new(cloud), &subject(), "gcp").await.unwrap();
    endpoint.kept_to_the_model();
    assert!(endpoint.world().things.is_empty());
}

/// One pass of a small reconciler; says whether nothing was left to do.
async fn pass(cloud: &GcpCloud, nodes: &[&str]) -> Result<bool, CloudError> {
    let cluster = cluster();
    if nodes.is_empty() {
        let there = cloud.find(&cluster).await?;
        for instance in &there {
            terminate(cloud, &instance.id).await?;
        }
        if !there.is_empty() {
            return Ok(false);
        }
        return match cloud.remove_network(&cluster).await {
            Err(CloudError::NotFound(_)) => Ok(true),
            other => other.map(|()| false),
        };
    }
    cloud.ensure_network(&network()).await?;
    let there = cloud.find(&cluster).await?;
    let mut settled = true;
    for (index, name) in (0..).zip(nodes) {
        if there.iter().all(|instance| instance.node.0 != **name) {
            settled = false;
            cloud.launch(&node(name, index)).await?;
        }
    }
    for instance in there.iter().filter(|instance| !nodes.contains(&instance.node.0.as_str())) {
        settled = false;
        terminate(cloud, &instance.id).await?;
    }
    let targets: Vec<_> =
        there.iter().filter(|instance| instance.node.0 == nodes[0]).map(|instance| instance.id.clone()).collect();
    cloud.set_endpoint_targets(&cluster, &targets).await?;
    Ok(settled)
}

async fn terminate(cloud: &GcpCloud, id: &InstanceId) -> Result<(), CloudError> {
    match cloud.terminate(&cluster(), id).await {
        Err(CloudError::NotFound(_)) => Ok(()),
        other => other,
    }
}

/// Reconciles until settled; whatever fails ends the process, and another one goes on without its memory.
async fn reach(endpoint: &Endpoint, cloud: &mut GcpCloud, nodes: &[&str]) -> u32 {
    let mut crashes = 0;
    for _ in 0..60 {
        match pass(cloud, nodes).await {
            Ok(true) => return crashes,
            Ok(false) => {}
            Err(_) => {
                crashes += 1;
                *cloud = GcpCloud::connect(settings(endpoint)).await.unwrap();
            }
        }
    }
    panic!("not settled with {nodes:?}: {:?}", endpoint.world().things.keys());
}

/// Create, roll both nodes one after the other, delete.
async fn story(endpoint: &Endpoint) -> Vec<Vec<String>> {
    let mut cloud = GcpCloud::connect(settings(endpoint)).await.unwrap();
    let mut pictures = Vec::new();
    for nodes in [&["cp-1", "w-1"][..], &["cp-2", "w-1"], &["cp-2", "w-2"], &[]] {
        reach(endpoint, &mut cloud, nodes).await;
        pictures.push(endpoint.world().picture());
    }
    pictures
}

#[tokio::test]
async fn a_crash_at_any_call_leads_to_the_same_end_without_duplicates_or_orphans() {
    let (endpoint, _) = given().await;
    let expected = story(&endpoint).await;
    assert!(
        expected[3].is_empty() && expected[0].len() == 13 && expected[0].iter().any(|line| line.contains("n-cp-1"))
    );
    let calls = endpoint.world().total();
    println!("calls of create, two rolls and delete of a cluster of two: {calls}");
    for at in 0..calls {
        for fault in [Fault::Lose, Fault::Refuse(503, "backendError")] {
            let endpoint = Endpoint::start().await;
            endpoint.world().faults.next = Some((at, fault.clone()));
            let told = story(&endpoint).await;
            assert_eq!(told, expected, "{fault:?} at call {at}");
            endpoint.kept_to_the_model();
        }
    }
}

#[tokio::test]
async fn a_network_that_was_made_in_part_is_removed_whole() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    let calls = endpoint.world().total();
    for at in 0..calls {
        let endpoint = Endpoint::start().await;
        endpoint.world().faults.next = Some((at, Fault::Lose));
        let mut cloud = GcpCloud::connect(settings(&endpoint)).await.unwrap();
        assert!(cloud.ensure_network(&network()).await.is_err());
        endpoint.world().faults.next = None;
        reach(&endpoint, &mut cloud, &[]).await;
        assert!(endpoint.world().things.is_empty(), "after a crash at call {at}: {:?}", endpoint.world().things.keys());
        assert!(cloud.clusters().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_zone_without_capacity_leads_to_the_next_and_none_left_to_an_error() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    let out = || ("compute.instances.insert".to_owned(), Fault::Operation("ZONE_RESOURCE_POOL_EXHAUSTED"));
    endpoint.world().faults.named.push_back(out());
    let first = cloud.launch(&node("w-1", 0)).await.unwrap();
    assert_eq!(first.id.0, "gce://example/europe-west4-b/n-w-1");
    endpoint.world().faults.named.extend([out(), out()]);
    let refused = cloud.launch(&node("w-2", 0)).await;
    assert!(matches!(&refused, Err(CloudError::Capacity(text)) if text.contains("POOL_EXHAUSTED")), "{refused:?}");
    // The failed attempts are spent: the next is another request, not the answer of the old one.
    cloud.launch(&node("w-2", 0)).await.unwrap();
    // A node that may be nowhere else is not moved.
    endpoint.world().faults.named.push_back(out());
    let there = LaunchRequest { zone: Some(ZONES[0].into()), ..node("w-3", 0) };
    assert!(matches!(cloud.launch(&there).await, Err(CloudError::Capacity(_))));
    // Neither does another process take the end of a spent attempt for its own.
    let cloud = GcpCloud::connect(settings(&endpoint)).await.unwrap();
    assert!(matches!(cloud.launch(&there).await, Err(CloudError::Capacity(_))));
    cloud.launch(&there).await.unwrap();
    endpoint.kept_to_the_model();
    assert_eq!(endpoint.world().of("instances").len(), 3);
}

#[tokio::test]
async fn a_launch_that_fails_after_its_call_is_a_failed_instance_until_it_is_removed() {
    let (endpoint, _) = given().await;
    let mut hasty = settings(&endpoint);
    hasty.pace.launch = Duration::ZERO;
    let cloud = GcpCloud::connect(hasty).await.unwrap();
    cloud.ensure_network(&network()).await.unwrap();
    endpoint.world().slowness = 1000;
    let quota = Fault::Operation("QUOTA_EXCEEDED");
    endpoint.world().faults.named.push_back(("compute.instances.insert".into(), quota));
    let launched = cloud.launch(&node("w-1", 0)).await.unwrap();
    assert_eq!(cloud.find(&cluster()).await.unwrap()[0].state, InstanceState::Running);
    endpoint.world().pass();
    for _ in 0..2 {
        let found = cloud.find(&cluster()).await.unwrap();
        assert_eq!((found.len(), found[0].state), (1, InstanceState::Failed));
        assert!(found[0].message.as_ref().unwrap().contains("QUOTA_EXCEEDED"), "{found:?}");
    }
    assert!(matches!(cloud.terminate(&cluster(), &launched.id).await, Err(CloudError::NotFound(_))));
    assert!(cloud.find(&cluster()).await.unwrap().is_empty());
    endpoint.kept_to_the_model();
}

#[tokio::test]
async fn a_vm_that_no_list_shows_yet_is_not_launched_twice() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    endpoint.world().lag = 5;
    let first = cloud.launch(&node("w-1", 0)).await.unwrap();
    assert_eq!(cloud.find(&cluster()).await.unwrap().len(), 1, "this process knows its launch");
    let other = GcpCloud::connect(settings(&endpoint)).await.unwrap();
    assert!(other.find(&cluster()).await.unwrap().is_empty(), "another process doesn't");
    assert_eq!(other.launch(&node("w-1", 0)).await.unwrap().id, first.id);
    assert_eq!(other.find(&cluster()).await.unwrap().len(), 1);
    endpoint.kept_to_the_model();
}

#[tokio::test]
async fn refusals_have_their_kind_and_name_what_is_missing() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    let cases = [
        (Fault::Refuse(403, "forbidden"), "Denied"),
        (Fault::Refuse(401, "authError"), "Denied"),
        (Fault::Refuse(403, "quotaExceeded"), "Quota"),
        (Fault::Refuse(403, "rateLimitExceeded"), "Throttled"),
        (Fault::Refuse(429, "tooMany"), "Throttled"),
        (Fault::Refuse(400, "invalid"), "Unsupported"),
        (Fault::Refuse(500, "internalError"), "Transient"),
        (Fault::Operation("QUOTA_EXCEEDED"), "Quota"),
    ];
    for (fault, kind) in cases {
        endpoint.world().faults.named.push_back(("compute.instances.insert".into(), fault.clone()));
        let error = cloud.launch(&node("w-1", 0)).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(kind), "{fault:?} gave {error:?}");
        if matches!(fault, Fault::Refuse(403, "forbidden")) {
            assert!(error.to_string().contains("compute.instances.create"), "{error}");
        }
        if matches!(fault, Fault::Refuse(429, _)) {
            assert!(matches!(error, CloudError::Throttled { after } if after == Duration::from_secs(7)), "{error:?}");
        }
    }
    let unsupported = LaunchRequest { instance_type: "c3-standard-4".into(), ..node("w-1", 0) };
    assert!(matches!(cloud.launch(&unsupported).await, Err(CloudError::Unsupported(_))));
    let image = LaunchRequest { image: "node-1".into(), ..node("w-1", 0) };
    assert!(matches!(cloud.launch(&image).await, Err(CloudError::Unsupported(_))));
    endpoint.kept_to_the_model();
    assert!(endpoint.world().of("instances").is_empty());
}

fn demand(zones: &[&str], count: u32) -> Demand {
    let zones = zones.iter().map(|zone| (*zone).to_owned()).collect();
    let group = Wanted { instance_type: "n2d-standard-4".into(), zones, count };
    Demand { groups: vec![group], image: Some("projects/example/global/images/node-1".into()) }
}

#[tokio::test]
async fn what_the_region_cannot_do_is_told_before_the_first_create() {
    let (endpoint, cloud) = given().await;
    let refused = cloud.check_capability(&demand(&[], 1)).await;
    assert!(matches!(&refused, Err(CloudError::Unsupported(why)) if why.contains(ZONES[1])), "{refused:?}");
    cloud.check_capability(&demand(&[ZONES[0]], 1)).await.unwrap();
    endpoint.world().platforms = vec!["Intel Ice Lake", "AMD Milan"];
    cloud.check_capability(&demand(&[], 1)).await.unwrap();
    assert!(cloud.check_capability(&demand(&["us-east1-b"], 1)).await.is_err());
    let spoilt: [fn(&mut Demand); 2] =
        [|d| d.groups[0].instance_type = "e2-standard-4".into(), |d| d.image = Some("node-1".into())];
    for spoil in spoilt {
        let mut bad = demand(&[], 1);
        spoil(&mut bad);
        assert!(matches!(cloud.check_capability(&bad).await, Err(CloudError::Unsupported(_))), "{bad:?}");
    }

    endpoint.world().quotas = vec![("N2D_CPUS", 10.0), ("INSTANCES", 100.0)];
    cloud.check_quota(&cluster(), &demand(&[], 2)).await.unwrap();
    let refused = cloud.check_quota(&cluster(), &demand(&[], 3)).await;
    assert!(matches!(&refused, Err(CloudError::Quota(why)) if why.contains("N2D_CPUS")), "{refused:?}");
    // What the cluster has already is not asked for again.
    cloud.ensure_network(&network()).await.unwrap();
    cloud.launch(&node("w-1", 0)).await.unwrap();
    cloud.check_quota(&cluster(), &demand(&[], 3)).await.unwrap();
    assert_eq!(cloud.calls()[&("compute.instances.insert", "ok")], 1);
    assert_eq!(cloud.calls().values().sum::<u64>(), endpoint.world().total());
    endpoint.kept_to_the_model();
}

#[tokio::test]
async fn a_list_without_one_of_our_zones_is_no_list() {
    let (endpoint, cloud) = given().await;
    endpoint.world().unreachable = vec!["zones/us-east1-b".into()];
    assert!(cloud.find(&cluster()).await.unwrap().is_empty());
    endpoint.world().unreachable = vec!["zones/europe-west4-b".into()];
    assert!(matches!(cloud.find(&cluster()).await, Err(CloudError::Transient(_))));
    endpoint.world().unreachable.clear();
    endpoint.world().silent = vec!["zones/us-east1-b".into()];
    assert!(cloud.find(&cluster()).await.unwrap().is_empty());
    endpoint.world().silent = vec!["zones/europe-west4-a".into()];
    assert!(matches!(cloud.find(&cluster()).await, Err(CloudError::Transient(_))));
}

#[tokio::test]
async fn what_others_own_is_neither_seen_nor_touched() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    let zone = "projects/example/zones/europe-west4-a";
    let foreign = format!("{zone}/instances/n-w-9");
    let theirs = json!({"name": "n-w-9", "zone": zone, "status": "RUNNING", "labels": {
        "constellation-cluster": "c-1", "constellation-node": "w-9", "constellation-owner": "operator-2"}});
    endpoint.world().things.insert(foreign.clone(), theirs);
    assert!(cloud.find(&cluster()).await.unwrap().is_empty());
    let id = InstanceId("gce://example/europe-west4-a/n-w-9".into());
    assert!(matches!(cloud.terminate(&cluster(), &id).await, Err(CloudError::NotFound(_))));
    // The name of a node's VM is taken by it: said, not used.
    assert!(matches!(cloud.launch(&node("w-9", 0)).await, Err(CloudError::Transient(_))));
    assert_eq!(endpoint.world().things[&foreign]["status"], "RUNNING");

    let second = ClusterUid("c-2".into());
    let path = "projects/example/global/networks/constellation-c-2";
    endpoint.world().things.insert(path.into(), json!({"name": "constellation-c-2", "description": "mine"}));
    let request = NetworkRequest { cluster: second.clone(), ..network() };
    assert!(matches!(cloud.ensure_network(&request).await, Err(CloudError::Unsupported(_))));
    assert!(matches!(cloud.remove_network(&second).await, Err(CloudError::Unsupported(_))));
    assert!(endpoint.world().things.contains_key(path));
    assert_eq!(cloud.clusters().await.unwrap(), [cluster()]);
    endpoint.kept_to_the_model();
}

/// What is said in Google's place, or by a Google that is ill.
fn odd() -> Vec<(u16, String)> {
    let page = "<html><body>404 Not Found</body></html>";
    let error = r#"{"error": {"code": 404, "message": "none", "errors": [{"reason": "notFound"}]}}"#;
    let other = r#"{"kind": "compute#disk", "name": "n-w-1"}"#;
    let good = ["", page, "[]", "null", "\"text\"", "{}", other, error].map(|body| (200, body.to_owned()));
    let bad = ["", page, "[]", "{}", r#"{"error": "not found"}"#, r#"{"error": {}}"#, r#"{"error": {"code": 404}}"#];
    good.into_iter().chain(bad.map(|body| (404, body.to_owned()))).chain([(400, page.to_owned())]).collect()
}

#[tokio::test]
async fn whatever_is_not_googles_own_answer_removes_nothing_and_is_asked_again() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    let id = cloud.launch(&node("w-1", 0)).await.unwrap().id;
    let before: Vec<String> = endpoint.world().things.keys().cloned().collect();
    let say = |method: &str, (status, body): &(u16, String)| {
        endpoint.world().faults.named.push_back((method.to_owned(), Fault::Say(*status, body.clone())));
    };
    for answer in odd() {
        say("compute.instances.get", &answer);
        let told = cloud.terminate(&cluster(), &id).await;
        assert!(matches!(told, Err(CloudError::Transient(_))), "{answer:?}: {told:?}");
        say("compute.instances.delete", &answer);
        let told = cloud.terminate(&cluster(), &id).await;
        // What Google may have begun is looked at by the next pass.
        assert!(matches!(told, Ok(()) | Err(CloudError::Transient(_))), "{answer:?}: {told:?}");
        say("compute.instances.aggregatedList", &answer);
        let told = cloud.find(&cluster()).await;
        assert!(matches!(told, Err(CloudError::Transient(_))), "{answer:?}: {told:?}");
        say("compute.instances.insert", &answer);
        let told = cloud.launch(&node("w-3", 0)).await;
        assert!(matches!(told, Err(CloudError::Transient(_))), "{answer:?}: {told:?}");
        say("compute.networks.list", &answer);
        let told = cloud.clusters().await;
        assert!(matches!(told, Err(CloudError::Transient(_))), "{answer:?}: {told:?}");
        say("compute.networks.get", &answer);
        let told = cloud.ensure_network(&network()).await;
        assert!(matches!(told, Err(CloudError::Transient(_))), "{answer:?}: {told:?}");
        assert_eq!(cloud.find(&cluster()).await.unwrap().len(), 1);
        assert!(endpoint.world().faults.named.is_empty());
    }
    assert_eq!(endpoint.world().things.keys().cloned().collect::<Vec<_>>(), before);
    terminate(&cloud, &id).await.unwrap();
    assert!(cloud.find(&cluster()).await.unwrap().is_empty());
    endpoint.kept_to_the_model();
}

#[tokio::test]
async fn an_instance_that_was_not_asked_for_is_no_answer_and_a_list_must_end() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    let id = cloud.launch(&node("w-1", 0)).await.unwrap().id;
    let other = json!({"kind": "compute#instance", "name": "n-w-2"}).to_string();
    endpoint.world().faults.named.push_back(("compute.instances.get".into(), Fault::Say(200, other)));
    assert!(matches!(cloud.terminate(&cluster(), &id).await, Err(CloudError::Transient(_))));

    let list = |kind: &str| Fault::Say(200, json!({"kind": kind, "nextPageToken": "again"}).to_string());
    for _ in 0..2 {
        let mut world = endpoint.world();
        world
            .faults
            .named
            .push_back(("compute.instances.aggregatedList".into(), list("compute#instanceAggregatedList")));
        world.faults.named.push_back(("compute.networks.list".into(), list("compute#networkList")));
    }
    assert!(matches!(cloud.find(&cluster()).await, Err(CloudError::Transient(_))));
    assert!(matches!(cloud.clusters().await, Err(CloudError::Transient(_))));
    // A list of something else has nothing of ours, and so says nothing.
    endpoint.world().faults.named.push_back((
        "compute.instances.aggregatedList".into(),
        Fault::Say(200, r#"{"kind": "compute#diskList"}"#.into()),
    ));
    assert!(matches!(cloud.find(&cluster()).await, Err(CloudError::Transient(_))));
    assert_eq!(cloud.find(&cluster()).await.unwrap().len(), 1);
    endpoint.kept_to_the_model();
}

#[tokio::test]
async fn an_instance_that_copies_a_nodes_labels_under_another_name_is_not_the_nodes() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    let zone = "projects/example/zones/europe-west4-a";
    let copy = json!({"name": "n-evil", "zone": zone, "status": "RUNNING", "labels": {
        "constellation-cluster": "c-1", "constellation-node": "w-1", "constellation-owner": "operator-1"}});
    let path = format!("{zone}/instances/n-evil");
    endpoint.world().things.insert(path.clone(), copy.clone());
    assert!(cloud.find(&cluster()).await.unwrap().is_empty());
    let made = cloud.launch(&node("w-1", 0)).await.unwrap();
    assert!(made.id.0.ends_with("/n-w-1"), "{made:?}");
    let found = cloud.find(&cluster()).await.unwrap();
    assert_eq!(found.iter().map(|found| &found.id).collect::<Vec<_>>(), [&made.id]);
    assert_eq!(endpoint.world().things[&path], copy);
    endpoint.kept_to_the_model();
}

#[tokio::test]
async fn a_changed_firewall_rule_is_changed_back() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    let path = "projects/example/global/firewalls/constellation-c-1-owner";
    let before = endpoint.world().things[path].clone();
    endpoint.world().things.get_mut(path).unwrap()["sourceRanges"] = json!(["0.0.0.0/0"]);
    cloud.ensure_network(&network()).await.unwrap();
    assert_eq!(endpoint.world().things[path]["sourceRanges"], before["sourceRanges"]);
    assert_eq!(endpoint.world().calls["compute.firewalls.patch"], 1);
    endpoint.kept_to_the_model();
}

#[tokio::test]
async fn a_vm_that_was_removed_or_stopped_behind_our_back_is_told() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    for (index, name) in (0..).zip(["w-1", "w-2"]) {
        cloud.launch(&node(name, index)).await.unwrap();
    }
    {
        let mut world = endpoint.world();
        world.things.remove("projects/example/zones/europe-west4-a/instances/n-w-1").unwrap();
        let path = "projects/example/zones/europe-west4-b/instances/n-w-2";
        world.things.get_mut(path).unwrap()["status"] = json!("TERMINATED");
    }
    let found = cloud.find(&cluster()).await.unwrap();
    assert_eq!(
        found.iter().map(|i| (i.node.0.as_str(), i.state)).collect::<Vec<_>>(),
        [("w-2", InstanceState::Failed)]
    );
}

#[tokio::test]
async fn an_instance_is_confidential_and_measured_and_carries_its_launch_configuration() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    cloud.launch(&node("w-1", 0)).await.unwrap();
    let world = endpoint.world();
    let sent = &world.things["projects/example/zones/europe-west4-a/instances/n-w-1"];
    assert_eq!(sent["confidentialInstanceConfig"]["confidentialInstanceType"], "SEV_SNP");
    assert_eq!(sent["minCpuPlatform"], "AMD Milan");
    let shielded = &sent["shieldedInstanceConfig"];
    for switch in ["enableSecureBoot", "enableVtpm", "enableIntegrityMonitoring"] {
        assert_eq!(shielded[switch], true);
    }
    let items = sent["metadata"]["items"].as_array().unwrap();
    let config = items.iter().find(|item| item["key"] == "constellation-launch-config").unwrap();
    assert_eq!(config["value"], "eyJzb21lIjoidGhpbmcifQ==");
    assert!(sent["disks"].as_array().unwrap().iter().all(|disk| disk["autoDelete"] == true));
    assert_eq!(sent["disks"][1]["initializeParams"]["diskSizeGb"], "20");
    assert!(world.things.contains_key(MINE));
}

#[tokio::test]
async fn the_role_allows_exactly_the_calls_that_are_made() {
    let (endpoint, cloud) = given().await;
    story(&endpoint).await;
    cloud.ensure_network(&network()).await.unwrap();
    endpoint.world().things.get_mut("projects/example/global/firewalls/constellation-c-1-nodes").unwrap()["disabled"] =
        json!(true);
    // Operations are looked at only when they take time.
    endpoint.world().slowness = 2;
    cloud.ensure_network(&network()).await.unwrap();
    reach(&endpoint, &mut GcpCloud::connect(settings(&endpoint)).await.unwrap(), &["cp-3"]).await;
    reach(&endpoint, &mut GcpCloud::connect(settings(&endpoint)).await.unwrap(), &[]).await;
    cloud.clusters().await.unwrap();
    cloud.check_capability(&demand(&[ZONES[0]], 1)).await.unwrap();
    cloud.check_quota(&cluster(), &demand(&[], 1)).await.unwrap();
    cloud.ensure_network(&network()).await.unwrap();
    let target = cloud.launch(&node("cp-4", 0)).await.unwrap();
    endpoint.world().pass();
    cloud.set_endpoint_targets(&cluster(), &[target.id]).await.unwrap();
    cloud.set_endpoint_targets(&cluster(), &[]).await.unwrap();
    let made: BTreeSet<String> = endpoint.world().calls.keys().cloned().collect();
    let listed: BTreeSet<String> = CALLS.iter().map(|(method, _)| (*method).to_owned()).collect();
    assert_eq!(made, listed);
    endpoint.kept_to_the_model();
}

#[tokio::test]
async fn a_hundred_nodes_cost_an_insert_and_looks_at_it_each_and_resting_costs_one_list() {
    let (endpoint, _) = given().await;
    let mut usual = settings(&endpoint);
    usual.pace.list = Duration::from_mins(5);
    usual.pace.launch = Duration::from_mins(5);
    let cloud = GcpCloud::connect(usual.clone()).await.unwrap();
    cloud.ensure_network(&network()).await.unwrap();
    let network_calls = endpoint.world().calls();
    print_calls("gcp: network and endpoint", &BTreeMap::new(), &network_calls);
    endpoint.world().slowness = 3;
    let names: Vec<_> = (0..100).map(|n| format!("w-{n}")).collect();
    let requests: Vec<_> = (0..).zip(&names).map(|(index, name)| node(name, index)).collect();
    for launched in futures::future::join_all(requests.iter().map(|request| cloud.launch(request))).await {
        launched.unwrap();
    }
    let created = endpoint.world().calls();
    print_calls("gcp: 100 nodes, whose operations take three looks", &network_calls, &created);
    let sum = |calls: &BTreeMap<String, u64>| calls.values().sum::<u64>();
    let nodes = sum(&created) - sum(&network_calls);
    assert!(nodes <= 410, "an insert and three looks each, and shared lists");
    // What a process that was just started, or whose list is too old, pays for a hundred nodes that ask.
    usual.listing = Arc::default();
    let cloud = GcpCloud::connect(usual).await.unwrap();
    for found in futures::future::join_all(names.iter().map(|_| async { cloud.find(&cluster()).await })).await {
        assert_eq!(found.unwrap().len(), 100);
    }
    print_calls("gcp: resting, per interval", &created, &endpoint.world().calls());
    assert_eq!(endpoint.world().total() - sum(&created), 1);
    endpoint.kept_to_the_model();
}
