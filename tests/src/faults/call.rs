//! One request of the operator, and a name for the side effect it has that is the same in every run.

use std::collections::{BTreeMap, BTreeSet};

use constellation_operator::lease;
use serde_json::{Map, Value};

/// A request to the API server, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// `create`, `update`, `patch`, `delete`, or `read`.
    pub verb: &'static str,
    /// Plural of the kind.
    pub resource: String,
    /// Namespace; absent: of the cluster.
    pub namespace: Option<String>,
    /// Name in the path, or of the object that is created.
    pub name: Option<String>,
    /// `status`, `scale`, `eviction`.
    pub subresource: Option<String>,
    /// It is a stream of events.
    pub watch: bool,
    /// Nothing but metadata is asked for. A header says so, not the path.
    pub metadata: bool,
    /// What is selected of a list, by labels or fields.
    pub selector: String,
    /// What is written.
    pub body: Value,
}

impl Call {
    /// Takes a request apart; JSON is all that kube sends.
    #[must_use]
    pub fn of(method: &str, path: &str, query: &str, body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        // `/api/v1/...` or `/apis/<group>/<version>/...`
        let skip = if parts.next() == Some("apis") { 2 } else { 1 };
        let mut parts = parts.skip(skip).peekable();
        let mut resource = parts.next().unwrap_or_default().to_owned();
        let mut namespace = None;
        let mut name = parts.next().map(str::to_owned);
        if resource == "namespaces" && parts.peek().is_some() {
            namespace = name.take();
            parts.next().unwrap_or_default().clone_into(&mut resource);
            name = parts.next().map(str::to_owned);
        }
        let verb = match method {
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ => "read",
        };
        let named = || body.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned);
        Self {
            verb,
            resource,
            namespace,
            name: name.or_else(named),
            subresource: parts.next().map(str::to_owned),
            selector: selector(query),
            metadata: false,
            watch: query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1"),
            body,
        }
    }

    /// Whether it changes anything. Leases are heartbeats: they are what they are for.
    #[must_use]
    pub fn writes(&self) -> bool {
        self.verb != "read" && self.resource != "leases"
    }

    /// Whether it changes more than what is told of it.
    #[must_use]
    pub fn acts(&self) -> bool {
        self.writes() && self.resource != "events" && self.subresource.as_deref() != Some("status")
    }

    /// Whether it asks for the right to lead, or to go on leading.
    #[must_use]
    pub fn renews(&self) -> bool {
        self.verb != "read" && self.resource == "leases" && self.name.as_deref() == Some(lease::NAME)
    }

    /// The object in the path.
    #[must_use]
    pub fn object(&self) -> String {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        [self.resource.clone(), part(&self.namespace), part(&self.name)].join("/")
    }

    /// Names the side effect; UIDs are replaced by what `names` says. A status is another effect when it says another thing,
    /// or when other members differ from what was `told` last.
    #[must_use]
    pub fn effect(&self, names: &BTreeMap<String, String>, told: Option<&Value>) -> String {
        let mut name = self.name.clone().unwrap_or_default();
        for (uid, of) in names {
            name = name.replace(uid, of);
        }
        let detail = match (self.resource.as_str(), self.subresource.as_deref()) {
            ("events", _) => {
                let text = |key| self.body.pointer(key).and_then(Value::as_str).unwrap_or_default();
                text("/regarding/name").clone_into(&mut name);
                text("/reason").to_owned()
            }
            (_, Some("status")) => said(&self.body, told),
            ("configmaps", _) => {
                self.body.pointer("/data/record").and_then(Value::as_str).map_or_else(String::new, state)
            }
            (_, _) if self.body.pointer("/metadata/finalizers").is_some() => "finalizers".to_owned(),
            ("nodeadmissions", _) if self.body.pointer("/spec/evicted").is_some() => "evicted".to_owned(),
            ("nodes", _) => marks(&self.body),
            _ => String::new(),
        };
        let resource = match &self.subresource {
            Some(sub) => format!("{}/{sub}", self.resource),
            None => self.resource.clone(),
        };
        [self.verb, &resource, &name, &detail].join(" ").trim_end().to_owned()
    }
}

/// What a query selects, as it was before it was encoded.
fn selector(query: &str) -> String {
    let selects = |key: &str| ["labelSelector", "fieldSelector"].contains(&key);
    let mut selected = query.split('&').filter_map(|pair| pair.split_once('=')).filter(|(key, _)| selects(key));
    let encoded = selected.next().map(|(_, value)| value).unwrap_or_default();
    [("%2F", "/"), ("%3D", "="), ("%2C", ",")]
        .iter()
        .fold(encoded.to_owned(), |text, (code, sign)| text.replace(code, sign))
}

/// What a status says, without counts and times, and which members changed.
fn said(body: &Value, told: Option<&Value>) -> String {
    let phase = body.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    let ready = body.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    let ready = ready.filter(|c| c["type"] == "Ready").find_map(|c| c["reason"].as_str()).unwrap_or_default();
    let [now, told] = [body.get("status"), told].map(|status| status.and_then(Value::as_object));
    let members: BTreeSet<_> = [now, told].into_iter().flatten().flat_map(Map::keys).map(String::as_str).collect();
    let differs =
        |member: &&str| now.and_then(|status| status.get(*member)) != told.and_then(|status| status.get(*member));
    let changed: Vec<_> = members.into_iter().filter(differs).collect();
    format!("{phase} {ready} {changed:?}").trim().to_owned()
}

/// What a Kubernetes node is marked with.
fn marks(body: &Value) -> String {
    let taints = body.pointer("/spec/taints").and_then(Value::as_array).into_iter().flatten();
    let taints = taints.filter_map(|taint| taint["key"].as_str()).map(|key| format!("taint {key}"));
    let labels = body.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flat_map(Map::keys);
    let mut marks: Vec<_> = taints.chain(labels.map(|key| format!("label {key}"))).collect();
    marks.sort();
    marks.join(" ")
}

fn state(record: &str) -> String {
    let record: Value = serde_json::from_str(record).unwrap_or_default();
    record["state"].as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_are_taken_apart_and_named() {
        let node = Call::of("PATCH", "/api/v1/nodes/a-cp-1/status", "", b"{}");
        assert_eq!((node.resource.as_str(), node.namespace, node.verb), ("nodes", None, "patch"));
        let body =
            json!({"metadata": {"name": "simulated-u1"}, "data": {"record": "{\"state\":\"Running\"}"}}).to_string();
        let launch = Call::of("POST", "/api/v1/namespaces/n/configmaps", "", body.as_bytes());
        let names = BTreeMap::from([("u1".to_owned(), "a-cp-1".to_owned())]);
        assert_eq!(launch.effect(&names, None), "create configmaps simulated-a-cp-1 Running");
        assert!(launch.writes() && launch.acts());
        let group = "/apis/constellation.dev/v1alpha1/namespaces/n/constellationclusters/c/status";
        let status = json!({"status": {"conditions": [{"type": "Ready", "reason": "Deleting"}], "readyNodes": 1}});
        let told = status["status"].clone();
        let status = Call::of("PATCH", group, "fieldManager=x", status.to_string().as_bytes());
        assert_eq!(status.object(), "constellationclusters/n/c");
        assert!(status.writes() && !status.acts());
        let first = r#"patch constellationclusters/status c Deleting ["conditions", "readyNodes"]"#;
        assert_eq!(status.effect(&names, None), first);
        assert_eq!(status.effect(&names, Some(&told)), "patch constellationclusters/status c Deleting []");
        let other = json!({"conditions": told["conditions"], "summary": "gone"});
        let changed = r#"patch constellationclusters/status c Deleting ["readyNodes", "summary"]"#;
        assert_eq!(status.effect(&names, Some(&other)), changed);
        let watch = Call::of("GET", "/api/v1/configmaps", "a=b&watch=true", b"");
        assert!(watch.watch && !watch.writes());
        let list = Call::of("GET", "/api/v1/configmaps", "&labelSelector=a%2Fb%3Dc%2Cd%3De&limit=500", b"");
        assert_eq!((list.selector.as_str(), list.watch), ("a/b=c,d=e", false));
        let lease =
            |name| Call::of("PUT", &format!("/apis/coordination.k8s.io/v1/namespaces/k/leases/{name}"), "", b"{}");
        assert!(!lease("l").writes() && !lease("l").renews() && lease(lease::NAME).renews());
        let node =
            |body: Value| Call::of("PATCH", "/api/v1/nodes/n", "", body.to_string().as_bytes()).effect(&names, None);
        assert_eq!(node(json!({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}})), "patch nodes n taint k");
        assert_eq!(node(json!({"spec": {"taints": []}})), "patch nodes n");
        assert_eq!(node(json!({"metadata": {"labels": {"a": ""}}})), "patch nodes n label a");
    }
}
