//! The owner's own conversation, with nodes that show it something else and with somebody in between who reads and forwards:
//! against nodes of ours and the real bootstrapper.

#[path = "../../../operator/src/init/talk/tests/line.rs"]
mod line;

use std::{net::SocketAddr, sync::Arc};

use constellation_attestation::{
    binding::VerifierRole,
    channel::{self, Identity},
    owner::SigningKey,
    platform::Platform,
    policy::TrustPolicy,
    protocol::{LaunchConfig, Purpose, Role, Verdict},
    session,
};
use constellation_crds::node::AttestationResult;
use constellation_operator::{
    cloud::{Cloud, CloudError, ClusterUid, Instance, InstanceId, LaunchRequest, Network, NetworkRequest, Stream},
    collateral::{Collector, settings::Settings},
    init::talk::{self, Error, Peer, Words},
    metrics::Metrics,
};
use constellation_tests::agent::{ADMIN, Agent};
use tokio::{
    io::{copy_bidirectional, duplex},
    net::{TcpListener, TcpStream},
};

use crate::{
    bootstrapper::init_request,
    hostile::MiddleMan,
    machine::Machine,
    scene::{CLUSTER_ID, DISK_SECRET, launch_config, policy},
};

const PURPOSES: [Purpose; 5] = [Purpose::Init, Purpose::Join, Purpose::Leave, Purpose::Reattest, Purpose::Recover];

/// A node as its owner knows it, at the end of a line that passes bytes on and knows nothing of what they mean.
fn node_at(address: SocketAddr, owner: &Arc<SigningKey>, launch: &LaunchConfig, policy: TrustPolicy) -> Peer {
    let dial = move || -> Box<dyn Stream> {
        let (ours, mut line) = duplex(64 * 1024);
        tokio::spawn(async move {
            let mut node = TcpStream::connect(address).await?;
            copy_bidirectional(&mut line, &mut node).await
        });
        Box::new(ours)
    };
    Peer {
        cluster: ClusterUid(launch.cluster_uid.clone()),
        node_uid: launch.node_uid.clone(),
        launch_config: launch.to_bytes(),
        cluster_id: CLUSTER_ID.to_vec().into(),
        policy,
        ..line::peer(line::Line(dial), Arc::clone(owner))
    }
}

/// What the owner finds when it asks for evidence under this leaf, which it takes note of and gives nothing for.
async fn ask(peer: &Peer, leaf: &Identity, purpose: Purpose) -> Result<AttestationResult, Error> {
    let stream = peer.cloud.dial(&peer.cluster, SocketAddr::new(peer.address, 0)).await?;
    let mut channel = channel::verifier_connect(stream, leaf).await?;
    let (_, result) = talk::prove(peer, &mut channel, purpose).await?;
    session::accept(&mut channel).await?;
    Ok(result)
}

/// Asserts that the owner refused for this clause alone, and that the node heard no more than the id.
fn assert_refused<T>(asked: Result<AttestationResult, Error>, node: Result<T, session::Error>, clause: &str) {
    let Err(Error::Refused(result)) = asked else { panic!("not refused: {asked:?}") };
    let clauses: Vec<&str> = result.mismatches.iter().map(|mismatch| mismatch.clause.as_str()).collect();
    assert_eq!((clauses, result.verdict.as_str()), (vec![clause], "Refused"));
    let Err(session::Error::Refused { id }) = node else { panic!("the node wasn't refused") };
    assert_eq!(result.refusal_id, Some(id));
}

/// An owner, and its first node that somebody else than the bootstrapper answers for.
fn given_machine() -> (Arc<SigningKey>, Machine) {
    let owner = Arc::new(SigningKey::generate().unwrap());
    let machine = Machine::boot(&launch_config(&owner, "cp-0", Role::ControlPlane)).unwrap();
    (owner, machine)
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_takes_evidence_for_the_purpose_that_it_asked_for_and_for_no_other() {
    let (owner, mut machine) = given_machine();
    let (listener, address) = listen().await;
    let peer = node_at(address, &owner, &machine.launch, policy(1, &[&machine]).unwrap());
    let leaf = Identity::owner_client(&owner).unwrap();
    for purpose in [Purpose::Init, Purpose::Recover, Purpose::Leave] {
        if purpose == Purpose::Leave {
            // Only members leave.
            machine.tpm.extend_pcr15(&CLUSTER_ID).unwrap();
        }
        for shown in PURPOSES {
            let node = async {
                let (stream, _) = listener.accept().await.unwrap();
                machine.answer(stream, shown).await
            };
            let (asked, node) = tokio::join!(ask(&peer, &leaf, purpose), node);
            if shown == purpose {
                assert_eq!((asked.unwrap().verdict.as_str(), node.unwrap().0), ("Accepted", Verdict::Accepted {}));
            } else {
                assert_refused(asked, node, "tpm.quote.nonce");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_through_a_middle_man_between_owner_and_node_is_refused_whichever_tls_keys_he_holds() {
    let (owner, mut machine) = given_machine();
    let (at_node, node_address) = listen().await;
    let (at_middle, middle_address) = listen().await;
    let trusted = policy(1, &[&machine]).unwrap();
    let own = Identity::self_signed("middle man").unwrap();
    // The very leaf that the owner shows: with the node's as well, only the exporter tells the two connections apart.
    let owners = Identity::owner_client(&owner).unwrap();
    let nodes = machine.secrets.identity.clone();
    let through = node_at(middle_address, &owner, &machine.launch, trusted.clone());
    for (what, client, server, expected) in [
        ("neither key", &own, &own, None),
        ("the node's key", &own, &nodes, None),
        ("the owner's key", &owners, &own, Some("tpm.quote.nonce")),
        ("both", &owners, &nodes, Some("tpm.quote.nonce")),
    ] {
        let middle = MiddleMan { server, client, owner_spki: machine.owner_spki() };
        let node = async {
            let (stream, _) = at_node.accept().await.unwrap();
            machine.answer(stream, Purpose::Init).await
        };
        let (asked, relayed, node) =
            tokio::join!(ask(&through, &owners, Purpose::Init), middle.relay_of_owner(&at_middle, node_address), node);
        if let Some(clause) = expected {
            assert!(matches!(relayed, Ok(Verdict::Refused { .. })), "{what}: {relayed:?}");
            assert_refused(asked, node, clause);
        } else {
            // The node talks to nobody else, so there is no evidence and nobody to be refused for it.
            assert!(matches!(node, Err(session::Error::Channel(channel::Error::Handshake(_)))), "{what}");
            assert!(relayed.is_err() && matches!(asked, Err(Error::Session(_))), "{what}: {asked:?}");
        }
    }
    // With nobody on the line but whoever passes bytes on.
    let direct = node_at(node_address, &owner, &machine.launch, trusted);
    let node = async {
        let (stream, _) = at_node.accept().await.unwrap();
        machine.answer(stream, Purpose::Init).await
    };
    let (asked, node) = tokio::join!(ask(&direct, &owners, Purpose::Init), node);
    assert_eq!((asked.unwrap().verdict.as_str(), node.unwrap().0), ("Accepted", Verdict::Accepted {}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_middle_man_with_the_owners_key_gets_nothing_through_between_owner_and_bootstrapper() {
    let owner = Arc::new(SigningKey::generate().unwrap());
    let launch = launch_config(&owner, "cp-0", Role::ControlPlane);
    let agent = Agent::start(&launch, &[]).await.unwrap();
    let mut trusted = policy(1, &[]).unwrap();
    trusted.endorsement_roots = agent.endorsement_roots().unwrap();
    let owners = Identity::owner_client(&owner).unwrap();
    let request = init_request(&owner, DISK_SECRET, CLUSTER_ID);
    let (listener, address) = listen().await;
    let own = Identity::self_signed("middle man").unwrap();
    let middle = MiddleMan { server: &own, client: &owners, owner_spki: owner.public_spki() };

    // The node's evidence, to the owner.
    let through = node_at(address, &owner, &launch, trusted.clone());
    let relay = middle.relay_of_owner(&listener, agent.address);
    let (asked, relayed) = tokio::join!(ask(&through, &owners, Purpose::Init), relay);
    let Ok(Verdict::Refused { id }) = relayed else { panic!("{relayed:?}") };
    agent.wait_for_log(&format!("the owner finds the reasons under {id}")).await.unwrap();
    assert_refused(asked, Err::<(), _>(session::Error::Refused { id }), "tpm.quote.nonce");

    // The secrets of an owner that believes whatever it is shown, to the node.
    let believer = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut channel = channel::verifier_connect(stream, &owners).await.unwrap();
        let hello = session::ask(&mut channel, Purpose::Init).await.unwrap();
        let challenged = session::challenge(&mut channel, hello, VerifierRole::Owner, 1, Platform::QemuVtpm).await;
        session::grant(&mut channel, &challenged.unwrap(), &request).await.unwrap();
    };
    let ((), relayed) = tokio::join!(believer, middle.relay_of_owner(&listener, agent.address));
    assert!(matches!(relayed, Ok(Verdict::Sealed { .. })), "{relayed:?}");
    agent.wait_for_log("the sealed secret failed").await.unwrap();
    assert!(!agent.path("etc/kubernetes/constellation").exists(), "nothing came of it");

    // With nobody on the line but whoever passes bytes on.
    let direct = node_at(agent.address, &owner, &launch, trusted);
    let mut channel = talk::open(&direct).await.unwrap();
    let (proof, result) = talk::prove(&direct, &mut channel, Purpose::Init).await.unwrap();
    assert_eq!(result.verdict, "Accepted");
    session::grant(&mut channel, &proof, &request).await.unwrap();
    assert_eq!(*talk::listen(&mut channel, |_| {}).await.unwrap(), ADMIN);
}
