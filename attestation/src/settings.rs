//! What a node may be told about itself: names, labels and taints as Kubernetes has them, and nothing that a program
//! could take for another argument. They come from an object that API writers can change.

use std::collections::BTreeMap;

use crate::protocol::NodeSettings;

/// Characters of a name, a label's value, and the name part of a key (Kubernetes, "Labels and Selectors").
const NAME_MAX: usize = 63;
/// Characters of a DNS subdomain (RFC 1123), such as a node's name and a key's prefix.
const SUBDOMAIN_MAX: usize = 253;
/// Characters of a provider's id; the longest are Azure's resource ids.
const PROVIDER_ID_MAX: usize = 512;
/// Effects of taints (Kubernetes, "Taints and Tolerations").
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "PreferNoSchedule"];

/// Domains whose labels a kubelet may give itself, and keys that it may (Kubernetes, "Well-Known Labels, Annotations and
/// Taints"; the kubelet refuses to start with any other of `kubernetes.io` and `k8s.io`: its option `--node-labels`).
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
const OWN_KEYS: [&str; 10] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const KUBERNETES: [&str; 2] = ["kubernetes.io", "k8s.io"];

/// What can't be said of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} isn't {wanted}")]
pub struct Error {
    /// Which of its settings.
    pub what: &'static str,
    /// Its value.
    pub value: String,
    /// What it must be.
    pub wanted: &'static str,
}

impl NodeSettings {
    /// Checks that each part has the form that Kubernetes wants.
    ///
    /// # Errors
    /// The first that hasn't.
    pub fn validate(&self) -> Result<(), Error> {
        check("the node's name", &self.node_name, "a DNS subdomain", is_subdomain(&self.node_name))?;
        check("the provider's id", &self.provider_id, "a provider's id", is_provider_id(&self.provider_id))?;
        check("the pod network", &self.pod_cidr, "an IPv4 network", is_network(&self.pod_cidr))?;
        placement(&self.labels, &self.taints)
    }
}

/// Checks labels, and taints as `key[=value]:Effect`.
///
/// # Errors
/// The first that Kubernetes, or its kubelet, wouldn't take.
pub fn placement(labels: &BTreeMap<String, String>, taints: &[String]) -> Result<(), Error> {
    for (key, value) in labels {
        check("the label", key, "a label's key", is_key(key))?;
        check("the label", key, "one of Kubernetes' own that a kubelet may give itself", is_own(key))?;
        check("the label's value", value, "a label's value", is_value(value))?;
    }
    taints.iter().try_for_each(|taint| check("the taint", taint, "key[=value]:Effect", is_taint(taint)))
}

fn check(what: &'static str, value: &str, wanted: &'static str, good: bool) -> Result<(), Error> {
    if good { Ok(()) } else { Err(Error { what, value: value.to_owned(), wanted }) }
}

/// Whether a kubelet may give itself a label: any that isn't Kubernetes' own, and some that are.
fn is_own(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return true };
    let within = |of: &&str| domain.strip_suffix(*of).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    !KUBERNETES.iter().any(within) || OWN_DOMAINS.iter().any(within) || OWN_KEYS.contains(&key)
}

/// Whether the name is a DNS subdomain (RFC 1123), which names of Kubernetes nodes are.
#[must_use]
pub fn is_subdomain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=SUBDOMAIN_MAX).contains(&name.len()) && name.split('.').all(|label| is_edged(label, plain, b"-"))
}

/// Not empty, of `plain` characters and those `between` them, and with a plain one at both ends.
fn is_edged(text: &str, plain: impl Fn(u8) -> bool, between: &[u8]) -> bool {
    let edges = [text.bytes().next(), text.bytes().last()];
    edges.into_iter().all(|edge| edge.is_some_and(&plain))
        && text.bytes().all(|byte| plain(byte) || between.contains(&byte))
}

fn is_name(text: &str) -> bool {
    text.len() <= NAME_MAX && is_edged(text, |byte| byte.is_ascii_alphanumeric(), b"-_.")
}

fn is_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_name(name),
        None => is_name(key),
    }
}

fn is_value(value: &str) -> bool {
    value.is_empty() || is_name(value)
}

fn is_taint(taint: &str) -> bool {
    let Some((rest, effect)) = taint.rsplit_once(':') else { return false };
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    EFFECTS.contains(&effect) && is_key(key) && is_value(value)
}

/// Names of groups in Azure may have parentheses, projects of Google a colon.
fn is_provider_id(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":/._-()".contains(&byte);
    (1..=PROVIDER_ID_MAX).contains(&id.len()) && id.bytes().all(plain)
}

fn is_network(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let length = length.parse::<u8>().ok().filter(|bits| *bits <= 32 && bits.to_string() == length);
    address.parse::<core::net::Ipv4Addr>().is_ok() && length.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> NodeSettings {
        NodeSettings {
            node_name: "demo-w.1".into(),
            provider_id: "azure:///subscriptions/0-1/resourceGroups/a_(b).c/providers/M.C/virtualMachines/d".into(),
            pod_cidr: "10.244.3.0/24".into(),
            labels: [("constellation.dev/role".into(), "worker".into()), ("empty".into(), String::new())].into(),
            taints: vec!["a=b:NoSchedule".into(), "example.org/a:NoExecute".into(), "a=:PreferNoSchedule".into()],
            disk_integrity: true,
        }
    }

    /// Makes exactly one thing wrong.
    type Change = fn(&mut NodeSettings);

    #[test]
    fn what_kubernetes_takes_is_taken_and_what_a_program_could_misread_is_not() {
        assert_eq!(good().validate(), Ok(()));
        let cases: [(&str, Change); 20] = [
            ("the node's name", |node| node.node_name = "a b".into()),
            ("the node's name", |node| node.node_name = "-a".into()),
            ("the node's name", |node| node.node_name = String::new()),
            ("the provider's id", |node| node.provider_id = "a --anonymous-auth=true".into()),
            ("the provider's id", |node| node.provider_id = "a\"".into()),
            ("the provider's id", |node| node.provider_id = "a\nb".into()),
            ("the provider's id", |node| node.provider_id = "$HOME".into()),
            ("the pod network", |node| node.pod_cidr = "10.244.3.0/24 drop".into()),
            ("the pod network", |node| node.pod_cidr = "10.244.3.0/+4".into()),
            ("the pod network", |node| node.pod_cidr = "10.244.3.0".into()),
            ("the label", |node| drop(node.labels.insert("a,b".into(), "c".into()))),
            ("the label", |node| drop(node.labels.insert("/b".into(), "c".into()))),
            ("the label", |node| drop(node.labels.insert("node-role.kubernetes.io/worker".into(), String::new()))),
            ("the label", |node| drop(node.labels.insert("k8s.io/a".into(), String::new()))),
            ("the label", |node| drop(node.labels.insert("xnode.kubernetes.io/a".into(), String::new()))),
            ("the label's value", |node| drop(node.labels.insert("a".into(), "b --c".into()))),
            ("the label's value", |node| drop(node.labels.insert("a".into(), "b".repeat(64)))),
            ("the taint", |node| node.taints.push("a=b:NoSchedule --authorization-mode=AlwaysAllow".into())),
            ("the taint", |node| node.taints.push("a=b".into())),
            ("the taint", |node| node.taints.push("a=b,c=d:NoSchedule".into())),
        ];
        for (what, change) in cases {
            let mut node = good();
            change(&mut node);
            assert_eq!(node.validate().map_err(|error| error.what), Err(what), "{node:?}");
        }
    }
    #[test]
    fn a_kubelet_may_give_itself_some_of_kubernetes_own_labels() {
        for key in ["a", "example.org/a", "notkubernetes.io/a", "node.kubernetes.io/a", "x.node.kubernetes.io/a"] {
            assert!(is_own(key), "{key}");
        }
        assert!(OWN_KEYS.iter().all(|key| is_own(key)));
        assert!(OWN_KEYS.iter().all(|key| !is_own(&format!("{key}s"))));
    }
}
