//! Instances that end by themselves: told with their reason, replaced once, and waited for by nobody.

use constellation_cloud::{Cloud, CloudError, Instance, InstanceState};
use constellation_cloud_aws::AwsCloud;
use constellation_cloud_scripted::{
    Scripted as _,
    aws::{Endpoint, objects::Kind},
    story::{cluster, network},
};

use super::story::{cloud, given, process, removed, request, settings};

const KEY: &str = "Client.InternalError";
const NO_CAPACITY: &str = "Server.InsufficientInstanceCapacity";

#[tokio::test]
async fn what_ended_by_itself_is_failed_and_says_why_until_it_was_terminated_once() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    endpoint.world().endings.push_back(KEY);
    let made = cloud.launch(&request("n-1", 0)).await.unwrap();
    let found = cloud.find(&cluster()).await.unwrap().remove(0);
    assert_eq!((&found.id, found.state), (&made.id, InstanceState::Failed));
    let why = found.message.clone().unwrap();
    assert!(why.contains(KEY) && why.contains("volumeKey"), "{why}");
    // A process that died before it could tell finds the same, and launches no other.
    let second = another(&endpoint).await;
    assert_eq!(second.launch(&request("n-1", 0)).await.unwrap(), found);
    assert_eq!(second.find(&cluster()).await.unwrap(), [found]);
    assert_eq!(endpoint.world().of(Kind::Instance).len(), 1);
    let before = endpoint.world().calls().get("TerminateInstances").copied();
    assert!(matches!(cloud.terminate(&cluster(), &made.id).await, Err(CloudError::NotFound(_))));
    assert_eq!(cloud.find(&cluster()).await.unwrap(), []);
    assert_eq!(endpoint.world().calls().get("TerminateInstances").copied(), before, "EC2 has nothing to do");
    assert!(matches!(cloud.terminate(&cluster(), &made.id).await, Err(CloudError::NotFound(_))), "and again");
}

/// A process that remembers nothing.
async fn another(endpoint: &Endpoint) -> AwsCloud {
    cloud(process(endpoint).await, settings())
}

#[tokio::test]
async fn a_process_that_forgot_lets_what_ended_go_once_more() {
    let (endpoint, first) = given().await;
    first.ensure_network(&network()).await.unwrap();
    endpoint.world().endings.push_back(KEY);
    let made = first.launch(&request("n-1", 0)).await.unwrap();
    for cloud in [first, another(&endpoint).await] {
        assert_eq!(cloud.find(&cluster()).await.unwrap()[0].state, InstanceState::Failed);
        assert!(matches!(cloud.terminate(&cluster(), &made.id).await, Err(CloudError::NotFound(_))));
        assert_eq!(cloud.find(&cluster()).await.unwrap(), []);
    }
    // EC2 forgets it, and so does the process.
    endpoint.world().objects.retain(|_, object| object.kind != Kind::Instance);
    assert_eq!(another(&endpoint).await.find(&cluster()).await.unwrap(), []);
}

#[tokio::test]
async fn what_somebody_terminated_is_gone_at_once_and_launched_anew() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    let made = cloud.launch(&request("n-1", 0)).await.unwrap();
    endpoint.world().fade = 0;
    while cloud.terminate(&cluster(), &made.id).await.is_ok() {}
    assert_eq!(endpoint.world().of(Kind::Instance)[0].get("instance-state-name"), "terminated");
    assert_eq!(cloud.find(&cluster()).await.unwrap(), []);
    assert_ne!(cloud.launch(&request("n-1", 0)).await.unwrap().id, made.id);
}

#[tokio::test]
async fn a_node_that_lives_hides_what_ended_before_it() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    let first = cloud.launch(&request("n-1", 0)).await.unwrap();
    let tags = endpoint.world().of(Kind::Instance)[0].tags.clone();
    let of = [("instance-state-name", "running"), ("launched", "2026-11-22T00:00:00.000Z"), ("zone", "us-east-2a")];
    endpoint.world().add(Kind::Instance, "i-0e", &of, tags);
    endpoint.world().end_by_itself("i-0e", KEY);
    let found = cloud.find(&cluster()).await.unwrap();
    assert_eq!(found.iter().map(|one| (&one.id, one.state)).collect::<Vec<_>>(), [(&first.id, InstanceState::Running)]);
    assert_eq!(cloud.launch(&request("n-1", 0)).await.unwrap().id, first.id);
    assert!(!cloud.calls().keys().any(|(operation, _)| *operation == "ec2:TerminateInstances"), "no duplicate");
}

#[tokio::test]
async fn a_replacement_is_launched_once_and_elsewhere_when_there_was_no_capacity() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    let zone = |made: &Instance| made.id.0.split('/').nth(3).unwrap().to_owned();
    endpoint.world().endings.push_back(NO_CAPACITY);
    let first = cloud.launch(&request("n-1", 0)).await.unwrap();
    assert!(matches!(cloud.terminate(&cluster(), &first.id).await, Err(CloudError::NotFound(_))));
    // The replacement has its predecessor's index, and so would begin where that one ended.
    let second = cloud.launch(&request("n-2", 0)).await.unwrap();
    assert_ne!(zone(&first), zone(&second));
    let found = cloud.find(&cluster()).await.unwrap();
    assert_eq!(found.iter().map(|one| &one.id).collect::<Vec<_>>(), [&second.id]);
    assert_eq!(cloud.launch(&request("n-2", 0)).await.unwrap().id, second.id);
    // Who names a zone gets it; and another reason says nothing about a zone.
    let mut here = request("n-3", 0);
    here.zone = Some(zone(&first));
    assert_eq!(zone(&cloud.launch(&here).await.unwrap()), zone(&first));
    assert_eq!(endpoint.world().of(Kind::Instance).len(), 3);
}

#[tokio::test]
async fn another_reason_than_capacity_says_nothing_about_a_zone() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    endpoint.world().endings.push_back(KEY);
    let first = cloud.launch(&request("n-1", 0)).await.unwrap();
    let second = cloud.launch(&request("n-2", 0)).await.unwrap();
    assert_eq!(first.id.0.split('/').nth(3), second.id.0.split('/').nth(3));
}

#[tokio::test]
async fn a_removal_does_not_wait_for_what_ended_and_leaves_nothing() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    endpoint.world().endings.extend([KEY, NO_CAPACITY]);
    for node in ["n-1", "n-2", "n-3"] {
        cloud.launch(&request(node, 0)).await.unwrap();
    }
    // Nobody asked for the two that ended: the network goes all the same.
    removed(&cloud).await;
    assert_eq!(endpoint.world().picture(), [""; 0]);
    assert_eq!(another(&endpoint).await.clusters().await.unwrap(), [], "what ended is no cluster's");
    assert_eq!(endpoint.world().violations, [""; 0]);
}
