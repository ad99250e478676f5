//! The same crate against moto, another implementation of AWS' APIs: `tests/models.sh moto` installs it.
//!
//! moto knows neither client tokens nor capacity nor time; those are the scripted endpoint's (`life.rs`, `crash.rs`). It
//! checks here that an independent reader takes our requests and that we read its answers, and it plays KMS.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use aws_sdk_kms::types::KeySpec;
use constellation_cloud::{
    Cloud, CloudError, ClusterUid, LaunchRequest, NetworkRequest, NodeUid,
    custody::{Binding, CustodyError, KeyService, must_rewrap},
};
use constellation_cloud_aws::{Access, Account, AwsCloud, AwsKms, Pace, Placement, Proof, Reach, Settings, StaticKey};

const REGION: &str = "us-east-2";

/// A running moto; ends when dropped.
struct Moto {
    child: Child,
    url: String,
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn moto() -> Moto {
    // Every test of this process wants the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = std::env::var_os("CONSTELLATION_CACHE").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/constellation-operator"),
        PathBuf::from,
    );
    let package = folder.join("models/moto");
    assert!(package.is_dir(), "{} is missing: run tests/models.sh moto", package.display());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut child = Command::new("python3")
        .env("PYTHONPATH", &package)
        .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("Running on")), "moto ended before it served");
    // Its log must be read, or it stops when the pipe is full.
    std::thread::spawn(move || lines.for_each(drop));
    Moto { child, url: format!("http://127.0.0.1:{port}") }
}

fn access() -> Access {
    Access::Static(StaticKey { id: "AKIATEST".into(), secret: "test".to_owned().into() })
}

#[tokio::test]
async fn moto_takes_our_requests_and_we_read_its_answers() {
    let moto = moto();
    let quick = Duration::from_micros(1);
    let pace = Pace { list: Duration::ZERO, read: quick, change: quick, launch: quick, ..Pace::default() };
    let account = Arc::new(Account::connect(REGION, &access(), Some(&moto.url), pace).await);
    let settings = Settings {
        placement: Placement::Zones(vec!["us-east-2a".into(), "us-east-2b".into()]),
        reach: Reach::External,
        sources: vec!["192.0.2.0/24".into()],
        proof: Proof::SevSnp,
        volume_key: None,
        owner: "operator-1".into(),
    };
    let cloud = AwsCloud::new(account, settings).unwrap();
    let cluster = ClusterUid("c-1".into());
    let network = NetworkRequest { cluster: cluster.clone(), name: "one".into(), node_cidr: "10.77.0.0/16".into() };
    let made = cloud.ensure_network(&network).await.unwrap();
    assert_eq!(cloud.ensure_network(&network).await.unwrap(), made);
    let request = LaunchRequest {
        cluster: cluster.clone(),
        node: NodeUid("n-1".into()),
        name: "one-n-1".into(),
        control_plane: true,
        image: "ami-12c6146b".into(),
        instance_type: "m6a.large".into(),
        zone: None,
        state_disk_bytes: 8 << 30,
        index: 0,
        launch_config: b"{}".to_vec(),
    };
    let first = cloud.launch(&request).await.unwrap();
    assert_eq!(cloud.launch(&request).await.unwrap().id, first.id);
    assert_eq!(cloud.find(&cluster).await.unwrap().len(), 1);
    cloud.set_endpoint_targets(&cluster, std::slice::from_ref(&first.id)).await.unwrap();
    cloud.set_endpoint_targets(&cluster, &[]).await.unwrap();
    assert_eq!(cloud.clusters().await.unwrap(), std::slice::from_ref(&cluster));
    let shapes = cloud.shapes(&["m6a.large".to_owned()].into()).await.unwrap();
    assert_eq!((shapes[0].cpus, shapes[0].memory_mib), (2, 8192));
    while !matches!(cloud.terminate(&cluster, &first.id).await, Err(CloudError::NotFound(_))) {}
    for _ in 0..20 {
        if matches!(cloud.remove_network(&cluster).await, Err(CloudError::NotFound(_))) {
            break;
        }
    }
    assert!(matches!(cloud.remove_network(&cluster).await, Err(CloudError::NotFound(_))));
    assert!(cloud.clusters().await.unwrap().is_empty());
}

/// A new key of moto's KMS.
async fn key(moto: &Moto) -> String {
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(aws_sdk_kms::config::BehaviorVersion::latest())
        .region(aws_sdk_kms::config::Region::new(REGION))
        .endpoint_url(&moto.url)
        .credentials_provider(aws_credential_types::Credentials::new("AKIATEST", "test", None, None, "test"))
        .build();
    let client = aws_sdk_kms::Client::from_conf(config);
    let made = client.create_key().key_spec(KeySpec::SymmetricDefault).send().await.unwrap();
    made.key_metadata().unwrap().arn().unwrap().to_owned()
}

#[tokio::test]
async fn a_secret_is_opened_for_its_cluster_by_its_key_only() {
    let moto = moto();
    let arn = key(&moto).await;
    assert_eq!(AwsKms::region(&arn), Some(REGION));
    let kms = AwsKms::connect(REGION, &access(), Some(&moto.url)).await;
    let (ours, other) = (Binding { cluster: "c-1".into() }, Binding { cluster: "c-2".into() });
    let secret = [7; 32];
    let wrapped = kms.wrap(&arn, &secret, &ours).await.unwrap();
    assert!(!wrapped.ciphertext.windows(32).any(|window| window == secret));
    assert_eq!(*kms.unwrap(&wrapped, &ours).await.unwrap(), secret);

    let refused = kms.unwrap(&wrapped, &other).await.unwrap_err();
    assert!(matches!(refused, CustodyError::Foreign(_)), "{refused}");
    let mut cut = wrapped.clone();
    cut.ciphertext.pop();
    let refused = kms.unwrap(&cut, &ours).await.unwrap_err();
    assert!(matches!(refused, CustodyError::Foreign(_)), "{refused}");

    let second = key(&moto).await;
    assert!(must_rewrap(&wrapped, &second, kms.version(&second).await.unwrap().as_deref()));
    let again = kms.rewrap(&wrapped, &second, &ours).await.unwrap();
    assert_eq!((again.key.as_str(), &**kms.unwrap(&again, &ours).await.unwrap()), (second.as_str(), &secret[..]));
    assert!(!must_rewrap(&again, &second, None));

    let missing = arn.replace(arn.rsplit_once('/').unwrap().1, "00000000-0000-0000-0000-000000000000");
    let refused = kms.wrap(&missing, &secret, &ours).await.unwrap_err();
    assert!(matches!(refused, CustodyError::Key(_)), "{refused}");
}
