//! Attestation keys with one attribute wrong and nothing else: of genuine TPMs, and of one that makes any key.

use constellation_attestation::{
    binding::VerifierRole,
    dsse,
    policy::TRUST_POLICY_TYPE,
    protocol::{Purpose, Role, Ticket},
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

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_a_genuine_tpm_that_signs_anything_or_can_leave_it_is_refused_for_that_alone() {
    let (scene, first) = Scene::with_worker("genuine-keys").await.unwrap();
    let good = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign";
    for (name, attributes) in [
        ("signs-anything", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign"),
        // A TPM makes no key that has one of the two and not the other.
        ("can-leave", "sensitivedataorigin|userwithauth|noda|restricted|sign"),
    ] {
        let launch = scene.launch(name, Role::Worker);
        scene.announce(&launch).await.unwrap();
        let mut machine = Machine::boot_like(&first, &launch).unwrap().with_key(attributes).unwrap();
        let id = refusal(machine.join(scene.verifier).await);
        scene.assert_told(&launch.node_uid, &id, &["tpm.ak.attributes"]).await;
    }
    first.with_key(good).unwrap().join(scene.verifier).await.unwrap();
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
        let launch = scene.launch(name, Role::Worker);
        scene.announce(&launch).await.unwrap();
        let mut machine = Machine::boot_like(&first, &launch).unwrap();
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
            scene.assert_told(&launch.node_uid, &id, &["tpm.ak.attributes"]).await;
        } else {
            let (verdict, binding) = result.unwrap();
            session::unseal::<Ticket>(&verdict, &binding, &machine.secrets.opener).unwrap();
        }
    }
}
