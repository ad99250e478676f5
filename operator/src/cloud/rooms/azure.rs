//! From a cluster's settings to a room of Azure.

use std::sync::{Arc, LazyLock};

use constellation_cloud::limit::Limiters;
use constellation_cloud_azure::{Access, AzureCloud, DiskEncryption, Pace, RATE, Reach, Settings, Technology};
use constellation_crds::{
    cluster::Tee,
    provider::{self, AzureProvider},
};

use super::{Cloud, Given};
use crate::error::Error;

/// Clusters of one subscription and region share its quota of calls.
static TURNS: LazyLock<Limiters> = LazyLock::new(|| Limiters::new(RATE.0, RATE.1));

pub(super) fn make(settings: &AzureProvider, given: &Given<'_>) -> Result<Arc<dyn Cloud>, Error> {
    let settings = Settings {
        subscription: settings.subscription_id.clone(),
        location: settings.location.clone(),
        zones: settings.zones.clone(),
        resource_group: settings.resource_group.clone(),
        owner: given.owner.clone(),
        technology: match given.tee {
            Tee::Snp => Technology::SevSnp,
            Tee::Tdx => Technology::Tdx,
            Tee::Vtpm => Technology::TrustedLaunch,
        },
        disk_encryption: DiskEncryption::GuestState,
        reach: match settings.reach {
            provider::Reach::External => Reach::External,
            provider::Reach::Internal => Reach::Internal,
        },
        sources: settings.allowed_sources.clone(),
        // None is built in yet: a TPM's certificate that nobody vouches for is refused.
        endorsement_roots: Vec::new(),
        endpoint: given.endpoint.clone(),
        access: access(given)?,
        limiter: TURNS.of(&settings.subscription_id, &settings.location),
        pace: Pace::default(),
    };
    Ok(Arc::new(AzureCloud::new(settings)?))
}

fn access(given: &Given<'_>) -> Result<Access, Error> {
    if given.endpoint.is_some() {
        return Ok(Access::Anonymous);
    }
    let members = (given.credential("tenantID")?, given.credential("clientID")?, given.credential("clientSecret")?);
    Ok(match members {
        (Some(tenant), Some(client), Some(secret)) => Access::ClientSecret {
            tenant: tenant.to_string(),
            client: client.to_string(),
            secret: secret.to_string().into(),
        },
        _ => Access::ambient(),
    })
}
