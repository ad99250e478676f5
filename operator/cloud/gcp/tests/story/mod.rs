//! What every test of the scripted endpoint begins with.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use constellation_cloud::{ClusterUid, LaunchRequest, NetworkRequest, NodeUid, contract::Subject, limit::Limiter};
use constellation_cloud_gcp::{Access, GcpCloud, Pace, Reach, Settings, Technology};
use serde_json::Value;

use crate::endpoint::Endpoint;

pub const ZONES: [&str; 2] = ["europe-west4-a", "europe-west4-b"];

pub fn settings(endpoint: &Endpoint) -> Settings {
    Settings {
        project: "example".into(),
        region: "europe-west4".into(),
        zones: ZONES.map(Into::into).to_vec(),
        owner: "operator-1".into(),
        technology: Technology::SevSnp,
        reach: Reach::External,
        sources: vec!["192.0.2.0/24".into()],
        service_account: Some("nodes@example.iam.gserviceaccount.com".into()),
        endorsement_roots: Vec::new(),
        endpoint: Some(endpoint.url()),
        access: Access::Anonymous,
        limiter: Arc::new(Limiter::new(1 << 20, Duration::ZERO)),
        pace: Pace {
            poll: Duration::from_millis(1),
            launch: Duration::from_millis(200),
            network: Duration::from_secs(5),
            list: Duration::ZERO,
        },
    }
}

pub async fn given() -> (Endpoint, GcpCloud) {
    // Every test of this process wants the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let endpoint = Endpoint::start().await;
    let cloud = GcpCloud::connect(settings(&endpoint)).await.unwrap();
    (endpoint, cloud)
}

pub fn cluster() -> ClusterUid {
    ClusterUid("c-1".into())
}

pub fn network() -> NetworkRequest {
    NetworkRequest { cluster: cluster(), name: "one".into(), node_cidr: "10.77.0.0/16".into() }
}

pub fn node(name: &str, index: u32) -> LaunchRequest {
    LaunchRequest {
        cluster: cluster(),
        node: NodeUid(name.into()),
        name: format!("one-{name}"),
        control_plane: index == 0,
        image: "projects/example/global/images/node-1".into(),
        instance_type: "n2d-standard-4".into(),
        zone: None,
        state_disk_bytes: 20 << 30,
        index,
        launch_config: br#"{"some":"thing"}"#.to_vec(),
    }
}

pub fn subject() -> Subject {
    Subject {
        image: "projects/example/global/images/node-1".into(),
        instance_type: "n2d-standard-4".into(),
        launch_config: |_, _| b"{}".to_vec(),
        patience: Duration::from_secs(20),
    }
}

#[track_caller]
pub fn kept_to_the_model(endpoint: &Endpoint) {
    let world = endpoint.world();
    assert_eq!(world.violations, Vec::<String>::new());
    assert!(world.made.values().all(|times| *times == 1), "duplicates: {:?}", world.made);
}

/// Paths of all things, and the members of groups; a removed instance leaves its group by itself.
pub fn picture(endpoint: &Endpoint) -> BTreeMap<String, Value> {
    let world = endpoint.world();
    let alive = |member: &&Value| member.as_str().is_some_and(|link| world.things.contains_key(link));
    let members = |thing: &Value| {
        let all = thing["_members"].as_array();
        all.map_or(Value::Null, |all| all.iter().filter(alive).cloned().collect())
    };
    world.things.iter().map(|(path, thing)| (path.clone(), members(thing))).collect()
}
