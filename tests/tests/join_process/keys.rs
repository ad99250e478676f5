//! Attestation keys with one attribute wrong and nothing else: of genuine TPMs, and of one that makes any key.

use constellation_attestation::{
    binding::VerifierRole,
    dsse,
    policy::TRUST_POLICY_TYPE,
    protocol::{Purpose, Role, Ticket, Verdict},
    session,
};

use crate::{
    attacks::{endorsement, given_maker},
    hostile::{dressed_up, software_key},
    machine::Machine,
    refusal,
    scene::{Scene, policy},
    soft_tpm::{Endorsement, SoftTpm},
};

/// Where `objectAttributes` begins in a `TPM2B_PUBLIC`: after its length, type and name algorithm (TPM 2.0 Library,
/// Part 2, 12.2.4).
const ATTRIBUTES: usize = 6;
/// What an attestation key has, in tpm2-tools' words.
const GOOD: &str = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign";

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_a_genuine_tpm_that_signs_anything_or_can_leave_it_is_refused_for_that_alone() {
    let (scene, first) = Scene::with_worker("genuine-keys").await.unwrap();
    for (name, attributes) in [
        ("signs-anything", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign"),
        // A TPM makes no key that has one of the two and not the other.
        ("can-leave", "sensitivedataorigin|userwithauth|noda|restricted|sign"),
    ] {
        let mut machine = scene.worker_like(&first, name).await.unwrap().with_key("ecdsa-sha256", attributes).unwrap();
        let id = refusal(machine.join(scene.verifier).await);
        scene.assert_told(&machine.launch.node_uid, &id, &["tpm.ak.attributes"]).await;
    }
    first.with_key("ecdsa-sha256", GOOD).unwrap().join(scene.verifier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_genuine_key_quotes_with_another_hash_or_of_another_bank_is_refused() {
    let (scene, first) = Scene::with_worker("hashes").await.unwrap();
    // The digest over the registers is made with the signature's hash, so one that isn't known proves no values either.
    let another_hash = ["tpm.signature", "tpm.quote.digest"].as_slice();
    for (name, hash, bank, expected) in [
        ("sha-1", "sha1", "sha256", another_hash),
        ("sha-384", "sha384", "sha256", another_hash),
        ("bank-of-sha-384", "sha256", "sha384", &["tpm.quote.selection", "tpm.quote.digest"]),
        ("nothing", "sha256", "sha256", &[]),
    ] {
        let scheme = format!("ecdsa-{hash}");
        let mut machine = scene.worker_like(&first, name).await.unwrap().with_key(&scheme, GOOD).unwrap();
        let hello = machine.hello(Purpose::Join).unwrap();
        let mut channel = machine.connect(scene.verifier).await.unwrap();
        channel.send(&hello).await.unwrap();
        let mut tpm = machine.by_hand(bank, hash);
        let result = session::prove(&mut channel, &hello, VerifierRole::Cluster, &mut tpm).await;
        if expected.is_empty() {
            assert!(matches!(result, Ok((Verdict::Sealed { .. }, _))));
        } else {
            let id = refusal(result.map(|_| panic!("{name}: accepted")));
            scene.assert_told(&hello.node_uid, &id, expected).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attribute_of_an_attestation_key_is_demanded() {
    let scene = Scene::start("attributes", &[]).await.unwrap();
    let first = Machine::boot(&scene.launch("first", Role::Worker)).unwrap();
    let (root, maker) = given_maker();
    let (endorsed, pair) = (Endorsement::generate(), software_key());
    let certificate = endorsement(&maker, &endorsed.spki(), 2020, 2090);
    let mut trusted = policy(1, &[]).unwrap();
    trusted.endorsement_roots = vec![root];
    scene.publish(&dsse::sign(TRUST_POLICY_TYPE, &serde_json::to_vec(&trusted).unwrap(), &scene.owner)).await.unwrap();
    // Bits of `TPMA_OBJECT` (Part 2, 8.3).
    for (name, bit) in [
        ("fixed-tpm", Some(1)),
        ("fixed-parent", Some(4)),
        ("sensitive-data-origin", Some(5)),
        ("restricted", Some(16)),
        ("decrypt", Some(17)),
        ("sign", Some(18)),
        ("nothing", None),
    ] {
        let mut machine = scene.worker_like(&first, name).await.unwrap();
        let mut hello = machine.hello(Purpose::Join).unwrap();
        hello.ek_certificate.clone_from(&certificate);
        hello.ek_public = endorsed.public();
        hello.ak_public = dressed_up(&hello.ak_public, &pair);
        if let Some(bit) = bit {
            let place: &mut [u8; 4] = hello.ak_public[ATTRIBUTES..].first_chunk_mut().unwrap();
            *place = (u32::from_be_bytes(*place) ^ 1 << bit).to_be_bytes();
        }
        let mut channel = machine.connect(scene.verifier).await.unwrap();
        channel.send(&hello).await.unwrap();
        let ak_public = &hello.ak_public;
        let mut tpm = SoftTpm { endorsement: &endorsed, pair: &pair, ak_public, tpm: &mut machine.tpm };
        let result = session::prove(&mut channel, &hello, VerifierRole::Cluster, &mut tpm).await;
        if bit.is_some() {
            let id = refusal(result.map(|_| panic!("{name}: accepted")));
            scene.assert_told(&hello.node_uid, &id, &["tpm.ak.attributes"]).await;
        } else {
            let (verdict, binding) = result.unwrap();
            session::unseal::<Ticket>(&verdict, &binding, &machine.secrets.opener).unwrap();
        }
    }
}
