//! What a cluster needs next: a total function of what was seen. It decides; it touches nothing.

pub(super) mod rollback;
mod silence;
mod sizes;
#[cfg(test)]
pub(crate) mod tests;

use constellation_crds::{
    cluster::{AcceptedVersion, DeletionPolicy, RolledBack},
    condition::reason,
    node::{Phase, Role},
};

use super::seen::{Init, NodeSeen, Observed, SecretSeen, VersionSeen};

/// Clocks of two machines that somebody looks after differ by less.
const CLOCK_SLACK_SECONDS: i64 = 300;

/// One thing to do. Each may be done twice.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Puts our finalizer on the cluster.
    AddFinalizer,
    /// Takes it off: the object goes.
    RemoveFinalizer,
    /// Makes the owner key.
    CreateOwnerKey,
    /// Makes the master secret.
    CreateMasterSecret,
    /// Has the master secret wrapped again.
    RewrapMasterSecret,
    /// Makes network and endpoint.
    EnsureNetwork,
    /// Removes them.
    RemoveNetwork,
    /// Makes a `NodeGroup`, or takes over a changed size from the cluster's spec.
    ApplyGroup {
        /// Name of the group in the spec.
        group: String,
        /// Size.
        replicas: u32,
        /// Size in the cluster's spec, to be remembered.
        spec: String,
    },
    /// Removes the `NodeGroup` of a group that the spec no longer has.
    DeleteGroup(String),
    /// Makes a node of the target version.
    CreateNode {
        /// Group, `control-plane` for the control plane.
        group: String,
        /// Role.
        role: Role,
        /// Number in the cluster.
        index: u32,
        /// How many nodes in this place failed one after the other.
        failures: u32,
    },
    /// Deletes a node.
    DeleteNode {
        /// Its name.
        name: String,
        /// Why, for people.
        why: String,
    },
    /// Records that the cluster's VMs are left running; its Secrets stay.
    Disown,
    /// Forgets a node and leaves its VM running.
    OrphanNode(String),
    /// Talks to the first control-plane node until Kubernetes is initialised.
    StartInit(String),
    /// Hands a restarted control-plane node its disk key.
    StartRecover(String),
    /// Keeps the administrator's kubeconfig.
    SaveKubeconfig(String),
    /// Installs our kinds and rights in the cluster.
    Install,
    /// Signs and writes the trust bundle.
    WriteTrust,
    /// Makes these instances the endpoint's targets.
    SetTargets(Vec<String>),
}

impl Step {
    /// Whether it only says again what is so: whoever waits for the cluster waits for nothing of it.
    #[must_use]
    pub fn is_upkeep(&self) -> bool {
        matches!(self, Self::SetTargets(_) | Self::WriteTrust)
    }

    /// For people.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::AddFinalizer => "Mark the cluster for cleanup when it is deleted".into(),
            Self::RemoveFinalizer => "Let the cluster's object go".into(),
            Self::CreateOwnerKey => "Make the owner key".into(),
            Self::CreateMasterSecret => "Make the master secret".into(),
            Self::RewrapMasterSecret => "Have the master secret wrapped by the newest key".into(),
            Self::EnsureNetwork => "Make network and endpoint".into(),
            Self::RemoveNetwork => "Remove network and endpoint".into(),
            Self::ApplyGroup { group, replicas, .. } => format!("Set the size of group {group} to {replicas}"),
            Self::DeleteGroup(group) => format!("Remove group {group}"),
            Self::CreateNode { group, index, .. } => format!("Make node {group}-{index}"),
            Self::DeleteNode { name, why } => format!("Delete node {name}: {why}"),
            Self::Disown => "Record that the VMs are left running; the Secrets stay".into(),
            Self::OrphanNode(name) => format!("Leave the VM of node {name} running and forget it"),
            Self::StartInit(name) => format!("Initialise Kubernetes on node {name}"),
            Self::StartRecover(name) => format!("Hand node {name} its disk key"),
            Self::SaveKubeconfig(_) => "Save the kubeconfig".into(),
            Self::Install => "Install our kinds and rights in the cluster".into(),
            Self::WriteTrust => "Sign and write the trust bundle".into(),
            Self::SetTargets(targets) => format!("Point the endpoint at {} control-plane nodes", targets.len()),
        }
    }
}

/// Why nothing more can be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Reason of the condition.
    pub reason: &'static str,
    /// For people: what to do, or what is waited for.
    pub message: String,
    /// Whether it needs somebody's help.
    pub stalled: bool,
}

/// What to do, and what is accepted from now on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// What comes after, for people.
    pub next: Vec<String>,
    /// Why it ends here.
    pub blocked: Option<Blocked>,
    /// Versions whose nodes are accepted.
    pub accepted: Vec<AcceptedVersion>,
    /// The version that was given up.
    pub rolled_back: Option<RolledBack>,
}

impl Plan {
    /// For people: the steps and what follows. An operator that was restarted sets targets again, which changes nothing: that
    /// alone is no news.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let steps: &[Step] = if self.steps.iter().all(Step::is_upkeep) { &[] } else { &self.steps };
        steps.iter().map(Step::words).chain(self.next.iter().cloned()).collect()
    }

    fn wait(mut self, reason: &'static str, message: impl Into<String>) -> Self {
        self.blocked = Some(Blocked { reason, message: message.into(), stalled: false });
        self
    }

    fn stall(mut self, reason: &'static str, message: impl Into<String>) -> Self {
        self.blocked = Some(Blocked { reason, message: message.into(), stalled: true });
        self
    }

    fn then(mut self, next: &str) -> Self {
        self.next.push(next.to_owned());
        self
    }
}

/// Decides what is next.
#[must_use]
pub fn plan(seen: &Observed) -> Plan {
    let mut plan = decide(seen);
    // The first step that fails ends a pass, and no node waits for a key service that is away.
    plan.steps.sort_by_key(|step| *step == Step::RewrapMasterSecret);
    plan
}

fn decide(seen: &Observed) -> Plan {
    let (accepted, rolled_back) = (seen.accepted.clone(), seen.rolled_back.clone());
    let mut plan = Plan { accepted, rolled_back, ..Plan::default() };
    if seen.paused && !seen.deleting {
        return plan.wait(reason::PAUSED, "the cluster is paused: nothing is changed until that is taken back");
    }
    if seen.deleting {
        return delete(seen, plan);
    }
    if seen.now + CLOCK_SLACK_SECONDS < seen.created {
        // What is signed now would be out of its time for all others, and what has ended would count.
        let words = "by the operator's clock this cluster isn't made yet: set the clock of the operator's machine";
        return plan.stall(reason::CLOCK_WRONG, words);
    }
    // Before the finalizer: a cluster that can't be begun can always be deleted.
    if let Some(refusal) = &seen.provider_refused {
        return plan.stall(reason::PROVIDER_NOT_ALLOWED, refusal);
    }
    if !seen.finalizer {
        plan.steps.push(Step::AddFinalizer);
    }
    match &seen.owner_key {
        SecretSeen::Present => {}
        SecretSeen::Invalid(problem) => return plan.stall(reason::SECRET_INVALID, problem),
        SecretSeen::Missing(name) if seen.owner_key_known => {
            return plan.stall(
                reason::SECRET_NOT_FOUND,
                format!("Secret {name} with the cluster's owner key is gone: restore it from a backup; nodes trust no other key"),
            );
        }
        SecretSeen::Missing(_) => plan.steps.push(Step::CreateOwnerKey),
    }
    match &seen.master_secret {
        SecretSeen::Present if seen.master_secret_stale => plan.steps.push(Step::RewrapMasterSecret),
        SecretSeen::Present => {}
        SecretSeen::Invalid(problem) => return plan.stall(reason::SECRET_INVALID, problem),
        SecretSeen::Missing(name) if seen.cluster_id_known => {
            return plan.stall(
                reason::SECRET_NOT_FOUND,
                format!(
                    "Secret {name} with the master secret is gone: restore it from a backup; the cluster's disks open with \
                     no other"
                ),
            );
        }
        SecretSeen::Missing(name) if seen.master_secret_named => {
            return plan.stall(
                reason::SECRET_NOT_FOUND,
                format!("Secret {name} with the master secret is missing: provide 32 bytes under key `secret`"),
            );
        }
        SecretSeen::Missing(_) => plan.steps.push(Step::CreateMasterSecret),
    }
    if !seen.network {
        plan.steps.push(Step::EnsureNetwork);
    }
    groups(seen, &mut plan);
    let (VersionSeen::Ready(wanted), Some(target)) = (&seen.version, seen.goal()) else {
        return without_target(seen, plan);
    };
    plan.rolled_back = rollback::decide(seen, wanted);
    if plan.rolled_back != seen.rolled_back {
        // Remembered before anything is done for it: the node that shows it is removed.
        return match plan.rolled_back.as_ref().map(rollback::words) {
            Some(words) => plan.wait(reason::ROLLED_BACK, words),
            None => plan.wait(reason::ROLLING_OUT, "another version is wanted than the one that was given up"),
        };
    }
    if !plan.accepted.contains(target) {
        plan.accepted.retain(|known| known.digest != target.digest);
        plan.accepted.push(target.clone());
    }
    if !prepared(&plan) || plan.accepted != seen.accepted {
        return plan
            .then("Make the control-plane node that initialises Kubernetes, and then the other nodes")
            .wait(reason::CREATING_INFRASTRUCTURE, "keys, network and the accepted version are being prepared");
    }
    if seen.simulated && !prepare_inside(seen, &mut plan) {
        return plan.wait(reason::IN_PROGRESS, "our kinds and the signed trust bundle are being written");
    }
    if !seen.initialized {
        return initialize(seen, &target.digest, plan);
    }
    if let Some(name) = &seen.kubeconfig_lost {
        let words = format!("Secret {name} with the cluster's kubeconfig is gone: restore it; a cluster gives it once");
        return plan.stall(reason::SECRET_NOT_FOUND, words);
    }
    if !seen.reachable {
        return silence::unreachable(seen, plan);
    }
    if !seen.simulated && !prepare_inside(seen, &mut plan) {
        return plan
            .then("Let the other nodes join")
            .wait(reason::WAITING_FOR_CONTROL_PLANE, "the cluster gets its kinds, rights and trust bundle");
    }
    sizes::sizes(seen, &target.digest, &mut plan);
    targets(seen, &mut plan);
    retire(seen, &target.digest, &mut plan);
    rollback::tell(&mut plan);
    plan
}

/// Whether everything is there that nodes and trust are made from.
fn prepared(plan: &Plan) -> bool {
    !plan.steps.iter().any(|step| {
        matches!(step, Step::CreateOwnerKey | Step::CreateMasterSecret | Step::EnsureNetwork | Step::AddFinalizer)
    })
}

/// Nothing new is made without a version that can be used; what was accepted before goes on.
fn without_target(seen: &Observed, mut plan: Plan) -> Plan {
    if seen.initialized && !seen.reachable {
        return silence::unreachable(seen, plan);
    }
    if seen.initialized && prepared(&plan) {
        prepare_inside(seen, &mut plan);
        targets(seen, &mut plan);
    }
    match &seen.version {
        VersionSeen::Missing(name) => {
            plan.wait(reason::NODE_VERSION_NOT_FOUND, format!("there is no NodeVersion {name}: create it"))
        }
        VersionSeen::NotReady(message) => plan.wait(reason::NODE_VERSION_NOT_READY, message),
        VersionSeen::Awaited(message) => plan.wait(reason::IN_PROGRESS, message),
        VersionSeen::NoImage(name) => {
            let message = format!("NodeVersion {name} names no image for this provider: add one");
            plan.stall(reason::IMAGE_NOT_FOUND, message)
        }
        VersionSeen::NoSet(name) => {
            let message = format!("NodeVersion {name} has no measurements for this provider's platform: add a set");
            plan.stall(reason::NO_MEASUREMENTS, message)
        }
        VersionSeen::Impossible(message) => plan.stall(reason::INVALID_SPEC, message),
        VersionSeen::Ready(_) => plan,
    }
}

/// Our kinds and then the trust bundle; false while there are no kinds. An old bundle is written before whatever comes
/// next, which a failure ends: so nothing else waits for another look.
fn prepare_inside(seen: &Observed, plan: &mut Plan) -> bool {
    if !seen.installed {
        plan.steps.push(Step::Install);
    }
    if !seen.installed || !seen.trust_current {
        plan.steps.push(Step::WriteTrust);
    }
    seen.installed
}

fn initialize(seen: &Observed, target: &str, mut plan: Plan) -> Plan {
    let after = "Install our kinds, write the trust bundle and make the other nodes";
    sizes::failed(seen, &mut plan);
    let Some(first) = seen.control_plane().find(|node| node.alive()) else {
        if seen.control_plane().all(|node| node.deleting) {
            sizes::create(seen, &mut plan, "control-plane", Role::ControlPlane, 0);
        }
        return plan
            .then("Initialise Kubernetes on it")
            .then(after)
            .wait(reason::INITIALIZING_CONTROL_PLANE, failed_words(seen));
    };
    if first.outdated(target) && first.phase != Phase::Ready && seen.init_of(&first.uid).is_none() {
        // Nothing is in it yet: what is wanted now may take its place.
        let why = "something else is wanted before this one was initialised".to_owned();
        plan.steps.push(Step::DeleteNode { name: first.name.clone(), why });
        return plan.wait(reason::INITIALIZING_CONTROL_PLANE, "the first node is made anew as it is wanted now");
    }
    if seen.simulated {
        return plan
            .then("Make the other nodes")
            .wait(reason::INITIALIZING_CONTROL_PLANE, format!("node {} is {}", first.name, phase(first.phase)));
    }
    let (Some(_), Some(id)) = (&first.address, &first.provider_id) else {
        let plan = plan.then("Initialise Kubernetes on it").then(after);
        if let Some(why) = first.short {
            return plan.wait(why, format!("node {}: {}", first.name, first.message));
        }
        return plan
            .wait(reason::INITIALIZING_CONTROL_PLANE, format!("the VM of node {} is being launched", first.name));
    };
    set_targets(seen, &mut plan, vec![id.clone()]);
    let message = match seen.init_of(&first.uid) {
        None => {
            plan.steps.push(Step::StartInit(first.name.clone()));
            format!("node {} is asked for its evidence", first.name)
        }
        Some(Init::Running(line)) => format!("node {}: {line}", first.name),
        Some(Init::Done) => {
            plan.steps.push(Step::SaveKubeconfig(first.name.clone()));
            "the kubeconfig is being saved".to_owned()
        }
        // Its controller calls it Failed then, and it is replaced as every failed node.
        Some(Init::Failed(why)) => format!("initialising Kubernetes failed, the node is replaced: {why}"),
        Some(Init::Refused(why)) => format!("node {} was refused: {why}", first.name),
    };
    plan.then(after).wait(reason::INITIALIZING_CONTROL_PLANE, message)
}

fn failed_words(seen: &Observed) -> String {
    match seen.control_plane().find(|node| node.phase == Phase::Failed) {
        Some(node) => format!("node {} failed and will be replaced: {}", node.name, node.message),
        None => "the first control-plane node is being made".to_owned(),
    }
}

/// The control-plane nodes that were Ready once: a node that joins has no API server yet. One that goes only where there is
/// no other: it stays until there is.
fn targets(seen: &Observed, plan: &mut Plan) {
    let goes = |node: &NodeSeen| {
        plan.steps.iter().any(|step| matches!(step, Step::DeleteNode { name, .. } if *name == node.name))
    };
    let serving = |deleting: bool| -> Vec<String> {
        seen.control_plane()
            .filter(|node| node.deleting == deleting && (node.was_ready || node.phase == Phase::Ready))
            .filter(|node| !matches!(node.phase, Phase::Failed | Phase::Terminating) && !goes(node))
            .filter_map(|node| node.provider_id.clone())
            .collect()
    };
    let stay = serving(false);
    let wanted = if stay.is_empty() { serving(true) } else { stay };
    if !wanted.is_empty() {
        set_targets(seen, plan, wanted);
    }
}

/// Before nodes are deleted: the endpoint must not lead to one that goes.
fn set_targets(seen: &Observed, plan: &mut Plan, mut wanted: Vec<String>) {
    wanted.sort();
    if seen.targets.as_ref() != Some(&wanted) {
        plan.steps.insert(0, Step::SetTargets(wanted));
    }
}

fn retire(seen: &Observed, target: &str, plan: &mut Plan) {
    plan.accepted.retain(|known| known.digest == target || seen.nodes.iter().any(|node| node.digest == known.digest));
}

fn groups(seen: &Observed, plan: &mut Plan) {
    for group in &seen.groups {
        let is_new = group.current.is_none();
        let edited = group.remembered.as_ref() != Some(&group.spec);
        let current = group.current.unwrap_or(group.wanted);
        // Of a group that others set the size of, the spec says the bounds.
        let taken_over = is_new || (edited && !group.autoscaled);
        let wanted = if taken_over { group.wanted } else { current }.clamp(group.min, group.max);
        if edited || wanted != current {
            let (group, spec) = (group.name.clone(), group.spec.clone());
            plan.steps.push(Step::ApplyGroup { group, replicas: wanted, spec });
        }
    }
    plan.steps.extend(seen.stale_groups.iter().cloned().map(Step::DeleteGroup));
}

fn delete(seen: &Observed, mut plan: Plan) -> Plan {
    if !seen.finalizer {
        return plan;
    }
    if seen.deletion_policy == DeletionPolicy::Orphan {
        // First, so that who lets the object go by hand after a failure loses no VM to the sweep.
        plan.steps.push(Step::Disown);
        plan.steps.extend(seen.nodes.iter().map(|node| Step::OrphanNode(node.name.clone())));
        plan.steps.push(Step::RemoveFinalizer);
        return plan;
    }
    for role in [Role::Worker, Role::ControlPlane] {
        let nodes: Vec<_> = seen.nodes.iter().filter(|node| node.role == role).collect();
        if nodes.is_empty() {
            continue;
        }
        for node in nodes.iter().filter(|node| !node.deleting) {
            let why = "the cluster is being deleted".to_owned();
            plan.steps.push(Step::DeleteNode { name: node.name.clone(), why });
        }
        return plan
            .then("Remove network and endpoint when the last VM is gone")
            .wait(reason::DELETING, format!("{} {} nodes are being removed", nodes.len(), role.as_str()));
    }
    plan.steps.push(Step::RemoveNetwork);
    plan.then("Let the cluster's object go when nothing is left")
        .wait(reason::DELETING, "network and endpoint are being removed")
}

/// A phase, for people.
#[must_use]
pub fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "waiting for its VM",
        Phase::Booting => "booting",
        Phase::Attested => "attested and joining",
        Phase::Joined => "joined and not Ready yet",
        Phase::Ready => "Ready",
        Phase::Draining => "being drained",
        Phase::Terminating => "being removed",
        Phase::Failed => "failed",
    }
}
