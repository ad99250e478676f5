//! What the endpoint keeps: objects with attributes and tags, and how they are shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::{groups, model::Tree};

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Acl,
    Balancer,
    EgressGateway,
    Gateway,
    Group,
    Instance,
    Interface,
    Listener,
    RouteTable,
    Subnet,
    Targets,
    Vpc,
    VpcEndpoint,
    VpnGateway,
}

/// One object.
#[derive(Clone, Debug)]
pub struct Object {
    pub kind: Kind,
    pub id: String,
    pub attributes: BTreeMap<&'static str, String>,
    pub tags: BTreeMap<String, String>,
    /// What a group lets in: protocol, from, to, and a network, group or prefix list. Targets of a target group.
    pub members: BTreeSet<String>,
    /// What a group lets out.
    pub out: BTreeSet<String>,
    /// Lists show it from this call on.
    pub seen_from: u64,
    /// For instances: lists that still show it while it goes.
    pub fading: Option<u32>,
}

impl Object {
    pub fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    /// Whether the filters of a request let it through.
    pub fn passes(&self, request: &Tree) -> bool {
        request.list("Filter").into_iter().all(|filter| {
            let values = filter.texts("Value");
            match filter.text("Name").unwrap() {
                "tag-key" => values.iter().any(|key| self.tags.contains_key(*key)),
                // An object with a VPC is attached to it, and an interface's attribute names its groups.
                "attachment.vpc-id" => values.contains(&self.get("vpc-id")),
                "attachment.state" => values.contains(&"attached"),
                "association.main" => false,
                "ip-permission.group-id" => names(&self.members, &values),
                "egress.ip-permission.group-id" => names(&self.out, &values),
                name => match name.strip_prefix("tag:") {
                    Some(key) => self.tags.get(key).is_some_and(|value| values.contains(&value.as_str())),
                    None => values.contains(&self.get(name)),
                },
            }
        })
    }

    /// What is the same in every run: no ids.
    pub fn print(&self, names: &BTreeMap<String, String>) -> String {
        let told = |text: &str| names.iter().fold(text.to_owned(), |text, (id, name)| text.replace(id.as_str(), name));
        let shown: Vec<_> = self
            .attributes
            .iter()
            .filter(|(name, _)| !["private", "public", "launched", "token", "user-data"].contains(*name))
            .map(|(name, value)| format!("{name}={}", told(value)))
            .collect();
        let [members, out] =
            [&self.members, &self.out].map(|all| all.iter().map(|one| told(one)).collect::<BTreeSet<_>>());
        format!("{:?} {} {:?} {members:?} {out:?}", self.kind, shown.join(" "), self.tags)
    }

    pub fn xml(&self) -> String {
        let tags = items(self.tags.iter().map(|(k, v)| format!("<key>{k}</key><value>{v}</value>")));
        let of = |name: &str| self.get(name).to_owned();
        match self.kind {
            Kind::Vpc => {
                let block = |state: &str| format!("<ipv6CidrBlockState><state>{state}</state></ipv6CidrBlockState>");
                let six = items(Some(self.get("six")).filter(|state| !state.is_empty()).map(block));
                format!(
                    "<vpcId>{}</vpcId><cidrBlock>{}</cidrBlock><state>available</state><tagSet>{tags}</tagSet>\
                     <ipv6CidrBlockAssociationSet>{six}</ipv6CidrBlockAssociationSet>",
                    self.id,
                    of("cidr")
                )
            }
            Kind::Subnet => format!(
                "<subnetId>{}</subnetId><vpcId>{}</vpcId><cidrBlock>{}</cidrBlock><availabilityZone>{}</availabilityZone>\
                 <tagSet>{tags}</tagSet>",
                self.id,
                of("vpc-id"),
                of("cidr"),
                of("zone")
            ),
            Kind::Gateway => {
                let vpc = of("vpc-id");
                let to = if vpc.is_empty() { String::new() } else { format!("<item><vpcId>{vpc}</vpcId></item>") };
                format!(
                    "<internetGatewayId>{}</internetGatewayId><attachmentSet>{to}</attachmentSet><tagSet>{tags}</tagSet>",
                    self.id
                )
            }
            Kind::Group => {
                let (rules, out) = (groups::xml(&self.members), groups::xml(&self.out));
                format!(
                    "<groupId>{}</groupId><groupName>{}</groupName><vpcId>{}</vpcId><ipPermissions>{rules}</ipPermissions>\
                     <ipPermissionsEgress>{out}</ipPermissionsEgress><tagSet>{tags}</tagSet>",
                    self.id,
                    of("group-name"),
                    of("vpc-id")
                )
            }
            Kind::Instance => format!(
                "<instanceId>{}</instanceId><imageId>{}</imageId><instanceState><name>{}</name></instanceState>\
                 <instanceType>{}</instanceType><placement><availabilityZone>{}</availabilityZone></placement>\
                 <privateIpAddress>{}</privateIpAddress><ipAddress>{}</ipAddress><launchTime>{}</launchTime>\
                 <cpuOptions><coreCount>1</coreCount><threadsPerCore>2</threadsPerCore></cpuOptions>\
                 <reason>{}</reason><stateReason><code>{}</code><message>{}</message></stateReason><tagSet>{tags}</tagSet>",
                self.id,
                of("image"),
                of("instance-state-name"),
                of("instance-type"),
                of("zone"),
                of("private"),
                of("public"),
                of("launched"),
                of("transition"),
                of("code"),
                of("why"),
            ),
            Kind::Interface => format!(
                "<networkInterfaceId>{}</networkInterfaceId><description>{}</description><tagSet>{tags}</tagSet>",
                self.id,
                of("description")
            ),
            Kind::Balancer => format!(
                "<LoadBalancerArn>{}</LoadBalancerArn><LoadBalancerName>{}</LoadBalancerName><DNSName>{}</DNSName>",
                self.id,
                of("name"),
                of("dns")
            ),
            Kind::Targets => {
                format!("<TargetGroupArn>{}</TargetGroupArn><TargetGroupName>{}</TargetGroupName>", self.id, of("name"))
            }
            Kind::Listener => format!("<ListenerArn>{}</ListenerArn><Port>{}</Port>", self.id, of("port")),
            Kind::Acl => format!("<networkAclId>{}</networkAclId><tagSet>{tags}</tagSet>", self.id),
            Kind::EgressGateway => format!(
                "<egressOnlyInternetGatewayId>{}</egressOnlyInternetGatewayId><attachmentSet><item><vpcId>{}</vpcId></item>\
                 </attachmentSet><tagSet>{tags}</tagSet>",
                self.id,
                of("vpc-id")
            ),
            Kind::RouteTable => format!("<routeTableId>{}</routeTableId><tagSet>{tags}</tagSet>", self.id),
            Kind::VpcEndpoint => {
                format!(
                    "<vpcEndpointId>{}</vpcEndpointId><state>{}</state><tagSet>{tags}</tagSet>",
                    self.id,
                    of("state")
                )
            }
            Kind::VpnGateway => format!("<vpnGatewayId>{}</vpnGatewayId><tagSet>{tags}</tagSet>", self.id),
        }
    }
}

/// Whether a rule names one of these groups.
fn names(rules: &BTreeSet<String>, groups: &[&str]) -> bool {
    rules.iter().any(|rule| groups.iter().any(|group| rule.split(' ').any(|word| word == *group)))
}

/// `<item>` around each.
pub fn items(all: impl IntoIterator<Item = String>) -> String {
    all.into_iter().fold(String::new(), |mut text, one| {
        write!(text, "<item>{one}</item>").unwrap();
        text
    })
}

/// `<member>` around each.
pub fn members(all: impl IntoIterator<Item = String>) -> String {
    all.into_iter().fold(String::new(), |mut text, one| {
        write!(text, "<member>{one}</member>").unwrap();
        text
    })
}
