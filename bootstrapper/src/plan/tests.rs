//! What is granted decides what is done: one table of ways in.

use super::*;

/// No pod may run before the guard is up, so it comes before the kubelet on every way in.
const BACK: [&str; 3] = ["start containerd", "guard 10.244.2.0/24 of 10.244.0.0/16", "restart kubelet"];
/// What a control-plane node does for its kubelet where there is no ticket.
const OWN: &str = "kubeadm init phase kubeconfig kubelet --config /etc/kubernetes/constellation/kubeadm-return.yaml";
const ADDRESS: &str = "10.77.0.12";
/// What programs wrote is on the disk before the node is called a member.
const SYNC: &str = "sync /etc/kubernetes/constellation";

fn node() -> NodeSettings {
    NodeSettings {
        node_name: "demo-w-2".into(),
        provider_id: "local://c/n".into(),
        pod_cidr: "10.244.2.0/24".into(),
        labels: std::collections::BTreeMap::default(),
        taints: vec![],
        disk_integrity: false,
    }
}

fn cluster() -> ClusterSettings {
    ClusterSettings {
        name: "demo".into(),
        kubernetes_version: "v1.36.3".into(),
        endpoint: "10.77.0.1:6443".into(),
        cert_sans: vec![],
        pod_cidr: "10.244.0.0/16".into(),
        service_cidr: "10.96.0.0/16".into(),
        mesh: true,
        slow: true,
        platform: Platform::QemuVtpm,
    }
}

fn request(cluster: ClusterSettings) -> InitRequest {
    InitRequest {
        disk_key: vec![1; 32],
        disk_secret: vec![3; 32],
        cluster_id: vec![2; 32],
        verifier_ca_certificate: "VCA".into(),
        verifier_ca_key: "VKEY".into(),
        node: node(),
        cluster,
    }
}

fn ticket(material: bool) -> Ticket {
    Ticket {
        disk_key: vec![1; 32],
        cluster_id: vec![2; 32],
        kubelet_certificate: "CERTIFICATE\n".into(),
        ca_certificate: "CA\n".into(),
        kubelet_config: "config: 1\n".into(),
        node: node(),
        cluster: cluster(),
        control_plane: material.then(|| constellation_attestation::protocol::ControlPlaneMaterial {
            pki: [("ca.key".to_owned(), "KEY".to_owned()), ("ca.crt".to_owned(), "CA".to_owned())].into(),
            admin_kubeconfig: "admin".into(),
            disk_secret: vec![3; 32],
            verifier_ca_certificate: "VCA".into(),
            verifier_ca_key: "VKEY".into(),
            trust_revision: 7,
        }),
    }
}

fn commands(plan: &[Action]) -> Vec<String> {
    let is_command =
        |a: &&Action| !matches!(a, Action::Write { .. } | Action::Remove(_) | Action::Link { .. } | Action::Phase(_));
    plan.iter().filter(is_command).map(Action::describe).collect()
}

fn fresh() -> Facts<'static> {
    Facts { address: ADDRESS, member: false }
}

#[test]
fn a_worker_never_runs_kubeadm_and_never_holds_control_plane_material() {
    // The verifier gives a worker none; if one came all the same, it is not written.
    for material in [false, true] {
        let plan = join(&ticket(material), Role::Worker, "KEY\n", b"{}", fresh());
        assert_eq!(commands(&plan), [&BACK[..], &[SYNC]].concat());
        let written: Vec<_> = plan
            .iter()
            .filter_map(|a| if let Action::Write { path, .. } = a { Some(path.as_str()) } else { None })
            .collect();
        assert!(
            !written
                .iter()
                .any(|path| path.contains("ca.key") || path.contains("disk-secret") || path.contains("verifier-ca"))
        );
        assert_eq!(written.last(), Some(&MEMBER));
    }
}

#[test]
fn a_control_plane_node_joins_in_the_order_that_lets_etcd_catch_up() {
    let plan = commands(&join(&ticket(true), Role::ControlPlane, "KEY\n", b"{}", fresh()));
    let at = |word: &str| plan.iter().position(|c| c.contains(word)).unwrap_or_else(|| panic!("{word}: {plan:#?}"));
    assert!(at("--skip-phases=") < at("control-plane-prepare control-plane"));
    assert!(at("move /etc/kubernetes/manifests") < at("await https://10.77.0.12:6443"));
    assert!(at("await") < at("move /run/constellation/later"));
    assert!(at("kubelet-wait-bootstrap --config") < at("mark-control-plane"));
}

#[test]
fn a_member_that_returns_joins_nothing_again_and_makes_its_kubelet_a_certificate_where_nobody_gives_it_one() {
    let facts = Facts { member: true, ..fresh() };
    for (role, material) in [(Role::Worker, false), (Role::ControlPlane, true)] {
        let plan = commands(&join(&ticket(material), role, "KEY\n", b"{}", facts));
        assert_eq!(plan, BACK);
    }
    let by_itself = [&BACK[..2], &[OWN], &BACK[2..]].concat();
    assert_eq!(commands(&recover(&node(), &cluster(), Role::ControlPlane, ADDRESS)), by_itself);
    assert_eq!(commands(&init(&request(cluster()), b"{}", facts)), by_itself);
    assert_eq!(commands(&recover(&node(), &cluster(), Role::Worker, ADDRESS)), BACK, "a worker has no CA");
}

#[test]
fn a_certificate_of_its_own_making_replaces_whatever_a_power_cut_left_of_the_last_one() {
    let facts = Facts { member: true, ..fresh() };
    for plan in [recover(&node(), &cluster(), Role::ControlPlane, ADDRESS), init(&request(cluster()), b"{}", facts)] {
        let words: Vec<_> = plan.iter().map(Action::describe).collect();
        let at =
            |word: &str| words.iter().position(|w| w.starts_with(word)).unwrap_or_else(|| panic!("{word}: {words:#?}"));
        assert!(at("write /etc/kubernetes/constellation/kubeadm-return.yaml 600") < at(OWN));
        for old in [UPDATED_CREDENTIAL, CURRENT_CREDENTIAL, KUBELET_CONF] {
            assert!(at(&format!("remove {old}")) < at(OWN), "{old}");
        }
        assert!(at(OWN) < at("restart kubelet"));
    }
}

#[test]
fn what_programs_wrote_is_on_the_disk_before_the_node_is_called_a_member() {
    for plan in [
        init(&request(cluster()), b"{}", fresh()),
        join(&ticket(true), Role::ControlPlane, "KEY\n", b"{}", fresh()),
        join(&ticket(false), Role::Worker, "KEY\n", b"{}", fresh()),
    ] {
        let words: Vec<_> = plan.iter().map(Action::describe).collect();
        assert_eq!(words[words.len() - 2..], [SYNC.to_owned(), format!("write {MEMBER} 600")]);
        assert_eq!(words.iter().filter(|word| word.contains(MEMBER)).count(), 1);
    }
}

#[test]
fn a_kubelet_starts_with_the_tickets_certificate_or_with_none_that_is_older() {
    let linked = Action::Link { path: CURRENT_CREDENTIAL, target: CREDENTIAL };
    let dropped = |plan: &[Action]| plan.iter().position(|a| *a == linked || *a == Action::Remove(CURRENT_CREDENTIAL));
    for (role, material) in [(Role::Worker, false), (Role::ControlPlane, true)] {
        for member in [false, true] {
            let plan = join(&ticket(material), role, "KEY\n", b"{}", Facts { member, ..fresh() });
            let at = |word: &str| plan.iter().position(|a| a.describe().starts_with(word)).unwrap();
            let dropped = dropped(&plan).unwrap();
            assert!(plan[dropped] == linked && plan[dropped - 1] == Action::Remove(UPDATED_CREDENTIAL));
            assert!(at(&format!("write {CREDENTIAL}")) < dropped && dropped < at("start containerd"));
            let Action::Write { contents, .. } = &plan[at(&format!("write {KUBELET_CONF}"))] else { panic!() };
            let config = String::from_utf8_lossy(contents);
            assert!(config.contains(CURRENT_CREDENTIAL) && !config.contains(CREDENTIAL), "{config}");
            assert!(!plan[..dropped].iter().any(|a| a.describe().contains("restart kubelet")));
        }
    }
    for (member, drops) in [(false, false), (true, true)] {
        let plan = init(&request(cluster()), b"{}", Facts { member, ..fresh() });
        assert_eq!(dropped(&plan).is_some(), drops, "{member}");
    }
    assert!(dropped(&recover(&node(), &cluster(), Role::ControlPlane, ADDRESS)).is_some());
    assert_eq!(dropped(&recover(&node(), &cluster(), Role::Worker, ADDRESS)), None, "it has no other");
}

#[test]
fn secrets_are_for_root_only_and_never_in_an_argument() {
    let plan = join(&ticket(true), Role::ControlPlane, "PRIVATE\n", b"{}", fresh());
    for action in &plan {
        if let Action::Write { path, mode, contents } = action {
            let public = matches!(path.rsplit('.').next(), Some("crt" | "conflist"));
            assert_eq!(
                *mode,
                if public { if path.contains("verifier-ca") { 0o600 } else { 0o644 } } else { 0o600 },
                "{path}"
            );
            assert!(!contents.is_empty() || path == MEMBER, "{path}");
        }
    }
    for word in ["PRIVATE", "VKEY", "admin\n"] {
        assert!(!commands(&plan).iter().any(|c| c.contains(word)));
    }
}

#[test]
fn only_a_control_plane_member_verifies_others() {
    assert_eq!(commands(&member(Role::ControlPlane)), ["start constellation-verifier"]);
    assert!(member(Role::Worker).is_empty());
}

#[test]
fn a_recovered_member_gets_back_what_a_reboot_took() {
    let cni = |plan: &[Action]| plan.iter().any(|a| a.describe().contains("/etc/cni/net.d/"));
    assert!(cni(&recover(&node(), &cluster(), Role::ControlPlane, ADDRESS)));
    let own = ClusterSettings { mesh: false, ..cluster() };
    assert!(!cni(&recover(&node(), &own, Role::ControlPlane, ADDRESS)), "the pod network is the user's");
    assert_eq!(
        commands(&recover(&node(), &own, Role::ControlPlane, ADDRESS)),
        ["start containerd", OWN, "restart kubelet"]
    );
}

#[test]
fn the_guard_is_up_before_kubeadm_starts_a_kubelet() {
    let plan = commands(&join(&ticket(true), Role::ControlPlane, "KEY\n", b"{}", fresh()));
    let at = |word: &str| plan.iter().position(|c| c.starts_with(word)).unwrap_or_else(|| panic!("{word}: {plan:#?}"));
    assert!(at("start containerd") < at("guard") && at("guard") < at("kubeadm"));
}

#[test]
fn a_google_control_plane_node_owns_the_balancers_address_once_something_answers_there() {
    let google = ClusterSettings { platform: Platform::GcpSnp, endpoint: "203.0.113.7:6443".into(), ..cluster() };
    let own = |plan: &[Action]| commands(plan).iter().position(|command| command == "own 203.0.113.7");
    let ticket = |material, cluster: &ClusterSettings| {
        let mut ticket = ticket(material);
        ticket.cluster = cluster.clone();
        ticket
    };
    let plan = join(&ticket(true, &google), Role::ControlPlane, "KEY\n", b"{}", fresh());
    let await_api = commands(&plan).iter().position(|command| command.starts_with("await https://10.77.0.12"));
    assert_eq!(own(&plan), await_api.map(|at| at + 1), "a joining node needs the others until its own server is up");
    for member in [false, true] {
        let request = request(google.clone());
        let commands = commands(&init(&request, b"{}", Facts { member, ..fresh() }));
        let next = commands.iter().skip_while(|command| *command != "own 203.0.113.7").nth(1).unwrap();
        assert!(next.starts_with(if member { OWN } else { "kubeadm init --config" }), "{commands:#?}");
    }
    let back = Facts { member: true, ..fresh() };
    assert!(own(&join(&ticket(true, &google), Role::ControlPlane, "KEY\n", b"{}", back)).is_some());
    assert!(own(&recover(&node(), &google, Role::ControlPlane, ADDRESS)).is_some());
    // What is sent from anywhere else must go to the balancer.
    let elsewhere = ClusterSettings { platform: Platform::AwsSnp, ..google.clone() };
    for plan in [
        join(&ticket(false, &google), Role::Worker, "KEY\n", b"{}", fresh()),
        recover(&node(), &google, Role::Worker, ADDRESS),
        join(&ticket(true, &elsewhere), Role::ControlPlane, "KEY\n", b"{}", fresh()),
    ] {
        assert_eq!(own(&plan), None);
    }
}

#[test]
fn a_new_verifier_believes_no_older_policy_than_who_let_it_in_and_a_returning_one_remembers_its_own() {
    let memory = |facts| {
        let plan = join(&ticket(true), Role::ControlPlane, "KEY\n", b"{}", facts);
        plan.iter().find_map(|action| match action {
            Action::Write { path, contents, .. } if path.ends_with("/trust-revision") => Some(contents.clone()),
            _ => None,
        })
    };
    assert_eq!(memory(fresh()), Some(b"7".to_vec()));
    assert_eq!(memory(Facts { member: true, ..fresh() }), None);
}
