//! Ours to AWS' and back. Pure.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use aws_sdk_ec2::{
    primitives::DateTime,
    types::{self as ec2, InstanceStateName},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_cloud::{CloudError, ClusterUid, Instance, InstanceId, InstanceState, LaunchRequest, NodeUid};

use crate::{
    Placement, Proof, Reach, Settings,
    ending::{self, Ending},
    security::digest,
};

/// Tag: UID of the cluster.
pub const TAG_CLUSTER: &str = "constellation.dev/cluster-uid";
/// Tag: UID of the node.
pub const TAG_NODE: &str = "constellation.dev/node-uid";
/// Tag: who runs the operator.
pub const TAG_OWNER: &str = "constellation.dev/owner";
/// Tag: what an object is for, where a cluster has several of a kind.
pub const TAG_SLOT: &str = "constellation.dev/slot";

/// Device of the state volume, as the node looks for it.
const STATE_DEVICE: &str = "/dev/sdb";
/// "User data is limited to 16 KB, in raw form" (EC2 user guide, "Run commands at launch").
const USER_DATA_BYTES: usize = 16 * 1024;
const GIB: u64 = 1 << 30;
/// Largest subnet and VPC, and smallest, prefix lengths (VPC user guide, "VPC CIDR blocks").
const PREFIXES: std::ops::RangeInclusive<u8> = 16..=28;

/// An instance as it was listed, with what only this crate needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// As the trait shows it.
    pub instance: Instance,
    /// EC2's id.
    pub ec2_id: String,
    /// Its cluster.
    pub cluster: ClusterUid,
    /// Its public address.
    pub public: Option<IpAddr>,
    /// When it was launched, seconds.
    pub launched: i64,
    /// How it ended by itself, if it did: nothing of it is left but this.
    pub ending: Option<Ending>,
}

/// Refuses settings that can't work.
pub fn check(settings: &Settings) -> Result<(), CloudError> {
    let refuse = |what: &str| Err(CloudError::Unsupported(what.to_owned()));
    let places = match &settings.placement {
        Placement::Subnets(list) | Placement::Zones(list) => list,
    };
    if places.is_empty() || places.iter().any(String::is_empty) {
        return refuse("provider aws: give zones or subnets");
    }
    if matches!(settings.placement, Placement::Zones(_)) && settings.reach == Reach::Internal {
        return refuse("provider aws: nodes without public addresses need a way out: give subnets with a NAT gateway");
    }
    if settings.sources.is_empty() {
        return refuse("provider aws: allowedSources is empty, nobody could reach a node");
    }
    for source in &settings.sources {
        parse_cidr(source)?;
    }
    let word = |text: &str| text.len() <= 40 && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if settings.owner.is_empty() || !word(&settings.owner) {
        return refuse("provider aws: the operator's own name must be letters, digits and dashes, at most 40");
    }
    Ok(())
}

/// An IPv4 network in canonical form.
pub fn parse_cidr(text: &str) -> Result<(Ipv4Addr, u8), CloudError> {
    let wrong = || CloudError::Unsupported(format!("{text} is not an IPv4 network like 10.0.0.0/16"));
    let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
    let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
    let bits: u8 = bits.parse().map_err(|_| wrong())?;
    let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
    if bits > 32 || address.to_bits() & !mask != 0 {
        return Err(wrong());
    }
    Ok((address, bits))
}

/// One equal part of a network per zone.
pub fn split(cidr: &str, parts: usize) -> Result<Vec<String>, CloudError> {
    let (base, bits) = parse_cidr(cidr)?;
    let more = u8::try_from(parts.next_power_of_two().trailing_zeros()).unwrap_or(u8::MAX);
    let part = bits.saturating_add(more);
    if !PREFIXES.contains(&bits) || !PREFIXES.contains(&part) {
        let message =
            format!("nodeCIDR {cidr} must be from /16 to /28, and so must its part for each of {parts} zones");
        return Err(CloudError::Unsupported(message));
    }
    let size = 1u32 << (32 - part);
    let nth = |n: u32| format!("{}/{part}", Ipv4Addr::from_bits(base.to_bits() + n * size));
    Ok((0..parts).filter_map(|n| u32::try_from(n).ok()).map(nth).collect())
}

/// One tag.
pub fn tag(key: &str, value: &str) -> ec2::Tag {
    ec2::Tag::builder().key(key).value(value).build()
}

/// A filter by one value or several.
pub fn filter(name: &str, values: impl IntoIterator<Item = impl Into<String>>) -> ec2::Filter {
    ec2::Filter::builder().name(name).set_values(Some(values.into_iter().map(Into::into).collect())).build()
}

/// Tags as a map.
pub fn tags(list: &[ec2::Tag]) -> BTreeMap<&str, &str> {
    list.iter().filter_map(|tag| Some((tag.key()?, tag.value()?))).collect()
}

/// The token of a launch. EC2 refuses one whose instance was terminated, so the attempt is part of it; and a token with
/// other parameters, so the subnet is too. At most 64 characters.
pub fn client_token(request: &LaunchRequest, subnet: &str, attempt: u32) -> String {
    digest(&["launch", &request.cluster.0, &request.node.0, subnet, &attempt.to_string()], 64)
}

/// Tags of everything that a launch makes.
pub fn instance_tags(request: &LaunchRequest, owner: &str) -> Vec<ec2::Tag> {
    vec![
        tag("Name", &request.name),
        tag(TAG_CLUSTER, &request.cluster.0),
        tag(TAG_NODE, &request.node.0),
        tag(TAG_OWNER, owner),
    ]
}

/// The interface: one private address, and a public one where nodes are reached by it.
pub fn interface(subnet: &str, group: &str, reach: Reach) -> ec2::InstanceNetworkInterfaceSpecification {
    ec2::InstanceNetworkInterfaceSpecification::builder()
        .device_index(0)
        .subnet_id(subnet)
        .groups(group)
        .associate_public_ip_address(reach == Reach::External)
        .delete_on_termination(true)
        .build()
}

/// The state volume. Encrypted by the cloud as well as by the node: two keys, two owners.
pub fn state_volume(request: &LaunchRequest, settings: &Settings) -> Result<ec2::BlockDeviceMapping, CloudError> {
    let gib = i32::try_from(request.state_disk_bytes.div_ceil(GIB))
        .ok()
        .filter(|gib| *gib > 0)
        .ok_or_else(|| CloudError::Unsupported(format!("a state disk of {} bytes", request.state_disk_bytes)))?;
    let volume = ec2::EbsBlockDevice::builder()
        .volume_size(gib)
        .volume_type(ec2::VolumeType::Gp3)
        .encrypted(true)
        .set_kms_key_id(settings.volume_key.clone())
        .delete_on_termination(true)
        .build();
    Ok(ec2::BlockDeviceMapping::builder().device_name(STATE_DEVICE).ebs(volume).build())
}

/// SEV-SNP on, where it is asked for. A `NitroTPM` comes with the image, see [`crate::supply`].
pub fn cpu(proof: Proof) -> Option<ec2::CpuOptionsRequest> {
    let on = ec2::CpuOptionsRequest::builder().amd_sev_snp(ec2::AmdSevSnpSpecification::Enabled).build();
    (proof == Proof::SevSnp).then_some(on)
}

/// Sessions only, and from the host itself only: pods don't get at the metadata.
pub fn metadata() -> ec2::InstanceMetadataOptionsRequest {
    ec2::InstanceMetadataOptionsRequest::builder()
        .http_endpoint(ec2::InstanceMetadataEndpointState::Enabled)
        .http_tokens(ec2::HttpTokensState::Required)
        .http_put_response_hop_limit(1)
        .instance_metadata_tags(ec2::InstanceMetadataTagsState::Disabled)
        .build()
}

/// The launch configuration, as the node finds it.
pub fn user_data(request: &LaunchRequest) -> Result<String, CloudError> {
    let size = request.launch_config.len();
    if size > USER_DATA_BYTES {
        return Err(CloudError::Unsupported(format!(
            "a launch configuration of {size} bytes; EC2 takes {USER_DATA_BYTES}"
        )));
    }
    Ok(STANDARD.encode(&request.launch_config))
}

/// Our id, which is also the Kubernetes node's: `aws:///<zone>/<instance>`.
pub fn instance_id(zone: &str, ec2_id: &str) -> InstanceId {
    InstanceId(format!("aws:///{zone}/{ec2_id}"))
}

/// EC2's id in ours.
pub fn ec2_id(id: &InstanceId) -> Option<&str> {
    let (_, name) = id.0.strip_prefix("aws:///")?.split_once('/')?;
    let hex = name.strip_prefix("i-")?;
    (!hex.is_empty() && hex.chars().all(|c| c.is_ascii_hexdigit())).then_some(name)
}

/// The zone in our id.
pub fn zone(id: &InstanceId) -> Option<&str> {
    id.0.strip_prefix("aws:///")?.split_once('/').map(|(zone, _)| zone)
}

/// An instance as EC2 shows it; `None` when it isn't ours, or is gone: in no other state than `terminated`, and ended by
/// somebody. One that ended by itself failed.
pub fn listed(instance: &ec2::Instance, owner: &str) -> Option<Listed> {
    let tags = tags(instance.tags());
    if tags.get(TAG_OWNER) != Some(&owner) {
        return None;
    }
    let (cluster, node) = (tags.get(TAG_CLUSTER)?, tags.get(TAG_NODE)?);
    let zone = instance.placement().and_then(|place| place.availability_zone()).unwrap_or_default();
    let name = instance.instance_id()?;
    let state = instance.state().and_then(|state| state.name());
    let mut ending = None;
    let (state, message) = match state {
        Some(InstanceStateName::Pending | InstanceStateName::Running) => (InstanceState::Running, None),
        Some(InstanceStateName::ShuttingDown) => (InstanceState::Terminating, None),
        Some(InstanceStateName::Stopped | InstanceStateName::Stopping) => {
            (InstanceState::Failed, Some(ending::of_stopped(instance)))
        }
        Some(InstanceStateName::Terminated) => {
            ending = Some(ending::of(instance)?);
            (InstanceState::Failed, ending.as_ref().map(|ending| ending.message.clone()))
        }
        // A new state must not cost a fleet of nodes: what a node may do rests on its evidence, not on this.
        Some(other) => (InstanceState::Running, Some(format!("unknown state {}", other.as_str()))),
        None => (InstanceState::Running, Some("no state was given".to_owned())),
    };
    let address = |text: Option<&str>| text.and_then(|text| text.parse().ok());
    Some(Listed {
        instance: Instance {
            id: instance_id(zone, name),
            node: NodeUid((*node).to_owned()),
            address: address(instance.private_ip_address()),
            state,
            message,
        },
        ec2_id: name.to_owned(),
        cluster: ClusterUid((*cluster).to_owned()),
        public: address(instance.public_ip_address()),
        launched: instance.launch_time().map_or(0, DateTime::secs),
        ending,
    })
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
