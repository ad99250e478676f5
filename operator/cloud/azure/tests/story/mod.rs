//! What every test of the scripted endpoint begins with.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{sync::Arc, time::Duration};

use constellation_cloud::{LaunchRequest, NodeUid, contract::Subject, limit::Limiter};
use constellation_cloud_azure::{Access, AzureCloud, DiskEncryption, Pace, Reach, Settings, Technology};
use constellation_cloud_scripted::{azure::Endpoint, story::cluster};

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
