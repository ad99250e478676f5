//! Security groups: what they should allow, what to change, and names that need no memory.

use std::collections::BTreeSet;

use aws_sdk_ec2::types::{self as ec2, UserIdGroupPair};
use constellation_cloud::CloudError;
use sha2::{Digest as _, Sha256};

use crate::{
    API_PORT, AwsCloud, OWNER_PORT, VERIFIER_PORT,
    convert::{TAG_SLOT, filter, tags},
    error::paged,
    network::Marks,
};

/// Of nodes.
pub const NODES: &str = "nodes";
/// Of the load balancers.
pub const ENDPOINT: &str = "endpoint";
/// All of IPv4.
pub const EVERYWHERE: &str = "0.0.0.0/0";
/// All of IPv6.
const EVERYWHERE_SIX: &str = "::/0";

/// A name of `length` characters (at most 64) that only these words give: hex of their SHA-256.
pub fn digest(words: &[&str], length: usize) -> String {
    use std::fmt::Write as _;
    let mut hash = Sha256::new();
    for word in words {
        hash.update(u64::try_from(word.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(word);
    }
    let mut text = String::new();
    for byte in hash.finalize() {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.truncate(length);
    text
}

/// Who may come in, or where one may go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A network.
    Cidr(String),
    /// Members of a group.
    Group(String),
    /// Networks of a list that somebody keeps elsewhere.
    PrefixList(String),
}

/// Which way packets go that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into what has the group.
    In,
    /// Out of it.
    Out,
}

/// What becomes of rules.
#[derive(Clone, Copy)]
pub(crate) enum Change {
    /// They hold.
    Permit,
    /// They don't.
    Revoke,
}

/// What may come in or go out, one source and one range of ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// `tcp`, or `-1` for everything.
    pub protocol: String,
    /// First port; -1 where all are meant.
    pub from: i32,
    /// Last port.
    pub to: i32,
    /// Who.
    pub source: Source,
}

impl Rule {
    fn tcp(port: u16, source: Source) -> Self {
        Self { protocol: "tcp".into(), from: port.into(), to: port.into(), source }
    }

    fn all(source: Source) -> Self {
        Self { protocol: "-1".into(), from: -1, to: -1, source }
    }
}

/// Rules of the nodes: all among themselves, the endpoint to API server and verifiers, the owner from where he is.
pub fn of_nodes(nodes: &str, endpoint: &str, sources: &[String]) -> BTreeSet<Rule> {
    let among = Rule::all(Source::Group(nodes.to_owned()));
    let owner = sources.iter().map(|cidr| Rule::tcp(OWNER_PORT, Source::Cidr(cidr.clone())));
    let served = [API_PORT, VERIFIER_PORT].map(|port| Rule::tcp(port, Source::Group(endpoint.to_owned())));
    owner.chain([among]).chain(served).collect()
}

/// Rules of the endpoint: the nodes' network, and users of the API server from where they are.
pub fn of_endpoint(network: &str, sources: &[String]) -> BTreeSet<Rule> {
    let all = sources.iter().map(String::as_str).chain([network]);
    let api = all.map(|cidr| Rule::tcp(API_PORT, Source::Cidr(cidr.to_owned())));
    api.chain([Rule::tcp(VERIFIER_PORT, Source::Cidr(network.to_owned()))]).collect()
}

/// Where both may go: everywhere, as EC2 lets a new group ("Default security groups for your VPCs": IPv6 only where the VPC
/// has some). Nodes fetch from registries and ask AWS and each other; balancers pass on to nodes.
pub fn outwards(six: bool) -> BTreeSet<Rule> {
    let all = |cidr: &str| Rule::all(Source::Cidr(cidr.to_owned()));
    [all(EVERYWHERE)].into_iter().chain(six.then(|| all(EVERYWHERE_SIX))).collect()
}

/// Rules as EC2 shows them, in whatever form: what is none of ours is to be seen as too much.
pub fn seen(permissions: &[ec2::IpPermission]) -> BTreeSet<Rule> {
    let mut rules = BTreeSet::new();
    for permission in permissions {
        let protocol = permission.ip_protocol().unwrap_or("-1").to_owned();
        let (from, to) = (permission.from_port().unwrap_or(-1), permission.to_port().unwrap_or(-1));
        let cidrs = permission.ip_ranges().iter().filter_map(|range| range.cidr_ip());
        let six = permission.ipv6_ranges().iter().filter_map(|range| range.cidr_ipv6());
        let groups = permission.user_id_group_pairs().iter().filter_map(UserIdGroupPair::group_id);
        let lists = permission.prefix_list_ids().iter().filter_map(|list| list.prefix_list_id());
        let sources = cidrs.chain(six).map(|cidr| Source::Cidr(cidr.to_owned()));
        let sources = sources.chain(groups.map(|group| Source::Group(group.to_owned())));
        for source in sources.chain(lists.map(|list| Source::PrefixList(list.to_owned()))) {
            rules.insert(Rule { protocol: protocol.clone(), from, to, source });
        }
    }
    rules
}

/// A rule as EC2 takes it.
pub fn permission(rule: &Rule) -> ec2::IpPermission {
    let permission = ec2::IpPermission::builder().ip_protocol(&rule.protocol);
    let permission = if rule.protocol == "-1" { permission } else { permission.from_port(rule.from).to_port(rule.to) };
    match &rule.source {
        Source::Cidr(cidr) if cidr.contains(':') => {
            permission.ipv6_ranges(ec2::Ipv6Range::builder().cidr_ipv6(cidr).build()).build()
        }
        Source::Cidr(cidr) => permission.ip_ranges(ec2::IpRange::builder().cidr_ip(cidr).build()).build(),
        Source::Group(group) => {
            permission.user_id_group_pairs(UserIdGroupPair::builder().group_id(group).build()).build()
        }
        Source::PrefixList(list) => {
            permission.prefix_list_ids(ec2::PrefixListId::builder().prefix_list_id(list).build()).build()
        }
    }
}

impl AwsCloud {
    /// The groups of a cluster that exist, by slot.
    pub(crate) async fn groups(&self, marks: &Marks) -> Result<Vec<ec2::SecurityGroup>, CloudError> {
        let send = self.account.ec2.describe_security_groups().set_filters(Some(marks.filters())).max_results(100);
        paged!(self.account, "ec2:DescribeSecurityGroups", send, security_groups)
    }

    /// Makes a group, unless it is there.
    pub(crate) async fn ensure_group(
        &self,
        marks: &Marks,
        slot: &'static str,
        vpc: &str,
    ) -> Result<String, CloudError> {
        if let Some(id) = self.group_of(marks, slot).await? {
            return Ok(id);
        }
        let name = format!("constellation-{}-{slot}", marks.short());
        let send = self
            .account
            .ec2
            .create_security_group()
            .group_name(&name)
            .description(format!("Constellation cluster: {slot}"))
            .vpc_id(vpc)
            .tag_specifications(marks.specification(ec2::ResourceType::SecurityGroup, Some(slot)));
        match self.account.change("ec2:CreateSecurityGroup", send.send()).await {
            Ok(made) => {
                let id = made.group_id.ok_or_else(|| CloudError::Transient("CreateSecurityGroup gave no id".into()))?;
                self.remember(marks, slot, &id);
                Ok(id)
            }
            Err(refusal) if refusal.is(&["InvalidGroup.Duplicate"]) => {
                // Names are unique in a VPC: it is ours and not listed yet, or somebody else's.
                let send = self.account.ec2.describe_security_groups();
                let send = send.filters(filter("group-name", [&name])).filters(filter("vpc-id", [vpc])).send();
                let found = self.account.read("ec2:DescribeSecurityGroups", send).await?.security_groups;
                let found = found.unwrap_or_default().into_iter().next();
                let ours = found.as_ref().filter(|group| marks.owns(group.tags()));
                match (ours.and_then(|group| group.group_id()), &found) {
                    (Some(id), _) => Ok(id.to_owned()),
                    (None, None) => Err(CloudError::Transient(format!("security group {name} is not listed yet"))),
                    (None, Some(_)) => Err(CloudError::Unsupported(format!(
                        "security group {name} is somebody else's: delete or tag it"
                    ))),
                }
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// The group of a slot, if it is there.
    pub(crate) async fn group_of(&self, marks: &Marks, slot: &str) -> Result<Option<String>, CloudError> {
        let groups = self.groups(marks).await?;
        let found = groups.iter().find(|group| tags(group.tags()).get(TAG_SLOT) == Some(&slot));
        Ok(found.and_then(|group| group.group_id().map(str::to_owned)).or_else(|| self.recalled(marks, slot)))
    }

    /// Makes a group's rules exactly these, both ways: adds what is missing before it takes away what is too much.
    pub(crate) async fn mend_rules(
        &self,
        id: &str,
        inwards: &BTreeSet<Rule>,
        outwards: &BTreeSet<Rule>,
    ) -> Result<(), CloudError> {
        let send = self.account.ec2.describe_security_groups().group_ids(id).send();
        let found = match self.account.read("ec2:DescribeSecurityGroups", send).await {
            Ok(found) => found.security_groups.unwrap_or_default().into_iter().next(),
            Err(refusal) if refusal.is_not_found() => None,
            Err(refusal) => return Err(refusal.into()),
        };
        let shown = |group: ec2::SecurityGroup| (seen(group.ip_permissions()), seen(group.ip_permissions_egress()));
        // Made a moment ago, and not known everywhere yet: it lets nobody in, and everything out.
        let (now_in, now_out) = found.map_or_else(|| (BTreeSet::new(), outwards.clone()), shown);
        for (direction, wanted, now) in [(Direction::In, inwards, now_in), (Direction::Out, outwards, now_out)] {
            self.alter(id, Change::Permit, direction, wanted.difference(&now)).await?;
            let extra: Vec<_> = now.difference(wanted).collect();
            if !extra.is_empty() {
                tracing::warn!(
                    group = id,
                    rules = extra.len(),
                    ?direction,
                    "Revoking rules that somebody added to a group"
                );
            }
            self.alter(id, Change::Revoke, direction, extra).await?;
        }
        Ok(())
    }

    /// Gives rules to a group, or takes them away. What is so already is no matter.
    pub(crate) async fn alter(
        &self,
        id: &str,
        change: Change,
        direction: Direction,
        rules: impl IntoIterator<Item = &Rule>,
    ) -> Result<(), CloudError> {
        let rules: Vec<_> = rules.into_iter().map(permission).collect();
        if rules.is_empty() {
            return Ok(());
        }
        let (account, ec2, rules) = (&self.account, &self.account.ec2, Some(rules));
        let done = match (change, direction) {
            (Change::Permit, Direction::In) => {
                let call = ec2.authorize_security_group_ingress().group_id(id).set_ip_permissions(rules);
                account.change("ec2:AuthorizeSecurityGroupIngress", call.send()).await.map(drop)
            }
            (Change::Permit, Direction::Out) => {
                let call = ec2.authorize_security_group_egress().group_id(id).set_ip_permissions(rules);
                account.change("ec2:AuthorizeSecurityGroupEgress", call.send()).await.map(drop)
            }
            (Change::Revoke, Direction::In) => {
                let call = ec2.revoke_security_group_ingress().group_id(id).set_ip_permissions(rules);
                account.change("ec2:RevokeSecurityGroupIngress", call.send()).await.map(drop)
            }
            (Change::Revoke, Direction::Out) => {
                let call = ec2.revoke_security_group_egress().group_id(id).set_ip_permissions(rules);
                account.change("ec2:RevokeSecurityGroupEgress", call.send()).await.map(drop)
            }
        };
        let so_already = match change {
            Change::Permit => "InvalidPermission.Duplicate",
            Change::Revoke => "InvalidPermission.NotFound",
        };
        match done {
            Err(refusal) if !refusal.is(&[so_already]) => Err(refusal.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_is_what_was_asked_for_and_a_stranger_stands_out() {
        let wanted = of_nodes("sg-1", "sg-2", &["192.0.2.0/24".into()]);
        let mut shown: Vec<_> = wanted.iter().map(permission).collect();
        assert_eq!(seen(&shown), wanted);
        for source in [Source::Cidr(EVERYWHERE.into()), Source::Cidr("::/0".into()), Source::PrefixList("pl-1".into())]
        {
            let stranger = Rule::tcp(22, source);
            shown.push(permission(&stranger));
            assert_eq!(seen(&shown).difference(&wanted).collect::<Vec<_>>(), [&stranger]);
            shown.pop();
        }
    }

    #[test]
    fn everything_may_go_out_and_by_ipv6_where_there_is_some() {
        assert_eq!(outwards(false), BTreeSet::from([Rule::all(Source::Cidr("0.0.0.0/0".into()))]));
        assert_eq!(
            outwards(true).difference(&outwards(false)).collect::<Vec<_>>(),
            [&Rule::all(Source::Cidr("::/0".into()))]
        );
        let shown: Vec<_> = outwards(true).iter().map(permission).collect();
        assert_eq!(seen(&shown), outwards(true));
    }

    #[test]
    fn names_differ_where_any_word_or_its_border_does() {
        let all = [digest(&["a", "b"], 64), digest(&["ab"], 64), digest(&["a", "c"], 64), digest(&["a", "b", ""], 64)];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 4);
        assert_eq!(digest(&["a"], 12).len(), 12);
    }
}
