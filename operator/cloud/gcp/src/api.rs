//! The clients, one per kind, and what becomes of operations.
//!
//! Calls are sent once: whoever reconciles comes again, and an operation is looked at by name, never by the client's
//! poller, see [`crate::error`].

use std::time::Duration;

use constellation_cloud::CloudError;
use google_cloud_auth::credentials::{Builder, Credentials, anonymous};
use google_cloud_compute_v1::{
    client::{
        Addresses, Firewalls, ForwardingRules, GlobalOperations, InstanceGroups, Instances, Networks,
        RegionBackendServices, RegionHealthChecks, RegionOperations, Subnetworks, ZoneOperations,
    },
    model::{Operation, operation::Status},
};
use google_cloud_gax::retry_policy::NeverRetry;
use tokio::time::Instant;

use crate::{Settings, error};

/// A call that takes longer has lost its connection: Compute Engine answers in seconds, the work is in operations.
const ATTEMPT: Duration = Duration::from_secs(30);

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
    pub rules: ForwardingRules,
    pub subnetworks: Subnetworks,
    pub project: String,
    pub region: String,
    global_operations: GlobalOperations,
    region_operations: RegionOperations,
    zone_operations: ZoneOperations,
    poll: Duration,
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
        let credentials: Credentials = if settings.anonymous {
            anonymous::Builder::new().build()
        } else {
            Builder::default().build().map_err(|error| CloudError::Denied(format!("no credentials: {error}")))?
        };
        Ok(Self {
            addresses: client!(Addresses, settings, credentials),
            backends: client!(RegionBackendServices, settings, credentials),
            firewalls: client!(Firewalls, settings, credentials),
            groups: client!(InstanceGroups, settings, credentials),
            health_checks: client!(RegionHealthChecks, settings, credentials),
            instances: client!(Instances, settings, credentials),
            networks: client!(Networks, settings, credentials),
            rules: client!(ForwardingRules, settings, credentials),
            subnetworks: client!(Subnetworks, settings, credentials),
            project: settings.project.clone(),
            region: settings.region.clone(),
            global_operations: client!(GlobalOperations, settings, credentials),
            region_operations: client!(RegionOperations, settings, credentials),
            zone_operations: client!(ZoneOperations, settings, credentials),
            poll: settings.pace.poll,
        })
    }

    /// An operation as it stands; nothing when it was forgotten, which happens two weeks after its end.
    pub async fn look(&self, scope: &Scope, name: &str) -> Result<Option<Operation>, CloudError> {
        let (method, found) = match scope {
            Scope::Global => (
                "compute.globalOperations.get",
                self.global_operations.get().set_project(&self.project).set_operation(name).send().await,
            ),
            Scope::Region => {
                let get = self.region_operations.get().set_project(&self.project).set_region(&self.region);
                ("compute.regionOperations.get", get.set_operation(name).send().await)
            }
            Scope::Zone(zone) => {
                let get = self.zone_operations.get().set_project(&self.project).set_zone(zone);
                ("compute.zoneOperations.get", get.set_operation(name).send().await)
            }
        };
        match found {
            Ok(operation) => Ok(Some(operation)),
            Err(error) if error::missing(&error) => Ok(None),
            Err(error) => Err(error::call(method, &error)),
        }
    }

    /// Waits for an operation up to `limit`.
    ///
    /// # Errors
    /// How it failed. A look that fails is no failure of the operation: it is told as what it was.
    pub async fn wait(&self, scope: &Scope, mut operation: Operation, limit: Duration) -> Result<Progress, CloudError> {
        let until = Instant::now() + limit;
        loop {
            if operation.status == Some(Status::Done) {
                return error::operation(&operation).map_or(Ok(Progress::Done), Err);
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
