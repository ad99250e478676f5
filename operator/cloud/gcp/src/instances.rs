//! Instances: launched once per node, found by label, deleted until not found.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use constellation_cloud::{CloudError, ClusterUid, Instance, InstanceId, InstanceState, LaunchRequest, NodeUid};
use google_cloud_compute_v1::model::{Operation, instance::Status as VmStatus, operation::Status};
use tokio::time::Instant;

use crate::{
    GcpCloud,
    api::{Progress, Scope},
    bodies,
    convert::{self, Names},
    error::{self, Refused},
};

const DELETE: &str = "compute.instances.delete";
const GET: &str = "compute.instances.get";
const INSERT: &str = "compute.instances.insert";

/// What this process knows beyond the lists. Losing it costs calls, nothing else.
#[derive(Default)]
pub(crate) struct Launches {
    /// Inserts and deletes whose end wasn't seen.
    open: Mutex<BTreeMap<NodeUid, Open>>,
    /// What each cluster was last shown. Held while looking, so that nodes that ask at once look once.
    lists: tokio::sync::Mutex<BTreeMap<ClusterUid, List>>,
}

#[derive(Clone, Debug, Default)]
struct Open {
    cluster: Option<ClusterUid>,
    zone: String,
    attempt: u32,
    insert: Option<String>,
    delete: Option<String>,
    /// How the insert failed after the call that sent it was over.
    failed: Option<String>,
}

#[derive(Default)]
struct List {
    /// When the list was asked for that shows it.
    at: Option<Instant>,
    items: Vec<Listed>,
    /// When this process last changed something; lists from before it don't count.
    changed: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Listed {
    instance: Instance,
    external: Option<IpAddr>,
    shown: Shown,
}

/// How the cloud shows an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// Its insert may still fail.
    Booting,
    /// It exists.
    Settled,
    /// Not at all: it is known from its operation only.
    Unlisted,
}

impl Launches {
    fn with<T>(&self, change: impl FnOnce(&mut BTreeMap<NodeUid, Open>) -> T) -> T {
        change(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what the cluster is shown, so that what this process does is seen before the next list.
    async fn edit(&self, cluster: &ClusterUid, change: impl FnOnce(&mut Vec<Listed>)) {
        let mut lists = self.lists.lock().await;
        let list = lists.entry(cluster.clone()).or_default();
        list.changed = Some(Instant::now());
        change(&mut list.items);
    }
}

impl GcpCloud {
    /// Launches a node's VM; a repeated call leads to the same one.
    pub(crate) async fn launch_instance(&self, names: &Names, request: &LaunchRequest) -> Result<Instance, CloudError> {
        let listed = self.listed(names).await?;
        let failed = |found: &Listed| found.shown == Shown::Unlisted && found.instance.state == InstanceState::Failed;
        let of_node = |found: &Listed| found.instance.node == request.node;
        if let Some(found) = listed.into_iter().find(|found| of_node(found) && !failed(found)) {
            return Ok(found.instance);
        }
        let before = self.launches.with(|open| open.get(&request.node).cloned()).unwrap_or_default();
        // A failed attempt is spent: its request id names a finished operation.
        let mut attempt = before.attempt + u32::from(before.failed.is_some());
        let zones = if request.zone.is_some() { 1 } else { self.settings.zones.len() };
        let mut failure = CloudError::Unsupported("no zone is set".into());
        for _ in 0..zones {
            match self.attempt(names, request, attempt).await {
                Ok(instance) => {
                    self.launches
                        .edit(&names.cluster, |items| {
                            items.retain(|item| item.instance.node != instance.node);
                            items.push(Listed { instance: instance.clone(), external: None, shown: Shown::Booting });
                        })
                        .await;
                    return Ok(instance);
                }
                Err(Attempt::Refused(error)) => return Err(error),
                Err(Attempt::Failed(error)) => {
                    attempt += 1;
                    let next = Open { cluster: Some(names.cluster.clone()), attempt, ..Open::default() };
                    self.launches.with(|open| open.insert(request.node.clone(), next));
                    let elsewhere = matches!(error, CloudError::Capacity(_) | CloudError::NotFound(_));
                    failure = error;
                    if !elsewhere {
                        break;
                    }
                }
            }
        }
        Err(match failure {
            CloudError::NotFound(text) => CloudError::Transient(text),
            other => other,
        })
    }

    async fn attempt(&self, names: &Names, request: &LaunchRequest, attempt: u32) -> Result<Instance, Attempt> {
        let zone = convert::zone(&self.settings, request, attempt)?;
        let name = convert::instance_name(&request.node)?;
        let body = bodies::instance(names, &self.settings, request, &zone)?;
        let insert = self.api.instances.insert().set_project(&self.api.project).set_zone(&zone).set_body(body);
        let insert = insert.set_request_id(convert::request_id(&request.node, attempt));
        let sent = self.api.ask(INSERT, insert.send()).await;
        let operation = match sent {
            Ok(operation) => operation,
            Err(refused) if refused.exists() => return self.taken(names, request, &zone, &name).await,
            // What is missing here is the network or the image, not the instance.
            Err(refused) if refused.missing() => {
                return Err(Attempt::Refused(CloudError::Unsupported(CloudError::from(refused).to_string())));
            }
            Err(refused) => return Err(Attempt::from_call(refused.into())),
        };
        if operation.name.is_none() {
            return Err(Attempt::Refused(CloudError::Transient(format!("{INSERT} was answered without a name"))));
        }
        let open = Open {
            cluster: Some(names.cluster.clone()),
            zone: zone.clone(),
            attempt,
            insert: operation.name.clone(),
            ..Open::default()
        };
        self.launches.with(|all| all.insert(request.node.clone(), open));
        let scope = Scope::Zone(zone.clone());
        let pending = Instance {
            id: names.id(&zone, &name),
            node: request.node.clone(),
            address: None,
            state: InstanceState::Running,
            message: None,
        };
        // Done at once is the end of an earlier call with this id, whose instance may have been removed meanwhile.
        let repeated = operation.status == Some(Status::Done);
        match self.finished(&scope, operation).await? {
            Progress::Done if repeated => match self.get(names, &zone, &name).await? {
                Some(found) => Ok(found.instance),
                None => Err(Attempt::Failed(CloudError::NotFound(format!("instance {name} is gone again")))),
            },
            Progress::Done | Progress::Running { .. } => Ok(pending),
        }
    }

    /// Waits a little; a failure of the operation is told apart from one of looking at it.
    async fn finished(&self, scope: &Scope, operation: Operation) -> Result<Progress, Attempt> {
        let name = operation.name.clone().unwrap_or_default();
        match self.api.wait(scope, operation, self.settings.pace.launch).await {
            Ok(progress) => Ok(progress),
            Err(error) => match self.api.look(scope, &name).await {
                Ok(Some(now)) if now.status == Some(Status::Done) => {
                    Err(error::operation(&now).map_or(Attempt::Refused(error), Attempt::Failed))
                }
                _ => Ok(Progress::Running { operation: name }),
            },
        }
    }

    /// The name is taken: by this node's own VM, or by something that is not ours.
    async fn taken(&self, names: &Names, request: &LaunchRequest, zone: &str, name: &str) -> Result<Instance, Attempt> {
        match self.get(names, zone, name).await? {
            Some(found) if found.instance.node == request.node => Ok(found.instance),
            Some(_) | None => Err(Attempt::Refused(CloudError::Transient(format!(
                "the name {name} is taken in zone {zone} by an instance that is not this node's"
            )))),
        }
    }

    /// The cluster's instances.
    pub(crate) async fn instances(&self, names: &Names) -> Result<Vec<Instance>, CloudError> {
        Ok(self.listed(names).await?.into_iter().map(|listed| listed.instance).collect())
    }

    /// The external address of the node that has an internal one.
    pub(crate) async fn external_address(&self, names: &Names, address: IpAddr) -> Result<IpAddr, CloudError> {
        let listed = self.listed(names).await?;
        let found = listed.iter().find(|listed| listed.instance.address == Some(address));
        found.and_then(|listed| listed.external).ok_or_else(|| {
            CloudError::Transient(format!(
                "no node of cluster {} has {address} and an external address",
                names.cluster.0
            ))
        })
    }

    /// What the cluster is shown, renewed when it is too old.
    async fn listed(&self, names: &Names) -> Result<Vec<Listed>, CloudError> {
        let mut lists = self.launches.lists.lock().await;
        let list = lists.get(&names.cluster);
        let young = |list: &&List| list.at.is_some_and(|at| at.elapsed() < self.settings.pace.list);
        if let Some(list) = list.filter(young) {
            return Ok(list.items.clone());
        }
        let all = self.everything(list.and_then(|list| list.changed)).await?;
        let own = all.instances.iter().filter(|instance| names.own(instance));
        let mut items: Vec<_> = own.filter_map(|instance| listed(names, instance)).collect();
        let seen = |node: &NodeUid| items.iter().any(|item| item.instance.node == *node);
        let open: Vec<_> = self.launches.with(|all| {
            let of_cluster = |entry: &(&NodeUid, &Open)| entry.1.cluster.as_ref() == Some(&names.cluster);
            all.iter().filter(of_cluster).map(|(node, open)| (node.clone(), open.clone())).collect()
        });
        let (seen, unseen): (Vec<_>, Vec<_>) = open.into_iter().partition(|(node, _)| seen(node));
        self.launches.with(|all| {
            for (node, open) in seen.iter().filter(|(_, open)| open.delete.is_none()) {
                let settled = items.iter().any(|item| item.instance.node == *node && item.shown == Shown::Settled);
                if settled && all.get(node).is_some_and(|now| now.insert == open.insert) {
                    all.remove(node);
                }
            }
        });
        for (node, open) in unseen {
            items.extend(self.unlisted(names, &node, &open).await?);
        }
        lists.insert(names.cluster.clone(), List { at: Some(all.at), items: items.clone(), changed: None });
        Ok(items)
    }

    /// A launch of ours that no list shows: not yet, not any more, or never.
    async fn unlisted(&self, names: &Names, node: &NodeUid, open: &Open) -> Result<Option<Listed>, CloudError> {
        let name = convert::instance_name(node)?;
        let told = |state, message| {
            let id = names.id(&open.zone, &name);
            let instance = Instance { id, node: node.clone(), address: None, state, message };
            Some(Listed { instance, external: None, shown: Shown::Unlisted })
        };
        if let Some(failed) = &open.failed {
            return Ok(told(InstanceState::Failed, Some(failed.clone())));
        }
        let Some(insert) = &open.insert else { return Ok(None) };
        match self.api.look(&Scope::Zone(open.zone.clone()), insert).await? {
            Some(operation) if operation.status != Some(Status::Done) => Ok(told(InstanceState::Running, None)),
            Some(operation) => match error::operation(&operation) {
                Some(error) => {
                    let failed = Some(error.to_string());
                    self.launches.with(|all| {
                        if let Some(entry) = all.get_mut(node) {
                            entry.failed.clone_from(&failed);
                        }
                    });
                    Ok(told(InstanceState::Failed, failed))
                }
                None => self.get(names, &open.zone, &name).await,
            },
            None => self.get(names, &open.zone, &name).await,
        }
    }

    async fn get(&self, names: &Names, zone: &str, name: &str) -> Result<Option<Listed>, CloudError> {
        let get = self.api.instances.get().set_project(&self.api.project).set_zone(zone).set_instance(name);
        let found = Refused::or_missing(self.api.ask(GET, get.send()).await)?;
        if found.as_ref().is_some_and(|found| found.name.as_deref() != Some(name)) {
            return Err(CloudError::Transient(format!("{GET} of {name} was answered with another instance")));
        }
        Ok(found.filter(|found| names.own(found)).and_then(|found| listed(names, &found)))
    }

    /// Deletes an instance of the cluster; not found when it is gone.
    pub(crate) async fn terminate_instance(&self, names: &Names, id: &InstanceId) -> Result<(), CloudError> {
        let (zone, name) = names.place(id)?;
        let node = convert::node_of(&name).unwrap_or_else(|| NodeUid(String::new()));
        let open = self.launches.with(|all| all.get(&node).cloned()).unwrap_or_default();
        let open = if open.cluster.as_ref() == Some(&names.cluster) { open } else { Open::default() };
        let scope = Scope::Zone(zone.clone());
        if let Some(delete) = &open.delete {
            match self.api.look(&scope, delete).await? {
                Some(operation) if operation.status != Some(Status::Done) => return Ok(()),
                Some(operation) => {
                    self.launches.with(|all| all.get_mut(&node).map(|open| open.delete = None));
                    error::operation(&operation).map_or(Ok(()), Err)?;
                }
                None => {}
            }
        }
        if self.get(names, &zone, &name).await?.is_none() {
            return self.vanished(names, &node, id, &scope, &open).await;
        }
        let delete = self.api.instances.delete().set_project(&self.api.project).set_zone(&zone).set_instance(&name);
        let operation = match self.api.ask(DELETE, delete.send()).await {
            Ok(operation) => operation,
            Err(refused) if refused.missing() => return self.vanished(names, &node, id, &scope, &open).await,
            Err(refused) => {
                return match CloudError::from(&refused) {
                    // It is being made or deleted; asked again at the next pass.
                    CloudError::Transient(_) if refused.answered() => Ok(()),
                    other => Err(other),
                };
            }
        };
        self.launches.with(|all| {
            let entry = all.entry(node.clone()).or_default();
            entry.cluster = Some(names.cluster.clone());
            entry.zone = zone;
            entry.delete = operation.name;
        });
        self.launches
            .edit(&names.cluster, |items| {
                for item in items.iter_mut().filter(|item| item.instance.id == *id) {
                    item.instance.state = InstanceState::Terminating;
                }
            })
            .await;
        Ok(())
    }

    /// Not there: gone for good, unless its insert still runs.
    async fn vanished(
        &self,
        names: &Names,
        node: &NodeUid,
        id: &InstanceId,
        scope: &Scope,
        open: &Open,
    ) -> Result<(), CloudError> {
        if let (Some(insert), None) = (&open.insert, &open.failed) {
            let now = self.api.look(scope, insert).await?;
            if now.is_some_and(|operation| operation.status != Some(Status::Done)) {
                return Ok(());
            }
        }
        if open.cluster.is_some() {
            self.launches.with(|all| all.remove(node));
        }
        self.launches.edit(&names.cluster, |items| items.retain(|item| item.instance.id != *id)).await;
        Err(CloudError::NotFound(format!("instance {}", id.0)))
    }
}

/// How an attempt did not lead to an instance.
enum Attempt {
    /// It ran and failed: the next has another request id.
    Failed(CloudError),
    /// It was not taken: the same attempt is made again.
    Refused(CloudError),
}

impl Attempt {
    /// A call that Google answered; capacity is told at once for some machine types.
    fn from_call(error: CloudError) -> Self {
        if matches!(error, CloudError::Capacity(_)) { Self::Failed(error) } else { Self::Refused(error) }
    }
}

impl From<CloudError> for Attempt {
    fn from(error: CloudError) -> Self {
        Self::Refused(error)
    }
}

fn listed(names: &Names, found: &google_cloud_compute_v1::model::Instance) -> Option<Listed> {
    let instance = convert::instance(names, found);
    if instance.is_none() {
        tracing::warn!(name = found.name, "An instance with the cluster's labels is no node's by name and label");
    }
    let access = found.network_interfaces.first().and_then(|nic| nic.access_configs.first());
    let external = access.and_then(|access| access.nat_ip.as_deref()?.parse().ok());
    let booting = matches!(found.status, Some(VmStatus::Pending | VmStatus::Provisioning | VmStatus::Staging));
    let shown = if booting { Shown::Booting } else { Shown::Settled };
    instance.map(|instance| Listed { instance, external, shown })
}
