//! The endpoint: a network load balancer inside the VPC for nodes, and one outside for users where they come from there.
//!
//! Two, because nodes reach an outer one from their public addresses, which no rule can name in advance. Names are
//! unique in an account and region and come from the cluster: nothing can be made twice.

use std::collections::BTreeSet;

use aws_sdk_elasticloadbalancingv2::types::{
    self as elb, LoadBalancerSchemeEnum, LoadBalancerTypeEnum, ProtocolEnum, TargetTypeEnum,
};
use constellation_cloud::{CloudError, ClusterUid, InstanceId};

use crate::{
    API_PORT, AwsCloud, Reach, VERIFIER_PORT,
    convert::{self, TAG_CLUSTER, TAG_OWNER},
    error::whole,
    network::Marks,
    removal::fine,
};

/// Both sides, inner first.
const SIDES: [Reach; 2] = [Reach::Internal, Reach::External];

/// A port of one side, and the word that its target group's name ends in.
struct Way {
    side: Reach,
    port: u16,
    word: &'static str,
}

/// Users need the API server only; nodes need the verifiers as well.
const WAYS: [Way; 3] = [
    Way { side: Reach::Internal, port: API_PORT, word: "in" },
    Way { side: Reach::Internal, port: VERIFIER_PORT, word: "in-join" },
    Way { side: Reach::External, port: API_PORT, word: "out" },
];

fn ways(side: Reach) -> impl Iterator<Item = &'static Way> {
    WAYS.iter().filter(move |way| way.side == side)
}

/// At most 32 characters, and not beginning with `internal-` ("`CreateLoadBalancer`", Name).
pub fn name(marks: &Marks, word: &str) -> String {
    format!("cstl-{}-{word}", marks.short())
}

fn balancer_name(marks: &Marks, side: Reach) -> String {
    name(marks, if side == Reach::Internal { "in" } else { "out" })
}

fn tags(marks: &Marks) -> Vec<elb::Tag> {
    [(TAG_CLUSTER, &marks.cluster.0), (TAG_OWNER, &marks.owner)]
        .map(|(key, value)| elb::Tag::builder().key(key).value(value).build())
        .into()
}

impl AwsCloud {
    async fn balancer(&self, marks: &Marks, side: Reach) -> Result<Option<elb::LoadBalancer>, CloudError> {
        let send = self.account.elb.describe_load_balancers().names(balancer_name(marks, side)).send();
        match self.account.read("elasticloadbalancing:DescribeLoadBalancers", send).await {
            Ok(found) => {
                let balancers = whole(found.load_balancers, "elasticloadbalancing:DescribeLoadBalancers")?;
                Ok(balancers.into_iter().next())
            }
            Err(refusal) if refusal.is_not_found() => Ok(None),
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn target_group(&self, marks: &Marks, way: &Way) -> Result<Option<String>, CloudError> {
        Ok(self.shown_target_group(marks, way).await?.and_then(|group| group.target_group_arn))
    }

    async fn shown_target_group(&self, marks: &Marks, way: &Way) -> Result<Option<elb::TargetGroup>, CloudError> {
        let send = self.account.elb.describe_target_groups().names(name(marks, way.word)).send();
        match self.account.read("elasticloadbalancing:DescribeTargetGroups", send).await {
            Ok(found) => {
                let groups = whole(found.target_groups, "elasticloadbalancing:DescribeTargetGroups")?;
                Ok(groups.into_iter().next())
            }
            Err(refusal) if refusal.is_not_found() => Ok(None),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Refuses what has our name and not our tags.
    async fn must_own(&self, marks: &Marks, arn: &str) -> Result<(), CloudError> {
        let send = self.account.elb.describe_tags().resource_arns(arn).send();
        let found = match self.account.read("elasticloadbalancing:DescribeTags", send).await {
            Ok(found) => found.tag_descriptions.unwrap_or_default(),
            Err(refusal) if refusal.is_not_found() => return Ok(()),
            Err(refusal) => return Err(refusal.into()),
        };
        let wanted = tags(marks);
        let has = |tag: &elb::Tag| found.iter().any(|of| of.tags().contains(tag));
        if wanted.iter().all(has) {
            return Ok(());
        }
        Err(CloudError::Unsupported(format!("{arn} has this cluster's name but not its tags: it is somebody else's")))
    }

    /// Makes or mends one side; gives its DNS name.
    pub(crate) async fn ensure_balancer(
        &self,
        marks: &Marks,
        side: Reach,
        vpc: &str,
        subnets: &[String],
        group: &str,
    ) -> Result<String, CloudError> {
        let name = balancer_name(marks, side);
        let balancer = if let Some(found) = self.balancer(marks, side).await? {
            self.must_own(marks, found.load_balancer_arn().unwrap_or_default()).await?;
            found
        } else {
            let scheme = match side {
                Reach::External => LoadBalancerSchemeEnum::InternetFacing,
                Reach::Internal => LoadBalancerSchemeEnum::Internal,
            };
            let send = self
                .account
                .elb
                .create_load_balancer()
                .name(&name)
                .r#type(LoadBalancerTypeEnum::Network)
                .scheme(scheme)
                .set_subnets(Some(subnets.to_vec()))
                .security_groups(group)
                .set_tags(Some(tags(marks)));
            let made = self.account.change("elasticloadbalancing:CreateLoadBalancer", send.send()).await?;
            let made = made.load_balancers.unwrap_or_default().into_iter().next();
            made.ok_or_else(|| CloudError::Transient("CreateLoadBalancer gave none".into()))?
        };
        let arn = balancer.load_balancer_arn().unwrap_or_default();
        let send = self.account.elb.describe_listeners().load_balancer_arn(arn).send();
        let listeners = self.account.read("elasticloadbalancing:DescribeListeners", send).await?;
        let listens = |port: u16| listeners.listeners().iter().any(|one| one.port() == Some(port.into()));
        if !ways(side).all(|way| listens(way.port)) {
            // Without this a zone without a control-plane node has an address that answers nobody.
            let across = elb::LoadBalancerAttribute::builder();
            let across = across.key("load_balancing.cross_zone.enabled").value("true").build();
            let send = self.account.elb.modify_load_balancer_attributes().load_balancer_arn(arn).attributes(across);
            self.account.change("elasticloadbalancing:ModifyLoadBalancerAttributes", send.send()).await?;
        }
        for way in ways(side) {
            let targets = self.ensure_target_group(marks, way, vpc).await?;
            if listens(way.port) {
                continue;
            }
            // A control-plane node that is sent to itself would see a packet from its own address, and drop it. Said before
            // anything listens: whoever died after making the group has not said it.
            let hide = elb::TargetGroupAttribute::builder().key("preserve_client_ip.enabled").value("false").build();
            let send = self.account.elb.modify_target_group_attributes().target_group_arn(&targets).attributes(hide);
            self.account.change("elasticloadbalancing:ModifyTargetGroupAttributes", send.send()).await?;
            let forward =
                elb::Action::builder().r#type(elb::ActionTypeEnum::Forward).target_group_arn(&targets).build();
            let send = self.account.elb.create_listener().load_balancer_arn(arn).protocol(ProtocolEnum::Tcp);
            let send = send.port(way.port.into()).default_actions(forward).set_tags(Some(tags(marks))).send();
            match self.account.change("elasticloadbalancing:CreateListener", send).await {
                Err(refusal) if !refusal.is(&["DuplicateListener"]) => return Err(refusal.into()),
                _ => {}
            }
        }
        balancer.dns_name.ok_or_else(|| CloudError::Transient(format!("load balancer {name} has no name yet")))
    }

    async fn ensure_target_group(&self, marks: &Marks, way: &Way, vpc: &str) -> Result<String, CloudError> {
        if let Some(arn) = self.target_group(marks, way).await? {
            return Ok(arn);
        }
        let send = self
            .account
            .elb
            .create_target_group()
            .name(name(marks, way.word))
            .protocol(ProtocolEnum::Tcp)
            .port(way.port.into())
            .vpc_id(vpc)
            .target_type(TargetTypeEnum::Instance)
            .health_check_protocol(ProtocolEnum::Tcp)
            .health_check_interval_seconds(10)
            .set_tags(Some(tags(marks)));
        let made = self.account.change("elasticloadbalancing:CreateTargetGroup", send.send()).await?;
        let arn = made.target_groups().first().and_then(|group| group.target_group_arn()).map(str::to_owned);
        arn.ok_or_else(|| CloudError::Transient("CreateTargetGroup gave none".into()))
    }

    fn sides(&self) -> &'static [Reach] {
        if self.settings.reach == Reach::External { &SIDES } else { &SIDES[..1] }
    }

    pub(crate) async fn set_targets(&self, cluster: &ClusterUid, wanted: &[InstanceId]) -> Result<(), CloudError> {
        let marks = self.marks(cluster, "");
        let ids: Option<BTreeSet<_>> = wanted.iter().map(convert::ec2_id).collect();
        let ids = ids.ok_or_else(|| CloudError::NotFound(format!("one of the instances {wanted:?}")))?;
        for way in self.sides().iter().copied().flat_map(ways) {
            let Some(arn) = self.target_group(&marks, way).await? else {
                return Err(CloudError::NotFound(format!("endpoint of cluster {}", cluster.0)));
            };
            let send = self.account.elb.describe_target_health().target_group_arn(&arn).send();
            let health = self.account.read("elasticloadbalancing:DescribeTargetHealth", send).await?;
            let draining = |one: &elb::TargetHealthDescription| {
                one.target_health().and_then(|health| health.state()) == Some(&elb::TargetHealthStateEnum::Draining)
            };
            let now = health.target_health_descriptions().iter().filter(|one| !draining(one));
            let now: BTreeSet<_> = now.filter_map(|one| one.target()?.id()).collect();
            let target = |id: &&str| elb::TargetDescription::builder().id(*id).build();
            let missing: Vec<_> = ids.difference(&now).map(target).collect();
            if !missing.is_empty() {
                let send = self.account.elb.register_targets().target_group_arn(&arn).set_targets(Some(missing)).send();
                self.account.change("elasticloadbalancing:RegisterTargets", send).await?;
            }
            let extra: Vec<_> = now.difference(&ids).map(target).collect();
            if !extra.is_empty() {
                let send = self.account.elb.deregister_targets().target_group_arn(&arn).set_targets(Some(extra)).send();
                self.account.change("elasticloadbalancing:DeregisterTargets", send).await?;
            }
        }
        Ok(())
    }

    /// Removes load balancers and their target groups; whether there was anything. What somebody else holds is told.
    pub(crate) async fn remove_balancers(&self, marks: &Marks, told: &mut Vec<String>) -> Result<bool, CloudError> {
        let mut any = false;
        for side in SIDES {
            if let Some(arn) = self.balancer(marks, side).await?.and_then(|found| found.load_balancer_arn) {
                any = true;
                self.must_own(marks, &arn).await?;
                let send = self.account.elb.delete_load_balancer().load_balancer_arn(&arn).send();
                match self.account.change("elasticloadbalancing:DeleteLoadBalancer", send).await {
                    // The errors of `DeleteLoadBalancer`: what is meant is deletion protection, or somebody's service.
                    Err(refusal) if refusal.is(&["OperationNotPermitted"]) => told.push(format!(
                        "load balancer {arn} can't be deleted ({}): switch its deletion protection off",
                        refusal.said()
                    )),
                    Err(refusal) if refusal.is(&["ResourceInUse"]) => told.push(format!(
                        "load balancer {arn} can't be deleted ({}): delete what uses it, such as an endpoint service",
                        refusal.said()
                    )),
                    deleted => deleted.map(drop).or_else(|refusal| fine(refusal, &[]))?,
                }
            }
        }
        for way in &WAYS {
            let Some(group) = self.shown_target_group(marks, way).await? else { continue };
            let arn = group.target_group_arn().unwrap_or_default();
            any = true;
            self.must_own(marks, arn).await?;
            let send = self.account.elb.delete_target_group().target_group_arn(arn).send();
            match self.account.change("elasticloadbalancing:DeleteTargetGroup", send).await {
                Err(refusal) if refusal.is(&["ResourceInUse"]) => {
                    let theirs = |arn: &&String| !arn.contains(&name(marks, ""));
                    let users: Vec<_> = group.load_balancer_arns().iter().filter(theirs).map(String::as_str).collect();
                    if !users.is_empty() {
                        let users = users.join(", ");
                        told.push(format!(
                            "target group {arn} is still used by load balancer {users}: take it out there"
                        ));
                    }
                }
                deleted => deleted.map(drop).or_else(|refusal| fine(refusal, &[]))?,
            }
        }
        Ok(any)
    }
}
