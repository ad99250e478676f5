//! What the scripted Resource Manager holds, and how it answers.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    Json,
    http::{HeaderMap, HeaderName, StatusCode},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::model;
use crate::{Deaths, Fault, Faults, Machine, Request, Scripted};

/// An answer.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Value,
}

struct Operation {
    /// Looks until it is done.
    looks: u32,
    code: Option<&'static str>,
    target: String,
    removal: bool,
    done: bool,
}

/// The cloud.
#[derive(Default)]
pub struct World {
    /// Resources by path.
    pub things: BTreeMap<String, Value>,
    /// Requests that did not keep to the model.
    pub violations: Vec<String>,
    /// Calls by method and type.
    pub calls: BTreeMap<String, u64>,
    /// Faults to come, by method and type.
    pub faults: Faults,
    /// Which callers die before their answer comes.
    pub deaths: Deaths,
    /// Looks that an operation takes.
    pub slowness: u32,
    /// Looks that a removal takes at least.
    pub slow_removals: u32,
    /// Things that a page holds; nothing: all.
    pub page: Option<usize>,
    /// Lists that don't show a new VM.
    pub lag: u32,
    /// Quota of cores, two of which are used.
    pub cores: u32,
    /// VMs that were ever made, by name; more than one is a duplicate.
    pub made: BTreeMap<String, u32>,
    operations: BTreeMap<String, Operation>,
    hidden: BTreeMap<String, u32>,
    counter: u32,
    dies: bool,
    url: String,
}

impl World {
    pub fn total(&self) -> u64 {
        self.calls.values().sum()
    }

    /// Paths of things of a kind.
    pub fn of(&self, kind: &str) -> Vec<&String> {
        self.things.keys().filter(|path| path.split('/').rev().nth(1) == Some(kind)).collect()
    }

    pub fn answer(
        &mut self,
        verb: &str,
        path: &str,
        query: &[(String, String)],
        new: bool,
        body: Option<Value>,
    ) -> Answer {
        let kind = format!("{verb} {}", kind(path));
        *self.calls.entry(kind.clone()).or_default() += 1;
        if verb != "GET" {
            self.dies = self.deaths.meets(&format!("{verb} {path}"));
        }
        let fault = self.faults.due(&kind);
        if let Some(Fault::Refuse(status, code)) = fault {
            return refusal(status, code, "as scripted");
        }
        if let Some(Fault::Say(status, text)) = fault {
            return Answer { status, headers: Vec::new(), body: Value::String(text) };
        }
        let code = if let Some(Fault::Operation(code)) = fault { Some(code) } else { None };
        let answer = if new && self.things.contains_key(path) {
            refusal(412, "PreconditionFailed", path)
        } else {
            self.carry_out(verb, path, query, body, code)
        };
        if matches!(fault, Some(Fault::Lose)) { refusal(503, "ServerBusy", "lost") } else { answer }
    }

    fn carry_out(
        &mut self,
        verb: &str,
        path: &str,
        query: &[(String, String)],
        body: Option<Value>,
        code: Option<&'static str>,
    ) -> Answer {
        let of = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        if path.ends_with("/skus") {
            assert_eq!(of("$filter"), Some("location eq 'westeurope'"));
            let capability = |name: &str, value: &str| json!({"name": name, "value": value});
            return ok(json!({"value": [{"resourceType": "virtualMachines", "name": "Standard_DC4as_v5",
                "family": "standardDCASv5Family", "locationInfo": [{"location": "westeurope", "zones": ["1", "2"]}],
                "capabilities": [capability("vCPUs", "4"), capability("MemoryGB", "16"),
                    capability("ConfidentialComputingType", "SNP")]}]}));
        }
        if path.ends_with("/usages") {
            return ok(json!({"value": [{"name": {"value": "cores"}, "limit": self.cores, "currentValue": 2}]}));
        }
        if let Some(name) = path.split_once("/operations/").or_else(|| path.split_once("/operationresults/")) {
            return self.look(name.1, path.contains("/operations/"));
        }
        let group = path.split('/').nth(4).map(|group| group_path(path, group));
        if verb != "DELETE" && kind(path) != "resourcegroups" && !self.things.contains_key(&group.unwrap_or_default()) {
            return refusal(404, "ResourceGroupNotFound", path);
        }
        match verb {
            "PUT" => self.put(path, body.unwrap(), code),
            "DELETE" => self.delete(path, code),
            // Virtual Machines - List: "$expand ... can only be specified if a valid $filter option is specified".
            _ if is_list(path) && of("$expand").is_some() => refusal(400, "BadRequest", "$expand without $filter"),
            _ if is_list(path) => self.list(path, of("$filter"), of("$skiptoken")),
            _ => {
                self.pass_on(path);
                match self.things.get(path) {
                    Some(thing) if of("$expand") == Some("instanceView") => ok(shown(path, thing)),
                    Some(thing) => ok(without_view(shown(path, thing))),
                    None => refusal(404, "ResourceNotFound", path),
                }
            }
        }
    }

    fn put(&mut self, path: &str, body: Value, code: Option<&'static str>) -> Answer {
        let vm = kind(path) == "Microsoft.Compute/virtualMachines";
        if let Some(there) = self.things.get(path) {
            if there["properties"]["provisioningState"] == "Deleting" {
                return refusal(409, "Conflict", path);
            }
            if vm {
                return refusal(409, "PropertyChangeNotAllowed", path);
            }
        }
        let own = |link: &str| link.starts_with(path);
        if let Some(absent) = links(&body).into_iter().find(|link| !own(link) && !self.exists(link)) {
            return refusal(400, "InvalidResourceReference", &absent);
        }
        self.counter += 1;
        let n = self.counter;
        let mut thing = body;
        thing["id"] = json!(path);
        thing["name"] = json!(path.rsplit('/').next().unwrap());
        thing["properties"]["provisioningState"] = json!("Creating");
        match kind(path).as_str() {
            "Microsoft.Network/publicIPAddresses" => {
                thing["properties"]["ipAddress"] = json!(format!("203.0.113.{}", n % 250 + 1));
            }
            "Microsoft.Network/loadBalancers" => {
                for pool in thing["properties"]["backendAddressPools"].as_array().unwrap() {
                    let pool = format!("{path}/backendAddressPools/{}", pool["name"].as_str().unwrap());
                    let known = json!({"id": pool, "properties": {"provisioningState": "Succeeded"}});
                    self.things.entry(pool).or_insert(known);
                }
            }
            "Microsoft.Compute/virtualMachines" => {
                thing["properties"]["vmId"] = json!(format!("00000000-0000-4000-8000-{n:012}"));
                self.hidden.insert(path.to_owned(), self.lag);
                if code.is_none() {
                    *self.made.entry(path.to_owned()).or_default() += 1;
                    self.attach(path, &thing, n);
                }
            }
            _ => {}
        }
        self.things.insert(path.to_owned(), thing.clone());
        let headers = self.start(path, false, code);
        // Addresses are the ones whose state is found on the resource alone.
        let headers = if kind(path) == "Microsoft.Network/publicIPAddresses" { Vec::new() } else { headers };
        Answer { status: 201, headers, body: self.things[path].clone() }
    }

    /// The interface and the address that come with a VM.
    fn attach(&mut self, path: &str, vm: &Value, n: u32) {
        let base = format!("{}/providers/Microsoft.Network", path.split("/providers/").next().unwrap());
        let wanted = &vm["properties"]["networkProfile"]["networkInterfaceConfigurations"][0];
        let ip = &wanted["properties"]["ipConfigurations"][0]["properties"];
        let mut found =
            json!({"privateIPAddress": format!("10.77.{}.{}", n / 250, n % 250 + 1), "subnet": ip["subnet"]});
        if let Some(public) = ip["publicIPAddressConfiguration"]["name"].as_str() {
            let public = format!("{base}/publicIPAddresses/{public}");
            found["publicIPAddress"] = json!({"id": public});
            let address = json!({"id": public, "tags": vm["tags"], "_vm": path,
                "properties": {"ipAddress": "127.0.0.1", "provisioningState": "Succeeded"}});
            self.things.insert(public, address);
        }
        let nic = format!("{base}/networkInterfaces/{}", wanted["name"].as_str().unwrap());
        // Azure doesn't keep the case of ids.
        let owner = path.replace("resourceGroups", "RESOURCEGROUPS");
        let thing = json!({"id": nic, "tags": wanted["tags"], "_vm": path, "properties": {
            "virtualMachine": {"id": owner}, "ipConfigurations": [{"name": "first", "properties": found}]}});
        self.things.insert(nic, thing);
    }

    fn delete(&mut self, path: &str, code: Option<&'static str>) -> Answer {
        let Some(thing) = self.things.get(path) else {
            return Answer { status: 204, headers: Vec::new(), body: Value::Null };
        };
        if thing["properties"]["provisioningState"] == "Creating" && kind(path) != "Microsoft.Compute/virtualMachines" {
            return refusal(409, "AnotherOperationInProgress", path);
        }
        let inside = format!("{path}/");
        let uses = |(other, thing): &(&String, &Value)| {
            *other != path
                && !other.starts_with(&inside)
                && links(thing).iter().any(|link| link == path || link.starts_with(&inside))
        };
        if let Some((user, _)) = self.things.iter().find(uses).filter(|_| kind(path) != "resourcegroups") {
            return refusal(400, "InUseSubnetCannotBeDeleted", user);
        }
        self.things.get_mut(path).unwrap()["properties"]["provisioningState"] = json!("Deleting");
        let mut headers = self.start(path, true, code);
        if kind(path) == "resourcegroups" {
            // Groups tell a location only.
            let url = headers.remove(0).1.replace("/operations/", "/operationresults/");
            headers = vec![("location", url)];
        }
        Answer { status: 202, headers, body: Value::Null }
    }

    fn start(&mut self, path: &str, removal: bool, code: Option<&'static str>) -> Vec<(&'static str, String)> {
        self.counter += 1;
        let name = format!("o-{}", self.counter);
        let looks = if removal { self.slowness.max(self.slow_removals) } else { self.slowness };
        let operation = Operation { looks, code, target: path.to_owned(), removal, done: false };
        self.operations.insert(name.clone(), operation);
        self.settle(&name);
        let provider = kind(path).split('/').next().unwrap().to_owned();
        let url =
            format!("{}/subscriptions/s-1/providers/{provider}/locations/x/operations/{name}?api-version=y", self.url);
        vec![("azure-asyncoperation", url)]
    }

    fn look(&mut self, name: &str, status: bool) -> Answer {
        let Some(operation) = self.operations.get_mut(name) else { return refusal(404, "NotFound", name) };
        operation.looks = operation.looks.saturating_sub(1);
        self.settle(name);
        let operation = &self.operations[name];
        if !status {
            return Answer { status: if operation.done { 200 } else { 202 }, headers: Vec::new(), body: Value::Null };
        }
        ok(match (operation.done, operation.code) {
            (false, _) => json!({"status": "InProgress"}),
            (true, None) => json!({"status": "Succeeded"}),
            (true, Some(code)) => json!({"status": "Failed", "error": {"code": code, "message": "as scripted"}}),
        })
    }

    /// A look at a resource is one at its operations.
    fn pass_on(&mut self, path: &str) {
        let of_path = |(_, operation): &(&String, &Operation)| operation.target == path && !operation.done;
        let names: Vec<_> = self.operations.iter().filter(of_path).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.look(&name, true);
        }
    }

    fn settle(&mut self, name: &str) {
        let operation = self.operations.get_mut(name).unwrap();
        if operation.looks > 0 || operation.done {
            return;
        }
        operation.done = true;
        let (target, removal, code) = (operation.target.clone(), operation.removal, operation.code);
        let Some(thing) = self.things.get_mut(&target) else { return };
        match (removal, code) {
            (true, None) => {
                let inside = format!("{target}/");
                let inside_group = inside.replace("/resourcegroups/", "/resourceGroups/");
                self.things.retain(|path, thing| {
                    *path != target
                        && !path.starts_with(&inside)
                        && !path.starts_with(&inside_group)
                        && thing["_vm"] != target.as_str()
                });
            }
            (_, Some(code)) => {
                let status = json!({"code": format!("ProvisioningState/failed/{code}"), "message": "as scripted"});
                thing["properties"]["provisioningState"] = json!("Failed");
                thing["properties"]["instanceView"] = json!({"statuses": [status]});
            }
            (false, None) if thing["properties"]["provisioningState"] == "Creating" => {
                thing["properties"]["provisioningState"] = json!("Succeeded");
                thing["properties"]["instanceView"] = json!({"statuses": [{"code": "PowerState/running"}]});
            }
            (false, None) => {}
        }
    }

    fn list(&mut self, path: &str, filter: Option<&str>, token: Option<&str>) -> Answer {
        let inside = format!("{path}/");
        let mut all = Vec::new();
        for (key, thing) in &self.things {
            let direct = key.strip_prefix(&inside).is_some_and(|name| !name.contains('/'));
            if !direct || !fits(filter, thing) {
                continue;
            }
            match self.hidden.get_mut(key).filter(|left| **left > 0) {
                Some(left) => *left -= 1,
                None => all.push(without_view(shown(key, thing))),
            }
        }
        let from: usize = token.map_or(0, |token| token.parse().unwrap());
        let size = self.page.unwrap_or(all.len().max(1));
        let mut body = json!({"value": all.iter().skip(from).take(size).collect::<Vec<_>>()});
        if from + size < all.len() {
            let version = if path.contains("Microsoft.Network") {
                "2026-03-01"
            } else if path.contains("Microsoft.Compute") {
                "2026-04-01"
            } else {
                "2025-04-01"
            };
            let next = from + size;
            let filter = filter.map_or_else(String::new, |f| format!("&$filter={}", f.replace(' ', "%20")));
            body["nextLink"] = json!(format!("{}{path}?api-version={version}{filter}&$skiptoken={next}", self.url));
        }
        ok(body)
    }

    fn exists(&self, link: &str) -> bool {
        self.things
            .keys()
            .any(|path| link == path || link.starts_with(&format!("{path}/")) && path.contains("/providers/"))
    }
}

impl Scripted for World {
    fn at(url: &str) -> Self {
        Self { url: url.to_owned(), ..Self::default() }
    }

    fn respond(&mut self, request: &Request) -> Response {
        let Request { method, uri, query, headers, body } = request;
        let (verb, path) = (method.as_str(), uri.path());
        let body: Option<Value> = (!body.is_empty()).then(|| serde_json::from_slice(body).unwrap());
        let operation = path.contains("/operations/") || path.contains("/operationresults/");
        let wrong = if operation { Vec::new() } else { model::check(verb, path, query, body.as_ref()) };
        let answer = if wrong.is_empty() {
            self.answer(verb, path, query, headers.contains_key("if-none-match"), body)
        } else {
            self.violations.extend(wrong.clone());
            refusal(400, "InvalidRequest", &wrong.join("; "))
        };
        let told = answer.headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let (status, headers): (_, HeaderMap) = (StatusCode::from_u16(answer.status).unwrap(), told.collect());
        match answer.body {
            Value::Null => (status, headers).into_response(),
            // Word by word, whether it is JSON or not.
            Value::String(text) => (status, headers, text).into_response(),
            body => (status, headers, Json(body)).into_response(),
        }
    }

    fn kill(&mut self, deaths: Deaths) {
        self.deaths = deaths;
    }

    fn dies(&mut self) -> bool {
        std::mem::take(&mut self.dies)
    }

    fn pass(&mut self) {
        let names: Vec<_> = self.operations.keys().cloned().collect();
        for name in names {
            self.operations.get_mut(&name).unwrap().looks = 0;
            self.settle(&name);
        }
    }

    /// Paths, and the names of a pool's targets.
    fn picture(&self) -> Vec<String> {
        let targets = |thing: &Value| {
            let all = thing["properties"]["loadBalancerBackendAddresses"].as_array().into_iter().flatten();
            all.map(|target| target["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        self.things.iter().map(|(path, thing)| format!("{path} {:?}", targets(thing))).collect()
    }

    fn machines(&self) -> Vec<Machine> {
        let all = self.things.iter().filter(|(path, _)| kind(path) == "Microsoft.Compute/virtualMachines");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        all.filter(|(_, vm)| vm["properties"]["provisioningState"] != "Deleting")
            .map(|(_, vm)| Machine {
                cluster: text(&vm["tags"]["constellation-cluster"]),
                node: text(&vm["tags"]["constellation-node"]),
                image: text(&vm["properties"]["storageProfile"]["imageReference"]["id"]),
                user_data: STANDARD.decode(text(&vm["properties"]["userData"])).unwrap(),
            })
            .collect()
    }

    fn calls(&self) -> BTreeMap<String, u64> {
        self.calls.clone()
    }

    fn violations(&self) -> &[String] {
        &self.violations
    }

    fn made(&self) -> &BTreeMap<String, u32> {
        &self.made
    }
}

fn without_view(mut thing: Value) -> Value {
    if let Some(properties) = thing["properties"].as_object_mut() {
        properties.remove("instanceView");
    }
    thing
}

/// A thing as it is shown: always with its id.
fn shown(path: &str, thing: &Value) -> Value {
    let mut thing = thing.clone();
    thing["id"] = json!(path);
    thing
}

/// `tagName eq 'a' and tagValue eq 'b'`.
fn fits(filter: Option<&str>, thing: &Value) -> bool {
    let Some(filter) = filter else { return true };
    let parts: Vec<_> = filter.split('\'').collect();
    assert_eq!((parts[0], parts[2]), ("tagName eq ", " and tagValue eq "), "{filter}");
    thing["tags"][parts[1]] == parts[3]
}

/// The type of a path: `Microsoft.Network/loadBalancers/backendAddressPools`, `resourcegroups`, `operations`.
fn kind(path: &str) -> String {
    if path.contains("/operations/") || path.contains("/operationresults/") {
        return "operations".into();
    }
    match path.split_once("/providers/") {
        Some((_, rest)) => {
            let parts: Vec<_> = rest.split('/').collect();
            let types = parts.iter().skip(1).step_by(2);
            std::iter::once(&parts[0]).chain(types).copied().collect::<Vec<_>>().join("/")
        }
        None => path.split('/').nth(3).unwrap_or_default().into(),
    }
}

/// Lists end with a type, resources with a name.
fn is_list(path: &str) -> bool {
    match path.split_once("/providers/") {
        Some((_, rest)) => rest.split('/').count() % 2 == 0,
        None => path.split('/').count() == 4,
    }
}

fn group_path(path: &str, group: &str) -> String {
    let subscription = path.split('/').nth(2).unwrap();
    format!("/subscriptions/{subscription}/resourcegroups/{group}")
}

/// Resources of the network that a thing refers to.
fn links(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(links).collect(),
        Value::Object(members) => {
            let own = |key: &&String| !["_vm", "virtualMachine"].contains(&key.as_str());
            let mut found: BTreeSet<_> =
                members.iter().filter(|(key, _)| own(key)).flat_map(|(_, member)| links(member)).collect();
            let id = members.get("id").and_then(Value::as_str).filter(|_| members.len() == 1);
            found.extend(id.filter(|id| id.contains("/Microsoft.Network/")).map(str::to_owned));
            found
        }
        _ => BTreeSet::new(),
    }
}

fn ok(body: Value) -> Answer {
    Answer { status: 200, headers: Vec::new(), body }
}

/// A refusal in Azure's shape.
pub fn refusal(status: u16, code: &str, message: &str) -> Answer {
    let headers = if status == 429 { vec![("retry-after", "7".into())] } else { Vec::new() };
    Answer { status, headers, body: json!({"error": {"code": code, "message": message}}) }
}
