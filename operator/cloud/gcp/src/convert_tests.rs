//! Names, ids and states, there and back.

use super::*;
use std::{sync::Arc, time::Duration};

use constellation_cloud::limit::Limiter;

use crate::{Access, Pace, Reach, Technology};

pub(crate) fn given_settings() -> Settings {
    Settings {
        project: "example".into(),
        region: "europe-west4".into(),
        zones: ["a", "b", "c"].map(|zone| format!("europe-west4-{zone}")).to_vec(),
        owner: "operator-1".into(),
        technology: Technology::SevSnp,
        reach: Reach::External,
        sources: vec!["192.0.2.0/24".into()],
        service_account: None,
        endorsement_roots: Vec::new(),
        endpoint: None,
        access: Access::Anonymous,
        limiter: Arc::new(Limiter::new(1 << 20, Duration::ZERO)),
        listing: Arc::default(),
        pace: Pace::default(),
    }
}

fn names() -> Names {
    Names::new(&given_settings(), &ClusterUid("c-1".into())).unwrap()
}

#[test]
fn settings_are_checked_field_by_field() {
    assert!(check(&given_settings()).is_ok());
    let spoilt: [fn(&mut Settings); 6] = [
        |s| s.project = "a/b".into(),
        |s| s.region = String::new(),
        |s| s.zones = vec![],
        |s| s.zones = vec!["us-east1-a".into()],
        |s| s.sources = vec![],
        |s| s.owner = "Owner".into(),
    ];
    for spoil in spoilt {
        let mut settings = given_settings();
        spoil(&mut settings);
        assert!(matches!(check(&settings), Err(CloudError::Unsupported(_))), "{settings:?}");
    }
}

#[test]
fn an_id_leads_back_to_its_place_and_a_foreign_one_nowhere() {
    let id = names().id("europe-west4-a", "n-1");
    assert_eq!(id.0, "gce://example/europe-west4-a/n-1");
    assert_eq!(names().place(&id).unwrap(), ("europe-west4-a".into(), "n-1".into()));
    for foreign in ["aws:///z/n-1", "gce://other/z/n-1", "gce://example/z/n-1/x", "gce://example/z/..", "gce://nobody"]
    {
        assert!(matches!(names().place(&InstanceId(foreign.into())), Err(CloudError::NotFound(_))), "{foreign}");
    }
}

#[test]
fn attempts_have_their_own_request_and_walk_over_the_zones() {
    let node = NodeUid("u".into());
    assert_eq!(request_id(&node, 0), request_id(&node, 0));
    assert_ne!(request_id(&node, 0), request_id(&node, 1));
    let mut request = LaunchRequest {
        cluster: ClusterUid("c".into()),
        node,
        name: "x".into(),
        control_plane: true,
        image: String::new(),
        instance_type: String::new(),
        zone: None,
        state_disk_bytes: 0,
        index: 1,
        launch_config: vec![],
    };
    let zones = [0, 1, 2, 3].map(|attempt| zone(&given_settings(), &request, attempt).unwrap());
    assert_eq!(zones, ["b", "c", "a", "b"].map(|zone| format!("europe-west4-{zone}")));
    request.zone = Some("europe-west4-c".into());
    assert_eq!(zone(&given_settings(), &request, 1).unwrap(), "europe-west4-c");
    request.zone = Some("us-east1-a".into());
    assert!(matches!(zone(&given_settings(), &request, 0), Err(CloudError::Unsupported(_))));
}

#[test]
fn only_marks_of_this_operator_name_a_cluster() {
    assert_eq!(cluster_of("operator-1", &names().mark()), Some(ClusterUid("c-1".into())));
    for foreign in ["", "constellation.dev owner=operator-2 cluster=c-1", "constellation.dev owner=operator-1 cluster="]
    {
        assert_eq!(cluster_of("operator-1", foreign), None, "{foreign}");
    }
}

#[test]
fn states_tell_running_from_removed_from_failed() {
    let of = |status: &Status| state(Some(status), None).0;
    assert_eq!(of(&Status::Staging), InstanceState::Running);
    assert_eq!(of(&Status::Stopping), InstanceState::Terminating);
    assert_eq!(of(&Status::Terminated), InstanceState::Failed);
    assert_eq!(of(&Status::Suspended), InstanceState::Failed);
    assert_eq!(of(&Status::from("FUTURE")), InstanceState::Running);
}
