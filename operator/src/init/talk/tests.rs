//! Nodes that answer their owner badly, over a pipe: who is refused for it, and what is told.

mod line;

use constellation_attestation::{
    boot::BootSecrets,
    channel::node_accept,
    protocol::{Challenge, Evidence, Hello, RecoverKey, Request},
};
use constellation_crds::node::Refusals;
use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::{
    cloud::{Instance, InstanceId, LaunchRequest, Network, NetworkRequest},
    collateral::settings::Settings,
    init::{self, Outcome, Registry},
    metrics::Metrics,
};

/// What a node does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    HangsUp,
    NamesAnother,
    NamesNoEndorsementKey,
    NamesNoKeys,
    OtherPurpose,
    ShowsBadEvidence,
    ShowsNonsense,
    ShowsNothing,
}

const NODE: &str = "node-uid";

/// A key of a TPM's template for ECC (TCG EK Credential Profile 2.5, B.3.4), and any attestation key.
fn endorsement_key() -> Vec<u8> {
    let sized = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let spki = SigningKey::generate().unwrap().public_spki();
    let (x, y) = spki[spki.len() - 64..].split_at(32);
    let head = b"\x00\x23\x00\x0b\x00\x03\x00\xb2";
    let parameters = b"\x00\x06\x00\x80\x00\x43\x00\x10\x00\x03\x00\x10";
    sized(&[&head[..], &sized(&[0x83; 32]), parameters, &sized(x), &sized(y)].concat())
}

fn hello(boot: &BootSecrets, purpose: Purpose, does: Does) -> Hello {
    let mut hello = Hello {
        purpose,
        node_uid: NODE.into(),
        cluster_uid: "cluster-uid".into(),
        address: "10.77.0.11".into(),
        keys: boot.keys(),
        ek_certificate: vec![1],
        ek_public: endorsement_key(),
        ak_public: vec![0, 6, 0, 0x23, 0, 0x0b, 1, 1],
    };
    match does {
        Does::NamesAnother => hello.node_uid = format!("\u{1b}[2J{}", "x".repeat(240)),
        Does::NamesNoEndorsementKey => hello.ek_public = vec![0, 1, 0],
        Does::NamesNoKeys => hello.keys.csr.clear(),
        Does::OtherPurpose => hello.purpose = Purpose::Join,
        _ => {}
    }
    hello
}

/// The node's half, up to where it goes wrong; then the connection is gone.
async fn answer(stream: DuplexStream, owner: Vec<u8>, does: Does) -> Result<(), session::Error> {
    let boot = BootSecrets::generate().unwrap();
    let mut channel = node_accept(stream, &boot.identity, &owner).await?;
    let request: Request = channel.receive().await?;
    channel.send(&hello(&boot, request.purpose, does)).await?;
    let challenge: Challenge = channel.receive().await?;
    match does {
        Does::HangsUp => return Ok(()),
        Does::ShowsNothing => tokio::time::sleep(session::EVIDENCE_TIMEOUT * 2).await,
        _ => {}
    }
    if does == Does::ShowsNonsense {
        return Ok(channel.send(&"nonsense").await?);
    }
    let evidence = Evidence {
        quote: challenge.nonce,
        signature: vec![1],
        pcrs: vec![0; 512],
        event_log: vec![],
        activated: vec![],
        machine: None,
    };
    Ok(channel.send(&evidence).await?)
}

fn peer(does: Does) -> Peer {
    let owner = Arc::new(SigningKey::generate().unwrap());
    let spki = owner.public_spki();
    let dial = move || -> Box<dyn Stream> {
        let (ours, nodes) = duplex(64 * 1024);
        tokio::spawn(answer(nodes, spki.clone(), does));
        Box::new(ours)
    };
    line::peer(line::Line(dial), owner)
}

async fn asked(peer: &Peer, purpose: Purpose) -> Error {
    let mut channel = open(peer).await.unwrap();
    prove(peer, &mut channel, purpose).await.map(drop).unwrap_err()
}

fn clauses(result: &AttestationResult) -> Vec<&str> {
    result.mismatches.iter().map(|mismatch| mismatch.clause.as_str()).collect()
}

#[tokio::test]
async fn a_node_that_shows_bad_evidence_and_hangs_up_is_refused_for_the_evidence() {
    let peer = peer(Does::ShowsBadEvidence);
    for purpose in [Purpose::Init, Purpose::Recover, Purpose::Leave] {
        let Error::Refused(result) = asked(&peer, purpose).await else { panic!("{purpose:?}") };
        assert!(clauses(&result).contains(&"tpm.ak.credential"), "{result:?}");
        assert_eq!((result.verdict.as_str(), result.trust_revision), ("Refused", Some(3)));
        assert!(result.evidence_digest.is_some() && result.refusal_id.is_some_and(|id| id.len() == 16));
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_shows_nothing_to_appraise_is_refused_for_how() {
    for (does, clause) in [
        (Does::NamesNoEndorsementKey, "hello.endorsement-key"),
        (Does::NamesNoKeys, "hello.keys"),
        (Does::OtherPurpose, "hello.purpose"),
        (Does::ShowsNonsense, "evidence.malformed"),
        (Does::ShowsNothing, "evidence.late"),
    ] {
        let error = asked(&peer(does), Purpose::Init).await;
        let Error::Unproven(result) = &error else { panic!("{does:?}: {error}") };
        assert_eq!(clauses(result), [clause], "{does:?}");
        let id = result.refusal_id.as_deref().unwrap();
        assert!(error.to_string().contains(clause) && error.to_string().contains(id), "{error}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_nobodys_refusal() {
    assert!(matches!(asked(&peer(Does::HangsUp), Purpose::Init).await, Error::Session(_)));
}

#[tokio::test]
async fn a_node_that_answers_at_anothers_address_is_told_first_and_cleaned() {
    let Error::Refused(result) = asked(&peer(Does::NamesAnother), Purpose::Init).await else { panic!() };
    let first = &result.mismatches[0];
    assert_eq!((first.clause.as_str(), first.expected.as_deref()), ("node.uid", Some(NODE)));
    assert!(first.actual.as_ref().unwrap().starts_with(" [2Jx"), "{first:?}");
}

#[tokio::test]
async fn the_same_reasons_have_the_same_id_and_others_or_another_node_have_another() {
    let one = peer(Does::ShowsBadEvidence);
    let id = async |peer: &Peer| match asked(peer, Purpose::Init).await {
        Error::Refused(result) | Error::Unproven(result) => result.refusal_id.unwrap(),
        other => panic!("{other}"),
    };
    let first = id(&one).await;
    assert_eq!(id(&one).await, first);
    assert_ne!(id(&Peer { node_uid: "another".into(), ..one.clone() }).await, first);
    assert_ne!(id(&Peer { cluster_id: Zeroizing::new(vec![8; 32]), ..one }).await, first);
    assert_ne!(id(&peer(Does::ShowsNonsense)).await, first);
}

/// How a whole conversation with such a node ends, and what is told.
async fn ended(does: Does) -> init::InitState {
    let registry = Registry::default();
    registry.start(peer(does), RecoverAsInit(init::recover::key(&[1; 32], NODE)));
    loop {
        let state = registry.state(NODE).unwrap();
        if state.outcome.is_some() {
            return state;
        }
        // The clock of these tests moves on by itself when nobody has anything to do.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Init's rules, with a secret that is easily made.
#[derive(Serialize, Zeroize)]
struct RecoverAsInit(RecoverKey);

impl Secret for RecoverAsInit {
    const PURPOSE: Purpose = Purpose::Init;
}

#[tokio::test(start_paused = true)]
async fn bad_evidence_ends_an_init_at_once_and_its_reasons_are_told() {
    let state = ended(Does::ShowsBadEvidence).await;
    assert!(matches!(state.outcome, Some(Outcome::Refused)), "{state:?}");
    assert_eq!(state.attestation.unwrap().verdict, "Refused");
    assert_eq!(state.refusals, None);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_never_shows_evidence_is_asked_again_until_its_time_is_up_and_then_the_reason_is_told() {
    let state = ended(Does::ShowsNothing).await;
    let Some(Outcome::Failed(why)) = &state.outcome else { panic!("{state:?}") };
    assert!(why.contains("evidence.late"), "{why}");
    let Some(Refusals { count, last, .. }) = &state.refusals else { panic!("{state:?}") };
    assert!(*count > 10 && clauses(last) == ["evidence.late"], "{count} {last:?}");
    assert_eq!(state.attestation, None, "it says nothing about the node");
    assert!(state.progress.iter().any(|line| line.contains("evidence.late")), "{state:?}");
}

#[tokio::test]
async fn what_a_working_node_streams_is_cut_and_cleaned() {
    let owner = SigningKey::generate().unwrap();
    let (ours, nodes) = duplex(64 * 1024);
    let (caller, boot) = (Identity::owner_client(&owner).unwrap(), BootSecrets::generate().unwrap());
    let ours: Box<dyn Stream> = Box::new(ours);
    let spki = owner.public_spki();
    let (ours, nodes) =
        tokio::join!(channel::verifier_connect(ours, &caller), node_accept(nodes, &boot.identity, &spki));
    let (mut ours, mut nodes) = (ours.unwrap(), nodes.unwrap());
    let long = "\u{1b}[2J".to_owned() + &"x".repeat(500_000);
    let node = async {
        for said in [
            Progress::Phase { name: long.clone() },
            Progress::Line { text: long.clone() },
            Progress::Failed { message: long.clone() },
        ] {
            nodes.send(&said).await.unwrap();
        }
    };
    let mut lines = Vec::new();
    let (ended, ()) = tokio::join!(listen(&mut ours, |line| lines.push(line)), node);
    let Err(Error::Node(why)) = ended else { panic!() };
    lines.push(why);
    assert_eq!(lines.len(), 3);
    for line in lines {
        assert!(line.chars().count() == told::TEXT_MAX && line.contains(" [2Jx"), "{line}");
    }
}
