//! VMs: put once per node, found by tag, deleted until not found.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
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
    /// Addresses by `vmId`, which is of one VM only: an interface keeps its address as long as it has that VM.
    addresses: BTreeMap<String, IpAddr>,
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
        if let Some(found) = known.clone().filter(|found| found.state != InstanceState::Failed) {
            return Ok(found);
        }
        let mut failed_before = known.is_some();
        let mut failure = CloudError::Unsupported("no zone is set".into());
        for zone in convert::zones(&self.settings, request)? {
            // A failed VM keeps its name, its zone and its disks: nothing can be put there before it is gone.
            if failed_before && !self.cleared(names, &name).await? {
                return Err(CloudError::Transient(format!("VM {name} of an earlier attempt is still there")));
            }
            match self.attempt(names, request, &name, zone.as_deref()).await {
                Ok(instance) => {
                    self.lists
                        .edit(&names.cluster, |list| {
                            list.items.retain(|item| item.node != instance.node);
                            list.items.push(instance.clone());
                            list.unseen.insert(instance.node.clone());
                        })
                        .await;
                    return Ok(instance);
                }
                Err(error @ CloudError::Capacity(_)) => (failure, failed_before) = (error, true),
                Err(error) => return Err(error),
            }
        }
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
    async fn cleared(&self, names: &Names, name: &str) -> Result<bool, CloudError> {
        let Some(failed) = self.get(names, name).await? else { return Ok(true) };
        if !names.own(&failed) || failed["properties"]["provisioningState"] != "Failed" {
            return Ok(false);
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
        let (mut unseen, mut addresses) =
            lists.get(&names.cluster).map(|list| (list.unseen.clone(), list.addresses.clone())).unwrap_or_default();
        let mut items = self.list(names, &mut addresses).await?;
        unseen.retain(|node| items.iter().all(|item| item.node != *node));
        for node in unseen.clone() {
            // By its name a VM is found at once.
            let found = self.get(names, &convert::vm_name(&node)?).await?.filter(|found| names.own(found));
            match found.and_then(|found| convert::instance(names, &found, None)) {
                Some(instance) => items.push(instance),
                None => drop(unseen.remove(&node)),
            }
        }
        lists.insert(names.cluster.clone(), List { at, items: items.clone(), unseen, addresses });
        Ok(items)
    }

    /// Lists VMs, and interfaces if there is a VM whose address isn't known.
    async fn list(&self, names: &Names, addresses: &mut BTreeMap<String, IpAddr>) -> Result<Vec<Instance>, CloudError> {
        let query = [("api-version", COMPUTE), ("$expand", "instanceView")];
        let vms = match self.arm.list(&names.vm(""), &query).await {
            Ok(vms) => vms,
            // There is no group, so there is nothing in it.
            Err(CloudError::NotFound(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let vms: Vec<_> = vms.into_iter().filter(|vm| names.own(vm)).collect();
        let of = |vm: &Value| vm["properties"]["vmId"].as_str().map(str::to_owned);
        addresses.retain(|id, _| vms.iter().any(|vm| of(vm).as_ref() == Some(id)));
        if vms.iter().all(|vm| of(vm).is_some_and(|id| addresses.contains_key(&id))) {
            let known = |vm| convert::instance(names, vm, addresses.get(&of(vm)?).copied());
            return Ok(vms.iter().filter_map(known).collect());
        }
        let interfaces = self.interfaces(names).await?;
        let address = |vm: &Value| -> Option<IpAddr> {
            let id = vm["id"].as_str()?;
            let its = |nic: &&Value| {
                nic["properties"]["virtualMachine"]["id"].as_str().is_some_and(|owner| convert::same_id(owner, id))
            };
            first_ip(interfaces.iter().find(its)?)["privateIPAddress"].as_str()?.parse().ok()
        };
        addresses.extend(vms.iter().filter_map(|vm| Some((of(vm)?, address(vm)?))));
        Ok(vms.iter().filter_map(|vm| convert::instance(names, vm, address(vm))).collect())
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

    async fn get(&self, names: &Names, name: &str) -> Result<Option<Value>, CloudError> {
        self.arm.get(&names.vm(name), &[("api-version", COMPUTE)]).await
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

/// The interface's only configuration; null when it has none.
fn first_ip(nic: &Value) -> &Value {
    &nic["properties"]["ipConfigurations"][0]["properties"]
}
