//! The endpoint's state, and what each call does to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use axum::{
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use super::{
    model::{self, Tree},
    objects::{Kind, Object, items},
};
use crate::{Deaths, Machine, Request, Scripted};

/// A reply.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    pub throttled: bool,
}

pub(super) type Refused = (u16, &'static str);
pub(super) type Reply = Result<String, Refused>;

/// The images that there are.
pub const IMAGES: [&str; 2] = ["ami-0123456789abcdef0", "ami-0123456789abcdef1"];

/// The state.
pub struct World {
    pub objects: BTreeMap<String, Object>,
    /// Requests by action, in order.
    pub log: Vec<String>,
    /// Requests that didn't keep to the model.
    pub violations: Vec<String>,
    /// What the next calls of an action get.
    pub refusals: BTreeMap<&'static str, VecDeque<Refused>>,
    /// What somebody answers to the next calls of an action, word by word.
    pub words: BTreeMap<&'static str, VecDeque<(u16, String)>>,
    /// Why the next instances end by themselves after their launch was taken.
    pub endings: VecDeque<&'static str>,
    /// Zones without capacity.
    pub full: BTreeSet<String>,
    /// How many calls it takes until lists show what was made.
    pub lag: u64,
    /// How many lists show an instance that goes.
    pub fade: u32,
    /// Whether lists begin with a page that holds nothing, and leads on.
    pub empty_first: bool,
    /// Which callers die before their answer comes.
    pub deaths: Deaths,
    /// Whether a read may be the death of its caller, too.
    pub reads_count: bool,
    /// The vCPU quota.
    pub quota: f64,
    /// Attributes of the image: boot mode, TPM.
    pub image: (&'static str, &'static str),
    /// Zones that offer the types.
    pub offers: Vec<&'static str>,
    /// Instances that were ever made, by token; more than one is a duplicate.
    pub made: BTreeMap<String, u32>,
    pub(super) routes: BTreeMap<String, String>,
    pub(super) next: u64,
    dies: bool,
}

impl World {
    fn new() -> Self {
        Self {
            objects: BTreeMap::new(),
            log: Vec::new(),
            violations: Vec::new(),
            refusals: BTreeMap::new(),
            words: BTreeMap::new(),
            endings: VecDeque::new(),
            full: BTreeSet::new(),
            lag: 0,
            empty_first: false,
            fade: 1,
            deaths: Deaths::Never,
            reads_count: false,
            quota: 64.0,
            image: ("uefi", "v2.0"),
            offers: vec!["us-east-2a", "us-east-2b"],
            made: BTreeMap::new(),
            routes: BTreeMap::new(),
            next: 1,
            dies: false,
        }
    }

    pub fn of(&self, kind: Kind) -> Vec<&Object> {
        self.objects.values().filter(|object| object.kind == kind).collect()
    }

    fn serve(&mut self, target: &str, body: &[u8]) -> Answer {
        if let Some((of, action)) = target.split_once('.') {
            self.log.push(action.to_owned());
            let service = if of == "TrentService" { "kms" } else { "service-quotas" };
            self.violations.extend(model::check_json(service, action, &serde_json::from_slice(body).unwrap()));
            if let Some((status, code)) = self.refusals.get_mut(action).and_then(VecDeque::pop_front) {
                let body = json!({"__type": code, "message": "scripted"}).to_string();
                return Answer { status, body, throttled: code == "ThrottlingException" };
            }
            let body = json!({"Quota": {"QuotaCode": "L-1216C47A", "Value": self.quota}}).to_string();
            return Answer { status: 200, body, throttled: false };
        }
        let pairs: Vec<_> = form_urlencoded::parse(body).into_owned().collect();
        let request = Tree::parse(&pairs);
        let action = request.text("Action").unwrap().to_owned();
        let elb = request.text("Version") == Some("2015-12-01");
        let wrong = model::check(if elb { "elbv2" } else { "ec2" }, &action, &request);
        self.log.push(action.clone());
        if let Some((status, body)) = self.words.get_mut(action.as_str()).and_then(VecDeque::pop_front) {
            return Answer { status, body, throttled: false };
        }
        let scripted = self.refusals.get_mut(action.as_str()).and_then(VecDeque::pop_front);
        let reply = if let Some(refused) = scripted {
            Err(refused)
        } else if wrong.is_empty() {
            if elb { self.elb(&action, &request) } else { self.ec2(&action, &request) }
        } else {
            self.violations.extend(wrong);
            Err((400, "ValidationError"))
        };
        let error = |code: &str| format!("<Error><Code>{code}</Code><Message>scripted</Message></Error>");
        let (status, body, throttled) = match (reply, elb) {
            (Ok(inner), false) => (200, format!("<{action}Response>{inner}</{action}Response>"), false),
            (Ok(inner), true) => {
                (200, format!("<{action}Response><{action}Result>{inner}</{action}Result></{action}Response>"), false)
            }
            (Err((status, code)), false) => {
                let throttled = code == "RequestLimitExceeded";
                (status, format!("<Response><Errors>{}</Errors></Response>", error(code)), throttled)
            }
            (Err((status, code)), true) => (status, format!("<ErrorResponse>{}</ErrorResponse>", error(code)), false),
        };
        Answer { status, body, throttled }
    }

    /// Somebody points the default route of a VPC elsewhere.
    pub fn misroute(&mut self, vpc: &str) {
        self.routes.insert(vpc.to_owned(), "nat-0f".to_owned());
    }

    pub(super) fn id(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}-{:017x}", self.next)
    }

    pub fn add(
        &mut self,
        kind: Kind,
        id: &str,
        attributes: &[(&'static str, &str)],
        tags: BTreeMap<String, String>,
    ) -> Object {
        let attributes = attributes.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let seen_from = u64::try_from(self.log.len()).unwrap() + self.lag;
        let (members, out) = (BTreeSet::new(), BTreeSet::new());
        let object = Object { kind, id: id.to_owned(), attributes, tags, members, out, seen_from, fading: None };
        self.objects.insert(id.to_owned(), object.clone());
        object
    }

    /// What a list of a kind shows to this request.
    pub(super) fn shown(&self, kind: Kind, request: &Tree) -> Vec<Object> {
        let now = u64::try_from(self.log.len()).unwrap();
        let all = self.of(kind).into_iter().filter(|object| object.seen_from < now && object.passes(request));
        all.cloned().collect()
    }

    fn list(&self, kind: Kind, set: &str, request: &Tree, ids: &str, missing: &'static str) -> Reply {
        let wanted = request.texts(ids);
        if self.empty_first && request.text("MaxResults").is_some() && request.text("NextToken").is_none() {
            return Ok(format!("<{set}/><nextToken>more</nextToken>"));
        }
        let all = self.shown(kind, request);
        let all: Vec<_> = all.iter().filter(|o| wanted.is_empty() || wanted.contains(&o.id.as_str())).collect();
        if all.len() < wanted.len() {
            return Err((400, missing));
        }
        Ok(format!("<{set}>{}</{set}>", items(all.into_iter().map(Object::xml))))
    }

    pub(super) fn must(&mut self, id: Option<&str>, missing: &'static str) -> Result<&mut Object, Refused> {
        self.objects.get_mut(id.unwrap_or_default()).ok_or((400, missing))
    }

    /// Whether anything names this object.
    fn held(&self, id: &str) -> bool {
        self.objects.values().any(|other| {
            other.id != id
                && other.get("instance-state-name") != "terminated"
                && (other.attributes.values().any(|value| value.split(',').any(|part| part == id))
                    || other
                        .members
                        .iter()
                        .chain(&other.out)
                        .any(|rule| other.kind == Kind::Group && rule.ends_with(id)))
        })
    }

    pub(super) fn delete(&mut self, id: Option<&str>, missing: &'static str, held: &'static str) -> Reply {
        let id = self.must(id, missing)?.id.clone();
        if self.held(&id) {
            return Err((400, held));
        }
        self.objects.remove(&id);
        Ok("<return>true</return>".into())
    }

    #[allow(clippy::too_many_lines, reason = "a table of operations")]
    fn ec2(&mut self, action: &str, request: &Tree) -> Reply {
        let tags = tags(request, "TagSpecification.1.Tag");
        let vpc = request.text("VpcId").unwrap_or_default().to_owned();
        match action {
            "CreateVpc" => {
                let id = self.id("vpc");
                let made = self.add(Kind::Vpc, &id, &[("cidr", request.text("CidrBlock").unwrap())], tags);
                Ok(format!("<vpc>{}</vpc>", made.xml()))
            }
            "DescribeVpcs" => self.list(Kind::Vpc, "vpcSet", request, "VpcId", "InvalidVpcID.NotFound"),
            "DeleteVpc" => self.delete(request.text("VpcId"), "InvalidVpcID.NotFound", "DependencyViolation"),
            "CreateSubnet" => {
                self.must(Some(&vpc), "InvalidVpcID.NotFound")?;
                let cidr = request.text("CidrBlock").unwrap();
                if self.of(Kind::Subnet).iter().any(|s| s.get("vpc-id") == vpc && s.get("cidr") == cidr) {
                    return Err((400, "InvalidSubnet.Conflict"));
                }
                let id = self.id("subnet");
                let zone = request.text("AvailabilityZone").unwrap();
                let made = self.add(Kind::Subnet, &id, &[("vpc-id", &vpc), ("cidr", cidr), ("zone", zone)], tags);
                Ok(format!("<subnet>{}</subnet>", made.xml()))
            }
            "DescribeSubnets" => self.list(Kind::Subnet, "subnetSet", request, "SubnetId", "InvalidSubnetID.NotFound"),
            "DeleteSubnet" => self.delete(request.text("SubnetId"), "InvalidSubnetID.NotFound", "DependencyViolation"),
            "CreateInternetGateway" => {
                let id = self.id("igw");
                let made = self.add(Kind::Gateway, &id, &[], tags);
                Ok(format!("<internetGateway>{}</internetGateway>", made.xml()))
            }
            "DescribeInternetGateways" => self.list(
                Kind::Gateway,
                "internetGatewaySet",
                request,
                "InternetGatewayId",
                "InvalidInternetGatewayID.NotFound",
            ),
            "AttachInternetGateway" => {
                if self.of(Kind::Gateway).iter().any(|one| one.get("vpc-id") == vpc) {
                    return Err((400, "Resource.AlreadyAssociated"));
                }
                let gateway = self.must(request.text("InternetGatewayId"), "InvalidInternetGatewayID.NotFound")?;
                gateway.attributes.insert("vpc-id", vpc);
                Ok(String::new())
            }
            "DetachInternetGateway" => {
                let public = self.of(Kind::Instance).iter().any(|one| {
                    one.get("vpc-id") == vpc
                        && !one.get("public").is_empty()
                        && one.get("instance-state-name") != "terminated"
                });
                if public {
                    return Err((400, "DependencyViolation"));
                }
                let gateway = self.must(request.text("InternetGatewayId"), "InvalidInternetGatewayID.NotFound")?;
                gateway.attributes.remove("vpc-id");
                self.routes.remove(&vpc);
                Ok(String::new())
            }
            "DeleteInternetGateway" => {
                let id = request.text("InternetGatewayId");
                if !self.must(id, "InvalidInternetGatewayID.NotFound")?.get("vpc-id").is_empty() {
                    return Err((400, "DependencyViolation"));
                }
                self.delete(id, "InvalidInternetGatewayID.NotFound", "DependencyViolation")
            }
            "CreateRoute" | "ReplaceRoute" => {
                let vpc = request.text("RouteTableId").unwrap().trim_start_matches("rtb-").to_owned();
                self.routes.insert(vpc, request.text("GatewayId").unwrap().to_owned());
                Ok("<return>true</return>".into())
            }
            "CreateSecurityGroup" => self.create_group(request, tags),
            "DescribeSecurityGroups" if request.text("Filter.1.Name") == Some("vpc-id") => {
                let all = self.shown(Kind::Group, request);
                let of_vpc = self.default_of(Kind::Group, &vpc).filter(|_| request.at("Filter.2").is_none());
                let all = items(of_vpc.into_iter().chain(all.iter().map(Object::xml)));
                Ok(format!("<securityGroupInfo>{all}</securityGroupInfo>"))
            }
            "DescribeSecurityGroups" => {
                self.list(Kind::Group, "securityGroupInfo", request, "GroupId", "InvalidGroup.NotFound")
            }
            "AuthorizeSecurityGroupEgress"
            | "AuthorizeSecurityGroupIngress"
            | "RevokeSecurityGroupEgress"
            | "RevokeSecurityGroupIngress" => self.change_rules(action, request),
            "DeleteSecurityGroup" => {
                self.delete(request.text("GroupId"), "InvalidGroup.NotFound", "DependencyViolation")
            }
            "RunInstances" => self.run(request, tags),
            "DescribeInstances" => Ok(self.describe_instances(request)),
            "TerminateInstances" => self.terminate(request.text("InstanceId.1")),
            "DescribeInstanceTypes" => {
                let known = [("m6a.large", true), ("m7i.large", false)];
                let asked: Vec<_> =
                    request.list("Filter").into_iter().flat_map(|filter| filter.texts("Value")).collect();
                Ok(format!("<instanceTypeSet>{}</instanceTypeSet>", items(known.into_iter().filter(|(n, _)| asked.contains(n)).map(|(name, snp)| {
                    let features = if snp { "<item>amd-sev-snp</item>" } else { "" };
                    format!(
                        "<instanceType>{name}</instanceType><vCpuInfo><defaultVCpus>2</defaultVCpus></vCpuInfo>\
                         <memoryInfo><sizeInMiB>8192</sizeInMiB></memoryInfo><nitroTpmSupport>supported</nitroTpmSupport>\
                         <supportedBootModes><item>uefi</item></supportedBootModes><processorInfo><supportedArchitectures>\
                         <item>x86_64</item></supportedArchitectures><supportedFeatures>{features}</supportedFeatures></processorInfo>"
                    )
                }))))
            }
            "DescribeInstanceTypeOfferings" => {
                let asked = request.texts("Filter.1.Value");
                let pairs = asked.iter().flat_map(|name| self.offers.iter().map(move |zone| (name, zone)));
                let all =
                    pairs.map(|(name, zone)| format!("<instanceType>{name}</instanceType><location>{zone}</location>"));
                Ok(format!("<instanceTypeOfferingSet>{}</instanceTypeOfferingSet>", items(all)))
            }
            "DescribeImages" => {
                if !request.text("ImageId.1").is_some_and(|image| IMAGES.contains(&image)) {
                    return Err((400, "InvalidAMIID.NotFound"));
                }
                let (boot, tpm) = self.image;
                let tpm = if tpm.is_empty() { String::new() } else { format!("<tpmSupport>{tpm}</tpmSupport>") };
                let image = format!(
                    "<imageId>ami-1</imageId><imageState>available</imageState><bootMode>{boot}</bootMode>{tpm}"
                );
                Ok(format!("<imagesSet>{}</imagesSet>", items([image])))
            }
            _ => self.parts(action, request).unwrap_or_else(|| panic!("the endpoint has no {action}")),
        }
    }
}

impl Scripted for World {
    fn at(_: &str) -> Self {
        Self::new()
    }

    fn respond(&mut self, request: &Request) -> Response {
        let target = request.headers.get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
        // A token that a client draws anew for each try doesn't make it another effect.
        let pairs = form_urlencoded::parse(&request.body);
        let effect: Vec<_> =
            pairs.filter(|(key, _)| key != "ClientToken").map(|(key, value)| format!("{key}={value}")).collect();
        if self.reads_count || !["Action=Describe", "Action=Get"].iter().any(|read| effect[0].starts_with(read)) {
            self.dies = self.deaths.meets(&effect.join("&"));
        }
        let answer = self.serve(target, &request.body);
        let mut headers = HeaderMap::new();
        if answer.throttled {
            headers.insert("retry-after", "7".parse().unwrap());
        }
        let kind = if target.is_empty() { "text/xml" } else { "application/x-amz-json-1.1" };
        headers.insert("content-type", kind.parse().unwrap());
        (StatusCode::from_u16(answer.status).unwrap(), headers, answer.body).into_response()
    }

    fn kill(&mut self, deaths: Deaths) {
        self.deaths = deaths;
    }

    fn dies(&mut self) -> bool {
        std::mem::take(&mut self.dies)
    }

    fn pass(&mut self) {
        for object in self.objects.values_mut() {
            object.seen_from = 0;
        }
    }

    fn picture(&self) -> Vec<String> {
        let names: BTreeMap<_, _> = self
            .objects
            .values()
            .map(|o| (o.id.clone(), format!("{:?}:{}{}", o.kind, o.get("group-name"), o.get("cidr"))))
            .collect();
        let alive = self.objects.values().filter(|object| object.get("instance-state-name") != "terminated");
        let mut all: Vec<_> = alive.map(|object| object.print(&names)).collect();
        all.extend(self.routes.iter().filter(|(vpc, _)| self.objects.contains_key(*vpc)).map(|_| "route".to_owned()));
        all.sort();
        all
    }

    fn machines(&self) -> Vec<Machine> {
        let tag = |one: &Object, key: &str| one.tags.get(key).cloned().unwrap_or_default();
        let running = self.of(Kind::Instance).into_iter().filter(|one| one.get("instance-state-name") == "running");
        running
            .map(|one| Machine {
                cluster: tag(one, "constellation.dev/cluster-uid"),
                node: tag(one, "constellation.dev/node-uid"),
                image: one.get("image").to_owned(),
                user_data: STANDARD.decode(one.get("user-data")).unwrap(),
            })
            .collect()
    }

    fn calls(&self) -> BTreeMap<String, u64> {
        let mut calls = BTreeMap::new();
        for action in &self.log {
            *calls.entry(action.clone()).or_default() += 1;
        }
        calls
    }

    fn violations(&self) -> &[String] {
        &self.violations
    }

    fn made(&self) -> &BTreeMap<String, u32> {
        &self.made
    }
}

pub(super) fn tags(request: &Tree, path: &str) -> BTreeMap<String, String> {
    let pair = |tag: &Tree| Some((tag.text("Key")?.to_owned(), tag.text("Value")?.to_owned()));
    request.list(path).into_iter().filter_map(pair).collect()
}
