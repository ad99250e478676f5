//! One HTTPS request to a maker of processors or a cloud: through the proxy of the environment, one host at a time as fast
//! as it likes, bounded in time and size, and never sent elsewhere by the answer.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use constellation_attestation::collateral::MAX_ENTRY;
use constellation_cloud::{answers::retry_after, limit::Limiters};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{HeaderMap, Request, Response, StatusCode, Uri, body::Bytes, body::Incoming, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::{
        legacy::{
            Client,
            connect::{HttpConnector, proxy::Tunnel},
        },
        proxy::matcher::{Intercept, Matcher},
    },
    rt::TokioExecutor,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::trouble::Trouble;
use crate::error::chain;

/// Connecting takes a round trip or two; a host that drops packets is missed in this time.
const CONNECT: Duration = Duration::from_secs(10);

/// How fast and how long.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Requests to one host at once; a TDX platform takes three of one host.
    pub burst: u32,
    /// Then one in each. AMD's service was seen to refuse more than some requests in ten seconds.
    pub every: Duration,
    /// From sending to the last byte. Answers are at most [`MAX_ENTRY`] bytes.
    pub answer: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { burst: 4, every: Duration::from_secs(10), answer: Duration::from_secs(30) }
    }
}

/// Fetches.
pub struct Http {
    tls: ClientConfig,
    proxies: Matcher,
    limiters: Limiters,
    pace: Pace,
}

/// What came.
pub struct Answer {
    /// The body.
    pub body: Vec<u8>,
    headers: HeaderMap,
}

impl Answer {
    /// A header, percent-decoded; empty when it isn't there.
    #[must_use]
    pub fn decoded(&self, name: &str) -> String {
        let value = self.headers.get(name).map(hyper::header::HeaderValue::as_bytes).unwrap_or_default();
        percent_encoding::percent_decode(value).decode_utf8_lossy().into_owned()
    }
}

impl Http {
    /// Believes the CAs of the system, and those in `ca`, PEM.
    ///
    /// # Errors
    /// When `ca` holds none, or there is none at all.
    pub fn new(ca: Option<&[u8]>, proxies: Matcher, pace: Pace) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(pem) = ca {
            let own: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>()?;
            let (added, _) = roots.add_parsable_certificates(own);
            anyhow::ensure!(added > 0, "there is no certificate in it");
        }
        anyhow::ensure!(!roots.is_empty(), "there are no CAs in this system: give --collateral-ca");
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls, proxies, limiters: Limiters::new(pace.burst, pace.every), pace })
    }

    /// Gets what is at an address, when it is our turn with its host.
    ///
    /// # Errors
    /// Why not.
    pub async fn get(&self, url: &Uri) -> Result<Answer, Trouble> {
        let host = url.authority().map(ToString::to_string).unwrap_or_default();
        let limiter = self.limiters.of(&host, "");
        limiter.turn().await;
        let exchange = async {
            let (head, body) = self.send(url, &host).await?.into_parts();
            match refusal(&host, head.status, &head.headers) {
                Some(trouble) => Err(trouble),
                None => Ok(Answer { body: whole(body, &host).await?, headers: head.headers }),
            }
        };
        let answer = tokio::time::timeout(self.pace.answer, exchange);
        let answer = answer.await.unwrap_or_else(|_| Err(Trouble::Slow(host.clone())));
        if let Err(Trouble::Throttled { after, .. }) = &answer {
            limiter.throttled(after.unwrap_or(self.pace.every));
        }
        answer
    }

    async fn send(&self, url: &Uri, host: &str) -> Result<Response<Incoming>, Trouble> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        let request = Request::get(url)
            .header(header::HOST, host)
            .header(header::USER_AGENT, "constellation-operator")
            .body(Empty::<Bytes>::new());
        let unreachable = |why: String| Trouble::Unreachable { host: host.to_owned(), why };
        let request = request.map_err(|error| unreachable(error.to_string()))?;
        // Requests are days apart, so that nothing is gained by keeping a connection.
        let Some(proxy) = self.proxies.intercept(url) else {
            let client = Client::builder(TokioExecutor::new()).build(self.secured(tcp));
            return client.request(request).await.map_err(|error| unreachable(chain(&error)));
        };
        let client = Client::builder(TokioExecutor::new()).build(self.secured(tunnel(&proxy, tcp)));
        client.request(request).await.map_err(|error| Trouble::Proxy {
            host: host.to_owned(),
            proxy: format!("{}:{}", proxy.uri().host().unwrap_or_default(), proxy.uri().port_u16().unwrap_or(80)),
            why: chain(&error),
        })
    }

    fn secured<C>(&self, connector: C) -> HttpsConnector<C> {
        HttpsConnectorBuilder::new()
            .with_tls_config(self.tls.clone())
            .https_only()
            .enable_http1()
            .wrap_connector(connector)
    }
}

fn tunnel(proxy: &Intercept, tcp: HttpConnector) -> Tunnel<HttpConnector> {
    let tunnel = Tunnel::new(proxy.uri().clone(), tcp);
    match proxy.basic_auth() {
        Some(credentials) => tunnel.with_auth(credentials.clone()),
        None => tunnel,
    }
}

fn refusal(host: &str, status: StatusCode, headers: &HeaderMap) -> Option<Trouble> {
    let host = host.to_owned();
    let after = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let after = after.and_then(|text| retry_after(text, SystemTime::now()));
    Some(match status {
        StatusCode::OK => return None,
        StatusCode::NOT_FOUND | StatusCode::GONE => Trouble::Absent(host),
        StatusCode::TOO_MANY_REQUESTS => Trouble::Throttled { host, after },
        StatusCode::SERVICE_UNAVAILABLE if after.is_some() => Trouble::Throttled { host, after },
        status if status.is_redirection() => Trouble::Redirected(host),
        status => Trouble::Status { host, status: status.as_u16() },
    })
}

async fn whole(body: Incoming, host: &str) -> Result<Vec<u8>, Trouble> {
    match Limited::new(body, MAX_ENTRY).collect().await {
        Ok(body) => Ok(body.to_bytes().to_vec()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Trouble::Large(host.to_owned())),
        Err(_) => Err(Trouble::Cut(host.to_owned())),
    }
}
