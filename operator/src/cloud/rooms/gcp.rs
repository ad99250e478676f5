//! From a cluster's settings to a room of Google Cloud.

use std::sync::{Arc, LazyLock};

use constellation_cloud::limit::Limiters;
use constellation_cloud_gcp::{Access, GcpCloud, Pace, RATE, Reach, Settings, Technology};
use constellation_crds::{
    cluster::Tee,
    provider::{self, GcpProvider},
};

use super::{Cloud, Given};
use crate::error::Error;

/// Clusters of one project and region share its quota of calls.
static TURNS: LazyLock<Limiters> = LazyLock::new(|| Limiters::new(RATE.0, RATE.1));

pub(super) async fn make(settings: &GcpProvider, given: &Given<'_>) -> Result<Arc<dyn Cloud>, Error> {
    let key = given.credential("key.json")?;
    let settings = Settings {
        project: settings.project.clone(),
        region: settings.region.clone(),
        zones: settings.zones.clone(),
        owner: given.owner.clone(),
        technology: match given.tee {
            Tee::Snp => Technology::SevSnp,
            Tee::Tdx => Technology::Tdx,
            Tee::Vtpm => Technology::Sev,
        },
        reach: match settings.reach {
            provider::Reach::External => Reach::External,
            provider::Reach::Internal => Reach::Internal,
        },
        sources: settings.allowed_sources.clone(),
        service_account: settings.service_account.clone(),
        // None is built in yet: a TPM's certificate that nobody vouches for is refused.
        endorsement_roots: Vec::new(),
        endpoint: given.endpoint.clone(),
        access: match key {
            _ if given.endpoint.is_some() => Access::Anonymous,
            Some(key) => Access::ServiceAccountKey(key),
            None => Access::Ambient,
        },
        limiter: TURNS.of(&settings.project, &settings.region),
        pace: Pace::default(),
    };
    Ok(Arc::new(GcpCloud::connect(settings).await?))
}
