//! What every test of the scripted endpoint begins with.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{sync::Arc, time::Duration};

use constellation_cloud::{Cloud, CloudError, LaunchRequest, NodeUid};
use constellation_cloud_aws::{Access, Account, AwsCloud, Pace, Placement, Proof, Reach, Settings, StaticKey};
use constellation_cloud_scripted::{aws::Endpoint, story::cluster};

pub const IMAGE: &str = "ami-0123456789abcdef0";
pub const TYPE: &str = "m6a.large";

pub fn settings() -> Settings {
    Settings {
        placement: Placement::Zones(vec!["us-east-2a".into(), "us-east-2b".into()]),
        reach: Reach::External,
        sources: vec!["192.0.2.0/24".into()],
        proof: Proof::SevSnp,
        volume_key: None,
        owner: "operator-1".into(),
    }
}

/// A new process: nothing is remembered.
pub async fn process(endpoint: &Endpoint) -> Arc<Account> {
    account(endpoint, Duration::ZERO).await
}

pub fn access() -> Access {
    Access::Static(StaticKey { id: "AKIATEST".into(), secret: "test".to_owned().into() })
}

pub async fn account(endpoint: &Endpoint, list: Duration) -> Arc<Account> {
    // Every test of this process wants the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let quick = Duration::from_micros(1);
    // Small pages, so that two nodes are two of them.
    let pace = Pace { list, page: 5, read: quick, change: quick, launch: quick, ..Pace::default() };
    Arc::new(Account::connect("us-east-2", &access(), Some(&endpoint.url()), pace).await)
}

pub fn cloud(account: Arc<Account>, settings: Settings) -> AwsCloud {
    AwsCloud::new(account, settings).unwrap()
}

pub async fn given() -> (Endpoint, AwsCloud) {
    let endpoint = Endpoint::start().await;
    let cloud = cloud(process(&endpoint).await, settings());
    (endpoint, cloud)
}

pub fn request(node: &str, index: u32) -> LaunchRequest {
    LaunchRequest {
        cluster: cluster(),
        node: NodeUid(node.into()),
        name: format!("one-{node}"),
        control_plane: true,
        image: IMAGE.into(),
        instance_type: TYPE.into(),
        zone: None,
        state_disk_bytes: 8 << 30,
        index,
        launch_config: b"{}".to_vec(),
    }
}

/// Removes until nothing is left.
pub async fn removed(cloud: &AwsCloud) {
    for _ in 0..50 {
        match cloud.remove_network(&cluster()).await {
            Err(CloudError::NotFound(_)) => return,
            Ok(()) | Err(CloudError::Transient(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the network is still there");
}
