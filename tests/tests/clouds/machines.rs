//! Machines of a scripted cloud, played on the management cluster as those of provider `simulated` are.

use std::{collections::BTreeMap, time::Duration};

use constellation_attestation::delivery;
use constellation_cloud_scripted::{Endpoint, Machine, Scripted};
use constellation_crds::ConfidentialNode;
use constellation_operator::cloud::{
    Cloud as _, CloudError, ClusterUid, InstanceId, LaunchRequest, NodeUid, simulated::SimulatedCloud,
};
use constellation_tests::faults::lane::Lane;
use kube::ResourceExt as _;

/// Between two looks at the cloud.
const LOOK: Duration = Duration::from_millis(200);

/// Boots what the cloud runs and ends what it ends, until it is dropped. Machines outlive every operator.
pub async fn play<W: Scripted>(endpoint: &Endpoint<W>, lane: &Lane, simulated: &SimulatedCloud) {
    let mut played = BTreeMap::<String, (ClusterUid, InstanceId)>::new();
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        let machines = endpoint.world().machines();
        for machine in
            machines.iter().filter(|machine| !played.contains_key(&machine.node)).cloned().collect::<Vec<_>>()
        {
            let index = u32::try_from(played.len()).unwrap();
            let (node, cluster) = (machine.node.clone(), ClusterUid(machine.cluster.clone()));
            // Whose object is gone will be gone soon.
            let Some(request) = request(lane, machine, index).await else { continue };
            let started = simulated.launch(&request).await.unwrap();
            played.insert(node, (cluster, started.id));
        }
        let gone = |node: &String| !machines.iter().any(|machine| machine.node == *node);
        for node in played.keys().filter(|node| gone(node)).cloned().collect::<Vec<_>>() {
            let (cluster, id) = &played[&node];
            match simulated.terminate(cluster, id).await {
                Ok(()) => {}
                Err(CloudError::NotFound(_)) => drop(played.remove(&node)),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

async fn request(lane: &Lane, machine: Machine, index: u32) -> Option<LaunchRequest> {
    let nodes = lane.list::<ConfidentialNode>().await.unwrap();
    let node = nodes.iter().find(|node| node.uid().as_ref() == Some(&machine.node))?;
    Some(LaunchRequest {
        cluster: ClusterUid(machine.cluster),
        name: node.name_any(),
        control_plane: false,
        instance_type: node.spec.instance_type.clone(),
        zone: None,
        state_disk_bytes: 0,
        index,
        launch_config: delivery::split(&machine.user_data).0.to_vec(),
        image: machine.image,
        node: NodeUid(machine.node),
    })
}
