//! Every flow, with the operator's process killed at every side effect, and with faults drawn from a seed.
//!
//! Needs the program: `cargo build -p constellation-operator`. `FLOW=Roll` runs one flow, `SEED=7` one schedule,
//! `SCHEDULES=5000` more of them, `LANES=4` fewer at a time.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

use std::{
    env,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use constellation_tests::faults::{
    flow::{FLOWS, Flow, LONG, SMALL, anonymous, same, story},
    lane::{Lane, Want},
    management,
    plan::{Plan, Side},
};
use futures::{StreamExt as _, stream};
use serde_json::json;
use tokio::sync::{OnceCell, Semaphore};

/// Lanes at a time: each waits most of the time, and takes 30 MB.
static LANES: OnceCell<Semaphore> = OnceCell::const_new();

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
async fn run(flow: Flow, word: &str, plan: Plan) -> Result<(Vec<String>, String)> {
    let name = format!("{flow:?}-{word}").to_lowercase();
    let start = Instant::now();
    let lane = lane(&name, plan, &[]).await?;
    let picture = story(&lane, flow).await?;
    let (kills, writes) = (lane.kills(), lane.proxy.seen(|seen| seen.writes.len()));
    let said = format!("{name}: {kills} kills, {writes} writes, {} s", start.elapsed().as_secs());
    Ok((anonymous(&picture, &name), said))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_side_effect_of_any_flow_changes_nothing_about_the_end() {
    let wanted = FLOWS.into_iter().filter(|flow| env::var("FLOW").map_or(true, |name| name == format!("{flow:?}")));
    all(wanted.map(|flow| async move {
        let (calm, before, after) = futures::join!(
            run(flow, "calm", Plan::calm()),
            run(flow, "before", Plan::every(Side::Before)),
            run(flow, "after", Plan::every(Side::After))
        );
        let (calm, before, after) = (calm?, before?, after?);
        same(&format!("{flow:?}, killed before each side effect"), &calm.0, &before.0)?;
        same(&format!("{flow:?}, killed after each side effect"), &calm.0, &after.0)?;
        Ok([calm.1, before.1, after.1].join("\n"))
    }))
    .await;
}

/// One schedule: a cluster is made, changed and deleted, or deleted before that, while things go wrong.
async fn schedule(seed: u64) -> Result<String> {
    let start = Instant::now();
    let mut rng = fastrand::Rng::with_seed(seed);
    let plan = Plan::drawn(&mut rng, 120);
    let name = format!("seed-{seed}");
    let lane = lane(&name, plan, &["--sweep-seconds", "3"]).await?;
    let want = Want { workers: rng.usize(1..=2), ..SMALL };
    let flow = rng.choice([Flow::Create, Flow::Create, Flow::Scale, Flow::Replace, Flow::Roll]).context("not empty")?;
    let hidden = rng.u8(..4) == 0;
    let (shown_after, deleted_after) = (Duration::from_millis(rng.u64(1000..6000)), rng.usize(1..60));
    let early = rng.u8(..3) == 0;
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
        if early {
            lane.create(want).await?;
            lane.until("the moment of the deletion", LONG, async |lane| {
                Ok(lane.proxy.seen(|seen| seen.writes.len()) >= deleted_after || lane.is(want).await?)
            })
            .await?;
        } else {
            Flow::Create.run(&lane, want).await?;
            if flow != Flow::Create {
                flow.run(&lane, want).await?;
            }
        }
        Flow::Delete.run(&lane, want).await
    };
    let done = futures::try_join!(story, show);
    let what = format!("SEED={seed}: {} workers, {flow:?}, hidden {hidden}, deleted early {early}", want.workers);
    done.with_context(|| what.clone())?;
    let faults = lane.proxy.plan().done().len();
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
}
