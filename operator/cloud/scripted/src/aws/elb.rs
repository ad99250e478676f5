//! Load balancers, their listeners and their targets.

use super::{
    model::Tree,
    objects::{Kind, Object, members},
    world::{Reply, World, tags},
};

impl World {
    pub(super) fn elb(&mut self, action: &str, request: &Tree) -> Reply {
        let tags = tags(request, "Tags");
        let named = |world: &Self, kind: Kind, missing: &'static str| {
            let name = request.text("Names.member.1").unwrap_or_default();
            world.of(kind).into_iter().find(|one| one.get("name") == name).cloned().ok_or((400, missing))
        };
        match action {
            "CreateLoadBalancer" | "CreateTargetGroup" => {
                let name = request.text("Name").unwrap();
                let (kind, set) = if action == "CreateLoadBalancer" {
                    (Kind::Balancer, "LoadBalancers")
                } else {
                    (Kind::Targets, "TargetGroups")
                };
                // The same name with the same parameters is the same one.
                if let Some(known) = self.of(kind).into_iter().find(|one| one.get("name") == name) {
                    return Ok(format!("<{set}>{}</{set}>", members([known.xml()])));
                }
                let dns = format!("{name}.elb.us-east-2.amazonaws.com");
                let subnets = request.texts("Subnets").join(",");
                let groups = request.texts("SecurityGroups").join(",");
                let vpc = request.text("VpcId").unwrap_or_default();
                let scheme = request.text("Scheme").unwrap_or_default();
                let id = format!("arn:aws:elasticloadbalancing:us-east-2:123456789012:{name}/{kind:?}");
                let of = [
                    ("name", name),
                    ("dns", &dns),
                    ("subnets", &subnets),
                    ("groups", &groups),
                    ("vpc-id", vpc),
                    ("scheme", scheme),
                ];
                let made = self.add(kind, &id, &of, tags);
                Ok(format!("<{set}>{}</{set}>", members([made.xml()])))
            }
            "DescribeLoadBalancers" => {
                let found = named(self, Kind::Balancer, "LoadBalancerNotFound")?;
                Ok(format!("<LoadBalancers>{}</LoadBalancers>", members([found.xml()])))
            }
            "DescribeTargetGroups" => {
                let found = named(self, Kind::Targets, "TargetGroupNotFound")?;
                Ok(format!("<TargetGroups>{}</TargetGroups>", members([self.target_group(&found)])))
            }
            "DescribeTags" => {
                let found = self.must(request.text("ResourceArns.member.1"), "LoadBalancerNotFound")?;
                let tags = members(found.tags.iter().map(|(k, v)| format!("<Key>{k}</Key><Value>{v}</Value>")));
                Ok(format!("<TagDescriptions>{}</TagDescriptions>", members([format!("<Tags>{tags}</Tags>")])))
            }
            "ModifyLoadBalancerAttributes" | "ModifyTargetGroupAttributes" => self.set_attribute(action, request),
            "CreateListener" => {
                let balancer = request.text("LoadBalancerArn").unwrap().to_owned();
                let port = request.text("Port").unwrap();
                let same = |one: &&Object| one.get("balancer") == balancer && one.get("port") == port;
                if self.of(Kind::Listener).iter().any(same) {
                    return Err((400, "DuplicateListener"));
                }
                let id = format!("{balancer}/listener/{port}");
                let targets = request.text("DefaultActions.member.1.TargetGroupArn").unwrap();
                let made = self.add(
                    Kind::Listener,
                    &id,
                    &[("balancer", &balancer), ("port", port), ("targets", targets)],
                    tags,
                );
                Ok(format!("<Listeners>{}</Listeners>", members([made.xml()])))
            }
            "DescribeListeners" => {
                let balancer = request.text("LoadBalancerArn").unwrap();
                let all = self.of(Kind::Listener).into_iter().filter(|one| one.get("balancer") == balancer);
                Ok(format!("<Listeners>{}</Listeners>", members(all.map(Object::xml))))
            }
            "DeleteLoadBalancer" => self.delete_balancer(request),
            "DeleteTargetGroup" => self.delete(request.text("TargetGroupArn"), "TargetGroupNotFound", "ResourceInUse"),
            "DescribeTargetHealth" => {
                let group = self.must(request.text("TargetGroupArn"), "TargetGroupNotFound")?;
                let all = group.members.iter().map(|id| {
                    format!("<Target><Id>{id}</Id></Target><TargetHealth><State>initial</State></TargetHealth>")
                });
                Ok(format!("<TargetHealthDescriptions>{}</TargetHealthDescriptions>", members(all)))
            }
            "RegisterTargets" | "DeregisterTargets" => {
                let ids: Vec<_> = request.list("Targets").iter().map(|t| t.text("Id").unwrap().to_owned()).collect();
                let group = self.must(request.text("TargetGroupArn"), "TargetGroupNotFound")?;
                if action.starts_with('R') {
                    group.members.extend(ids);
                } else {
                    group.members.retain(|id| !ids.contains(id));
                }
                Ok(String::new())
            }
            _ => panic!("the endpoint has no {action}"),
        }
    }

    /// A target group with the load balancers that use it.
    fn target_group(&self, group: &Object) -> String {
        let users = self.of(Kind::Listener).into_iter().filter(|one| one.get("targets") == group.id);
        let users = members(users.map(|one| one.get("balancer").to_owned()));
        format!("{}<LoadBalancerArns>{users}</LoadBalancerArns>", group.xml())
    }

    /// Its listeners go with it; protected, or used by an endpoint service, it stays.
    fn delete_balancer(&mut self, request: &Tree) -> Reply {
        let found = self.must(request.text("LoadBalancerArn"), "LoadBalancerNotFound")?;
        if found.get("protected") == "true" {
            return Err((400, "OperationNotPermitted"));
        }
        if !found.get("service").is_empty() {
            return Err((400, "ResourceInUse"));
        }
        let id = found.id.clone();
        self.objects.retain(|_, one| one.id != id && one.get("balancer") != id);
        Ok(String::new())
    }

    fn set_attribute(&mut self, action: &str, request: &Tree) -> Reply {
        let (of, missing, attribute) = if action == "ModifyLoadBalancerAttributes" {
            ("LoadBalancerArn", "LoadBalancerNotFound", "across-zones")
        } else {
            ("TargetGroupArn", "TargetGroupNotFound", "preserves-client-ip")
        };
        let value = request.text("Attributes.member.1.Value").unwrap().to_owned();
        self.must(request.text(of), missing)?.attributes.insert(attribute, value);
        Ok(String::new())
    }
}
