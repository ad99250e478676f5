//! From a cluster's settings to a room of AWS.

use std::{collections::BTreeMap, sync::Arc};

use constellation_cloud_aws::{Access, Account, AwsCloud, Pace, Placement, Proof, Reach, Settings, StaticKey};
use constellation_crds::{
    cluster::Tee,
    provider::{self, AwsProvider},
};
use tokio::sync::Mutex;

use super::{Cloud, Given};
use crate::error::Error;

/// Clusters of one identity in one region share its limits of calls and its list of instances.
static ACCOUNTS: Mutex<BTreeMap<(String, String), Arc<Account>>> = Mutex::const_new(BTreeMap::new());

pub(super) async fn make(settings: &AwsProvider, given: &Given<'_>) -> Result<Arc<dyn Cloud>, Error> {
    let proof = match given.tee {
        Tee::Snp => Proof::SevSnp,
        Tee::Vtpm => Proof::NitroTpm,
        Tee::Tdx => return Err(Error::Invalid("AWS has no TDX: tee must be snp or vtpm".to_owned())),
    };
    let placement = if settings.subnets.is_empty() {
        Placement::Zones(settings.zones.clone())
    } else {
        Placement::Subnets(settings.subnets.clone())
    };
    let account = account(&settings.region, given).await?;
    let settings = Settings {
        placement,
        reach: match settings.reach {
            provider::Reach::External => Reach::External,
            provider::Reach::Internal => Reach::Internal,
        },
        sources: settings.allowed_sources.clone(),
        proof,
        volume_key: settings.volume_key.clone(),
        owner: given.owner.clone(),
    };
    Ok(Arc::new(AwsCloud::new(account, settings)?))
}

async fn account(region: &str, given: &Given<'_>) -> Result<Arc<Account>, Error> {
    let access = match (given.credential("accessKeyID")?, given.credential("secretAccessKey")?) {
        (Some(id), Some(secret)) => Access::Static(StaticKey { id: id.to_string(), secret }),
        _ => Access::Ambient,
    };
    let place = (region.to_owned(), given.identity());
    let mut all = ACCOUNTS.lock().await;
    if let Some(known) = all.get(&place) {
        return Ok(Arc::clone(known));
    }
    let made = Arc::new(Account::connect(region, &access, given.endpoint.as_deref(), Pace::default()).await);
    all.insert(place, Arc::clone(&made));
    Ok(made)
}
