//! Stands between operator and API server, and lets happen what the plan says.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use anyhow::Result;
use bytes::Bytes;
use constellation_crds::ConstellationCluster;
use futures::{SinkExt as _, StreamExt as _, channel::mpsc};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams},
    client::Body,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::AbortHandle};

use super::{
    call::Call,
    plan::{EventFate, Fate, Plan, Side, millis},
};

/// The operator's process.
pub trait Process: Send + Sync {
    /// Kills it, and starts it again.
    fn kill(&self);
    /// Stops it where it is.
    fn suspend(&self);
}

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// Kinds whose status is the operator's to write; the played machines write others.
const OURS: [&str; 4] = ["confidentialnodes", "constellationclusters", "nodegroups", "nodeversions"];

/// What went through.
#[derive(Default)]
pub struct Seen {
    /// Names of nodes and clusters by UID.
    pub names: BTreeMap<String, String>,
    /// How often a machine was made for a node, by the node's UID.
    pub launches: BTreeMap<String, u32>,
    /// Side effects that the API server took, in order.
    pub writes: Vec<String>,
    /// Resources that are watched, or were.
    pub watched: BTreeSet<String>,
    /// Reads of one object, in order: resource, name, and whether they were of its metadata alone.
    pub reads: Vec<String>,
    /// When each of them was taken.
    pub moments: Vec<Moment>,
    /// When a process behind this proxy began to lead.
    pub reigns: Vec<Moment>,
    /// Listings of the simulated cloud's books, by what they select.
    pub provider_lists: BTreeMap<String, u64>,
    /// Statuses of answers to side effects that were errors, with the effect.
    pub errors: Vec<String>,
    /// Writes of statuses that changed nothing.
    pub idle: Vec<String>,
    /// The status that was written last, and the object's version since, by object.
    told: BTreeMap<String, (Value, String)>,
    /// Who leads, and since when, as the lease says.
    leader: Option<Value>,
}

/// When a request took effect.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// It was sent on.
    pub sent: Instant,
    /// It was answered.
    pub answered: Instant,
    /// The API server's own count of all writes after it; what is removed at once has none.
    pub version: Option<u64>,
}

impl Moment {
    /// Whether it took effect after another one.
    #[must_use]
    pub fn is_after(&self, other: &Self) -> bool {
        self.version.zip(other.version).map_or(self.answered > other.answered, |(ours, others)| ours > others)
    }
}

/// A running proxy; ends when dropped.
pub struct Proxy {
    address: SocketAddr,
    _task: Worker,
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    plan: Plan,
    process: Arc<dyn Process>,
    seen: Mutex<Seen>,
}

impl Proxy {
    /// Listens on loopback. `client` must not retry by itself; its namespace is the one whose clusters a user may delete.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(client: Client, plan: Plan, process: Arc<dyn Process>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { client, plan, process, seen: Mutex::default() });
        let task = Worker::start(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, _task: task, shared })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A kubeconfig that leads here. The proxy has the credentials.
    #[must_use]
    pub fn kubeconfig(&self, namespace: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: faults\n\
             clusters:\n- name: faults\n  cluster:\n    server: http://{}\nusers:\n- name: faults\n  user: {{}}\n\
             contexts:\n- name: faults\n  context:\n    cluster: faults\n    user: faults\n    namespace: {namespace}\n",
            self.address
        )
    }

    /// What goes wrong.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    /// What went through until now.
    pub fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.shared.seen())
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As the user does, who waits for nobody.
    async fn delete_clusters(&self) -> io::Result<()> {
        let clusters: Api<ConstellationCluster> = Api::default_namespaced(self.client.clone());
        let all = clusters.delete_collection(&DeleteParams::default(), &ListParams::default()).await;
        all.map(drop).map_err(io::Error::other)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| handle(Arc::clone(&shared), request));
            // An error is a connection that was cut, by the plan or by a process that died.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// An error cuts the connection without an answer.
async fn handle(shared: Arc<Shared>, request: Request<Incoming>) -> io::Result<Answer> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let mut call = Call::of(parts.method.as_str(), parts.uri.path(), parts.uri.query().unwrap_or_default(), &body);
    let wanted = parts.headers.get(http::header::ACCEPT).and_then(|wanted| wanted.to_str().ok()).unwrap_or_default();
    call.metadata = wanted.contains("PartialObjectMetadata");
    let effect = {
        let seen = shared.seen();
        call.effect(&seen.names, seen.told.get(&call.object()).map(|(status, _)| status))
    };
    let fate = shared.plan.fate(&call, &effect);
    match fate {
        Fate::KillBefore => {
            shared.process.kill();
            return Err(io::Error::other("killed before the side effect"));
        }
        Fate::Refuse(status) => return refusal(status),
        Fate::Late(time) => tokio::time::sleep(millis(time)).await,
        Fate::Suspend => shared.process.suspend(),
        Fate::Delete(Side::Before) => shared.delete_clusters().await?,
        Fate::Delete(Side::After) | Fate::Expire | Fate::Hang | Fate::KillAfter | Fate::Lose | Fate::Pass => {}
    }
    // A task of its own: the write arrives although its author dies meanwhile, as one that is on the wire would.
    let forwarded = tokio::spawn(forward(Arc::clone(&shared), parts, body, call, effect));
    let answer = forwarded.await.map_err(io::Error::other)??;
    match fate {
        Fate::KillAfter => {
            shared.process.kill();
            Err(io::Error::other("killed after the side effect"))
        }
        Fate::Delete(Side::After) => {
            shared.delete_clusters().await?;
            Ok(answer)
        }
        Fate::Lose => Err(io::Error::other("the answer is lost")),
        Fate::Expire => refusal(504),
        // Until whoever asked hangs up.
        Fate::Hang => std::future::pending().await,
        _ => Ok(answer),
    }
}

async fn forward(
    shared: Arc<Shared>,
    mut parts: http::request::Parts,
    body: Bytes,
    call: Call,
    effect: String,
) -> io::Result<Answer> {
    parts.headers.remove(http::header::HOST);
    let request = Request::from_parts(parts, Body::from(body));
    let sent = Instant::now();
    let answer = shared.client.send(request).await.map_err(io::Error::other)?;
    let (parts, body) = answer.into_parts();
    if call.watch && parts.status.is_success() {
        shared.seen().watched.insert(call.resource.clone());
        return Ok(Response::from_parts(parts, watch(shared, body)));
    }
    let body = body.collect_bytes().await.map_err(io::Error::other)?;
    if parts.status.is_success() {
        note(&shared, &call, effect, &body, sent);
    } else if call.writes() {
        shared.seen().errors.push(format!("{} {effect}", parts.status.as_u16()));
    }
    Ok(Response::from_parts(parts, whole(body)))
}

/// Writes down what took effect.
fn note(shared: &Shared, call: &Call, effect: String, body: &[u8], sent: Instant) {
    let mut seen = shared.seen();
    if call.verb == "read" {
        if call.resource == "configmaps" && call.name.is_none() {
            *seen.provider_lists.entry(call.selector.clone()).or_default() += 1;
        }
        let part = if call.metadata { " metadata" } else { "" };
        seen.reads.extend(call.name.iter().map(|name| format!("{} {name}{part}", call.resource)));
        return;
    }
    let object: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
    let version = text("/metadata/resourceVersion").and_then(|version| version.parse().ok());
    let moment = Moment { sent, answered: Instant::now(), version };
    if call.renews() {
        let leader = json!([text("/spec/holderIdentity"), text("/spec/acquireTime")]);
        if seen.leader.as_ref() != Some(&leader) {
            seen.leader = Some(leader);
            seen.reigns.push(moment);
        }
    }
    if call.verb == "create"
        && let (Some(uid), Some(name)) = (text("/metadata/uid"), text("/metadata/name"))
        && call.resource == "confidentialnodes"
    {
        seen.names.insert(uid.to_owned(), name.to_owned());
    }
    let machine = call.name.as_deref().and_then(|name| name.strip_prefix("simulated-"));
    if let (Some(node), "create", "configmaps") = (machine, call.verb, call.resource.as_str())
        && !node.starts_with("network-")
    {
        *seen.launches.entry(node.to_owned()).or_default() += 1;
    }
    if call.subresource.as_deref() == Some("status") {
        let version = text("/metadata/resourceVersion").unwrap_or_default();
        let before = call.body.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        let last = seen.told.insert(call.object(), (call.body["status"].clone(), version.to_owned()));
        let same = before == Some(version) || last.is_some_and(|(_, last)| last == version);
        if same && OURS.contains(&call.resource.as_str()) {
            seen.idle.push(effect.clone());
        }
    }
    if call.writes() {
        seen.writes.push(effect);
        seen.moments.push(moment);
    }
}

/// A task that ends with what it works for.
pub(super) struct Worker(AbortHandle);

impl Worker {
    pub(super) fn start(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task).abort_handle())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Passes events on, one by one, for as long as somebody reads them.
fn watch(shared: Arc<Shared>, body: Body) -> UnsyncBoxBody<Bytes, io::Error> {
    let (mut to, from) = mpsc::channel::<io::Result<Frame<Bytes>>>(16);
    let worker = Worker::start(async move {
        let mut chunks = body.into_data_stream();
        let mut rest = Vec::new();
        while let Some(Ok(chunk)) = chunks.next().await {
            rest.extend_from_slice(&chunk);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let line = Bytes::from(line);
                let times = match shared.plan.event() {
                    EventFate::Cut => return,
                    EventFate::Lost => 0,
                    EventFate::Expired => {
                        let gone = json!({"type": "ERROR", "object": status(410)}).to_string() + "\n";
                        let _ = to.send(Ok(Frame::data(Bytes::from(gone)))).await;
                        return;
                    }
                    EventFate::Late(time) => {
                        tokio::time::sleep(millis(time)).await;
                        1
                    }
                    EventFate::Pass => 1,
                    EventFate::Twice => 2,
                };
                for _ in 0..times {
                    if to.send(Ok(Frame::data(line.clone()))).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    let events = from.inspect(move |_| {
        let _ = &worker;
    });
    StreamBody::new(events).boxed_unsync()
}

fn refusal(code: u16) -> io::Result<Answer> {
    Response::builder()
        .status(code)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(whole(Bytes::from(status(code).to_string())))
        .map_err(io::Error::other)
}

fn status(code: u16) -> Value {
    let reason = match code {
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        504 => "Timeout",
        _ => "InternalError",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "the plan of the test says so", "reason": reason, "code": code
    })
}

fn whole(bytes: Bytes) -> UnsyncBoxBody<Bytes, io::Error> {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}
