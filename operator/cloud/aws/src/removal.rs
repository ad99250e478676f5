//! The end of a cluster's network: removes what there is, from the outside in.

use aws_sdk_ec2::types as ec2;
use constellation_cloud::{CloudError, ClusterUid};

use crate::{
    AwsCloud, Placement,
    convert::{TAG_OWNER, filter, tags},
    error::Refusal,
    network::{GATEWAY, SUBNETS, VPC},
    security::{self, Direction, ENDPOINT, NODES, Rule, Source},
};

/// Codes of what can't go yet.
pub const HELD: &[&str] = &["DependencyViolation", "InvalidGroup.InUse", "ResourceInUse"];

/// Gone already, or for one of these reasons not yet.
pub fn fine(refusal: Refusal, codes: &[&str]) -> Result<(), CloudError> {
    if refusal.is_not_found() || refusal.is(codes) { Ok(()) } else { Err(refusal.into()) }
}

impl AwsCloud {
    /// Removes what there is, from the outside in; what something still hangs on goes in a later pass.
    pub(crate) async fn unmake_network(&self, cluster: &ClusterUid) -> Result<(), CloudError> {
        let marks = self.marks(cluster, "");
        let balancers = self.remove_balancers(&marks).await?;
        let instances = self.end_all(cluster).await?;
        for slot in [VPC, GATEWAY, SUBNETS, NODES, ENDPOINT] {
            self.forget(&marks, slot);
        }
        if let Placement::Zones(zones) = &self.settings.placement {
            for zone in zones {
                self.forget(&marks, &format!("subnet-{zone}"));
            }
        }
        let mut left = balancers || instances;
        let groups = self.groups(&marks).await?;
        let ids: Vec<_> = groups.iter().filter_map(|group| group.group_id().map(str::to_owned)).collect();
        for group in &groups {
            // A group that another one's rule names can't be deleted.
            let named = |rule: &&Rule| matches!(&rule.source, Source::Group(id) if ids.contains(id));
            let id = group.group_id().unwrap_or_default();
            let (inwards, outwards) = (group.ip_permissions(), group.ip_permissions_egress());
            self.revoke(id, Direction::In, security::seen(inwards).iter().filter(named)).await?;
            self.revoke(id, Direction::Out, security::seen(outwards).iter().filter(named)).await?;
        }
        for id in &ids {
            left = true;
            let send = self.account.ec2.delete_security_group().group_id(id).send();
            self.account.change("ec2:DeleteSecurityGroup", send).await.map(drop).or_else(|r| fine(r, HELD))?;
        }
        for subnet in self.subnets(&marks).await?.iter().filter_map(ec2::Subnet::subnet_id) {
            left = true;
            let send = self.account.ec2.delete_subnet().subnet_id(subnet).send();
            self.account.change("ec2:DeleteSubnet", send).await.map(drop).or_else(|r| fine(r, HELD))?;
        }
        for gateway in self.gateways(&marks).await? {
            left = true;
            self.remove_gateway(&gateway).await?;
        }
        for vpc in self.vpcs(&marks).await?.iter().filter_map(ec2::Vpc::vpc_id) {
            left = true;
            let send = self.account.ec2.delete_vpc().vpc_id(vpc).send();
            match self.account.change("ec2:DeleteVpc", send).await {
                Ok(_) => {}
                Err(refusal) if refusal.is(HELD) && !balancers && !instances => self.explain(vpc).await?,
                Err(refusal) => fine(refusal, HELD)?,
            }
        }
        if left { Ok(()) } else { Err(CloudError::NotFound(format!("network of cluster {}", cluster.0))) }
    }

    pub(crate) async fn remove_gateway(&self, gateway: &ec2::InternetGateway) -> Result<(), CloudError> {
        let Some(id) = gateway.internet_gateway_id() else { return Ok(()) };
        for vpc in gateway.attachments().iter().filter_map(|to| to.vpc_id()) {
            let send = self.account.ec2.detach_internet_gateway().internet_gateway_id(id).vpc_id(vpc).send();
            let detached = self.account.change("ec2:DetachInternetGateway", send).await;
            detached.map(drop).or_else(|r| fine(r, &["DependencyViolation", "Gateway.NotAttached"]))?;
        }
        let send = self.account.ec2.delete_internet_gateway().internet_gateway_id(id).send();
        self.account.change("ec2:DeleteInternetGateway", send).await.map(drop).or_else(|r| fine(r, HELD))
    }

    /// Says who holds a VPC, when it is nobody of ours: the person who put it there must take it away.
    async fn explain(&self, vpc: &str) -> Result<(), CloudError> {
        let send = self.account.ec2.describe_network_interfaces().filters(filter("vpc-id", [vpc])).send();
        let found =
            self.account.read("ec2:DescribeNetworkInterfaces", send).await?.network_interfaces.unwrap_or_default();
        // Interfaces of load balancers and instances outlive these by minutes.
        let strangers: Vec<_> = found
            .iter()
            .filter(|one| !tags(one.tag_set()).contains_key(TAG_OWNER))
            .filter(|one| !one.description().unwrap_or_default().starts_with("ELB "))
            .filter_map(|one| one.network_interface_id())
            .collect();
        if strangers.is_empty() {
            return Ok(());
        }
        let list = strangers.join(", ");
        Err(CloudError::Unsupported(format!("VPC {vpc} can't be deleted: {list} in it are not ours; delete them")))
    }
}
