//! Who gets through the handshake, and what a channel does with messages.

use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, pem::PemObject as _},
    version::TLS13,
};
use serde_json::{Value, json};
use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::{owner, protocol::Request};

type Pair = (Result<Channel<DuplexStream>, Error>, Result<Channel<DuplexStream>, Error>);

fn owner() -> owner::SigningKey {
    owner::SigningKey::generate().unwrap()
}

fn node() -> Identity {
    Identity::self_signed("node").unwrap()
}

fn verifier(owner: &owner::SigningKey) -> Identity {
    let (certificate, key) = Identity::issue_verifier_ca(owner).unwrap();
    Identity::verifier(&certificate, &key).unwrap()
}

/// The node serves, someone calls it.
async fn call(caller: &Identity, node: &Identity, owner_spki: &[u8]) -> Pair {
    let (left, right) = duplex(64 * 1024);
    tokio::join!(verifier_connect(left, caller), node_accept(right, node, owner_spki))
}

/// The node calls, someone serves it.
async fn join(server: &Identity, node: &Identity, owner_spki: &[u8]) -> Pair {
    let (left, right) = duplex(64 * 1024);
    tokio::join!(node_connect(left, node, owner_spki), verifier_accept(right, server))
}

#[tokio::test]
async fn a_node_serves_its_owner() {
    let owner = owner();
    let (caller, node) = (Identity::owner_client(&owner).unwrap(), node());
    let (ours, nodes) = call(&caller, &node, &owner.public_spki()).await;
    let (ours, nodes) = (ours.unwrap(), nodes.unwrap());
    assert_eq!(nodes.peer_trust(), Some(Trust::Owner));
    assert_eq!(nodes.peer_spki(), caller.spki());
    assert_eq!(ours.peer_spki(), node.spki());
    assert_eq!(ours.peer_trust(), None);
}

#[tokio::test]
async fn a_node_serves_a_verifier_but_not_as_its_owner() {
    let owner = owner();
    let (_caller, nodes) = call(&verifier(&owner), &node(), &owner.public_spki()).await;
    assert_eq!(nodes.unwrap().peer_trust(), Some(Trust::Verifier));
}

#[tokio::test]
async fn a_node_refuses_another_owner_and_another_owners_verifier() {
    let (owner, other) = (owner(), owner());
    for caller in [Identity::owner_client(&other).unwrap(), verifier(&other), node()] {
        let (_caller, nodes) = call(&caller, &node(), &owner.public_spki()).await;
        assert!(matches!(nodes, Err(Error::Handshake(_))));
    }
}

#[tokio::test]
async fn a_refused_caller_learns_nothing_but_that() {
    let (owner, other) = (owner(), owner());
    let (caller, _nodes) = call(&Identity::owner_client(&other).unwrap(), &node(), &owner.public_spki()).await;
    // In TLS 1.3 a client may believe in the handshake until it reads.
    let error = match caller {
        Ok(mut channel) => channel.receive::<Request>().await.unwrap_err(),
        Err(error) => error,
    };
    let (Error::Io(source) | Error::Handshake(source)) = error else { panic!("{error}") };
    assert!(!source.to_string().contains("owner"), "{source}");
}

#[tokio::test]
async fn a_node_calls_its_owners_verifier() {
    let owner = owner();
    let (server, node) = (verifier(&owner), node());
    let (nodes, verifiers) = join(&server, &node, &owner.public_spki()).await;
    assert_eq!(nodes.unwrap().peer_trust(), Some(Trust::Verifier));
    assert_eq!(verifiers.unwrap().peer_spki(), node.spki());
}

#[tokio::test]
async fn a_node_does_not_join_anyone_else() {
    let (owner, other) = (owner(), owner());
    // Another cluster's verifier, an owner's client certificate, another node.
    for server in [verifier(&other), Identity::owner_client(&owner).unwrap(), node()] {
        let (nodes, _verifiers) = join(&server, &node(), &owner.public_spki()).await;
        assert!(matches!(nodes, Err(Error::Handshake(_))));
    }
}

#[tokio::test]
async fn a_verifier_ca_cannot_pose_as_the_owner_nor_make_further_authorities() {
    let owner = owner();
    let (certificate, key) = Identity::issue_verifier_ca(&owner).unwrap();
    let ca_key = owner::SigningKey::from_pkcs8_pem(&key).unwrap();

    // A leaf that names the owner as its issuer, signed by the CA's key.
    let (_caller, nodes) = call(&Identity::owner_client(&ca_key).unwrap(), &node(), &owner.public_spki()).await;
    assert!(nodes.is_err());

    // The CA's own certificate as a leaf.
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let posing = Identity::from_parts(chain, &key).unwrap();
    let (_caller, nodes) = call(&posing, &node(), &owner.public_spki()).await;
    assert!(nodes.is_err());
}

#[tokio::test]
async fn a_direct_leaf_with_a_certificate_on_top_is_refused() {
    let owner = owner();
    let (certificate, _) = Identity::issue_verifier_ca(&owner).unwrap();
    let extra = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let caller = Identity::owner_client(&owner).unwrap().with_extra(extra);
    let (_caller, nodes) = call(&caller, &node(), &owner.public_spki()).await;
    assert!(nodes.is_err());
}

#[test]
fn a_verifier_identity_needs_the_cas_own_key() {
    let owner = owner();
    let (certificate, _) = Identity::issue_verifier_ca(&owner).unwrap();
    let (_, other_key) = Identity::issue_verifier_ca(&owner).unwrap();
    assert!(matches!(Identity::verifier(&certificate, &other_key), Err(Error::VerifierCa)));
}

#[test]
fn a_verifier_ca_is_whole_and_of_its_owner() {
    let (owner, other) = (owner(), owner());
    let (certificate, key) = Identity::issue_verifier_ca(&owner).unwrap();
    let (others, others_key) = Identity::issue_verifier_ca(&other).unwrap();
    let check = |certificate: &str, key: &str| Identity::check_verifier_ca(certificate, key, &owner.public_spki());
    check(&certificate, &key).unwrap();
    let (certificate, key, others, others_key) = (&*certificate, key.as_str(), &*others, others_key.as_str());
    for (certificate, key) in [("", key), (certificate, ""), (certificate, others_key), (others, key)] {
        assert!(matches!(check(certificate, key), Err(Error::VerifierCa)));
    }
    assert!(matches!(check(others, others_key), Err(Error::VerifierCaOwner)));
}

#[tokio::test]
async fn an_owners_key_that_is_no_p256_key_is_refused_before_the_handshake() {
    for spki in [&[][..], &[0; 91], &owner().public_spki()[..90]] {
        let (left, _right) = duplex(1024);
        assert!(matches!(node_accept(left, &node(), spki).await, Err(Error::OwnerKey)));
    }
}

/// What a node says to a caller with this configuration.
async fn dial(config: ClientConfig, owner: &owner::SigningKey) -> Error {
    let (left, right) = duplex(64 * 1024);
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(PEER_NAME).unwrap();
    let (node, spki) = (node(), owner.public_spki());
    let client = async move {
        // Kept until the node has decided.
        if let Ok(mut stream) = connector.connect(name, left).await {
            let _ = stream.read_u8().await;
        }
    };
    let nodes = async { node_accept(right, &node, &spki).await.map(drop) };
    let ((), nodes) = tokio::join!(client, nodes);
    nodes.unwrap_err()
}

#[tokio::test]
async fn a_caller_with_another_protocol_or_none_is_refused() {
    let owner = owner();
    for protocols in [vec![], vec![b"h2".to_vec()], vec![b"constellation/2".to_vec()]] {
        let identity = Identity::owner_client(&owner).unwrap();
        let config = config::client(&identity, Arc::new(PeerVerifier::any_node())).unwrap();
        let mut config = Arc::unwrap_or_clone(config);
        config.alpn_protocols = protocols;
        assert!(matches!(dial(config, &owner).await, Error::Alpn | Error::Handshake(_)));
    }
}

#[tokio::test]
async fn a_caller_without_a_certificate_is_refused() {
    let owner = owner();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PeerVerifier::any_node()))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    assert!(matches!(dial(config, &owner).await, Error::Handshake(_)));
}

#[test]
fn only_tls_1_3_without_tickets_or_early_data_is_configured() {
    let server = config::server(&node(), Arc::new(PeerVerifier::any_node())).unwrap();
    let client = config::client(&node(), Arc::new(PeerVerifier::any_node())).unwrap();
    for provider in [server.crypto_provider(), client.crypto_provider()] {
        assert!(provider.cipher_suites.iter().all(|suite| suite.tls13().is_some()));
    }
    assert_eq!((server.send_tls13_tickets, server.max_early_data_size), (0, 0));
    assert!(!server.session_storage.can_cache() && !client.enable_early_data);
}

#[tokio::test]
async fn a_tls_1_2_client_is_refused() {
    let owner = owner();
    // A ClientHello of version 1.2 without supported_versions, as a hand-written record.
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0xc0, 0x2b, 1, 0]].concat();
    let length = u8::try_from(body.len()).unwrap();
    let hello = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat();
    let (mut left, right) = duplex(64 * 1024);
    left.write_all(&hello).await.unwrap();
    let (node, spki) = (node(), owner.public_spki());
    let Err(Error::Handshake(error)) = node_accept(right, &node, &spki).await else { panic!("accepted") };
    assert!(error.to_string().contains("PeerIncompatible") || error.to_string().contains("incompatible"), "{error}");
}

#[tokio::test]
async fn the_exporter_is_equal_on_both_sides_and_depends_on_nonce_and_connection() {
    let owner = owner();
    let open = async || {
        let (ours, nodes) = call(&Identity::owner_client(&owner).unwrap(), &node(), &owner.public_spki()).await;
        (ours.unwrap(), nodes.unwrap())
    };
    let ((ours, nodes), (other, _)) = (open().await, open().await);
    assert_eq!(ours.exporter(b"nonce").unwrap(), nodes.exporter(b"nonce").unwrap());
    assert_ne!(ours.exporter(b"nonce").unwrap(), ours.exporter(b"other").unwrap());
    assert_ne!(ours.exporter(b"nonce").unwrap(), other.exporter(b"nonce").unwrap());
}

async fn opened() -> (Channel<DuplexStream>, Channel<DuplexStream>) {
    let owner = owner();
    let (ours, nodes) = call(&Identity::owner_client(&owner).unwrap(), &node(), &owner.public_spki()).await;
    (ours.unwrap(), nodes.unwrap())
}

#[tokio::test]
async fn messages_arrive_whole_and_in_order() {
    let (mut ours, mut nodes) = opened().await;
    let messages = [json!({"a": 1}), json!("x".repeat(MAX_FRAME - 2)), json!(null)];
    let send = async {
        for message in &messages {
            ours.send(message).await.unwrap();
        }
        ours.close().await;
    };
    let receive = async {
        for message in &messages {
            assert_eq!(&nodes.receive::<Value>().await.unwrap(), message);
        }
        assert!(matches!(nodes.receive::<Value>().await, Err(Error::Io(_))));
    };
    tokio::join!(send, receive);
}

#[tokio::test]
async fn a_message_that_is_too_long_is_neither_sent_nor_read() {
    let (mut ours, mut nodes) = opened().await;
    assert!(matches!(ours.send(&"x".repeat(MAX_FRAME)).await, Err(Error::FrameTooLong(..))));
    assert!(matches!(ours.send(&1).await, Err(Error::Closed)));
    assert!(matches!(nodes.receive::<Value>().await, Err(Error::Io(_))));

    let (mut ours, mut nodes) = opened().await;
    let length = u32::try_from(MAX_FRAME + 1).unwrap();
    let stream = ours.stream.as_mut().unwrap();
    stream.write_all(&length.to_be_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    assert!(matches!(nodes.receive::<Value>().await, Err(Error::FrameTooLong(..))));
}

#[tokio::test]
async fn a_message_with_unknown_members_closes_the_channel_and_is_not_repeated() {
    let (mut ours, mut nodes) = opened().await;
    ours.send(&json!({"purpose": "very-secret"})).await.unwrap();
    let error = nodes.receive::<Request>().await.unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }));
    assert!(!format!("{error} {error:?}").contains("secret"));
    assert!(matches!(nodes.receive::<Request>().await, Err(Error::Closed)));
    assert!(matches!(nodes.exporter(b""), Err(Error::Closed)));
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_left() {
    let (_ours, mut nodes) = opened().await;
    assert!(matches!(nodes.receive::<Request>().await, Err(Error::Timeout(_))));
    assert!(matches!(nodes.receive::<Request>().await, Err(Error::Closed)));

    let (left, _right) = duplex(1024);
    assert!(matches!(node_accept(left, &node(), &owner().public_spki()).await, Err(Error::Timeout(_))));
}
