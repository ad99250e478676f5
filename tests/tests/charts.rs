//! The charts as Helm renders them: which rights they give where, what they start, and which values they refuse.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use constellation_operator::{args::Run, metrics};
use constellation_tests::controlplane::programs::built;
use serde::Deserialize as _;
use serde_json::{Value, json};

const CRDS: &str = "constellation-crds";
const OPERATOR: &str = "constellation-operator";
/// Helm by itself takes every cluster for one of Kubernetes 1.20.
const KUBERNETES: &str = "v1.36.3";
/// User that the image has and the pod asks for.
const USER: u64 = 65532;

fn chart(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("charts").join(name)
}

/// Helm over a chart with some values.
fn helm(arguments: &[&str], name: &str, values: &Value) -> Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    // JSON is YAML.
    fs::write(file.path(), values.to_string()).unwrap();
    let mut command = Command::new(built(&["helm"]).unwrap().join("helm"));
    command.args(arguments).arg(chart(name)).args(["--kube-version", KUBERNETES, "--values"]).arg(file.path());
    command.output().unwrap()
}

/// The objects of release `op` in namespace `system`, or why there are none.
fn rendered(name: &str, values: &Value) -> Result<Vec<Value>, String> {
    let output = helm(&["template", "--include-crds", "--namespace", "system", "op"], name, values);
    if !output.status.success() {
        return Err(String::from_utf8(output.stderr).unwrap());
    }
    let text = String::from_utf8(output.stdout).unwrap();
    let documents = serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap());
    Ok(documents.filter(|object| !object.is_null()).collect())
}

/// The least that the operator's chart needs.
fn least() -> Value {
    json!({"image": {"digest": format!("sha256:{}", "0a".repeat(32))}})
}

/// Every value of the operator's chart, each other than its default.
fn full() -> Value {
    json!({
        "image": {"repository": "example/operator", "digest": least()["image"]["digest"], "pullPolicy": "Always"},
        "replicas": 3,
        "watchNamespaces": ["one", "two"],
        "collateral": {
            "fetch": true, "amdKdsURL": "https://a.example", "intelPcsURL": "https://b.example",
            "intelRootCrlURL": "https://c.example", "googleIssuersURL": "https://d.example", "intelTcbUpdate": "early",
            "caConfigMap": "mirrors",
        },
        "proxy": {"https": "http://proxy.example:3128", "except": ".example"},
        "extraArgs": ["--sweep-seconds=600", "--namespace=with space"],
        "extraEnv": [{"name": "AWS_REGION", "value": "us-east-2"}],
        "serviceAccount": {"annotations": {"example.com/role": "operator"}},
        "podLabels": {"example.com/use": "true"},
        "podAnnotations": {"example.com/note": "1"},
        "imagePullSecrets": [{"name": "pull"}],
        "priorityClassName": "system-cluster-critical",
        "metrics": {
            "service": {"enabled": true}, "podMonitor": {"enabled": true}, "rules": {"enabled": true},
            "labels": {"release": "prometheus"},
        },
        "resources": {"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "infra", "operator": "Exists"}],
    })
}

fn operator(values: &Value) -> Vec<Value> {
    rendered(OPERATOR, values).unwrap()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// Verbs by group and resource, with its names where it is of some only.
fn rights(role: &Value) -> BTreeMap<String, String> {
    let mut rights = BTreeMap::new();
    for rule in role["rules"].as_array().unwrap() {
        let (names, verbs) = (rule.get("resourceNames").map_or_else(Vec::new, texts).join(","), texts(&rule["verbs"]));
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                let before = rights.insert(format!("{group}/{resource}:{names}"), verbs.join(" "));
                assert_eq!(before, None, "{group}/{resource} is there twice: {role}");
            }
        }
    }
    rights
}

fn role(objects: &[Value], kind: &str, name: &str) -> Vec<(String, String)> {
    let role = of_kind(objects, kind).into_iter().find(|role| role["metadata"]["name"] == name);
    rights(role.unwrap_or_else(|| panic!("no {kind} {name}"))).into_iter().collect()
}

/// Which role is bound in which namespace. All are of the operator's own account.
fn bindings(objects: &[Value], kind: &str) -> Vec<(String, String)> {
    let account = json!([{"kind": "ServiceAccount", "name": "op", "namespace": "system"}]);
    let bound = of_kind(objects, kind).into_iter().map(|binding| {
        assert_eq!(binding["subjects"], account, "{binding}");
        let namespace = binding["metadata"].get("namespace").map_or("", |name| name.as_str().unwrap());
        (namespace.to_owned(), binding["roleRef"]["name"].as_str().unwrap().to_owned())
    });
    let mut bound: Vec<_> = bound.collect();
    bound.sort();
    bound
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned())).collect()
}

fn pod(objects: &[Value]) -> &Value {
    &of_kind(objects, "Deployment")[0]["spec"]["template"]
}

#[test]
fn charts_are_clean_with_the_least_and_with_every_value() {
    for (name, values) in [(CRDS, json!({})), (OPERATOR, least()), (OPERATOR, full())] {
        let output = helm(&["lint", "--strict"], name, &values);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    }
    let defaults: Value =
        serde_yaml::from_str(&fs::read_to_string(chart(OPERATOR).join("values.yaml")).unwrap()).unwrap();
    for (key, default) in defaults.as_object().unwrap() {
        assert!(full().get(key).is_some_and(|value| value != default), "{key} is tried with its default only");
    }
}

#[test]
fn the_kinds_of_the_management_cluster_come_with_their_protection() {
    let objects = rendered(CRDS, &json!({})).unwrap();
    let names: BTreeSet<_> = of_kind(&objects, "CustomResourceDefinition")
        .into_iter()
        .map(|definition| definition["spec"]["names"]["kind"].as_str().unwrap())
        .collect();
    assert_eq!(names, BTreeSet::from(["ConfidentialNode", "ConstellationCluster", "NodeGroup", "NodeVersion"]));
    let binding = of_kind(&objects, "ValidatingAdmissionPolicyBinding")[0];
    let policy = of_kind(&objects, "ValidatingAdmissionPolicy")[0];
    assert_eq!(binding["spec"]["policyName"], policy["metadata"]["name"]);
    assert_eq!(objects.len(), names.len() + 2);
}

#[test]
fn the_operator_has_these_rights_and_no_other() {
    let objects = operator(&full());
    let everywhere = [
        ("/configmaps:", "get list watch"),
        ("/namespaces:kube-system", "get"),
        ("constellation.dev/*/finalizers:", "get patch update"),
        ("constellation.dev/*/status:", "get patch update"),
        ("constellation.dev/confidentialnodes:", "get list watch create patch delete"),
        ("constellation.dev/constellationclusters:", "get list watch patch"),
        ("constellation.dev/nodegroups:", "get list watch create patch delete"),
        ("constellation.dev/nodeversions:", "get list watch"),
        ("events.k8s.io/events:", "create patch"),
    ];
    assert_eq!(role(&objects, "ClusterRole", "op"), pairs(&everywhere));
    let secrets = [("/configmaps:", "create patch"), ("/secrets:", "get create patch update")];
    assert_eq!(role(&objects, "ClusterRole", "op-secrets"), pairs(&secrets));
    let collateral = [("/configmaps:", "create"), ("/configmaps:constellation-collateral", "patch")];
    assert_eq!(role(&objects, "ClusterRole", "op-collateral"), pairs(&collateral));
    let leader = [("coordination.k8s.io/leases:", "get create update")];
    assert_eq!(role(&objects, "Role", "op-leader"), pairs(&leader));
    assert_eq!((of_kind(&objects, "ClusterRole").len(), of_kind(&objects, "Role").len()), (3, 1));
}

#[test]
fn secrets_are_the_operators_only_in_the_watched_namespaces() {
    let expect = |values: &Value, within: &[(&str, &str)]| {
        let objects = operator(values);
        assert_eq!(bindings(&objects, "ClusterRoleBinding"), pairs(&[("", "op")]));
        assert_eq!(bindings(&objects, "RoleBinding"), pairs(within), "{values}");
    };
    expect(&least(), &[("system", "op-leader"), ("system", "op-secrets")]);
    let mut values = least();
    values["watchNamespaces"] = json!(["one", "two"]);
    expect(&values, &[("one", "op-secrets"), ("system", "op-leader"), ("two", "op-secrets")]);
    values["collateral"] = json!({"fetch": true});
    let both = [
        ("one", "op-collateral"),
        ("one", "op-secrets"),
        ("system", "op-leader"),
        ("two", "op-collateral"),
        ("two", "op-secrets"),
    ];
    expect(&values, &both);
}

#[test]
fn the_operator_is_started_with_arguments_that_it_knows() {
    let arguments = |values: &Value| -> Vec<String> {
        let objects = operator(values);
        let arguments: Vec<String> =
            texts(&pod(&objects)["spec"]["containers"][0]["args"]).into_iter().map(str::to_owned).collect();
        let known = <Run as clap::Args>::augment_args(clap::Command::new("run")).try_get_matches_from(&arguments);
        assert!(known.is_ok(), "{:?}", known.err());
        arguments
    };
    assert_eq!(arguments(&least()), ["run", "--health-address=0.0.0.0:8081"]);
    let all = [
        "run",
        "--health-address=0.0.0.0:8081",
        "--fetch-collateral",
        "--intel-tcb-update=early",
        "--amd-kds-url=https://a.example",
        "--google-issuers-url=https://d.example",
        "--intel-pcs-url=https://b.example",
        "--intel-root-crl-url=https://c.example",
        "--collateral-ca=/etc/constellation/collateral/ca.crt",
        "--sweep-seconds=600",
        "--namespace=with space",
    ];
    assert_eq!(arguments(&full()), all);
}

#[test]
fn the_pod_is_what_the_values_say_and_the_selector_finds_it() {
    let objects = operator(&full());
    let (deployment, pod) = (of_kind(&objects, "Deployment")[0], pod(&objects));
    let ours = json!({"app.kubernetes.io/name": "constellation-operator", "app.kubernetes.io/instance": "op"});
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], ours);
    assert_eq!(deployment["spec"]["replicas"], 3);
    let labels = json!({
        "app.kubernetes.io/name": "constellation-operator", "app.kubernetes.io/instance": "op",
        "example.com/use": "true",
    });
    assert_eq!(pod["metadata"], json!({"labels": labels, "annotations": {"example.com/note": "1"}}));
    let (spec, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
    let values = full();
    for key in ["imagePullSecrets", "priorityClassName", "nodeSelector", "tolerations"] {
        assert_eq!(spec[key], values[key], "{key}");
    }
    let image = format!("example/operator@{}", values["image"]["digest"].as_str().unwrap());
    assert_eq!((&container["image"], &container["imagePullPolicy"]), (&json!(image), &json!("Always")));
    assert_eq!(container["resources"], values["resources"]);
    let environment = json!([
        {"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}, {"name": "NO_PROXY", "value": ".example"},
        {"name": "AWS_REGION", "value": "us-east-2"},
    ]);
    assert_eq!(container["env"], environment);
    assert_eq!(spec["volumes"][0]["configMap"]["name"], "mirrors");
    assert_eq!(
        of_kind(&objects, "ServiceAccount")[0]["metadata"]["annotations"],
        json!({"example.com/role": "operator"})
    );
    assert_eq!(
        (&spec["securityContext"]["runAsUser"], &spec["securityContext"]["runAsNonRoot"]),
        (&json!(USER), &json!(true))
    );
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    let image = fs::read_to_string(chart(OPERATOR).join("Containerfile")).unwrap();
    assert!(image.contains(&format!("\nUSER {USER}:{USER}\n")), "{image}");
}

#[test]
fn metrics_are_served_read_and_judged_only_where_that_is_wanted() {
    let kinds = ["Service", "PodMonitor", "PrometheusRule"];
    let plain = operator(&least());
    assert!(kinds.iter().all(|kind| of_kind(&plain, kind).is_empty()));
    let objects = operator(&full());
    for kind in kinds {
        assert_eq!(of_kind(&objects, kind).len(), 1, "{kind}");
    }
    assert_eq!(of_kind(&objects, "PodMonitor")[0]["metadata"]["labels"], json!({"release": "prometheus"}));
    let rule = of_kind(&objects, "PrometheusRule")[0];
    assert_eq!(rule["metadata"]["labels"], json!({"release": "prometheus"}));
    let rules = rule["spec"]["groups"][0]["rules"].as_array().unwrap();
    assert_eq!(rules.len(), 4);
    // A rule about a metric that nobody serves is never broken.
    let known = metrics::page();
    for rule in rules {
        let expression = rule["expr"].as_str().unwrap();
        let mut words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        assert!(words.any(|word| known.contains(&format!("| `{word}` | gauge |"))), "{expression}");
    }
}

#[test]
fn values_with_one_thing_wrong_are_refused_for_it() {
    assert!(rendered(OPERATOR, &full()).is_ok());
    for (place, wrong, why) in [
        ("/unknown", json!(1), "'unknown' not allowed"),
        ("/image/tag", json!("latest"), "'tag' not allowed"),
        ("/image/digest", json!(""), "image.digest is empty"),
        ("/image/digest", json!("sha256:0a"), "/image/digest"),
        ("/replicas", json!(0), "/replicas"),
        ("/watchNamespaces", json!(["one", "one"]), "/watchNamespaces"),
        ("/collateral/amdKdsURL", json!("http://a.example"), "/collateral/amdKdsURL"),
        ("/proxy/http", json!("p"), "'http' not allowed"),
        ("/extraArgs", json!("--allow-simulated"), "/extraArgs"),
        ("/extraEnv", json!([{"value": "1"}]), "/extraEnv"),
        ("/serviceAccount/name", json!("other"), "'name' not allowed"),
        ("/podLabels", json!({"app.kubernetes.io/name": "other"}), "/podLabels"),
        ("/podAnnotations", json!({"a": 1}), "/podAnnotations"),
        ("/imagePullSecrets", json!(["pull"]), "/imagePullSecrets"),
        ("/priorityClassName", json!(1), "/priorityClassName"),
        ("/metrics/rules", json!(true), "/metrics/rules"),
        ("/metrics/serviceMonitor", json!({"enabled": true}), "'serviceMonitor' not allowed"),
    ] {
        let mut values = full();
        let (parent, key) = place.rsplit_once('/').unwrap();
        values.pointer_mut(parent).unwrap()[key] = wrong;
        let refusal = rendered(OPERATOR, &values).expect_err(place);
        assert!(refusal.contains(why), "{place}: {refusal}");
    }
}
