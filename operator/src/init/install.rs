//! Our kinds and rights inside a cluster that was made.

use constellation_attestation::protocol::KUBELET_SIGNER;
use constellation_crds::definition;
use k8s_openapi::{
    api::{core::v1::ConfigMap, rbac::v1::ClusterRoleBinding},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::ApiResource,
    runtime::{conditions, wait},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::workload::Workload;

/// Field manager of the cluster controller.
pub const MANAGER: &str = "constellation-cluster";
const GROUP: &str = "rbac.authorization.k8s.io";
const CERTIFICATES: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";
const APPROVAL: &str = "certificatesigningrequests/approval";
/// What an earlier version granted and nobody may have any more: with this binding, which kubeadm calls so, the controller
/// manager renews every kubelet's certificate by the name in it (Kubernetes, "TLS bootstrapping", approval). Verifiers do that
/// now, and look at more.
const REVOKED: [(&str, &str); 1] = [("ClusterRoleBinding", "kubeadm:node-autoapprove-certificate-rotation")];
/// On the object that is written last: digest of everything that was installed.
const ANNOTATION: &str = "constellation.dev/installed";
const CLUSTER_INFO: &str = "cluster-info";
const LAST: &str = "constellation:verifier";
const MESH: &str = "constellation:mesh";
/// How long an API server may take to serve a new kind.
const ESTABLISH_LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// Kind, name, namespace, body.
fn rights() -> Vec<(&'static str, &'static str, Option<&'static str>, Value)> {
    let ours = "constellation.dev";
    // What the bootstrapper's mesh asks with its kubelet's certificate: the list of its namespace, and its changes. Rights
    // know no fields, so every node may read what verifiers found about the others as well; there is no secret in it.
    let mesh = json!([{"apiGroups": [ours], "resources": ["nodeadmissions"], "verbs": ["list", "watch"]}]);
    // What a node is and what is trusted say the operator and the owner: of those a verifier writes the status only.
    let verifier = json!([
        {"apiGroups": [ours], "resources": ["nodeadmissions"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [ours], "resources": ["nodeadmissions/status"], "verbs": ["update", "patch"]},
        {"apiGroups": [ours], "resources": ["trustbundles"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [ours], "resources": ["trustbundles/status"], "verbs": ["patch"]},
        {"apiGroups": [CERTIFICATES], "resources": [REQUESTS], "verbs": ["list", "watch"]},
        {"apiGroups": [CERTIFICATES], "resources": [APPROVAL], "verbs": ["patch"]},
        // Who answers a signer's requests needs this right beside that on the requests (admission plug-in `CertificateApproval`).
        {"apiGroups": [CERTIFICATES], "resources": ["signers"], "resourceNames": [KUBELET_SIGNER], "verbs": ["approve"]},
    ]);
    let config = json!([{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["kubelet-config"],
        "verbs": ["get"]}]);
    let binding = |kind: &str, role: &str, subject: (&str, &str)| {
        json!({"roleRef": {"apiGroup": GROUP, "kind": kind, "name": role},
            "subjects": [{"apiGroup": GROUP, "kind": subject.0, "name": subject.1}]})
    };
    let (nodes, user) = (("Group", "system:nodes"), ("User", LAST));
    let system = Some("kube-system");
    // kubeadm gives the API server this right in its bootstrap-token phase, which we skip: without it no `kubectl exec`.
    let kubelets = ("User", "kube-apiserver-kubelet-client");
    vec![
        (
            "ClusterRoleBinding",
            "kubeadm:apiserver-kubelet-client",
            None,
            binding("ClusterRole", "system:kubelet-api-admin", kubelets),
        ),
        ("Role", MESH, system, json!({"rules": mesh})),
        ("RoleBinding", MESH, system, binding("Role", MESH, nodes)),
        ("Role", LAST, system, json!({"rules": config})),
        ("RoleBinding", LAST, system, binding("Role", LAST, user)),
        ("ClusterRole", LAST, None, json!({"rules": verifier})),
        ("ClusterRoleBinding", LAST, None, binding("ClusterRole", LAST, user)),
    ]
}

/// What kubeadm looks for before it joins a control-plane node; it makes it in its bootstrap-token phase, which we skip,
/// and waits minutes where there is none. Public: an address and a CA.
fn cluster_info(endpoint: &str, ca: &str) -> Value {
    let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "", "cluster":
        {"server": format!("https://{endpoint}"), "certificate-authority-data": ca}}]});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CLUSTER_INFO},
        "data": {"kubeconfig": kubeconfig.to_string()}})
}

fn digest() -> String {
    let all =
        json!({"kinds": definition::workload(), "rights": rights(), "revoked": REVOKED, "info": cluster_info("", "")});
    hex::encode(Sha256::digest(all.to_string()))
}

/// Whether everything is there, in this operator's version. In a simulated cluster: whether the kinds are served.
pub async fn installed(client: &Client, simulated: bool) -> kube::Result<bool> {
    if simulated {
        // It is our own API server, and its list of kinds is a small thing; a definition is not.
        let ours = format!("{}/{}", constellation_crds::GROUP, constellation_crds::VERSION);
        let served = match client.list_api_group_resources(&ours).await {
            Ok(served) => served.resources,
            Err(kube::Error::Api(status)) if status.is_not_found() => Vec::new(),
            Err(error) => return Err(error),
        };
        let is_served = |kind: CustomResourceDefinition| served.iter().any(|one| one.name == kind.spec.names.plural);
        return Ok(definition::workload().into_iter().all(is_served));
    }
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    let last = bindings.get_opt(LAST).await?;
    let found = last.and_then(|binding| binding.metadata.annotations).unwrap_or_default();
    Ok(found.get(ANNOTATION) == Some(&digest()))
}

/// Installs it, or brings it up to date.
///
/// # Errors
/// When the API server refuses or does not answer.
pub async fn install(workload: &Workload, endpoint: &str) -> kube::Result<()> {
    let client = &workload.client();
    let params = PatchParams::apply(MANAGER).force();
    let kinds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for kind in definition::workload() {
        let name = kind.metadata.name.clone().unwrap_or_default();
        kinds.patch(&name, &params, &Patch::Apply(&kind)).await?;
        let served = wait::await_condition(kinds.clone(), &name, conditions::is_crd_established());
        if tokio::time::timeout(ESTABLISH_LIMIT, served).await.is_err() {
            tracing::info!(name, "the kind is not served yet");
        }
    }
    let Workload::Real { ca, .. } = workload else { return Ok(()) };
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-public");
    maps.patch(CLUSTER_INFO, &params, &Patch::Apply(cluster_info(endpoint, ca))).await?;
    grant(client).await
}

/// Takes back what an earlier version granted, and gives verifiers and nodes their rights; what is written last says that
/// everything is there.
///
/// # Errors
/// When the API server refuses or does not answer.
pub async fn grant(client: &Client) -> kube::Result<()> {
    for (kind, name) in REVOKED {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", kind));
        match Api::<DynamicObject>::all_with(client.clone(), &resource).delete(name, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    let params = PatchParams::apply(MANAGER).force();
    for (kind, name, namespace, body) in rights() {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", kind));
        let mut object = DynamicObject::new(name, &resource).data(body);
        if (kind, name) == ("ClusterRoleBinding", LAST) {
            object.metadata.annotations = Some([(ANNOTATION.to_owned(), digest())].into());
        }
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        api.patch(name, &params, &Patch::Apply(&object)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is granted: resource and verb, each by itself.
    fn granted() -> Vec<(String, String)> {
        let words = |list: &Value| -> Vec<String> { serde_json::from_value(list.clone()).unwrap() };
        let all = rights();
        let rules = all.iter().flat_map(|(.., body)| body["rules"].as_array().cloned().unwrap_or_default());
        let each = rules.flat_map(|rule| {
            let verbs = words(&rule["verbs"]);
            let pairs = words(&rule["resources"]).into_iter();
            pairs.flat_map(move |resource| verbs.clone().into_iter().map(move |verb| (resource.clone(), verb)))
        });
        each.collect()
    }

    #[test]
    fn what_nodes_are_and_what_is_trusted_is_read_and_only_its_status_written() {
        let reads = |verb: &str| ["get", "list", "watch"].contains(&verb);
        let mut granted = granted();
        // What is written of a request is an answer, for one signer.
        for answer in [(APPROVAL, "patch"), ("signers", "approve")] {
            let at = granted.iter().position(|(resource, verb)| (resource.as_str(), verb.as_str()) == answer).unwrap();
            granted.remove(at);
        }
        for (resource, verb) in &granted {
            let whole = !resource.ends_with("/status");
            assert!(reads(verb) == whole, "{verb} on {resource}");
        }
        for resource in ["nodeadmissions/status", "trustbundles/status"] {
            assert!(granted.iter().any(|(known, _)| known == resource), "{resource}");
        }
    }

    #[test]
    fn nodes_read_admissions_of_one_namespace_and_nothing_more() {
        let of_nodes = |body: &Value| body["subjects"].to_string().contains("system:nodes");
        let all = rights();
        let bindings: Vec<_> = all.iter().filter(|(.., body)| of_nodes(body)).collect();
        assert_eq!(bindings.len(), 1);
        let (kind, _, namespace, body) = bindings[0];
        assert_eq!((*kind, *namespace), ("RoleBinding", Some("kube-system")));
        let role = all.iter().find(|(kind, name, ..)| json!(kind) == body["roleRef"]["kind"] && *name == MESH).unwrap();
        assert_eq!(role.3["rules"].as_array().unwrap().len(), 1);
        assert_eq!(role.3["rules"][0]["resources"], json!(["nodeadmissions"]));
    }

    #[test]
    fn only_verifiers_answer_requests_for_certificates_and_only_kubelets() {
        let all = rights();
        let answering: Vec<_> =
            all.iter().filter(|(.., body)| body.to_string().contains("certificates.k8s.io")).collect();
        assert_eq!(answering.len(), 1);
        assert_eq!((answering[0].0, answering[0].1), ("ClusterRole", LAST));
        let rules = answering[0].3["rules"].as_array().unwrap();
        let signers: Vec<_> = rules.iter().filter(|rule| rule["resources"] == json!(["signers"])).collect();
        assert_eq!((signers.len(), &signers[0]["resourceNames"]), (1, &json!([KUBELET_SIGNER])));
        assert!(all.iter().all(|(kind, name, ..)| !REVOKED.contains(&(kind, name))), "nothing is given and taken back");
    }

    #[test]
    fn the_verifier_may_not_create_or_delete_and_no_secret_is_named() {
        let text = json!(rights()).to_string();
        for word in ["\"*\"", "secrets", "create", "delete", "bind", "escalate", "impersonate"] {
            assert!(!text.contains(&format!("\"{word}\"")), "{word}");
        }
    }
}
