//! Instances: launch, list, terminate.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use aws_sdk_ec2::types as ec2;
use constellation_cloud::{CloudError, ClusterUid, Instance, InstanceId, InstanceState, LaunchRequest, answers::Pages};
use tokio::time::Instant;

use crate::{
    AwsCloud,
    account::{Made, Weight, public_of},
    convert::{self, Listed, TAG_CLUSTER, TAG_NODE, TAG_OWNER, filter},
    error::{paged, whole},
    network::Marks,
    security::NODES,
};

/// How often a node's launch may end in an instance that is gone before anybody saw it. More is no bad luck.
const ATTEMPTS: u32 = 8;

impl AwsCloud {
    pub(crate) async fn launch_instance(&self, request: &LaunchRequest) -> Result<Instance, CloudError> {
        let listed = self.list(false).await?;
        let known = |one: &&Listed| {
            let of_node = one.cluster == request.cluster && one.instance.node == request.node;
            of_node && !self.account.is_dismissed(&one.ec2_id)
        };
        if let Some(found) = listed.iter().filter(known).min_by_key(|one| one.ending.is_some()) {
            return Ok(found.instance.clone());
        }
        let marks = self.marks(&request.cluster, &request.name);
        let group = self.group_id(&marks).await?;
        let mut subnets = self.subnets_for(&marks, request.zone.as_deref(), request.index).await?;
        // EC2 may take a launch and find only then that it has no capacity; whoever replaces it goes elsewhere first.
        let short = listed.iter().filter(|one| one.ending.as_ref().is_some_and(|ending| ending.no_capacity));
        let short: BTreeSet<_> = short.filter_map(|one| convert::zone(&one.instance.id)).collect();
        subnets.sort_by_key(|(zone, _)| short.contains(zone.as_str()));
        let mut full = Vec::new();
        for (zone, subnet) in &subnets {
            match self.launch_in(request, zone, subnet, &group).await {
                Err((CloudError::Capacity(why) | CloudError::Unsupported(why), true)) => {
                    full.push(format!("{zone}: {why}"));
                }
                other => return other.map_err(|(error, _)| error),
            }
        }
        Err(CloudError::Capacity(full.join("; ")))
    }

    /// Launches in one zone; with an error, whether another zone may do better.
    async fn launch_in(
        &self,
        request: &LaunchRequest,
        zone: &str,
        subnet: &str,
        group: &str,
    ) -> Result<Instance, (CloudError, bool)> {
        let certain = |error: CloudError| (error, false);
        for attempt in 0..ATTEMPTS {
            let run = self.run(request, subnet, group, attempt).map_err(certain)?;
            let refusal = match self.account.call("ec2:RunInstances", Weight::Launch, run.send()).await {
                Ok(reply) => {
                    let shown = reply.instances().first().and_then(|one| self.as_listed(request, zone, one));
                    let missing = || certain(CloudError::Transient("RunInstances gave no instance".into()));
                    let listed = shown.ok_or_else(missing)?;
                    let instance = listed.instance.clone();
                    self.account.remember(&listed.ec2_id.clone(), Made::Instance(Box::new(listed)));
                    return Ok(instance);
                }
                Err(refusal) => refusal,
            };
            if refusal.is(&["IdempotentInstanceTerminated"]) {
                continue;
            }
            if refusal.is(&["IdempotentParameterMismatch"]) {
                // This token launched an instance when the world was different: it is the node's.
                let listed = self.list(true).await.map_err(certain)?;
                let found = listed.into_iter().find(|one| one.instance.node == request.node);
                let later = || CloudError::Transient(format!("the instance of {} is not listed yet", request.name));
                return found.map(|one| one.instance).ok_or_else(|| certain(later()));
            }
            let elsewhere = refusal.is_of_this_zone();
            return Err((refusal.into(), elsewhere));
        }
        let message = format!(
            "{ATTEMPTS} instances of {} ended before they were seen: look at their state reasons",
            request.name
        );
        Err(certain(CloudError::Transient(message)))
    }

    fn run(
        &self,
        request: &LaunchRequest,
        subnet: &str,
        group: &str,
        attempt: u32,
    ) -> Result<aws_sdk_ec2::operation::run_instances::builders::RunInstancesFluentBuilder, CloudError> {
        let tags = convert::instance_tags(request, &self.settings.owner);
        let specification = |kind: ec2::ResourceType| {
            ec2::TagSpecification::builder().resource_type(kind).set_tags(Some(tags.clone())).build()
        };
        let kinds = [ec2::ResourceType::Instance, ec2::ResourceType::NetworkInterface, ec2::ResourceType::Volume];
        Ok(self
            .account
            .ec2
            .run_instances()
            .min_count(1)
            .max_count(1)
            .client_token(convert::client_token(request, subnet, attempt))
            .image_id(&request.image)
            .instance_type(request.instance_type.as_str().into())
            .network_interfaces(convert::interface(subnet, group, self.settings.reach))
            .block_device_mappings(convert::state_volume(request, &self.settings)?)
            .set_cpu_options(convert::cpu(self.settings.proof))
            .metadata_options(convert::metadata())
            .instance_initiated_shutdown_behavior(ec2::ShutdownBehavior::Stop)
            .set_tag_specifications(Some(kinds.into_iter().map(specification).collect()))
            .user_data(convert::user_data(request)?))
    }

    /// The reply of a launch. It bears the tags that we sent, whether or not it repeats them.
    fn as_listed(&self, request: &LaunchRequest, zone: &str, shown: &ec2::Instance) -> Option<Listed> {
        let mut shown = shown.clone();
        shown.tags = Some(convert::instance_tags(request, &self.settings.owner));
        if shown.placement().and_then(|place| place.availability_zone()).is_none() {
            shown.placement = Some(ec2::Placement::builder().availability_zone(zone).build());
        }
        convert::listed(&shown, &self.settings.owner)
    }

    /// All instances of all clusters of this operator, ended ones too while EC2 shows them; not older than the pace says, or read anew.
    pub(crate) async fn list(&self, anew: bool) -> Result<Vec<Listed>, CloudError> {
        let mut kept = self.account.list.lock().await;
        let fresh = |at: &Instant| !anew && at.elapsed() < self.account.pace.list;
        let mut all = if let Some((_, all)) = kept.as_ref().filter(|(at, _)| fresh(at)) {
            all.clone()
        } else {
            // The age counts from before the request: what is made meanwhile may be missing.
            let at = Instant::now();
            let all = self.read_all().await?;
            *kept = Some((at, all.clone()));
            all
        };
        drop(kept);
        let listed: BTreeSet<_> = all.iter().map(|one| one.ec2_id.clone()).collect();
        for made in self.account.remembered_instances() {
            if !listed.contains(&made.ec2_id) {
                all.push(made);
            }
        }
        Ok(all)
    }

    /// In every state, for one that EC2 adds must not make nodes look removed; what is terminated is shown for an hour.
    async fn read_all(&self) -> Result<Vec<Listed>, CloudError> {
        let owner = &self.settings.owner;
        let mut all = Vec::new();
        let mut next = None;
        let mut pages = Pages::of("ec2:DescribeInstances");
        loop {
            let send = self
                .account
                .ec2
                .describe_instances()
                .filters(filter(&format!("tag:{TAG_OWNER}"), [owner]))
                .filters(filter("tag-key", [TAG_NODE]))
                .max_results(self.account.pace.page)
                .set_next_token(next);
            let page = self.account.read("ec2:DescribeInstances", send.send()).await?;
            let reservations = whole(page.reservations, "ec2:DescribeInstances")?;
            for one in reservations.iter().flat_map(ec2::Reservation::instances) {
                self.account.forget(one.instance_id().unwrap_or_default());
                all.extend(convert::listed(one, owner));
            }
            next = pages.next(page.next_token)?;
            if next.is_none() {
                self.account.keep_dismissed(&all);
                return Ok(all);
            }
        }
    }

    /// A cluster's instances, one per node: of duplicates, which only a crash between two zones can make, the first
    /// launched stays and the others go. What ended by itself is shown where its node has nothing else.
    pub(crate) async fn instances(&self, cluster: &ClusterUid) -> Result<Vec<Instance>, CloudError> {
        let mut all = self.list(false).await?;
        all.retain(|one| one.cluster == *cluster && !self.account.is_dismissed(&one.ec2_id));
        let goes = |one: &Listed| one.ending.is_some() || one.instance.state == InstanceState::Terminating;
        all.sort_by_key(|one| (one.ending.is_some(), goes(one), one.launched, one.ec2_id.clone()));
        let mut of: BTreeMap<_, Listed> = BTreeMap::new();
        for one in all {
            if !of.contains_key(&one.instance.node) {
                of.insert(one.instance.node.clone(), one);
            } else if !goes(&one) {
                tracing::warn!(instance = one.ec2_id, node = one.instance.node.0, "Terminating a duplicate");
                // One that can't be ended hides nothing else.
                if let Err(error) = self.end(&one.ec2_id).await {
                    tracing::warn!(instance = one.ec2_id, %error, "Terminating a duplicate failed");
                }
            }
        }
        Ok(of.into_values().map(|one| one.instance).collect())
    }

    pub(crate) async fn terminate_instance(&self, cluster: &ClusterUid, id: &InstanceId) -> Result<(), CloudError> {
        let gone = || CloudError::NotFound(format!("instance {}", id.0));
        let name = convert::ec2_id(id).ok_or_else(gone)?;
        let ours = |all: Vec<Listed>| all.into_iter().find(|one| one.ec2_id == name && one.cluster == *cluster);
        // Only what the list shows as this cluster's is touched, and only a list read now says that it is gone.
        let mut found = ours(self.list(false).await?);
        if found.is_none() {
            found = ours(self.list(true).await?);
        }
        match found {
            None => Err(gone()),
            // Nothing is left of it but its reason, which EC2 would show for an hour.
            Some(one) if one.ending.is_some() => {
                self.account.dismiss(name);
                Err(gone())
            }
            Some(one) if one.instance.state == InstanceState::Terminating => Ok(()),
            Some(_) => self.end(name).await,
        }
    }

    /// Terminates an instance that is known to be ours.
    async fn end(&self, name: &str) -> Result<(), CloudError> {
        let send = self.account.ec2.terminate_instances().instance_ids(name).send();
        let ended = self.account.change("ec2:TerminateInstances", send).await;
        match ended {
            Ok(_) => {}
            // Made a moment ago, and not known everywhere yet: the next pass terminates it.
            Err(refusal) if refusal.is_not_found() => return Ok(()),
            Err(refusal) => return Err(refusal.into()),
        }
        self.account.forget(name);
        self.account.list.lock().await.take();
        Ok(())
    }

    /// Terminates whatever a cluster still has; whether there was anything.
    pub(crate) async fn end_all(&self, cluster: &ClusterUid) -> Result<bool, CloudError> {
        let all = self.list(true).await?;
        let mut any = false;
        for one in all.iter().filter(|one| one.cluster == *cluster && one.ending.is_none()) {
            any = true;
            if one.instance.state != InstanceState::Terminating {
                self.end(&one.ec2_id).await?;
            }
        }
        Ok(any)
    }

    pub(crate) async fn public_address(&self, cluster: &ClusterUid, private: IpAddr) -> Result<IpAddr, CloudError> {
        let lives = |one: &Listed| one.cluster == *cluster && one.ending.is_none();
        let of = |all: Vec<Listed>| all.into_iter().filter(lives).collect::<Vec<_>>();
        let all = of(self.list(false).await?);
        match public_of(&all, private) {
            Ok(found) => Ok(found),
            Err(_) => public_of(&of(self.list(true).await?), private),
        }
    }

    /// The nodes' security group; read once while it is remembered.
    async fn group_id(&self, marks: &Marks) -> Result<String, CloudError> {
        if let Some(id) = self.recalled(marks, NODES) {
            return Ok(id);
        }
        let id = self.group_of(marks, NODES).await?;
        let id = id.ok_or_else(|| CloudError::Transient("the network is not made yet".into()))?;
        self.remember(marks, NODES, &id);
        Ok(id)
    }

    /// Clusters of which anything is left. What goes last, VPC or security groups, stands for the rest of a network.
    pub(crate) async fn list_clusters(&self) -> Result<Vec<ClusterUid>, CloudError> {
        let instances = self.list(true).await?.into_iter().filter(|one| one.ending.is_none());
        let mut found: BTreeSet<_> = instances.map(|one| one.cluster).collect();
        let marks = [filter(&format!("tag:{TAG_OWNER}"), [&self.settings.owner]), filter("tag-key", [TAG_CLUSTER])];
        let vpcs = self.account.ec2.describe_vpcs().set_filters(Some(marks.to_vec())).max_results(1000);
        let groups = self.account.ec2.describe_security_groups().set_filters(Some(marks.to_vec())).max_results(1000);
        let vpcs: Vec<ec2::Vpc> = paged!(self.account, "ec2:DescribeVpcs", vpcs, vpcs)?;
        let groups: Vec<ec2::SecurityGroup> =
            paged!(self.account, "ec2:DescribeSecurityGroups", groups, security_groups)?;
        for tags in vpcs.iter().map(ec2::Vpc::tags).chain(groups.iter().map(ec2::SecurityGroup::tags)) {
            found.extend(convert::tags(tags).get(TAG_CLUSTER).map(|uid| ClusterUid((*uid).to_owned())));
        }
        Ok(found.into_iter().collect())
    }
}
