//! What is asked for: the bodies of requests. Pure.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_cloud::{CloudError, LaunchRequest};
use serde_json::{Map, Value, json};

use crate::{
    DiskEncryption, Reach, Settings, Technology,
    convert::{self, Names, TAG_NODE},
};

/// Name of the load balancer's pool.
pub const POOL: &str = "control-plane";
const ENDPOINT: &str = "endpoint";
const NODES: &str = "nodes";
const API_SERVER: u16 = 6443;
const VERIFIER: u16 = 9001;
const OWNER_PORT: &str = "9000";
const GIB: u64 = 1 << 30;

/// The cluster's resource group.
pub fn group(names: &Names) -> Value {
    json!({"location": names.location, "tags": names.tags()})
}

/// The firewall. Nodes among themselves and Azure's probes are let through by the default rules; the endpoint's ports
/// are open to all, as joining nodes come from their public addresses, and what listens there asks for attested or
/// client certificates.
pub fn security_group(names: &Names, settings: &Settings) -> Value {
    let rule = |name: &str, priority: u32, ports: &[String], sources: &[String]| {
        let mut properties = json!({"access": "Allow", "direction": "Inbound", "priority": priority, "protocol": "Tcp",
            "sourcePortRange": "*", "destinationAddressPrefix": "*", "destinationPortRanges": ports});
        match sources {
            [one] => properties["sourceAddressPrefix"] = json!(one),
            many => properties["sourceAddressPrefixes"] = json!(many),
        }
        json!({"name": name, "properties": properties})
    };
    let endpoint = [API_SERVER, VERIFIER].map(|port| port.to_string());
    json!({"location": names.location, "tags": names.tags(), "properties": {"securityRules": [
        rule(ENDPOINT, 100, &endpoint, &["*".into()]),
        rule("owner", 110, &[OWNER_PORT.into()], &settings.sources),
    ]}})
}

/// Whether a firewall lets through exactly what is wanted: our members of each rule, and no more rules.
pub fn same_rules(wanted: &Value, found: &Value) -> bool {
    let rules = |group: &Value| -> Map<String, Value> {
        let all = group["properties"]["securityRules"].as_array().into_iter().flatten();
        all.filter_map(|rule| Some((rule["name"].as_str()?.to_owned(), rule["properties"].clone()))).collect()
    };
    let (wanted, found) = (rules(wanted), rules(found));
    let members = ["access", "direction", "priority", "protocol", "sourcePortRange", "destinationAddressPrefix"];
    let lists = [
        ("destinationPortRange", "destinationPortRanges"),
        ("sourceAddressPrefix", "sourceAddressPrefixes"),
        ("destinationAddressPrefix", "destinationAddressPrefixes"),
        ("sourcePortRange", "sourcePortRanges"),
    ];
    // One value may be told as a list of one, and an empty list beside it.
    let all = |rule: &Value, (one, many): (&str, &str)| {
        let mut values: Vec<_> = rule[many].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        values.extend(rule[one].as_str());
        values.sort_unstable();
        values.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let same = |left: &Value, right: &Value| {
        members.iter().all(|member| left[member] == right[member])
            && lists.iter().all(|list| all(left, *list) == all(right, *list))
    };
    wanted.len() == found.len() && wanted.iter().all(|(name, rule)| found.get(name).is_some_and(|it| same(rule, it)))
}

/// The endpoint's address.
pub fn address(names: &Names) -> Value {
    json!({"location": names.location, "tags": names.tags(), "sku": {"name": "Standard"},
        "properties": {"publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv4"}})
}

/// The network and its only subnet.
pub fn virtual_network(names: &Names, node_cidr: &str) -> Value {
    let firewall = names.network("networkSecurityGroups", &names.part(""));
    json!({"location": names.location, "tags": names.tags(), "properties": {
        "addressSpace": {"addressPrefixes": [node_cidr]},
        "subnets": [{"name": NODES, "properties": {"addressPrefix": node_cidr,
            "networkSecurityGroup": {"id": firewall}}}],
    }})
}

/// The load balancer, without targets.
pub fn load_balancer(names: &Names) -> Value {
    let own = names.network("loadBalancers", &names.part(""));
    let address = names.network("publicIPAddresses", &names.part(""));
    let ports = [("api", API_SERVER), ("verifier", VERIFIER)];
    let probes = ports.map(|(name, port)| {
        json!({"name": name, "properties": {"protocol": "Tcp", "port": port, "intervalInSeconds": 5,
            "numberOfProbes": 2}})
    });
    let rules = ports.map(|(name, port)| {
        json!({"name": name, "properties": {
            "frontendIPConfiguration": {"id": format!("{own}/frontendIPConfigurations/{ENDPOINT}")},
            "backendAddressPool": {"id": format!("{own}/backendAddressPools/{POOL}")},
            "probe": {"id": format!("{own}/probes/{name}")},
            "protocol": "Tcp", "frontendPort": port, "backendPort": port,
            "idleTimeoutInMinutes": 30, "enableTcpReset": true, "disableOutboundSnat": true,
        }})
    });
    json!({"location": names.location, "tags": names.tags(), "sku": {"name": "Standard"}, "properties": {
        "frontendIPConfigurations": [{"name": ENDPOINT, "properties": {"publicIPAddress": {"id": address}}}],
        "backendAddressPools": [{"name": POOL}],
        "probes": probes,
        "loadBalancingRules": rules,
    }})
}

/// The load balancer's targets: name and address of each.
pub fn pool(names: &Names, targets: &[(String, String)]) -> Value {
    let network = names.network("virtualNetworks", &names.part(""));
    let target = |(name, address): &(String, String)| json!({"name": name, "properties": {"ipAddress": address, "virtualNetwork": {"id": network}}});
    let targets: Vec<_> = targets.iter().map(target).collect();
    json!({"name": POOL, "properties": {"loadBalancerBackendAddresses": targets}})
}

/// A node's VM, with interface, address and disks.
///
/// # Errors
/// When the image isn't named in full, or the size has not the wanted technology.
pub fn vm(
    names: &Names,
    settings: &Settings,
    request: &LaunchRequest,
    zone: Option<&str>,
) -> Result<Value, CloudError> {
    convert::supports(settings.technology, &request.instance_type)?;
    let name = convert::vm_name(&request.node)?;
    let mut tags = names.tags();
    tags.insert(TAG_NODE.into(), json!(request.node.0));
    tags.insert("constellation-name".into(), json!(request.name));
    let kind = if settings.technology == Technology::TrustedLaunch { "TrustedLaunch" } else { "ConfidentialVM" };
    let size = request.state_disk_bytes.div_ceil(GIB).max(1);
    let mut body = json!({"location": names.location, "tags": tags, "properties": {
        "hardwareProfile": {"vmSize": request.instance_type},
        "securityProfile": {"securityType": kind, "uefiSettings": {"secureBootEnabled": true, "vTpmEnabled": true}},
        "storageProfile": {
            "imageReference": image(&request.image)?,
            "osDisk": {"name": format!("{name}-os"), "osType": "Linux", "createOption": "FromImage",
                "deleteOption": "Delete", "caching": "ReadOnly", "managedDisk": os_disk(settings)},
            "dataDisks": [{"name": format!("{name}-state"), "lun": 0, "createOption": "Empty",
                "deleteOption": "Delete", "diskSizeGB": size, "caching": "None",
                "managedDisk": {"storageAccountType": "Premium_LRS"}}],
        },
        "networkProfile": {"networkApiVersion": "2022-11-01",
            "networkInterfaceConfigurations": [interface(names, settings, &name)]},
        "diagnosticsProfile": {"bootDiagnostics": {"enabled": false}},
        "userData": STANDARD.encode(&request.launch_config),
    }});
    if let Some(zone) = zone {
        body["zones"] = json!([zone]);
    }
    Ok(body)
}

/// Image versions of a gallery. The image is "specialized": nothing in it waits for a provisioning agent.
pub fn image(image: &str) -> Result<Value, CloudError> {
    for (prefix, member) in [
        ("/subscriptions/", "id"),
        ("/CommunityGalleries/", "communityGalleryImageId"),
        ("/SharedGalleries/", "sharedGalleryImageId"),
    ] {
        if image.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)) {
            return Ok(json!({member: image}));
        }
    }
    Err(CloudError::Unsupported(format!("image {image:?} must be the resource id of a gallery's image version")))
}

fn os_disk(settings: &Settings) -> Value {
    let mut disk = json!({"storageAccountType": "Premium_LRS"});
    if settings.technology == Technology::TrustedLaunch {
        return disk;
    }
    disk["securityProfile"] = match &settings.disk_encryption {
        DiskEncryption::GuestState => json!({"securityEncryptionType": "VMGuestStateOnly"}),
        DiskEncryption::DiskWithGuestState { set: None } => json!({"securityEncryptionType": "DiskWithVMGuestState"}),
        DiskEncryption::DiskWithGuestState { set: Some(set) } => {
            json!({"securityEncryptionType": "DiskWithVMGuestState", "diskEncryptionSet": {"id": set}})
        }
    };
    disk
}

/// Name of the interface of a VM.
pub fn interface_name(vm: &str) -> String {
    format!("{vm}-nic")
}

fn interface(names: &Names, settings: &Settings, name: &str) -> Value {
    let subnet = format!("{}/subnets/{NODES}", names.network("virtualNetworks", &names.part("")));
    let mut ip = json!({"name": "first", "properties": {"primary": true, "subnet": {"id": subnet}}});
    if settings.reach == Reach::External {
        ip["properties"]["publicIPAddressConfiguration"] = json!({"name": format!("{name}-ip"),
            "sku": {"name": "Standard"}, "tags": names.tags(),
            "properties": {"deleteOption": "Delete", "publicIPAllocationMethod": "Static"}});
    }
    json!({"name": interface_name(name), "tags": names.tags(), "properties": {"primary": true,
        "deleteOption": "Delete", "ipConfigurations": [ip]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(sources: &[&str]) -> Value {
        json!({"properties": {"securityRules": [{"name": "owner", "properties": {"access": "Allow", "priority": 110,
            "sourceAddressPrefixes": sources}}]}})
    }

    #[test]
    fn a_changed_rule_is_noticed_and_the_same_in_other_words_is_not() {
        let wanted = rules(&["192.0.2.0/24"]);
        let mut told = rules(&[]);
        told["properties"]["securityRules"][0]["properties"]["sourceAddressPrefix"] = json!("192.0.2.0/24");
        told["properties"]["securityRules"][0]["properties"]["provisioningState"] = json!("Succeeded");
        assert!(same_rules(&wanted, &told));
        assert!(!same_rules(&wanted, &rules(&["0.0.0.0/0"])));
        assert!(!same_rules(&wanted, &json!({"properties": {"securityRules": []}})));
        let more = json!({"name": "more", "properties": {}});
        told["properties"]["securityRules"].as_array_mut().unwrap().push(more);
        assert!(!same_rules(&wanted, &told));
    }

    #[test]
    fn an_image_is_named_in_full() {
        assert!(
            image("/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries/a/images/b/versions/1")
                .is_ok()
        );
        assert!(image("/communityGalleries/x/images/b/versions/1").unwrap()["communityGalleryImageId"].is_string());
        assert!(matches!(image("node-1"), Err(CloudError::Unsupported(_))));
        assert!(image("").is_err());
    }
}
