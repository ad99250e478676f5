//! Where everything of a cluster lies on disk, and the small words (uids, ids, subnets, shapes) that name it.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use crate::cloud::{CloudError, ClusterUid, InstanceId, NodeUid};

/// Name of the supervisor's socket, relative to the cluster's directory: its full path may be too long for a socket.
pub(super) const SOCKET: &str = "supervisor.sock";

/// The directory of one cluster.
#[derive(Clone, Debug)]
pub(super) struct ClusterDir(PathBuf);

impl ClusterDir {
    /// The directory of `cluster` under `state_dir`; refuses a uid that is not a plain name.
    pub(super) fn of(state_dir: &Path, cluster: &ClusterUid) -> Result<Self, CloudError> {
        plain_name(&cluster.0)?;
        Ok(Self(state_dir.join(&cluster.0)))
    }

    /// A cluster's directory given by its path.
    pub(super) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Held (flock) for as long as a supervisor lives.
    pub(super) fn lock(&self) -> PathBuf {
        self.0.join("supervisor.lock")
    }

    /// Process id of the supervisor in the host's pid namespace.
    pub(super) fn pid(&self) -> PathBuf {
        self.0.join("supervisor.pid")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.0.join("supervisor.log")
    }

    /// What the network was made from.
    pub(super) fn network(&self) -> PathBuf {
        self.0.join("network.json")
    }

    /// The port on the host's loopback that leads to the API server.
    pub(super) fn port(&self) -> PathBuf {
        self.0.join("port")
    }

    /// The endpoint's targets.
    pub(super) fn targets(&self) -> PathBuf {
        self.0.join("targets.json")
    }

    /// The CA of the cluster's TPMs.
    pub(super) fn ca(&self) -> PathBuf {
        self.0.join("ca")
    }

    pub(super) fn instances(&self) -> PathBuf {
        self.0.join("instances")
    }
}

/// Refuses whatever could leave the directory it is meant to name, or be read as an option.
pub(super) fn plain_name(name: &str) -> Result<(), CloudError> {
    let plain = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !name.starts_with('-');
    if plain {
        Ok(())
    } else {
        Err(CloudError::Unsupported(format!("{name:?} is not a uid: use letters, digits and '-', at most 64")))
    }
}

/// The id of the instance of a node.
pub(super) fn instance_id(cluster: &ClusterUid, node: &NodeUid) -> InstanceId {
    InstanceId(format!("local://{}/{}", cluster.0, node.0))
}

/// The node whose instance an id names; an id of another cloud or cluster names nothing here.
pub(super) fn node_of(cluster: &ClusterUid, id: &InstanceId) -> Result<NodeUid, CloudError> {
    let unknown = || CloudError::NotFound(format!("instance {} in cluster {}", id.0, cluster.0));
    let rest = id.0.strip_prefix("local://").ok_or_else(unknown)?;
    let (its_cluster, node) = rest.split_once('/').ok_or_else(unknown)?;
    if its_cluster != cluster.0 {
        return Err(unknown());
    }
    plain_name(node).map_err(|_| unknown())?;
    Ok(NodeUid(node.to_owned()))
}

/// The cluster's IPv4 subnet: first address for the bridge, nodes from the tenth on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subnet {
    first: u32,
    prefix: u8,
}

impl Subnet {
    /// Parses `10.77.0.0/24`: a network address with a prefix of 8 to 27 bits.
    pub(super) fn parse(cidr: &str) -> Result<Self, CloudError> {
        let wrong = || {
            CloudError::Unsupported(format!(
                "node CIDR {cidr:?} is not an IPv4 network with a prefix of 8 to 27 bits, such as 10.77.0.0/24"
            ))
        };
        let (address, prefix) = cidr.split_once('/').ok_or_else(wrong)?;
        let first = u32::from(address.parse::<Ipv4Addr>().map_err(|_| wrong())?);
        let prefix = prefix.parse::<u8>().map_err(|_| wrong())?;
        if !(8..=27).contains(&prefix) || first & host_mask(prefix) != 0 {
            return Err(wrong());
        }
        Ok(Self { first, prefix })
    }

    /// The bridge's address: gateway, endpoint.
    pub(super) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.first + 1)
    }

    /// The address of the node with this number.
    pub(super) fn node(self, index: u32) -> Result<Ipv4Addr, CloudError> {
        let host = FIRST_NODE.checked_add(index).filter(|host| *host < host_mask(self.prefix)).ok_or_else(|| {
            CloudError::Unsupported(format!(
                "node CIDR {}/{} has no address for node number {index}: use a larger network",
                Ipv4Addr::from(self.first),
                self.prefix
            ))
        })?;
        Ok(Ipv4Addr::from(self.first + host))
    }

    pub(super) fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & !host_mask(self.prefix) == self.first
    }

    /// An address of this subnet with the prefix, as `ip` and the guest want it.
    pub(super) fn with_prefix(self, address: Ipv4Addr) -> String {
        format!("{address}/{}", self.prefix)
    }
}

/// Offset of node 0; what lies below is for the bridge and for people.
pub const FIRST_NODE: u32 = 10;

fn host_mask(prefix: u8) -> u32 {
    u32::MAX >> prefix
}

/// Size of a VM, written `<vCPUs>x<MiB>` as instance type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) vcpus: u32,
    pub(super) memory_mib: u64,
}

impl Shape {
    /// Parses `2x3072`.
    pub(super) fn parse(instance_type: &str) -> Result<Self, CloudError> {
        let wrong = || {
            CloudError::Unsupported(format!(
                "instance type {instance_type:?} is not <vCPUs>x<MiB of memory>, such as 2x3072 (1 to 64 vCPUs, 256 MiB or more)"
            ))
        };
        let (vcpus, memory) = instance_type.split_once('x').ok_or_else(wrong)?;
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(vcpus) || !digits(memory) {
            return Err(wrong());
        }
        let shape =
            Self { vcpus: vcpus.parse().map_err(|_| wrong())?, memory_mib: memory.parse().map_err(|_| wrong())? };
        // OVMF with a TPM does not come up with less than 256 MiB; 1 TiB catches bytes given for MiB.
        if (1..=64).contains(&shape.vcpus) && (256..=1 << 20).contains(&shape.memory_mib) {
            Ok(shape)
        } else {
            Err(wrong())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_gives_gateway_and_node_addresses() {
        let subnet = Subnet::parse("10.77.0.0/24").unwrap();
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 77, 0, 1));
        assert_eq!(subnet.node(1).unwrap(), Ipv4Addr::new(10, 77, 0, 11));
        assert_eq!(subnet.node(244).unwrap(), Ipv4Addr::new(10, 77, 0, 254));
        assert_eq!(subnet.with_prefix(subnet.gateway()), "10.77.0.1/24");
        assert!(subnet.contains(Ipv4Addr::new(10, 77, 0, 200)));
        assert!(!subnet.contains(Ipv4Addr::new(10, 77, 1, 1)));
    }

    #[test]
    fn the_broadcast_address_and_beyond_are_no_nodes() {
        let subnet = Subnet::parse("10.77.0.0/24").unwrap();
        assert!(subnet.node(245).is_err());
        assert!(subnet.node(u32::MAX).is_err());
    }

    #[test]
    fn nonsense_subnets_are_refused() {
        for cidr in
            ["", "10.77.0.0", "10.77.0.1/24", "10.77.0.0/28", "10.77.0.0/33", "fd00::/64", "10.77.0.0/x", "0.0.0.0/0"]
        {
            assert!(matches!(Subnet::parse(cidr), Err(CloudError::Unsupported(_))), "{cidr}");
        }
    }

    #[test]
    fn an_instance_type_is_vcpus_and_memory() {
        assert_eq!(Shape::parse("2x3072").unwrap(), Shape { vcpus: 2, memory_mib: 3072 });
        for wrong in
            ["", "2", "x", "2x", "x512", "0x512", "2x255", "65x512", "+2x512", "2x99999999", "2X512", "2x512x1"]
        {
            assert!(matches!(Shape::parse(wrong), Err(CloudError::Unsupported(_))), "{wrong}");
        }
    }

    #[test]
    fn an_instance_id_leads_back_to_its_node_in_its_own_cluster_only() {
        let (ours, other) = (ClusterUid("c-1".into()), ClusterUid("c-2".into()));
        let id = instance_id(&ours, &NodeUid("n-1".into()));
        assert_eq!(node_of(&ours, &id).unwrap(), NodeUid("n-1".into()));
        assert!(matches!(node_of(&other, &id), Err(CloudError::NotFound(_))));
        assert!(matches!(node_of(&ours, &InstanceId("local://c-1/../x".into())), Err(CloudError::NotFound(_))));
        assert!(matches!(node_of(&ours, &InstanceId("aws:///x".into())), Err(CloudError::NotFound(_))));
    }

    #[test]
    fn a_uid_that_could_leave_its_directory_is_refused() {
        assert!(plain_name("0b9f3c1e-1111-4a4a-8888-000000000001").is_ok());
        for wrong in ["", ".", "..", "a/b", "-rf", "a b", &"x".repeat(65)] {
            assert!(plain_name(wrong).is_err(), "{wrong}");
        }
    }
}
