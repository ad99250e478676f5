//! An operator whose clock is years off.

use constellation_attestation::{dsse, owner, policy::MANIFEST_TYPE};
use constellation_crds::{ConfidentialNode, ConstellationCluster, NodeVersion, condition::reason};
use constellation_tests::{
    clock::Clock,
    faults::{
        flow::{LONG, SMALL},
        lane::{Lane, Setting},
    },
};
use jiff::{Timestamp, ToSpan as _};
use serde_json::json;

use super::{change, end, lane_in, manifest, publish, told, told_of};

async fn uids(lane: &Lane) -> Vec<Option<String>> {
    lane.list::<ConfidentialNode>().await.unwrap().into_iter().map(|node| node.metadata.uid).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_whose_clock_is_years_off_says_so_ends_no_node_and_goes_on_when_it_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::start(folder.path()).unwrap();
    let lane = lane_in(Setting { environment: clock.environment().unwrap(), ..Setting::default() }, "clock").await;
    let publisher = owner::SigningKey::generate().unwrap();
    let in_a_year = (Timestamp::now() + (365 * 24).hours()).to_string();
    let release =
        |revision| dsse::sign(MANIFEST_TYPE, &manifest(revision, Some(("expires", json!(in_a_year)))), &publisher);
    publish(&lane, &release(1)).await;
    lane.create(SMALL).await.unwrap();
    let signed = json!({"configMap": "m", "publicKey": owner::spki_to_pem(&publisher.public_spki())});
    change::<NodeVersion>(&lane, json!({"measurements": {"inline": null, "signed": signed}})).await;
    lane.settled(SMALL, LONG).await.unwrap();
    let nodes = uids(&lane).await;

    clock.set("-2y").unwrap();
    // Something must happen, or a calm cluster looks once a minute only.
    change::<ConstellationCluster>(&lane, json!({"rollout": {"maxSurge": 2}})).await;
    told(&lane, reason::CLOCK_WRONG, "set the clock of the operator's machine").await;
    clock.set("+0").unwrap();
    lane.settled(SMALL, LONG).await.unwrap();

    clock.set("+2y").unwrap();
    publish(&lane, &release(2)).await;
    told_of::<NodeVersion>(&lane, &lane.name, reason::MANIFEST_TOO_OLD, "or set the clock if that day is yet to come")
        .await;
    told(&lane, reason::NODE_VERSION_NOT_READY, "or set the clock if that day is yet to come").await;
    clock.set("+0").unwrap();
    // A version whose manifest nobody changes is looked at each hour.
    lane.restart();
    lane.settled(SMALL, LONG).await.unwrap();
    assert_eq!(uids(&lane).await, nodes);
    lane.one_machine_per_node().unwrap();
    end(&lane).await;
}
