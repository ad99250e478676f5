//! The trust bundle in the made cluster: whether it is as wanted, and how the next one comes about.
//!
//! A verifier never again uses a bundle older than one that it used. So a revision stands for one content for ever: it is
//! taken in the cluster's status before anything is signed with it, and the status never goes back, whatever lies in the
//! made cluster. Who may write there can put an earlier bundle of ours in the place of the last one. That is no other
//! content, and still isn't current: the last one is written again.

use std::sync::Arc;

use constellation_attestation::policy::TrustPolicy;
use constellation_crds::{ConstellationCluster, TrustBundle, TrustBundleSpec};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};

use super::{Memory, apply::missing, observe::World};
use crate::{
    context::Context,
    error::Error,
    init::{install::MANAGER, trust},
    status,
    workload::Workload,
};

/// Name of the trust bundle in a real cluster.
const NAME: &str = "constellation";

/// Name of the trust bundle: several simulated clusters may share a namespace.
#[must_use]
pub fn name(workload: &Workload, cluster: &ConstellationCluster) -> String {
    match workload {
        Workload::Real { .. } => NAME.to_owned(),
        Workload::Simulated { .. } => format!("{}-{NAME}", cluster.name_any()),
    }
}

/// The revision that was taken last.
#[must_use]
pub fn taken(cluster: &ConstellationCluster) -> Option<u64> {
    cluster.status.as_ref().and_then(|status| status.trust_revision)
}

/// Whether the bundle that lies in the cluster is the last one, and says what is wanted.
#[must_use]
pub fn is_current(live: Option<&TrustPolicy>, wanted: &TrustPolicy, taken: Option<u64>) -> bool {
    live.is_some_and(|live| trust::same(live, wanted) && Some(live.revision) >= taken)
}

/// The greatest revision that we know of. Where the status was lost, the live one counts.
#[must_use]
pub fn known(world: &World) -> Option<u64> {
    world.facts.trust_revision.max(taken(&world.cluster))
}

/// Signs and writes what is wanted.
pub async fn write(ctx: &Context, world: &mut World, memory: &mut Memory) -> Result<(), Error> {
    let workload = world.workload.as_ref().ok_or_else(|| missing("the cluster's API server"))?;
    let owner = world.owner.clone().ok_or_else(|| missing("the owner key"))?;
    let cloud = world.cloud.as_ref().ok_or_else(|| missing("the cloud"))?;
    let (api, name): (Api<TrustBundle>, _) =
        (Api::namespaced(workload.client(), workload.namespace()), name(workload, &world.cluster));
    let (roots, spec) = (world.roots.clone(), &world.cluster.spec);
    let wanted = trust::policy(&world.uid.0, 0, &world.seen.accepted, cloud.platform(), roots, spec);
    let next = next(wanted, memory.trust.as_ref(), known(world));
    if !world.seen.simulated {
        let policy = next.policy();
        policy.validate().map_err(|error| Error::Invalid(format!("the trust policy can't be used: {error}")))?;
    }
    let policy = match next {
        Next::Again(policy) => policy,
        Next::New(policy) => take(ctx, world, policy).await?,
    };
    let spec = TrustBundleSpec { envelope: trust::sign(&policy, &owner), collateral: world.collateral.clone() };
    memory.trust = Some(policy);
    api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&TrustBundle::new(&name, spec)))
        .await
        .map(drop)
        .map_err(Error::kube("writing the trust bundle"))
}

/// What is signed next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    /// What was signed last: the same content under its revision.
    Again(TrustPolicy),
    /// Another content, or one of which we don't know whether it is; under a revision that has to be taken first.
    New(TrustPolicy),
}

impl Next {
    fn policy(&self) -> &TrustPolicy {
        match self {
            Self::Again(policy) | Self::New(policy) => policy,
        }
    }
}

/// `last` is what this operator signed last. A write that failed, or was undone, is repeated with it: each repetition
/// would else change the status, and wake us up at once.
fn next(wanted: TrustPolicy, last: Option<&TrustPolicy>, known: Option<u64>) -> Next {
    let known = known.max(last.map(|last| last.revision));
    match last.filter(|last| Some(last.revision) == known && trust::same(last, &wanted)) {
        Some(last) => Next::Again(last.clone()),
        None => Next::New(TrustPolicy { revision: known.unwrap_or(0) + 1, ..wanted }),
    }
}

/// Takes the policy's revision; gives the policy when nobody else can take it any more.
async fn take(ctx: &Context, world: &mut World, policy: TrustPolicy) -> Result<TrustPolicy, Error> {
    let mut status = world.cluster.status.clone().unwrap_or_default();
    status.trust_revision = Some(policy.revision);
    let taken = status::put(&ctx.client, &*world.cluster, &status, MANAGER).await;
    world.cluster = Arc::new(taken.map_err(Error::kube("taking a revision for the trust bundle"))?);
    Ok(policy)
}

#[cfg(test)]
mod tests;
