//! The owner key and the master secret: lost, spoilt, of another kind, or of another cluster.

use constellation_attestation::owner::SigningKey;
use constellation_crds::{ConstellationCluster, condition::reason};
use constellation_tests::faults::flow::{LONG, SMALL};
use k8s_openapi::api::core::v1::Secret;
use kube::api::DeleteParams;
use rcgen::KeyPair;
use serde_json::json;

use super::{change, end, end_without, lane, secret, told};

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_key_that_is_lost_or_another_is_asked_for_and_never_made_anew() {
    let lane = lane("owner-key").await;
    lane.create(SMALL).await.unwrap();
    lane.settled(SMALL, LONG).await.unwrap();
    let name = "owner-key-owner-key";
    let secrets = lane.api::<Secret>();
    let kept = secrets.get(name).await.unwrap().data.unwrap().remove("key.pem").unwrap().0;
    secrets.delete(name, &DeleteParams::default()).await.unwrap();
    // Something must happen, or a calm cluster looks once a minute only.
    change::<ConstellationCluster>(&lane, json!({"rollout": {"maxSurge": 2}})).await;
    told(&lane, reason::SECRET_NOT_FOUND, "restore it").await;
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().serialize_pem();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
    let other = SigningKey::generate().unwrap().to_pkcs8_pem().to_string();
    let (no_key, another) = ("holds no P-256 key under `key.pem`", "holds another key than the one that the cluster");
    let (rsa, p384, other) = (rsa.as_str(), p384.as_str(), other.as_str());
    // In turns, so that each is told anew.
    for (spoilt, words) in [("no key", no_key), (other, another), (rsa, no_key), (other, another), (p384, no_key)] {
        secret(&lane, name, "key.pem", spoilt.as_bytes()).await.unwrap();
        told(&lane, reason::SECRET_INVALID, words).await;
    }
    secret(&lane, name, "key.pem", &kept).await.unwrap();
    lane.settled(SMALL, LONG).await.unwrap();
    lane.one_machine_per_node().unwrap();
    end_without(&lane, name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_an_earlier_cluster_of_the_name_are_not_used_and_made_anew_when_they_are_out_of_the_way() {
    let lane = lane("earlier").await;
    let (owner_key, master) = ("earlier-owner-key", "earlier-master-secret");
    let key = SigningKey::generate().unwrap().to_pkcs8_pem();
    secret(&lane, owner_key, "key.pem", key.as_bytes()).await.unwrap();
    secret(&lane, master, "secret", &[7; 32]).await.unwrap();
    lane.create(SMALL).await.unwrap();
    for name in [owner_key, master] {
        told(&lane, reason::SECRET_INVALID, &format!("Secret {name} is of an earlier cluster of this name")).await;
        lane.api::<Secret>().delete(name, &DeleteParams::default()).await.unwrap();
    }
    lane.settled(SMALL, LONG).await.unwrap();
    end(&lane).await;
}
