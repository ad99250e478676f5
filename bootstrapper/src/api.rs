//! The cluster's API as this node's kubelet may use it: TLS with the cluster's CA and the kubelet's own certificate.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{
    error::Error,
    host::Host,
    plan::{CREDENTIAL, CURRENT_CREDENTIAL},
};

/// Greatest answer, bytes: an admission is about 2 KiB, a cluster has at most 254 nodes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// The API server ends a watch by itself after this many seconds.
const WATCH_SECONDS: u32 = 240;

/// A way to the API server.
pub struct Api {
    endpoint: String,
    tls: TlsConnector,
}

impl Api {
    /// Reads the kubelet's credential; it is renewed over time, so make a new `Api` after an error.
    pub fn open(host: &Host, endpoint: &str) -> Result<Self, Error> {
        let wrong = |what: &str| Error::State(format!("{what} can't be used"));
        let ca = host.read("/etc/kubernetes/pki/ca.crt")?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(certificate.map_err(|_| wrong("the cluster's CA"))?).map_err(|_| wrong("the cluster's CA"))?;
        }
        let credential = host.read(if host.exists(CURRENT_CREDENTIAL) { CURRENT_CREDENTIAL } else { CREDENTIAL })?;
        let chain = CertificateDer::pem_slice_iter(credential.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| wrong("the kubelet's certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(credential.as_bytes()).map_err(|_| wrong("the kubelet's key"))?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|_| wrong("TLS 1.3"))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|_| wrong("the kubelet's credential"))?;
        Ok(Self { endpoint: endpoint.to_owned(), tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Gets a path.
    pub async fn get(&self, path: &str) -> Result<Vec<u8>, Error> {
        let exchange = async {
            let mut sender = self.connect().await?;
            let answer = sender.send_request(self.request(path)?).await.map_err(|e| e.to_string())?;
            if !answer.status().is_success() {
                return Err(answer.status().to_string());
            }
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?;
            Ok(body.to_bytes().to_vec())
        };
        timeout(TIME_LIMIT, exchange)
            .await
            .map_err(|_| self.failed(path, "no answer".into()))?
            .map_err(|problem| self.failed(path, problem))
    }

    /// Waits until the list at `path` changes after `version`, or the API server ends the watch.
    pub async fn changed(&self, path: &str, version: &str) -> Result<(), Error> {
        let path = format!("{path}?watch=1&resourceVersion={version}&timeoutSeconds={WATCH_SECONDS}");
        let watch = async {
            let mut sender = self.connect().await?;
            let answer = sender.send_request(self.request(&path)?).await.map_err(|e| e.to_string())?;
            if !answer.status().is_success() {
                return Err(answer.status().to_string());
            }
            match answer.into_body().frame().await {
                Some(Err(e)) => Err(e.to_string()),
                Some(Ok(_)) | None => Ok(()),
            }
        };
        timeout(Duration::from_secs(u64::from(WATCH_SECONDS)) + TIME_LIMIT, watch)
            .await
            .map_err(|_| self.failed(&path, "no end".into()))?
            .map_err(|problem| self.failed(&path, problem))
    }

    fn request(&self, path: &str) -> Result<Request<Empty<Bytes>>, String> {
        Request::get(path)
            .header("host", &self.endpoint)
            .header("accept", "application/json")
            .body(Empty::new())
            .map_err(|e| e.to_string())
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, String> {
        let host = self.endpoint.rsplit_once(':').map_or(self.endpoint.as_str(), |(host, _)| host);
        let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
        let stream = TcpStream::connect(&self.endpoint).await.map_err(|e| e.to_string())?;
        let stream = self.tls.connect(name, stream).await.map_err(|e| e.to_string())?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        // Ends by itself when the sender is dropped.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn failed(&self, path: &str, problem: String) -> Error {
        Error::Http(format!("https://{}{path}", self.endpoint), problem)
    }
}
