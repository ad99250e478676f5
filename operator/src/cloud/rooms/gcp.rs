//! From a cluster's settings to a room of Google Cloud.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use constellation_cloud::limit::Limiters;
use constellation_cloud_gcp::{Access, GcpCloud, Listing, Pace, RATE, Reach, Settings, Technology};
use constellation_crds::{
    cluster::Tee,
    provider::{self, GcpProvider},
};

use super::{Cloud, Given};
use crate::error::Error;

/// Clusters of one project and region share its quota of calls.
static TURNS: LazyLock<Limiters> = LazyLock::new(|| Limiters::new(RATE.0, RATE.1));

/// Clusters of one project and identity share a list of instances.
static LISTINGS: Mutex<BTreeMap<(String, String), Arc<Listing>>> = Mutex::new(BTreeMap::new());

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
        listing: listing(&settings.project, given),
        pace: Pace::default(),
    };
    Ok(Arc::new(GcpCloud::connect(settings).await?))
}

fn listing(project: &str, given: &Given<'_>) -> Arc<Listing> {
    let mut all = LISTINGS.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(all.entry((project.to_owned(), given.identity())).or_default())
}
