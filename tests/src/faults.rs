//! Faults between a real operator process and a real API server: crashes at side effects, lost answers, bad watches.
//!
//! The operator of a [`lane::Lane`] talks through a [`proxy::Proxy`]. Every write passes it, and as the `simulated` cloud
//! keeps its books on the same API server, so does every provider call that changes something. For each write a
//! [`plan::Plan`] says what happens: the process is killed before or after it took effect, the answer is lost or is an
//! error, or nothing. The end is compared as a [`picture`] with that of a run that nobody disturbed.

pub mod call;
pub mod deleted;
pub mod flow;
mod keeper;
pub mod lane;
pub mod picture;
pub mod plan;
pub mod pods;
pub mod proxy;
pub mod setting;
pub mod steps;
pub mod turns;
pub mod vault;

use std::path::Path;

use anyhow::Result;
use constellation_crds::definition;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::wait::{await_condition, conditions::is_crd_established},
};
use tokio::sync::OnceCell;

use crate::{
    audit::Audit,
    controlplane::{
        self,
        shared::{shared, shared_with},
    },
};

/// One who makes the kinds is enough.
static KINDS: OnceCell<()> = OnceCell::const_new();

/// The management cluster of all tests of a process, with our kinds; its files are in `dir`.
///
/// # Errors
/// When it can't be started.
pub async fn management(dir: &Path) -> Result<kube::Config> {
    with_kinds(shared(dir)?).await
}

/// As [`management`], with the log of all requests; slower, for each waits until it is told there.
///
/// # Errors
/// As [`management`].
pub async fn audited_management(dir: &Path) -> Result<(kube::Config, Audit)> {
    let log = dir.join("audit.log");
    let config = with_kinds(shared_with(dir, Some(log.clone()))?).await?;
    Ok((config, Audit::new(log)))
}

async fn with_kinds(kubeconfig: &str) -> Result<kube::Config> {
    let config = controlplane::config(kubeconfig).await?;
    KINDS.get_or_try_init(|| kinds(config.clone())).await?;
    Ok(config)
}

async fn kinds(config: kube::Config) -> Result<()> {
    let crds: Api<CustomResourceDefinition> = Api::all(Client::try_from(config)?);
    // The simulated clusters live on the same API server, so their kinds are here too.
    for crd in definition::management().into_iter().chain(definition::workload()) {
        let name = crd.name_any();
        crds.patch(&name, &PatchParams::apply("tests").force(), &Patch::Apply(&crd)).await?;
        await_condition(crds.clone(), &name, is_crd_established()).await?;
    }
    Ok(())
}
