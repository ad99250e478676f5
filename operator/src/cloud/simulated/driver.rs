//! Plays every simulated machine: boots, is appraised, becomes a `Node`, beats, and goes.
//!
//! Level, not edge: each pass looks at the records as they are. What is kept in memory only spares calls; after a
//! restart it is found again.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use constellation_crds::{NodeAdmission, TrustBundle};
use futures::{StreamExt as _, future};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Node},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt as _, reflector, watcher},
};
use serde_json::json;
use tracing::{debug, info};

use super::{
    NAME,
    node::{self, Evidence},
    script::{Behaviour, SCRIPT, Script},
    store::{LABEL_KIND, Record, State, Store, gone, transient},
};
use crate::{cloud::CloudError, watch::watch};

/// Time between two looks at the records, which are in memory.
const TICK: Duration = Duration::from_millis(200);
/// Time between two listings of records and scripts: a cloud knows its machines, whatever was lost on the way.
const RELIST: Duration = Duration::from_secs(10);
/// Time between two looks at the API server for a machine that waits to be admitted.
const LOOK: Duration = Duration::from_millis(500);
/// Time between two knocks of a machine that was refused.
const KNOCK: Duration = Duration::from_secs(2);
/// Taint of a node that was just registered.
const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Time between two heartbeats; a real kubelet's.
const BEAT: Duration = Duration::from_secs(10);

/// What is remembered of a machine between two looks.
#[derive(Default)]
struct Life {
    joined: Option<Joined>,
    next: Option<Instant>,
}

#[derive(Clone)]
struct Joined {
    node: String,
    refused: bool,
}

/// Drives all machines until it is dropped.
pub async fn run(client: Client, store: Store, script: Script) {
    let maps: Api<ConfigMap> = store.scope();
    let (records, write_records) = reflector::store();
    let (scripts, write_scripts) = reflector::store();
    let instances = watcher::Config::default().labels(&format!("{LABEL_KIND}=instance"));
    let watch_records =
        watch(maps.clone(), instances, RELIST).default_backoff().reflect(write_records).for_each(|_| future::ready(()));
    let named = watcher::Config::default().fields(&format!("metadata.name={SCRIPT}"));
    let watch_scripts =
        watch(maps, named, RELIST).default_backoff().reflect(write_scripts).for_each(|_| future::ready(()));
    let drive = async {
        let driver = Driver { client, store, script };
        let mut lives = HashMap::new();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let scripts = scripts.state();
            driver.script.read(scripts.iter().filter_map(|map: &Arc<ConfigMap>| map.data.as_ref()));
            driver.pass(&records.state(), &mut lives).await;
        }
    };
    Box::pin(future::join3(watch_records, watch_scripts, drive)).await;
}

struct Driver {
    client: Client,
    store: Store,
    script: Script,
}

impl Driver {
    async fn pass(&self, maps: &[Arc<ConfigMap>], lives: &mut HashMap<String, Life>) {
        let uids: Vec<_> = maps.iter().filter_map(|map| map.uid()).collect();
        lives.retain(|uid, _| uids.contains(uid));
        for map in maps {
            let (Some(record), Some(uid)) = (Record::of(map), map.uid()) else { continue };
            let life = lives.entry(uid).or_default();
            if let Err(error) = self.step(map, &record, life).await {
                debug!(node = %record.name, %error, "Simulated machine will try again");
            }
        }
    }

    async fn step(&self, map: &ConfigMap, record: &Record, life: &mut Life) -> Result<(), CloudError> {
        if self.script.applies(Behaviour::Vanish, &record.name) {
            info!(node = %record.name, "Simulated machine vanishes");
            self.silence(record).await?;
            return self.store.forget(map).await;
        }
        match record.state {
            State::Terminating => {
                self.delete_node(record).await?;
                self.store.forget(map).await
            }
            State::Failed => Ok(()),
            State::Running if self.script.applies(Behaviour::Fail, &record.name) => {
                self.silence(record).await?;
                let message = Some("the script says so".to_owned());
                self.store.write(map, &Record { state: State::Failed, message, ..record.clone() }).await
            }
            State::Running => self.live(record, life).await,
        }
    }

    async fn live(&self, record: &Record, life: &mut Life) -> Result<(), CloudError> {
        let boot = record.boot_seconds.saturating_add(self.script.extra_boot_seconds(&record.name));
        if Timestamp::now() < record.launched_at + SignedDuration::from_secs(i64::from(boot)) {
            return Ok(());
        }
        let broken = self.script.applies(Behaviour::BrokenEvidence, &record.name);
        let now = Instant::now();
        let must_tell = life.joined.as_ref().is_some_and(|joined| joined.refused != broken);
        if !must_tell && life.next.is_some_and(|next| now < next) {
            return Ok(());
        }
        life.next = Some(now + LOOK);
        match life.joined.clone() {
            Some(joined) if joined.refused == broken => {
                life.next = Some(now + BEAT);
                self.beat(&joined.node).await
            }
            _ => {
                let evidence = if broken { Evidence::Broken } else { Evidence::Whole };
                match self.knock(record, evidence).await? {
                    Knock::NotExpected => {}
                    Knock::Refused if life.joined.is_none() => life.next = Some(now + KNOCK),
                    Knock::Refused => life.joined.iter_mut().for_each(|joined| joined.refused = true),
                    Knock::Admitted(node) => life.joined = Some(Joined { node, refused: false }),
                }
                Ok(())
            }
        }
    }

    /// One conversation with the verifier, and the join when it went well.
    async fn knock(&self, record: &Record, evidence: Evidence) -> Result<Knock, CloudError> {
        let admissions: Api<NodeAdmission> = self.store.scope();
        let named = ListParams::default().fields(&format!("metadata.name={}", record.node));
        let Some(admission) = admissions.list(&named).await.map_err(transient)?.items.pop() else {
            return Ok(Knock::NotExpected);
        };
        let namespace = admission.namespace().unwrap_or_default();
        let bundles: Api<TrustBundle> = Api::namespaced(self.client.clone(), &namespace);
        let bundles = bundles.list(&ListParams::default()).await.map_err(transient)?.items;
        let Some(policy) = node::policy(record, &bundles) else { return Ok(Knock::NotExpected) };

        let now = Timestamp::now();
        let result = node::appraise(record, evidence, &admission, &policy, now);
        let accepted = node::accepted(&result);
        if node::news(admission.status.as_ref().and_then(|s| s.last_appraisal.as_ref()), &result) {
            let status = node::status(record, admission.status.as_ref(), result, now);
            let patch = json!({"metadata": {"resourceVersion": admission.metadata.resource_version}, "status": status});
            let api: Api<NodeAdmission> = Api::namespaced(self.client.clone(), &namespace);
            // The whole status is given; what it lacks (a refusal's set, an acceptance's mismatches) must go.
            let whole = with_nulls(patch, admission.status.is_some());
            api.patch_status(&record.node, &PatchParams::default(), &Patch::Merge(whole)).await.map_err(transient)?;
            info!(node = %record.name, accepted, "Appraised simulated machine");
        }
        if !accepted {
            return Ok(Knock::Refused);
        }
        self.register(record, &admission, now).await?;
        Ok(Knock::Admitted(admission.spec.node_name))
    }

    /// Plays the kubelet's registration; a `Node` of that name that is there stays.
    async fn register(&self, record: &Record, admission: &NodeAdmission, now: Timestamp) -> Result<(), CloudError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let found = nodes.get_opt(&admission.spec.node_name).await.map_err(transient)?;
        let there = if let Some(node) = found {
            node
        } else {
            // Whoever is quicker leaves this to the next knock.
            let fresh = node::kube_node(record, admission, now);
            nodes.create(&PostParams::default(), &fresh).await.map_err(transient)?
        };
        // The API server taints each new node as not ready, and no controller is there to take that back.
        let mut taints = there.spec.and_then(|spec| spec.taints).unwrap_or_default();
        let all = taints.len();
        taints.retain(|taint| taint.key != NOT_READY);
        let name = &admission.spec.node_name;
        if taints.len() != all {
            let body = json!({
                "metadata": {"resourceVersion": there.metadata.resource_version}, "spec": {"taints": taints}
            });
            nodes.patch(name, &PatchParams::default(), &Patch::Merge(body)).await.map(drop).map_err(transient)?;
        }
        self.beat(name).await
    }

    /// A heartbeat, as kubelets send it.
    async fn beat(&self, node: &str) -> Result<(), CloudError> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        let renewed = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node},
            "spec": {"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": renewed}
        });
        let params = PatchParams::apply("simulated-kubelet").force();
        leases.patch(node, &params, &Patch::Apply(lease)).await.map(drop).map_err(transient)
    }

    /// What a node controller does when heartbeats stop, without the forty seconds.
    async fn silence(&self, record: &Record) -> Result<(), CloudError> {
        let Some(node) = self.node_of(record).await? else { return Ok(()) };
        let since = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let patch = json!({"status": {"conditions": [{
            "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
            "message": "Kubelet stopped posting node status.", "lastTransitionTime": since
        }]}});
        let nodes: Api<Node> = Api::all(self.client.clone());
        gone(nodes.patch_status(&node.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop))
            .map(drop)
    }

    async fn delete_node(&self, record: &Record) -> Result<(), CloudError> {
        let Some(node) = self.node_of(record).await? else { return Ok(()) };
        let name = node.name_any();
        let nodes: Api<Node> = Api::all(self.client.clone());
        gone(nodes.delete(&name, &DeleteParams::default()).await.map(drop))?;
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        gone(leases.delete(&name, &DeleteParams::default()).await.map(drop)).map(drop)
    }

    /// The `Node` of a machine; another machine's of the same name is not touched.
    async fn node_of(&self, record: &Record) -> Result<Option<Node>, CloudError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let id = format!("{NAME}://{}", record.node);
        let node = nodes.get_opt(&record.name).await.map_err(transient)?;
        Ok(node.filter(|node| node.spec.as_ref().and_then(|spec| spec.provider_id.as_ref()) == Some(&id)))
    }
}

enum Knock {
    /// Nobody has said yet that this machine may come.
    NotExpected,
    Refused,
    /// It may join as the node of this name.
    Admitted(String),
}

/// A merge patch leaves out what it does not name, so what the new appraisal lacks is named and set to null.
fn with_nulls(mut patch: serde_json::Value, there: bool) -> serde_json::Value {
    if there && let Some(result) = patch.pointer_mut("/status/lastAppraisal").and_then(|r| r.as_object_mut()) {
        for key in ["measurementSet", "refusalId", "mismatches"] {
            result.entry(key).or_insert(serde_json::Value::Null);
        }
    }
    patch
}
