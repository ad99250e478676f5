//! Leadership by a `Lease`: compare-and-swap, and a process that loses it ends.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::PostParams,
    client::{Body, ClientBuilder},
};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{sleep, timeout};
use tower::{BoxError, filter::FilterLayer, timeout::TimeoutLayer};

use crate::error::{Error, chain};

/// Name of the `Lease`.
pub const NAME: &str = "constellation-operator";
/// Others wait this long after the last renewal (client-go's default, as are the next two).
const DURATION: Duration = Duration::from_secs(15);
/// Who can't renew for this long must stop: it is less than [`DURATION`], so two never lead at once.
const DEADLINE: Duration = Duration::from_secs(10);
/// An answer that didn't begin in so long won't: a listing of everything takes less than 30 s by Kubernetes' own objective,
/// and ours are shorter. kube waits for ever: a connection that was lost without a word would stop whoever asked.
const ANSWER: Duration = Duration::from_secs(20);
/// Pause between renewals.
const RETRY: Duration = Duration::from_secs(2);

/// Whether this process may still act. One that was suspended goes on where it was, with a plan from before, while
/// another may lead by now: it finds out here, before each write and each call of a cloud, when nothing is left to wait
/// for. What is on its way between the question and the wire when the process is suspended can't be held back: making a
/// machine is idempotent by its node's UID, and the sweep finds one whose node has gone.
#[derive(Debug, Default)]
pub struct Fence(Mutex<Option<Duration>>);

impl Fence {
    /// The lease was asked for at this time, and is ours.
    fn renewed(&self, asked: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
    }

    /// Lets those pass who renewed their lease in time, and everybody where nobody is elected.
    ///
    /// # Errors
    /// [`Error::NotLeading`]
    pub fn check(&self) -> Result<(), Error> {
        let asked = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.is_some_and(|asked| now().saturating_sub(asked) > DEADLINE) { Err(Error::NotLeading) } else { Ok(()) }
    }

    /// A client that reads, and writes only while we may act. It repeats nothing by itself: kube would do that below the
    /// fence, where a write could wait until the lease is another's; whoever asked comes again. Nor does it wait for an
    /// answer that doesn't come.
    ///
    /// # Errors
    /// As [`Client::try_from`].
    pub fn client(self: &Arc<Self>, mut config: Config) -> kube::Result<Client> {
        let fence = Arc::clone(self);
        let layer = FilterLayer::new(move |request: http::Request<Body>| {
            let reads = matches!(*request.method(), http::Method::GET | http::Method::HEAD);
            if reads { Ok(request) } else { fence.check().map(|()| request).map_err(BoxError::from) }
        });
        config.default_retry = false;
        Ok(ClientBuilder::try_from(config)?.with_layer(&TimeoutLayer::new(ANSWER)).with_layer(&layer).build())
    }
}

/// Time since the machine started, also while it was suspended: other clocks of a process stand still then.
fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// A claim to leadership.
pub struct Leader {
    api: Api<Lease>,
    identity: String,
    fence: Arc<Fence>,
    /// Another's lease, and since when it has looked so.
    watched: Mutex<Option<(LeaseSpec, Duration)>>,
}

impl Leader {
    /// A claim under a name that is unique to this process.
    #[must_use]
    pub fn new(client: Client, namespace: &str, identity: String, fence: Arc<Fence>) -> Self {
        Self { api: Api::namespaced(client, namespace), identity, fence, watched: Mutex::default() }
    }

    /// Waits until we lead; `follows` is told each time that another one does.
    pub async fn acquire(&self, follows: impl Fn()) {
        loop {
            match timeout(DEADLINE, self.attempt()).await {
                Ok(Ok(true)) => return,
                Ok(Ok(false)) => follows(),
                Ok(Err(error)) => tracing::warn!(error = chain(&error), "Asking for leadership failed"),
                Err(_) => tracing::warn!("Asking for leadership took too long"),
            }
            sleep(RETRY).await;
        }
    }

    /// Renews until it can't; returns when we must stop.
    pub async fn hold(&self) {
        let mut last = tokio::time::Instant::now();
        while last.elapsed() < DEADLINE {
            sleep(RETRY).await;
            match timeout(DEADLINE.saturating_sub(last.elapsed()), self.attempt()).await {
                Ok(Ok(true)) => last = tokio::time::Instant::now(),
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(error)) => tracing::warn!(error = chain(&error), "Renewing leadership failed"),
            }
        }
    }

    async fn attempt(&self) -> Result<bool, Error> {
        let asked = now();
        let ours = self.take().await?;
        if ours {
            self.fence.renewed(asked);
        }
        Ok(ours)
    }

    /// Takes or renews the lease if it is free or ours.
    async fn take(&self) -> Result<bool, Error> {
        let now = Timestamp::now();
        let Some(mut lease) = self.api.get_opt(NAME).await.map_err(Error::kube("reading the lease"))? else {
            let lease = Lease {
                metadata: kube::api::ObjectMeta { name: Some(NAME.into()), ..Default::default() },
                spec: Some(self.spec(None, now)),
            };
            return won(self.api.create(&PostParams::default(), &lease).await);
        };
        if !self.is_free(lease.spec.as_ref(), crate::lease::now()) {
            return Ok(false);
        }
        lease.spec = Some(self.spec(lease.spec.as_ref(), now));
        let name = lease.name_any();
        won(self.api.replace(&name, &PostParams::default(), &lease).await)
    }

    /// Whether the lease is ours already, or nobody's, or wasn't renewed for as long as it lasts. That is told by our own
    /// clock from when it was last seen to change: its holder's may go differently (as in client-go).
    fn is_free(&self, spec: Option<&LeaseSpec>, now: Duration) -> bool {
        let Some(spec) = spec else { return true };
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return true;
        }
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        match &*watched {
            Some((known, since)) if known == spec => {
                let lasts = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
                now.saturating_sub(*since) > Duration::from_secs(lasts)
            }
            _ => {
                *watched = Some((spec.clone(), now));
                false
            }
        }
    }

    fn spec(&self, before: Option<&LeaseSpec>, now: Timestamp) -> LeaseSpec {
        let ours = before.filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: ours.and_then(|spec| spec.acquire_time.clone()).or(Some(MicroTime(now))),
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(if ours.is_some() { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }
}

/// Somebody else was quicker: that is an answer, not an error.
fn won(result: Result<Lease, kube::Error>) -> Result<bool, Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
        Err(error) => Err(Error::kube("writing the lease")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long_ago() -> Duration {
        now().checked_sub(DEADLINE + Duration::from_secs(1)).unwrap()
    }

    #[test]
    fn who_did_not_renew_in_time_may_not_act() {
        let fence = Fence::default();
        fence.check().unwrap();
        fence.renewed(long_ago());
        assert!(matches!(fence.check(), Err(Error::NotLeading)));
        fence.renewed(now());
        fence.check().unwrap();
    }

    /// Leases at a server that gives one answer, and remembers what it was asked.
    async fn given_server(fence: &Arc<Fence>, status: http::StatusCode) -> (Api<Lease>, Arc<Mutex<Vec<http::Method>>>) {
        let methods = Arc::<Mutex<Vec<_>>>::default();
        let seen = Arc::clone(&methods);
        let answer = move |request: axum::extract::Request| {
            seen.lock().unwrap().push(request.method().clone());
            std::future::ready((status, "{}"))
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(axum::serve(listener, axum::Router::new().fallback(answer)).into_future());
        (Api::namespaced(fence.client(Config::new(url)).unwrap(), "a"), methods)
    }

    #[tokio::test]
    async fn a_write_that_is_to_come_again_later_does_not_wait_below_the_fence() {
        let fence = Arc::<Fence>::default();
        let (leases, methods) = given_server(&fence, http::StatusCode::TOO_MANY_REQUESTS).await;
        let written = leases.create(&PostParams::default(), &Lease::default()).await;
        assert!(matches!(written, Err(kube::Error::Api(_))), "{written:?}");
        assert_eq!(*methods.lock().unwrap(), [http::Method::POST]);
    }

    #[tokio::test]
    async fn who_did_not_renew_in_time_reads_and_sends_no_write() {
        let fence = Arc::<Fence>::default();
        let (leases, methods) = given_server(&fence, http::StatusCode::NOT_FOUND).await;
        let write = async || leases.create(&PostParams::default(), &Lease::default()).await;

        fence.renewed(now());
        assert!(matches!(write().await, Err(kube::Error::Api(_))), "it was sent, and refused");
        fence.renewed(long_ago());
        assert!(matches!(leases.get("b").await, Err(kube::Error::Api(_))), "a read goes on");
        let held = write().await;
        let why = matches!(&held, Err(kube::Error::Service(why)) if why.is::<Error>());
        assert!(why, "{held:?}");
        assert_eq!(*methods.lock().unwrap(), [http::Method::POST, http::Method::GET]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_never_comes_is_not_waited_for() {
        // Connections are taken by the kernel, and nobody reads from them.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let leases: Api<Lease> = Api::namespaced(Arc::<Fence>::default().client(Config::new(url)).unwrap(), "a");
        let answer = leases.get("b").await;
        let why = matches!(&answer, Err(kube::Error::Service(why)) if why.is::<tower::timeout::error::Elapsed>());
        assert!(why, "{answer:?}");
    }

    #[tokio::test]
    async fn a_lease_is_free_only_for_its_holder_or_when_it_was_not_renewed_for_its_time() {
        let fence = Arc::<Fence>::default();
        let leader = |identity: &str| {
            let client = fence.client(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
            Leader::new(client, "a", identity.into(), Arc::clone(&fence))
        };
        let renewed = |second| LeaseSpec {
            holder_identity: Some("a".into()),
            lease_duration_seconds: Some(15),
            // Whatever its holder's clock says.
            renew_time: Some(MicroTime(Timestamp::from_second(second).unwrap())),
            ..LeaseSpec::default()
        };
        let (holder, other, at) = (leader("a"), leader("b"), Duration::from_secs);
        assert!(holder.is_free(Some(&renewed(1)), at(100)));
        assert!(!other.is_free(Some(&renewed(1)), at(100)), "nobody knows how old it is");
        assert!(!other.is_free(Some(&renewed(1)), at(115)));
        assert!(!other.is_free(Some(&renewed(3)), at(116)), "it was renewed");
        assert!(!other.is_free(Some(&renewed(3)), at(131)));
        assert!(other.is_free(Some(&renewed(3)), at(132)));
        assert!(other.is_free(None, at(0)));
        assert!(other.is_free(Some(&LeaseSpec { holder_identity: Some(String::new()), ..renewed(4) }), at(0)));
    }
}
