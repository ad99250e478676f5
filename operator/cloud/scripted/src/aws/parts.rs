//! What a VPC may have besides what a cluster makes: its own default parts, and whatever somebody else put there.

use super::{
    model::Tree,
    objects::{Kind, Object, items},
    world::{Reply, World},
};

impl World {
    /// Lists of kinds that no cluster makes.
    pub(super) fn parts(&self, action: &str, request: &Tree) -> Option<Reply> {
        let (kind, set) = match action {
            "DescribeEgressOnlyInternetGateways" => (Kind::EgressGateway, "egressOnlyInternetGatewaySet"),
            "DescribeNetworkAcls" => (Kind::Acl, "networkAclSet"),
            "DescribeNetworkInterfaces" => (Kind::Interface, "networkInterfaceSet"),
            "DescribeRouteTables" => (Kind::RouteTable, "routeTableSet"),
            "DescribeVpcEndpoints" => (Kind::VpcEndpoint, "vpcEndpointSet"),
            "DescribeVpnGateways" => (Kind::VpnGateway, "vpnGatewaySet"),
            _ => return None,
        };
        let of_vpc = self.default_of(kind, request.text("Filter.1.Value.1").unwrap_or_default());
        let shown = self.shown(kind, request);
        let all = of_vpc.into_iter().chain(shown.iter().map(Object::xml));
        Some(Ok(format!("<{set}>{}</{set}>", items(all))))
    }

    /// What is there from a VPC's first moment to its last.
    pub(super) fn default_of(&self, kind: Kind, vpc: &str) -> Option<String> {
        match kind {
            Kind::Acl => Some("<networkAclId>acl-default</networkAclId><default>true</default>".into()),
            Kind::Group => Some("<groupId>sg-default</groupId><groupName>default</groupName>".into()),
            Kind::RouteTable => {
                let route = self.routes.get(vpc).map(|gateway| {
                    format!("<destinationCidrBlock>0.0.0.0/0</destinationCidrBlock><gatewayId>{gateway}</gatewayId>")
                });
                Some(format!(
                    "<routeTableId>rtb-{vpc}</routeTableId><routeSet>{}</routeSet><associationSet><item><main>true</main>\
                     </item></associationSet>",
                    items(route)
                ))
            }
            _ => None,
        }
    }
}
