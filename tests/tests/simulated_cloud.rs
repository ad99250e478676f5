//! The simulated provider by itself, over a real API server: the contract of clouds, and the life of a machine.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_attestation::{
    dsse,
    owner::SigningKey,
    platform::Platform,
    policy::{MeasurementSet, TRUST_POLICY_TYPE, TrustPolicy},
    protocol::{LaunchConfig, Role},
};
use constellation_crds::{NodeAdmission, NodeAdmissionStatus, TrustBundle, definition};
use constellation_operator::cloud::{
    Cloud, CloudError, ClusterUid, InstanceState, LaunchRequest, NodeUid,
    contract::{Subject, check},
    simulated::{Behaviour, SimulatedCloud, claim},
};
use constellation_tests::controlplane::{config, shared::shared};
use k8s_openapi::{
    api::core::v1::{Namespace, Node},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    runtime::wait::{await_condition, conditions::is_crd_established},
};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// A client for a namespace of its own: a simulated cloud plays every machine that it sees.
async fn given(namespace: &str) -> Client {
    let kubeconfig = shared(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("simulated-cloud")).unwrap();
    let mut config = config(kubeconfig).await.unwrap();
    namespace.clone_into(&mut config.default_namespace);
    let client = Client::try_from(config).unwrap();
    let home = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &home).await.unwrap();
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in definition::management().into_iter().chain(definition::workload()) {
        let name = crd.metadata.name.clone().unwrap();
        crds.patch(&name, &PatchParams::apply("tests").force(), &Patch::Apply(&crd)).await.unwrap();
        await_condition(crds.clone(), &name, is_crd_established()).await.unwrap();
    }
    client
}

fn simulated(client: &Client) -> SimulatedCloud {
    SimulatedCloud::new(client.clone(), Some(client.default_namespace().to_owned()))
}

/// Looks until `seen` answers; a minute is far more than a busy machine needs.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut seen: impl FnMut() -> F) -> T {
    for _ in 0..600 {
        if let Some(answer) = seen().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what} did not happen in a minute");
}

fn launch_config(cluster: &ClusterUid, node: &NodeUid) -> Vec<u8> {
    json!({"cluster": cluster.0, "node": node.0}).to_string().into_bytes()
}

#[tokio::test]
async fn the_contract_of_clouds_holds() {
    let cloud = Arc::new(simulated(&given("contract").await));
    let subject =
        Subject { image: "v1".into(), instance_type: "any".into(), launch_config, patience: Duration::from_mins(1) };
    check(cloud, &subject, "contract").await.unwrap_or_else(|error| panic!("{error:?}"));
}

/// A cluster's owner, with the bundle and an admission in place as the operator would write them.
struct Story {
    client: Client,
    cluster: ClusterUid,
    owner: SigningKey,
}

impl Story {
    async fn begin(name: &str) -> Self {
        let story = Self {
            client: given(name).await,
            cluster: ClusterUid(name.into()),
            owner: SigningKey::generate().unwrap(),
        };
        let pcrs = [4, 11, 12, 13].into_iter().map(|n| (n, vec![claim("v1", n)])).collect::<BTreeMap<u8, _>>();
        let policy = TrustPolicy {
            cluster_uid: name.into(),
            revision: 1,
            sets: vec![MeasurementSet::of_registers("v1".into(), Platform::Simulated, pcrs)],
            endorsement_roots: Vec::new(),
            place: None,
            reattestation_interval_seconds: None,
        };
        let envelope = dsse::sign(TRUST_POLICY_TYPE, &serde_json::to_vec(&policy).unwrap(), &story.owner);
        let bundle =
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"envelope": envelope}})).unwrap();
        let bundles: Api<TrustBundle> = Api::default_namespaced(story.client.clone());
        bundles.create(&PostParams::default(), &bundle).await.unwrap();
        story
    }

    fn request(&self, name: &str) -> LaunchRequest {
        let node = NodeUid(format!("{}-{name}", self.cluster.0));
        let config = LaunchConfig {
            cluster_uid: self.cluster.0.clone(),
            node_uid: node.0.clone(),
            node_name: node.0.clone(),
            role: Role::Worker,
            owner_public_key: STANDARD.encode(self.owner.public_spki()),
        };
        LaunchRequest {
            cluster: self.cluster.clone(),
            name: node.0.clone(),
            node,
            control_plane: false,
            image: "v1".into(),
            instance_type: "any".into(),
            zone: None,
            state_disk_bytes: 1,
            index: 5,
            launch_config: config.to_bytes(),
        }
    }

    async fn expect(&self, request: &LaunchRequest) {
        let admission = serde_json::from_value(json!({
            "metadata": {"name": request.node.0},
            "spec": {
                "nodeUid": request.node.0, "nodeName": request.name, "role": "worker",
                "launchConfigDigest": hex::encode(Sha256::digest(&request.launch_config)), "podCIDR": "10.244.5.0/24",
                "providerID": format!("simulated://{}", request.node.0), "diskIntegrity": "None",
                "taints": ["a=b:NoSchedule"]
            }
        }));
        let admissions: Api<NodeAdmission> = Api::default_namespaced(self.client.clone());
        admissions.create(&PostParams::default(), &admission.unwrap()).await.unwrap();
    }

    async fn status(&self, request: &LaunchRequest) -> Option<NodeAdmissionStatus> {
        let admissions: Api<NodeAdmission> = Api::default_namespaced(self.client.clone());
        admissions.get(&request.node.0).await.unwrap().status
    }

    async fn verdict(&self, request: &LaunchRequest) -> Option<String> {
        self.status(request).await?.last_appraisal.map(|result| result.verdict)
    }

    async fn node(&self, request: &LaunchRequest) -> Option<Node> {
        Api::<Node>::all(self.client.clone()).get_opt(&request.name).await.unwrap()
    }
}

#[tokio::test]
async fn a_machine_boots_is_admitted_becomes_a_node_and_goes() {
    let story = Story::begin("life").await;
    let cloud = simulated(&story.client);
    let request = story.request("one");
    let launched = cloud.launch(&request).await.unwrap();
    assert!(story.node(&request).await.is_none(), "nobody admitted it yet");
    story.expect(&request).await;
    let node = until("the node", || story.node(&request)).await;
    assert_eq!(node.spec.as_ref().unwrap().provider_id.as_deref(), Some(launched.id.0.as_str()));
    until("its taints", || async {
        let taints = story.node(&request).await?.spec?.taints?;
        (taints.len() == 1 && taints[0].key == "a").then_some(())
    })
    .await;
    let status = story.status(&request).await.unwrap();
    assert_eq!(status.last_appraisal.unwrap().platform, "simulated");
    assert_eq!(status.admission.unwrap().address, launched.address.unwrap().to_string());

    // The operator dies; another one finds the same machine, and removes it.
    drop(cloud);
    let cloud = simulated(&story.client);
    let found = cloud.find(&story.cluster).await.unwrap();
    assert_eq!(found.iter().map(|i| &i.id).collect::<Vec<_>>(), [&launched.id]);
    assert_eq!(cloud.launch(&request).await.unwrap().id, launched.id);
    until("not found", || async {
        matches!(cloud.terminate(&story.cluster, &launched.id).await, Err(CloudError::NotFound(_))).then_some(())
    })
    .await;
    assert!(story.node(&request).await.is_none());
}

#[tokio::test]
async fn broken_evidence_is_refused_until_it_is_whole_again() {
    let story = Story::begin("broken").await;
    let cloud = simulated(&story.client);
    let request = story.request("one");
    cloud.script().add(Behaviour::BrokenEvidence, "broken-*");
    cloud.launch(&request).await.unwrap();
    story.expect(&request).await;
    until("a verdict", || async { story.verdict(&request).await }).await;
    let status = story.status(&request).await.unwrap();
    let result = status.last_appraisal.unwrap();
    assert_eq!((result.verdict.as_str(), result.mismatches[0].clause.as_str()), ("Refused", "tpm.pcr.12"));
    assert!(status.admission.is_none() && story.node(&request).await.is_none());

    cloud.script().clear(Behaviour::BrokenEvidence);
    until("an acceptance", || async { story.verdict(&request).await.filter(|v| v == "Accepted") }).await;
    let result = story.status(&request).await.unwrap().last_appraisal.unwrap();
    assert_eq!((result.mismatches.len(), result.refusal_id, result.measurement_set.as_deref()), (0, None, Some("v1")));
    until("the node", || story.node(&request)).await;
    cloud.script().add(Behaviour::BrokenEvidence, "broken-one");
    until("a refusal", || async { story.verdict(&request).await.filter(|v| v == "Refused") }).await;
}

#[tokio::test]
async fn scripted_trouble_happens_once_or_as_long_as_it_is_said() {
    let story = Story::begin("trouble").await;
    let cloud = simulated(&story.client);
    let (one, two) = (story.request("one"), story.request("two"));
    cloud.script().fail_next(CloudError::Capacity("full".into()));
    assert!(matches!(cloud.launch(&one).await, Err(CloudError::Capacity(_))));
    cloud.launch(&one).await.unwrap();
    cloud.launch(&two).await.unwrap();
    cloud.script().add(Behaviour::Hide, &one.name);
    assert_eq!(cloud.find(&story.cluster).await.unwrap().len(), 1);
    cloud.script().clear(Behaviour::Hide);
    cloud.script().add(Behaviour::Vanish, &one.name);
    cloud.script().add(Behaviour::Fail, &two.name);
    until("one gone and one failed", || async {
        let found = cloud.find(&story.cluster).await.unwrap();
        (found.len() == 1 && found[0].node == two.node && found[0].state == InstanceState::Failed).then_some(())
    })
    .await;
}
