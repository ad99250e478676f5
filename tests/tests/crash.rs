//! Every flow, with the operator's process killed at every side effect, and with faults drawn from a seed.
//!
//! Needs the program: `cargo build -p constellation-operator`. `FLOW=Roll` runs one flow, `SEED=7` one schedule,
//! `SCHEDULES=5000` more of them, `LANES=4` fewer at a time.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

use std::{
    collections::BTreeMap,
    env,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use constellation_tests::faults::{
    flow::{FLOWS, Flow, LARGE, LONG, SMALL, anonymous, same, story},
    lane::{Lane, Want},
    management, picture,
    plan::{Plan, Side},
};
use futures::{StreamExt as _, future::join_all, stream};
use serde_json::json;
use tokio::sync::{OnceCell, Semaphore};

/// Lanes at a time: each waits most of the time, and takes 30 MB.
static LANES: OnceCell<Semaphore> = OnceCell::const_new();

/// How often each kind of thing went wrong in all schedules.
static FAULTS: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("crash")
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap())
}

async fn lane(name: &str, plan: Plan, arguments: &[&str]) -> Result<Lane> {
    Lane::start(management(&dir().join("plane")).await?, &dir().join("lanes"), name, plan, arguments).await
}

/// Runs jobs beside each other, prints what each says, and fails with all that failed.
async fn all<T>(jobs: impl Iterator<Item = T>)
where
    T: Future<Output = Result<String>>,
{
    let lanes =
        LANES.get_or_init(async || Semaphore::new(usize::try_from(number("LANES").unwrap_or(32)).unwrap())).await;
    let one = async |job: T| {
        let _held = lanes.acquire().await?;
        job.await
    };
    let mut failures = Vec::new();
    let mut results = stream::iter(jobs).map(one).buffer_unordered(1000);
    while let Some(result) = results.next().await {
        match result {
            Ok(line) => println!("{line}"),
            Err(error) => {
                println!("FAILED {error:#}");
                failures.push(format!("{error:#}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// One flow with one plan; gives the picture of its end, and a line.
async fn run(flow: Flow, first: Want, word: &str, plan: Plan) -> Result<(Vec<String>, String)> {
    let name = format!("{flow:?}-{}-{word}", first.control_plane).to_lowercase();
    let start = Instant::now();
    let lane = lane(&name, plan, &[]).await?;
    let picture = story(&lane, flow, first).await?;
    let (kills, writes) = (lane.kills(), lane.proxy.seen(|seen| seen.writes.len()));
    let effects = lane.proxy.plan().met();
    ensure!(word == "calm" || effects >= fewest(flow), "{name}: {effects} side effects, {} at least", fewest(flow));
    let idle = lane.proxy.seen(|seen| std::mem::take(&mut seen.idle));
    ensure!(idle.is_empty(), "{name}: statuses were written that changed nothing: {idle:#?}");
    let took = start.elapsed().as_secs();
    let said = format!("{name}: {effects} different side effects met, {kills} kills, {writes} writes, {took} s");
    Ok((anonymous(&picture, &name), said))
}

/// Where a flow has fewer side effects than these, the harness doesn't see them or tell them apart any more.
fn fewest(flow: Flow) -> usize {
    match flow {
        Flow::Create | Flow::Grow => 25,
        Flow::Drain | Flow::Roll => 20,
        Flow::Recover | Flow::Refuse | Flow::Replace | Flow::Scale => 12,
        Flow::Delete | Flow::RollBack => 8,
    }
}

/// Whether a flow ends the same when the process dies on these sides of each side effect.
async fn ends_the_same(flow: Flow, first: Want, sides: &[Side]) -> Result<String> {
    let word = |side: &Side| format!("{side:?}").to_lowercase();
    let killed = sides.iter().map(async |side| run(flow, first, &word(side), Plan::every(*side)).await);
    let (calm, killed) = futures::join!(run(flow, first, "calm", Plan::calm()), join_all(killed));
    let (calm, mut said) = calm?;
    for (side, run) in sides.iter().zip(killed) {
        let (end, line) = run?;
        same(&format!("{flow:?} of {first:?}, killed {} each side effect", word(side)), &calm, &end)?;
        said = format!("{said}\n{line}");
    }
    Ok(said)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_side_effect_of_any_flow_changes_nothing_about_the_end() {
    let small = FLOWS.map(|flow| (flow, SMALL, &[Side::Before, Side::After][..]));
    let large = [(Flow::Grow, SMALL), (Flow::Recover, LARGE), (Flow::Roll, LARGE)];
    let large = large.map(|(flow, first)| (flow, first, &[Side::After][..]));
    let named = |flow: &Flow| env::var("FLOW").map_or(true, |name| name == format!("{flow:?}"));
    let wanted = small.into_iter().chain(large).filter(|(flow, ..)| named(flow));
    all(wanted.map(|(flow, first, sides)| ends_the_same(flow, first, sides))).await;
}

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
        let lane = lane(&name, Plan::calm(), &[]).await?;
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
    let count = |lane: &Lane| lane.proxy.seen(|seen| seen.writes.len());
    let end = count(lane) + writes;
    tokio::select! {
        ended = flow.run(lane, first) => ended.map(drop),
        reached = lane.until("the moment of the deletion", LONG, async |lane| Ok(count(lane) >= end)) => reached,
    }
}

/// One schedule: a cluster is made, changed and deleted, at the end or in the middle, while things go wrong.
async fn schedule(seed: u64) -> Result<String> {
    let start = Instant::now();
    let mut rng = fastrand::Rng::with_seed(seed);
    let plan = Plan::drawn(&mut rng, 120);
    let name = format!("seed-{seed}");
    let lane = lane(&name, plan, &["--sweep-seconds", "3", "--relist-seconds", "10"]).await?;
    let want = Want { workers: rng.usize(1..=2), ..SMALL };
    let changes = FLOWS.len() - 1;
    let flow = rng.choice(&FLOWS[..changes]).copied().context("not empty")?;
    let deletion = rng.choice([Deletion::AtTheEnd, Deletion::DuringChange, Deletion::DuringCreation]);
    let deletion = deletion.context("not empty")?;
    // Machines that vanish are told by the same script.
    let scripted = deletion != Deletion::DuringCreation && [Flow::Recover, Flow::Replace].contains(&flow);
    let hidden = rng.u8(..4) == 0 && !scripted;
    let (shown_after, deleted_after) = (Duration::from_millis(rng.u64(1000..6000)), rng.usize(1..60));
    lane.proxy.plan().arm();
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
    let faults = lane.proxy.plan().done().len();
    let mut all = FAULTS.lock().unwrap();
    for (kind, count) in lane.proxy.plan().tally() {
        *all.entry(kind).or_default() += count;
    }
    Ok(format!("{what}: {faults} faults, {} kills, {} s", lane.kills(), start.elapsed().as_secs()))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_by_chance_the_end_is_as_wanted_and_nothing_is_left() {
    let mut rng = fastrand::Rng::new();
    let seeds: Vec<u64> = if let Some(seed) = number("SEED") {
        vec![seed]
    } else {
        (0..number("SCHEDULES").unwrap_or(200)).map(|_| rng.u64(..1_000_000_000)).collect()
    };
    all(seeds.into_iter().map(schedule)).await;
    println!("what went wrong, and how often: {:#?}", FAULTS.lock().unwrap());
}
