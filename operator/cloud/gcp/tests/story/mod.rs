//! What every test of the scripted endpoint begins with.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{sync::Arc, time::Duration};

use constellation_cloud::{LaunchRequest, NodeUid, contract::Subject, limit::Limiter};
use constellation_cloud_gcp::{Access, GcpCloud, Pace, Reach, Settings, Technology};
use constellation_cloud_scripted::{gcp::Endpoint, story::cluster};

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
        listing: Arc::default(),
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
