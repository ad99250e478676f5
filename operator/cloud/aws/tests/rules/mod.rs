//! Rules of the security groups: what somebody changed is mended, whichever way and whatever it names.

use constellation_cloud::{Cloud, CloudError};
use constellation_cloud_scripted::{
    Scripted as _,
    aws::objects::{Kind, Object},
    story::{cluster, network},
};

use super::story::{given, removed};

/// What somebody does to a group.
type Change = fn(&mut Object);

const OUT: &str = "-1 -1 -1 0.0.0.0/0";
const OUT_SIX: &str = "-1 -1 -1 ::/0";

#[tokio::test]
async fn rules_that_somebody_changed_are_mended() {
    let changes: [(&str, Change); 9] = [
        ("one is taken away", |group| drop(group.members.pop_first())),
        ("a network may come in", |group| group.members.extend(["tcp 22 22 0.0.0.0/0".to_owned()])),
        ("IPv6 may come in", |group| group.members.extend(["tcp 22 22 ::/0".to_owned()])),
        ("a prefix list may come in", |group| group.members.extend(["tcp 22 22 pl-0f".to_owned()])),
        ("nothing may go out", |group| group.out.clear()),
        ("less may go out", |group| group.out = ["-1 -1 -1 10.0.0.0/8".to_owned()].into()),
        ("a prefix list may go out to", |group| group.out = ["tcp 443 443 pl-0f".to_owned()].into()),
        ("IPv6 may go out where there is none", |group| group.out.extend([OUT_SIX.to_owned()])),
        ("another group may be gone to", |group| group.out.extend(["tcp 22 22 sg-0f".to_owned()])),
    ];
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    let before = endpoint.world().picture();
    for (what, change) in changes {
        endpoint.world().objects.values_mut().filter(|object| object.kind == Kind::Group).for_each(change);
        assert_ne!(endpoint.world().picture(), before, "{what}");
        cloud.ensure_network(&network()).await.unwrap();
        assert_eq!(endpoint.world().picture(), before, "{what}");
    }
    assert_eq!(endpoint.world().violations, [""; 0]);
}

#[tokio::test]
async fn rules_that_are_right_cost_no_call() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    cloud.ensure_network(&network()).await.unwrap();
    let calls = endpoint.world().calls();
    assert_eq!(calls["AuthorizeSecurityGroupIngress"], 2, "one for each group");
    for call in ["AuthorizeSecurityGroupEgress", "RevokeSecurityGroupEgress", "RevokeSecurityGroupIngress"] {
        assert!(!calls.contains_key(call), "{calls:?}");
    }
}

#[tokio::test]
async fn ipv6_may_go_out_as_long_as_the_vpc_has_it() {
    let (endpoint, cloud) = given().await;
    let made = cloud.ensure_network(&network()).await.unwrap();
    let groups = || endpoint.world().of(Kind::Group).into_iter().map(|one| one.out.clone()).collect::<Vec<_>>();
    for (state, wanted) in
        [("associated", vec![OUT, OUT_SIX]), ("disassociated", vec![OUT]), ("associating", vec![OUT])]
    {
        endpoint.world().objects.get_mut(&made.id).unwrap().attributes.insert("six", state.into());
        cloud.ensure_network(&network()).await.unwrap();
        assert!(groups().iter().all(|out| out.iter().eq(&wanted)), "{state}: {:?}", groups());
    }
}

#[tokio::test]
async fn groups_of_ours_that_name_each_other_both_ways_go() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    let ids: Vec<_> = endpoint.world().of(Kind::Group).into_iter().map(|one| one.id.clone()).collect();
    for object in endpoint.world().objects.values_mut().filter(|object| object.kind == Kind::Group) {
        object.out.extend(ids.iter().map(|id| format!("tcp 6443 6443 {id}")));
    }
    removed(&cloud).await;
    assert_eq!(endpoint.world().picture(), [""; 0]);
    assert!(matches!(cloud.remove_network(&cluster()).await, Err(CloudError::NotFound(_))));
}
