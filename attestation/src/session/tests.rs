//! Whole conversations between two ends of a pipe, with a TPM in software. Time is paused, so that an end that fails leaves the other
//! one waiting for no time at all.

use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::{
    boot::BootSecrets,
    channel::{Identity, node_accept, node_connect, verifier_accept, verifier_connect},
    credential::tests::{SoftEk, some_ak},
    owner::SigningKey,
    protocol::RecoverKey,
};

/// Opens credentials as a TPM does; its quote is just the binding.
struct SoftTpm {
    ek: SoftEk,
    ak: Vec<u8>,
}

impl Attester for SoftTpm {
    fn activate(&mut self, credential: &[u8], secret: &[u8]) -> Result<Vec<u8>, BoxError> {
        self.ek.activate(&self.ak, credential, secret).ok_or_else(|| "integrity".into())
    }

    fn evidence(&mut self, binding: &[u8; 32], activated: Vec<u8>) -> Result<Evidence, BoxError> {
        let quote = binding.to_vec();
        Ok(Evidence { quote, signature: vec![1], pcrs: vec![0; 512], event_log: vec![], activated, machine: None })
    }
}

struct World {
    owner: SigningKey,
    boot: BootSecrets,
    tpm: SoftTpm,
    hello: Hello,
}

fn world(purpose: Purpose) -> World {
    let boot = BootSecrets::generate().unwrap();
    let tpm = SoftTpm { ek: SoftEk::ecc(), ak: some_ak(1) };
    let hello = Hello {
        purpose,
        node_uid: "node-uid".into(),
        cluster_uid: "cluster-uid".into(),
        address: "10.77.0.11:9000".into(),
        keys: boot.keys(),
        ek_certificate: vec![1],
        ek_public: tpm.ek.public(),
        ak_public: tpm.ak.clone(),
    };
    World { owner: SigningKey::generate().unwrap(), boot, tpm, hello }
}

fn secret() -> RecoverKey {
    RecoverKey { disk_key: vec![3; 32], cluster_id: vec![4; 32] }
}

type Ends = (Channel<DuplexStream>, Channel<DuplexStream>);

async fn owner_calls(world: &World) -> Ends {
    let (left, right) = duplex(64 * 1024);
    let (caller, owner) = (Identity::owner_client(&world.owner).unwrap(), world.owner.public_spki());
    let (ours, nodes) = tokio::join!(verifier_connect(left, &caller), node_accept(right, &world.boot.identity, &owner));
    (ours.unwrap(), nodes.unwrap())
}

async fn node_joins(world: &World) -> Ends {
    node_joins_at(world, &server(world)).await
}

fn server(world: &World) -> Identity {
    let (certificate, key) = Identity::issue_verifier_ca(&world.owner).unwrap();
    Identity::verifier(&certificate, &key).unwrap()
}

async fn node_joins_at(world: &World, server: &Identity) -> Ends {
    let ((left, right), owner) = (duplex(64 * 1024), world.owner.public_spki());
    let (nodes, ours) = tokio::join!(node_connect(left, &world.boot.identity, &owner), verifier_accept(right, server));
    (ours.unwrap(), nodes.unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_owner_hands_a_node_its_secret() {
    let mut world = world(Purpose::Recover);
    let (mut ours, mut nodes) = owner_calls(&world).await;
    let verifier = async {
        let hello = ask(&mut ours, Purpose::Recover).await.unwrap();
        let proof = challenge(&mut ours, hello, VerifierRole::Owner, 7, Platform::QemuVtpm).await.unwrap();
        assert_eq!(proof.evidence.quote, proof.binding);
        assert_eq!(proof.evidence.activated, *proof.credential_secret);
        grant(&mut ours, &proof, &secret()).await.unwrap();
    };
    let node = async {
        assert_eq!(nodes.receive::<Request>().await.unwrap().purpose, Purpose::Recover);
        nodes.send(&world.hello).await.unwrap();
        prove(&mut nodes, &world.hello, VerifierRole::Owner, &mut world.tpm).await.unwrap()
    };
    let ((), (verdict, binding)) = tokio::join!(verifier, node);
    assert!(unseal::<RecoverKey>(&verdict, &binding, &world.boot.opener).unwrap() == secret());
    // Neither in another conversation nor for another boot.
    assert!(unseal::<RecoverKey>(&verdict, &[0; 32], &world.boot.opener).is_err());
    let other = BootSecrets::generate().unwrap();
    assert!(unseal::<RecoverKey>(&verdict, &binding, &other.opener).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_refused_node_learns_an_id_and_no_more() {
    let mut world = world(Purpose::Join);
    let (mut ours, mut nodes) = node_joins(&world).await;
    let verifier = async {
        let hello: Hello = ours.receive().await.unwrap();
        challenge(&mut ours, hello, VerifierRole::Cluster, 1, Platform::QemuVtpm).await.unwrap();
        refuse(&mut ours, "refusal-1").await.unwrap();
    };
    let node = async {
        nodes.send(&world.hello).await.unwrap();
        prove(&mut nodes, &world.hello, VerifierRole::Cluster, &mut world.tpm).await.map(drop)
    };
    let ((), error) = tokio::join!(verifier, node);
    assert!(matches!(error, Err(Error::Refused { id }) if id == "refusal-1"));
}

#[tokio::test(start_paused = true)]
async fn reattestation_ends_with_a_plain_yes_that_holds_no_secret() {
    let mut world = world(Purpose::Reattest);
    let (mut ours, mut nodes) = owner_calls(&world).await;
    let verifier = async {
        let hello = ask(&mut ours, Purpose::Reattest).await.unwrap();
        challenge(&mut ours, hello, VerifierRole::Cluster, 1, Platform::QemuVtpm).await.unwrap();
        accept(&mut ours).await.unwrap();
    };
    let node = async {
        nodes.receive::<Request>().await.unwrap();
        nodes.send(&world.hello).await.unwrap();
        prove(&mut nodes, &world.hello, VerifierRole::Cluster, &mut world.tpm).await.unwrap()
    };
    let ((), (verdict, binding)) = tokio::join!(verifier, node);
    assert_eq!(verdict, Verdict::Accepted {});
    assert!(matches!(unseal::<RecoverKey>(&verdict, &binding, &world.boot.opener), Err(Error::NoSecret)));
}

#[test]
fn what_must_be_new_is_new() {
    let drawn: std::collections::BTreeSet<_> = (0..100).map(|_| *random::<32>().unwrap()).collect();
    assert_eq!(drawn.len(), 100);
}

/// The bindings that both sides compute, with the node's view of the conversation altered.
async fn bindings(node_role: VerifierRole, alter: impl FnOnce(&mut Hello)) -> (Vec<u8>, [u8; 32]) {
    let mut world = world(Purpose::Join);
    let (mut ours, mut nodes) = node_joins(&world).await;
    let mut believed = world.hello.clone();
    alter(&mut believed);
    let verifier = async {
        let hello: Hello = ours.receive().await.unwrap();
        let proof = challenge(&mut ours, hello, VerifierRole::Cluster, 1, Platform::QemuVtpm).await.unwrap();
        accept(&mut ours).await.unwrap();
        (proof.evidence.quote, proof.binding)
    };
    let node = async {
        nodes.send(&world.hello).await.unwrap();
        prove(&mut nodes, &believed, node_role, &mut world.tpm).await.unwrap();
    };
    tokio::join!(verifier, node).0
}

#[tokio::test(start_paused = true)]
async fn evidence_for_another_conversation_has_another_binding() {
    let (shown, expected) = bindings(VerifierRole::Cluster, |_| ()).await;
    assert_eq!(shown, expected);
    let (shown, expected) = bindings(VerifierRole::Owner, |_| ()).await;
    assert_ne!(shown, expected);
    let alterations: [fn(&mut Hello); 9] = [
        |hello| hello.purpose = Purpose::Init,
        |hello| hello.purpose = Purpose::Leave,
        |hello| hello.purpose = Purpose::Reattest,
        |hello| hello.purpose = Purpose::Recover,
        |hello| hello.node_uid.push('x'),
        |hello| hello.cluster_uid.push('x'),
        |hello| hello.keys.csr.push(0),
        |hello| hello.keys.encryption = vec![1; 32],
        |hello| hello.keys.wireguard = vec![1; 32],
    ];
    for alter in alterations {
        let (shown, expected) = bindings(VerifierRole::Cluster, alter).await;
        assert_ne!(shown, expected);
    }
}

/// Both keys are the same on both connections, and so is all that is said: only the exporter tells them apart.
#[tokio::test(start_paused = true)]
async fn evidence_through_a_middle_man_who_holds_both_tls_keys_has_another_binding() {
    let mut world = world(Purpose::Join);
    let server = server(&world);
    let (mut ours, mut as_node) = node_joins_at(&world, &server).await;
    let (mut as_verifier, mut nodes) = node_joins_at(&world, &server).await;
    assert_eq!((ours.local_spki(), ours.peer_spki()), (as_verifier.local_spki(), as_verifier.peer_spki()));
    let verifier = async {
        let hello: Hello = ours.receive().await.unwrap();
        let proof = challenge(&mut ours, hello, VerifierRole::Cluster, 1, Platform::QemuVtpm).await.unwrap();
        accept(&mut ours).await.unwrap();
        (proof.evidence.quote, proof.binding)
    };
    let middle = async {
        as_node.send(&as_verifier.receive::<Hello>().await.unwrap()).await.unwrap();
        as_verifier.send(&as_node.receive::<Challenge>().await.unwrap()).await.unwrap();
        as_node.send(&as_verifier.receive::<Evidence>().await.unwrap()).await.unwrap();
        as_verifier.send(&as_node.receive::<Verdict>().await.unwrap()).await.unwrap();
    };
    let node = async {
        nodes.send(&world.hello).await.unwrap();
        prove(&mut nodes, &world.hello, VerifierRole::Cluster, &mut world.tpm).await.unwrap();
    };
    let ((shown, expected), (), ()) = tokio::join!(verifier, middle, node);
    assert_ne!(shown, expected);
}

#[tokio::test(start_paused = true)]
async fn a_hello_with_one_wrong_shape_is_refused_before_the_challenge() {
    let alterations: [fn(&mut Hello); 9] = [
        |hello| hello.node_uid.clear(),
        |hello| hello.cluster_uid = "x".repeat(UID_MAX + 1),
        |hello| hello.address = "x".repeat(ADDRESS_MAX + 1),
        |hello| hello.keys.csr.clear(),
        |hello| hello.keys.encryption.push(0),
        |hello| hello.keys.wireguard.truncate(31),
        |hello| hello.ek_certificate.clear(),
        |hello| hello.ek_public = vec![0; PUBLIC_MAX + 1],
        |hello| hello.ak_public.clear(),
    ];
    let world = world(Purpose::Join);
    let (mut ours, _nodes) = node_joins(&world).await;
    for alter in alterations {
        let mut hello = world.hello.clone();
        alter(&mut hello);
        let refused = challenge(&mut ours, hello, VerifierRole::Cluster, 1, Platform::QemuVtpm).await;
        assert!(matches!(refused, Err(Error::Hello(_))));
    }
    let hello = Hello { ek_public: vec![0, 1, 0], ..world.hello.clone() };
    assert!(matches!(
        challenge(&mut ours, hello, VerifierRole::Cluster, 1, Platform::QemuVtpm).await,
        Err(Error::Credential(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn an_endorsement_key_is_there_exactly_where_the_verifiers_platform_has_one() {
    let mut world = world(Purpose::Join);
    let named = world.hello.clone();
    let unnamed = Hello { ek_certificate: vec![], ek_public: vec![], ..named.clone() };
    for platform in Platform::ALL {
        let (mut ours, mut nodes) = node_joins(&world).await;
        let (good, wrong) = if platform.has_endorsement_key() { (&named, &unnamed) } else { (&unnamed, &named) };
        let refused = challenge(&mut ours, wrong.clone(), VerifierRole::Cluster, 1, platform).await;
        assert!(matches!(refused, Err(Error::Hello("endorsement key certificate"))), "{platform}");
        let half = Hello { ek_public: wrong.ek_public.clone(), ..good.clone() };
        let refused = challenge(&mut ours, half, VerifierRole::Cluster, 1, platform).await;
        assert!(matches!(refused, Err(Error::Hello("endorsement key"))), "{platform}");

        let verifier = async {
            let proof = challenge(&mut ours, good.clone(), VerifierRole::Cluster, 1, platform).await.unwrap();
            accept(&mut ours).await.unwrap();
            proof
        };
        let node = prove(&mut nodes, good, VerifierRole::Cluster, &mut world.tpm);
        let (proof, said) = tokio::join!(verifier, node);
        assert!(matches!(said, Ok((Verdict::Accepted {}, _))), "{platform}");
        assert_eq!(proof.evidence.activated, *proof.credential_secret, "{platform}");
        assert_eq!(proof.credential_secret.is_empty(), !platform.has_endorsement_key(), "{platform}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_answers_for_another_purpose_is_left() {
    let world = world(Purpose::Join);
    let (mut ours, mut nodes) = owner_calls(&world).await;
    nodes.send(&world.hello).await.unwrap();
    assert!(matches!(ask(&mut ours, Purpose::Init).await, Err(Error::Purpose(Purpose::Join))));
}

#[tokio::test(start_paused = true)]
async fn a_tpm_that_cannot_open_the_credential_sends_no_evidence() {
    let world = world(Purpose::Join);
    let (mut ours, mut nodes) = node_joins(&world).await;
    let mut other = SoftTpm { ek: SoftEk::ecc(), ak: world.tpm.ak.clone() };
    let verifier = async {
        let hello: Hello = ours.receive().await.unwrap();
        challenge(&mut ours, hello, VerifierRole::Cluster, 1, Platform::QemuVtpm).await.map(drop)
    };
    let node = async {
        nodes.send(&world.hello).await.unwrap();
        let refused = prove(&mut nodes, &world.hello, VerifierRole::Cluster, &mut other).await.map(drop);
        drop(nodes);
        refused
    };
    let (verifier, node) = tokio::join!(verifier, node);
    assert!(matches!(node, Err(Error::Attester("opening the credential", _))));
    assert!(matches!(verifier, Err(Error::Channel(_))));
}

#[tokio::test(start_paused = true)]
async fn a_challenge_without_a_proper_nonce_is_refused() {
    let mut world = world(Purpose::Join);
    let (mut ours, mut nodes) = node_joins(&world).await;
    let challenge = Challenge { nonce: vec![0; 31], policy_revision: 1, credential: vec![], credential_secret: vec![] };
    ours.send(&challenge).await.unwrap();
    let refused = prove(&mut nodes, &world.hello, VerifierRole::Cluster, &mut world.tpm).await.map(drop);
    assert!(matches!(refused, Err(Error::Challenge)));
}

#[tokio::test(start_paused = true)]
async fn a_nonce_that_is_answered_too_late_is_worth_nothing() {
    for (delay, in_time) in [(EVIDENCE_TIMEOUT / 2, true), (EVIDENCE_TIMEOUT * 2, false)] {
        let mut world = world(Purpose::Join);
        let (mut ours, mut nodes) = node_joins(&world).await;
        let hello = world.hello.clone();
        let late = async {
            let challenge: Challenge = nodes.receive().await.unwrap();
            tokio::time::sleep(delay).await;
            let _ = nodes.send(&world.tpm.evidence(&[0; 32], challenge.nonce).unwrap()).await;
        };
        let (proof, ()) = tokio::join!(challenge(&mut ours, hello, VerifierRole::Cluster, 1, Platform::QemuVtpm), late);
        assert_eq!(proof.is_ok(), in_time, "{delay:?}");
    }
}
