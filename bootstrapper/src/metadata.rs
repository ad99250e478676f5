//! A cloud's metadata service: the word of a host that nobody trusts, bounded and with a time limit.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, body::Bytes};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::error::Error;

/// Greatest answer, bytes: user data is below 16 KiB, and what else a service says below 64 KiB.
const MAX_ANSWER: usize = 64 * 1024;
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The service.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// `host:port`.
    pub authority: String,
}

/// What the service answered.
pub(crate) struct Answer {
    /// The header `Metadata-Flavor`.
    pub(crate) flavor: Option<String>,
    /// The body.
    pub(crate) body: Vec<u8>,
}

impl Metadata {
    /// Sends one request without a body.
    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Answer, Error> {
        self.send(method, path, headers, Vec::new()).await
    }

    /// Sends one request.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Answer, Error> {
        let failed = |problem: String| Error::Http(format!("http://{}{path}", self.authority), problem);
        let exchange = async {
            let stream = TcpStream::connect(&self.authority).await.map_err(|e| e.to_string())?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
            let mut request = Request::builder().method(method).uri(path).header("host", &self.authority);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(Full::new(Bytes::from(body))).map_err(|e| e.to_string())?;
            let answer = async {
                let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
                if !answer.status().is_success() {
                    return Err(answer.status().to_string());
                }
                let flavor = answer.headers().get("metadata-flavor").and_then(|value| value.to_str().ok());
                let flavor = flavor.map(str::to_owned);
                let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?;
                Ok(Answer { flavor, body: body.to_bytes().to_vec() })
            };
            tokio::pin!(connection);
            tokio::pin!(answer);
            tokio::select! {
                answer = &mut answer => answer,
                closed = &mut connection => match closed {
                    Ok(()) => answer.await,
                    Err(e) => Err(e.to_string()),
                },
            }
        };
        timeout(TIME_LIMIT, exchange)
            .await
            .map_err(|_| failed(format!("no answer in {} s", TIME_LIMIT.as_secs())))?
            .map_err(failed)
    }
}
