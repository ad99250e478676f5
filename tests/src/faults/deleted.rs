//! The user deletes a cluster right before or right after one side effect of a flow, and nothing of it is left.

use anyhow::{Result, ensure};

use super::{
    flow::{Flow, LONG, SMALL, still},
    lane::Lane,
    picture,
};

/// Begins a flow; from there on the lane's plan counts.
async fn begin(lane: &Lane, flow: Flow) -> Result<()> {
    if flow != Flow::Create {
        Flow::Create.run(lane, SMALL).await?;
    }
    lane.arm();
    Ok(())
}

/// How many of the side effects that the lane's plan counts a flow has.
///
/// # Errors
/// As [`Flow::run`].
pub async fn count(lane: &Lane, flow: Flow) -> Result<usize> {
    begin(lane, flow).await?;
    flow.run(lane, SMALL).await?;
    Ok(lane.proxy.plan().met())
}

/// Runs a flow until the lane's plan deletes the cluster, and checks that nothing of it is left; gives a line.
///
/// # Errors
/// When something is left, or a node got two machines.
pub async fn run(lane: &Lane, flow: Flow) -> Result<String> {
    begin(lane, flow).await?;
    let reached = async |lane: &Lane| Ok(!lane.proxy.plan().done().is_empty());
    let ended = tokio::select! {
        ended = flow.run(lane, SMALL) => ended.map(drop),
        reached = lane.until("the moment of the deletion", LONG, reached) => reached,
    };
    if !reached(lane).await? {
        // This time there were fewer.
        ended?;
        lane.delete().await?;
    }
    // What was on its way may arrive when all else is gone.
    let left = still(lane, async || lane.gone(LONG).await, async || picture::left(lane).await).await?;
    let done = lane.proxy.plan().done().join(", ");
    ensure!(left.is_empty(), "{}: {left:?} is left, {done}", lane.name);
    lane.one_machine_per_node()?;
    Ok(format!("{}: {done}", lane.name))
}
