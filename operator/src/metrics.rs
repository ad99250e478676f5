//! What Prometheus is told. `constellation-operator metrics` prints the page of it.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use constellation_cloud::calls::Call;
use constellation_crds::{ConfidentialNode, ConfidentialNodeStatus, condition::Condition, node::Phase};
use jiff::Timestamp;
use kube::ResourceExt as _;
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::error::Error;

/// Media type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Labels with their values; every value is of a closed set, or a name that users chose for a cluster or a group: series of
/// what is gone go with it.
type Labels<const N: usize> = [(&'static str, String); N];
/// Namespace and name of a cluster.
pub type Whose = (String, String);
type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

/// Namespace and name of an object.
#[must_use]
pub fn whose(object: &impl kube::ResourceExt) -> Whose {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// All metrics of an operator.
pub struct Metrics {
    registry: Registry,
    leader: Family<Labels<1>, Gauge>,
    passes: Family<Labels<2>, Counter>,
    pass_errors: Family<Labels<1>, Counter>,
    pass_seconds: Histograms<1>,
    nodes: Family<Labels<4>, Gauge>,
    conditions: Family<Labels<4>, Gauge>,
    phase_seconds: Histograms<1>,
    verdicts: Family<Labels<2>, Counter>,
    cloud_calls: Family<Labels<3>, Counter>,
    cloud_seconds: Histograms<2>,
    key_calls: Family<Labels<3>, Counter>,
    key_seconds: Histograms<2>,
    fetches: Family<Labels<2>, Counter>,
    oldest: Family<Labels<1>, Gauge>,
    /// Cluster, group and phase of each node, by UID.
    places: Mutex<HashMap<String, Labels<4>>>,
    /// What is told of each cluster.
    told: Mutex<HashMap<Whose, Vec<Labels<4>>>>,
}

/// Name in the registry, suffix that its kind adds, kind, labels, meaning. The first three are names that dashboards of
/// controller-runtime and client-go know.
const PAGE: [(&str, &str, &str, &str, &str); 14] = [
    ("leader_election_master_status", "", "gauge", "name", "1 while this process leads"),
    ("controller_runtime_reconcile", "_total", "counter", "controller, result", "Looks at an object"),
    ("controller_runtime_reconcile_errors", "_total", "counter", "controller", "Looks that failed"),
    ("controller_runtime_reconcile_time_seconds", "", "histogram", "controller", "How long a look took"),
    (
        "constellation_nodes",
        "",
        "gauge",
        "namespace, cluster, group, phase",
        "Nodes of a group of a cluster that are in a phase; absent without any",
    ),
    (
        "constellation_cluster_condition",
        "",
        "gauge",
        "namespace, cluster, type, status",
        "1 for the present `status` (`True`, `False` or `Unknown`) of each condition in a cluster's status; absent for others, \
         for conditions that aren't there, and when the cluster is gone",
    ),
    ("constellation_node_phase_duration_seconds", "", "histogram", "phase", "From the moment before it to this phase"),
    (
        "constellation_attestation_verdicts",
        "_total",
        "counter",
        "platform, result",
        "Changes of the last appraisal that nodes' statuses tell of: appraisals between two looks at a node aren't counted, \
         nor is the same evidence twice",
    ),
    (
        "constellation_cloud_requests",
        "_total",
        "counter",
        "provider, operation, code",
        "Calls of a cloud, by what came of them: `ok`, `capacity`, `denied`, `host`, `not-found`, `quota`, `throttled`, `transient` \
         or `unsupported`",
    ),
    (
        "constellation_cloud_request_duration_seconds",
        "",
        "histogram",
        "provider, operation",
        "From sending a call of a cloud to its answer, without the wait for its turn",
    ),
    (
        "constellation_key_service_requests",
        "_total",
        "counter",
        "service, operation, code",
        "What was asked of a key service (`wrap`, `unwrap`, `rewrap`, `version`), by what came of it: `ok`, `denied`, `foreign`, \
         `key`, `throttled` or `transient`",
    ),
    (
        "constellation_key_service_request_duration_seconds",
        "",
        "histogram",
        "service, operation",
        "From asking a key service to its answer",
    ),
    (
        "constellation_collateral_fetches",
        "_total",
        "counter",
        "vendor, outcome",
        "Fetches of what `amd`, `google` or `intel` says about machines, by what came of them: `ok`, or what stood in the \
         way (`absent`, `cut`, `large`, `place`, `proxy`, `redirected`, `slow`, `status`, `throttled`, `unfit`, `unreachable`)",
    ),
    (
        "constellation_collateral_oldest_timestamp_seconds",
        "",
        "gauge",
        "vendor",
        "When the oldest list of `amd` or `intel` that a cluster has was fetched, seconds since 1970; 0 without any",
    ),
];

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::default(),
            leader: Family::default(),
            passes: Family::default(),
            pass_errors: Family::default(),
            // 5 ms to 41 s: a look is some calls; LIMITs end it.
            pass_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.005, 2.0, 14))),
            nodes: Family::default(),
            conditions: Family::default(),
            // 1 s to 34 min: booting in a cloud takes ten, joining without KVM minutes.
            phase_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(1.0, 2.0, 12))),
            verdicts: Family::default(),
            cloud_calls: Family::default(),
            // 10 ms to 41 s: clouds answer in tenths of a second, and rooms give a call up after 30 to 60 s.
            cloud_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.01, 2.0, 13))),
            key_calls: Family::default(),
            // As clouds': they answer in tenths of a second, and are given up after 10 s to a minute.
            key_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.01, 2.0, 13))),
            fetches: Family::default(),
            oldest: Family::default(),
            places: Mutex::default(),
            told: Mutex::default(),
        };
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let [
            leader,
            passes,
            errors,
            seconds,
            nodes,
            conditions,
            phases,
            verdicts,
            calls,
            call_seconds,
            key_calls,
            key_seconds,
            fetches,
            oldest,
        ] = PAGE.map(|(name, _, _, _, help)| (name, help));
        self.registry.register(leader.0, leader.1, self.leader.clone());
        self.registry.register(passes.0, passes.1, self.passes.clone());
        self.registry.register(errors.0, errors.1, self.pass_errors.clone());
        self.registry.register(seconds.0, seconds.1, self.pass_seconds.clone());
        self.registry.register(nodes.0, nodes.1, self.nodes.clone());
        self.registry.register(conditions.0, conditions.1, self.conditions.clone());
        self.registry.register(phases.0, phases.1, self.phase_seconds.clone());
        self.registry.register(verdicts.0, verdicts.1, self.verdicts.clone());
        self.registry.register(calls.0, calls.1, self.cloud_calls.clone());
        self.registry.register(call_seconds.0, call_seconds.1, self.cloud_seconds.clone());
        self.registry.register(key_calls.0, key_calls.1, self.key_calls.clone());
        self.registry.register(key_seconds.0, key_seconds.1, self.key_seconds.clone());
        self.registry.register(fetches.0, fetches.1, self.fetches.clone());
        self.registry.register(oldest.0, oldest.1, self.oldest.clone());
        self.leader.get_or_create(&[("name", crate::lease::NAME.to_owned())]).set(0);
        self
    }

    /// This process leads now.
    pub fn leads(&self) {
        self.leader.get_or_create(&[("name", crate::lease::NAME.to_owned())]).set(1);
    }

    /// Counts and times one look of a controller.
    ///
    /// # Errors
    /// Those of the look.
    pub async fn pass<T>(
        &self,
        controller: &'static str,
        look: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let start = Instant::now();
        let end = look.await;
        let of = [("controller", controller.to_owned())];
        self.pass_seconds.get_or_create(&of).observe(start.elapsed().as_secs_f64());
        let result = if end.is_ok() { "success" } else { "error" };
        if end.is_err() {
            self.pass_errors.get_or_create(&of).inc();
        }
        let [of] = of;
        self.passes.get_or_create(&[of, ("result", result.to_owned())]).inc();
        end
    }

    /// Where a node is now.
    pub fn place(&self, node: &ConfidentialNode, phase: Phase) {
        let place = [
            ("namespace", node.namespace().unwrap_or_default()),
            ("cluster", node.spec.cluster_ref.name.clone()),
            ("group", node.spec.node_group.clone()),
            ("phase", format!("{phase:?}")),
        ];
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let before = places.insert(node.uid().unwrap_or_default(), place.clone());
        if before.as_ref() != Some(&place) {
            self.nodes.get_or_create(&place).inc();
            self.left(before);
        }
    }

    /// A node is gone.
    pub fn gone(&self, uid: &str) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        self.left(places.remove(uid));
    }

    /// For whoever holds the lock of the places.
    fn left(&self, place: Option<Labels<4>>) {
        let Some(place) = place else { return };
        // In a statement of its own: what it gives holds a lock that removing needs.
        let rest = self.nodes.get_or_create(&place).dec();
        if rest == 1 {
            self.nodes.remove(&place);
        }
    }

    /// What a cluster's conditions are now.
    pub fn told(&self, cluster: Whose, conditions: &[Condition]) {
        let (namespace, name) = &cluster;
        let labels = |told: &Condition| {
            [
                ("namespace", namespace.clone()),
                ("cluster", name.clone()),
                ("type", told.type_.clone()),
                ("status", told.status.clone()),
            ]
        };
        let now: Vec<_> = conditions.iter().map(labels).collect();
        let mut all = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for old in all.get(&cluster).into_iter().flatten().filter(|old| !now.contains(old)) {
            self.conditions.remove(old);
        }
        for labels in &now {
            self.conditions.get_or_create(labels).set(1);
        }
        if now.is_empty() {
            all.remove(&cluster)
        } else {
            all.insert(cluster, now)
        };
    }

    /// These clusters are there: of others nothing is told any more.
    pub fn keep(&self, there: &BTreeSet<Whose>) {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<_> = told.keys().filter(|cluster| !there.contains(cluster)).cloned().collect();
        drop(told);
        for cluster in gone {
            self.told(cluster, &[]);
        }
    }

    /// What a written status says that the one before it did not: phases reached, an appraisal.
    pub fn changed(&self, before: &ConfidentialNodeStatus, after: &ConfidentialNodeStatus) {
        for (phase, seconds) in reached(before, after) {
            self.phase_seconds.get_or_create(&[("phase", phase)]).observe(seconds);
        }
        let (old, new) = (before.attestation.as_ref(), after.attestation.as_ref());
        if let Some(new) = new.filter(|new| old.map(|old| &old.evidence_digest) != Some(&new.evidence_digest)) {
            let labels = [("platform", new.platform.clone()), ("result", new.verdict.clone())];
            self.verdicts.get_or_create(&labels).inc();
        }
    }

    /// A call of a cloud is over.
    pub fn called(&self, provider: &'static str, call: &Call) {
        let (provider, operation) = (("provider", provider.to_owned()), ("operation", call.operation.to_owned()));
        self.cloud_seconds.get_or_create(&[provider.clone(), operation.clone()]).observe(call.took.as_secs_f64());
        self.cloud_calls.get_or_create(&[provider, operation, ("code", call.outcome.to_owned())]).inc();
    }

    /// A key service has answered, or didn't.
    pub fn asked(&self, service: &'static str, call: &Call) {
        let (service, operation) = (("service", service.to_owned()), ("operation", call.operation.to_owned()));
        self.key_seconds.get_or_create(&[service.clone(), operation.clone()]).observe(call.took.as_secs_f64());
        self.key_calls.get_or_create(&[service, operation, ("code", call.outcome.to_owned())]).inc();
    }

    /// Something was fetched of a maker, or not.
    pub fn fetched(&self, vendor: &'static str, outcome: &'static str) {
        self.fetches.get_or_create(&[("vendor", vendor.to_owned()), ("outcome", outcome.to_owned())]).inc();
    }

    /// When the oldest of what a maker says was fetched, seconds since 1970.
    pub fn collateral_of(&self, vendor: &'static str, oldest: i64) {
        self.oldest.get_or_create(&[("vendor", vendor.to_owned())]).set(oldest);
    }

    /// Everything, as `OpenMetrics` text.
    ///
    /// # Errors
    /// Never in practice: writing to memory.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Phases that are new in `after`, each with the seconds since the moment before it.
fn reached(before: &ConfidentialNodeStatus, after: &ConfidentialNodeStatus) -> Vec<(String, f64)> {
    let time = |text: &String| text.parse::<Timestamp>().ok();
    let times: Vec<_> = after.phase_times.iter().filter_map(|(phase, text)| Some((phase, time(text)?))).collect();
    let new = times.iter().filter(|(phase, _)| !before.phase_times.contains_key(*phase));
    new.filter_map(|(phase, at)| {
        let earlier = times.iter().filter(|(other, then)| other != phase && then <= at).map(|(_, then)| *then).max()?;
        Some(((*phase).clone(), at.duration_since(earlier).as_secs_f64()))
    })
    .collect()
}

/// The reference page, `docs/reference/metrics.md`.
#[must_use]
pub fn page() -> String {
    let mut page = String::from(
        "# Metrics of the operator\n\n\
         Made by `constellation-operator metrics`; not edited by hand. Served as OpenMetrics at `/metrics` of \
         `--health-address`.\n\n\
         | metric | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    for (name, suffix, kind, labels, help) in PAGE {
        // Writing to memory does not fail.
        let _ = writeln!(page, "| `{name}{suffix}` | {kind} | {labels} | {help}. |");
    }
    page
}

#[cfg(test)]
mod tests {
    use constellation_crds::node::AttestationResult;

    use super::*;

    fn status(times: &[(&str, &str)]) -> ConfidentialNodeStatus {
        let at = |(phase, time): &(&str, &str)| ((*phase).to_owned(), format!("2026-11-23T20:00:{time}Z"));
        ConfidentialNodeStatus { phase_times: times.iter().map(at).collect(), ..ConfidentialNodeStatus::default() }
    }

    fn node(uid: &str, cluster: &str) -> ConfidentialNode {
        let spec = serde_json::json!({
            "clusterRef": {"name": cluster}, "nodeGroup": "workers", "role": "worker", "nodeVersion": "v",
            "versionDigest": "d", "image": "i", "instanceType": "any", "index": 1,
        });
        let mut node = ConfidentialNode::new(uid, serde_json::from_value(spec).unwrap());
        (node.metadata.uid, node.metadata.namespace) = (Some(uid.into()), Some("ns".into()));
        node
    }

    #[test]
    fn a_node_is_counted_once_and_where_it_is() {
        let metrics = Metrics::default();
        let counted = |cluster: &str, phase: &str| {
            let (text, start) = (metrics.text().unwrap(), "constellation_nodes{namespace=\"ns\",cluster=");
            let line = format!("{start}\"{cluster}\",group=\"workers\",phase=\"{phase}\"}} ");
            text.lines().find_map(|found| found.strip_prefix(&line).map(str::to_owned))
        };
        metrics.place(&node("a", "c"), Phase::Booting);
        metrics.place(&node("b", "c"), Phase::Booting);
        metrics.place(&node("d", "other"), Phase::Booting);
        assert_eq!(counted("c", "Booting").as_deref(), Some("2"));
        metrics.place(&node("a", "c"), Phase::Ready);
        metrics.place(&node("a", "c"), Phase::Ready);
        assert_eq!(["Booting", "Ready"].map(|phase| counted("c", phase).unwrap()), ["1", "1"]);
        metrics.gone("b");
        metrics.gone("b");
        assert_eq!(counted("c", "Booting"), None, "nothing is left behind");
        assert_eq!(counted("other", "Booting").as_deref(), Some("1"));
    }

    #[test]
    fn of_each_condition_of_a_cluster_the_present_status_is_told_and_of_one_that_is_gone_nothing() {
        use constellation_crds::condition::{Status, clear, kind, set};
        let metrics = Metrics::default();
        let told = || {
            let text = metrics.text().unwrap();
            let lines = text.lines().filter_map(|line| line.strip_prefix("constellation_cluster_condition{"));
            let mut lines: Vec<_> =
                lines.map(|line| line.replace(['"', '}'], "").replace("namespace=ns,", "")).collect();
            lines.sort();
            lines
        };
        let cluster = |name: &str| ("ns".to_owned(), name.to_owned());
        let mut list = Vec::new();
        let now = Timestamp::UNIX_EPOCH;
        set(&mut list, kind::READY, Status::False, "x", "", None, now);
        set(&mut list, kind::STALLED, Status::True, "x", "", None, now);
        metrics.told(cluster("c"), &list);
        metrics.told(cluster("d"), &list[..1]);
        let of_d = "cluster=d,type=Ready,status=False 1".to_owned();
        let both = ["cluster=c,type=Ready,status=False 1", "cluster=c,type=Stalled,status=True 1", &of_d];
        assert_eq!(told(), both);
        set(&mut list, kind::READY, Status::True, "x", "", None, now);
        clear(&mut list, kind::STALLED);
        metrics.told(cluster("c"), &list);
        assert_eq!(told(), ["cluster=c,type=Ready,status=True 1", &of_d]);
        metrics.keep(&[cluster("d")].into());
        assert_eq!(told(), [of_d]);
        metrics.told(cluster("d"), &[]);
        assert_eq!(told(), Vec::<String>::new());
    }

    #[test]
    fn a_phase_is_timed_once_from_the_one_before_it() {
        let booted = status(&[("Launched", "00"), ("Booted", "07")]);
        let attested = status(&[("Launched", "00"), ("Booted", "07"), ("Attested", "30")]);
        assert_eq!(reached(&booted, &attested), [("Attested".to_owned(), 23.0)]);
        assert_eq!(reached(&attested, &attested), []);
        assert_eq!(reached(&status(&[]), &status(&[("Launched", "00")])), [], "nothing came before it");
    }

    #[test]
    fn an_appraisal_is_counted_once_for_each_evidence() {
        let metrics = Metrics::default();
        let with = |digest: &str| {
            let (platform, verdict) = ("qemu-vtpm".into(), "Accepted".into());
            let evidence_digest = Some(digest.to_owned());
            let attestation = AttestationResult { platform, verdict, evidence_digest, ..AttestationResult::default() };
            ConfidentialNodeStatus { attestation: Some(attestation), ..ConfidentialNodeStatus::default() }
        };
        metrics.changed(&status(&[]), &with("a"));
        metrics.changed(&with("a"), &with("a"));
        metrics.changed(&with("a"), &with("b"));
        let text = metrics.text().unwrap();
        let line = "constellation_attestation_verdicts_total{platform=\"qemu-vtpm\",result=\"Accepted\"} 2\n";
        assert!(text.contains(line), "{text}");
    }

    #[tokio::test]
    async fn looks_are_counted_by_their_end() {
        let metrics = Metrics::default();
        metrics.pass("node", async { Ok(()) }).await.unwrap();
        metrics.pass::<()>("node", async { Err(Error::Time("a test")) }).await.unwrap_err();
        let text = metrics.text().unwrap();
        for line in [
            "controller_runtime_reconcile_total{controller=\"node\",result=\"success\"} 1\n",
            "controller_runtime_reconcile_total{controller=\"node\",result=\"error\"} 1\n",
            "controller_runtime_reconcile_errors_total{controller=\"node\"} 1\n",
            "controller_runtime_reconcile_time_seconds_count{controller=\"node\"} 2\n",
            "leader_election_master_status{name=\"constellation-operator\"} 0\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn calls_of_a_cloud_are_counted_by_their_outcome_and_timed() {
        let metrics = Metrics::default();
        for (outcome, millis) in [("ok", 15), ("ok", 1500), ("throttled", 30)] {
            let took = std::time::Duration::from_millis(millis);
            metrics.called("aws", &Call { operation: "ec2:RunInstances", outcome, took });
        }
        let text = metrics.text().unwrap();
        let labels = "provider=\"aws\",operation=\"ec2:RunInstances\"";
        for line in [
            format!("constellation_cloud_requests_total{{{labels},code=\"ok\"}} 2\n"),
            format!("constellation_cloud_requests_total{{{labels},code=\"throttled\"}} 1\n"),
            format!("constellation_cloud_request_duration_seconds_count{{{labels}}} 3\n"),
            format!("constellation_cloud_request_duration_seconds_bucket{{le=\"0.02\",{labels}}} 1\n"),
        ] {
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn the_page_in_the_docs_is_this_one() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md");
        let there = std::fs::read_to_string(file).unwrap();
        assert_eq!(there, page(), "run `constellation-operator metrics >docs/reference/metrics.md`");
    }
}
