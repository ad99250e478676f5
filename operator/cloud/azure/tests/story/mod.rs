//! What every test of the scripted endpoint begins with.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use constellation_cloud::{ClusterUid, LaunchRequest, NetworkRequest, NodeUid, contract::Subject, limit::Limiter};
use constellation_cloud_azure::{Access, AzureCloud, DiskEncryption, Pace, Reach, Settings, Technology};
use serde_json::Value;

use crate::endpoint::Endpoint;

pub const IMAGE: &str =
    "/subscriptions/s-1/resourceGroups/images/providers/Microsoft.Compute/galleries/g/images/node/versions/1.0.0";

pub fn settings(endpoint: &Endpoint) -> Settings {
    Settings {
        subscription: "s-1".into(),
        location: "westeurope".into(),
        zones: vec!["1".into(), "2".into()],
        resource_group: None,
        owner: "operator-1".into(),
        technology: Technology::SevSnp,
        disk_encryption: DiskEncryption::GuestState,
        reach: Reach::External,
        sources: vec!["192.0.2.0/24".into()],
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

pub async fn given() -> (Endpoint, AzureCloud) {
    // Every test of this process wants the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let endpoint = Endpoint::start().await;
    let cloud = AzureCloud::new(settings(&endpoint)).unwrap();
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
        image: IMAGE.into(),
        instance_type: "Standard_DC4as_v5".into(),
        zone: None,
        state_disk_bytes: 20 << 30,
        index,
        launch_config: br#"{"some":"thing"}"#.to_vec(),
    }
}

pub fn subject() -> Subject {
    Subject {
        image: IMAGE.into(),
        instance_type: "Standard_DC4as_v5".into(),
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

/// Paths of all things, and the names of the pool's targets.
pub fn picture(endpoint: &Endpoint) -> BTreeMap<String, Vec<String>> {
    let world = endpoint.world();
    let targets = |thing: &Value| {
        let all = thing["properties"]["loadBalancerBackendAddresses"].as_array().into_iter().flatten();
        all.map(|target| target["name"].as_str().unwrap().to_owned()).collect()
    };
    world.things.iter().map(|(path, thing)| (path.clone(), targets(thing))).collect()
}
