//! Secrets of a cluster that is there: the CA of its verifiers when Kubernetes is initialised, its kubeconfig afterwards.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_crds::{ConstellationCluster, condition::reason};
use constellation_tests::{faults::flow::LONG, world::World};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::host::Host;

fn secret(name: &str, data: &[(&str, &str)]) -> Secret {
    let data: BTreeMap<_, _> = data.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    Secret { metadata, string_data: Some(data), ..Secret::default() }
}

/// A kubeconfig of an API server that doesn't answer.
fn kubeconfig() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
    json!({"apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "c", "cluster":
            {"server": "https://127.0.0.1:1", "certificate-authority-data": STANDARD.encode(ca)}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}]})
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_are_lost_or_spoilt_are_asked_for_and_the_cluster_goes_on_when_they_are_restored() {
    let mut host = Host::start("secrets").await;
    let secrets: Api<Secret> = Api::default_namespaced(host.world.client());
    let put = async |secret: &Secret| drop(secrets.create(&PostParams::default(), secret).await.unwrap());
    let remove = async |name: &str| drop(secrets.delete(name, &DeleteParams::default()).await.unwrap());
    let ca = "secrets-verifier-ca";
    put(&secret(ca, &[("tls.crt", "no certificate"), ("tls.key", "no key")])).await;
    host.image();
    host.ask("secrets").await;
    host.told(reason::SECRET_INVALID, "Secret secrets-verifier-ca has not under `tls.crt` and `tls.key` a verifier CA")
        .await;
    remove(ca).await;
    host.goes_on().await;
    let made = async |_: &World| secrets.get_opt(ca).await.unwrap().is_some();
    host.world.until("another CA", LONG, made).await;

    // A real Init takes minutes; its record is all that an operator goes by.
    let clusters: Api<ConstellationCluster> = Api::default_namespaced(host.world.client());
    let status = json!({"status": {"initialization": {"controlPlaneInitializedAt": "2026-01-01T00:00:00Z"}}});
    clusters.patch_status("secrets", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let (name, gone) =
        ("secrets-kubeconfig", "Secret secrets-kubeconfig with the cluster's kubeconfig is gone: restore it");
    host.told(reason::SECRET_NOT_FOUND, gone).await;
    put(&secret(name, &[("value", "{")])).await;
    host.told(reason::SECRET_INVALID, "Secret secrets-kubeconfig holds no kubeconfig").await;
    remove(name).await;
    host.told(reason::SECRET_NOT_FOUND, gone).await;
    put(&secret(name, &[("value", &kubeconfig())])).await;
    host.goes_on().await;
    let silent = async |w: &World| {
        let status = w.cluster().await.and_then(|cluster| cluster.status).unwrap_or_default();
        status.conditions.iter().any(|c| c.type_ == "Ready" && c.reason == reason::API_SERVER_UNREACHABLE)
    };
    host.world.until("the API server asked", LONG, silent).await;
    host.end().await;
}
