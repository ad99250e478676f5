//! What the scripted Compute Engine holds, and how it answers.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    Json,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::model::{self, Matched, Service};
use crate::{Deaths, Fault, Faults, Machine, Request, Scripted};

const HOST: &str = "https://www.googleapis.com/compute/v1/";

struct Operation {
    /// Looks until it is done.
    looks: u32,
    code: Option<&'static str>,
    /// What becomes of its target when it is done.
    target: String,
    verb: String,
    scope: String,
}

/// The cloud.
#[derive(Default)]
pub struct World {
    /// Things by path, `projects/p/zones/z/instances/n`.
    pub things: BTreeMap<String, Value>,
    /// Requests that did not keep to the model.
    pub violations: Vec<String>,
    /// Calls by method.
    pub calls: BTreeMap<String, u64>,
    /// Faults to come, by method.
    pub faults: Faults,
    /// Which callers die before their answer comes.
    pub deaths: Deaths,
    /// Looks that an operation takes.
    pub slowness: u32,
    /// Things that a page holds; nothing: all.
    pub page: Option<usize>,
    /// Lists that don't show a new instance.
    pub lag: u32,
    /// Zones or regions that can't be asked.
    pub unreachable: Vec<String>,
    /// Zones whose part of a list says that they are away.
    pub silent: Vec<String>,
    /// CPUs of zones that don't end with `-a`.
    pub platforms: Vec<&'static str>,
    /// Quotas of the region, of each of which two are used.
    pub quotas: Vec<(&'static str, f64)>,
    /// Instances that were ever made, by name; more than one is a duplicate.
    pub made: BTreeMap<String, u32>,
    operations: BTreeMap<String, Operation>,
    requests: BTreeMap<String, String>,
    hidden: BTreeMap<String, u32>,
    counter: u32,
    dies: bool,
}

type Answer = (u16, Value);

impl World {
    pub fn total(&self) -> u64 {
        self.calls.values().sum()
    }

    /// Paths of things of a kind.
    pub fn of(&self, kind: &str) -> Vec<&String> {
        self.things.keys().filter(|path| path.split('/').rev().nth(1) == Some(kind)).collect()
    }

    /// A faulted call ends the process that made it, so that the next is made by another.
    pub fn answer(&mut self, matched: &Matched, query: &[(String, String)], body: Option<Value>) -> Answer {
        *self.calls.entry(matched.id.clone()).or_default() += 1;
        let verb = matched.id.rsplit('.').next().unwrap();
        if !["get", "list", "aggregatedList", "listInstances"].contains(&verb) {
            let what = body.as_ref().map_or(&Value::Null, |body| &body["name"]);
            self.dies = self.deaths.meets(&format!("{} {} {what}", matched.id, matched.path));
        }
        let fault = self.faults.due(&matched.id);
        if let Some(Fault::Refuse(status, reason)) = fault {
            return (status, refusal(status, reason, "as scripted"));
        }
        if let Some(Fault::Say(status, text)) = fault {
            return (status, Value::String(text));
        }
        let code = match fault {
            Some(Fault::Operation(code)) => Some(code),
            _ => None,
        };
        let answer = self.carry_out(matched, query, body, code);
        if matches!(fault, Some(Fault::Lose)) {
            return (503, refusal(503, "backendError", "lost"));
        }
        match answer {
            (200, mut body) => {
                body["kind"] = matched.kind.into();
                (200, body)
            }
            refused => refused,
        }
    }

    fn carry_out(
        &mut self,
        matched: &Matched,
        query: &[(String, String)],
        body: Option<Value>,
        code: Option<&'static str>,
    ) -> Answer {
        let path = matched.path.as_str();
        let verb = matched.id.rsplit('.').next().unwrap();
        let of = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        if path.contains("/operations/") {
            return self.look(path);
        }
        if let Some(known) = of("requestId").and_then(|id| self.requests.get(&id).cloned()) {
            return (200, self.operation(&known));
        }
        match verb {
            "get" if matched.id == "compute.zones.get" => {
                let platforms = if path.ends_with("-a") { json!(["AMD Milan"]) } else { json!(self.platforms) };
                (200, json!({"name": "z", "availableCpuPlatforms": platforms}))
            }
            "get" if matched.id == "compute.regions.get" => {
                let quota = |(metric, limit): &(&str, f64)| json!({"metric": metric, "limit": limit, "usage": 2.0});
                (200, json!({"quotas": self.quotas.iter().map(quota).collect::<Vec<_>>()}))
            }
            "get" => match self.things.get(path) {
                Some(thing) => (200, thing.clone()),
                None => missing(path),
            },
            "list" => self.list(path, of("filter").as_deref(), of("pageToken")),
            "aggregatedList" => self.aggregated(path, of("filter").as_deref(), of("pageToken")),
            "insert" => self.insert(path, body.unwrap(), code, of("requestId")),
            "patch" => {
                let Some(thing) = self.things.get_mut(path) else { return missing(path) };
                let new = body.unwrap();
                thing.as_object_mut().unwrap().extend(new.as_object().unwrap().clone());
                self.start(path, "patch", code, None)
            }
            "delete" => self.delete(path, code),
            "listInstances" | "addInstances" | "removeInstances" => self.members(path, verb, body.as_ref()),
            other => panic!("the endpoint doesn't know {other}"),
        }
    }

    fn insert(
        &mut self,
        collection: &str,
        mut body: Value,
        code: Option<&'static str>,
        request: Option<String>,
    ) -> Answer {
        let name = body["name"].as_str().unwrap().to_owned();
        let path = format!("{collection}/{name}");
        if self.things.contains_key(&path) {
            return (409, refusal(409, "alreadyExists", &path));
        }
        if let Some(absent) = links(&body).into_iter().find(|link| tracked(link) && !self.things.contains_key(link)) {
            return missing(&absent);
        }
        self.counter += 1;
        let n = self.counter;
        body["selfLink"] = json!(format!("{HOST}{path}"));
        if path.contains("/addresses/") {
            body["address"] = json!(format!("203.0.113.{}", n % 250 + 1));
        }
        if path.contains("/instances/") {
            body["status"] = json!("PROVISIONING");
            body["zone"] = json!(format!("{HOST}{}", collection.trim_end_matches("/instances")));
            body["networkInterfaces"][0]["networkIP"] = json!(format!("10.77.{}.{}", n / 250, n % 250 + 1));
            if body["networkInterfaces"][0]["accessConfigs"].is_array() {
                body["networkInterfaces"][0]["accessConfigs"][0]["natIP"] = json!("127.0.0.1");
            }
            self.hidden.insert(path.clone(), self.lag);
            if code.is_none() {
                *self.made.entry(name).or_default() += 1;
            }
        }
        self.things.insert(path.clone(), body);
        self.start(&path, "insert", code, request)
    }

    fn delete(&mut self, path: &str, code: Option<&'static str>) -> Answer {
        let Some(thing) = self.things.get(path) else { return missing(path) };
        if thing["status"] == "STOPPING" {
            return (400, refusal(400, "resourceNotReady", path));
        }
        let user = self.things.iter().find(|(other, thing)| *other != path && links(thing).contains(path));
        if let Some((user, _)) = user {
            return (400, refusal(400, "resourceInUseByAnotherResource", user));
        }
        if path.contains("/instances/") {
            self.things.get_mut(path).unwrap()["status"] = json!("STOPPING");
        }
        self.start(path, "delete", code, None)
    }

    fn members(&mut self, path: &str, verb: &str, body: Option<&Value>) -> Answer {
        let group = path.rsplit_once('/').unwrap().0.to_owned();
        let alive: BTreeSet<String> = self.of("instances").into_iter().cloned().collect();
        let Some(thing) = self.things.get_mut(&group) else { return missing(&group) };
        let mut members: BTreeSet<String> =
            thing["_members"].as_array().into_iter().flatten().map(|m| m.as_str().unwrap().to_owned()).collect();
        members.retain(|member| alive.contains(member));
        let given: Vec<String> = body.map(links).unwrap_or_default().into_iter().collect();
        match verb {
            "listInstances" => {
                let items: Vec<_> = members.iter().map(|m| json!({"instance": format!("{HOST}{m}")})).collect();
                return (200, json!({"items": items}));
            }
            "addInstances" => {
                if let Some(absent) = given.iter().find(|link| !alive.contains(*link)) {
                    return missing(absent);
                }
                members.extend(given);
            }
            _ => members.retain(|member| !given.contains(member)),
        }
        thing["_members"] = json!(members);
        self.start(&group, verb, None, None)
    }

    fn start(&mut self, path: &str, verb: &str, code: Option<&'static str>, request: Option<String>) -> Answer {
        self.counter += 1;
        let name = format!("operation-{}", self.counter);
        let parts: Vec<_> = path.split('/').collect();
        let scope = if parts[2] == "global" { parts[2].to_owned() } else { format!("{}/{}", parts[2], parts[3]) };
        let operation = Operation { looks: self.slowness, code, target: path.to_owned(), verb: verb.to_owned(), scope };
        self.operations.insert(name.clone(), operation);
        if let Some(request) = request {
            self.requests.insert(request, name.clone());
        }
        self.settle(&name);
        (200, self.operation(&name))
    }

    fn look(&mut self, path: &str) -> Answer {
        let name = path.rsplit('/').next().unwrap();
        let Some(operation) = self.operations.get_mut(name) else { return missing(path) };
        if !path.contains(&format!("/{}/", operation.scope)) {
            return missing(path);
        }
        operation.looks = operation.looks.saturating_sub(1);
        self.settle(name);
        (200, self.operation(name))
    }

    fn settle(&mut self, name: &str) {
        let operation = &self.operations[name];
        if operation.looks > 0 || operation.verb.is_empty() {
            return;
        }
        let (target, verb, failed) = (operation.target.clone(), operation.verb.clone(), operation.code.is_some());
        self.operations.get_mut(name).unwrap().verb = String::new();
        match (verb.as_str(), failed) {
            ("insert", true) | ("delete", false) => {
                self.things.remove(&target);
            }
            ("insert", false) if target.contains("/instances/") => {
                if let Some(thing) = self.things.get_mut(&target).filter(|thing| thing["status"] == "PROVISIONING") {
                    thing["status"] = json!("RUNNING");
                }
            }
            _ => {}
        }
    }

    fn operation(&self, name: &str) -> Value {
        let operation = &self.operations[name];
        let done = operation.verb.is_empty();
        let mut answer = json!({"name": name, "status": if done { "DONE" } else { "RUNNING" },
            "operationType": "insert", "targetLink": format!("{HOST}{}", operation.target)});
        if let Some(code) = operation.code.filter(|_| done) {
            answer["error"] = json!({"errors": [{"code": code, "message": "as scripted"}]});
            answer["httpErrorStatusCode"] = json!(400);
        }
        answer
    }

    fn list(&self, path: &str, filter: Option<&str>, token: Option<String>) -> Answer {
        let inside = format!("{path}/");
        let all = self.things.iter().filter(|(key, thing)| key.starts_with(&inside) && fits(filter, thing));
        let all: Vec<_> = all.map(|(_, thing)| thing.clone()).collect();
        let (items, next) = self.paged(all, token);
        (200, json!({"items": items, "nextPageToken": next}))
    }

    fn aggregated(&mut self, path: &str, filter: Option<&str>, token: Option<String>) -> Answer {
        let kind = path.rsplit('/').next().unwrap();
        let mut shown = Vec::new();
        for (key, thing) in &self.things {
            if !key.contains(&format!("/{kind}/")) || !fits(filter, thing) {
                continue;
            }
            match self.hidden.get_mut(key).filter(|left| **left > 0) {
                Some(left) => *left -= 1,
                None => shown.push((key.clone(), thing.clone())),
            }
        }
        let (shown, next) = self.paged(shown, token);
        let mut items = Map::new();
        for (key, thing) in shown {
            let zone = key.split('/').nth(3).unwrap().to_owned();
            let scope = items.entry(format!("zones/{zone}")).or_insert_with(|| json!({kind: []}));
            scope[kind].as_array_mut().unwrap().push(thing);
        }
        items.insert("zones/none".into(), json!({"warning": {"code": "NO_RESULTS_ON_PAGE"}}));
        for place in &self.silent {
            items.insert(place.clone(), json!({"warning": {"code": "UNREACHABLE", "message": "a scope is away"}}));
        }
        (200, json!({"items": items, "nextPageToken": next, "unreachables": self.unreachable}))
    }

    fn paged<T>(&self, all: Vec<T>, token: Option<String>) -> (Vec<T>, Option<String>) {
        let from: usize = token.filter(|t| !t.is_empty()).map_or(0, |token| token.parse().unwrap());
        let size = self.page.unwrap_or(all.len().max(1));
        let next = (from + size < all.len()).then(|| (from + size).to_string());
        (all.into_iter().skip(from).take(size).collect(), next)
    }
}

impl Scripted for World {
    fn at(_: &str) -> Self {
        Self::default()
    }

    fn respond(&mut self, request: &Request) -> Response {
        let Request { method, uri, query, body, .. } = request;
        let body: Option<Value> = (!body.is_empty()).then(|| serde_json::from_slice(body).unwrap());
        let (status, answer) = match model::check(Service::Compute, method.as_str(), uri.path(), query, body.as_ref()) {
            Ok(matched) => self.answer(&matched, query, body),
            Err(wrong) => {
                self.violations.extend(wrong.clone());
                (400, refusal(400, "invalid", &wrong.join("; ")))
            }
        };
        let mut headers = HeaderMap::new();
        if status == 429 {
            headers.insert("retry-after", "7".parse().unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        match answer {
            // Word by word, whether it is JSON or not.
            Value::String(text) => (status, headers, text).into_response(),
            answer => (status, headers, Json(answer)).into_response(),
        }
    }

    fn kill(&mut self, deaths: Deaths) {
        self.deaths = deaths;
    }

    fn dies(&mut self) -> bool {
        std::mem::take(&mut self.dies)
    }

    /// As if somebody had looked.
    fn pass(&mut self) {
        let names: Vec<_> = self.operations.keys().cloned().collect();
        for name in names {
            self.operations.get_mut(&name).unwrap().looks = 0;
            self.settle(&name);
        }
    }

    /// Paths, and the members of groups; a removed instance leaves its group by itself.
    fn picture(&self) -> Vec<String> {
        let alive = |member: &&Value| member.as_str().is_some_and(|link| self.things.contains_key(link));
        let members = |thing: &Value| {
            let all = thing["_members"].as_array();
            all.map_or(Value::Null, |all| all.iter().filter(alive).cloned().collect())
        };
        self.things.iter().map(|(path, thing)| format!("{path} {:?}", members(thing))).collect()
    }

    fn machines(&self) -> Vec<Machine> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let data = |vm: &Value| {
            let mut items = vm["metadata"]["items"].as_array().into_iter().flatten();
            let found = items.find(|item| item["key"] == "constellation-launch-config");
            STANDARD.decode(found.map(|item| text(&item["value"])).unwrap_or_default()).unwrap()
        };
        let all = self.of("instances").into_iter().map(|path| &self.things[path]);
        all.filter(|vm| vm["status"] != "STOPPING")
            .map(|vm| Machine {
                cluster: text(&vm["labels"]["constellation-cluster"]),
                node: text(&vm["labels"]["constellation-node"]),
                image: text(&vm["disks"][0]["initializeParams"]["sourceImage"]),
                user_data: data(vm),
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

/// `labels.a=b AND labels.c=d`, or `name eq REGULAR-EXPRESSION` of the form `prefix.*`.
fn fits(filter: Option<&str>, thing: &Value) -> bool {
    filter.unwrap_or_default().split(" AND ").filter(|term| !term.is_empty()).all(|term| {
        if let Some(pattern) = term.strip_prefix("name eq ") {
            return thing["name"].as_str().unwrap().starts_with(pattern.strip_suffix(".*").unwrap());
        }
        let (key, value) = term.strip_prefix("labels.").and_then(|term| term.split_once('=')).unwrap();
        thing["labels"][key] == value
    })
}

/// What a thing refers to, as paths.
fn links(value: &Value) -> BTreeSet<String> {
    match value {
        Value::String(text) => {
            let text = text.strip_prefix(HOST).unwrap_or(text);
            text.starts_with("projects/").then(|| text.to_owned()).into_iter().collect()
        }
        Value::Array(items) => items.iter().flat_map(links).collect(),
        Value::Object(members) => {
            let own = |key: &&String| !["selfLink", "_members"].contains(&key.as_str());
            members.iter().filter(|(key, _)| own(key)).flat_map(|(_, value)| links(value)).collect()
        }
        _ => BTreeSet::new(),
    }
}

/// Whether the endpoint holds things of the kind that a link names.
fn tracked(link: &str) -> bool {
    ["networks", "subnetworks", "addresses", "healthChecks", "instanceGroups", "backendServices"]
        .iter()
        .any(|kind| link.contains(&format!("/{kind}/")))
}

fn missing(path: &str) -> Answer {
    (404, refusal(404, "notFound", &format!("The resource '{path}' was not found")))
}

/// A refusal in Google's shape.
pub fn refusal(status: u16, reason: &str, message: &str) -> Value {
    json!({"error": {"code": status, "message": message,
        "errors": [{"message": message, "domain": "global", "reason": reason}]}})
}
