//! The attacks on a join that need a hostile peer: each refused for its own reason, beside a twin that is accepted.

use std::{io, time::Duration};

use constellation_attestation::{
    binding::VerifierRole,
    channel::{Channel, Identity, STEP_TIMEOUT},
    dsse,
    policy::TRUST_POLICY_TYPE,
    protocol::{Evidence, Hello, LaunchConfig, MAX_FRAME, Purpose, Role, Ticket, Verdict},
    session::{self, EVIDENCE_TIMEOUT},
};
use constellation_crds::{NodeAdmission, NodeAdmissionStatus, TrustBundle};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SubjectPublicKeyInfo};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::FromDer as _;

use crate::{
    WORKER, cluster,
    hostile::{Forger, MiddleMan, bare, bare_on, closed, dressed_up, from_elsewhere, software_key},
    machine::Machine,
    refusal,
    scene::{Scene, policy},
};

type Change = Box<dyn Fn(&mut Vec<u8>) + Send + Sync>;
type LaunchChange = fn(&mut LaunchConfig);

/// Sends the Hello and gives the challenge, untouched.
async fn challenged(machine: &Machine, scene: &Scene, hello: &Hello) -> (Channel<TcpStream>, serde_json::Value) {
    let mut channel = machine.connect(scene.verifier).await.unwrap();
    channel.send(hello).await.unwrap();
    let challenge = channel.receive().await.unwrap();
    (channel, challenge)
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_relayed_by_a_middle_man_with_both_tls_keys_is_refused_and_without_them_never_made() {
    let (scene, mut first) = Scene::with_worker("middle-man").await.unwrap();
    let read = |name: &str| std::fs::read_to_string(scene.folder.path().join(name)).unwrap();
    let verifiers = Identity::verifier(&read("verifier-ca.crt"), &read("verifier-ca.key")).unwrap();
    let own = Identity::self_signed("middle man").unwrap();
    for (name, server, node_key, expected) in [
        ("neither-key", &own, false, None),
        ("the-nodes-key", &own, true, None),
        ("the-verifier-cas-key", &verifiers, false, Some("tpm.quote.nonce")),
        ("both-keys", &verifiers, true, Some("tpm.quote.nonce")),
    ] {
        let mut machine = scene.worker_like(&first, name).await.unwrap();
        let hello = machine.hello(Purpose::Join).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = if node_key { machine.secrets.identity.clone() } else { own.clone() };
        let middle = MiddleMan { server, client: &client, owner_spki: machine.owner_spki() };
        let node = async {
            let mut channel = machine.connect(address).await?;
            channel.send(&hello).await?;
            session::prove(&mut channel, &hello, VerifierRole::Cluster, &mut machine.tpm).await
        };
        let (node, verdict) = tokio::join!(node, middle.relay(&listener, scene.verifier));
        if let Some(clause) = expected {
            let Ok(Verdict::Refused { id }) = verdict else { panic!("{name}: {verdict:?}") };
            scene.assert_told(&hello.node_uid, &id, &[clause]).await;
        } else {
            // The node talks to nobody else, so no verifier hears of it and there is nothing to be told.
            assert!(matches!(node, Err(session::Error::Channel(_))), "{name}");
            assert_eq!(scene.status(&hello.node_uid).await.unwrap(), NodeAdmissionStatus::default(), "{name}");
        }
    }
    first.join(scene.verifier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_counts_once_and_on_its_own_connection() {
    let (scene, mut machine) = Scene::with_worker("nonce").await.unwrap();
    let hello = machine.hello(Purpose::Join).unwrap();
    let (mut first, challenge) = challenged(&machine, &scene, &hello).await;
    let (mut second, other) = challenged(&machine, &scene, &hello).await;
    assert!(challenge["nonce"] != other["nonce"] && challenge["credential"] != other["credential"]);
    // The second connection's evidence on the first, while both nonces are fresh.
    let recorded = std::sync::Mutex::new(None);
    let keep = |evidence: &mut Evidence| *recorded.lock().unwrap() = Some(evidence.clone());
    machine.join_altered(scene.verifier, |_| {}, keep).await.unwrap();
    let evidence = recorded.lock().unwrap().take().unwrap();
    for channel in [&mut first, &mut second] {
        channel.send(&evidence).await.unwrap();
        let Verdict::Refused { id } = channel.receive_within(Duration::from_mins(1)).await.unwrap() else {
            panic!("accepted")
        };
        scene.assert_listed(WORKER, &id, &["tpm.quote.nonce", "tpm.ak.credential"]).await;
        // And no second try on the same connection.
        let again = async {
            channel.send(&evidence).await?;
            channel.receive::<Verdict>().await
        };
        assert!(again.await.is_err());
    }
    machine.join(scene.verifier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_in_software_say_what_they_like_and_are_refused_for_each_part_of_it() {
    let (scene, mut first) = Scene::with_worker("software").await.unwrap();
    let pair = software_key();
    let genuine = first.tpm.ak_public();
    // Offsets in a `TPMS_ATTEST` (TPM 2.0 Library, Part 2, 10.12.12) of 16 registers of one bank, from its end.
    let (digest, bitmap, bank, count) = (34, 34 + 3, 34 + 3 + 3, 34 + 3 + 3 + 4);
    let at = |from_end: usize, value: u8| -> Change {
        Box::new(move |quote| {
            let place = quote.len() - from_end;
            quote[place] = value;
        })
    };
    let sha256 = [0x00, 0x0b];
    let table: Vec<(&str, Change, [u8; 2], Option<&str>)> = vec![
        ("right-but-the-key", Box::new(|_| {}), sha256, None),
        ("no-tpm-made-it", Box::new(|quote| quote[0] ^= 1), sha256, Some("tpm.quote.magic")),
        ("no-quote", Box::new(|quote| quote[5] = 0x17), sha256, Some("tpm.quote.type")),
        ("more-behind-it", Box::new(|quote| quote.push(0)), sha256, Some("tpm.quote.structure")),
        ("cut-off", Box::new(|quote| quote.truncate(quote.len() - 1)), sha256, Some("tpm.quote.structure")),
        ("fewer-registers", at(bitmap, 0xfe), sha256, Some("tpm.quote.selection")),
        ("sha-1-bank", at(bank - 1, 0x04), sha256, Some("tpm.quote.selection")),
        (
            "selection-twice",
            Box::new(move |quote| {
                let start = quote.len() - bank;
                let one = quote[start..start + 6].to_vec();
                let place = quote.len() - count + 3;
                quote[place] = 2;
                quote.splice(start..start, one);
            }),
            sha256,
            Some("tpm.quote.selection"),
        ),
        (
            "another-digest",
            Box::new(move |quote| {
                let place = quote.len() - (digest - 2);
                quote[place] ^= 1;
            }),
            sha256,
            Some("tpm.quote.digest"),
        ),
        ("sha-1-in-the-signature", Box::new(|_| {}), [0x00, 0x04], Some("tpm.signature")),
        ("sha-384-in-the-signature", Box::new(|_| {}), [0x00, 0x0c], Some("tpm.signature")),
    ];
    for (name, change, hash, more) in &table {
        let mut machine = scene.worker_like(&first, name).await.unwrap();
        let mut hello = machine.hello(Purpose::Join).unwrap();
        hello.ak_public = dressed_up(&genuine, &pair);
        let mut channel = machine.connect(scene.verifier).await.unwrap();
        channel.send(&hello).await.unwrap();
        let mut forger = Forger { pair: &pair, tpm: &mut machine.tpm, change, hash: *hash };
        let result = session::prove(&mut channel, &hello, VerifierRole::Cluster, &mut forger).await;
        let id = refusal(result.map(|_| panic!("{name}: accepted")));
        let expected: Vec<&str> = more.iter().copied().chain(["tpm.ak.credential"]).collect();
        scene.assert_told(&hello.node_uid, &id, &expected).await;
    }
    first.join(scene.verifier).await.unwrap();
}

/// A CA for endorsement keys, and what it issues for the key in `spki` between two years.
pub fn endorsement(ca: &Issuer<'_, KeyPair>, spki: &[u8], from: i32, until: i32) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "a TPM");
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let key = SubjectPublicKeyInfo::from_der(spki).unwrap();
    params.signed_by(&key, ca).unwrap().der().to_vec()
}

pub fn given_maker() -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "a maker of TPMs");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    (pem, Issuer::new(params, key))
}

fn spki(certificate: &[u8]) -> Vec<u8> {
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(certificate).unwrap();
    certificate.public_key().raw.to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endorsement_by_another_maker_out_of_its_time_or_for_another_key_is_refused() {
    let (scene, mut first) = Scene::with_worker("maker").await.unwrap();
    let ((root, maker), (_, stranger)) = (given_maker(), given_maker());
    let mut trusted = policy(2, &[]).unwrap();
    trusted.endorsement_roots = vec![root];
    scene.publish(&dsse::sign(TRUST_POLICY_TYPE, &serde_json::to_vec(&trusted).unwrap(), &scene.owner)).await.unwrap();
    let own = spki(&first.tpm.ek_certificate().unwrap());
    let other = KeyPair::generate().unwrap();
    let other = rcgen::PublicKeyData::subject_public_key_info(&other);
    for (name, certificate) in [
        ("another-maker", endorsement(&stranger, &own, 2020, 2090)),
        ("expired", endorsement(&maker, &own, 2020, 2021)),
        ("not-yet-valid", endorsement(&maker, &own, 2080, 2090)),
        ("another-key", endorsement(&maker, &other, 2020, 2090)),
        ("no-certificate", vec![0x30, 0]),
    ] {
        let mut machine = scene.worker_like(&first, name).await.unwrap();
        let show = |hello: &mut Hello| hello.ek_certificate.clone_from(&certificate);
        let id = refusal(machine.join_altered(scene.verifier, show, |_| {}).await);
        scene.assert_told(&machine.launch.node_uid, &id, &["tpm.ek.certificate"]).await;
    }
    let good = endorsement(&maker, &own, 2020, 2090);
    first.join_altered(scene.verifier, |hello| hello.ek_certificate.clone_from(&good), |_| {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_field_of_the_launch_configuration_is_measured() {
    let (scene, mut first) = Scene::with_worker("launch-fields").await.unwrap();
    let fields: [(&str, LaunchChange); 5] = [
        ("cluster-uid", |launch| launch.cluster_uid.push('0')),
        ("node-uid", |launch| launch.node_uid = "uid-worker-2".to_owned()),
        ("node-name", |launch| launch.node_name = "worker-2".to_owned()),
        ("role", |launch| launch.role = Role::ControlPlane),
        ("owner", |launch| launch.owner_public_key.insert(0, 'A')),
    ];
    for (name, change) in fields {
        let launch = scene.launch(name, Role::Worker);
        scene.announce(&launch).await.unwrap();
        let mut measured = launch.clone();
        change(&mut measured);
        let mut machine = Machine::boot_like(&first, &measured).unwrap();
        machine.launch.clone_from(&launch);
        let id = refusal(machine.join(scene.verifier).await);
        scene.assert_told(&launch.node_uid, &id, &["tpm.pcr.15"]).await;
    }
    first.join(scene.verifier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_no_ticket_and_no_disk_key_under_another_nodes_uid() {
    let (scene, mut machine) = Scene::with_worker("other-uid").await.unwrap();
    scene.announce(&scene.launch("worker-2", Role::Worker)).await.unwrap();
    let other = |hello: &mut Hello| "uid-worker-2".clone_into(&mut hello.node_uid);
    let id = refusal(machine.join_altered(scene.verifier, other, |_| {}).await);
    scene.assert_told("uid-worker-2", &id, &["tpm.pcr.15"]).await;
    machine.join(scene.verifier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_whose_state_was_put_back_is_refused() {
    let (scene, mut machine) = Scene::with_worker("put-back").await.unwrap();
    let earlier = machine.copy_of_tpm().unwrap();
    let mut machine = {
        machine.join(scene.verifier).await.unwrap();
        machine.reboot().unwrap().reboot().unwrap()
    };
    machine.join(scene.verifier).await.unwrap();
    let mut machine = machine.reboot_from(&earlier).unwrap();
    let id = refusal(machine.join(scene.verifier).await);
    scene.assert_listed(WORKER, &id, &["admission.reset-count"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_other_names_and_usages_gets_the_admitted_name() {
    let (scene, mut machine) = Scene::with_worker("greedy").await.unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["kube-apiserver".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let request = params.serialize_request(&key).unwrap().der().to_vec();
    let greedy = |hello: &mut Hello| hello.keys.csr.clone_from(&request);
    let ticket = machine.join_altered(scene.verifier, greedy, |_| {}).await.unwrap();
    let pem = x509_parser::pem::parse_x509_pem(ticket.kubelet_certificate.as_bytes()).unwrap().1;
    let certificate = pem.parse_x509().unwrap();
    assert_eq!(certificate.subject().to_string(), "O=system:nodes, CN=system:node:worker-1");
    assert!(certificate.subject_alternative_name().unwrap().is_none() && !certificate.is_ca());
    let usages = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usages.client_auth && !usages.server_auth && !usages.any);
    // One that its key didn't sign.
    let mut broken = request.clone();
    *broken.last_mut().unwrap() ^= 1;
    let unsigned = |hello: &mut Hello| hello.keys.csr.clone_from(&broken);
    let id = refusal(machine.join_altered(scene.verifier, unsigned, |_| {}).await);
    scene.assert_listed(WORKER, &id, &["ticket"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workers_certificate_and_the_verifiers_change_neither_admissions_nor_trust() {
    let (scene, mut machine) = Scene::with_worker("rights").await.unwrap();
    let worker = workers_client(&scene, &mut machine).await;
    let control_plane = cluster::shared();
    let verifier = control_plane.client(&control_plane.kubeconfig("verifier")).await.unwrap();
    let promote = Patch::Merge(json!({ "spec": { "role": "control-plane" } }));
    let distrust = Patch::Merge(json!({ "spec": { "envelope": "{}" } }));
    let params = PatchParams::default();
    for client in [worker, verifier] {
        let nodes = scene.nodes_of(client.clone());
        let refused = nodes.patch(WORKER, &params, &promote).await.unwrap_err();
        assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
        let bundles: Api<TrustBundle> = Api::namespaced(client, scene.namespace());
        let refused = bundles.patch("constellation", &params, &distrust).await.unwrap_err();
        assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workers_certificate_lists_the_admissions_of_its_mesh_and_reads_nothing_beside_them() {
    let (scene, mut machine) = Scene::with_worker("mesh-rights").await.unwrap();
    let client = workers_client(&scene, &mut machine).await;
    let all = ListParams::default();
    // Where the operator keeps those of a cluster; the mesh asks there.
    let nodes: Api<NodeAdmission> = Api::namespaced(client.clone(), "kube-system");
    nodes.list(&all).await.unwrap();
    let bundles: Api<TrustBundle> = Api::namespaced(client.clone(), "kube-system");
    let refused = [
        scene.nodes_of(client).list(&all).await.map(drop),
        nodes.get(WORKER).await.map(drop),
        bundles.list(&all).await.map(drop),
    ];
    for refused in refused {
        assert!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 403), "{refused:?}");
    }
}

/// A client with the certificate that a worker's kubelet got.
async fn workers_client(scene: &Scene, machine: &mut Machine) -> Client {
    let ticket: Ticket = machine.join(scene.verifier).await.unwrap();
    let (certificate, key) = (scene.folder.path().join("kubelet.crt"), scene.folder.path().join("kubelet.key"));
    std::fs::write(&certificate, &ticket.kubelet_certificate).unwrap();
    std::fs::write(&key, machine.secrets.kubelet_key_pem().as_bytes()).unwrap();
    let control_plane = cluster::shared();
    control_plane.client(&control_plane.kubeconfig_of(&certificate, &key)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_is_empty_unsigned_or_edited_in_place_trusts_nobody() {
    let (scene, mut first) = Scene::with_worker("edited").await.unwrap();
    let good = scene.envelope().await.unwrap();
    let altered = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut envelope: serde_json::Value = serde_json::from_str(&good).unwrap();
        change(&mut envelope);
        envelope.to_string()
    };
    for (name, envelope) in [
        ("no-json", "trust me".to_owned()),
        ("nothing-in-it", "{}".to_owned()),
        ("no-signature", altered(&|envelope| envelope["signatures"] = json!([]))),
        ("another-type", altered(&|envelope| envelope["payloadType"] = json!("application/json"))),
        (
            "another-revision",
            altered(&|envelope| {
                use base64::{Engine as _, engine::general_purpose::STANDARD};
                let payload = STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
                let text = String::from_utf8(payload).unwrap().replace("\"revision\":1", "\"revision\":2");
                envelope["payload"] = json!(STANDARD.encode(text));
            }),
        ),
    ] {
        scene.publish(&envelope).await.unwrap();
        let mut machine = scene.worker_like(&first, name).await.unwrap();
        let id = refusal(machine.join(scene.verifier).await);
        scene.assert_told(&machine.launch.node_uid, &id, &["trust.signature"]).await;
    }
    scene.publish(&good).await.unwrap();
    first.join(scene.verifier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_say_nothing_too_little_or_too_much_are_left_and_keep_nobody_out() {
    let (scene, mut machine) = Scene::with_worker("crowd").await.unwrap();
    let hello = machine.hello(Purpose::Join).unwrap();
    let mut early = bare(scene.verifier).await.unwrap();
    let mut silent = Vec::new();
    // More than the verifier keeps.
    for _ in 0..520 {
        silent.push(from_elsewhere(scene.verifier).await.unwrap());
    }
    // The crowd is connected, and the honest node's first try succeeds, as does one that began before it.
    machine.join(scene.verifier).await.unwrap();
    challenged_bare(&mut early, &hello).await.unwrap();
    let mut slow = bare(scene.verifier).await.unwrap();
    slow.write_all(&[0, 0]).await.unwrap();
    let mut long = bare(scene.verifier).await.unwrap();
    long.write_all(&u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes()).await.unwrap();
    let limit = Duration::from_secs(30);
    let mut byte = [0];
    assert!(closed(&timeout(limit, long.read(&mut byte)).await.unwrap()));
    assert!(closed(&timeout(limit, slow.read(&mut byte)).await.unwrap()));
    for mut stream in silent {
        assert!(closed(&timeout(limit, stream.read(&mut byte)).await.unwrap()));
    }
    machine.join(scene.verifier).await.unwrap();
}

/// Sends a byte each second until the other end closes.
async fn drip(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut byte = [0];
    loop {
        tokio::select! {
            end = stream.read(&mut byte) => {
                assert!(closed(&end), "it answered");
                return;
            }
            _ = second.tick() => {
                if stream.write_all(&[0]).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_a_byte_each_second_is_left_at_the_limit_of_its_step() {
    let (scene, mut machine) = Scene::with_worker("drips").await.unwrap();
    // A record of 512 bytes, of which none is a ClientHello's end.
    let mut handshake = TcpStream::connect(scene.verifier).await.unwrap();
    handshake.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
    let mut hello = bare(scene.verifier).await.unwrap();
    hello.write_all(&1000_u32.to_be_bytes()).await.unwrap();
    let mut evidence = bare(scene.verifier).await.unwrap();
    challenged_bare(&mut evidence, &machine.hello(Purpose::Join).unwrap()).await.unwrap();
    evidence.write_all(&1000_u32.to_be_bytes()).await.unwrap();
    // Whoever shares its time among bytes would be heard for a quarter of an hour.
    let slack = Duration::from_secs(15);
    let (handshake, hello, evidence) = tokio::join!(
        timeout(STEP_TIMEOUT + slack, drip(handshake)),
        timeout(STEP_TIMEOUT + slack, drip(hello)),
        timeout(EVIDENCE_TIMEOUT + slack, drip(evidence)),
    );
    assert!(handshake.is_ok() && hello.is_ok() && evidence.is_ok(), "{handshake:?} {hello:?} {evidence:?}");
    let told = scene.refusals(WORKER, |_| true).await;
    assert_eq!(told.last.mismatches[0].clause, "evidence.late");
    machine.join(scene.verifier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_the_uid_of_one_node_takes_no_place_from_the_others() {
    let (scene, mut machine) = Scene::with_worker("places").await.unwrap();
    let launch = scene.launch("worker-2", Role::Worker);
    scene.announce(&launch).await.unwrap();
    let mut other = Machine::boot_like(&machine, &launch).unwrap();
    let hello = machine.hello(Purpose::Join).unwrap();
    // The node itself, which is slow.
    let mut slow = bare(scene.verifier).await.unwrap();
    challenged_bare(&mut slow, &hello).await.unwrap();
    let mut crowd = Vec::new();
    // More than there are places for joins that are past their Hello; each has its turn, and displaces an older one.
    for _ in 0..40 {
        let mut stream = bare_on(from_elsewhere(scene.verifier).await.unwrap()).await.unwrap();
        challenged_bare(&mut stream, &hello).await.unwrap();
        crowd.push(stream);
    }
    other.join(scene.verifier).await.unwrap();
    machine.join(scene.verifier).await.unwrap();
    // Of eight turns the node took two.
    let newest = crowd.split_off(34);
    for stream in &mut crowd {
        let end = timeout(Duration::from_secs(30), stream.read(&mut [0])).await.unwrap();
        assert!(closed(&end));
    }
    for mut stream in newest.into_iter().chain([slow]) {
        assert!(timeout(Duration::from_millis(50), stream.read(&mut [0])).await.is_err(), "still open");
    }
    let told = scene.refusals(WORKER, |_| true).await;
    assert_eq!(told.last.mismatches[0].clause, "evidence.late");
}

/// Says Hello and reads the challenge.
async fn challenged_bare(stream: &mut TlsStream<TcpStream>, hello: &Hello) -> io::Result<()> {
    let hello = serde_json::to_vec(hello).unwrap();
    stream.write_all(&u32::try_from(hello.len()).unwrap().to_be_bytes()).await?;
    stream.write_all(&hello).await?;
    let mut challenge = vec![0; usize::try_from(stream.read_u32().await?).unwrap()];
    stream.read_exact(&mut challenge).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_of_more_than_a_mebibyte_is_not_read() {
    let (scene, mut machine) = Scene::with_worker("too-long").await.unwrap();
    let mut stream = bare(scene.verifier).await.unwrap();
    challenged_bare(&mut stream, &machine.hello(Purpose::Join).unwrap()).await.unwrap();
    stream.write_all(&u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes()).await.unwrap();
    let end = timeout(Duration::from_secs(30), stream.read(&mut [0])).await.unwrap();
    assert!(closed(&end));
    let told = scene.refusals(WORKER, |_| true).await;
    assert_eq!(told.last.mismatches[0].clause, "evidence.malformed");
    assert_eq!(scene.status(WORKER).await.unwrap().admission, None);
    machine.join(scene.verifier).await.unwrap();
}
