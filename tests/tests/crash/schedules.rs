//! A cluster's life, with faults drawn from a seed; in one of eight lives two operators take turns to lead.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use constellation_tests::faults::{
    flow::{CHANGES, Flow, LONG, SMALL, anonymous, same, story},
    lane::{Lane, Setting, Want},
    management, picture,
    plan::Plan,
};
use serde_json::json;
use tokio::sync::OnceCell;

use super::{all, dir, lane_in, number};

/// Writes within which things go wrong.
const SPAN: u64 = 120;
/// One of so many schedules has two operators.
const PAIRS: u64 = 8;

/// How often each kind of thing went wrong in all schedules.
static FAULTS: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());

/// When a schedule's cluster is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deletion {
    AtTheEnd,
    DuringChange,
    DuringCreation,
}

/// What is left by a flow that nobody disturbs; found out once, for the first schedule that asks.
async fn calm_end(flow: Flow, first: Want) -> Result<Vec<String>> {
    static ENDS: Mutex<BTreeMap<String, Arc<OnceCell<Vec<String>>>>> = Mutex::new(BTreeMap::new());
    let name = format!("{flow:?}-of-{}", first.workers).to_lowercase();
    let end = Arc::clone(ENDS.lock().unwrap().entry(name.clone()).or_default());
    let found = end.get_or_try_init(async || {
        let lane = lane_in(Setting::default(), &name, Plan::calm(), &[]).await?;
        anyhow::Ok(anonymous(&story(&lane, flow, first).await?, &name))
    });
    Ok(found.await?.clone())
}

/// Waits until a flow's end is the one that it has when nobody disturbs it.
async fn ends_as_calm(lane: &Lane, flow: Flow, first: Want) -> Result<()> {
    let calm = calm_end(flow, first).await?;
    let look = async |lane: &Lane| anyhow::Ok(anonymous(&picture::of(lane).await?, &lane.name));
    let seen = lane.until("the end of a calm run", LONG, async |lane| Ok(look(lane).await? == calm)).await;
    if seen.is_err() {
        same(&format!("{flow:?}"), &calm, &look(lane).await?)?;
    }
    seen
}

/// A flow, until the operator wrote so often since it began; it may be over before.
async fn begin(flow: Flow, lane: &Lane, first: Want, writes: usize) -> Result<()> {
    let count = |lane: &Lane| lane.written().iter().sum::<usize>();
    let end = count(lane) + writes;
    tokio::select! {
        ended = flow.run(lane, first) => ended.map(drop),
        reached = lane.until("the moment of the deletion", LONG, async |lane| Ok(count(lane) >= end)) => reached,
    }
}

/// A lane whose operators are disturbed as was drawn: one, or two of which one leads, as long as it can renew its lease.
async fn disturbed(name: &str, plan: Plan, rng: &mut fastrand::Rng, pair: bool) -> Result<Lane> {
    let arguments = ["--sweep-seconds", "3", "--relist-seconds", "10", "--leader-elect=true"];
    if !pair {
        return lane_in(Setting::default(), name, plan, &arguments[..4]).await;
    }
    let plans = [plan, Plan::drawn(rng, SPAN)].map(|plan| plan.losing_leases(rng));
    let [first, second] = plans;
    let first = lane_in(Setting::default(), name, first, &arguments).await?;
    let config = management(&dir().join("plane")).await?;
    Ok(first.beside(Lane::start(config, &dir().join("seconds"), name, second, &arguments).await?))
}

/// One schedule: a cluster is made, changed and deleted, at the end or in the middle, while things go wrong.
async fn schedule(seed: u64) -> Result<String> {
    let start = Instant::now();
    let mut rng = fastrand::Rng::with_seed(seed);
    let plan = Plan::drawn(&mut rng, SPAN);
    let (name, pair) = (format!("seed-{seed}"), seed.is_multiple_of(PAIRS));
    let want = Want { workers: rng.usize(1..=2), ..SMALL };
    let flow = rng.choice(CHANGES).context("not empty")?;
    let deletion = rng.choice([Deletion::AtTheEnd, Deletion::DuringChange, Deletion::DuringCreation]);
    let deletion = deletion.context("not empty")?;
    // Machines that vanish are told by the same script.
    let scripted = deletion != Deletion::DuringCreation
        && [Flow::Distrust, Flow::Expel, Flow::Recover, Flow::Replace].contains(&flow);
    let hidden = rng.u8(..4) == 0 && !scripted;
    let (shown_after, deleted_after) = (Duration::from_millis(rng.u64(1000..6000)), rng.usize(1..60));
    let lane = disturbed(&name, plan, &mut rng, pair).await?;
    lane.arm();
    if hidden {
        lane.script(json!({"hide": "*"})).await?;
    }
    let show = async {
        if hidden {
            tokio::time::sleep(shown_after).await;
            lane.script(json!({})).await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let story = async {
        if deletion == Deletion::DuringCreation {
            begin(Flow::Create, &lane, want, deleted_after).await?;
        } else {
            Flow::Create.run(&lane, want).await?;
            match (flow, deletion) {
                (Flow::Create, _) => ends_as_calm(&lane, flow, want).await?,
                (_, Deletion::DuringChange) => begin(flow, &lane, want, deleted_after).await?,
                (..) => {
                    flow.run(&lane, want).await?;
                    ends_as_calm(&lane, flow, want).await?;
                }
            }
        }
        Flow::Delete.run(&lane, want).await
    };
    let done = futures::try_join!(story, show);
    let what = format!("SEED={seed}: {} workers, {flow:?}, hidden {hidden}, deleted {deletion:?}", want.workers);
    done.with_context(|| what.clone())?;
    let led = if pair { format!(", two operators led {:?} times", lane.reigns()) } else { String::new() };
    if pair {
        lane.in_turn().with_context(|| what.clone())?;
    }
    let faults: u32 = lane.tally().values().sum();
    let mut all = FAULTS.lock().unwrap();
    for (kind, count) in lane.tally() {
        *all.entry(kind).or_default() += count;
    }
    Ok(format!("{what}{led}: {faults} faults, {} kills, {} s", lane.kills(), start.elapsed().as_secs()))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_by_chance_the_end_is_as_wanted_and_nothing_is_left() {
    let mut rng = fastrand::Rng::new();
    let seeds: Vec<u64> = if let Some(seed) = number("SEED") {
        vec![seed]
    } else {
        (0..number("SCHEDULES").unwrap_or(200)).map(|_| rng.u64(..1_000_000_000)).collect()
    };
    // The longest first, so that nobody waits for them at the end.
    let (pairs, others): (Vec<_>, Vec<_>) = seeds.into_iter().partition(|seed| seed.is_multiple_of(PAIRS));
    all(pairs.into_iter().chain(others).map(schedule)).await;
    println!("what went wrong, and how often: {:#?}", FAULTS.lock().unwrap());
}
