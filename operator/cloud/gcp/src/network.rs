//! The network and the endpoint of a cluster, part by part: looked at, made or repaired, removed in reverse.

use constellation_cloud::{CloudError, ClusterUid, Network, NetworkRequest, answers::Pages};
use futures::future::join_all;
use google_cloud_compute_v1::model::{self, Firewall, Operation};

use crate::{
    GcpCloud,
    api::{Progress, Scope},
    bodies::{self, Wall},
    convert::{self, Names, PREFIX},
    error::Refused,
};

const LIST: &str = "compute.networks.list";

/// A part.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Address,
    Backend,
    Firewall(Wall),
    /// The control-plane nodes of a zone.
    Group(String),
    HealthCheck,
    Network,
    Rule,
    Subnet,
}

/// A part as it was found.
#[derive(Default)]
struct Found {
    description: Option<String>,
    address: Option<String>,
    firewall: Option<Firewall>,
}

impl Found {
    fn of(description: Option<String>) -> Self {
        Self { description, ..Self::default() }
    }
}

impl GcpCloud {
    /// Layers from the bottom: parts of a layer need only what is below. The network is the first and the last thing
    /// of a cluster, so it alone tells which clusters there are.
    fn layers(&self) -> [Vec<Part>; 5] {
        let walls = [Wall::Endpoint, Wall::Nodes, Wall::Owner].map(Part::Firewall);
        [
            vec![Part::Network],
            [vec![Part::Subnet, Part::Address, Part::HealthCheck], walls.to_vec()].concat(),
            self.settings.zones.iter().cloned().map(Part::Group).collect(),
            vec![Part::Backend],
            vec![Part::Rule],
        ]
    }

    /// Makes what is missing, repairs the firewall.
    pub(crate) async fn make_network(&self, names: &Names, request: &NetworkRequest) -> Result<Network, CloudError> {
        let mut address = None;
        for layer in self.layers() {
            // All of a layer at once, and all of them to their end: the first failure is told.
            let made = join_all(layer.iter().map(|part| self.make(names, part, &request.node_cidr))).await;
            for found in made {
                address = address.or(found?);
            }
        }
        // It was made in this pass when it wasn't found: its value comes with the look.
        let address = match address {
            Some(address) => address,
            None => self.look_at(names, &Part::Address).await?.and_then(|found| found.address).ok_or_else(|| {
                CloudError::Transient(format!("address {} has no value yet", names.part("-endpoint")))
            })?,
        };
        Ok(Network {
            id: names.global("networks", &names.part("")),
            endpoint: format!("{address}:6443"),
            external_url: format!("https://{address}:6443"),
            cert_sans: vec![address],
        })
    }

    /// Removes the top-most layer that is there, and what is below it as far as time allows.
    pub(crate) async fn unmake_network(&self, names: &Names) -> Result<(), CloudError> {
        let mut any = false;
        for layer in self.layers().iter().rev() {
            for there in join_all(layer.iter().map(|part| self.unmake(names, part))).await {
                any |= there?;
            }
        }
        if any { Ok(()) } else { Err(CloudError::NotFound(format!("network {}", names.part("")))) }
    }

    /// Clusters of this operator that have a network.
    pub(crate) async fn list_clusters(&self) -> Result<Vec<ClusterUid>, CloudError> {
        let mut clusters = Vec::new();
        let mut page = String::new();
        let mut pages = Pages::of(LIST);
        loop {
            let list =
                self.api.networks.list().set_project(&self.api.project).set_filter(format!("name eq {PREFIX}.*"));
            let found = self.api.ask(LIST, list.set_page_token(&page).send()).await?;
            let ours = |description: &String| convert::cluster_of(&self.settings.owner, description);
            clusters.extend(found.items.iter().filter_map(|network| network.description.as_ref().and_then(ours)));
            match pages.next(found.next_page_token)? {
                Some(next) => page = next,
                None => return Ok(clusters),
            }
        }
    }

    /// Makes or repairs a part; gives the address where the part is one that was there.
    async fn make(&self, names: &Names, part: &Part, node_cidr: &str) -> Result<Option<String>, CloudError> {
        let operation = match self.look_at(names, part).await? {
            None => match self.insert(names, part, node_cidr).await {
                Ok(operation) => operation,
                Err(CloudError::NotFound(text)) => {
                    return Err(CloudError::Transient(format!("a part below is missing: {text}")));
                }
                Err(error) => return Err(error),
            },
            Some(found) => {
                ours(names, part, &found)?;
                let Some(operation) = self.repair(names, part, &found, node_cidr).await? else {
                    return Ok(found.address);
                };
                operation
            }
        };
        self.finish(part, operation).await.map(|()| None)
    }

    /// Removes a part; says whether it was there.
    async fn unmake(&self, names: &Names, part: &Part) -> Result<bool, CloudError> {
        let Some(found) = self.look_at(names, part).await? else { return Ok(false) };
        ours(names, part, &found)?;
        match self.delete(names, part).await {
            Ok(operation) => self.finish(part, operation).await.map(|()| true),
            Err(CloudError::NotFound(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    async fn finish(&self, part: &Part, operation: Operation) -> Result<(), CloudError> {
        match self.api.wait(&scope(part), operation, self.settings.pace.network).await? {
            Progress::Done => Ok(()),
            Progress::Running { operation } => {
                Err(CloudError::Transient(format!("operation {operation} on {part:?} goes on; looked at again soon")))
            }
        }
    }

    /// Changes back what was changed behind our back.
    async fn repair(
        &self,
        names: &Names,
        part: &Part,
        found: &Found,
        node_cidr: &str,
    ) -> Result<Option<Operation>, CloudError> {
        let (Part::Firewall(wall), Some(found)) = (part, &found.firewall) else { return Ok(None) };
        let wanted = bodies::firewall(names, &self.settings, *wall, node_cidr);
        if bodies::same_firewall(&wanted, found) {
            return Ok(None);
        }
        tracing::warn!(cluster = names.cluster.0, rule = ?wall, "Changing a firewall rule back");
        let name = wanted.name.clone().unwrap_or_default();
        let patch = self.api.firewalls.patch().set_project(&self.api.project).set_firewall(name).set_body(wanted);
        Ok(Some(self.api.ask("compute.firewalls.patch", patch.send()).await?))
    }

    async fn look_at(&self, names: &Names, part: &Part) -> Result<Option<Found>, CloudError> {
        let (api, project, region) = (&self.api, &self.api.project, &self.api.region);
        let name = name(names, part);
        Ok(match part {
            Part::Address => {
                let get = api.addresses.get().set_project(project).set_region(region).set_address(name);
                Refused::or_missing(api.ask("compute.addresses.get", get.send()).await)?.map(|found: model::Address| {
                    Found { description: found.description, address: found.address, firewall: None }
                })
            }
            Part::Backend => {
                let get = api.backends.get().set_project(project).set_region(region).set_backend_service(name);
                Refused::or_missing(api.ask("compute.regionBackendServices.get", get.send()).await)?
                    .map(|found: model::BackendService| Found::of(found.description))
            }
            Part::Firewall(_) => {
                let get = api.firewalls.get().set_project(project).set_firewall(name);
                Refused::or_missing(api.ask("compute.firewalls.get", get.send()).await)?.map(|found: Firewall| Found {
                    description: found.description.clone(),
                    address: None,
                    firewall: Some(found),
                })
            }
            Part::Group(zone) => {
                let get = api.groups.get().set_project(project).set_zone(zone).set_instance_group(name);
                Refused::or_missing(api.ask("compute.instanceGroups.get", get.send()).await)?
                    .map(|found: model::InstanceGroup| Found::of(found.description))
            }
            Part::HealthCheck => {
                let get = api.health_checks.get().set_project(project).set_region(region).set_health_check(name);
                Refused::or_missing(api.ask("compute.regionHealthChecks.get", get.send()).await)?
                    .map(|found: model::HealthCheck| Found::of(found.description))
            }
            Part::Network => {
                let get = api.networks.get().set_project(project).set_network(name);
                Refused::or_missing(api.ask("compute.networks.get", get.send()).await)?
                    .map(|found: model::Network| Found::of(found.description))
            }
            Part::Rule => {
                let get = api.rules.get().set_project(project).set_region(region).set_forwarding_rule(name);
                Refused::or_missing(api.ask("compute.forwardingRules.get", get.send()).await)?
                    .map(|found: model::ForwardingRule| Found::of(found.description))
            }
            Part::Subnet => {
                let get = api.subnetworks.get().set_project(project).set_region(region).set_subnetwork(name);
                Refused::or_missing(api.ask("compute.subnetworks.get", get.send()).await)?
                    .map(|found: model::Subnetwork| Found::of(found.description))
            }
        })
    }

    async fn insert(&self, names: &Names, part: &Part, node_cidr: &str) -> Result<Operation, CloudError> {
        let (api, project, region) = (&self.api, &self.api.project, &self.api.region);
        let sent = match part {
            Part::Address => {
                let insert = api.addresses.insert().set_project(project).set_region(region);
                api.ask("compute.addresses.insert", insert.set_body(bodies::address(names)).send()).await
            }
            Part::Backend => {
                let body = bodies::backend_service(names, &self.settings.zones);
                let insert = api.backends.insert().set_project(project).set_region(region).set_body(body);
                api.ask("compute.regionBackendServices.insert", insert.send()).await
            }
            Part::Firewall(wall) => {
                let body = bodies::firewall(names, &self.settings, *wall, node_cidr);
                let insert = api.firewalls.insert().set_project(project).set_body(body);
                api.ask("compute.firewalls.insert", insert.send()).await
            }
            Part::Group(zone) => {
                let insert = api.groups.insert().set_project(project).set_zone(zone).set_body(bodies::group(names));
                api.ask("compute.instanceGroups.insert", insert.send()).await
            }
            Part::HealthCheck => {
                let insert = api.health_checks.insert().set_project(project).set_region(region);
                api.ask("compute.regionHealthChecks.insert", insert.set_body(bodies::health_check(names)).send()).await
            }
            Part::Network => {
                let insert = api.networks.insert().set_project(project).set_body(bodies::network(names));
                api.ask("compute.networks.insert", insert.send()).await
            }
            Part::Rule => {
                let insert = api.rules.insert().set_project(project).set_region(region);
                api.ask("compute.forwardingRules.insert", insert.set_body(bodies::forwarding_rule(names)).send()).await
            }
            Part::Subnet => {
                let insert = api.subnetworks.insert().set_project(project).set_region(region);
                let body = bodies::subnetwork(names, node_cidr);
                api.ask("compute.subnetworks.insert", insert.set_body(body).send()).await
            }
        };
        // A name that is taken by now: the next pass looks at what has it.
        Ok(sent?)
    }

    async fn delete(&self, names: &Names, part: &Part) -> Result<Operation, CloudError> {
        let (api, project, region) = (&self.api, &self.api.project, &self.api.region);
        let name = name(names, part);
        let sent = match part {
            Part::Address => {
                let delete = api.addresses.delete().set_project(project).set_region(region).set_address(name);
                api.ask("compute.addresses.delete", delete.send()).await
            }
            Part::Backend => {
                let delete = api.backends.delete().set_project(project).set_region(region).set_backend_service(name);
                api.ask("compute.regionBackendServices.delete", delete.send()).await
            }
            Part::Firewall(_) => {
                let delete = api.firewalls.delete().set_project(project).set_firewall(name);
                api.ask("compute.firewalls.delete", delete.send()).await
            }
            Part::Group(zone) => {
                let delete = api.groups.delete().set_project(project).set_zone(zone).set_instance_group(name);
                api.ask("compute.instanceGroups.delete", delete.send()).await
            }
            Part::HealthCheck => {
                let delete = api.health_checks.delete().set_project(project).set_region(region).set_health_check(name);
                api.ask("compute.regionHealthChecks.delete", delete.send()).await
            }
            Part::Network => {
                let delete = api.networks.delete().set_project(project).set_network(name);
                api.ask("compute.networks.delete", delete.send()).await
            }
            Part::Rule => {
                let delete = api.rules.delete().set_project(project).set_region(region).set_forwarding_rule(name);
                api.ask("compute.forwardingRules.delete", delete.send()).await
            }
            Part::Subnet => {
                let delete = api.subnetworks.delete().set_project(project).set_region(region).set_subnetwork(name);
                api.ask("compute.subnetworks.delete", delete.send()).await
            }
        };
        Ok(sent?)
    }
}

/// Refuses what has our name and not our mark.
fn ours(names: &Names, part: &Part, found: &Found) -> Result<(), CloudError> {
    if found.description.as_deref() == Some(&names.mark()) {
        return Ok(());
    }
    Err(CloudError::Unsupported(format!("{part:?} of cluster {} exists and is not ours: remove it", names.cluster.0)))
}

fn name(names: &Names, part: &Part) -> String {
    names.part(match part {
        Part::Network => "",
        Part::Firewall(Wall::Nodes) | Part::Subnet => "-nodes",
        Part::Firewall(Wall::Owner) => "-owner",
        Part::Address
        | Part::Backend
        | Part::Firewall(Wall::Endpoint)
        | Part::Group(_)
        | Part::HealthCheck
        | Part::Rule => "-endpoint",
    })
}

fn scope(part: &Part) -> Scope {
    match part {
        Part::Firewall(_) | Part::Network => Scope::Global,
        Part::Group(zone) => Scope::Zone(zone.clone()),
        Part::Address | Part::Backend | Part::HealthCheck | Part::Rule | Part::Subnet => Scope::Region,
    }
}
