//! The life of clusters on a scripted EC2: the contract, failures, foreign things, what it costs, what it needs.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

mod endings;
mod holders;
mod rules;
mod story;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use constellation_cloud::{
    Cloud, CloudError, InstanceState, NodeUid,
    contract::{self, Subject},
    custody::{Binding, CustodyError, KeyService, Wrapped},
    demand::{Demand, Wanted},
};
use constellation_cloud_aws::{AwsKms, CALLS, Limit, Placement, Proof, Reach, Settings, policy};
use constellation_cloud_scripted::{
    Scripted as _,
    aws::{Endpoint, objects::Kind},
    story::{cluster, network, print_calls},
};

use story::{IMAGE, TYPE, cloud, given, process, removed, request, settings};

fn subject() -> Subject {
    Subject {
        image: IMAGE.into(),
        instance_type: TYPE.into(),
        launch_config: |_, _| b"{}".to_vec(),
        patience: Duration::from_secs(20),
    }
}

#[tokio::test]
async fn the_contract_is_kept_and_every_request_keeps_to_the_vendors_model() {
    let (endpoint, cloud) = given().await;
    contract::check(Arc::new(cloud), &subject(), "seed").await.unwrap();
    let world = endpoint.world();
    assert_eq!(world.violations, [""; 0]);
    let left: Vec<_> = world.picture();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn the_contract_is_kept_where_lists_lag_and_pages_are_small() {
    let (endpoint, cloud) = given().await;
    endpoint.world().lag = 3;
    endpoint.world().empty_first = true;
    contract::check(Arc::new(cloud), &subject(), "seed").await.unwrap();
    assert!(endpoint.world().picture().is_empty());
}

#[tokio::test]
async fn a_launch_asks_for_its_proof_sessions_and_an_encrypted_volume() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    cloud.launch(&request("n-1", 0)).await.unwrap();
    let world = endpoint.world();
    let made = world.of(Kind::Instance)[0];
    assert_eq!((made.get("snp"), made.get("metadata"), made.get("encrypted")), ("enabled", "required", "true"));
    assert_eq!(made.tags["constellation.dev/node-uid"], "n-1");
}

#[tokio::test]
async fn without_capacity_in_one_zone_the_next_is_tried_and_only_then_is_there_none() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    endpoint.world().full.insert("us-east-2a".into());
    let made = cloud.launch(&request("n-1", 0)).await.unwrap();
    assert!(made.id.0.starts_with("aws:///us-east-2b/"), "{made:?}");
    let mut here = request("n-2", 0);
    here.zone = Some("us-east-2a".into());
    assert!(matches!(cloud.launch(&here).await, Err(CloudError::Capacity(_))));
    here.zone = Some("us-east-2z".into());
    assert!(matches!(cloud.launch(&here).await, Err(CloudError::Unsupported(_))));
    endpoint.world().full.insert("us-east-2b".into());
    assert!(matches!(cloud.launch(&request("n-2", 0)).await, Err(CloudError::Capacity(_))));
    endpoint.world().full.clear();
    cloud.launch(&request("n-2", 0)).await.unwrap();
    assert_eq!(cloud.find(&cluster()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_node_whose_instance_was_terminated_behind_our_back_is_launched_by_another_token() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    let first = cloud.launch(&request("n-1", 0)).await.unwrap();
    assert_eq!(cloud.find(&cluster()).await.unwrap().len(), 1);
    let end = |id: &str| {
        let mut world = endpoint.world();
        let key = world.objects.keys().find(|key| id.ends_with(key.as_str())).unwrap().clone();
        world.objects.get_mut(&key).unwrap().attributes.insert("instance-state-name", "terminated".into());
    };
    end(&first.id.0);
    assert_eq!(cloud.find(&cluster()).await.unwrap(), [], "what is terminated is not there");
    let second = cloud.launch(&request("n-1", 0)).await.unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!(cloud.find(&cluster()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_stopped_vm_is_a_failed_one_and_says_why() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    cloud.launch(&request("n-1", 0)).await.unwrap();
    for object in endpoint.world().objects.values_mut().filter(|object| object.kind == Kind::Instance) {
        object.attributes.insert("instance-state-name", "stopped".into());
        object.attributes.insert("why", "Client.UserInitiatedShutdown".into());
    }
    let found = cloud.find(&cluster()).await.unwrap().remove(0);
    assert_eq!(found.state, InstanceState::Failed);
    assert!(found.message.unwrap().contains("UserInitiatedShutdown"));
}

/// What is said in AWS's place, or by an AWS that is ill.
fn odd(action: &str) -> Vec<(u16, String)> {
    let page = "<html><body>404 Not Found</body></html>";
    let error = "<Response><Errors><Error><Code>InvalidInstanceID.NotFound</Code></Error></Errors></Response>";
    let empty = format!("<{action}Response/>");
    let other = "<DescribeImagesResponse><imagesSet/></DescribeImagesResponse>";
    let good = ["", page, "[]", error, other, &empty].map(|body| (200, body.to_owned()));
    let bad = ["", page, "{}", "<Response/>"].map(|body| (404, body.to_owned()));
    good.into_iter().chain(bad).chain([(400, page.to_owned())]).collect()
}

#[tokio::test]
async fn whatever_is_not_awss_own_answer_removes_nothing_and_is_asked_again() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    let id = cloud.launch(&request("n-1", 0)).await.unwrap().id;
    assert_eq!(cloud.find(&cluster()).await.unwrap().len(), 1);
    let before = endpoint.world().picture();
    let say = |action: &'static str, answer: &(u16, String), times: usize| {
        let all = std::iter::repeat_n(answer.clone(), times);
        endpoint.world().words.entry(action).or_default().extend(all);
    };
    for answer in odd("DescribeInstances") {
        say("DescribeInstances", &answer, 1);
        let told = cloud.find(&cluster()).await;
        assert!(matches!(told, Err(CloudError::Transient(_))), "{answer:?}: {told:?}");
        say("DescribeInstances", &answer, 1);
        let told = cloud.terminate(&cluster(), &id).await;
        assert!(matches!(told, Err(CloudError::Transient(_))), "{answer:?}: {told:?}");
    }
    // The first that is looked at where a network is removed.
    for answer in odd("DescribeLoadBalancers") {
        say("DescribeLoadBalancers", &answer, 1);
        let told = cloud.remove_network(&cluster()).await;
        assert!(matches!(told, Err(CloudError::Transient(_))), "{answer:?}: {told:?}");
    }
    for answer in odd("DescribeVpcs") {
        say("DescribeVpcs", &answer, 1);
        let told = cloud.clusters().await;
        assert!(matches!(told, Err(CloudError::Transient(_))), "{answer:?}: {told:?}");
    }
    // A list that leads back to itself.
    let again = "<DescribeInstancesResponse><reservationSet/><nextToken>1</nextToken></DescribeInstancesResponse>";
    say("DescribeInstances", &(200, again.into()), 2);
    assert!(matches!(cloud.find(&cluster()).await, Err(CloudError::Transient(_))));
    assert_eq!(endpoint.world().picture(), before);
    assert_eq!(cloud.find(&cluster()).await.unwrap().len(), 1);
    assert_eq!(endpoint.world().violations, [""; 0]);
}

#[tokio::test]
async fn an_instance_in_a_state_that_nobody_knows_runs_and_is_not_launched_again() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    let made = cloud.launch(&request("n-1", 0)).await.unwrap();
    for object in endpoint.world().objects.values_mut().filter(|object| object.kind == Kind::Instance) {
        object.attributes.insert("instance-state-name", "hibernating".into());
    }
    let found = cloud.find(&cluster()).await.unwrap().remove(0);
    assert_eq!((&found.id, found.state), (&made.id, InstanceState::Running));
    assert!(found.message.unwrap().contains("hibernating"));
    assert_eq!(cloud.launch(&request("n-1", 0)).await.unwrap().id, made.id);
    assert_eq!(endpoint.world().of(Kind::Instance).len(), 1);
    cloud.terminate(&cluster(), &made.id).await.unwrap();
    assert_eq!(cloud.find(&cluster()).await.unwrap()[0].state, InstanceState::Terminating);
}

#[tokio::test]
async fn refusals_have_the_class_that_chooses_the_reaction() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    for (status, code, wanted) in [
        (403, "UnauthorizedOperation", "denied"),
        (401, "AuthFailure", "denied"),
        (400, "VcpuLimitExceeded", "quota"),
        (400, "InvalidParameterValue", "unsupported"),
        (500, "InternalError", "transient"),
        (503, "RequestLimitExceeded", "throttled"),
    ] {
        endpoint.world().refusals.entry("RunInstances").or_default().push_back((status, code));
        let error = cloud.launch(&request("n-1", 0)).await.unwrap_err();
        assert_eq!(error.word(), wanted, "{code}: {error}");
        match error {
            CloudError::Denied(text) => {
                assert!(text.contains("ec2:RunInstances"), "{text}");
                assert_eq!(text.contains("credentials"), code == "AuthFailure", "{text}");
            }
            CloudError::Throttled { after } => assert_eq!(after, Duration::from_secs(7)),
            _ => {}
        }
    }
    assert_eq!(cloud.calls()[&("ec2:RunInstances", "denied")], 2);
}

#[tokio::test]
async fn a_key_that_refuses_says_who_must_do_what() {
    let (endpoint, _) = given().await;
    let arn = "arn:aws:kms:us-east-2:123456789012:key/01234567-89ab-cdef-0123-456789abcdef";
    let kms = AwsKms::connect("us-east-2", &story::access(), Some(&endpoint.url())).await;
    let wrapped = Wrapped { key: arn.into(), version: None, ciphertext: vec![1; 64] };
    let binding = Binding { cluster: "c-1".into() };
    for (status, code, wanted) in [
        (400, "AccessDeniedException", "the key service denies"),
        (400, "DisabledException", "the key can't be used"),
        (400, "KMSInvalidStateException", "the key can't be used"),
        (400, "NotFoundException", "the key can't be used"),
        (400, "InvalidCiphertextException", "not this key's and this cluster's"),
        (400, "IncorrectKeyException", "not this key's and this cluster's"),
        (400, "ThrottlingException", "retry after 7s"),
        (500, "KMSInternalException", "kms:Decrypt"),
    ] {
        endpoint.world().refusals.entry("Decrypt").or_default().push_back((status, code));
        let error = kms.unwrap(&wrapped, &binding).await.unwrap_err();
        assert!(error.to_string().contains(wanted), "{code}: {error}");
        if let CustodyError::Denied(text) = error {
            assert!(text.contains("kms:Decrypt"), "{text}");
        }
    }
    assert_eq!(endpoint.world().violations, [""; 0]);
}

#[tokio::test]
async fn nodes_find_api_server_and_verifiers_at_the_inner_endpoint_and_users_the_api_server_at_the_outer() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    let made = cloud.launch(&request("n-1", 0)).await.unwrap();
    cloud.set_endpoint_targets(&cluster(), std::slice::from_ref(&made.id)).await.unwrap();
    let world = endpoint.world();
    let mut ways: Vec<_> = world
        .of(Kind::Listener)
        .into_iter()
        .map(|one| {
            let targets = &world.objects[one.get("targets")].members;
            assert!(targets.iter().all(|id| made.id.0.ends_with(id.as_str())) && targets.len() == 1, "{targets:?}");
            (world.objects[one.get("balancer")].get("scheme"), one.get("port"))
        })
        .collect();
    ways.sort_unstable();
    assert_eq!(ways, [("internal", "6443"), ("internal", "9001"), ("internet-facing", "6443")]);
}

#[tokio::test]
async fn what_is_not_ours_is_never_touched() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    cloud.launch(&request("n-1", 0)).await.unwrap();
    let foreign = |owner: &str| {
        BTreeMap::from([
            ("constellation.dev/cluster-uid".to_owned(), cluster().0),
            ("constellation.dev/node-uid".to_owned(), "n-1".to_owned()),
            ("constellation.dev/owner".to_owned(), owner.to_owned()),
        ])
    };
    {
        let mut world = endpoint.world();
        world.add(
            Kind::Instance,
            "i-0f",
            &[("instance-state-name", "running"), ("zone", "us-east-2a")],
            foreign("other"),
        );
        world.add(Kind::Instance, "i-0e", &[("instance-state-name", "running")], BTreeMap::new());
        world.add(Kind::Vpc, "vpc-0f", &[("cidr", "10.0.0.0/16")], foreign("other"));
        world.add(Kind::Group, "sg-0f", &[("group-name", "g"), ("vpc-id", "vpc-0f")], foreign("other"));
    }
    assert_eq!(cloud.find(&cluster()).await.unwrap().len(), 1);
    let other = constellation_cloud::InstanceId("aws:///us-east-2a/i-0f".into());
    assert!(matches!(cloud.terminate(&cluster(), &other).await, Err(CloudError::NotFound(_))));
    removed(&cloud).await;
    let left: Vec<_> = endpoint
        .world()
        .objects
        .iter()
        .filter(|(_, o)| o.get("instance-state-name") != "terminated")
        .map(|(id, _)| id.clone())
        .collect();
    assert_eq!(left, ["i-0e", "i-0f", "sg-0f", "vpc-0f"]);
}

#[tokio::test]
async fn a_load_balancer_with_our_name_and_not_our_tags_is_refused() {
    let (endpoint, cloud) = given().await;
    cloud.ensure_network(&network()).await.unwrap();
    for object in endpoint.world().objects.values_mut().filter(|object| object.kind == Kind::Balancer) {
        object.tags.clear();
    }
    assert!(matches!(cloud.ensure_network(&network()).await, Err(CloudError::Unsupported(_))));
    assert!(matches!(cloud.remove_network(&cluster()).await, Err(CloudError::Unsupported(_))));
    assert_eq!(endpoint.world().of(Kind::Balancer).len(), 2);
}

#[tokio::test]
async fn subnets_of_the_user_are_used_and_left() {
    let endpoint = Endpoint::start().await;
    {
        let mut world = endpoint.world();
        world.add(Kind::Vpc, "vpc-01", &[("cidr", "10.8.0.0/16")], BTreeMap::new());
        world.add(
            Kind::Subnet,
            "subnet-01",
            &[("vpc-id", "vpc-01"), ("cidr", "10.8.0.0/24"), ("zone", "us-east-2a")],
            BTreeMap::new(),
        );
        world.log.push("before".into());
    }
    let settings =
        Settings { placement: Placement::Subnets(vec!["subnet-01".into()]), reach: Reach::Internal, ..settings() };
    let cloud = cloud(process(&endpoint).await, settings);
    let made = cloud.ensure_network(&network()).await.unwrap();
    assert_eq!((made.id.as_str(), made.cert_sans.len()), ("vpc-01", 1));
    assert_eq!(made.external_url, format!("https://{}", made.endpoint));
    cloud.launch(&request("n-1", 0)).await.unwrap();
    assert_eq!(endpoint.world().of(Kind::Instance)[0].get("public"), "");
    assert_eq!(cloud.clusters().await.unwrap(), [cluster()]);
    removed(&cloud).await;
    let world = endpoint.world();
    assert_eq!(world.of(Kind::Vpc).len() + world.of(Kind::Subnet).len(), 2);
    assert!(world.of(Kind::Group).is_empty() && world.of(Kind::Balancer).is_empty());
    assert_eq!(world.violations, [""; 0]);
}

fn demand(name: &str, zones: &[&str]) -> Demand {
    let zones = zones.iter().map(|zone| (*zone).to_owned()).collect();
    Demand { groups: vec![Wanted { instance_type: name.into(), zones, count: 4 }], image: Some(IMAGE.into()) }
}

#[tokio::test]
async fn what_can_not_prove_itself_is_refused_before_anything_is_made() {
    let (endpoint, cloud) = given().await;
    cloud.check_capability(&demand(TYPE, &["us-east-2b"])).await.unwrap();
    for (wanted, word) in [
        (demand("x9z.large", &[]), "no instance type x9z.large"),
        (demand("m7i.large", &[]), "no AMD SEV-SNP"),
        (demand(TYPE, &["us-east-2c"]), "us-east-2c"),
        (Demand { image: Some("ami-00000000".into()), ..demand(TYPE, &[]) }, "ami-00000000 is not in region"),
    ] {
        let error = cloud.check_capability(&wanted).await.unwrap_err();
        assert!(matches!(&error, CloudError::Unsupported(text) if text.contains(word)), "{word}: {error}");
    }
    endpoint.world().image = ("legacy-bios", "v2.0");
    assert!(cloud.check_capability(&demand(TYPE, &[])).await.unwrap_err().to_string().contains("UEFI"));
    endpoint.world().image = ("uefi", "");
    assert!(cloud.check_capability(&demand(TYPE, &[])).await.unwrap_err().to_string().contains("NitroTPM"));
    endpoint.world().image = ("uefi", "v2.0");
    endpoint.world().offers = vec![];
    assert!(cloud.check_capability(&demand(TYPE, &[])).await.unwrap_err().to_string().contains("none"));
    let other = story::cloud(process(&endpoint).await, Settings { proof: Proof::NitroTpm, ..settings() });
    endpoint.world().offers = vec!["us-east-2a"];
    other.check_capability(&demand("m7i.large", &[])).await.unwrap();
    assert!(endpoint.world().objects.is_empty());
    assert_eq!(endpoint.world().violations, [""; 0]);
}

#[tokio::test]
async fn a_quota_that_is_too_small_is_said_with_its_numbers() {
    let (endpoint, cloud) = given().await;
    cloud.check_quota(&cluster(), &demand(TYPE, &[])).await.unwrap();
    endpoint.world().quota = 7.0;
    let error = cloud.check_quota(&cluster(), &demand(TYPE, &[])).await.unwrap_err();
    assert!(
        matches!(&error, CloudError::Quota(text) if text.contains("8 vCPUs") && text.contains("of the 7")),
        "{error}"
    );
    endpoint.world().quota = 9.0;
    cloud.check_quota(&cluster(), &demand(TYPE, &[])).await.unwrap();
    let running =
        [("instance-state-name", "running"), ("instance-type", "m5.large"), ("launched", "2026-11-23T00:00:00.000Z")];
    endpoint.world().add(Kind::Instance, "i-0e", &running, BTreeMap::new());
    let error = cloud.check_quota(&cluster(), &demand(TYPE, &[])).await.unwrap_err();
    assert!(error.to_string().contains("others use 2"), "{error}");
}

#[tokio::test]
async fn the_catalogue_has_the_shapes_that_an_autoscaler_needs() {
    let (_endpoint, cloud) = given().await;
    let shapes = cloud.shapes(&BTreeSet::from([TYPE.to_owned(), "unknown.large".to_owned()])).await.unwrap();
    assert_eq!(shapes.len(), 1);
    let shape = &shapes[0];
    assert_eq!((shape.cpus, shape.memory_mib, shape.architecture.as_str(), shape.zones.len()), (2, 8192, "amd64", 2));
}

/// Prints what the documentation states.
#[tokio::test]
async fn a_hundred_nodes_cost_one_call_each_and_a_steady_cluster_one_list() {
    let endpoint = Endpoint::start().await;
    let account = story::account(&endpoint, Duration::from_mins(1)).await;
    let cloud = cloud(account, settings());
    cloud.ensure_network(&network()).await.unwrap();
    let network_calls = cloud.calls().values().sum::<u64>();
    let first = endpoint.world().calls();
    print_calls("aws: network and endpoint", &BTreeMap::new(), &first);
    for n in 0..100 {
        cloud.launch(&request(&format!("n-{n}"), n)).await.unwrap();
    }
    let all = cloud.calls().values().sum::<u64>();
    let created = endpoint.world().calls();
    print_calls("aws: 100 nodes", &first, &created);
    assert!(all - network_calls <= 105, "{:?}", cloud.calls());
    let before = endpoint.world().log.len();
    for _ in 0..100 {
        assert_eq!(cloud.find(&cluster()).await.unwrap().len(), 100);
    }
    assert!(endpoint.world().log.len() - before <= 1, "one list serves all within its interval");
    print_calls("aws: resting, per interval", &created, &endpoint.world().calls());
    assert_eq!(
        cloud.find(&cluster()).await.unwrap().iter().map(|i| &i.node).collect::<BTreeSet<&NodeUid>>().len(),
        100
    );
}

#[tokio::test]
async fn the_policy_names_exactly_the_calls_that_are_made() {
    let (endpoint, cloud) = given().await;
    cloud.check_capability(&demand(TYPE, &[])).await.unwrap();
    cloud.check_quota(&cluster(), &demand(TYPE, &[])).await.unwrap();
    let made = cloud.ensure_network(&network()).await.unwrap();
    let first = cloud.launch(&request("n-1", 0)).await.unwrap();
    cloud.set_endpoint_targets(&cluster(), &[first.id]).await.unwrap();
    cloud.set_endpoint_targets(&cluster(), &[]).await.unwrap();
    cloud.clusters().await.unwrap();
    for object in endpoint.world().objects.values_mut().filter(|object| object.kind == Kind::Group) {
        object.members.insert("tcp 22 22 0.0.0.0/0".into());
        object.out = ["tcp 22 22 pl-0f".to_owned()].into();
    }
    endpoint.world().misroute(&made.id);
    cloud.ensure_network(&network()).await.unwrap();
    endpoint.world().add(Kind::Interface, "eni-0f", &[("vpc-id", &made.id), ("description", "x")], BTreeMap::new());
    for _ in 0..6 {
        let _ = cloud.remove_network(&cluster()).await;
    }
    let calls: BTreeSet<_> = cloud.calls().into_keys().map(|(operation, _)| operation).collect();
    let named: BTreeSet<_> = CALLS.iter().map(|(action, _)| *action).collect();
    assert_eq!(calls, named);
    let sent: BTreeSet<_> = endpoint.world().log.iter().cloned().collect();
    let words: BTreeSet<_> = named.iter().map(|action| action.split_once(':').unwrap().1.to_owned()).collect();
    assert_eq!(sent, words, "what we call an operation is what went over the wire");

    let document: serde_json::Value = serde_json::from_str(&policy("operator-1")).unwrap();
    let mut in_document = BTreeSet::new();
    for statement in document["Statement"].as_array().unwrap() {
        in_document
            .extend(statement["Action"].as_array().unwrap().iter().map(|action| action.as_str().unwrap().to_owned()));
    }
    // Only while something is made: whoever could tag a stranger's object could then change it.
    for statement in document["Statement"].as_array().unwrap() {
        let tags =
            statement["Action"].as_array().unwrap().iter().any(|action| action.as_str().unwrap().ends_with("Tags"));
        let only_tags = statement["Sid"].as_str().unwrap().starts_with("Tag");
        assert_eq!(tags && only_tags, statement["Condition"]["Null"].is_object(), "{statement}");
    }
    in_document.remove("ec2:CreateTags");
    in_document.remove("elasticloadbalancing:AddTags");
    assert!(in_document.remove("iam:CreateServiceLinkedRole"));
    assert_eq!(in_document, named.iter().map(|action| (*action).to_owned()).collect::<BTreeSet<_>>());
    assert!(CALLS.iter().filter(|(_, limit)| *limit == Limit::Any).all(|(action, _)| {
        let (_, word) = action.split_once(':').unwrap();
        word.starts_with("Describe") || word.starts_with("Get") || word.ends_with("Route")
    }));
}
