//! Security groups: what they let in and out, and who names whom.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    model::Tree,
    objects::{Kind, items},
    world::{Reply, World},
};

/// What EC2 lets a new group do, and by IPv6 where the VPC has some.
const OUT: &str = "-1 -1 -1 0.0.0.0/0";
const OUT_SIX: &str = "-1 -1 -1 ::/0";

impl World {
    pub(super) fn create_group(&mut self, request: &Tree, tags: BTreeMap<String, String>) -> Reply {
        let vpc = request.text("VpcId").unwrap_or_default().to_owned();
        let name = request.text("GroupName").unwrap().to_owned();
        if self.of(Kind::Group).iter().any(|one| one.get("group-name") == name && one.get("vpc-id") == vpc) {
            return Err((400, "InvalidGroup.Duplicate"));
        }
        let six = self.objects.get(&vpc).is_some_and(|vpc| !vpc.get("six").is_empty());
        let id = self.id("sg");
        self.add(Kind::Group, &id, &[("group-name", &name), ("vpc-id", &vpc)], tags);
        let out = [OUT].into_iter().chain(six.then_some(OUT_SIX)).map(str::to_owned);
        self.objects.get_mut(&id).unwrap().out.extend(out);
        Ok(format!("<groupId>{id}</groupId>"))
    }

    /// All or nothing, as EC2 does it outside default VPCs.
    pub(super) fn change_rules(&mut self, action: &str, request: &Tree) -> Reply {
        let rules = rules(request);
        let group = self.must(request.text("GroupId"), "InvalidGroup.NotFound")?;
        let now = if action.ends_with("Egress") { &mut group.out } else { &mut group.members };
        if action.starts_with('A') {
            if !now.is_disjoint(&rules) {
                return Err((400, "InvalidPermission.Duplicate"));
            }
            now.extend(rules);
        } else {
            if !rules.is_subset(now) {
                return Err((400, "InvalidPermission.NotFound"));
            }
            now.retain(|rule| !rules.contains(rule));
        }
        Ok("<return>true</return>".into())
    }
}

/// Rules of a request, each as protocol, from, to and source.
fn rules(request: &Tree) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for rule in request.list("IpPermissions") {
        let of = |name: &str| rule.text(name).unwrap_or("-1").to_owned();
        let (protocol, from, to) = (of("IpProtocol"), of("FromPort"), of("ToPort"));
        let kinds = [
            ("Groups", "GroupId"),
            ("IpRanges", "CidrIp"),
            ("Ipv6Ranges", "CidrIpv6"),
            ("PrefixListIds", "PrefixListId"),
        ];
        for (list, name) in kinds {
            let sources = rule.list(list).into_iter().filter_map(|one| one.text(name));
            all.extend(sources.map(|source| format!("{protocol} {from} {to} {source}")));
        }
    }
    all
}

/// Rules as EC2 shows them.
pub fn xml(rules: &BTreeSet<String>) -> String {
    items(rules.iter().map(|rule| {
        let [protocol, from, to, source] = rule.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let ports =
            if protocol == "-1" { String::new() } else { format!("<fromPort>{from}</fromPort><toPort>{to}</toPort>") };
        let (set, name) = match source {
            group if group.starts_with("sg-") => ("groups", "groupId"),
            list if list.starts_with("pl-") => ("prefixListIds", "prefixListId"),
            six if six.contains(':') => ("ipv6Ranges", "cidrIpv6"),
            _ => ("ipRanges", "cidrIp"),
        };
        format!("<ipProtocol>{protocol}</ipProtocol>{ports}<{set}><item><{name}>{source}</{name}></item></{set}>")
    }))
}
