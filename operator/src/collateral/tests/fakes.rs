//! A maker over TLS whose every byte the test says, an API server with `ConfigMap`s, and a proxy.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use constellation_attestation::{collateral::Key, endorsers::Endorsers};
use hyper_util::client::proxy::matcher::Matcher;
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::collateral::settings::{Sources, Update};

/// A wait that ends only when a test has failed.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a maker answers.
#[derive(Clone)]
pub struct Reply {
    head: String,
    body: Vec<u8>,
    held: bool,
    cut: bool,
}

impl Reply {
    pub fn ok(body: Vec<u8>) -> Self {
        Self { head: "HTTP/1.1 200 OK\r\n".into(), body, held: false, cut: false }
    }

    pub fn status(status: u16, headers: &str) -> Self {
        Self { head: format!("HTTP/1.1 {status} No\r\n{headers}"), ..Self::ok(Vec::new()) }
    }

    /// Not before it is released.
    pub fn held(self) -> Self {
        Self { held: true, ..self }
    }

    /// Ends in the middle.
    pub fn cut(self) -> Self {
        Self { cut: true, ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        let length = self.body.len();
        let head = format!("{}Content-Length: {length}\r\nConnection: close\r\n\r\n", self.head);
        let body = if self.cut { &self.body[..length / 2] } else { &self.body };
        [head.as_bytes(), body].concat()
    }
}

/// A certificate of `localhost`, PEM, and its server's side.
pub fn certificate() -> (String, TlsAcceptor) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (made.cert.pem(), TlsAcceptor::from(Arc::new(config)))
}

/// All makers in one: what a path answers is the test's; anything else is not there.
#[derive(Clone)]
pub struct Maker {
    port: u16,
    ca: String,
    replies: Arc<Mutex<BTreeMap<String, Reply>>>,
    asked: Arc<watch::Sender<Vec<String>>>,
    released: Arc<watch::Sender<bool>>,
}

impl Maker {
    pub async fn with<const N: usize>(replies: [(&str, Reply); N]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ca, tls) = certificate();
        let maker = Self {
            port: listener.local_addr().unwrap().port(),
            ca,
            replies: Arc::new(Mutex::new(replies.map(|(path, reply)| (path.to_owned(), reply)).into())),
            asked: Arc::new(watch::Sender::new(Vec::new())),
            released: Arc::new(watch::Sender::new(false)),
        };
        let this = maker.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (this, tls) = (this.clone(), tls.clone());
                // A client that doesn't believe us, or goes away, is one of the tests.
                tokio::spawn(async move { this.serve(stream, tls).await.ok() });
            }
        });
        maker
    }

    /// Intel, with what a platform family has.
    pub async fn intel(scene: &tdx_factory::Scene) -> Self {
        let collateral = scene.collateral();
        let text = |member: &str| collateral[member].as_str().unwrap().to_owned();
        let encoded = |member: &str| text(member).replace(' ', "%20").replace('\n', "%0A").replace('+', "%2B");
        let signed = |member: &str, name: &str, header: &str| {
            let body =
                format!("{{\"{name}\":{},\"signature\":\"{}\"}}", text(member), text(&format!("{member}_signature")));
            let head = format!("HTTP/1.1 200 OK\r\n{header}: {}\r\n", encoded(&format!("{member}_issuer_chain")));
            Reply { head, ..Reply::ok(body.into_bytes()) }
        };
        let list = Reply {
            head: format!("HTTP/1.1 200 OK\r\nSGX-PCK-CRL-Issuer-Chain: {}\r\n", encoded("pck_crl_issuer_chain")),
            ..Reply::ok(hex::decode(text("pck_crl")).unwrap())
        };
        Self::with([
            (
                "/pcs/tdx/certification/v4/tcb?fmspc=b0c06f000000&update=standard",
                signed("tcb_info", "tcbInfo", "TCB-Info-Issuer-Chain"),
            ),
            (
                "/pcs/tdx/certification/v4/qe/identity?update=standard",
                signed("qe_identity", "enclaveIdentity", "SGX-Enclave-Identity-Issuer-Chain"),
            ),
            ("/pcs/sgx/certification/v4/pckcrl?ca=platform&encoding=der", list),
            ("/root/IntelSGXRootCA.der", Reply::ok(hex::decode(text("root_ca_crl")).unwrap())),
        ])
        .await
    }

    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// Paths and queries that were asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }

    pub async fn arrived(&self, requests: usize) {
        let mut asked = self.asked.subscribe();
        timeout(PATIENCE, asked.wait_for(|asked| asked.len() >= requests)).await.unwrap().unwrap();
    }

    pub fn release(&self) {
        self.released.send_replace(true);
    }

    pub fn answers(&self, path: &str, reply: Reply) {
        self.replies.lock().unwrap().insert(path.to_owned(), reply);
    }

    async fn serve(&self, stream: TcpStream, tls: TlsAcceptor) -> std::io::Result<()> {
        let mut stream = tls.accept(stream).await?;
        let head = head(&mut stream).await?;
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        assert!(head.starts_with("GET "), "{head}");
        self.asked.send_modify(|asked| asked.push(path.clone()));
        let reply = self.replies.lock().unwrap().get(&path).cloned().unwrap_or_else(|| Reply::status(404, ""));
        if reply.held {
            self.released.subscribe().wait_for(|released| *released).await.unwrap();
        }
        stream.write_all(&reply.bytes()).await?;
        stream.shutdown().await
    }
}

async fn head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(head).unwrap())
}

/// A proxy that makes tunnels, and what they were to.
pub async fn proxy() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tunnels = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&tunnels);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = head(&mut stream).await.unwrap();
            let to = head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap().to_owned();
            seen.lock().unwrap().push(to.clone());
            let mut maker = TcpStream::connect(to.replace("localhost", "127.0.0.1")).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut maker).await.ok() });
        }
    });
    (address, tunnels)
}

#[derive(Default)]
struct World {
    maps: BTreeMap<String, BTreeMap<String, String>>,
    calls: usize,
    writes: usize,
    forbidden: bool,
}

/// An API server that has `ConfigMap`s.
#[derive(Clone)]
pub struct Api {
    world: Arc<watch::Sender<World>>,
    address: SocketAddr,
}

type Shared = Arc<watch::Sender<World>>;

fn status(code: StatusCode, reason: &str) -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code.as_u16()});
    (code, Json(body)).into_response()
}

fn write(world: &Shared, namespace: &str, body: &Value, make: bool) -> Response {
    let mut answer = None;
    world.send_modify(|world| {
        world.calls += 1;
        answer = Some(if world.forbidden {
            status(StatusCode::FORBIDDEN, "Forbidden")
        } else if !make && !world.maps.contains_key(namespace) {
            status(StatusCode::NOT_FOUND, "NotFound")
        } else {
            let data: BTreeMap<String, String> = serde_json::from_value(body["data"].clone()).unwrap();
            world.writes += 1;
            world.maps.entry(namespace.to_owned()).or_default().extend(data);
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": store::NAME}});
            Json(map).into_response()
        });
    });
    answer.unwrap()
}

impl Api {
    pub async fn new() -> Self {
        let world: Shared = Arc::default();
        let patch = async |State(world): State<Shared>, Path(namespace): Path<String>, Json(body): Json<Value>| {
            write(&world, &namespace, &body, false)
        };
        let create = async |State(world): State<Shared>, Path(namespace): Path<String>, Json(body): Json<Value>| {
            write(&world, &namespace, &body, true)
        };
        let one = format!("/api/v1/namespaces/{{namespace}}/configmaps/{}", store::NAME);
        let routes = Router::new()
            .route(&one, get(async || status(StatusCode::NOT_FOUND, "NotFound")).patch(patch))
            .route("/api/v1/namespaces/{namespace}/configmaps", post(create))
            .with_state(Arc::clone(&world));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { world, address }
    }

    fn client(&self) -> Client {
        let config = kube::Config::new(format!("http://{}", self.address).parse().unwrap());
        Client::try_from(config).unwrap()
    }

    /// The map of a namespace, once it has so many entries.
    pub async fn stored(&self, namespace: &str, entries: usize) -> BTreeMap<String, String> {
        let mut world = self.world.subscribe();
        let enough = |world: &World| world.maps.get(namespace).is_some_and(|map| map.len() >= entries);
        let world = timeout(PATIENCE, world.wait_for(enough)).await.unwrap().unwrap();
        world.maps[namespace].clone()
    }

    pub fn writes(&self) -> usize {
        self.world.borrow().writes
    }

    pub fn calls(&self) -> usize {
        self.world.borrow().calls
    }

    pub fn forbid(&self) {
        self.world.send_modify(|world| world.forbidden = true);
    }
}

/// A collector, a maker and an API server.
pub struct Scene {
    pub collector: Arc<Collector>,
    pub api: Api,
    pub metrics: Arc<Metrics>,
    maker: Maker,
    ca: String,
}

impl Scene {
    pub async fn new(maker: &Maker) -> Self {
        Self::through(maker, Matcher::builder().build()).await
    }

    pub async fn through(maker: &Maker, proxies: Matcher) -> Self {
        Self::believing(maker, proxies, &maker.ca).await
    }

    pub async fn believing(maker: &Maker, proxies: Matcher, ca: &str) -> Self {
        let (api, metrics) = (Api::new().await, Arc::<Metrics>::default());
        let vendors = vendors(maker, proxies, ca);
        let collector = collector(&api, &metrics, Some(vendors));
        Self { collector, api, metrics, maker: maker.clone(), ca: ca.to_owned() }
    }

    /// After a restart of the operator.
    pub fn again(&self) -> Arc<Collector> {
        collector(&self.api, &self.metrics, Some(vendors(&self.maker, Matcher::builder().build(), &self.ca)))
    }

    /// With fetching off.
    pub fn off(&self) -> Arc<Collector> {
        collector(&self.api, &self.metrics, None)
    }

    /// Waits until a thing's failure is known.
    pub async fn failed(&self, key: &Key) {
        let known = async {
            while self.collector.desk().trouble(key).is_none() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, known).await.unwrap();
        self.settle().await;
    }

    /// Waits until nothing is on its way.
    pub async fn settle(&self) {
        let quiet = async {
            while !self.collector.desk().is_quiet() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, quiet).await.unwrap();
    }
}

fn anchors() -> Endorsers {
    let intel = tdx_factory::Scene::good(4, 2).anchors();
    Endorsers { amd: AMD.anchors(), intel, ..Endorsers::pinned(Cache::default()) }
}

fn vendors(maker: &Maker, proxies: Matcher, ca: &str) -> Vendors {
    let base = format!("https://{}", maker.host());
    let sources = Sources {
        amd: format!("{base}/kds"),
        intel: format!("{base}/pcs"),
        intel_root: format!("{base}/root"),
        update: Update::Standard,
        google: Some(format!("{base}/google")),
    };
    let pace = Pace { burst: 100, every: Duration::from_millis(1), answer: Duration::from_secs(3) };
    Vendors::new(Http::new(Some(ca.as_bytes()), proxies, pace).unwrap(), sources, anchors())
}

fn collector(api: &Api, metrics: &Arc<Metrics>, vendors: Option<Vendors>) -> Arc<Collector> {
    Arc::new(Collector {
        client: api.client(),
        vendors,
        metrics: Arc::clone(metrics),
        fence: Arc::default(),
        anchors: anchors(),
        desk: Mutex::default(),
    })
}
