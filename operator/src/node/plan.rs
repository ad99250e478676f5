//! From what was seen to what is done with one node. Pure.

use constellation_crds::cluster::OnFailure;

use crate::cloud::InstanceState;

use super::seen::Observed;

/// One thing to do. Every step may run twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Put our finalizer on the object, before there is anything to clean up.
    AddFinalizer,
    /// Let the verifier know the node.
    Admit,
    /// Keep new pods away.
    Cordon,
    /// Ask pods to leave.
    Drain,
    /// Let the object go.
    DropFinalizer,
    /// Take the admission back: no ticket, no place in the mesh.
    Evict,
    /// Remove what the made cluster knows of the node.
    Forget,
    /// Say on the Kubernetes node that it was attested.
    Label,
    /// Launch the VM.
    Launch,
    /// Ask the node to leave etcd.
    Leave,
    /// Send pods away from a member that is refused.
    Taint,
    /// Remove the VM.
    Terminate,
    /// Let pods come again.
    Untaint,
}

/// What is done now, and whether something is awaited that nobody tells us about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps, in order; the first that fails ends the pass.
    pub steps: Vec<Step>,
    /// Look again soon: a VM boots, pods leave.
    pub soon: bool,
}

/// The plan.
#[must_use]
pub fn plan(seen: &Observed) -> Plan {
    let stays = seen.stays().is_some();
    if seen.deleting() && !stays {
        return leave(seen);
    }
    let Some(cluster) = seen.cluster else { return Plan::default() };
    if cluster.paused || cluster.deleting {
        return Plan::default();
    }
    let finalizer =
        seen.node.metadata.finalizers.iter().flatten().any(|name| name == constellation_crds::FINALIZER_NODE);
    if !finalizer && stays {
        // What is on its way out takes no new ones.
        return Plan::default();
    }
    if !finalizer {
        return Plan { steps: vec![Step::AddFinalizer], soon: true };
    }
    if seen.failure().is_some() {
        // Not repaired: the cluster's controller deletes the object and makes another.
        return Plan { steps: Vec::new(), soon: stays };
    }
    let mut steps = Vec::new();
    match &seen.instance {
        // Once: the VM of a node that ended may not come again, and a listing may lack one for a moment.
        None if cluster.infrastructure && seen.since("Launched").is_none() => steps.push(Step::Launch),
        Some(_) if cluster.initialized && seen.admission.is_none() => steps.push(Step::Admit),
        None | Some(_) => {}
    }
    let accepted = seen.attestation().is_some_and(|result| result.verdict == "Accepted");
    if accepted && seen.kube.is_some_and(|kube| !kube.labelled) {
        steps.push(Step::Label);
    }
    let shunned = cluster.on_failure == OnFailure::Taint && seen.refused_member().is_some();
    match seen.kube.map(|kube| kube.unattested) {
        Some(false) if shunned => steps.push(Step::Taint),
        // Nobody takes it back for want of an answer.
        Some(true) if !shunned && seen.admission.is_some() => steps.push(Step::Untaint),
        _ => {}
    }
    let ready = seen.kube.is_some_and(|kube| kube.ready);
    Plan { soon: !ready || stays || seen.instance.is_none() || !steps.is_empty(), steps }
}

/// The way out: pods, admission, etcd, VM, and last the object.
fn leave(seen: &Observed) -> Plan {
    let finalizer =
        seen.node.metadata.finalizers.iter().flatten().any(|name| name == constellation_crds::FINALIZER_NODE);
    if !finalizer {
        return Plan::default();
    }
    let alone = Plan { steps: vec![Step::DropFinalizer], soon: false };
    let goes = seen.instance.as_ref().map(|instance| instance.state);
    let Some(cluster) = seen.cluster.filter(|cluster| !cluster.deleting) else {
        // The cluster itself goes: nothing in it needs to be told. Orphaned VMs stay.
        let orphan = seen.cluster.is_some_and(|cluster| cluster.orphan);
        return match goes {
            Some(_) if !orphan => Plan { steps: vec![Step::Terminate], soon: true },
            // Only a cluster that outlives its nodes' VMs can still be asked: a simulated one.
            None if seen.admission.is_some() || seen.kube.is_some() => Plan { steps: vec![Step::Forget], soon: true },
            _ => alone,
        };
    };
    let mut steps = Vec::new();
    let running = goes == Some(InstanceState::Running);
    // By our own clock, from when we saw it first: the API server's, which wrote the time of deletion, may go differently.
    let since = seen.since("Draining").unwrap_or(0);
    if let (true, Some(kube)) = (cluster.initialized && running, seen.kube) {
        if !kube.cordoned {
            steps.push(Step::Cordon);
        }
        if kube.ready && kube.pods > 0 && since < cluster.drain_seconds {
            steps.push(Step::Drain);
            return Plan { steps, soon: true };
        }
    }
    if cluster.initialized && seen.admission.as_ref().is_some_and(|admission| !admission.evicted) {
        steps.push(Step::Evict);
    }
    let member = seen.since("Joined").is_some() || seen.kube.is_some();
    // Two others have a majority of three without it, so one that never answers is not waited for: the next node that
    // joins removes its member. With one other, etcd would end with it.
    let given_up = cluster.others.ready > 1 && since >= cluster.drain_seconds + cluster.node_seconds;
    let has_left = seen.since("Left").is_some() || given_up;
    if running && member && seen.is_control_plane() && cluster.others.members > 0 && !has_left {
        steps.push(Step::Leave);
        return Plan { steps, soon: true };
    }
    if goes.is_some() {
        steps.push(Step::Terminate);
        return Plan { steps, soon: true };
    }
    if cluster.initialized && (seen.kube.is_some() || seen.admission.is_some()) {
        steps.push(Step::Forget);
        return Plan { steps, soon: true };
    }
    steps.push(Step::DropFinalizer);
    Plan { steps, soon: false }
}

#[cfg(test)]
mod tests;
