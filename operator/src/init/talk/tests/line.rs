//! A cloud with one node and a line to whoever answers for it. Tests of other crates take this file alone, so what it
//! needs of the operator is what stands where it is taken.

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use clap::Parser as _;
use constellation_attestation::{owner::SigningKey, policy::TrustPolicy};
use constellation_crds::{ConstellationCluster, ConstellationClusterSpec};

use super::{
    Cloud, CloudError, ClusterUid, Collector, Instance, InstanceId, LaunchRequest, Metrics, Network, NetworkRequest,
    Peer, Settings, Stream, Words,
};

/// Makes the line at each call.
pub struct Line<D>(pub D);

#[async_trait]
impl<D: Fn() -> Box<dyn Stream> + Send + Sync> Cloud for Line<D> {
    fn name(&self) -> &'static str {
        "local"
    }

    fn platform(&self) -> &'static str {
        "qemu-vtpm"
    }

    async fn dial(&self, _: &ClusterUid, _: SocketAddr) -> Result<Box<dyn Stream>, CloudError> {
        Ok((self.0)())
    }

    async fn endorsement_roots(&self, _: &ClusterUid) -> Result<Vec<String>, CloudError> {
        no()
    }

    async fn ensure_network(&self, _: &NetworkRequest) -> Result<Network, CloudError> {
        no()
    }

    async fn remove_network(&self, _: &ClusterUid) -> Result<(), CloudError> {
        no()
    }

    async fn launch(&self, _: &LaunchRequest) -> Result<Instance, CloudError> {
        no()
    }

    async fn find(&self, _: &ClusterUid) -> Result<Vec<Instance>, CloudError> {
        no()
    }

    async fn terminate(&self, _: &ClusterUid, _: &InstanceId) -> Result<(), CloudError> {
        no()
    }

    async fn set_endpoint_targets(&self, _: &ClusterUid, _: &[InstanceId]) -> Result<(), CloudError> {
        no()
    }

    async fn clusters(&self) -> Result<Vec<ClusterUid>, CloudError> {
        no()
    }
}

fn no<T>() -> Result<T, CloudError> {
    Err(CloudError::Unsupported("it has one line and no more".into()))
}

#[derive(clap::Parser)]
struct Defaults {
    #[command(flatten)]
    settings: Settings,
}

/// The node of this cloud, of which nothing is believed yet.
pub fn peer(cloud: impl Cloud + 'static, owner: Arc<SigningKey>) -> Peer {
    // On this platform nothing is read from an API server.
    let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
    let settings = Defaults::parse_from(["operator"]).settings;
    let collector = Collector::new(client, &settings, Arc::new(Metrics::default()), Arc::default()).unwrap();
    let spec: ConstellationClusterSpec = serde_json::from_value(serde_json::json!({
        "nodeVersion": "v", "tee": "vtpm", "provider": {"local": {}}, "controlPlane": {"replicas": 1, "instanceType": "2x2048"},
    }))
    .unwrap();
    Peer {
        cloud: Arc::new(cloud),
        cluster: ClusterUid("cluster-uid".into()),
        node_uid: "node-uid".into(),
        address: [10, 77, 0, 11].into(),
        owner,
        launch_config: b"launch".to_vec(),
        cluster_id: vec![7; 32].into(),
        policy: TrustPolicy {
            cluster_uid: "cluster-uid".into(),
            revision: 3,
            sets: vec![],
            endorsement_roots: vec![],
            reattestation_interval_seconds: None,
            place: None,
        },
        words: Words { collector: Arc::new(collector), object: Arc::new(ConstellationCluster::new("c", spec)) },
    }
}
