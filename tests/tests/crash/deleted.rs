//! The user deletes a cluster at each deed of each flow that changes it; its creation is in `bad_input/stages.rs`.

use std::env;

use anyhow::{Result, ensure};
use constellation_tests::faults::{
    call::Call,
    deleted,
    flow::{CHANGES, Flow},
    plan::{Plan, Side},
};
use futures::FutureExt as _;

use super::{all, is_wanted, lane_of, number};

async fn run(flow: Flow, side: Side, nth: usize) -> Result<String> {
    let name = format!("gone-{flow:?}-{side:?}-{nth}").to_lowercase();
    let (lane, _vault) = lane_of(flow, &name, Plan::deleted(side, nth, Call::acts)).await?;
    deleted::run(&lane, flow).await
}

/// Checks that as many deeds are tried as a flow has.
async fn count(flow: Flow) -> Result<String> {
    let plan = Plan::deleted(Side::After, usize::MAX, Call::acts);
    let (lane, _vault) = lane_of(flow, &format!("count-{flow:?}").to_lowercase(), plan).await?;
    let (count, tried) = (deleted::count(&lane, flow).await?, deeds(flow));
    ensure!(count.abs_diff(tried) <= 3, "{flow:?} has {count} deeds, {tried} are tried");
    Ok(format!("{flow:?}: {count} deeds, {tried} are tried"))
}

/// How many deeds a flow has; one or two more or fewer in some runs.
fn deeds(flow: Flow) -> usize {
    match flow {
        Flow::Rewrap => 1,
        Flow::Distrust => 2,
        Flow::DropGroup => 9,
        Flow::Refuse | Flow::RollBack => 12,
        Flow::Recover | Flow::Replace => 13,
        Flow::Expel | Flow::Scale => 14,
        Flow::Roll => 30,
        Flow::Drain => 32,
        // The first is in `bad_input/stages.rs`, one leads to three nodes, and two are ends of their own.
        Flow::Create | Flow::Grow | Flow::Orphan | Flow::Delete => 0,
    }
}

/// Nearly all that these do a roll or a replacement does as well; they are for who has more time, or names one.
const ALIKE: [Flow; 4] = [Flow::Drain, Flow::Expel, Flow::Refuse, Flow::RollBack];

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_deleted_at_any_deed_of_any_flow_leaves_nothing() {
    let flows = CHANGES.into_iter().chain([Flow::Rewrap]).filter(|flow| is_wanted(*flow));
    let all_of_them = number("SCHEDULES").is_some() || env::var("FLOW").is_ok();
    let flows: Vec<_> = flows.filter(|flow| all_of_them || !ALIKE.contains(flow)).collect();
    let sides = |nth: usize| if nth.is_multiple_of(2) { Side::After } else { Side::Before };
    let moments = flows.iter().flat_map(|flow| (1..=deeds(*flow)).map(|nth| run(*flow, sides(nth), nth).boxed_local()));
    let counts = flows.iter().filter(|flow| deeds(**flow) > 0).map(|flow| count(*flow).boxed_local());
    all(counts.chain(moments)).await;
}
