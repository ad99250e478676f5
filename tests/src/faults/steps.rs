//! The steps of the operator's two planners, and which of them its log says were carried out.

use std::collections::BTreeSet;

use constellation_crds::node::Role;
use constellation_operator::{cluster::plan::Step as OfCluster, node::plan::Step as OfNode};
use serde_json::Value;

/// Those that need a machine that can be spoken to and a cluster of its own: a played one has neither.
pub const OF_TALKS: [&str; 5] =
    ["cluster: Install", "cluster: SaveKubeconfig", "cluster: StartInit", "cluster: StartRecover", LEAVE];
/// One of them that is planned for simulated nodes, too.
pub const LEAVE: &str = "node: Leave";

/// Stands in a step's words for what differs from run to run.
const ANY: &str = "\u{1}";

/// All that there are: which planner's, and its name.
#[must_use]
pub fn all() -> BTreeSet<String> {
    clusters().iter().map(of_cluster).chain(nodes().iter().map(of_node)).collect()
}

/// Those that an operator's log tells of.
#[must_use]
pub fn told(log: &str) -> BTreeSet<String> {
    let clusters: Vec<_> = clusters().iter().map(|step| (beginning(step), of_cluster(step))).collect();
    let nodes: BTreeSet<_> = nodes().iter().map(of_node).collect();
    let mut told = BTreeSet::new();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        let step = line["step"].as_str().unwrap_or_default();
        match line["message"].as_str() {
            Some("Step") => {
                let meant = clusters.iter().filter(|(words, _)| step.starts_with(words.as_str()));
                told.extend(meant.map(|(_, name)| name.clone()));
            }
            Some("Carrying out") => told.extend(nodes.get(&format!("node: {step}")).cloned()),
            _ => {}
        }
    }
    told
}

fn of_cluster(step: &OfCluster) -> String {
    let step = format!("{step:?}");
    let name: String = step.chars().take_while(char::is_ascii_alphanumeric).collect();
    format!("cluster: {name}")
}

fn of_node(step: &OfNode) -> String {
    format!("node: {step:?}")
}

/// The words of a step up to what differs from run to run.
fn beginning(step: &OfCluster) -> String {
    let differs = |c: char| ANY.contains(c) || c.is_ascii_digit();
    step.words().split(differs).next().unwrap_or_default().to_owned()
}

fn clusters() -> Vec<OfCluster> {
    std::iter::successors(Some(OfCluster::AddFinalizer), after_cluster).collect()
}

fn nodes() -> Vec<OfNode> {
    std::iter::successors(Some(OfNode::AddFinalizer), after_node).collect()
}

/// One leads to the next: a new one is missed here when this is compiled.
fn after_cluster(step: &OfCluster) -> Option<OfCluster> {
    let any = || ANY.to_owned();
    Some(match step {
        OfCluster::AddFinalizer => OfCluster::RemoveFinalizer,
        OfCluster::RemoveFinalizer => OfCluster::CreateOwnerKey,
        OfCluster::CreateOwnerKey => OfCluster::CreateMasterSecret,
        OfCluster::CreateMasterSecret => OfCluster::RewrapMasterSecret,
        OfCluster::RewrapMasterSecret => OfCluster::EnsureNetwork,
        OfCluster::EnsureNetwork => OfCluster::RemoveNetwork,
        OfCluster::RemoveNetwork => OfCluster::ApplyGroup { group: any(), replicas: 0, spec: any() },
        OfCluster::ApplyGroup { .. } => OfCluster::DeleteGroup(any()),
        OfCluster::DeleteGroup(_) => OfCluster::CreateNode { group: any(), role: Role::Worker, index: 0, failures: 0 },
        OfCluster::CreateNode { .. } => OfCluster::DeleteNode { name: any(), why: any() },
        OfCluster::DeleteNode { .. } => OfCluster::Disown,
        OfCluster::Disown => OfCluster::OrphanNode(any()),
        OfCluster::OrphanNode(_) => OfCluster::StartInit(any()),
        OfCluster::StartInit(_) => OfCluster::StartRecover(any()),
        OfCluster::StartRecover(_) => OfCluster::SaveKubeconfig(any()),
        OfCluster::SaveKubeconfig(_) => OfCluster::Install,
        OfCluster::Install => OfCluster::WriteTrust,
        OfCluster::WriteTrust => OfCluster::SetTargets(Vec::new()),
        OfCluster::SetTargets(_) => return None,
    })
}

/// As [`after_cluster`].
fn after_node(step: &OfNode) -> Option<OfNode> {
    Some(match step {
        OfNode::AddFinalizer => OfNode::Admit,
        OfNode::Admit => OfNode::Cordon,
        OfNode::Cordon => OfNode::Drain,
        OfNode::Drain => OfNode::DropFinalizer,
        OfNode::DropFinalizer => OfNode::Evict,
        OfNode::Evict => OfNode::Forget,
        OfNode::Forget => OfNode::Label,
        OfNode::Label => OfNode::Launch,
        OfNode::Launch => OfNode::Leave,
        OfNode::Leave => OfNode::Taint,
        OfNode::Taint => OfNode::Terminate,
        OfNode::Terminate => OfNode::Untaint,
        OfNode::Untaint => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_step_is_known_by_its_line_in_the_log() {
        for step in clusters() {
            let line = json!({"message": "Step", "step": step.words().replace(ANY, "x")}).to_string();
            assert_eq!(told(&line), BTreeSet::from([of_cluster(&step)]), "{line}");
        }
        for step in nodes() {
            let line = json!({"message": "Carrying out", "step": format!("{step:?}")}).to_string();
            assert_eq!(told(&line), BTreeSet::from([of_node(&step)]), "{line}");
        }
        let others = "no JSON\n{\"message\": \"Step failed\", \"step\": \"Launch\"}\n";
        assert_eq!((told(others), all().len()), (BTreeSet::new(), clusters().len() + nodes().len()));
    }
}
