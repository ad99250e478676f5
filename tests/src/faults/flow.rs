//! What users and the world do to a cluster, and how its end is compared.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use constellation_crds::{ConfidentialNode, TAINT_UNATTESTED};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use serde_json::json;

use super::{
    lane::{GROUP, Lane, Want},
    picture, pods, vault,
};

/// An operator that was started has looked at everything once in less.
const QUIET: Duration = Duration::from_secs(3);

/// A flow with a crash at every side effect takes a minute on two idle cores.
pub const LONG: Duration = Duration::from_mins(8);

/// A change that a user, or the world, makes to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It is made.
    Create,
    /// Two control-plane nodes more, then two less.
    Grow,
    /// One worker more, then one less.
    Scale,
    /// A worker's machine vanishes.
    Replace,
    /// Another release is wanted.
    Roll,
    /// The same, with pods on the worker, of which one may leave only later.
    Drain,
    /// The control plane's machine vanishes.
    Recover,
    /// A release that its machines don't measure is wanted, and then the old one again.
    Refuse,
    /// A release that its machines don't measure is wanted, and stays so.
    RollBack,
    /// Its workers' group is taken out of its spec.
    DropGroup,
    /// A worker's evidence is refused, so that it is marked, and then accepted again.
    Distrust,
    /// A worker's evidence is refused, so that another one takes its place.
    Expel,
    /// Another key is to wrap its master secret.
    Rewrap,
    /// It is deleted, and its machines are left running.
    Orphan,
    /// It is deleted.
    Delete,
}

/// All that the smallest cluster can bear and goes on after.
pub const CHANGES: [Flow; 11] = [
    Flow::Create,
    Flow::Scale,
    Flow::Replace,
    Flow::Roll,
    Flow::Drain,
    Flow::Recover,
    Flow::Refuse,
    Flow::RollBack,
    Flow::DropGroup,
    Flow::Distrust,
    Flow::Expel,
];
/// What is its end, or needs more than a cluster.
pub const OTHERS: [Flow; 3] = [Flow::Rewrap, Flow::Orphan, Flow::Delete];
/// One whose control plane can lose a node.
pub const LARGE: Want = Want { control_plane: 3, ..SMALL };
/// The smallest cluster with both roles.
pub const SMALL: Want = Want { control_plane: 1, workers: 1, image: "v1", given_up: false };

impl Flow {
    /// Makes the change and waits for its end; gives what the cluster is then, or nothing when it is gone.
    ///
    /// # Errors
    /// When the end does not come, or a node got two machines.
    pub async fn run(self, lane: &Lane, before: Want) -> Result<Option<Want>> {
        let mut want = before;
        let mut secrets = picture::secrets(lane).await?;
        match self {
            Self::Create => lane.create(want).await?,
            Self::Grow => {
                want.control_plane += 2;
                lane.resize(want.control_plane).await?;
                lane.settled(want, LONG).await?;
                want.control_plane -= 2;
                lane.resize(want.control_plane).await?;
            }
            Self::Scale => {
                want.workers += 1;
                lane.scale(want.workers).await?;
                lane.settled(want, LONG).await?;
                want.workers -= 1;
                lane.scale(want.workers).await?;
            }
            Self::Replace | Self::Recover => {
                let nodes = lane.list::<ConfidentialNode>().await?;
                let group = if self == Self::Replace { GROUP } else { "control-plane" };
                let victim = nodes.iter().find(|n| n.spec.node_group == group).context("no victim")?;
                befall(lane, "vanish", victim).await?;
            }
            Self::Expel => {
                lane.change(json!({"attestation": {"onFailure": "Replace"}})).await?;
                let nodes = lane.list::<ConfidentialNode>().await?;
                let victim = nodes.iter().find(|n| n.spec.node_group == GROUP).context("no victim")?;
                befall(lane, "broken-evidence", victim).await?;
            }
            Self::Distrust => distrust(lane).await?,
            Self::DropGroup => {
                lane.change(json!({"nodeGroups": []})).await?;
                want.workers = 0;
            }
            Self::Rewrap => {
                lane.change(json!({"masterSecret": {"kms": {"vault": {"key": vault::NEW}}}})).await?;
                lane.until("it is wrapped again", LONG, async |lane| {
                    let all = picture::secrets(lane).await?;
                    Ok(wrapping_key(&all).is_some_and(|key| key.ends_with(vault::NEW)))
                })
                .await?;
            }
            Self::Orphan => {
                orphan(lane).await?;
                ensure!(secrets == picture::secrets(lane).await?, "{}: a Secret did not stay", lane.name);
                return Ok(None);
            }
            Self::Roll => {
                want.image = lane.next_image();
                lane.release(want.image, true).await?;
            }
            Self::Drain => {
                pods::place(lane, &lane.worker().await?).await?;
                want.image = lane.next_image();
                lane.release(want.image, true).await?;
                drained(lane).await?;
                lane.settled(want, LONG).await?;
                pods::left_by_leave(lane).await?;
            }
            Self::Refuse => {
                lane.release("v3", false).await?;
                lane.until("a refusal", LONG, async |lane| {
                    // The node that was refused may be gone at the next look; that its release was given up stays.
                    let given_up = lane.cluster().await?.and_then(|cluster| cluster.status?.rolled_back);
                    let nodes = lane.list::<ConfidentialNode>().await?;
                    let mut results = nodes.iter().filter_map(|n| n.status.as_ref()?.attestation.as_ref());
                    Ok(given_up.is_some() || results.any(|a| a.verdict == "Refused"))
                })
                .await?;
                lane.release(want.image, true).await?;
            }
            Self::RollBack => {
                lane.release("v3", false).await?;
                want.given_up = true;
            }
            Self::Delete => {
                lane.delete().await?;
                lane.gone(LONG).await?;
                lane.one_machine_per_node()?;
                return Ok(None);
            }
        }
        lane.settled(want, LONG).await?;
        lane.one_machine_per_node()?;
        // Keys are made once: whoever lost them has lost the cluster.
        let mut now = picture::secrets(lane).await?;
        if self == Self::Rewrap {
            // The key's name and what it gave are another's; the cluster's ID must be the same.
            [&mut secrets, &mut now].into_iter().flat_map(BTreeMap::values_mut).for_each(|secret| {
                secret.retain(|key, _| !["key", "version", "wrapped"].contains(&key.as_str()));
            });
        }
        let kept = self == Self::Create || secrets == now;
        ensure!(kept, "{}: {self:?} changed a Secret", lane.name);
        Ok(Some(want))
    }
}

/// Lets something befall a node until it is gone.
async fn befall(lane: &Lane, what: &str, victim: &ConfidentialNode) -> Result<()> {
    let uid = victim.uid();
    lane.script(json!({what: victim.name_any()})).await?;
    lane.until("the victim goes", LONG, async |lane| {
        Ok(!lane.list::<ConfidentialNode>().await?.iter().any(|node| node.uid() == uid))
    })
    .await?;
    lane.script(json!({})).await
}

/// Has a worker's evidence refused until it is marked, and accepted until the mark is gone.
async fn distrust(lane: &Lane) -> Result<()> {
    lane.change(json!({"attestation": {"onFailure": "Taint"}})).await?;
    lane.script(json!({"broken-evidence": lane.worker().await?})).await?;
    let marked = async |lane: &Lane| Ok(lane.kube_nodes().await?.iter().any(is_marked));
    lane.until("the refused one is marked", LONG, marked).await?;
    lane.script(json!({})).await?;
    lane.until("the mark goes", LONG, async |lane| Ok(!marked(lane).await?)).await
}

/// Waits until a pod has left and another was held, which may leave from then on.
async fn drained(lane: &Lane) -> Result<()> {
    lane.until("a pod that leaves, and one that is held", LONG, async |lane| {
        let held = |error: &String| error.ends_with(&format!("eviction {}", pods::HELD));
        let held = lane.proxy.seen(|seen| seen.errors.iter().any(held));
        Ok(held && !pods::there(lane).await?.contains(pods::FREE))
    })
    .await?;
    pods::allow(lane, 1).await
}

/// Deletes the cluster and leaves its machines running.
async fn orphan(lane: &Lane) -> Result<()> {
    let machines = lane.records().await?.len();
    lane.change(json!({"deletionPolicy": "Orphan"})).await?;
    lane.delete().await?;
    lane.until("no cluster and no node", LONG, async |lane| {
        Ok(lane.cluster().await?.is_none() && lane.list::<ConfidentialNode>().await?.is_empty())
    })
    .await?;
    ensure!(lane.records().await?.len() == machines, "{}: a machine did not stay", lane.name);
    Ok(())
}

/// Whether pods are sent away from a node because its evidence is refused.
fn is_marked(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.into_iter().any(|taint| taint.key == TAINT_UNATTESTED)
}

/// The key that wraps the master secret.
fn wrapping_key(secrets: &picture::Secrets) -> Option<String> {
    let wrapped = secrets.values().find(|secret| secret.contains_key("wrapped"))?;
    String::from_utf8(wrapped.get("key")?.0.clone()).ok()
}

/// A cluster that exists when `flow` needs one, then the flow with faults; gives the picture of its end.
///
/// # Errors
/// As [`Flow::run`].
pub async fn story(lane: &Lane, flow: Flow, first: Want) -> Result<Vec<String>> {
    if flow != Flow::Create {
        Flow::Create.run(lane, first).await?;
    }
    lane.arm();
    match flow.run(lane, first).await? {
        Some(want) => at_rest(lane, want).await,
        // Sweeps must not take what was left running.
        None if flow == Flow::Orphan => still(lane, async || Ok(()), async || picture::of(lane).await).await,
        None => Ok(picture::left(lane).await?),
    }
}

/// Waits until the cluster is as wanted and nothing more comes; gives its picture.
///
/// # Errors
/// As [`Lane::settled`].
pub async fn at_rest(lane: &Lane, want: Want) -> Result<Vec<String>> {
    still(lane, async || lane.settled(want, LONG).await, async || picture::of(lane).await).await
}

/// As [`at_rest`], of a cluster that has settled when `settled` ends, and whose picture `look` gives.
///
/// # Errors
/// Those of the two.
pub async fn still(
    lane: &Lane,
    settled: impl AsyncFn() -> Result<()>,
    look: impl AsyncFn() -> Result<Vec<String>>,
) -> Result<Vec<String>> {
    settled().await?;
    // What is written after the end is written at once, by an operator that is not killed once more.
    let mut last = (lane.kills(), look().await?);
    loop {
        tokio::time::sleep(QUIET).await;
        settled().await?;
        let next = (lane.kills(), look().await?);
        if next == last {
            return Ok(next.1);
        }
        last = next;
    }
}

/// A picture without the cluster's name.
#[must_use]
pub fn anonymous(lines: &[String], name: &str) -> Vec<String> {
    let mut lines: Vec<_> = lines.iter().map(|line| line.replace(name, "<cluster>")).collect();
    lines.sort();
    lines
}

/// Whether a disturbed run ended as a calm one.
///
/// # Errors
/// When it did not; lists the difference.
pub fn same(what: &str, calm: &[String], disturbed: &[String]) -> Result<()> {
    let only = |a: &[String], b: &[String]| a.iter().filter(|line| !b.contains(line)).cloned().collect::<Vec<_>>();
    let (lost, new) = (only(calm, disturbed), only(disturbed, calm));
    ensure!(
        calm == disturbed,
        "{what} ends otherwise than when nobody disturbs it:\nmissing: {lost:#?}\nnew: {new:#?}"
    );
    Ok(())
}
