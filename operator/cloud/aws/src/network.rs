//! A cluster's network: VPC, subnets and way out, unless the user keeps them; security groups always.
//!
//! Every step looks before it makes. Most `Create*` calls of EC2 know no token: between a call and its first listing
//! only our memory knows, so a crash there can leave an object twice. Then the one that others hang on is used (or the
//! one with the least id), and removal takes all that bear the cluster's tag.

use aws_sdk_ec2::types as ec2;
use constellation_cloud::{CloudError, ClusterUid, Network, NetworkRequest};

use crate::{
    API_PORT, AwsCloud, Placement, Reach,
    account::Made,
    convert::{self, TAG_CLUSTER, TAG_OWNER, TAG_SLOT, filter, tag, tags},
    error::{paged, whole},
    removal::{HELD, fine},
    security::{self, ENDPOINT, EVERYWHERE, NODES, digest},
};

pub const VPC: &str = "vpc";
pub const GATEWAY: &str = "gateway";
pub const SUBNETS: &str = "subnets";

/// How a cluster's objects are marked.
#[derive(Clone, Debug)]
pub struct Marks {
    pub(crate) cluster: ClusterUid,
    pub(crate) name: String,
    pub(crate) owner: String,
}

impl Marks {
    /// Short enough for every name, and of this cluster only.
    pub(crate) fn short(&self) -> String {
        digest(&["cluster", &self.owner, &self.cluster.0], 16)
    }

    pub(crate) fn filters(&self) -> Vec<ec2::Filter> {
        let by = |key: &str, value: &str| filter(&format!("tag:{key}"), [value]);
        vec![by(TAG_CLUSTER, &self.cluster.0), by(TAG_OWNER, &self.owner)]
    }

    pub(crate) fn owns(&self, list: &[ec2::Tag]) -> bool {
        let tags = tags(list);
        tags.get(TAG_CLUSTER) == Some(&self.cluster.0.as_str()) && tags.get(TAG_OWNER) == Some(&self.owner.as_str())
    }

    pub(crate) fn specification(&self, kind: ec2::ResourceType, slot: Option<&str>) -> ec2::TagSpecification {
        let mut list = vec![
            tag("Name", &format!("constellation-{}", self.name)),
            tag(TAG_CLUSTER, &self.cluster.0),
            tag(TAG_OWNER, &self.owner),
        ];
        list.extend(slot.map(|slot| tag(TAG_SLOT, slot)));
        ec2::TagSpecification::builder().resource_type(kind).set_tags(Some(list)).build()
    }
}

/// Where a cluster's objects are put.
struct Ground {
    vpc: String,
    /// Addresses of the VPC.
    cidr: String,
    /// Whether the VPC has IPv6 addresses, too.
    six: bool,
    subnets: Vec<String>,
}

/// Whether a VPC has IPv6 addresses; those it had once are still listed.
fn has_six(vpc: &ec2::Vpc) -> bool {
    let mut blocks = vpc.ipv6_cidr_block_association_set().iter().filter_map(|block| block.ipv6_cidr_block_state());
    blocks.any(|state| state.state() == Some(&ec2::VpcCidrBlockStateCode::Associated))
}

fn nothing<T>(what: &str) -> impl FnOnce() -> Result<T, CloudError> {
    move || Err(CloudError::Transient(format!("{what} gave no id")))
}

/// Of several objects that are meant to be one.
fn first(mut ids: Vec<String>) -> Option<String> {
    ids.sort();
    ids.into_iter().next()
}

impl AwsCloud {
    pub(crate) fn marks(&self, cluster: &ClusterUid, name: &str) -> Marks {
        Marks { cluster: cluster.clone(), name: name.to_owned(), owner: self.settings.owner.clone() }
    }

    pub(crate) fn remember(&self, marks: &Marks, slot: &str, id: &str) {
        self.account.remember(&format!("{}/{slot}", marks.short()), Made::Id(id.to_owned()));
    }

    pub(crate) fn recalled(&self, marks: &Marks, slot: &str) -> Option<String> {
        match self.account.remembered(&format!("{}/{slot}", marks.short())) {
            Some(Made::Id(id)) => Some(id),
            _ => None,
        }
    }

    pub(crate) fn forget(&self, marks: &Marks, slot: &str) {
        self.account.forget(&format!("{}/{slot}", marks.short()));
    }

    pub(crate) async fn make_network(&self, request: &NetworkRequest) -> Result<Network, CloudError> {
        let marks = self.marks(&request.cluster, &request.name);
        let Ground { vpc, cidr, six, subnets } = match &self.settings.placement {
            Placement::Subnets(ids) => self.given_subnets(ids).await?,
            Placement::Zones(zones) => {
                let (vpc, six) = self.ensure_vpc(&marks, &request.node_cidr).await?;
                self.ensure_way_out(&marks, &vpc).await?;
                let subnets = self.ensure_subnets(&marks, &vpc, &request.node_cidr, zones).await?;
                Ground { vpc, cidr: request.node_cidr.clone(), six, subnets }
            }
        };
        let nodes = self.ensure_group(&marks, NODES, &vpc).await?;
        let endpoint = self.ensure_group(&marks, ENDPOINT, &vpc).await?;
        let (sources, out) = (&self.settings.sources, security::outwards(six));
        self.mend_rules(&nodes, &security::of_nodes(&nodes, &endpoint, sources), &out).await?;
        self.mend_rules(&endpoint, &security::of_endpoint(&cidr, sources), &out).await?;
        let inner = self.ensure_balancer(&marks, Reach::Internal, &vpc, &subnets, &endpoint).await?;
        let mut cert_sans = vec![inner.clone()];
        let mut outside = inner.clone();
        if self.settings.reach == Reach::External {
            outside = self.ensure_balancer(&marks, Reach::External, &vpc, &subnets, &endpoint).await?;
            cert_sans.push(outside.clone());
        }
        Ok(Network {
            id: vpc,
            endpoint: format!("{inner}:{API_PORT}"),
            external_url: format!("https://{outside}:{API_PORT}"),
            cert_sans,
        })
    }

    /// VPC, its addresses, and the subnets that the user named.
    async fn given_subnets(&self, ids: &[String]) -> Result<Ground, CloudError> {
        let send = self.account.ec2.describe_subnets().set_subnet_ids(Some(ids.to_vec())).send();
        let found = whole(self.account.read("ec2:DescribeSubnets", send).await?.subnets, "ec2:DescribeSubnets")?;
        let mut vpcs: Vec<_> = found.iter().filter_map(|subnet| subnet.vpc_id()).collect();
        vpcs.dedup();
        let [vpc] = vpcs.as_slice() else {
            return Err(CloudError::Unsupported(format!("subnets {} are not of one VPC", ids.join(", "))));
        };
        let send = self.account.ec2.describe_vpcs().vpc_ids(*vpc).send();
        let network = self.account.read("ec2:DescribeVpcs", send).await?.vpcs.unwrap_or_default();
        let cidr = network.first().and_then(|vpc| vpc.cidr_block()).unwrap_or_default().to_owned();
        convert::parse_cidr(&cidr)?;
        let six = network.first().is_some_and(has_six);
        Ok(Ground { vpc: (*vpc).to_owned(), cidr, six, subnets: ids.to_vec() })
    }

    pub(crate) async fn vpcs(&self, marks: &Marks) -> Result<Vec<ec2::Vpc>, CloudError> {
        let send = self.account.ec2.describe_vpcs().set_filters(Some(marks.filters())).max_results(100);
        paged!(self.account, "ec2:DescribeVpcs", send, vpcs)
    }

    pub(crate) async fn subnets(&self, marks: &Marks) -> Result<Vec<ec2::Subnet>, CloudError> {
        let send = self.account.ec2.describe_subnets().set_filters(Some(marks.filters())).max_results(100);
        paged!(self.account, "ec2:DescribeSubnets", send, subnets)
    }

    pub(crate) async fn gateways(&self, marks: &Marks) -> Result<Vec<ec2::InternetGateway>, CloudError> {
        let send = self.account.ec2.describe_internet_gateways().set_filters(Some(marks.filters())).max_results(100);
        paged!(self.account, "ec2:DescribeInternetGateways", send, internet_gateways)
    }

    /// The VPC, and whether it has IPv6 addresses: none of ours, but somebody may have given it some.
    async fn ensure_vpc(&self, marks: &Marks, cidr: &str) -> Result<(String, bool), CloudError> {
        let found = self.vpcs(marks).await?;
        let six = found.iter().any(has_six);
        if let Some(other) = found.iter().find(|vpc| vpc.cidr_block() != Some(cidr)) {
            let (id, now) = (other.vpc_id().unwrap_or_default(), other.cidr_block().unwrap_or_default());
            return Err(CloudError::Unsupported(format!("VPC {id} of this cluster has {now}, not {cidr}")));
        }
        let ids: Vec<_> = found.iter().filter_map(|vpc| vpc.vpc_id().map(str::to_owned)).collect();
        if ids.len() > 1 {
            let used = self.subnets(marks).await?.iter().filter_map(|s| s.vpc_id().map(str::to_owned)).collect();
            let keep = first(used).or_else(|| first(ids.clone())).unwrap_or_default();
            let gateways = self.gateways(marks).await?;
            for id in ids.iter().filter(|id| **id != keep) {
                let of = |one: &&ec2::InternetGateway| one.attachments().iter().any(|to| to.vpc_id() == Some(id));
                for gateway in gateways.iter().filter(of) {
                    self.remove_gateway(gateway).await?;
                }
                let send = self.account.ec2.delete_vpc().vpc_id(id).send();
                self.account.change("ec2:DeleteVpc", send).await.map(drop).or_else(|r| fine(r, HELD))?;
            }
            return Ok((keep, six));
        }
        if let Some(id) = first(ids).or_else(|| self.recalled(marks, VPC)) {
            return Ok((id, six));
        }
        convert::split(cidr, 1)?;
        let send = self.account.ec2.create_vpc().cidr_block(cidr);
        let send = send.tag_specifications(marks.specification(ec2::ResourceType::Vpc, None)).send();
        let made = self.account.change("ec2:CreateVpc", send).await?.vpc.and_then(|vpc| vpc.vpc_id);
        let id = made.map_or_else(nothing("CreateVpc"), Ok)?;
        self.remember(marks, VPC, &id);
        Ok((id, false))
    }

    /// An internet gateway, and the route to it in the VPC's main table.
    async fn ensure_way_out(&self, marks: &Marks, vpc: &str) -> Result<(), CloudError> {
        let found = self.gateways(marks).await?;
        let attached = |one: &&ec2::InternetGateway| one.attachments().iter().any(|to| to.vpc_id() == Some(vpc));
        let id = |one: &ec2::InternetGateway| one.internet_gateway_id().map(str::to_owned);
        let used = found.iter().find(attached).and_then(id);
        let known = used.clone().or_else(|| first(found.iter().filter_map(id).collect()));
        let gateway = if let Some(id) = known.or_else(|| self.recalled(marks, GATEWAY)) {
            id
        } else {
            let send = self.account.ec2.create_internet_gateway();
            let tags = marks.specification(ec2::ResourceType::InternetGateway, None);
            let made = self.account.change("ec2:CreateInternetGateway", send.tag_specifications(tags).send()).await?;
            let made = made.internet_gateway.and_then(|made| made.internet_gateway_id);
            let id = made.map_or_else(nothing("CreateInternetGateway"), Ok)?;
            self.remember(marks, GATEWAY, &id);
            id
        };
        let spare = |one: &&ec2::InternetGateway| one.attachments().is_empty() && id(one).as_ref() != Some(&gateway);
        for one in found.iter().filter(spare) {
            self.remove_gateway(one).await?;
        }
        if used.is_none() {
            let send = self.account.ec2.attach_internet_gateway().internet_gateway_id(&gateway).vpc_id(vpc).send();
            match self.account.change("ec2:AttachInternetGateway", send).await {
                Ok(_) => {}
                Err(refusal) if refusal.is(&["Resource.AlreadyAssociated"]) => {}
                Err(refusal) => return Err(refusal.into()),
            }
        }
        let send = self.account.ec2.describe_route_tables().filters(filter("vpc-id", [vpc]));
        let send = send.filters(filter("association.main", ["true"])).send();
        let tables = self.account.read("ec2:DescribeRouteTables", send).await?.route_tables.unwrap_or_default();
        let missing = || CloudError::Transient(format!("the route table of {vpc} is not listed yet"));
        let table = tables.first().ok_or_else(missing)?;
        let out = |route: &ec2::Route| route.destination_cidr_block() == Some(EVERYWHERE);
        let right = |route: &ec2::Route| route.gateway_id() == Some(gateway.as_str());
        match table.routes().iter().find(|route| out(route)) {
            Some(route) if right(route) => Ok(()),
            Some(_) => {
                let send = self.account.ec2.replace_route().set_route_table_id(table.route_table_id.clone());
                let send = send.destination_cidr_block(EVERYWHERE).gateway_id(&gateway).send();
                self.account.change("ec2:ReplaceRoute", send).await.map(drop).map_err(Into::into)
            }
            None => {
                let send = self.account.ec2.create_route().set_route_table_id(table.route_table_id.clone());
                let send = send.destination_cidr_block(EVERYWHERE).gateway_id(&gateway).send();
                match self.account.change("ec2:CreateRoute", send).await {
                    Err(refusal) if !refusal.is(&["RouteAlreadyExists"]) => Err(refusal.into()),
                    _ => Ok(()),
                }
            }
        }
    }

    async fn ensure_subnets(
        &self,
        marks: &Marks,
        vpc: &str,
        cidr: &str,
        zones: &[String],
    ) -> Result<Vec<String>, CloudError> {
        let found = self.subnets(marks).await?;
        let mut all = Vec::new();
        for (zone, part) in zones.iter().zip(convert::split(cidr, zones.len())?) {
            let here =
                |subnet: &&ec2::Subnet| subnet.vpc_id() == Some(vpc) && subnet.cidr_block() == Some(part.as_str());
            let slot = format!("subnet-{zone}");
            let known = found.iter().find(here).and_then(|subnet| subnet.subnet_id().map(str::to_owned));
            if let Some(id) = known.or_else(|| self.recalled(marks, &slot)) {
                all.push(id);
                continue;
            }
            let send = self.account.ec2.create_subnet().vpc_id(vpc).cidr_block(&part).availability_zone(zone);
            let send = send.tag_specifications(marks.specification(ec2::ResourceType::Subnet, None)).send();
            // Made before a crash and not listed yet, the addresses are taken: `InvalidSubnet.Conflict` ends this pass.
            let made = match self.account.change("ec2:CreateSubnet", send).await {
                Err(refusal) if refusal.is(&["InvalidSubnet.Conflict"]) => {
                    return Err(CloudError::Transient(format!("{part} in {vpc} is taken and not listed yet")));
                }
                made => made?.subnet.and_then(|subnet| subnet.subnet_id),
            };
            let id = made.map_or_else(nothing("CreateSubnet"), Ok)?;
            self.remember(marks, &slot, &id);
            all.push(id);
        }
        Ok(all)
    }

    /// Zones and subnets that a launch may use, in the order of trying: beginning elsewhere for each node, so that nodes
    /// without a zone are spread.
    pub(crate) async fn subnets_for(
        &self,
        marks: &Marks,
        zone: Option<&str>,
        index: u32,
    ) -> Result<Vec<(String, String)>, CloudError> {
        let text = if let Some(text) = self.recalled(marks, SUBNETS) {
            text
        } else {
            let (found, wanted) = match &self.settings.placement {
                Placement::Zones(zones) => (self.subnets(marks).await?, zones.len()),
                Placement::Subnets(ids) => {
                    let send = self.account.ec2.describe_subnets().set_subnet_ids(Some(ids.clone())).send();
                    let found = self.account.read("ec2:DescribeSubnets", send).await?.subnets;
                    (whole(found, "ec2:DescribeSubnets")?, ids.len())
                }
            };
            let pairs = found.iter().filter_map(|s| Some(format!("{}={}", s.availability_zone()?, s.subnet_id()?)));
            let mut pairs: Vec<_> = pairs.collect();
            pairs.sort();
            if pairs.len() < wanted {
                return Err(CloudError::Transient("not all subnets are listed yet".into()));
            }
            let text = pairs.join(",");
            self.remember(marks, SUBNETS, &text);
            text
        };
        let mut pairs: Vec<(String, String)> =
            text.split(',').filter_map(|p| p.split_once('=')).map(|(z, s)| (z.to_owned(), s.to_owned())).collect();
        if let Some(zone) = zone {
            pairs.retain(|(name, _)| name == zone);
            if pairs.is_empty() {
                return Err(CloudError::Unsupported(format!("zone {zone} is not one of the cluster's: {text}")));
            }
        }
        let start = usize::try_from(index).unwrap_or(0) % pairs.len().max(1);
        pairs.rotate_left(start);
        Ok(pairs)
    }
}
