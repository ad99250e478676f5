//! One HTTPS client for the two servers a node asks as itself: the API server and etcd. Trusts one CA, shows one key.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::error::Error;

/// Greatest answer, bytes: a page of 50 admissions, each of which has 100 KiB at most.
const MAX_ANSWER: usize = 8 * 1024 * 1024;
/// How long an answer may take; without KVM a busy server needs seconds.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// A way to one server.
pub struct Https {
    endpoint: String,
    tls: TlsConnector,
}

impl Https {
    /// `endpoint` is `host:port`; `ca` and `credential` (certificate and key) are PEM.
    pub fn new(endpoint: &str, ca: &str, credential: &str) -> Result<Self, Error> {
        let wrong = |what: &str| Error::State(format!("{what} for https://{endpoint} can't be used"));
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(certificate.map_err(|_| wrong("the CA"))?).map_err(|_| wrong("the CA"))?;
        }
        let chain = CertificateDer::pem_slice_iter(credential.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| wrong("our certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(credential.as_bytes()).map_err(|_| wrong("our key"))?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|_| wrong("TLS 1.3"))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|_| wrong("our credential"))?;
        Ok(Self { endpoint: endpoint.to_owned(), tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Gets a path.
    pub async fn get(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.exchange(Method::GET, path, Bytes::new()).await
    }

    /// Posts JSON to a path.
    pub async fn post(&self, path: &str, body: &serde_json::Value) -> Result<Vec<u8>, Error> {
        self.exchange(Method::POST, path, Bytes::from(body.to_string())).await
    }

    /// Waits for the first bytes of an answer that may never end, or for its end.
    pub async fn first_bytes(&self, path: &str, limit: Duration) -> Result<(), Error> {
        let watch = async {
            match self.answer(Method::GET, path, Bytes::new()).await?.into_body().frame().await {
                Some(Err(e)) => Err(e.to_string()),
                Some(Ok(_)) | None => Ok(()),
            }
        };
        self.within(path, limit, watch).await
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Vec<u8>, Error> {
        let exchange = async {
            let answer = self.answer(method, path, body).await?;
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?;
            Ok(body.to_bytes().to_vec())
        };
        self.within(path, TIME_LIMIT, exchange).await
    }

    async fn answer(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, String> {
        let host = self.endpoint.rsplit_once(':').map_or(self.endpoint.as_str(), |(host, _)| host);
        let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
        let stream = TcpStream::connect(&self.endpoint).await.map_err(|e| e.to_string())?;
        let stream = self.tls.connect(name, stream).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        // Ends by itself when the sender and the answer are dropped.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.endpoint)
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|e| e.to_string())?;
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        if answer.status().is_success() { Ok(answer) } else { Err(answer.status().to_string()) }
    }

    async fn within<T>(
        &self,
        path: &str,
        limit: Duration,
        work: impl Future<Output = Result<T, String>>,
    ) -> Result<T, Error> {
        let failed = |problem: String| Error::Http(format!("https://{}{path}", self.endpoint), problem);
        timeout(limit, work).await.map_err(|_| failed(format!("no answer in {} s", limit.as_secs())))?.map_err(failed)
    }
}
