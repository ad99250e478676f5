//! What is asked for: the bodies of requests. Pure.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_cloud::{CloudError, LaunchRequest};
use google_cloud_compute_v1::model::{
    AccessConfig, Address, AttachedDisk, AttachedDiskInitializeParams, Backend, BackendService,
    ConfidentialInstanceConfig, Firewall, ForwardingRule, GuestOsFeature, HealthCheck, Instance, InstanceGroup,
    Metadata, Network, NetworkInterface, Scheduling, ServiceAccount, ShieldedInstanceConfig, Subnetwork,
    TCPHealthCheck, access_config, address, attached_disk, backend, backend_service, confidential_instance_config,
    firewall, forwarding_rule, guest_os_feature, health_check, metadata, network_interface, scheduling,
};

use crate::{
    Reach, Settings, Technology,
    convert::{self, LABEL_NODE, Names},
};

/// Metadata key of the launch configuration, base64.
pub const LAUNCH_CONFIG: &str = "constellation-launch-config";
/// Ports of the endpoint: the API server and the verifier.
pub const ENDPOINT_PORTS: [&str; 2] = ["6443", "9001"];
/// Port of nodes on which their owner initialises and recovers them.
const OWNER_PORT: &str = "9000";
const API_SERVER: i32 = 6443;
const GIB: u64 = 1 << 30;

/// One of the cluster's firewall rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wall {
    /// The endpoint's ports, from everywhere: joining nodes come from their external addresses, Google's probes from
    /// 35.191.0.0/16, 209.85.152.0/22 and 209.85.204.0/22 (Cloud Load Balancing, "Probe IP ranges"). What listens
    /// there asks for attested or client certificates.
    Endpoint,
    /// Everything between nodes: they don't trust this network, the mesh encrypts.
    Nodes,
    /// Port 9000, from the operator's networks.
    Owner,
}

/// The cluster's VPC.
pub fn network(names: &Names) -> Network {
    Network::new().set_name(names.part("")).set_description(names.mark()).set_auto_create_subnetworks(false)
}

/// The subnet of its nodes.
pub fn subnetwork(names: &Names, node_cidr: &str) -> Subnetwork {
    Subnetwork::new()
        .set_name(names.part("-nodes"))
        .set_description(names.mark())
        .set_network(names.global("networks", &names.part("")))
        .set_ip_cidr_range(node_cidr)
}

/// A firewall rule.
pub fn firewall(names: &Names, settings: &Settings, wall: Wall, node_cidr: &str) -> Firewall {
    let tcp = |ports: &[&str]| {
        firewall::Allowed::new().set_ip_protocol("tcp").set_ports(ports.iter().map(ToString::to_string))
    };
    let (suffix, sources, allowed) = match wall {
        Wall::Endpoint => ("-endpoint", vec!["0.0.0.0/0".to_owned()], tcp(&ENDPOINT_PORTS)),
        Wall::Nodes => ("-nodes", vec![node_cidr.to_owned()], firewall::Allowed::new().set_ip_protocol("all")),
        Wall::Owner => ("-owner", settings.sources.clone(), tcp(&[OWNER_PORT])),
    };
    Firewall::new()
        .set_name(names.part(suffix))
        .set_description(names.mark())
        .set_network(names.global("networks", &names.part("")))
        .set_direction(firewall::Direction::Ingress)
        .set_source_ranges(sources)
        .set_allowed([allowed])
        .set_disabled(false)
}

/// Whether a rule lets through exactly what is wanted.
pub fn same_firewall(wanted: &Firewall, found: &Firewall) -> bool {
    let rules = |wall: &Firewall| {
        let mut rules: Vec<_> =
            wall.allowed.iter().map(|rule| (rule.ip_protocol.clone(), rule.ports.clone())).collect();
        rules.sort();
        let mut sources = wall.source_ranges.clone();
        sources.sort();
        (rules, sources, wall.disabled.unwrap_or_default(), wall.direction.clone())
    };
    let nothing_more =
        found.denied.is_empty() && found.source_tags.is_empty() && found.source_service_accounts.is_empty();
    let all_targets = found.target_tags.is_empty() && found.target_service_accounts.is_empty();
    rules(wanted) == rules(found) && nothing_more && all_targets
}

/// The endpoint's address.
pub fn address(names: &Names) -> Address {
    Address::new()
        .set_name(names.part("-endpoint"))
        .set_description(names.mark())
        .set_address_type(address::AddressType::External)
        .set_labels(names.labels())
}

/// Whether a control-plane node's API server accepts connections.
pub fn health_check(names: &Names) -> HealthCheck {
    HealthCheck::new()
        .set_name(names.part("-endpoint"))
        .set_description(names.mark())
        .set_type(health_check::Type::Tcp)
        .set_tcp_health_check(TCPHealthCheck::new().set_port(API_SERVER))
        .set_check_interval_sec(5)
        .set_timeout_sec(5)
}

/// The control-plane nodes of a zone.
pub fn group(names: &Names) -> InstanceGroup {
    InstanceGroup::new()
        .set_name(names.part("-endpoint"))
        .set_description(names.mark())
        .set_network(names.global("networks", &names.part("")))
        .set_subnetwork(names.regional("subnetworks", &names.part("-nodes")))
}

/// The load balancer's back end.
pub fn backend_service(names: &Names, zones: &[String]) -> BackendService {
    let backend = |zone: &String| {
        Backend::new()
            .set_group(names.zonal(zone, "instanceGroups", &names.part("-endpoint")))
            .set_balancing_mode(backend::BalancingMode::Connection)
    };
    BackendService::new()
        .set_name(names.part("-endpoint"))
        .set_description(names.mark())
        .set_load_balancing_scheme(backend_service::LoadBalancingScheme::External)
        .set_protocol(backend_service::Protocol::Tcp)
        .set_health_checks([names.regional("healthChecks", &names.part("-endpoint"))])
        .set_backends(zones.iter().map(backend))
}

/// The load balancer's front end.
pub fn forwarding_rule(names: &Names) -> ForwardingRule {
    ForwardingRule::new()
        .set_name(names.part("-endpoint"))
        .set_description(names.mark())
        .set_labels(names.labels())
        .set_load_balancing_scheme(forwarding_rule::LoadBalancingScheme::External)
        .set_ip_protocol(forwarding_rule::IPProtocol::Tcp)
        .set_ip_address(names.regional("addresses", &names.part("-endpoint")))
        .set_ports(ENDPOINT_PORTS)
        .set_backend_service(names.regional("backendServices", &names.part("-endpoint")))
}

/// A node's VM.
///
/// # Errors
/// When the image isn't named in full, or the machine type has not the wanted technology.
pub fn instance(
    names: &Names,
    settings: &Settings,
    request: &LaunchRequest,
    zone: &str,
) -> Result<Instance, CloudError> {
    supports(settings.technology, &request.instance_type)?;
    check_image(&request.image)?;
    let mut labels = Vec::from(names.labels());
    labels.push((LABEL_NODE.into(), request.node.0.clone()));
    let item = |key: &str, value: String| metadata::Items::new().set_key(key).set_value(value);
    let mut instance = Instance::new()
        .set_name(convert::instance_name(&request.node)?)
        .set_description(format!("{} ({})", request.name, names.mark()))
        .set_machine_type(names.zonal(zone, "machineTypes", &request.instance_type))
        .set_labels(labels.clone())
        .set_disks([boot_disk(names, settings, request, zone, &labels), state_disk(names, request, zone, &labels)])
        .set_network_interfaces([interface(names, settings)])
        .set_confidential_instance_config(confidential(settings.technology))
        .set_shielded_instance_config(
            ShieldedInstanceConfig::new()
                .set_enable_secure_boot(true)
                .set_enable_vtpm(true)
                .set_enable_integrity_monitoring(true),
        )
        // Encrypted memory isn't moved ("Confidential VM, supported configurations": live migration).
        .set_scheduling(
            Scheduling::new()
                .set_on_host_maintenance(scheduling::OnHostMaintenance::Terminate)
                .set_automatic_restart(true),
        )
        .set_metadata(Metadata::new().set_items([
            item(LAUNCH_CONFIG, STANDARD.encode(&request.launch_config)),
            item("block-project-ssh-keys", "true".into()),
            item("serial-port-enable", "false".into()),
        ]))
        .set_can_ip_forward(false);
    if settings.technology == Technology::SevSnp && request.instance_type.starts_with("n2d-") {
        // N2D may land on older CPUs, which have no SNP.
        instance = instance.set_min_cpu_platform("AMD Milan");
    }
    if let Some(account) = &settings.service_account {
        let scope = "https://www.googleapis.com/auth/cloud-platform";
        instance = instance.set_service_accounts([ServiceAccount::new().set_email(account).set_scopes([scope])]);
    }
    Ok(instance)
}

/// An image is named in full: a family would be another image tomorrow.
pub fn check_image(image: &str) -> Result<(), CloudError> {
    if image.starts_with("projects/") && image.contains("/global/images/") && !image.contains("/family/") {
        return Ok(());
    }
    Err(CloudError::Unsupported(format!("image {image:?} must be named projects/PROJECT/global/images/NAME")))
}

/// Machine series by technology, of those that take a `pd-balanced` disk (C4D takes Hyperdisk only): Confidential VM, "Supported configurations", table "Machine types, CPUs, and zones".
pub fn supports(technology: Technology, machine_type: &str) -> Result<(), CloudError> {
    let series: &[&str] = match technology {
        Technology::Sev => &["n2d", "c2d", "c3d"],
        Technology::SevSnp => &["n2d"],
        Technology::Tdx => &["c3", "a3"],
    };
    let its = machine_type.split('-').next().unwrap_or_default();
    if series.contains(&its) && machine_type.contains('-') {
        return Ok(());
    }
    Err(CloudError::Unsupported(format!("{machine_type} has no {technology:?}: take one of {}", series.join(", "))))
}

fn confidential(technology: Technology) -> ConfidentialInstanceConfig {
    use confidential_instance_config::ConfidentialInstanceType as Type;
    ConfidentialInstanceConfig::new().set_enable_confidential_compute(true).set_confidential_instance_type(
        match technology {
            Technology::Sev => Type::Sev,
            Technology::SevSnp => Type::SevSnp,
            Technology::Tdx => Type::Tdx,
        },
    )
}

fn boot_disk(
    names: &Names,
    settings: &Settings,
    request: &LaunchRequest,
    zone: &str,
    labels: &[(String, String)],
) -> AttachedDisk {
    use guest_os_feature::Type;
    let capable = match settings.technology {
        Technology::Sev => Type::SevCapable,
        Technology::SevSnp => Type::SevSnpCapable,
        Technology::Tdx => Type::TdxCapable,
    };
    disk(names, zone, labels, AttachedDiskInitializeParams::new().set_source_image(&request.image))
        .set_boot(true)
        .set_device_name("boot")
        .set_guest_os_features(
            [Type::UefiCompatible, Type::Gvnic, capable].map(|feature| GuestOsFeature::new().set_type(feature)),
        )
}

fn state_disk(names: &Names, request: &LaunchRequest, zone: &str, labels: &[(String, String)]) -> AttachedDisk {
    let size = i64::try_from(request.state_disk_bytes.div_ceil(GIB).max(1)).unwrap_or(i64::MAX);
    disk(names, zone, labels, AttachedDiskInitializeParams::new().set_disk_size_gb(size))
        .set_boot(false)
        .set_device_name("state")
}

fn disk(
    names: &Names,
    zone: &str,
    labels: &[(String, String)],
    parameters: AttachedDiskInitializeParams,
) -> AttachedDisk {
    AttachedDisk::new()
        .set_auto_delete(true)
        // Confidential VMs have no SCSI (the same page, "Limitations").
        .set_interface(attached_disk::Interface::Nvme)
        .set_mode(attached_disk::Mode::ReadWrite)
        .set_type(attached_disk::Type::Persistent)
        .set_initialize_params(
            parameters.set_disk_type(names.zonal(zone, "diskTypes", "pd-balanced")).set_labels(labels.to_vec()),
        )
}

fn interface(names: &Names, settings: &Settings) -> NetworkInterface {
    let interface = NetworkInterface::new()
        .set_subnetwork(names.regional("subnetworks", &names.part("-nodes")))
        .set_nic_type(network_interface::NicType::Gvnic);
    match settings.reach {
        Reach::Internal => interface,
        Reach::External => interface.set_access_configs([AccessConfig::new()
            .set_name("External NAT")
            .set_type(access_config::Type::OneToOneNat)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_type_without_the_technology_is_refused() {
        assert!(supports(Technology::SevSnp, "n2d-standard-4").is_ok());
        assert!(supports(Technology::Tdx, "c3-standard-4").is_ok());
        for (technology, machine) in
            [(Technology::SevSnp, "c3-standard-4"), (Technology::Tdx, "n2d-standard-4"), (Technology::Sev, "n2d")]
        {
            assert!(matches!(supports(technology, machine), Err(CloudError::Unsupported(_))), "{machine}");
        }
    }

    #[test]
    fn a_changed_firewall_rule_is_noticed() {
        let settings = crate::convert::tests::given_settings();
        let names = Names::new(&settings, &constellation_cloud::ClusterUid("c".into())).unwrap();
        let wanted = firewall(&names, &settings, Wall::Owner, "10.0.0.0/24");
        assert!(same_firewall(&wanted, &wanted.clone().set_priority(1000)));
        for changed in [
            wanted.clone().set_disabled(true),
            wanted.clone().set_source_ranges(["0.0.0.0/0"]),
            wanted.clone().set_allowed([firewall::Allowed::new().set_ip_protocol("all")]),
            wanted.clone().set_target_tags(["x"]),
        ] {
            assert!(!same_firewall(&wanted, &changed), "{changed:?}");
        }
    }
}
