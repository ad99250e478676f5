//! The clients, one per kind, and what becomes of operations.
//!
//! Calls are sent once: whoever reconciles comes again, and an operation is looked at by name, never by the client's
//! poller, see [`crate::error`].

use std::{
    sync::Arc,
    time::{Duration, Instant as Clock},
};

use constellation_cloud::{
    CloudError,
    calls::{Call, Calls},
    limit::Limiter,
};
use futures::future::BoxFuture;
use google_cloud_auth::credentials::{Builder, Credentials, anonymous, service_account};
use google_cloud_compute_v1::{
    client::{
        Addresses, Firewalls, ForwardingRules, GlobalOperations, InstanceGroups, Instances, Networks,
        RegionBackendServices, RegionHealthChecks, RegionOperations, Regions, Subnetworks, ZoneOperations, Zones,
    },
    model::{Operation, operation::Status},
};
use google_cloud_gax::retry_policy::NeverRetry;
use tokio::time::Instant;

use crate::{Access, Settings, error::Refused, kinds::Kind};

/// A call that takes longer has lost its connection: Compute Engine answers in seconds, the work is in operations.
pub const ATTEMPT: Duration = Duration::from_secs(30);

/// Where an operation runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In the project.
    Global,
    /// In the region.
    Region,
    /// In a zone.
    Zone(String),
}

/// The clients.
pub struct Api {
    pub addresses: Addresses,
    pub backends: RegionBackendServices,
    pub firewalls: Firewalls,
    pub groups: InstanceGroups,
    pub health_checks: RegionHealthChecks,
    pub instances: Instances,
    pub networks: Networks,
    pub regions: Regions,
    pub rules: ForwardingRules,
    pub subnetworks: Subnetworks,
    pub zones: Zones,
    pub calls: Calls,
    pub project: String,
    pub region: String,
    global_operations: GlobalOperations,
    region_operations: RegionOperations,
    zone_operations: ZoneOperations,
    limiter: Arc<Limiter>,
    poll: Duration,
}

/// Credentials of whoever we are.
pub fn credentials(access: &Access) -> Result<Credentials, CloudError> {
    let denied = |error| CloudError::Denied(format!("no credentials: {error}"));
    match access {
        Access::Ambient => Builder::default().build().map_err(denied),
        Access::Anonymous => Ok(anonymous::Builder::new().build()),
        Access::ServiceAccountKey(key) => {
            let key = serde_json::from_str(key)
                .map_err(|_| CloudError::Denied("the key of the service account is no JSON".into()))?;
            service_account::Builder::new(key).build().map_err(denied)
        }
    }
}

/// Makes a client of a kind.
macro_rules! client {
    ($kind:ident, $settings:expr, $credentials:expr) => {{
        let builder = $kind::builder()
            .with_credentials($credentials.clone())
            .with_retry_policy(NeverRetry)
            .with_attempt_timeout(ATTEMPT);
        let builder = match &$settings.endpoint {
            Some(endpoint) => builder.with_endpoint(endpoint),
            None => builder,
        };
        builder.build().await.map_err(|error| CloudError::Unsupported(format!("making a client: {error}")))?
    }};
}

impl Api {
    /// Makes the clients.
    pub async fn connect(settings: &Settings) -> Result<Self, CloudError> {
        let credentials = credentials(&settings.access)?;
        Ok(Self {
            addresses: client!(Addresses, settings, credentials),
            backends: client!(RegionBackendServices, settings, credentials),
            firewalls: client!(Firewalls, settings, credentials),
            groups: client!(InstanceGroups, settings, credentials),
            health_checks: client!(RegionHealthChecks, settings, credentials),
            instances: client!(Instances, settings, credentials),
            networks: client!(Networks, settings, credentials),
            regions: client!(Regions, settings, credentials),
            rules: client!(ForwardingRules, settings, credentials),
            subnetworks: client!(Subnetworks, settings, credentials),
            zones: client!(Zones, settings, credentials),
            calls: Calls::default(),
            project: settings.project.clone(),
            region: settings.region.clone(),
            global_operations: client!(GlobalOperations, settings, credentials),
            region_operations: client!(RegionOperations, settings, credentials),
            zone_operations: client!(ZoneOperations, settings, credentials),
            limiter: Arc::clone(&settings.limiter),
            poll: settings.pace.poll,
        })
    }

    /// An operation as it stands; nothing when it was forgotten, which happens two weeks after its end.
    pub async fn look(&self, scope: &Scope, name: &str) -> Result<Option<Operation>, CloudError> {
        let found = match scope {
            Scope::Global => {
                let get = self.global_operations.get().set_project(&self.project).set_operation(name);
                self.ask("compute.globalOperations.get", get.send()).await
            }
            Scope::Region => {
                let get = self.region_operations.get().set_project(&self.project).set_region(&self.region);
                self.ask("compute.regionOperations.get", get.set_operation(name).send()).await
            }
            Scope::Zone(zone) => {
                let get = self.zone_operations.get().set_project(&self.project).set_zone(zone);
                self.ask("compute.zoneOperations.get", get.set_operation(name).send()).await
            }
        };
        Refused::or_missing(found)
    }

    /// Sends a call in its turn, and counts it; an answer of another kind than was asked for is none.
    ///
    /// Boxed: a client's future takes kilobytes, and each of its callers would too.
    pub fn ask<'a, T: Kind + Send + 'a>(
        &'a self,
        method: &'static str,
        call: impl Future<Output = google_cloud_gax::Result<T>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, Refused>> {
        Box::pin(async move {
            self.limiter.turn().await;
            self.calls.check(method).map_err(|error| Refused::unsent(method, error))?;
            let start = Clock::now();
            let answer = match call.await {
                Ok(answer) if answer.kind() == Some(T::KIND) => Ok(answer),
                Ok(other) => Err(Refused::odd(method, other.kind())),
                Err(error) => Err(Refused { method, error }),
            };
            let outcome = match &answer {
                Ok(_) => "ok",
                Err(refused) => {
                    let error = CloudError::from(refused);
                    if let CloudError::Throttled { after } = error {
                        self.limiter.throttled(after);
                    }
                    error.word()
                }
            };
            self.calls.ended(Call { operation: method, outcome, took: start.elapsed() });
            answer
        })
    }

    /// Waits for an operation up to `limit`.
    ///
    /// # Errors
    /// How it failed. A look that fails is no failure of the operation: it is told as what it was.
    pub async fn wait(&self, scope: &Scope, mut operation: Operation, limit: Duration) -> Result<Progress, CloudError> {
        let until = Instant::now() + limit;
        loop {
            if operation.status == Some(Status::Done) {
                return crate::error::operation(&operation).map_or(Ok(Progress::Done), Err);
            }
            let Some(name) = operation.name.clone() else {
                return Err(CloudError::Transient("an operation came without a name".into()));
            };
            if Instant::now() >= until {
                return Ok(Progress::Running { operation: name });
            }
            tokio::time::sleep(self.poll).await;
            match self.look(scope, &name).await? {
                Some(now) => operation = now,
                None => return Ok(Progress::Done),
            }
        }
    }
}

/// How far an operation is that has not failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is done.
    Done,
    /// It goes on.
    Running {
        /// Its name.
        operation: String,
    },
}
