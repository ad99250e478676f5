//! A thin client of Azure Resource Manager: one call, its answer, and a handle on what goes on afterwards.
//!
//! There is no supported crate for the management plane (docs/decisions/0005-own-client-for-azure.md). What
//! this client adds to `azure_core` is the long-running operation: a PUT or DELETE is sent **once**; its [`Operation`]
//! can be stored, and is looked at by whoever reconciles next. See "Track asynchronous Azure operations" in the Azure
//! Resource Manager documentation.

use std::{
    sync::Arc,
    time::{Duration, Instant as Clock, SystemTime},
};

use azure_core::{
    credentials::TokenCredential,
    http::{
        ClientOptions, Method, Pipeline, PipelineSendOptions, RawResponse, Request, RetryOptions, Url,
        headers::HeaderName,
        policies::{Policy, auth::BearerTokenAuthorizationPolicy},
    },
};
use constellation_cloud::{
    CloudError,
    answers::{self, Pages},
    calls::{Call, Calls},
    limit::Limiter,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use crate::{convert, error, permissions};

/// Public Azure.
pub const ENDPOINT: &str = "https://management.azure.com";
/// Whom a token for [`ENDPOINT`] is for.
pub const SCOPE: &str = "https://management.azure.com/.default";
/// A call that takes longer has lost its connection: Resource Manager answers within a minute, work is in operations.
const ATTEMPT: Duration = Duration::from_mins(1);
const ASYNC_OPERATION: HeaderName = HeaderName::from_static("azure-asyncoperation");
const LOCATION: HeaderName = HeaderName::from_static("location");
const RETRY_AFTER: HeaderName = HeaderName::from_static("retry-after");

/// The client.
pub struct Arm {
    /// What was called so far.
    pub calls: Calls,
    pipeline: Pipeline,
    endpoint: Url,
    limiter: Arc<Limiter>,
    poll: Duration,
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The resource, or nothing.
    pub body: Value,
    /// What goes on; nothing when the answer is the end.
    pub operation: Option<Operation>,
}

/// A long-running operation: enough to look at it from another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Where it is looked at.
    pub url: String,
    /// What is found there.
    pub kind: Kind,
}

/// What the URL of an operation answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// `{"status": …, "error": …}` (header `Azure-AsyncOperation`).
    Status,
    /// 202 until it is done (header `Location`).
    Location,
    /// The resource itself, with `properties.provisioningState`.
    Resource,
}

/// How far an operation is.
#[derive(Debug)]
pub enum Progress {
    /// It is done.
    Done,
    /// It failed for good.
    Failed(CloudError),
    /// It goes on.
    Running,
}

impl Arm {
    /// Makes the client; nothing is sent.
    ///
    /// # Errors
    /// [`CloudError::Unsupported`] when the endpoint is no URL.
    pub fn new(
        endpoint: &str,
        scope: &str,
        credential: Option<Arc<dyn TokenCredential>>,
        limiter: Arc<Limiter>,
        poll: Duration,
    ) -> Result<Self, CloudError> {
        let endpoint: Url = endpoint
            .parse()
            .map_err(|error| CloudError::Unsupported(format!("the endpoint {endpoint:?} is no URL: {error}")))?;
        // Reconciling is our retry.
        let options = ClientOptions { retry: RetryOptions::none(), ..ClientOptions::default() };
        let token: Vec<Arc<dyn Policy>> = match credential {
            Some(credential) => vec![Arc::new(BearerTokenAuthorizationPolicy::new(credential, [scope.to_owned()]))],
            None => Vec::new(),
        };
        let name = option_env!("CARGO_PKG_NAME");
        let pipeline = Pipeline::new(name, option_env!("CARGO_PKG_VERSION"), options, Vec::new(), token, None);
        Ok(Self { calls: Calls::default(), pipeline, endpoint, limiter, poll })
    }

    /// Reads a resource; nothing when there is none.
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Option<Value>, CloudError> {
        let found = self.read(path, query).await?;
        let own = |body: &Value| body["id"].as_str().is_some_and(|id| convert::same_id(id, path));
        match found {
            Some(body) if !own(&body) => {
                Err(CloudError::Transient(format!("GET {path} was answered with something else")))
            }
            found => Ok(found),
        }
    }

    /// Reads what is no resource of Resource Manager, and so doesn't say which it is; nothing when there is none.
    pub async fn read(&self, path: &str, query: &[(&str, &str)]) -> Result<Option<Value>, CloudError> {
        match self.call(Method::Get, self.url(path, query)?, None).await {
            Ok(reply) => Ok(Some(reply.body)),
            Err(CloudError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads all pages of a list of resources. A list of anything else is no list: what is not in it would look removed.
    pub async fn list(&self, path: &str, query: &[(&str, &str)]) -> Result<Vec<Value>, CloudError> {
        let all = self.entries(path, query).await?;
        let of_list = |item: &Value| item["id"].as_str().is_some_and(|id| convert::is_below(id, path));
        if all.iter().all(of_list) {
            return Ok(all);
        }
        Err(CloudError::Transient(format!("the list {path} came with something of another kind")))
    }

    /// Reads all pages of a list whose entries are no resources.
    pub async fn entries(&self, path: &str, query: &[(&str, &str)]) -> Result<Vec<Value>, CloudError> {
        let wrong = |what: &str| CloudError::Transient(format!("the list {path} came {what}"));
        let mut url = self.url(path, query)?;
        let mut pages = Pages::of(path);
        let mut all = Vec::new();
        loop {
            let mut page = self.call(Method::Get, url, None).await?.body;
            match page["value"].take() {
                Value::Array(items) if items.iter().all(Value::is_object) => all.extend(items),
                _ => return Err(wrong("without a value that is a list of objects")),
            }
            let next = match page["nextLink"].take() {
                Value::Null => None,
                Value::String(link) => Some(link),
                _ => return Err(wrong("with a link that is none")),
            };
            match pages.next(next)? {
                Some(next) => url = self.own(&next)?,
                None => return Ok(all),
            }
        }
    }

    /// Asks for something to be done, and for its result.
    pub async fn post(&self, path: &str, version: &str, body: &Value) -> Result<Value, CloudError> {
        Ok(self.call(Method::Post, self.url(path, &[("api-version", version)])?, Some(body)).await?.body)
    }

    /// Creates or replaces a resource.
    pub async fn put(&self, path: &str, version: &str, body: &Value) -> Result<Reply, CloudError> {
        self.call(Method::Put, self.url(path, &[("api-version", version)])?, Some(body)).await
    }

    /// Creates a resource that must not be there; nothing when it is (`If-None-Match: *`, RFC 9110, section 13.1.2).
    pub async fn create(&self, path: &str, version: &str, body: &Value) -> Result<Option<Reply>, CloudError> {
        let url = self.url(path, &[("api-version", version)])?;
        let answer = self.send(Method::Put, url.clone(), Some(body), true).await?;
        if u16::from(answer.status()) == 412 {
            return Ok(None);
        }
        self.answered(Method::Put, &url, &answer).map(Some)
    }

    /// Removes a resource; [`CloudError::NotFound`] when there is none.
    pub async fn delete(&self, path: &str, query: &[(&str, &str)]) -> Result<Reply, CloudError> {
        self.call(Method::Delete, self.url(path, query)?, None).await
    }

    /// Looks at an operation once.
    pub async fn look(&self, operation: &Operation) -> Result<Progress, CloudError> {
        let url = self.own(&operation.url)?;
        let answer = self.send(Method::Get, url, None, false).await?;
        let (status, body) = (u16::from(answer.status()), json(&answer));
        let what = "the operation";
        match (operation.kind, status) {
            (_, 400..) => match error::refusal(what, status, &body, retry_after(&answer)) {
                // A status that is forgotten was final; for a resource or a location it is the end of a removal.
                CloudError::NotFound(_) => Ok(Progress::Done),
                refusal => Err(refusal),
            },
            (Kind::Location, 202) => Ok(Progress::Running),
            (Kind::Location, _) => Ok(Progress::Done),
            (Kind::Status, _) => state(what, body["status"].as_str(), &body["error"]),
            (Kind::Resource, _) => state(what, body["properties"]["provisioningState"].as_str(), &body["error"]),
        }
    }

    /// Waits for an answer's operation, up to `limit`.
    pub async fn wait(&self, reply: &Reply, limit: Duration) -> Result<Progress, CloudError> {
        let Some(operation) = &reply.operation else { return Ok(Progress::Done) };
        let until = Instant::now() + limit;
        loop {
            if Instant::now() >= until {
                return Ok(Progress::Running);
            }
            tokio::time::sleep(self.poll).await;
            match self.look(operation).await? {
                Progress::Running => {}
                end => return Ok(end),
            }
        }
    }

    async fn call(&self, method: Method, url: Url, body: Option<&Value>) -> Result<Reply, CloudError> {
        let answer = self.send(method, url.clone(), body, false).await?;
        self.answered(method, &url, &answer)
    }

    fn answered(&self, method: Method, url: &Url, answer: &RawResponse) -> Result<Reply, CloudError> {
        let what = format!("{method} {}", url.path());
        let (status, body) = (u16::from(answer.status()), json(answer));
        if !(200..=299).contains(&status) {
            return Err(error::refusal(&what, status, &body, retry_after(answer)));
        }
        // No content: there was nothing to remove.
        if method == Method::Delete && status == 204 {
            return Err(CloudError::NotFound(what));
        }
        if !body["error"].is_null() {
            // An error is one, whatever the status says.
            return Err(error::refusal(&what, 500, &body, retry_after(answer)));
        }
        // Whoever is in between may answer in Azure's place; nobody's page is a resource.
        let nothing =
            answer.body().is_empty() && (method == Method::Delete || (method != Method::Get && status == 202));
        let is = |body: &Value| body["id"].as_str().is_some_and(|id| convert::same_id(id, url.path()));
        if !nothing && (!body.is_object() || (method == Method::Put && !is(&body))) {
            return Err(CloudError::Transient(format!("{what} was answered with {status} and something else")));
        }
        let operation = if method == Method::Get { None } else { self.operation(answer, &body, url)? };
        Ok(Reply { body, operation })
    }

    /// The handle of what goes on: its own status first, then a location, then the resource's state.
    fn operation(&self, answer: &RawResponse, body: &Value, resource: &Url) -> Result<Option<Operation>, CloudError> {
        let header = |name| answer.headers().get_optional_str(&name).filter(|url| !url.is_empty());
        let found = match (header(ASYNC_OPERATION), header(LOCATION)) {
            (Some(url), _) => Operation { url: url.to_owned(), kind: Kind::Status },
            (None, Some(url)) if u16::from(answer.status()) == 202 => {
                Operation { url: url.to_owned(), kind: Kind::Location }
            }
            _ => match body["properties"]["provisioningState"].as_str() {
                Some(state) if !["Succeeded", "Failed", "Canceled"].contains(&state) => {
                    Operation { url: resource.to_string(), kind: Kind::Resource }
                }
                _ => return Ok(None),
            },
        };
        self.own(&found.url)?;
        Ok(Some(found))
    }

    async fn send(&self, method: Method, url: Url, body: Option<&Value>, new: bool) -> Result<RawResponse, CloudError> {
        let what = format!("{method} {}", url.path());
        let name = permissions::request(method.as_str(), url.path());
        let mut request = Request::new(url, method);
        if new {
            request.insert_header("if-none-match", "*");
        }
        if let Some(body) = body {
            request.insert_header("content-type", "application/json");
            request.set_body(body.to_string());
        }
        let context = azure_core::http::Context::default();
        let options = PipelineSendOptions { skip_checks: true, ..PipelineSendOptions::default() };
        self.limiter.turn().await;
        self.calls.check(name)?;
        let start = Clock::now();
        let sent = tokio::time::timeout(ATTEMPT, self.pipeline.send(&context, &mut request, Some(options)));
        let answer = match sent.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error::transport(&what, &error)),
            Err(_) => Err(CloudError::Transient(format!("{what} had no answer in {} s", ATTEMPT.as_secs()))),
        };
        let outcome = match &answer {
            Ok(answer) if u16::from(answer.status()) < 400 => "ok",
            Ok(answer) => {
                let error = error::refusal(&what, answer.status().into(), &json(answer), retry_after(answer));
                if let CloudError::Throttled { after } = error {
                    self.limiter.throttled(after);
                }
                error.word()
            }
            Err(error) => error.word(),
        };
        self.calls.ended(Call { operation: name, outcome, took: start.elapsed() });
        answer
    }

    fn url(&self, path: &str, query: &[(&str, &str)]) -> Result<Url, CloudError> {
        let joined = self.endpoint.join(path).ok().filter(|url| url.origin() == self.endpoint.origin());
        let mut url = joined.ok_or_else(|| CloudError::Unsupported(format!("{path:?} is no path")))?;
        url.query_pairs_mut().extend_pairs(query);
        Ok(url)
    }

    /// A URL that an answer named: our token goes to nobody else.
    fn own(&self, url: &str) -> Result<Url, CloudError> {
        let parsed: Option<Url> = url.parse().ok();
        parsed
            .filter(|parsed| parsed.origin() == self.endpoint.origin())
            .ok_or_else(|| CloudError::Transient(format!("an answer leads away from {}: refused", self.endpoint)))
    }
}

fn state(what: &str, state: Option<&str>, error: &Value) -> Result<Progress, CloudError> {
    Ok(match state {
        Some("Succeeded") => Progress::Done,
        Some("Failed" | "Canceled") => Progress::Failed(error::failure(what, error)),
        Some(_) => Progress::Running,
        // Not known is not failed.
        None => return Err(CloudError::Transient(format!("{what} came without a state"))),
    })
}

fn json(answer: &RawResponse) -> Value {
    serde_json::from_slice(answer.body()).unwrap_or(Value::Null)
}

fn retry_after(answer: &RawResponse) -> Option<Duration> {
    answers::retry_after(answer.headers().get_optional_str(&RETRY_AFTER)?, SystemTime::now())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn given() -> Arm {
        let limiter = Arc::new(Limiter::new(1, Duration::ZERO));
        Arm::new(ENDPOINT, SCOPE, None, limiter, Duration::ZERO).unwrap()
    }

    #[test]
    fn a_handle_survives_its_process() {
        let operation = Operation { url: format!("{ENDPOINT}/x"), kind: Kind::Status };
        let text = serde_json::to_string(&operation).unwrap();
        assert_eq!(serde_json::from_str::<Operation>(&text).unwrap(), operation);
    }

    #[test]
    fn the_token_goes_to_the_endpoint_only() {
        assert!(given().own("https://management.azure.com/subscriptions/s/operations/1?x=y").is_ok());
        for url in ["https://management.azure.com.example/x", "http://management.azure.com/x", "/x", "", "https://a/"] {
            assert!(given().own(url).is_err(), "{url}");
        }
        assert!(given().url("/subscriptions/s", &[]).is_ok());
        // Ids come out of answers, and would be taken for addresses.
        for id in ["https://evil.example/x", "//evil.example/x", "http://management.azure.com/x"] {
            assert!(given().url(id, &[]).is_err(), "{id}");
        }
    }

    #[test]
    fn a_failed_operation_is_not_done() {
        let of = |text, error: &Value| state("x", text, error);
        assert!(matches!(of(Some("Succeeded"), &Value::Null), Ok(Progress::Done)));
        assert!(matches!(of(Some("InProgress"), &Value::Null), Ok(Progress::Running)));
        let error = json!({"code": "AllocationFailed", "message": "none"});
        assert!(matches!(of(Some("Failed"), &error), Ok(Progress::Failed(CloudError::Capacity(_)))));
        assert!(matches!(of(Some("Canceled"), &Value::Null), Ok(Progress::Failed(_))));
        assert!(matches!(of(None, &Value::Null), Err(CloudError::Transient(_))));
    }
}
