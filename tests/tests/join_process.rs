//! Joins with everything real but the VM: an API server, the verifier's process, TPMs, attested TLS.
//!
//! Tests come in pairs: the good one gets its ticket, and with exactly one thing wrong it gets none.

// The lint lets only test functions panic, not what they share.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "join_process/attacks.rs"]
mod attacks;
#[path = "join_process/bootstrapper.rs"]
mod bootstrapper;
#[path = "join_process/clock.rs"]
mod clock;
#[path = "join_process/cluster.rs"]
mod cluster;
#[path = "join_process/crowd.rs"]
mod crowd;
#[path = "join_process/deaths.rs"]
mod deaths;
#[path = "join_process/event_log.rs"]
mod event_log;
#[path = "join_process/files.rs"]
mod files;
#[path = "join_process/gate.rs"]
mod gate;
#[path = "join_process/hostile.rs"]
mod hostile;
#[path = "join_process/keys.rs"]
mod keys_of_tpms;
#[path = "join_process/machine.rs"]
mod machine;
#[path = "join_process/owner.rs"]
mod owner;
#[path = "join_process/power.rs"]
mod power;
#[path = "join_process/refusals.rs"]
mod refusals;
#[path = "join_process/scene.rs"]
mod scene;
#[path = "join_process/secrets.rs"]
mod secrets;
#[path = "join_process/soft_tpm.rs"]
mod soft_tpm;
// Shared with the tests of renewals, which ask whether it is dead.
#[allow(dead_code)]
#[path = "join_process/victim.rs"]
mod victim;
#[path = "join_process/watches.rs"]
mod watches;

use std::time::Duration;

use constellation_attestation::{
    binding::VerifierRole,
    channel, dsse, keys,
    owner::SigningKey,
    policy::TRUST_POLICY_TYPE,
    protocol::{Evidence, Hello, Purpose, Role, Ticket, Verdict},
    session::{self, Attester as _},
};
use constellation_crds::{NodeAdmission, NodeAdmissionStatus, node::AttestationResult};
use constellation_tests::{agent::IMAGE, kubeadm::KUBELET_CONFIG};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    machine::{Borrowed, Machine},
    scene::{CLUSTER_ID, DISK_SECRET, Scene, but_its_ticket, policy},
};

const WORKER: &str = "uid-worker-1";
/// The good image's boot loader with another kernel.
const OTHER_IMAGE: [(u8, [u8; 32]); 2] = [IMAGE[0], (11, [0xbb; 32])];

/// Changes evidence, with older evidence of the same machine and of another one at hand.
type EvidenceChange = fn(&mut Evidence, &[Evidence; 2]);
type HelloChange = fn(&mut Hello);

fn refusal(result: Result<Ticket, session::Error>) -> String {
    match result {
        Err(session::Error::Refused { id }) => id,
        Err(error) => panic!("no refusal but {error:?}"),
        Ok(_) => panic!("no refusal but a ticket"),
    }
}

/// Asserts that the node was refused for exactly these clauses, under the id that it was told, and not recorded.
async fn assert_refused(scene: &Scene, result: Result<Ticket, session::Error>, clauses: &[&str]) {
    scene.assert_told(WORKER, &refusal(result), clauses).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_worker_is_recorded_and_gets_a_ticket_for_its_own_name() {
    let (scene, mut machine) = Scene::with_worker("honest").await.unwrap();
    let ticket = machine.join(scene.verifier).await.unwrap();
    assert_eq!(ticket.disk_key, keys::disk_key(&DISK_SECRET, WORKER).to_vec());
    assert_eq!((ticket.cluster_id.as_slice(), ticket.kubelet_config.as_str()), (CLUSTER_ID.as_slice(), KUBELET_CONFIG));
    assert_eq!(
        (ticket.node.node_name.as_str(), ticket.node.provider_id.as_str()),
        ("worker-1", "local://uid-worker-1")
    );
    assert!(ticket.control_plane.is_none());

    let status = scene.status(WORKER).await.unwrap();
    let admission = status.admission.unwrap();
    assert!(!admission.ak_name.is_empty() && !admission.ek_certificate_digest.is_empty());
    assert_eq!(admission.address, "127.0.0.1");
    let last = status.last_appraisal.unwrap();
    let expected = AttestationResult {
        verdict: "Accepted".to_owned(),
        platform: "qemu-vtpm".to_owned(),
        measurement_set: Some("good".to_owned()),
        trust_revision: Some(1),
        ..AttestationResult::default()
    };
    assert_eq!(AttestationResult { time: None, evidence_digest: None, ..last }, expected);

    // The API server itself says who the ticket makes of its holder.
    let control_plane = cluster::shared();
    let (certificate, key) = (scene.folder.path().join("kubelet.crt"), scene.folder.path().join("kubelet.key"));
    std::fs::write(&certificate, &ticket.kubelet_certificate).unwrap();
    std::fs::write(&key, machine.secrets.kubelet_key_pem().as_bytes()).unwrap();
    let kubelet = control_plane.client(&control_plane.kubeconfig_of(&certificate, &key)).await.unwrap();
    let review: SelfSubjectReview = serde_json::from_value(json!({})).unwrap();
    let who = Api::all(kubelet).create(&PostParams::default(), &review).await.unwrap();
    let who = who.status.unwrap().user_info.unwrap();
    assert_eq!(who.username.as_deref(), Some("system:node:worker-1"));
    assert!(who.groups.unwrap().contains(&"system:nodes".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_without_a_kubeconfig_makes_itself_a_certificate() {
    let (mut scene, mut machine) = Scene::with_worker("certificate").await.unwrap();
    std::fs::remove_file(scene.folder.path().join("verifier.conf")).unwrap();
    scene.restart_verifier().await.unwrap();
    machine.join(scene.verifier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_node_gets_what_makes_one() {
    let scene = Scene::start("control-plane", &[]).await.unwrap();
    let mut machine = Machine::boot(&scene.launch("cp-1", Role::ControlPlane)).unwrap();
    scene.trust(1, &[&machine]).await.unwrap();
    scene.announce(&machine.launch).await.unwrap();
    let ticket = machine.join(scene.verifier).await.unwrap();
    let material = ticket.control_plane.as_ref().unwrap();
    assert_eq!(material.disk_secret, DISK_SECRET);
    assert!(material.pki["ca.key"].contains("PRIVATE KEY") && material.pki.len() == 8);
    assert!(material.verifier_ca_key.contains("PRIVATE KEY") && material.admin_kubeconfig.contains("admin.key"));
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_with_one_part_removed_or_replaced_gets_no_ticket() {
    let (scene, mut first) = Scene::with_worker("evidence").await.unwrap();
    let mut other = Machine::boot(&first.launch).unwrap();
    // Genuine, and made for another conversation.
    let (binding, secret) = ([7; 32], vec![7; 32]);
    let foreign = other.tpm.evidence(&binding, secret.clone()).unwrap();
    let table: [(&str, EvidenceChange, &[&str]); 13] = [
        ("quote-removed", |shown, _| shown.quote.clear(), &["tpm.signature", "tpm.quote.structure"]),
        ("quote-altered", |shown, _| shown.quote[20] ^= 1, &["tpm.signature"]),
        ("quote-longer", |shown, _| shown.quote.push(0), &["tpm.signature", "tpm.quote.structure"]),
        (
            "quote-replayed",
            |shown, [earlier, _]| {
                shown.quote.clone_from(&earlier.quote);
                shown.signature.clone_from(&earlier.signature);
            },
            &["tpm.quote.nonce"],
        ),
        ("all-replayed", |shown, [earlier, _]| shown.clone_from(earlier), &["tpm.quote.nonce", "tpm.ak.credential"]),
        ("signature-removed", |shown, _| shown.signature.clear(), &["tpm.signature"]),
        ("signature-altered", |shown, _| *shown.signature.last_mut().unwrap() ^= 1, &["tpm.signature"]),
        (
            "registers-removed",
            |shown, _| shown.pcrs.clear(),
            &["tpm.quote.digest", "tpm.pcr.15", "tpm.pcr.4", "tpm.pcr.11", "tpm.pcr.12", "tpm.pcr.13"],
        ),
        (
            "registers-in-another-order",
            |shown, _| shown.pcrs[4 * 32..12 * 32].rotate_left(32),
            &["tpm.quote.digest", "tpm.pcr.4", "tpm.pcr.11"],
        ),
        ("register-altered", |shown, _| shown.pcrs[11 * 32] ^= 1, &["tpm.quote.digest", "tpm.pcr.11"]),
        ("credential-unopened", |shown, _| shown.activated.clear(), &["tpm.ak.credential"]),
        ("credential-guessed", |shown, _| shown.activated = vec![0; 32], &["tpm.ak.credential"]),
        (
            "another-tpms",
            |shown, [_, foreign]| shown.clone_from(foreign),
            &["tpm.signature", "tpm.quote.nonce", "tpm.ak.credential", "tpm.pcr.15"],
        ),
    ];
    for (name, change, clauses) in table {
        let mut machine = scene.worker_like(&first, name).await.unwrap();
        let recorded = [machine.tpm.evidence(&binding, secret.clone()).unwrap(), foreign.clone()];
        let result = machine.join_altered(scene.verifier, |_| {}, |shown| change(shown, &recorded)).await;
        scene.assert_told(&machine.launch.node_uid, &refusal(result), clauses).await;
    }
    first.join(scene.verifier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attestation_key_of_another_tpm_is_refused() {
    let (scene, mut machine) = Scene::with_worker("other-ak").await.unwrap();
    let mut other = Machine::boot(&machine.launch).unwrap();
    // The trusted TPM's certificate, and everything else from a TPM that nobody trusts.
    let mut hello = machine.hello(Purpose::Join).unwrap();
    hello.ak_public = other.tpm.ak_public();
    let mut channel = machine.connect(scene.verifier).await.unwrap();
    channel.send(&hello).await.unwrap();
    let mut attester = Borrowed { endorsed: &mut machine.tpm, signer: &mut other.tpm };
    let result = session::prove(&mut channel, &hello, VerifierRole::Cluster, &mut attester).await;
    assert_refused(&scene, result.map(|_| panic!("accepted")), &["tpm.ak.credential"]).await;
    machine.join(scene.verifier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_log_proves_nothing_either_way() {
    let (scene, mut machine) = Scene::with_worker("event-log").await.unwrap();
    machine.join_altered(scene.verifier, |_| {}, |evidence| evidence.event_log = vec![0xff; 512]).await.unwrap();
    let launch = scene.launch("worker-2", Role::Worker);
    scene.announce(&launch).await.unwrap();
    let mut bad = Machine::boot_like_measuring(&machine, &launch, &OTHER_IMAGE).unwrap();
    let result = bad.join_altered(scene.verifier, |_| {}, |evidence| evidence.event_log = Vec::new()).await;
    scene.assert_told(&launch.node_uid, &refusal(result), &["tpm.pcr.11"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_image_is_refused_and_the_register_is_named() {
    let (scene, mut good) = Scene::with_worker("image").await.unwrap();
    let launch = scene.launch("worker-2", Role::Worker);
    scene.announce(&launch).await.unwrap();
    let mut machine = Machine::boot_like_measuring(&good, &launch, &OTHER_IMAGE).unwrap();
    let id = refusal(machine.join(scene.verifier).await);
    scene.assert_told(&launch.node_uid, &id, &["tpm.pcr.11"]).await;
    good.join(scene.verifier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admission_with_another_role_than_was_measured_is_refused() {
    let (scene, mut first) = Scene::with_worker("role").await.unwrap();
    let launch = scene.launch("worker-2", Role::Worker);
    let mut machine = Machine::boot_like(&first, &launch).unwrap();
    scene.announce_as(&launch, Role::ControlPlane).await.unwrap();
    let id = refusal(machine.join(scene.verifier).await);
    scene.assert_told(&launch.node_uid, &id, &["tpm.pcr.15", "admission.launch-config"]).await;
    first.join(scene.verifier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_that_nobody_trusted_endorses_is_refused() {
    let scene = Scene::start("endorsement", &[]).await.unwrap();
    let trusted = Machine::boot(&scene.launch("worker-2", Role::Worker)).unwrap();
    let mut machine = Machine::boot(&scene.launch("worker-1", Role::Worker)).unwrap();
    scene.trust(1, &[&trusted]).await.unwrap();
    scene.announce(&machine.launch).await.unwrap();
    let result = machine.join(scene.verifier).await;
    assert_refused(&scene, result, &["tpm.ek.certificate"]).await;
    scene.trust(2, &[&trusted, &machine]).await.unwrap();
    machine.join(scene.verifier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_owner_does_not_talk_to_this_verifier() {
    let (scene, mut machine) = Scene::with_worker("owner").await.unwrap();
    let ours = machine.launch.clone();
    machine.launch = scene::launch_config(&SigningKey::generate().unwrap(), "worker-1", Role::Worker);
    let error = machine.connect(scene.verifier).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, channel::Error::Handshake(_)), "{error:?}");
    machine.launch = ours;
    machine.join(scene.verifier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_box_does_not_open() {
    let (scene, mut machine) = Scene::with_worker("box").await.unwrap();
    let (verdict, binding) = machine.converse(scene.verifier, |_| {}, |_| {}).await.unwrap();
    let Verdict::Sealed { encapsulated, ciphertext } = verdict.clone() else { panic!("no box") };
    let opener = &machine.secrets.opener;
    let mut altered = ciphertext.clone();
    altered[0] ^= 1;
    let altered = Verdict::Sealed { encapsulated: encapsulated.clone(), ciphertext: altered };
    assert!(session::unseal::<Ticket>(&altered, &binding, opener).is_err());
    assert!(session::unseal::<Ticket>(&verdict, &[0; 32], opener).is_err());
    // A box of an earlier conversation of the same boot.
    let (_, other) = machine.converse(scene.verifier, |_| {}, |_| {}).await.unwrap();
    let opener = &machine.secrets.opener;
    assert!(session::unseal::<Ticket>(&verdict, &other, opener).is_err());
    assert!(session::unseal::<Ticket>(&Verdict::Accepted {}, &binding, opener).is_err());
    session::unseal::<Ticket>(&verdict, &binding, opener).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_for_another_purpose_or_keys_gets_no_ticket() {
    let (scene, mut first) = Scene::with_worker("purpose").await.unwrap();
    let cluster = VerifierRole::Cluster;
    // The Hello that was sent says one thing, the evidence is about another.
    let bound: [(&str, VerifierRole, HelloChange); 9] = [
        ("init", cluster, |hello| hello.purpose = Purpose::Init),
        ("leave", cluster, |hello| hello.purpose = Purpose::Leave),
        ("reattest", cluster, |hello| hello.purpose = Purpose::Reattest),
        ("recover", cluster, |hello| hello.purpose = Purpose::Recover),
        ("for-the-owner", VerifierRole::Owner, |_| {}),
        ("another-cluster", cluster, |hello| hello.cluster_uid = "other".to_owned()),
        ("another-encryption-key", cluster, |hello| hello.keys.encryption = vec![9; 32]),
        ("another-wireguard-key", cluster, |hello| hello.keys.wireguard = vec![9; 32]),
        ("another-node", cluster, |hello| hello.node_uid = "uid-worker-1".to_owned()),
    ];
    for (name, role, change) in bound {
        let mut machine = scene.worker_like(&first, name).await.unwrap();
        let hello = machine.hello(Purpose::Join).unwrap();
        let mut other = hello.clone();
        change(&mut other);
        let mut channel = machine.connect(scene.verifier).await.unwrap();
        channel.send(&hello).await.unwrap();
        let result = session::prove(&mut channel, &other, role, &mut machine.tpm).await;
        let id = refusal(result.map(|_| panic!("{name}: accepted")));
        scene.assert_told(&hello.node_uid, &id, &["tpm.quote.nonce"]).await;
    }
    first.join(scene.verifier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_machine_for_the_same_node_is_refused_and_raises_an_alarm() {
    let (scene, mut machine) = Scene::with_worker("second-key").await.unwrap();
    let mut double = Machine::boot(&machine.launch).unwrap();
    scene.trust(2, &[&machine, &double]).await.unwrap();
    machine.join(scene.verifier).await.unwrap();
    let admission = scene.status(WORKER).await.unwrap().admission;
    let id = refusal(double.join(scene.verifier).await);
    scene.assert_listed(WORKER, &id, &["admission.second-key", "admission.second-tpm"]).await;
    assert_eq!(scene.status(WORKER).await.unwrap().admission, admission);
    machine.join(scene.verifier).await.unwrap();
    assert_eq!(scene.status(WORKER).await.unwrap().last_appraisal.unwrap().verdict, "Accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_nonsense_does_not_make_a_member_look_bad() {
    let (scene, mut machine) = Scene::with_worker("nonsense").await.unwrap();
    let mut stranger = Machine::boot(&machine.launch).unwrap();
    machine.join(scene.verifier).await.unwrap();
    let before = scene.status(WORKER).await.unwrap();
    let first = refusal(stranger.join(scene.verifier).await);
    let second = refusal(machine.join_altered(scene.verifier, |_| {}, |evidence| evidence.signature.clear()).await);
    assert!(first != second);
    // Both are counted and the last one is shown, beside an admission and an appraisal that stay as they were.
    let told = scene.refusals(WORKER, |told| told.count == 2).await;
    assert_eq!(told.last.refusal_id.as_ref(), Some(&second));
    scene.assert_listed(WORKER, &first, &["tpm.ek.certificate"]).await;
    scene.assert_listed(WORKER, &second, &["tpm.signature"]).await;
    let after = scene.status(WORKER).await.unwrap();
    assert_eq!(NodeAdmissionStatus { refusals: None, ..after }, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_returns_after_a_reboot_with_new_keys_and_the_same_disk_key() {
    let (scene, mut machine) = Scene::with_worker("reboot").await.unwrap();
    let first = machine.join(scene.verifier).await.unwrap();
    let before = scene.status(WORKER).await.unwrap().admission.unwrap();
    let mut machine = machine.reboot().unwrap();
    let second = machine.join(scene.verifier).await.unwrap();
    let after = scene.status(WORKER).await.unwrap().admission.unwrap();
    assert_eq!(first.disk_key, second.disk_key);
    assert_eq!((&before.ak_name, &before.admitted_at), (&after.ak_name, &after.admitted_at));
    assert!(after.reset_count > before.reset_count);
    assert!(after.wireguard_key != before.wireguard_key);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_lost_between_record_and_delivery_is_given_again_and_only_its_certificate_is_another() {
    let (scene, mut machine) = Scene::with_worker("lost").await.unwrap();
    let (verdict, binding) = machine.converse(scene.verifier, |_| {}, |_| {}).await.unwrap();
    let lost: Ticket = session::unseal(&verdict, &binding, &machine.secrets.opener).unwrap();
    let before = scene.node(WORKER).await.unwrap();
    let again = machine.join(scene.verifier).await.unwrap();
    assert_eq!(lost.disk_key, again.disk_key);
    let after = scene.node(WORKER).await.unwrap();
    let certificate =
        |node: &NodeAdmission| node.status.clone().unwrap().admission.unwrap().kubelet_certificate.unwrap();
    // It may have got either of them.
    assert_eq!(certificate(&after).previous, Some(certificate(&before).current));
    assert_eq!(but_its_ticket(after), but_its_ticket(before));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_member_is_refused() {
    let (scene, mut machine) = Scene::with_worker("evicted").await.unwrap();
    machine.join(scene.verifier).await.unwrap();
    let evicted = Patch::Merge(json!({ "spec": { "evicted": true } }));
    scene.nodes().patch(WORKER, &PatchParams::default(), &evicted).await.unwrap();
    let id = refusal(machine.join(scene.verifier).await);
    scene.assert_listed(WORKER, &id, &["admission.evicted"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_bundle_trusts_nobody() {
    let (scene, mut machine) = Scene::with_worker("unsigned").await.unwrap();
    let stranger = SigningKey::generate().unwrap();
    let payload = serde_json::to_vec(&policy(2, &[&machine]).unwrap()).unwrap();
    scene.publish(&dsse::sign(TRUST_POLICY_TYPE, &payload, &stranger)).await.unwrap();
    let result = machine.join(scene.verifier).await;
    assert_refused(&scene, result, &["trust.signature"]).await;
    scene.trust(2, &[&machine]).await.unwrap();
    machine.join(scene.verifier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_bundle_is_refused_even_after_a_restart() {
    let (mut scene, mut machine) = Scene::with_worker("older").await.unwrap();
    scene.trust(5, &[&machine]).await.unwrap();
    machine.converse(scene.verifier, |_| {}, |evidence| evidence.signature.clear()).await.unwrap_err();
    scene.trust(4, &[&machine]).await.unwrap();
    scene.restart_verifier().await.unwrap();
    let result = machine.join(scene.verifier).await;
    assert_refused(&scene, result, &["trust.revision"]).await;
    scene.trust(5, &[&machine]).await.unwrap();
    machine.join(scene.verifier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_asked_again_shows_evidence_for_nothing_else() {
    let scene = Scene::start("member-purposes", &["--reattest-seconds=1"]).await.unwrap();
    let mut machine = Machine::boot(&scene.launch("worker-1", Role::Worker)).unwrap();
    scene.trust(1, &[&machine]).await.unwrap();
    scene.announce(&machine.launch).await.unwrap();
    machine.join(scene.verifier).await.unwrap();
    machine.tpm.extend_pcr15(&CLUSTER_ID).unwrap();
    let before = scene.status(WORKER).await.unwrap();
    let listener = TcpListener::bind(("127.0.0.1", scene.bootstrapper_port)).await.unwrap();
    let mut refused = Vec::new();
    for shown in [Purpose::Init, Purpose::Join, Purpose::Leave, Purpose::Recover] {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = machine.answer(stream, shown).await;
        refused.push(refusal(answer.map(|_| panic!("{shown:?}: accepted"))));
    }
    let (stream, _) = listener.accept().await.unwrap();
    let (verdict, _) = machine.answer(stream, Purpose::Reattest).await.unwrap();
    assert_eq!(verdict, Verdict::Accepted {});
    for id in refused {
        scene.assert_listed(WORKER, &id, &["tpm.quote.nonce"]).await;
    }
    let after = scene.status(WORKER).await.unwrap();
    assert_eq!(
        NodeAdmissionStatus { refusals: None, ..after },
        before,
        "whoever answered, it says nothing about the member"
    );
}

/// Answers Reattest as a bootstrapper does; says how often it was asked and what the last verdict was.
async fn serve_reattest(listener: TcpListener, machine: &mut Machine, asked: &watch::Sender<(usize, bool)>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = machine.answer(stream, Purpose::Reattest).await;
        if matches!(answer, Ok(_) | Err(session::Error::Refused { .. })) {
            asked.send_modify(|(count, accepted)| {
                *count += 1;
                *accepted = answer.is_ok();
            });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_node_is_enrolled_and_members_are_asked_again_without_a_write_until_something_changes() {
    let scene = Scene::start("reattest", &["--reattest-seconds=1"]).await.unwrap();
    let mut machine = Machine::boot(&scene.launch("cp-0", Role::ControlPlane)).unwrap();
    machine.tpm.extend_pcr15(&CLUSTER_ID).unwrap();
    scene.trust(1, &[&machine]).await.unwrap();
    let listener = TcpListener::bind(("127.0.0.1", scene.bootstrapper_port)).await.unwrap();
    let (asked, mut answers) = watch::channel((0, false));
    scene.announce(&machine.launch).await.unwrap();
    let story = async {
        let enough = Duration::from_mins(1);
        let accepted = answers.wait_for(|(count, accepted)| *count >= 1 && *accepted);
        tokio::time::timeout(enough, accepted).await.unwrap().unwrap();
        let enrolled = scene.node("uid-cp-0").await.unwrap();
        assert!(enrolled.status.as_ref().unwrap().admission.is_some());
        let rounds = answers.wait_for(|(count, _)| *count >= 4);
        tokio::time::timeout(enough, rounds).await.unwrap().unwrap();
        assert_eq!(scene.node("uid-cp-0").await.unwrap(), enrolled);
        // The good image goes out of fashion: the next round sees it.
        let mut policy = policy(2, &[]).unwrap();
        policy.sets[0].pcrs.insert(11, vec!["00".repeat(32)]);
        policy.endorsement_roots = enrolled_roots(&scene).await;
        let payload = serde_json::to_vec(&policy).unwrap();
        scene.publish(&dsse::sign(TRUST_POLICY_TYPE, &payload, &scene.owner)).await.unwrap();
        let refused = answers.wait_for(|(_, accepted)| !*accepted);
        tokio::time::timeout(enough, refused).await.unwrap().unwrap();
        let last = scene.status("uid-cp-0").await.unwrap().last_appraisal.unwrap();
        scene.assert_listed("uid-cp-0", &last.refusal_id.unwrap(), &["tpm.pcr.11"]).await;
    };
    tokio::select! {
        () = story => {}
        () = serve_reattest(listener, &mut machine, &asked) => unreachable!("it serves for ever"),
    }
}

/// The roots in the bundle that is in force.
async fn enrolled_roots(scene: &Scene) -> Vec<String> {
    let payload =
        dsse::verify(&scene.envelope().await.unwrap(), TRUST_POLICY_TYPE, &scene.owner.public_spki()).unwrap();
    serde_json::from_slice::<constellation_attestation::policy::TrustPolicy>(&payload).unwrap().endorsement_roots
}
