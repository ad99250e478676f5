//! One account in one region: the clients, how fast they may be used, what was used, and the list all clusters share.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::Future,
    net::IpAddr,
    sync::{Mutex as SyncMutex, PoisonError},
    time::{Duration, Instant as Clock},
};

use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_elasticloadbalancingv2 as elb;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use constellation_cloud::{
    CloudError, Instance,
    calls::{Call, Calls},
    limit::Limiter,
};
use futures::future::BoxFuture;
use tokio::{sync::Mutex, time::Instant};

use crate::{
    convert::Listed,
    credentials::{Access, configure},
    error::Refusal,
};

/// Waits and sizes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How old the list of instances may be: every node of every cluster asks for it.
    pub list: Duration,
    /// Entries of a page.
    pub page: i32,
    /// How long what we made may be missing from lists before we believe the lists.
    pub settle: Duration,
    /// Between two reads; the burst is [`READS`]. EC2's smallest bucket of unfiltered reads refills at 10 a second
    /// ("Request throttling for the Amazon EC2 API").
    pub read: Duration,
    /// Between two changes; EC2's bucket for most of them refills at 5 a second.
    pub change: Duration,
    /// Between two launches; EC2's bucket of `RunInstances` holds 5 and refills at 2 a second.
    pub launch: Duration,
}

const READS: u32 = 50;
const CHANGES: u32 = 20;
const LAUNCHES: u32 = 5;

impl Default for Pace {
    fn default() -> Self {
        Self {
            list: Duration::from_secs(5),
            page: 1000,
            settle: Duration::from_mins(5),
            read: Duration::from_millis(100),
            change: Duration::from_millis(200),
            launch: Duration::from_millis(500),
        }
    }
}

/// One account in one region. Everything that uses it shares its limits and its list.
pub struct Account {
    pub(crate) ec2: aws_sdk_ec2::Client,
    pub(crate) elb: elb::Client,
    pub(crate) quotas: aws_sdk_servicequotas::Client,
    pub(crate) region: String,
    pub(crate) pace: Pace,
    reads: Limiter,
    changes: Limiter,
    launches: Limiter,
    calls: Calls,
    pub(crate) list: Mutex<Option<(Instant, Vec<Listed>)>>,
    made: SyncMutex<BTreeMap<String, (Instant, Made)>>,
    /// Instances that ended by themselves and were dealt with: nobody waits until EC2 forgets them.
    dismissed: SyncMutex<BTreeSet<String>>,
}

/// What we made a moment ago; lists may not show it yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// An instance.
    Instance(Box<Listed>),
    /// The id of something else.
    Id(String),
}

/// Which limit a call counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// Makes, changes or removes.
    Change,
    /// Starts an instance.
    Launch,
    /// Changes nothing.
    Read,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("region", &self.region).finish_non_exhaustive()
    }
}

impl Account {
    /// Connects; nothing is sent before the first use. `endpoint` is another address of all services, for tests and
    /// private endpoints.
    pub async fn connect(region: &str, access: &Access, endpoint: Option<&str>, pace: Pace) -> Self {
        let config = configure(region, access, endpoint).await;
        Self {
            ec2: aws_sdk_ec2::Client::new(&config),
            elb: elb::Client::new(&config),
            quotas: aws_sdk_servicequotas::Client::new(&config),
            region: region.to_owned(),
            pace,
            reads: Limiter::new(READS, pace.read),
            changes: Limiter::new(CHANGES, pace.change),
            launches: Limiter::new(LAUNCHES, pace.launch),
            calls: Calls::default(),
            list: Mutex::default(),
            made: SyncMutex::default(),
            dismissed: SyncMutex::default(),
        }
    }

    /// How often each call was made.
    #[must_use]
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// Sends a call when it is its turn, and counts it. `operation` is its IAM action.
    ///
    /// Boxed: an SDK's future takes 16 KiB, and each of its callers would too.
    pub(crate) fn call<'a, T: 'a, E>(
        &'a self,
        operation: &'static str,
        weight: Weight,
        send: impl Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, Refusal>>
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        Box::pin(async move {
            let limiter = match weight {
                Weight::Change => &self.changes,
                Weight::Launch => &self.launches,
                Weight::Read => &self.reads,
            };
            limiter.turn().await;
            self.calls.check(operation).map_err(|error| Refusal::unsent(operation, &error))?;
            let start = Clock::now();
            let result = send.await.map_err(|error| Refusal::new(operation, &error));
            let outcome = result.as_ref().map_or_else(Refusal::word, |_| "ok");
            self.calls.ended(Call { operation, outcome, took: start.elapsed() });
            if let Some(after) = result.as_ref().err().and_then(Refusal::throttled) {
                limiter.throttled(after);
            }
            result
        })
    }

    /// As [`Self::call`], for calls that change nothing.
    pub(crate) fn read<'a, T: 'a, E>(
        &'a self,
        operation: &'static str,
        send: impl Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, Refusal>>
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        self.call(operation, Weight::Read, send)
    }

    /// As [`Self::call`], for calls that make, change or remove.
    pub(crate) fn change<'a, T: 'a, E>(
        &'a self,
        operation: &'static str,
        send: impl Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, Refusal>>
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        self.call(operation, Weight::Change, send)
    }

    /// Remembers what was made, until lists show it.
    pub(crate) fn remember(&self, slot: &str, made: Made) {
        let mut all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let settle = self.pace.settle;
        all.retain(|_, (since, _)| since.elapsed() < settle);
        all.insert(slot.to_owned(), (Instant::now(), made));
    }

    /// What was made a moment ago.
    pub(crate) fn remembered(&self, slot: &str) -> Option<Made> {
        let all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(slot).filter(|(since, _)| since.elapsed() < self.pace.settle).map(|(_, made)| made.clone())
    }

    /// Instances that were made a moment ago.
    pub(crate) fn remembered_instances(&self) -> Vec<Listed> {
        let all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = all.values().filter(|(since, _)| since.elapsed() < self.pace.settle);
        fresh
            .filter_map(|(_, made)| if let Made::Instance(listed) = made { Some(*listed.clone()) } else { None })
            .collect()
    }

    /// The end of an instance was dealt with: it counts as gone. A process that doesn't remember deals with it again.
    pub(crate) fn dismiss(&self, ec2_id: &str) {
        self.dismissed.lock().unwrap_or_else(PoisonError::into_inner).insert(ec2_id.to_owned());
    }

    /// Whether an instance counts as gone though it is listed.
    pub(crate) fn is_dismissed(&self, ec2_id: &str) -> bool {
        self.dismissed.lock().unwrap_or_else(PoisonError::into_inner).contains(ec2_id)
    }

    /// What EC2 lists no more needs no memory.
    pub(crate) fn keep_dismissed(&self, listed: &[Listed]) {
        let mut all = self.dismissed.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|id| listed.iter().any(|one| one.ec2_id == *id));
    }

    /// Lists show it, or it is gone.
    pub(crate) fn forget(&self, slot: &str) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).remove(slot);
    }
}

/// An instance and what only this crate needs of it.
pub(crate) fn public_of(listed: &[Listed], private: IpAddr) -> Result<IpAddr, CloudError> {
    let found = listed.iter().find(|one| one.instance.address == Some(private));
    let found = found.ok_or_else(|| CloudError::NotFound(format!("instance with address {private}")))?;
    let Instance { id, .. } = &found.instance;
    found.public.ok_or_else(|| CloudError::Transient(format!("{} has no public address yet", id.0)))
}
