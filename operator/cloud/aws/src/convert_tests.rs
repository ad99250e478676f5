use super::*;

fn settings() -> Settings {
    Settings {
        placement: Placement::Zones(vec!["us-east-2a".into()]),
        reach: Reach::External,
        sources: vec!["192.0.2.0/24".into()],
        proof: Proof::SevSnp,
        volume_key: None,
        owner: "operator-1".into(),
    }
}

fn request() -> LaunchRequest {
    LaunchRequest {
        cluster: ClusterUid("c-1".into()),
        node: NodeUid("n-1".into()),
        name: "one".into(),
        control_plane: true,
        image: "ami-1".into(),
        instance_type: "m6a.large".into(),
        zone: None,
        state_disk_bytes: (8 << 30) + 1,
        index: 0,
        launch_config: b"{}".to_vec(),
    }
}

#[test]
fn settings_that_can_not_work_are_refused_one_by_one() {
    check(&settings()).unwrap();
    let subnets = Placement::Subnets(vec!["subnet-1".into()]);
    check(&Settings { reach: Reach::Internal, placement: subnets, ..settings() }).unwrap();
    for wrong in [
        Settings { placement: Placement::Zones(vec![]), ..settings() },
        Settings { placement: Placement::Subnets(vec![String::new()]), ..settings() },
        Settings { reach: Reach::Internal, ..settings() },
        Settings { sources: vec![], ..settings() },
        Settings { sources: vec!["192.0.2.1/24".into()], ..settings() },
        Settings { sources: vec!["::/0".into()], ..settings() },
        Settings { owner: String::new(), ..settings() },
        Settings { owner: "a b".into(), ..settings() },
    ] {
        assert!(matches!(check(&wrong), Err(CloudError::Unsupported(_))), "{wrong:?}");
    }
}

#[test]
fn a_network_is_split_in_equal_parts_that_aws_takes() {
    assert_eq!(split("10.77.0.0/16", 1).unwrap(), ["10.77.0.0/16"]);
    assert_eq!(split("10.77.0.0/16", 3).unwrap(), ["10.77.0.0/18", "10.77.64.0/18", "10.77.128.0/18"]);
    assert_eq!(split("10.77.0.0/24", 2).unwrap(), ["10.77.0.0/25", "10.77.0.128/25"]);
    for (cidr, parts) in [("10.0.0.0/8", 1), ("10.77.0.0/28", 2), ("10.77.0.1/24", 1), ("10.77.0.0", 1), ("x/24", 1)] {
        assert!(split(cidr, parts).is_err(), "{cidr} in {parts}");
    }
}

#[test]
fn a_token_is_the_launchs_own_and_fits() {
    let one = client_token(&request(), "subnet-1", 0);
    assert_eq!(one, client_token(&LaunchRequest { name: "other".into(), ..request() }, "subnet-1", 0));
    assert_eq!(one.len(), 64);
    let others = [
        client_token(&request(), "subnet-2", 0),
        client_token(&request(), "subnet-1", 1),
        client_token(&LaunchRequest { node: NodeUid("n-2".into()), ..request() }, "subnet-1", 0),
        client_token(&LaunchRequest { cluster: ClusterUid("c-2".into()), ..request() }, "subnet-1", 0),
    ];
    assert!(others.iter().all(|other| *other != one));
}

#[test]
fn ids_are_kubernetes_provider_ids() {
    let id = instance_id("us-east-2a", "i-0123456789abcdef0");
    assert_eq!(id.0, "aws:///us-east-2a/i-0123456789abcdef0");
    assert_eq!((zone(&id), ec2_id(&id)), (Some("us-east-2a"), Some("i-0123456789abcdef0")));
    for wrong in ["aws://nobody", "i-1", "aws:///a/i-", "aws:///a/i-xyz", "aws:///a/vpc-1", "gce:///a/i-1"] {
        assert_eq!(ec2_id(&InstanceId(wrong.into())), None, "{wrong}");
    }
}

fn shown(state: InstanceStateName) -> ec2::Instance {
    ec2::Instance::builder()
        .instance_id("i-1")
        .state(ec2::InstanceState::builder().name(state).build())
        .placement(ec2::Placement::builder().availability_zone("us-east-2a").build())
        .private_ip_address("10.77.0.4")
        .set_tags(Some(instance_tags(&request(), "operator-1")))
        .build()
}

#[test]
fn states_become_ours_and_what_was_terminated_or_a_strangers_is_not_there() {
    for (state, wanted) in [
        (InstanceStateName::Pending, Some(InstanceState::Running)),
        (InstanceStateName::Running, Some(InstanceState::Running)),
        (InstanceStateName::Stopping, Some(InstanceState::Failed)),
        (InstanceStateName::Stopped, Some(InstanceState::Failed)),
        (InstanceStateName::ShuttingDown, Some(InstanceState::Terminating)),
        (InstanceStateName::Terminated, None),
        ("hibernating".into(), Some(InstanceState::Running)),
    ] {
        assert_eq!(listed(&shown(state.clone()), "operator-1").map(|one| one.instance.state), wanted, "{state:?}");
    }
    let mut ended = shown(InstanceStateName::Terminated);
    ended.state_reason = Some(ec2::StateReason::builder().code("Client.VolumeLimitExceeded").build());
    let found = listed(&ended, "operator-1").unwrap();
    assert_eq!(found.instance.state, InstanceState::Failed);
    assert_eq!(found.instance.message, found.ending.map(|ending| ending.message));
    ended.state_reason = Some(ec2::StateReason::builder().code("Client.UserInitiatedShutdown").build());
    assert_eq!(listed(&ended, "operator-1"), None);
    let unknown = listed(&shown("hibernating".into()), "operator-1").unwrap().instance.message;
    assert!(unknown.unwrap().contains("hibernating"));
    let mut silent = shown(InstanceStateName::Running);
    silent.state = None;
    assert_eq!(listed(&silent, "operator-1").unwrap().instance.state, InstanceState::Running);
    assert_eq!(listed(&shown(InstanceStateName::Running), "operator-2"), None);
    let mut bare = shown(InstanceStateName::Running);
    bare.tags = Some(vec![tag(TAG_OWNER, "operator-1")]);
    assert_eq!(listed(&bare, "operator-1"), None);
}

#[test]
fn a_volume_is_rounded_up_and_encrypted_and_none_is_refused() {
    let volume = state_volume(&request(), &settings()).unwrap();
    let ebs = volume.ebs().unwrap();
    assert_eq!((ebs.volume_size(), ebs.encrypted(), ebs.delete_on_termination()), (Some(9), Some(true), Some(true)));
    assert!(state_volume(&LaunchRequest { state_disk_bytes: 0, ..request() }, &settings()).is_err());
}

#[test]
fn a_launch_configuration_must_fit() {
    assert!(user_data(&LaunchRequest { launch_config: vec![0; 16 * 1024], ..request() }).is_ok());
    assert!(user_data(&LaunchRequest { launch_config: vec![0; 16 * 1024 + 1], ..request() }).is_err());
}

#[test]
fn snp_is_asked_for_by_name_or_not_at_all() {
    assert_eq!(cpu(Proof::SevSnp).unwrap().amd_sev_snp(), Some(&ec2::AmdSevSnpSpecification::Enabled));
    assert_eq!(cpu(Proof::NitroTpm), None);
    assert_eq!(metadata().http_tokens(), Some(&ec2::HttpTokensState::Required));
}
