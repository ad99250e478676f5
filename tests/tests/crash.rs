//! Every flow, with the operator's process killed at every side effect, and with faults drawn from a seed.
//!
//! Needs the program: `cargo build -p constellation-operator`. `FLOW=Roll` runs one flow, `SEED=7` one schedule,
//! `SCHEDULES=5000` more of them, `LANES=4` fewer at a time.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

#[path = "crash/deleted.rs"]
mod deleted;
#[path = "crash/schedules.rs"]
mod schedules;

use std::{collections::BTreeSet, env, path::PathBuf, sync::Mutex, time::Instant};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_attestation::keys;
use constellation_tests::faults::{
    flow::{CHANGES, Flow, LARGE, OTHERS, SMALL, anonymous, same, story},
    lane::{Lane, Setting, Want},
    management, picture,
    plan::{Plan, Side},
    steps,
    vault::{self, Vault},
};
use futures::{StreamExt as _, future::join_all, stream};
use tokio::sync::{OnceCell, Semaphore};

/// Lanes at a time: each waits most of the time, and takes 30 MB.
static LANES: OnceCell<Semaphore> = OnceCell::const_new();

/// Steps that were carried out where the process was killed at every side effect.
static STEPS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A node is made with its finalizer, and gets it again only where a person took it away.
const OF_PEOPLE: &str = "node: AddFinalizer";

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("crash")
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Whether a flow is to be run: all are, unless one is named.
fn is_wanted(flow: Flow) -> bool {
    env::var("FLOW").map_or(true, |name| name == format!("{flow:?}"))
}

async fn lane_in(setting: Setting, name: &str, plan: Plan, arguments: &[&str]) -> Result<Lane> {
    let config = management(&dir().join("plane")).await?;
    Lane::start_in(setting, config, &dir().join("lanes"), name, plan, arguments).await
}

/// A lane for a flow, and the Vault that it needs.
async fn lane_of(flow: Flow, name: &str, plan: Plan) -> Result<(Lane, Option<Vault>)> {
    let vault = if flow == Flow::Rewrap { Some(Vault::start().await?) } else { None };
    let setting = Setting { custody: vault.as_ref().map(Vault::custody), ..Setting::default() };
    // What is left running must outlast sweeps.
    let arguments: &[&str] = if flow == Flow::Orphan { &["--sweep-seconds", "1"] } else { &[] };
    Ok((lane_in(setting, name, plan, arguments).await?, vault))
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
    let (lane, vault) = lane_of(flow, &name, plan).await?;
    let picture = story(&lane, flow, first).await?;
    if let Some(vault) = &vault {
        opens(&lane, vault).await?;
    }
    if word != "calm" {
        STEPS.lock().unwrap().extend(lane.steps());
    }
    let (kills, writes) = (lane.kills(), lane.proxy.seen(|seen| seen.writes.len()));
    let effects = lane.proxy.plan().met();
    ensure!(word == "calm" || effects >= fewest(flow), "{name}: {effects} side effects, {} at least", fewest(flow));
    let idle = lane.proxy.seen(|seen| std::mem::take(&mut seen.idle));
    ensure!(idle.is_empty(), "{name}: statuses were written that changed nothing: {idle:#?}");
    let took = start.elapsed().as_secs();
    let said = format!("{name}: {effects} different side effects met, {kills} kills, {writes} writes, {took} s");
    Ok((anonymous(&picture, &name), said))
}

/// Checks that the master secret is the cluster's, wrapped by the key that was named last.
async fn opens(lane: &Lane, vault: &Vault) -> Result<()> {
    let secrets = picture::secrets(lane).await?;
    let master = secrets.get(&format!("{}-master-secret", lane.name)).context("no master secret")?;
    let (key, secret) = vault.open(&vault::ciphertext(master)?).context("the Vault never gave that")?;
    let secret = STANDARD.decode(secret.as_str().unwrap_or_default())?;
    let of = keys::derive(&secret, keys::CLUSTER_ID);
    let stored = master.get("clusterID").map(|id| id.0.as_slice());
    ensure!((key.as_str(), Some(of.as_slice())) == (vault::NEW, stored), "{}: another secret, by {key}", lane.name);
    Ok(())
}

/// Where a flow has fewer side effects than these, the harness doesn't see them or tell them apart any more.
fn fewest(flow: Flow) -> usize {
    match flow {
        Flow::Create | Flow::Grow => 25,
        Flow::Drain | Flow::Roll => 20,
        Flow::Expel | Flow::Recover | Flow::Refuse | Flow::Replace | Flow::Scale => 12,
        Flow::Delete | Flow::DropGroup | Flow::RollBack => 8,
        Flow::Distrust | Flow::Orphan => 5,
        Flow::Rewrap => 1,
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
    let small = CHANGES.into_iter().chain(OTHERS).map(|flow| (flow, SMALL, &[Side::Before, Side::After][..]));
    let large = [(Flow::Grow, SMALL), (Flow::Recover, LARGE), (Flow::Roll, LARGE)];
    let large = large.map(|(flow, first)| (flow, first, &[Side::After][..]));
    let wanted = small.chain(large).filter(|(flow, ..)| is_wanted(*flow));
    all(wanted.map(|(flow, first, sides)| ends_the_same(flow, first, sides))).await;
    if env::var("FLOW").is_err() {
        let (there, mut met) = (steps::all(), STEPS.lock().unwrap().clone());
        // The process is killed at those in `conversations.rs`. A simulated node leaves without a word.
        let elsewhere = steps::OF_TALKS.into_iter().chain([OF_PEOPLE]).map(str::to_owned).collect();
        met.remove(steps::LEAVE);
        let missed: BTreeSet<_> = there.difference(&met).cloned().collect();
        assert_eq!(missed, elsewhere, "steps that were not carried out in any of these flows");
    }
}
