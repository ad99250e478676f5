//! Who holds what is to go: what is in a cluster's network, or uses it, and is not the cluster's. Only looks.
//!
//! Asked only after something could not be deleted: whoever put a thing there must know what it is for.

use aws_sdk_ec2::types as ec2;
use constellation_cloud::CloudError;

use crate::{AwsCloud, convert::filter, network::Marks};

/// The security group that goes with its VPC ("Default security groups for your VPCs").
const DEFAULT: &str = "default";

/// Things of others, each in words with its id.
struct Strangers<'a> {
    marks: &'a Marks,
    found: Vec<String>,
}

impl Strangers<'_> {
    fn add(&mut self, kind: &str, id: Option<&str>, tags: &[ec2::Tag]) {
        if let Some(id) = id.filter(|_| !self.marks.owns(tags)) {
            self.found.push(format!("{kind} {id}"));
        }
    }
}

impl AwsCloud {
    /// Who uses these groups of ours, in a sentence; nothing where nobody but us does. Rules of another VPC don't count:
    /// EC2 deletes a group that only these name ("`DescribeStaleSecurityGroups`").
    pub(crate) async fn users_of(
        &self,
        marks: &Marks,
        vpc: &str,
        groups: &[String],
    ) -> Result<Option<String>, CloudError> {
        let (ours_too, mut found) = self.interfaces(marks, filter("group-id", groups)).await?;
        if ours_too && found.is_empty() {
            return Ok(None);
        }
        let mut users = Strangers { marks, found: Vec::new() };
        for name in ["ip-permission.group-id", "egress.ip-permission.group-id"] {
            let send = self.account.ec2.describe_security_groups().filters(filter("vpc-id", [vpc]));
            let shown =
                self.account.read("ec2:DescribeSecurityGroups", send.filters(filter(name, groups)).send()).await?;
            for group in shown.security_groups() {
                users.add("a rule of security group", group.group_id(), group.tags());
            }
        }
        // One whose rules name ours both ways is one.
        users.found.sort();
        users.found.dedup();
        found.extend(users.found);
        let (ours, users) = (groups.join(", "), found.join(", "));
        let told = format!("security group {ours} is still used by {users}: take it out of there");
        Ok((!found.is_empty()).then_some(told))
    }

    /// What others have in a VPC of ours that can't be deleted, in a sentence. Nothing while `ours` is still in it and
    /// nobody else's is.
    pub(crate) async fn strangers_in(
        &self,
        marks: &Marks,
        vpc: &str,
        ours: bool,
    ) -> Result<Option<String>, CloudError> {
        let (ours_too, found) = self.interfaces(marks, filter("vpc-id", [vpc])).await?;
        if ours_too && found.is_empty() {
            return Ok(None);
        }
        let mut all = Strangers { marks, found };
        self.parts_of(vpc, &mut all).await?;
        self.ways_out_of(vpc, &mut all).await?;
        if !all.found.is_empty() {
            let list = all.found.join(", ");
            return Ok(Some(format!("VPC {vpc} can't be deleted: {list} in it are not this cluster's; delete them")));
        }
        if ours {
            return Ok(None);
        }
        // Perhaps a list is late.
        Err(CloudError::Transient(format!(
            "VPC {vpc} can't be deleted, and nothing is in it that the operator knows of: look what EC2's console shows there"
        )))
    }

    /// Whether there are interfaces of ours, which outlive their load balancers by minutes; and those of others: of their
    /// instances, balancers, NAT gateways, endpoints, functions, databases.
    async fn interfaces(&self, marks: &Marks, which: ec2::Filter) -> Result<(bool, Vec<String>), CloudError> {
        let send = self.account.ec2.describe_network_interfaces().filters(which).send();
        let shown = self.account.read("ec2:DescribeNetworkInterfaces", send).await?;
        // A load balancer's have no tags.
        let balancers = format!("ELB net/{}", crate::endpoint::name(marks, ""));
        let mut all = Strangers { marks, found: Vec::new() };
        for one in shown.network_interfaces() {
            let what = one.description().unwrap_or_default();
            let id = one.network_interface_id().filter(|_| !what.starts_with(&balancers));
            let id = id.map(|id| if what.is_empty() { id.to_owned() } else { format!("{id} ({what})") });
            all.add("network interface", id.as_deref(), one.tag_set());
        }
        Ok((all.found.len() < shown.network_interfaces().len(), all.found))
    }

    /// Subnets, groups, route tables and network ACLs.
    async fn parts_of(&self, vpc: &str, all: &mut Strangers<'_>) -> Result<(), CloudError> {
        let (account, here) = (&self.account, filter("vpc-id", [vpc]));
        let send = account.ec2.describe_subnets().filters(here.clone()).send();
        for one in account.read("ec2:DescribeSubnets", send).await?.subnets() {
            all.add("subnet", one.subnet_id(), one.tags());
        }
        let send = account.ec2.describe_security_groups().filters(here.clone()).send();
        for one in account.read("ec2:DescribeSecurityGroups", send).await?.security_groups() {
            all.add("security group", one.group_id().filter(|_| one.group_name() != Some(DEFAULT)), one.tags());
        }
        let send = account.ec2.describe_route_tables().filters(here.clone()).send();
        for one in account.read("ec2:DescribeRouteTables", send).await?.route_tables() {
            let main = one.associations().iter().any(|to| to.main() == Some(true));
            all.add("route table", one.route_table_id().filter(|_| !main), one.tags());
        }
        let send = account.ec2.describe_network_acls().filters(here).send();
        for one in account.read("ec2:DescribeNetworkAcls", send).await?.network_acls() {
            all.add("network ACL", one.network_acl_id().filter(|_| one.is_default() != Some(true)), one.tags());
        }
        Ok(())
    }

    /// Gateways and endpoints. A NAT gateway and most endpoints show as interfaces, too.
    async fn ways_out_of(&self, vpc: &str, all: &mut Strangers<'_>) -> Result<(), CloudError> {
        let (account, attached) = (&self.account, filter("attachment.vpc-id", [vpc]));
        let send = account.ec2.describe_internet_gateways().filters(attached.clone()).send();
        for one in account.read("ec2:DescribeInternetGateways", send).await?.internet_gateways() {
            all.add("internet gateway", one.internet_gateway_id(), one.tags());
        }
        // EC2 has no filter for their VPC.
        let send = account.ec2.describe_egress_only_internet_gateways().send();
        for one in account.read("ec2:DescribeEgressOnlyInternetGateways", send).await?.egress_only_internet_gateways() {
            let here = one.attachments().iter().any(|to| to.vpc_id() == Some(vpc));
            let id = one.egress_only_internet_gateway_id().filter(|_| here);
            all.add("egress-only internet gateway", id, one.tags());
        }
        // One that was detached or deleted is listed for a while.
        let now = filter("attachment.state", ["attaching", "attached", "detaching"]);
        let send = account.ec2.describe_vpn_gateways().filters(attached).filters(now).send();
        for one in account.read("ec2:DescribeVpnGateways", send).await?.vpn_gateways() {
            all.add("VPN gateway", one.vpn_gateway_id(), one.tags());
        }
        let send = account.ec2.describe_vpc_endpoints().filters(filter("vpc-id", [vpc])).send();
        for one in account.read("ec2:DescribeVpcEndpoints", send).await?.vpc_endpoints() {
            let gone = one.state().is_some_and(|state| state.as_str().eq_ignore_ascii_case("deleted"));
            all.add("VPC endpoint", one.vpc_endpoint_id().filter(|_| !gone), one.tags());
        }
        Ok(())
    }
}
