//! Removals that something of somebody else's holds up: it is named, left alone, and the removal goes on when it is gone.

use std::collections::BTreeMap;

use constellation_cloud::{Cloud, CloudError};
use constellation_cloud_aws::{AwsCloud, Placement, Reach, Settings};
use constellation_cloud_scripted::{
    Scripted as _,
    aws::{Endpoint, objects::Kind},
    story::{cluster, network},
};

use super::story::{cloud, given, process, removed, request, settings};

/// What a removal says when it gets no further.
async fn told(cloud: &AwsCloud) -> String {
    let mut said = Ok(());
    for _ in 0..5 {
        said = cloud.remove_network(&cluster()).await;
    }
    match said {
        Err(CloudError::Unsupported(text)) => text,
        other => panic!("a person must be told, not {other:?}"),
    }
}

/// Ids of what is there of a kind.
fn ids(endpoint: &Endpoint, kind: Kind) -> Vec<String> {
    endpoint.world().of(kind).into_iter().map(|one| one.id.clone()).collect()
}

#[tokio::test]
async fn whatever_a_stranger_has_in_our_vpc_is_named_and_left_until_he_takes_it_away() {
    for (kind, id, more) in [
        (Kind::Acl, "acl-0f", ("", "")),
        (Kind::EgressGateway, "eigw-0f", ("", "")),
        (Kind::Gateway, "igw-0f", ("", "")),
        (Kind::Group, "sg-0f", ("group-name", "web")),
        (Kind::Interface, "eni-0f", ("description", "a database")),
        (Kind::RouteTable, "rtb-0f", ("", "")),
        (Kind::Subnet, "subnet-0f", ("zone", "us-east-2c")),
        (Kind::VpcEndpoint, "vpce-0f", ("state", "available")),
        (Kind::VpnGateway, "vgw-0f", ("", "")),
    ] {
        let (endpoint, cloud) = given().await;
        let made = cloud.ensure_network(&network()).await.unwrap();
        cloud.launch(&request("n-1", 0)).await.unwrap();
        endpoint.world().add(kind, id, &[("vpc-id", &made.id), more], BTreeMap::new());
        let said = told(&cloud).await;
        assert!(said.contains(id) && said.contains(&made.id), "{said}");
        assert_eq!(said.contains("(a database)"), kind == Kind::Interface, "{said}");
        // One that goes with its VPC is nobody's.
        assert!(!said.contains("default") && !said.contains(&format!("rtb-{}", made.id)), "{said}");
        let left: Vec<_> = endpoint.world().objects.keys().filter(|id| !id.starts_with("i-")).cloned().collect();
        let mut wanted = [id.to_owned(), made.id];
        wanted.sort();
        assert_eq!(left, wanted, "ours is gone, and nothing of his");
        endpoint.world().objects.remove(id);
        removed(&cloud).await;
        assert_eq!(endpoint.world().picture(), [""; 0]);
        assert_eq!(endpoint.world().violations, [""; 0]);
    }
}

#[tokio::test]
async fn interfaces_of_our_own_balancers_are_waited_for_without_a_word() {
    let (endpoint, cloud) = given().await;
    let made = cloud.ensure_network(&network()).await.unwrap();
    let name = endpoint.world().of(Kind::Balancer)[0].get("name").to_owned();
    let group = ids(&endpoint, Kind::Group).remove(0);
    let add = |description: &str| {
        let of = [("vpc-id", made.id.as_str()), ("group-id", &group), ("description", description)];
        endpoint.world().add(Kind::Interface, "eni-0f", &of, BTreeMap::new());
    };
    add(&format!("ELB net/{name}/0123456789abcdef"));
    for _ in 0..5 {
        cloud.remove_network(&cluster()).await.unwrap();
    }
    add("ELB net/another/0123456789abcdef");
    assert!(told(&cloud).await.contains("eni-0f (ELB net/another"));
    endpoint.world().objects.remove("eni-0f");
    removed(&cloud).await;
}

#[tokio::test]
async fn a_protected_load_balancer_is_named_and_the_rest_goes() {
    for (attribute, value, cure) in
        [("protected", "true", "deletion protection"), ("service", "vpce-svc-0f", "endpoint service")]
    {
        let (endpoint, cloud) = given().await;
        cloud.ensure_network(&network()).await.unwrap();
        cloud.launch(&request("n-1", 0)).await.unwrap();
        let arn = ids(&endpoint, Kind::Balancer).remove(0);
        endpoint.world().objects.get_mut(&arn).unwrap().attributes.insert(attribute, value.into());
        let said = told(&cloud).await;
        assert!(said.contains(&arn) && said.contains(cure), "{said}");
        assert_eq!(ids(&endpoint, Kind::Balancer), std::slice::from_ref(&arn));
        assert_eq!(endpoint.world().of(Kind::Instance)[0].get("instance-state-name"), "terminated");
        endpoint.world().objects.get_mut(&arn).unwrap().attributes.remove(attribute);
        removed(&cloud).await;
        assert_eq!(endpoint.world().picture(), [""; 0]);
    }
}

#[tokio::test]
async fn a_target_group_that_somebody_elses_balancer_uses_is_named() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    let group = ids(&endpoint, Kind::Targets).remove(0);
    let of = [("balancer", "arn:aws:theirs"), ("port", "443"), ("targets", group.as_str())];
    endpoint.world().add(Kind::Listener, "arn:aws:theirs/443", &of, BTreeMap::new());
    let said = told(&cloud).await;
    assert!(said.contains(&group) && said.contains("arn:aws:theirs"), "{said}");
    endpoint.world().objects.remove("arn:aws:theirs/443");
    removed(&cloud).await;
    assert_eq!(endpoint.world().picture(), [""; 0]);
}

/// A VPC that the user keeps, with a cluster in it.
async fn in_given_subnets() -> (Endpoint, AwsCloud) {
    let endpoint = Endpoint::start().await;
    {
        let mut world = endpoint.world();
        world.add(Kind::Vpc, "vpc-01", &[("cidr", "10.8.0.0/16")], BTreeMap::new());
        let of = [("vpc-id", "vpc-01"), ("cidr", "10.8.0.0/24"), ("zone", "us-east-2a")];
        world.add(Kind::Subnet, "subnet-01", &of, BTreeMap::new());
        world.log.push("before".into());
    }
    let placement = Placement::Subnets(vec!["subnet-01".into()]);
    let cloud = cloud(process(&endpoint).await, Settings { placement, reach: Reach::Internal, ..settings() });
    cloud.ensure_network(&network()).await.unwrap();
    (endpoint, cloud)
}

#[tokio::test]
async fn a_group_of_ours_that_a_strangers_interface_has_is_told_with_both_ids() {
    let (endpoint, cloud) = in_given_subnets().await;
    let group = ids(&endpoint, Kind::Group).remove(0);
    let of = [("group-id", group.as_str()), ("description", "his"), ("vpc-id", "vpc-01")];
    endpoint.world().add(Kind::Interface, "eni-0f", &of, BTreeMap::new());
    let said = told(&cloud).await;
    assert!(said.contains(&group) && said.contains("eni-0f (his)"), "{said}");
    assert_eq!(ids(&endpoint, Kind::Group), [group]);
    endpoint.world().objects.remove("eni-0f");
    removed(&cloud).await;
    assert!(endpoint.world().of(Kind::Group).is_empty());
}

#[tokio::test]
async fn a_group_of_ours_that_a_strangers_rule_names_is_told_and_his_rule_stays() {
    let (endpoint, cloud) = in_given_subnets().await;
    let group = ids(&endpoint, Kind::Group).remove(0);
    let of = [("group-name", "web"), ("vpc-id", "vpc-01")];
    for outwards in [false, true] {
        let rule = format!("tcp 443 443 {group}");
        {
            let mut world = endpoint.world();
            world.add(Kind::Group, "sg-0f", &of, BTreeMap::new());
            let theirs = world.objects.get_mut("sg-0f").unwrap();
            let rules = if outwards { &mut theirs.out } else { &mut theirs.members };
            rules.insert(rule.clone());
        }
        let said = told(&cloud).await;
        assert!(said.contains(&group) && said.contains("rule of security group sg-0f"), "{said}");
        let theirs = endpoint.world().objects["sg-0f"].clone();
        assert!(theirs.members.contains(&rule) || theirs.out.contains(&rule));
    }
    endpoint.world().objects.remove("sg-0f");
    removed(&cloud).await;
    assert!(endpoint.world().of(Kind::Group).is_empty());
}

#[tokio::test]
async fn a_vpc_that_nobody_is_seen_to_hold_is_asked_again_and_said_to_be_held() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    for _ in 0..3 {
        endpoint.world().refusals.entry("DeleteVpc").or_default().push_back((400, "DependencyViolation"));
    }
    let mut said = Vec::new();
    for _ in 0..5 {
        said.push(cloud.remove_network(&cluster()).await);
    }
    assert!(
        said.iter().any(|one| matches!(one, Err(CloudError::Transient(text)) if text.contains("vpc-"))),
        "{said:?}"
    );
    assert!(matches!(said.last(), Some(Err(CloudError::NotFound(_)))), "{said:?}");
}
