//! The list of instances that all clusters of an operator in one project share: one call per interval, however many
//! there are.

use std::sync::Arc;

use constellation_cloud::{CloudError, answers::Pages};
use google_cloud_compute_v1::model::{
    Instance,
    instances_scoped_list::{Warning, warning::Code},
};
use tokio::{sync::Mutex, time::Instant};

use crate::{GcpCloud, convert};

pub(crate) const LIST: &str = "compute.instances.aggregatedList";

/// The last list of an operator's instances in a project. Rooms that share it must ask with the same credentials.
#[derive(Debug, Default)]
pub struct Listing(Mutex<Option<Arc<Listed>>>);

/// What a list showed.
#[derive(Debug)]
pub(crate) struct Listed {
    /// When it was asked for.
    pub at: Instant,
    /// Instances of every cluster of this operator, in every region.
    pub instances: Vec<Instance>,
    /// Places that didn't answer.
    unreachable: Vec<String>,
}

impl GcpCloud {
    /// The shared list, asked for anew when it is too old or not younger than a change that it must show. Whoever
    /// comes meanwhile waits for the same answer.
    ///
    /// # Errors
    /// [`CloudError::Transient`] also when a zone of our region can't be asked: a node in it would look removed. Other
    /// regions' troubles are none of ours.
    pub(crate) async fn everything(&self, change: Option<Instant>) -> Result<Arc<Listed>, CloudError> {
        let mut kept = self.settings.listing.0.lock().await;
        let young = |list: &Arc<Listed>| {
            list.at.elapsed() < self.settings.pace.list && change.is_none_or(|change| list.at > change)
        };
        let list = match kept.as_ref().filter(|list| young(list)) {
            Some(list) => Arc::clone(list),
            None => Arc::clone(kept.insert(Arc::new(self.ask_for_everything().await?))),
        };
        match list.unreachable.iter().find(|place| place.contains(&self.api.region)) {
            Some(place) => Err(CloudError::Transient(format!("{place} can't be asked for its instances now"))),
            None => Ok(list),
        }
    }

    async fn ask_for_everything(&self) -> Result<Listed, CloudError> {
        let mut all = Listed { at: Instant::now(), instances: Vec::new(), unreachable: Vec::new() };
        let (mut page, mut pages) = (String::new(), Pages::of(LIST));
        let filter = convert::filter(&self.settings);
        loop {
            let list = self.api.instances.aggregated_list().set_project(&self.api.project).set_filter(&filter);
            let found = self.api.ask(LIST, list.set_page_token(&page).send()).await?;
            all.unreachable.extend(found.unreachables);
            // Instead of its instances, a scope may say why it doesn't show them.
            let hidden = |warning: &Warning| warning.code.as_ref().is_none_or(|code| *code != Code::NoResultsOnPage);
            for (place, scope) in found.items {
                if scope.instances.is_empty() && scope.warning.as_ref().is_some_and(hidden) {
                    all.unreachable.push(place);
                }
                all.instances.extend(scope.instances);
            }
            match pages.next(found.next_page_token)? {
                Some(next) => page = next,
                None => return Ok(all),
            }
        }
    }
}
