//! Answers kubelets' requests for certificates, and has the record of an admission follow what was issued.
//!
//! Each round looks at all requests and all admissions as they are, and does what is left to do ([`renewal`]): first what was
//! issued moves the records on, then open requests are answered. Each write counts only if nobody wrote before, so that
//! several verifiers do this beside each other, and one that died in between left nothing that the next round, here or there,
//! doesn't find. kube-controller-manager signs what was approved, and approves nothing itself.

use std::{collections::BTreeSet, pin::pin, time::Duration};

use constellation_crds::NodeAdmission;
use futures::{FutureExt as _, Stream, StreamExt as _};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};

use crate::{
    renewal::{self, APPROVED, DENIED, Decision},
    store::{self, Store},
    verifier::{Error, Verifier, chain},
};

/// What a peer is told who may not renew. The owner is told why.
const REFUSED: &str = "not admitted";
/// A round without a word of a change; there is one for each, so this finds only what a broken watch hid. A kubelet has hours.
const LOOK: Duration = Duration::from_mins(10);
/// While something waits for an admission, of whose changes there is no word here, or went wrong.
const LOOK_SOON: Duration = Duration::from_secs(15);
/// Between a change and the round for it: whoever may ask can make us look once in this time, and a kubelet that waits for a
/// second longer doesn't notice.
const PAUSE: Duration = Duration::from_secs(1);

/// When to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At the next change.
    Changed,
    /// Soon, as something is left to do.
    Soon,
}

/// Answers requests for ever; `changes` says that there may be something new.
pub async fn answer<A: Store>(verifier: &Verifier<A>, changes: impl Stream<Item = ()>) {
    let mut changes = pin!(changes);
    loop {
        let look = match round(verifier).await {
            Ok(Next::Changed) => LOOK,
            Ok(Next::Soon) => LOOK_SOON,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "Answering kubelets' requests failed, trying again");
                verifier.own_fault(&error);
                LOOK_SOON
            }
        };
        let _ = tokio::time::timeout(look, changes.next()).await;
        tokio::time::sleep(PAUSE).await;
        while changes.next().now_or_never().flatten().is_some() {}
    }
}

/// Does what is left to do. What can't be done of one node or request keeps nobody else waiting.
///
/// # Errors
/// When the API gives no answer, the first time; what could be done is done.
pub async fn round<A: Store>(verifier: &Verifier<A>) -> Result<Next, Error> {
    let requests = verifier.store.requests().await?;
    if requests.is_empty() {
        return Ok(Next::Changed);
    }
    let mut nodes = verifier.store.nodes().await?;
    let mut failed = None;
    let mut next = Next::Changed;
    // Names of nodes that have to wait for the next round.
    let mut waits = BTreeSet::new();
    for node in &mut nodes {
        let followed = match follow(verifier, node, &requests).await {
            Ok(followed) => followed,
            Err(error) => {
                failed.get_or_insert(error);
                false
            }
        };
        if !followed {
            // What isn't on record yet would be taken for a copy.
            waits.insert(node.spec.node_name.clone());
            next = Next::Soon;
        }
    }
    for request in &requests {
        if renewal::node_of(request).is_some_and(|name| waits.contains(name)) {
            continue;
        }
        let (condition, refusal) = match renewal::decide(request, &nodes, &verifier.home.launch.node_name) {
            Decision::Leave => continue,
            Decision::Wait => {
                next = Next::Soon;
                continue;
            }
            Decision::Approve(uid) => {
                tracing::info!(node_uid = uid, "Approving a kubelet's next certificate");
                // Whoever asks a hundred times gets one at a time.
                waits.extend(renewal::node_of(request).map(str::to_owned));
                (condition(APPROVED, "MemberRenews", "the node is a member"), None)
            }
            Decision::Deny { uid, reason } => (condition(DENIED, "NotAdmitted", REFUSED), Some((uid, reason))),
        };
        match verifier.store.answer(&answered(request, condition)).await {
            Ok(()) => {}
            // Another verifier was there first, or nobody asks any more.
            Err(store::Error::Conflict | store::Error::Missing(_)) => continue,
            Err(error) => {
                failed.get_or_insert(error.into());
                continue;
            }
        }
        // Only whoever has answered tells, so that each is counted once.
        match refusal {
            None => verifier.metrics.renewals_approved.add(),
            Some((uid, reason)) => {
                verifier.metrics.renewals_denied.add();
                let told = match uid {
                    Some(uid) => verifier.refuse_unproven(&uid, reason),
                    None => verifier.refuse_stranger("", reason),
                };
                if let Err(error) = told {
                    failed.get_or_insert(error);
                }
            }
        }
    }
    failed.map_or(Ok(next), Err)
}

/// Has the record of a node follow what was issued to its kubelet; gives whether what we know of it is what is there.
async fn follow<A: Store>(
    verifier: &Verifier<A>,
    node: &mut NodeAdmission,
    requests: &[CertificateSigningRequest],
) -> Result<bool, Error> {
    let Some(certificate) = renewal::moved(node, requests) else { return Ok(true) };
    let mut after = node.clone();
    if let Some(admission) = after.status.as_mut().and_then(|status| status.admission.as_mut()) {
        admission.kubelet_certificate = Some(certificate);
    }
    match verifier.store.record(&after).await {
        Ok(()) => {}
        Err(store::Error::Conflict) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    tracing::info!(node_uid = node.spec.node_uid, "Recorded a kubelet's next certificate");
    // The next write counts against the version that this one made.
    match verifier.store.node(&node.spec.node_uid).await? {
        Some(now) => *node = now,
        None => return Ok(false),
    }
    Ok(true)
}

fn condition(kind: &str, reason: &str, message: &str) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..CertificateSigningRequestCondition::default()
    }
}

fn answered(
    request: &CertificateSigningRequest,
    condition: CertificateSigningRequestCondition,
) -> CertificateSigningRequest {
    let before = request.status.clone().unwrap_or_default();
    let conditions = before.conditions.iter().flatten().cloned().chain([condition]).collect();
    let status = CertificateSigningRequestStatus { conditions: Some(conditions), ..before };
    CertificateSigningRequest { status: Some(status), ..request.clone() }
}
