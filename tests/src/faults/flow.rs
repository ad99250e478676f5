//! What users and the world do to a cluster, and how its end is compared.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use constellation_crds::ConfidentialNode;
use kube::ResourceExt as _;
use serde_json::json;

use super::{
    lane::{GROUP, Lane, Want},
    picture,
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
    /// One worker more, then one less.
    Scale,
    /// A worker's machine vanishes.
    Replace,
    /// Another release is wanted.
    Roll,
    /// The control plane's machine vanishes.
    Recover,
    /// A release that its machines don't measure is wanted, and then the old one again.
    Refuse,
    /// It is deleted.
    Delete,
}

/// All of them.
pub const FLOWS: [Flow; 7] =
    [Flow::Create, Flow::Scale, Flow::Replace, Flow::Roll, Flow::Recover, Flow::Refuse, Flow::Delete];
/// The smallest cluster with both roles.
pub const SMALL: Want = Want { control_plane: 1, workers: 1, image: "v1" };

impl Flow {
    /// Makes the change and waits for its end; gives what the cluster is then, or nothing when it is gone.
    ///
    /// # Errors
    /// When the end does not come, or a node got two machines.
    pub async fn run(self, lane: &Lane, before: Want) -> Result<Option<Want>> {
        let mut want = before;
        match self {
            Self::Create => lane.create(want).await?,
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
                let (name, uid) = (victim.name_any(), victim.uid());
                lane.script(json!({"vanish": name})).await?;
                lane.until("the victim goes", LONG, async |lane| {
                    Ok(!lane.list::<ConfidentialNode>().await?.iter().any(|node| node.uid() == uid))
                })
                .await?;
                lane.script(json!({})).await?;
            }
            Self::Roll => {
                want.image = lane.next_image();
                lane.release(want.image, true).await?;
            }
            Self::Refuse => {
                lane.release("v3", false).await?;
                lane.until("a refusal", LONG, async |lane| {
                    let nodes = lane.list::<ConfidentialNode>().await?;
                    Ok(nodes
                        .iter()
                        .filter_map(|n| n.status.as_ref()?.attestation.as_ref())
                        .any(|a| a.verdict == "Refused"))
                })
                .await?;
                lane.release(want.image, true).await?;
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
        Ok(Some(want))
    }
}

/// A cluster that exists when `flow` needs one, then the flow with faults; gives the picture of its end.
///
/// # Errors
/// As [`Flow::run`].
pub async fn story(lane: &Lane, flow: Flow) -> Result<Vec<String>> {
    if flow != Flow::Create {
        Flow::Create.run(lane, SMALL).await?;
    }
    lane.proxy.plan().arm();
    match flow.run(lane, SMALL).await? {
        // What is written after the end is written at once, by an operator that is not killed once more.
        Some(want) => {
            let mut last = (lane.kills(), picture::of(lane).await?);
            loop {
                tokio::time::sleep(QUIET).await;
                lane.settled(want, LONG).await?;
                let next = (lane.kills(), picture::of(lane).await?);
                if next == last {
                    return Ok(next.1);
                }
                last = next;
            }
        }
        None => Ok(picture::left(lane).await?),
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
