//! The endpoint's targets: which instances are in the group of each zone.

use std::collections::BTreeSet;

use constellation_cloud::{CloudError, InstanceId, answers::Pages};
use google_cloud_compute_v1::model::{
    InstanceGroupsAddInstancesRequest, InstanceGroupsListInstancesRequest, InstanceGroupsRemoveInstancesRequest,
    InstanceReference, Operation,
};

use crate::{
    GcpCloud,
    api::{Progress, Scope},
    convert::{self, Names},
};

const ADD: &str = "compute.instanceGroups.addInstances";
const LIST: &str = "compute.instanceGroups.listInstances";
const REMOVE: &str = "compute.instanceGroups.removeInstances";

impl GcpCloud {
    /// Puts exactly these instances into the groups of their zones.
    pub(crate) async fn set_targets(&self, names: &Names, targets: &[InstanceId]) -> Result<(), CloudError> {
        let places = targets.iter().map(|id| names.place(id)).collect::<Result<Vec<_>, _>>()?;
        if let Some((zone, name)) = places.iter().find(|(zone, _)| !self.settings.zones.contains(zone)) {
            return Err(CloudError::Unsupported(format!("{name} is in zone {zone}, which the endpoint doesn't reach")));
        }
        for zone in &self.settings.zones {
            let wanted: BTreeSet<_> =
                places.iter().filter(|(its, _)| its == zone).map(|(_, name)| name.clone()).collect();
            let found = self.members(names, zone).await?;
            let link = |name: &String| InstanceReference::new().set_instance(names.zonal(zone, "instances", name));
            let (more, less): (Vec<_>, Vec<_>) =
                (wanted.difference(&found).map(link).collect(), found.difference(&wanted).map(link).collect());
            if !more.is_empty() {
                let body = InstanceGroupsAddInstancesRequest::new().set_instances(more);
                let add = self.api.groups.add_instances().set_project(&self.api.project).set_zone(zone);
                let add = add.set_instance_group(names.part("-endpoint")).set_body(body);
                self.settle(zone, self.api.ask(ADD, add.send()).await?).await?;
            }
            if !less.is_empty() {
                let body = InstanceGroupsRemoveInstancesRequest::new().set_instances(less);
                let remove = self.api.groups.remove_instances().set_project(&self.api.project).set_zone(zone);
                let remove = remove.set_instance_group(names.part("-endpoint")).set_body(body);
                self.settle(zone, self.api.ask(REMOVE, remove.send()).await?).await?;
            }
        }
        Ok(())
    }

    async fn members(&self, names: &Names, zone: &str) -> Result<BTreeSet<String>, CloudError> {
        let mut members = BTreeSet::new();
        let mut page = String::new();
        let mut pages = Pages::of(LIST);
        loop {
            let list = self.api.groups.list_instances().set_project(&self.api.project).set_zone(zone);
            let list = list.set_instance_group(names.part("-endpoint")).set_page_token(&page);
            let list = list.set_body(InstanceGroupsListInstancesRequest::new());
            let found = self.api.ask(LIST, list.send()).await?;
            let links = found.items.iter().filter_map(|member| member.instance.as_deref());
            members.extend(links.map(|link| convert::last(link).to_owned()));
            match pages.next(found.next_page_token)? {
                Some(next) => page = next,
                None => return Ok(members),
            }
        }
    }

    async fn settle(&self, zone: &str, operation: Operation) -> Result<(), CloudError> {
        match self.api.wait(&Scope::Zone(zone.to_owned()), operation, self.settings.pace.network).await? {
            Progress::Done => Ok(()),
            Progress::Running { operation } => {
                Err(CloudError::Transient(format!("operation {operation} on the endpoint goes on")))
            }
        }
    }
}
