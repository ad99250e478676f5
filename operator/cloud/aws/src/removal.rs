//! The end of a cluster's network: removes what there is, from the outside in.
//!
//! What something of ours still hangs on goes in a later pass. What somebody else holds is never pulled away from under
//! him: the removal ends in an error that names him, does all the rest, and goes on by itself when he has let go.

use aws_sdk_ec2::types as ec2;
use constellation_cloud::{CloudError, ClusterUid};

use crate::{
    AwsCloud, Placement,
    error::Refusal,
    network::{GATEWAY, Marks, SUBNETS, VPC},
    security::{self, Change, Direction, ENDPOINT, NODES, Rule, Source},
};

/// Codes of what can't go yet.
pub const HELD: &[&str] = &["DependencyViolation", "InvalidGroup.InUse", "ResourceInUse"];

/// Gone already, or for one of these reasons not yet.
pub fn fine(refusal: Refusal, codes: &[&str]) -> Result<(), CloudError> {
    if refusal.is_not_found() || refusal.is(codes) { Ok(()) } else { Err(refusal.into()) }
}

/// Whether a removal was refused because something hangs on the thing.
fn held<T>(removed: Result<T, Refusal>) -> Result<bool, CloudError> {
    match removed {
        Ok(_) => Ok(false),
        Err(refusal) if refusal.is(HELD) => Ok(true),
        Err(refusal) => fine(refusal, &[]).map(|()| false),
    }
}

impl AwsCloud {
    /// Removes what there is; [`CloudError::NotFound`] when there was nothing.
    pub(crate) async fn unmake_network(&self, cluster: &ClusterUid) -> Result<(), CloudError> {
        let marks = self.marks(cluster, "");
        let mut told = Vec::new();
        let balancers = self.remove_balancers(&marks, &mut told).await?;
        let instances = self.end_all(cluster).await?;
        for slot in [VPC, GATEWAY, SUBNETS, NODES, ENDPOINT] {
            self.forget(&marks, slot);
        }
        if let Placement::Zones(zones) = &self.settings.placement {
            for zone in zones {
                self.forget(&marks, &format!("subnet-{zone}"));
            }
        }
        // Until these are gone, they are what holds the rest.
        let alone = !balancers && !instances;
        let groups = self.remove_groups(&marks, alone, &mut told).await?;
        let ground = self.remove_ground(&marks, alone, groups, &mut told).await?;
        if !told.is_empty() {
            let told = told.join("; ");
            return Err(CloudError::Unsupported(format!("{told}; the removal goes on by itself after that")));
        }
        if alone && !groups && !ground {
            return Err(CloudError::NotFound(format!("network of cluster {}", cluster.0)));
        }
        Ok(())
    }

    /// Removes the security groups; whether there was any.
    async fn remove_groups(&self, marks: &Marks, alone: bool, told: &mut Vec<String>) -> Result<bool, CloudError> {
        let groups = self.groups(marks).await?;
        let ids: Vec<_> = groups.iter().filter_map(|group| group.group_id().map(str::to_owned)).collect();
        for group in &groups {
            // A group that another one's rule names can't be deleted.
            let named = |rule: &&Rule| matches!(&rule.source, Source::Group(id) if ids.contains(id));
            let id = group.group_id().unwrap_or_default();
            let (inwards, outwards) = (group.ip_permissions(), group.ip_permissions_egress());
            self.alter(id, Change::Revoke, Direction::In, security::seen(inwards).iter().filter(named)).await?;
            self.alter(id, Change::Revoke, Direction::Out, security::seen(outwards).iter().filter(named)).await?;
        }
        let mut stay = Vec::new();
        for id in &ids {
            let send = self.account.ec2.delete_security_group().group_id(id).send();
            if held(self.account.change("ec2:DeleteSecurityGroup", send).await)? {
                stay.push(id.clone());
            }
        }
        if let Some(vpc) = groups.first().and_then(|group| group.vpc_id()).filter(|_| alone && !stay.is_empty()) {
            told.extend(self.users_of(marks, vpc, &stay).await?);
        }
        Ok(!ids.is_empty())
    }

    /// Removes subnets, gateways and VPC; whether there was any. The user's own have none of our tags.
    async fn remove_ground(
        &self,
        marks: &Marks,
        alone: bool,
        groups: bool,
        told: &mut Vec<String>,
    ) -> Result<bool, CloudError> {
        let mut inside = groups;
        for subnet in self.subnets(marks).await?.iter().filter_map(ec2::Subnet::subnet_id) {
            inside = true;
            let send = self.account.ec2.delete_subnet().subnet_id(subnet).send();
            held(self.account.change("ec2:DeleteSubnet", send).await)?;
        }
        for gateway in self.gateways(marks).await? {
            inside = true;
            self.remove_gateway(&gateway).await?;
        }
        let vpcs = self.vpcs(marks).await?;
        for vpc in vpcs.iter().filter_map(ec2::Vpc::vpc_id) {
            let send = self.account.ec2.delete_vpc().vpc_id(vpc).send();
            if held(self.account.change("ec2:DeleteVpc", send).await)? && alone {
                told.extend(self.strangers_in(marks, vpc, inside).await?);
            }
        }
        Ok(inside || !vpcs.is_empty())
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
}
