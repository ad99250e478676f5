//! Kubelets renew their certificates with everything real but the kubelet: an API server, kube-controller-manager's approver
//! and signer, the verifier's process, TPMs and attested TLS.
//!
//! Requests for certificates are in no namespace, and each verifier answers all of them: one cluster at a time.

// The lint lets only test functions panic, not what they share.
#![allow(clippy::unwrap_used, clippy::panic)]

// Shared with the tests of joins, which use more of it.
#[allow(dead_code)]
#[path = "join_process/cluster.rs"]
mod cluster;
#[allow(dead_code)]
#[path = "join_process/gate.rs"]
mod gate;
#[path = "renewal/kubelet.rs"]
mod kubelet;
#[allow(dead_code)]
#[path = "join_process/machine.rs"]
mod machine;
#[allow(dead_code)]
#[path = "join_process/scene.rs"]
mod scene;
#[path = "join_process/victim.rs"]
mod victim;

use std::time::Instant;

use constellation_attestation::protocol::{LaunchConfig, Role};
use constellation_crds::{node::Refusals, trust::KubeletCertificate};
use constellation_operator::init::install;
use constellation_tests::faults::plan::Side;
use k8s_openapi::api::{
    authorization::v1::SubjectAccessReview, certificates::v1::CertificateSigningRequest, rbac::v1::ClusterRoleBinding,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    kubelet::{Kubelet, LIMIT, POLL, Signer},
    machine::Machine,
    scene::Scene,
    victim::{behind_proxy, without_proxy},
};

const WORKER: &str = "uid-worker-1";

/// One cluster at a time.
async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

async fn recorded(scene: &Scene, uid: &str) -> KubeletCertificate {
    scene.status(uid).await.unwrap().admission.unwrap().kubelet_certificate.unwrap()
}

/// Waits until the record of the worker's kubelet has come to this certificate.
async fn until_recorded(scene: &Scene, kubelet: &Kubelet) {
    let begun = Instant::now();
    while recorded(scene, WORKER).await.current != kubelet.digest() {
        assert!(begun.elapsed() < LIMIT, "{} isn't recorded: {}", kubelet.digest(), scene.log().unwrap());
        tokio::time::sleep(POLL).await;
    }
}

/// Joins, and gives what the node's kubelet starts with.
async fn join(scene: &Scene, machine: &mut Machine) -> Kubelet {
    let ticket = machine.join(scene.verifier).await.unwrap();
    let kubelet =
        Kubelet::new(&machine.launch.node_name, &ticket.kubelet_certificate, &machine.secrets.kubelet_key_pem());
    assert_eq!(recorded(scene, &machine.launch.node_uid).await.current, kubelet.digest());
    kubelet
}

/// Asserts that somebody with this certificate is denied without a reason, and that the owner is told of this one in the name of
/// this node.
async fn assert_denied(scene: &Scene, copy: &Kubelet, uid: &str, clause: &str) {
    let count = |told: Option<Refusals>| told.map_or(0, |told| told.count);
    let before = count(scene.status(uid).await.unwrap().refusals);
    let answer = copy.renew().await.map(|_| ()).unwrap_err();
    assert_eq!(answer, "not admitted");
    let told = scene.refusals(uid, |told| told.count > before).await;
    assert_eq!(told.last.mismatches[0].clause, clause, "{told:?}");
}

async fn evict(scene: &Scene, uid: &str) {
    let evicted = Patch::Merge(json!({ "spec": { "evicted": true } }));
    scene.nodes().patch(uid, &PatchParams::default(), &evicted).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_members_kubelet_renews_and_a_copy_of_an_evicted_nodes_does_not_nor_under_a_later_node_of_its_name() {
    let _alone = alone().await;
    let (scene, mut machine) = Scene::with_worker("evicted-copy").await.unwrap();
    let _signer = Signer::start(&scene).unwrap();
    let first = join(&scene, &mut machine).await;
    let second = first.renew().await.unwrap();
    assert_eq!(second.who().await, "system:node:worker-1");
    assert_eq!(second.days(), 7);
    let third = second.renew().await.unwrap();
    until_recorded(&scene, &third).await;
    assert_eq!(recorded(&scene, WORKER).await.previous, Some(second.digest()));
    assert_denied(&scene, &first, WORKER, "renewal.certificate").await;
    let copy = third.renew().await.unwrap();

    evict(&scene, WORKER).await;
    assert_denied(&scene, &copy, WORKER, "renewal.node").await;

    let launch = LaunchConfig { node_uid: "uid-worker-1-again".to_owned(), ..machine.launch.clone() };
    scene.announce(&launch).await.unwrap();
    let mut again = Machine::boot_like(&machine, &launch).unwrap();
    let honest = join(&scene, &mut again).await;
    assert_denied(&scene, &copy, &launch.node_uid, "renewal.certificate").await;
    honest.renew().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_an_older_certificate_ends_when_the_node_joins_again() {
    let _alone = alone().await;
    let (scene, mut machine) = Scene::with_worker("older-copy").await.unwrap();
    let _signer = Signer::start(&scene).unwrap();
    let first = join(&scene, &mut machine).await;
    let second = first.renew().await.unwrap();
    let mut machine = machine.reboot().unwrap();
    let honest = join(&scene, &mut machine).await;
    for copy in [&first, &second] {
        assert_denied(&scene, copy, WORKER, "renewal.certificate").await;
    }
    let renewed = honest.renew().await.unwrap();
    // It died before it had stored that one.
    let again = honest.renew().await.unwrap();
    until_recorded(&scene, &again).await;
    again.renew().await.unwrap();
    assert_denied(&scene, &renewed, WORKER, "renewal.certificate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_no_verifier_gave_is_renewed_for_a_holder_of_the_ca_alone() {
    let _alone = alone().await;
    let (scene, mut worker) = Scene::with_worker("own-making").await.unwrap();
    let _signer = Signer::start(&scene).unwrap();
    let launch = scene.launch("cp-1", Role::ControlPlane);
    let mut node = Machine::boot_like(&worker, &launch).unwrap();
    scene.announce(&launch).await.unwrap();
    // As `kubeadm init phase kubeconfig` makes it for a member that returns.
    let own = Kubelet::signed_by_ca("cp-1");
    let early = own.ask().await;
    node.join(scene.verifier).await.unwrap();
    assert_eq!(scene.status(&launch.node_uid).await.unwrap().admission.unwrap().kubelet_certificate, None);
    // What was asked before the admission waited for it.
    own.answer(early).await.unwrap().renew().await.unwrap();

    let honest = join(&scene, &mut worker).await;
    assert_denied(&scene, &Kubelet::signed_by_ca("worker-1"), WORKER, "renewal.certificate").await;
    honest.renew().await.unwrap();
    let stranger = Kubelet::signed_by_ca("worker-9");
    assert_eq!(stranger.renew().await.map(|_| ()).unwrap_err(), "not admitted");
    scene.strangers(|told| told.last.mismatches[0].clause == "renewal.node").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_that_dies_on_either_side_of_each_write_of_a_renewal_does_the_rest_when_it_is_back() {
    let _alone = alone().await;
    for (side, namespace) in [(Side::Before, "renews-before"), (Side::After, "renews-after")] {
        let (mut scene, mut machine) = Scene::with_worker(namespace).await.unwrap();
        let _signer = Signer::start(&scene).unwrap();
        let first = join(&scene, &mut machine).await;
        let (victim, proxy) = behind_proxy(&scene, side, namespace).await;
        scene.begin_restart().unwrap();
        victim.is(scene.verifier_pid());
        proxy.plan().arm();

        let name = first.ask().await;
        let begun = Instant::now();
        let second = loop {
            if victim.is_dead() {
                scene.begin_restart().unwrap();
                victim.is(scene.verifier_pid());
            }
            if let Some(second) = first.answered(&name).await {
                let second = second.unwrap();
                if recorded(&scene, WORKER).await.current == second.digest() && proxy.plan().met() == 2 {
                    break second;
                }
            }
            assert!(begun.elapsed() < LIMIT, "{side:?}: {:?}: {}", proxy.plan().done(), scene.log().unwrap());
            tokio::time::sleep(POLL).await;
        };
        // Each request is another thing to write: from here on nobody dies for it.
        without_proxy(&scene);
        scene.restart_verifier().await.unwrap();
        second.renew().await.unwrap();
        assert_eq!(scene.status(WORKER).await.unwrap().refusals, None, "{side:?}");
        scene.stop_verifier().unwrap();
    }
}

/// Whether kube-controller-manager would approve what this node's kubelet asks: it asks so itself.
async fn approves_by_name(client: &Client) -> bool {
    let review: SubjectAccessReview = serde_json::from_value(json!({"spec": {
        "user": "system:node:worker-1", "groups": ["system:nodes", "system:authenticated"],
        "resourceAttributes": {"group": "certificates.k8s.io", "resource": "certificatesigningrequests",
            "verb": "create", "subresource": "selfnodeclient", "version": "*"},
    }}))
    .unwrap();
    let review = Api::<SubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await.unwrap();
    review.status.unwrap().allowed
}

async fn until_it_approves_by_name(client: &Client, wanted: bool) {
    let begun = Instant::now();
    while approves_by_name(client).await != wanted {
        assert!(begun.elapsed() < LIMIT, "wanted: {wanted}");
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_version_had_approved_by_name_is_taken_back() {
    let _alone = alone().await;
    let control_plane = cluster::shared();
    let client = control_plane.client(&control_plane.kubeconfig("admin")).await.unwrap();
    until_it_approves_by_name(&client, false).await;
    let name = "kubeadm:node-autoapprove-certificate-rotation";
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}],
    }))
    .unwrap();
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    bindings.create(&PostParams::default(), &binding).await.unwrap();
    until_it_approves_by_name(&client, true).await;
    for _ in 0..2 {
        install::grant(&client).await.unwrap();
        assert!(bindings.get_opt(name).await.unwrap().is_none());
    }
    until_it_approves_by_name(&client, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_approves_nothing_and_the_verifier_answers_no_other_signers_requests() {
    let _alone = alone().await;
    let (mut scene, mut machine) = Scene::with_worker("rights").await.unwrap();
    let kubelet = join(&scene, &mut machine).await;
    scene.stop_verifier().unwrap();
    let control_plane = cluster::shared();
    let verifier = control_plane.client(&control_plane.kubeconfig("verifier")).await.unwrap();
    let own = kubelet.ask().await;
    let others = kubelet.ask_of("kubernetes.io/kube-apiserver-client").await;
    let approve = async |client: &Client, name: &str| {
        let approved = json!({"status": {"conditions":
            [{"type": "Approved", "status": "True", "reason": "Test", "message": "of a test"}]}});
        let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
        match requests.patch_approval(name, &PatchParams::default(), &Patch::Merge(&approved)).await {
            Ok(_) => true,
            Err(kube::Error::Api(status)) if status.code == 403 => false,
            Err(error) => panic!("{error}"),
        }
    };
    let kubelet = kubelet.client().await;
    for (client, name, may) in
        [(&kubelet, &own, false), (&kubelet, &others, false), (&verifier, &others, false), (&verifier, &own, true)]
    {
        assert_eq!(approve(client, name).await, may, "{name}");
    }
}
