//! Files and objects of the verifier that are missing, malformed or of another kind: it says which, gives nothing away,
//! loses nothing, and goes on without a restart once they are right.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use constellation_attestation::{dsse, owner::SigningKey, policy::TRUST_POLICY_TYPE, protocol::Role, session};
use constellation_crds::{TrustBundle, node::Mismatch};
use kube::{Api, api::DeleteParams};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::{Value, json};

use crate::{
    WORKER,
    machine::Machine,
    refusal,
    scene::{Scene, but_its_ticket, policy},
};

type CaChange = fn(&mut CertificateParams);
type Change = fn(&mut Value);

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
enum Spoil {
    Missing,
    Garbage,
    Folder,
}

const SPOILS: [Spoil; 3] = [Spoil::Missing, Spoil::Garbage, Spoil::Folder];

/// A file that was spoilt, and what was in it; nothing if it wasn't there.
struct Spoilt(PathBuf, Option<Vec<u8>>);

fn remove(path: &Path) {
    if path.is_dir() {
        fs::remove_dir(path).unwrap();
    } else if path.exists() {
        fs::remove_file(path).unwrap();
    }
}

impl Spoilt {
    fn new(path: PathBuf, spoil: Spoil) -> Self {
        let kept = fs::read(&path).ok();
        remove(&path);
        match spoil {
            Spoil::Missing => {}
            Spoil::Garbage => fs::write(&path, b"\xffnothing that could be meant").unwrap(),
            Spoil::Folder => fs::create_dir(&path).unwrap(),
        }
        Self(path, kept)
    }

    fn restore(self) {
        remove(&self.0);
        if let Some(kept) = self.1 {
            // In one step: somebody waits for it.
            let fresh = self.0.with_extension("fresh");
            fs::write(&fresh, kept).unwrap();
            fs::rename(fresh, self.0).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_names_the_file_that_it_cannot_use_and_serves_once_it_can() {
    let (mut scene, mut machine) = Scene::with_worker("home").await.unwrap();
    machine.join(scene.verifier).await.unwrap();
    let recorded = scene.node(WORKER).await.unwrap();
    for name in [
        "disk-secret",
        "cluster-id",
        "verifier-ca.crt",
        "verifier-ca.key",
        "launch-config.json",
        "cluster.json",
        "verifier.conf",
        "trust-revision",
    ] {
        for spoil in SPOILS {
            // No kubeconfig and no memory of a bundle are how each verifier begins.
            if matches!(spoil, Spoil::Missing) && ["verifier.conf", "trust-revision"].contains(&name) {
                continue;
            }
            let spoilt = Spoilt::new(scene.folder.path().join(name), spoil);
            scene.begin_restart().unwrap();
            scene.wait_for_log(name).await.unwrap();
            let said = scene.log().unwrap();
            assert!(said.contains("Not ready, trying again"), "{name} {spoil:?}: {said}");
            spoilt.restore();
            scene.wait_until_it_listens().await.unwrap();
            machine.join(scene.verifier).await.unwrap();
        }
    }
    let after = scene.node(WORKER).await.unwrap();
    assert_eq!(but_its_ticket(after), but_its_ticket(recorded), "nothing was lost, and nothing else written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_ca_that_no_node_would_believe_is_refused_at_the_start_for_what_is_wrong_with_it() {
    let (mut scene, mut machine) = Scene::with_worker("verifier-ca").await.unwrap();
    let other = SigningKey::generate().unwrap();
    let cases: [(&SigningKey, CaChange, Option<&str>); 5] = [
        (&other, |_| {}, Some("the verifier CA isn't signed by the owner's key")),
        (&scene.owner, |ca| ca.not_after = rcgen::date_time_ymd(2021, 1, 1), Some("is the clock right?")),
        (&scene.owner, |ca| ca.not_before = rcgen::date_time_ymd(2080, 1, 1), Some("is the clock right?")),
        (
            &scene.owner,
            |ca| ca.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            Some("the verifier CA may not sign certificates of verifiers"),
        ),
        (&scene.owner, |_| {}, None),
    ];
    let made = cases.map(|(owner, change, words)| (verifier_ca(owner, change), words));
    for ((certificate, key), words) in made {
        fs::write(scene.folder.path().join("verifier-ca.crt"), certificate).unwrap();
        fs::write(scene.folder.path().join("verifier-ca.key"), key).unwrap();
        scene.begin_restart().unwrap();
        if let Some(words) = words {
            scene.wait_for_log(words).await.unwrap();
        } else {
            scene.wait_until_it_listens().await.unwrap();
            machine.join(scene.verifier).await.unwrap();
        }
    }
}

/// A verifier CA as an owner signs it, but for one change: certificate and key.
fn verifier_ca(owner: &SigningKey, change: CaChange) -> (String, String) {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "constellation owner");
    let owner = Issuer::new(authority, KeyPair::from_pem(&owner.to_pkcs8_pem()).unwrap());
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "a verifier CA");
    (ca.not_before, ca.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2090, 1, 1));
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    ca.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut ca);
    let key = KeyPair::generate().unwrap();
    (ca.signed_by(&key, &owner).unwrap().pem(), key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_whose_port_is_taken_says_which_and_serves_once_it_is_free() {
    let (mut scene, mut machine) = Scene::with_worker("port").await.unwrap();
    scene.stop_verifier().unwrap();
    let taken = std::net::TcpListener::bind(scene.verifier).unwrap();
    scene.begin_restart().unwrap();
    scene.wait_for_log(&format!("listening on {}", scene.verifier)).await.unwrap();
    drop(taken);
    scene.wait_until_it_listens().await.unwrap();
    machine.join(scene.verifier).await.unwrap();
}

/// Asserts that a join ends without a verdict and without a record, and that the verifier says why.
async fn assert_no_verdict(scene: &mut Scene, machine: &mut Machine, words: &str) {
    let before = scene.log().unwrap().len();
    let result = machine.join(scene.verifier).await;
    assert!(matches!(result, Err(session::Error::Channel(_))), "{words}");
    scene.wait_for_log_after(before, words).await.unwrap();
    assert_eq!(scene.status(&machine.launch.node_uid).await.unwrap().admission, None, "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_that_go_bad_while_it_serves_give_no_ticket_until_they_are_right() {
    let mut scene = Scene::start("authorities", &[]).await.unwrap();
    // The shared control plane keeps its own.
    let pki = scene.own_pki().unwrap();
    scene.restart_verifier().await.unwrap();
    let mut first = Machine::boot(&scene.launch("first", Role::ControlPlane)).unwrap();
    scene.trust(1, &[&first]).await.unwrap();
    scene.announce(&first.launch).await.unwrap();
    let files = ["ca.crt", "ca.key", "sa.key", "etcd/ca.key"].map(|name| (pki.join(name), name));
    let kubeconfig = (scene.folder.path().join("admin.conf"), "admin.conf");
    for (path, name) in files.into_iter().chain([kubeconfig]) {
        for spoil in SPOILS {
            let spoilt = Spoilt::new(path.clone(), spoil);
            // Only the CA's are read for what they say; the others are copied, but must be text.
            let words = if name.starts_with("ca.") && matches!(spoil, Spoil::Garbage) { "cluster's CA" } else { name };
            let words = if matches!(spoil, Spoil::Garbage) { "making the ticket failed" } else { words };
            assert_no_verdict(&mut scene, &mut first, words).await;
            spoilt.restore();
        }
    }
    // Another authority's key.
    let spoilt = Spoilt::new(pki.join("ca.key"), Spoil::Missing);
    fs::copy(pki.join("etcd/ca.key"), pki.join("ca.key")).unwrap();
    assert_no_verdict(&mut scene, &mut first, "no key that fits its certificate").await;
    spoilt.restore();
    first.join(scene.verifier).await.unwrap();
}

/// Puts something in the way at a path.
type Obstacle = fn(&Path);

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_is_missing_or_cannot_be_remembered_admits_nobody_until_it_can() {
    let (mut scene, mut machine) = Scene::with_worker("no-bundle").await.unwrap();
    let envelope = scene.envelope().await.unwrap();
    let bundles: Api<TrustBundle> = Api::namespaced(scene.client.clone(), scene.namespace());
    bundles.delete("constellation", &DeleteParams::default()).await.unwrap();
    assert_no_verdict(&mut scene, &mut machine, "TrustBundle constellation isn't there").await;
    scene.publish(&envelope).await.unwrap();
    // The newer revision has no place on the disk, so it isn't used.
    let place = scene.folder.path().join("trust-revision.new");
    let obstacles: [(Obstacle, &str); 2] = [
        (|place| fs::create_dir(place).unwrap(), "Is a directory"),
        (|place| symlink("/dev/full", place).unwrap(), "No space left on device"),
    ];
    scene.trust(2, &[&machine]).await.unwrap();
    for (obstruct, why) in obstacles {
        obstruct(&place);
        assert_no_verdict(&mut scene, &mut machine, "remembering the trust bundle's revision").await;
        let says = |reason: &Mismatch| reason.clause == "verifier.trust" && reason.message.contains(why);
        scene.strangers(|told| told.reasons().any(|result| result.mismatches.iter().any(says))).await;
        remove(&place);
    }
    machine.join(scene.verifier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_of_the_owner_that_is_no_policy_of_this_cluster_admits_nobody_and_says_why() {
    let scene = Scene::start("no-policy", &[]).await.unwrap();
    let first = Machine::boot(&scene.launch("first", Role::Worker)).unwrap();
    let good = serde_json::to_value(policy(1, &[&first]).unwrap()).unwrap();
    let cases: [(&str, &str, Change); 8] = [
        ("no-object", "trust.policy", |policy| *policy = json!("trust me")),
        ("unknown-field", "trust.policy", |policy| policy["waive"] = json!(true)),
        ("no-revision", "trust.policy", |policy| drop(policy.as_object_mut().unwrap().remove("revision"))),
        ("wrong-type", "trust.policy", |policy| policy["revision"] = json!("1")),
        ("no-sets", "trust.policy", |policy| policy["sets"] = json!([])),
        ("no-endorsers", "trust.policy", |policy| policy["endorsementRoots"] = json!([])),
        ("other-cluster", "trust.cluster", |policy| policy["clusterUid"] = json!("another")),
        ("endorser-no-pem", "tpm.ek.certificate", |policy| policy["endorsementRoots"] = json!(["no certificate"])),
    ];
    for (name, clause, change) in cases {
        let mut machine = scene.worker_like(&first, name).await.unwrap();
        let publish = async |policy: &Value| {
            let payload = serde_json::to_vec(policy).unwrap();
            scene.publish(&dsse::sign(TRUST_POLICY_TYPE, &payload, &scene.owner)).await.unwrap();
        };
        let mut bad = good.clone();
        change(&mut bad);
        publish(&bad).await;
        let id = refusal(machine.join(scene.verifier).await);
        scene.assert_told(&machine.launch.node_uid, &id, &[clause]).await;
        publish(&good).await;
        machine.join(scene.verifier).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_speaks_for_its_tpms_so_a_policy_without_endorsers_is_used_there_and_nowhere_else() {
    for (platform, clause) in [("gcp-sev-es", "hello.keys"), ("qemu-vtpm", "trust.policy")] {
        let argument = format!("--platform={platform}");
        let scene = Scene::start(platform, &[&argument]).await.unwrap();
        let launch = scene.launch("worker-1", Role::Worker);
        scene.announce(&launch).await.unwrap();
        let mut machine = Machine::boot(&launch).unwrap();
        let mut trusted = policy(1, &[]).unwrap();
        trusted.endorsement_roots = Vec::new();
        let payload = serde_json::to_vec(&trusted).unwrap();
        scene.publish(&dsse::sign(TRUST_POLICY_TYPE, &payload, &scene.owner)).await.unwrap();
        // It is no machine of Google, which is the next thing that is wrong there.
        let id = refusal(machine.join(scene.verifier).await);
        scene.assert_told(&launch.node_uid, &id, &[clause]).await;
    }
}
