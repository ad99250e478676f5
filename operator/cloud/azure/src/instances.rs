//! VMs: put once per node, found by tag, deleted until not found.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Bound,
    sync::{Mutex as SyncMutex, PoisonError},
};

use constellation_cloud::{CloudError, ClusterUid, Instance, InstanceId, InstanceState, LaunchRequest, NodeUid};
use serde_json::Value;
use tokio::{sync::Mutex, time::Instant};

use crate::{
    AzureCloud,
    arm::Progress,
    bodies,
    convert::{self, COMPUTE, NETWORK, Names},
};

/// The last list of each cluster. Held while listing, so that nodes that ask at once share one list.
#[derive(Default)]
pub(crate) struct Lists(Mutex<BTreeMap<ClusterUid, List>>);

struct List {
    at: Instant,
    items: Vec<Instance>,
    /// Launched by this process, and in no list yet: lists may be late.
    unseen: BTreeSet<NodeUid>,
    known: Known,
}

/// What lists of VMs don't say, by `vmId`, which is of one VM only.
#[derive(Clone, Default)]
struct Known {
    /// An interface keeps its address as long as it has that VM.
    addresses: BTreeMap<String, IpAddr>,
    /// Instance views as they were seen last.
    views: BTreeMap<String, Value>,
    /// Whose view was looked at last, of those that have nothing special about them.
    turn: String,
}

/// Zones that had no capacity for a node, and the failed VMs that were removed for that: of launches that go on.
#[derive(Default)]
pub(crate) struct Attempts(SyncMutex<BTreeMap<NodeUid, Attempt>>);

#[derive(Default)]
struct Attempt {
    full: BTreeSet<Option<String>>,
    /// `vmId`s. While Azure removes them, the node has no VM: it waits for the next zone.
    removed: BTreeSet<String>,
}

impl Attempts {
    fn all<T>(&self, look: impl FnOnce(&mut BTreeMap<NodeUid, Attempt>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_full(&self, node: &NodeUid, zone: Option<&str>) -> bool {
        self.all(|all| all.get(node).is_some_and(|one| one.full.contains(&zone.map(str::to_owned))))
    }

    fn removes(&self, vm: &Value) -> bool {
        vm["properties"]["provisioningState"] == "Deleting"
            && vm_id(vm).is_some_and(|id| self.all(|all| all.values().any(|one| one.removed.contains(&id))))
    }
}

impl Lists {
    /// Changes a shared list, so that what this process does is seen before the next list.
    async fn edit(&self, cluster: &ClusterUid, change: impl FnOnce(&mut List)) {
        if let Some(list) = self.0.lock().await.get_mut(cluster) {
            change(list);
        }
    }
}

impl AzureCloud {
    /// Launches a node's VM; a repeated call leads to the same one, as its name is the token.
    pub(crate) async fn launch_instance(&self, names: &Names, request: &LaunchRequest) -> Result<Instance, CloudError> {
        let name = convert::vm_name(&request.node)?;
        let known = self.instances(names).await?.into_iter().find(|found| found.node == request.node);
        let going = || CloudError::Transient(format!("VM {name} of an earlier attempt is still there"));
        let mut failed_before = match known {
            Some(found) if found.state == InstanceState::Running => return Ok(found),
            Some(found) if found.state == InstanceState::Terminating => return Err(going()),
            Some(_) => true,
            None => false,
        };
        let mut failure = CloudError::Unsupported("no zone is set".into());
        for zone in convert::zones(&self.settings, request)? {
            if self.attempts.is_full(&request.node, zone.as_deref()) {
                failure = CloudError::Capacity(format!("zone {} had none a moment ago", zone.unwrap_or_default()));
                continue;
            }
            // A failed VM keeps its name, its zone and its disks: nothing can be put there before it is gone.
            if failed_before && !self.cleared(names, &request.node, &name).await? {
                return Err(going());
            }
            match self.attempt(names, request, &name, zone.as_deref()).await {
                Ok(instance) if instance.state == InstanceState::Terminating => return Err(going()),
                Ok(instance) => {
                    self.attempts.all(|all| all.remove(&request.node));
                    self.lists
                        .edit(&names.cluster, |list| {
                            list.items.retain(|item| item.node != instance.node);
                            list.items.push(instance.clone());
                            list.unseen.insert(instance.node.clone());
                        })
                        .await;
                    return Ok(instance);
                }
                Err(error @ CloudError::Capacity(_)) => {
                    self.attempts.all(|all| all.entry(request.node.clone()).or_default().full.insert(zone));
                    (failure, failed_before) = (error, true);
                }
                Err(error) => return Err(error),
            }
        }
        // The next launch begins with the first zone again.
        self.attempts.all(|all| all.remove(&request.node));
        Err(failure)
    }

    async fn attempt(
        &self,
        names: &Names,
        request: &LaunchRequest,
        name: &str,
        zone: Option<&str>,
    ) -> Result<Instance, CloudError> {
        let body = bodies::vm(names, &self.settings, request, zone)?;
        let sent = self.arm.create(&names.vm(name), COMPUTE, &body).await.map_err(|error| match error {
            CloudError::NotFound(text) => CloudError::Unsupported(format!("network or image is missing: {text}")),
            other => other,
        })?;
        let Some(reply) = sent else { return self.taken(names, request, name).await };
        match self.arm.wait(&reply, self.settings.pace.launch).await {
            Ok(Progress::Failed(error)) => Err(error),
            // A look that failed is no failure of the launch.
            Ok(Progress::Done | Progress::Running) | Err(_) => Ok(Instance {
                id: names.id(name),
                node: request.node.clone(),
                address: None,
                state: InstanceState::Running,
                message: None,
            }),
        }
    }

    /// The name is taken: by this node's own VM, or by something that is not ours.
    async fn taken(&self, names: &Names, request: &LaunchRequest, name: &str) -> Result<Instance, CloudError> {
        let found = self.get(names, name).await?;
        let found = found.ok_or_else(|| CloudError::Transient(format!("VM {name} went away meanwhile")))?;
        let instance = convert::instance(names, &found, None).filter(|instance| instance.node == request.node);
        instance
            .filter(|_| names.own(&found))
            .ok_or_else(|| CloudError::Unsupported(format!("VM {name} exists and is not ours: remove it")))
    }

    /// Removes what an attempt left and waits a little; says whether the name is free.
    async fn cleared(&self, names: &Names, node: &NodeUid, name: &str) -> Result<bool, CloudError> {
        let Some(failed) = self.get(names, name).await? else { return Ok(true) };
        if !names.own(&failed)
            || !["Failed", "Canceled"].iter().any(|end| failed["properties"]["provisioningState"] == *end)
        {
            return Ok(false);
        }
        if let Some(id) = vm_id(&failed) {
            self.attempts.all(|all| all.entry(node.clone()).or_default().removed.insert(id));
        }
        match self.arm.delete(&names.vm(name), &[("api-version", COMPUTE)]).await {
            Ok(reply) => match self.arm.wait(&reply, self.settings.pace.launch).await? {
                Progress::Done => Ok(true),
                Progress::Failed(error) => Err(error),
                Progress::Running => Ok(false),
            },
            Err(CloudError::NotFound(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The cluster's VMs, from the shared list, renewed when it is too old.
    pub(crate) async fn instances(&self, names: &Names) -> Result<Vec<Instance>, CloudError> {
        let mut lists = self.lists.0.lock().await;
        if let Some(list) = lists.get(&names.cluster).filter(|list| list.at.elapsed() < self.settings.pace.list) {
            return Ok(list.items.clone());
        }
        let at = Instant::now();
        let (mut unseen, mut known) =
            lists.get(&names.cluster).map(|list| (list.unseen.clone(), list.known.clone())).unwrap_or_default();
        let mut items = self.list(names, &mut known).await?;
        unseen.retain(|node| items.iter().all(|item| item.node != *node));
        for node in unseen.clone() {
            // By its name a VM is found at once.
            let found = self.get(names, &convert::vm_name(&node)?).await?.filter(|found| names.own(found));
            match found.and_then(|found| convert::instance(names, &found, None)) {
                Some(instance) => items.push(instance),
                None => drop(unseen.remove(&node)),
            }
        }
        lists.insert(names.cluster.clone(), List { at, items: items.clone(), unseen, known });
        Ok(items)
    }

    /// Lists VMs, looks into some, and lists interfaces if there is a VM whose address isn't known.
    async fn list(&self, names: &Names, known: &mut Known) -> Result<Vec<Instance>, CloudError> {
        let vms = match self.arm.list(&names.vm(""), &[("api-version", COMPUTE)]).await {
            Ok(vms) => vms,
            // There is no group, so there is nothing in it.
            Err(CloudError::NotFound(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut vms: Vec<_> = vms.into_iter().filter(|vm| names.own(vm) && !self.attempts.removes(vm)).collect();
        let ids: BTreeSet<_> = vms.iter().filter_map(vm_id).collect();
        known.addresses.retain(|id, _| ids.contains(id));
        known.views.retain(|id, _| ids.contains(id));
        self.look_into(names, &mut vms, known).await?;
        if ids.iter().any(|id| !known.addresses.contains_key(id)) {
            self.find_addresses(names, &vms, known).await?;
        }
        let address = |vm: &Value| known.addresses.get(&vm_id(vm)?).copied();
        Ok(vms.iter().filter_map(|vm| convert::instance(names, vm, address(vm))).collect())
    }

    /// Gives VMs their instance views, which a list can't have: "can only be specified if a valid $filter option is
    /// specified" (Virtual Machines - List, `$expand`). Of those that failed or were stopped now, of one of the others in
    /// turn, else as seen last.
    async fn look_into(&self, names: &Names, vms: &mut [Value], known: &mut Known) -> Result<(), CloudError> {
        let fine =
            |vm: &Value| convert::instance(names, vm, None).is_some_and(|one| one.state != InstanceState::Failed);
        for vm in vms.iter_mut() {
            if let Some(view) = vm_id(vm).and_then(|id| known.views.get(&id)) {
                vm["properties"]["instanceView"] = view.clone();
            }
        }
        let calm: BTreeSet<_> = vms.iter().filter(|vm| fine(vm)).filter_map(vm_id).collect();
        let next = calm.range::<String, _>((Bound::Excluded(&known.turn), Bound::Unbounded)).next().or(calm.first());
        known.turn = next.cloned().unwrap_or_default();
        for vm in vms {
            let Some(id) = vm_id(vm).filter(|id| *id == known.turn || !calm.contains(id)) else { continue };
            let Some(name) = vm["name"].as_str() else { continue };
            let Some(found) = self.get(names, name).await? else { continue };
            if vm_id(&found).as_ref() == Some(&id) {
                known.views.insert(id, found["properties"]["instanceView"].clone());
                *vm = found;
            }
        }
        Ok(())
    }

    async fn find_addresses(&self, names: &Names, vms: &[Value], known: &mut Known) -> Result<(), CloudError> {
        let interfaces = self.interfaces(names).await?;
        let address = |vm: &Value| -> Option<IpAddr> {
            let id = vm["id"].as_str()?;
            let its = |nic: &&Value| {
                nic["properties"]["virtualMachine"]["id"].as_str().is_some_and(|owner| convert::same_id(owner, id))
            };
            first_ip(interfaces.iter().find(its)?)["privateIPAddress"].as_str()?.parse().ok()
        };
        known.addresses.extend(vms.iter().filter_map(|vm| Some((vm_id(vm)?, address(vm)?))));
        Ok(())
    }

    async fn interfaces(&self, names: &Names) -> Result<Vec<Value>, CloudError> {
        self.arm.list(&names.network("networkInterfaces", ""), &[("api-version", NETWORK)]).await
    }

    /// The public address of the node that has a private one.
    pub(crate) async fn external_address(&self, names: &Names, address: IpAddr) -> Result<IpAddr, CloudError> {
        let text = address.to_string();
        let none =
            || CloudError::Transient(format!("no node of cluster {} has {text} and a public address", names.cluster.0));
        let interfaces = self.interfaces(names).await?;
        let nic = interfaces.iter().filter(|nic| names.own(nic));
        let nic = nic.map(first_ip).find(|ip| ip["privateIPAddress"] == text.as_str()).ok_or_else(none)?;
        let id = nic["publicIPAddress"]["id"].as_str().ok_or_else(none)?;
        let found = self.arm.get(id, &[("api-version", NETWORK)]).await?.ok_or_else(none)?;
        found["properties"]["ipAddress"].as_str().and_then(|ip| ip.parse().ok()).ok_or_else(none)
    }

    /// The private address of a VM, from its interface.
    pub(crate) async fn private_address(&self, names: &Names, name: &str) -> Result<Option<String>, CloudError> {
        let path = names.network("networkInterfaces", &bodies::interface_name(name));
        let found = self.arm.get(&path, &[("api-version", NETWORK)]).await?.filter(|found| names.own(found));
        Ok(found.and_then(|nic| first_ip(&nic)["privateIPAddress"].as_str().map(str::to_owned)))
    }

    /// A VM with its instance view.
    async fn get(&self, names: &Names, name: &str) -> Result<Option<Value>, CloudError> {
        self.arm.get(&names.vm(name), &[("api-version", COMPUTE), ("$expand", "instanceView")]).await
    }

    /// Deletes a VM of the cluster; not found when it is gone. Its interface, address and disks go with it.
    pub(crate) async fn terminate_instance(&self, names: &Names, id: &InstanceId) -> Result<(), CloudError> {
        let name = names.name_of(id)?;
        let gone = || CloudError::NotFound(format!("instance {}", id.0));
        let found = self.get(names, &name).await?.filter(|found| names.own(found));
        let state = found.as_ref().map(|found| &found["properties"]["provisioningState"]);
        let removed = match state {
            None => Err(gone()),
            Some(state) if state == "Deleting" => Ok(()),
            Some(_) => match self.arm.delete(&names.vm(&name), &[("api-version", COMPUTE)]).await {
                // It was there a moment ago: that it is gone is the next look's to say.
                Ok(_) | Err(CloudError::NotFound(_)) => Ok(()),
                Err(error) => return Err(error),
            },
        };
        self.lists
            .edit(&names.cluster, |list| match removed {
                Ok(()) => list
                    .items
                    .iter_mut()
                    .filter(|item| item.id == *id)
                    .for_each(|item| item.state = InstanceState::Terminating),
                Err(_) => list.items.retain(|item| item.id != *id),
            })
            .await;
        removed
    }
}

fn vm_id(vm: &Value) -> Option<String> {
    vm["properties"]["vmId"].as_str().map(str::to_owned)
}

/// The interface's only configuration; null when it has none.
fn first_ip(nic: &Value) -> &Value {
    &nic["properties"]["ipConfigurations"][0]["properties"]
}
