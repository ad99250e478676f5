//! Clusters of one project share one list of instances, and each sees its own part of it as it is.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

mod story;

use std::time::Duration;

use constellation_cloud::{Cloud as _, CloudError, ClusterUid, LaunchRequest, NetworkRequest};
use constellation_cloud_gcp::GcpCloud;
use constellation_cloud_scripted::{
    Scripted as _,
    gcp::Endpoint,
    story::{cluster, network},
};

use story::{given, node, settings};

const LIST: &str = "compute.instances.aggregatedList";

fn lists(endpoint: &Endpoint) -> u64 {
    endpoint.world().calls().get(LIST).copied().unwrap_or_default()
}

/// Rooms of one project, as of clusters whose settings differ, and a node in each.
async fn rooms(endpoint: &Endpoint) -> [(GcpCloud, ClusterUid); 2] {
    let mut usual = settings(endpoint);
    usual.pace.list = Duration::from_mins(5);
    let mut other = usual.clone();
    other.sources.push("198.51.100.0/24".into());
    let second = ClusterUid("c-2".into());
    let rooms =
        [(GcpCloud::connect(usual).await.unwrap(), cluster()), (GcpCloud::connect(other).await.unwrap(), second)];
    for (room, cluster) in &rooms {
        room.ensure_network(&NetworkRequest { cluster: cluster.clone(), ..network() }).await.unwrap();
        let request = LaunchRequest { cluster: cluster.clone(), ..node(&format!("w-{}", cluster.0), 0) };
        room.launch(&request).await.unwrap();
    }
    rooms
}

#[tokio::test]
async fn clusters_of_a_project_cost_one_list_together_and_see_their_own_instances() {
    let (endpoint, _) = given().await;
    let rooms = rooms(&endpoint).await;
    // Processes that were just started know nothing; the one list is for all that ask.
    let mut fresh = settings(&endpoint);
    fresh.pace.list = Duration::from_mins(5);
    let before = lists(&endpoint);
    for (_, cluster) in &rooms {
        let room = GcpCloud::connect(fresh.clone()).await.unwrap();
        let found = room.find(cluster).await.unwrap();
        assert_eq!(found.iter().map(|one| one.node.0.as_str()).collect::<Vec<_>>(), [format!("w-{}", cluster.0)]);
    }
    assert_eq!(lists(&endpoint) - before, 1);
    endpoint.kept_to_the_model();
}

#[tokio::test]
async fn what_a_cluster_changed_is_seen_whatever_an_older_shared_list_says() {
    let (endpoint, _) = given().await;
    let [(first, cluster), (second, other)] = rooms(&endpoint).await;
    let id = first.find(&cluster).await.unwrap()[0].id.clone();
    second.find(&other).await.unwrap();
    loop {
        match first.terminate(&cluster, &id).await {
            Ok(()) => endpoint.world().pass(),
            Err(CloudError::NotFound(_)) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(first.find(&cluster).await.unwrap().is_empty());
    assert_eq!(second.find(&other).await.unwrap().len(), 1);
}

#[tokio::test]
async fn another_identity_is_never_shown_what_this_one_may_see() {
    let (endpoint, _) = given().await;
    rooms(&endpoint).await;
    let mut stranger = settings(&endpoint);
    stranger.pace.list = Duration::from_mins(5);
    let room = GcpCloud::connect(stranger).await.unwrap();
    let before = lists(&endpoint);
    room.find(&cluster()).await.unwrap();
    assert_eq!(lists(&endpoint) - before, 1, "it asks for itself");
}
