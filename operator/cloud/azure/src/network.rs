//! The network and the endpoint of a cluster, part by part: looked at, made or repaired, removed in reverse.

use constellation_cloud::{CloudError, ClusterUid, Network, NetworkRequest};
use futures::future::join_all;
use serde_json::Value;

use crate::{
    AzureCloud,
    arm::{Progress, Reply},
    bodies,
    convert::{self, NETWORK, Names, RESOURCES},
};

/// A part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Address,
    Balancer,
    Group,
    Network,
    SecurityGroup,
}

impl AzureCloud {
    /// Layers from the bottom. The first is the first and the last thing of a cluster, so it alone tells which clusters
    /// there are: the resource group, or in a group that the user keeps, the firewall.
    fn layers(&self) -> Vec<Vec<Part>> {
        let rest = [vec![Part::SecurityGroup], vec![Part::Network, Part::Address], vec![Part::Balancer]];
        if self.settings.resource_group.is_some() { rest.into() } else { [&[vec![Part::Group]], &rest[..]].concat() }
    }

    /// Makes what is missing, repairs the firewall.
    pub(crate) async fn make_network(&self, names: &Names, request: &NetworkRequest) -> Result<Network, CloudError> {
        for layer in self.layers() {
            // All of a layer at once, and all of them to their end: the first failure is told.
            for made in join_all(layer.iter().map(|part| self.make(names, *part, &request.node_cidr))).await {
                made?;
            }
        }
        let address = self.look_at(names, Part::Address).await?;
        let address = address.as_ref().and_then(|found| found["properties"]["ipAddress"].as_str());
        let Some(address) = address else {
            return Err(CloudError::Transient("the endpoint's address has no value yet".into()));
        };
        Ok(Network {
            id: names.network("virtualNetworks", &names.part("")),
            endpoint: format!("{address}:6443"),
            external_url: format!("https://{address}:6443"),
            cert_sans: vec![address.to_owned()],
        })
    }

    /// Removes the group with all that is in it, or the parts in a group that the user keeps.
    pub(crate) async fn unmake_network(&self, names: &Names) -> Result<(), CloudError> {
        let layers = if names.own_group() { vec![vec![Part::Group]] } else { self.layers() };
        let mut any = false;
        for layer in layers.iter().rev() {
            for there in join_all(layer.iter().map(|part| self.unmake(names, *part))).await {
                any |= there?;
            }
        }
        if any { Ok(()) } else { Err(CloudError::NotFound(format!("network {}", names.part("")))) }
    }

    /// Clusters of this operator that have anything.
    pub(crate) async fn list_clusters(&self) -> Result<Vec<ClusterUid>, CloudError> {
        let owner = &self.settings.owner;
        let found = if self.settings.resource_group.is_some() {
            let names = self.names(&ClusterUid("any".into()))?;
            self.arm.list(&names.network("networkSecurityGroups", ""), &[("api-version", NETWORK)]).await?
        } else {
            let filter = format!("tagName eq '{}' and tagValue eq '{owner}'", convert::TAG_OWNER);
            let path = format!("/subscriptions/{}/resourcegroups", self.settings.subscription);
            self.arm.list(&path, &[("api-version", RESOURCES), ("$filter", &filter)]).await?
        };
        Ok(found.iter().filter_map(|resource| convert::cluster_of(owner, resource)).collect())
    }

    async fn make(&self, names: &Names, part: Part, node_cidr: &str) -> Result<(), CloudError> {
        let (path, version) = place(names, part);
        let body = match part {
            Part::Address => bodies::address(names),
            Part::Balancer => bodies::load_balancer(names),
            Part::Group => bodies::group(names),
            Part::Network => bodies::virtual_network(names, node_cidr),
            Part::SecurityGroup => bodies::security_group(names, &self.settings),
        };
        if let Some(found) = self.look_at(names, part).await? {
            ours(names, part, &found)?;
            match found["properties"]["provisioningState"].as_str() {
                // What failed half-way is put again.
                Some("Failed" | "Canceled") => {}
                Some("Deleting") => return Err(CloudError::Transient(format!("{part:?} is being removed"))),
                Some("Succeeded") | None => {
                    if part != Part::SecurityGroup || bodies::same_rules(&body, &found) {
                        return Ok(());
                    }
                    tracing::warn!(cluster = names.cluster.0, "Changing the firewall back");
                }
                Some(state) => return Err(CloudError::Transient(format!("{part:?} is {state}"))),
            }
        }
        let reply = self.arm.put(&path, version, &body).await.map_err(|error| match error {
            CloudError::NotFound(text) => CloudError::Transient(format!("a part below is missing: {text}")),
            other => other,
        })?;
        self.finish(part, &reply).await
    }

    /// Removes a part; says whether it was there.
    async fn unmake(&self, names: &Names, part: Part) -> Result<bool, CloudError> {
        let Some(found) = self.look_at(names, part).await? else { return Ok(false) };
        ours(names, part, &found)?;
        if found["properties"]["provisioningState"] == "Deleting" {
            return Ok(true);
        }
        let (path, version) = place(names, part);
        match self.arm.delete(&path, &[("api-version", version)]).await {
            Ok(reply) => match self.arm.wait(&reply, self.settings.pace.network).await? {
                Progress::Failed(error) => Err(error),
                Progress::Done | Progress::Running => Ok(true),
            },
            Err(CloudError::NotFound(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    async fn finish(&self, part: Part, reply: &Reply) -> Result<(), CloudError> {
        match self.arm.wait(reply, self.settings.pace.network).await? {
            Progress::Done => Ok(()),
            Progress::Failed(error) => Err(error),
            Progress::Running => Err(CloudError::Transient(format!("{part:?} takes time; looked at again soon"))),
        }
    }

    async fn look_at(&self, names: &Names, part: Part) -> Result<Option<Value>, CloudError> {
        let (path, version) = place(names, part);
        self.arm.get(&path, &[("api-version", version)]).await
    }
}

/// Refuses what has our name and not our tags.
fn ours(names: &Names, part: Part, found: &Value) -> Result<(), CloudError> {
    if names.own(found) {
        return Ok(());
    }
    Err(CloudError::Unsupported(format!("{part:?} {} exists and is not ours: remove it", names.part(""))))
}

fn place(names: &Names, part: Part) -> (String, &'static str) {
    let kind = match part {
        Part::Address => "publicIPAddresses",
        Part::Balancer => "loadBalancers",
        Part::Group => return (names.group(), RESOURCES),
        Part::Network => "virtualNetworks",
        Part::SecurityGroup => "networkSecurityGroups",
    };
    (names.network(kind, &names.part("")), NETWORK)
}
