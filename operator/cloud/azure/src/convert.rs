//! Between our words and Azure's: names, tags, sizes, states. Pure.

use std::net::IpAddr;

use constellation_cloud::{CloudError, ClusterUid, Instance, InstanceId, InstanceState, LaunchRequest, NodeUid};
use serde_json::{Map, Value, json};

use crate::{Settings, Technology};

/// Tag with the UID of the cluster.
pub const TAG_CLUSTER: &str = "constellation-cluster";
/// Tag with the UID of the node.
pub const TAG_NODE: &str = "constellation-node";
/// Tag with the operator's [`Settings::owner`].
pub const TAG_OWNER: &str = "constellation-owner";
const SCHEME: &str = "azure://";

/// Versions of the APIs that this crate was written against and is tested with.
pub const COMPUTE: &str = "2026-04-01";
/// See [`COMPUTE`].
pub const NETWORK: &str = "2026-03-01";
/// See [`COMPUTE`]; of the list of sizes.
pub const SKUS: &str = "2021-07-01";
/// See [`COMPUTE`].
pub const RESOURCES: &str = "2025-04-01";

/// Refuses settings that could not work, or that would mean something else than they say.
pub fn check(settings: &Settings) -> Result<(), CloudError> {
    let wrong = |what: &str, value: &str| Err(CloudError::Unsupported(format!("{what} {value:?} is malformed")));
    if !is_plain(&settings.subscription) {
        return wrong("subscription", &settings.subscription);
    }
    if !is_plain(&settings.location) {
        return wrong("location", &settings.location);
    }
    if !is_plain(&settings.owner) || settings.owner.len() > 40 {
        return wrong("owner", &settings.owner);
    }
    if let Some(zone) = settings.zones.iter().find(|zone| !is_plain(zone)) {
        return wrong("zone", zone);
    }
    // Names of resource groups: letters, digits and -_.() ("Naming rules and restrictions", Microsoft.Resources).
    let letters = |name: &&String| {
        (1..=90).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.()".contains(&b))
            && !name.ends_with('.')
            && !name.starts_with('.')
    };
    if let Some(group) = settings.resource_group.as_ref().filter(|group| !letters(group)) {
        return wrong("resource group", group);
    }
    if settings.sources.is_empty() {
        return Err(CloudError::Unsupported("at least one source network is needed".into()));
    }
    Ok(())
}

fn is_plain(text: &str) -> bool {
    (1..=60).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// What the objects of one cluster are called and how they are marked.
#[derive(Clone, Debug)]
pub struct Names {
    /// The cluster.
    pub cluster: ClusterUid,
    /// The region.
    pub location: String,
    subscription: String,
    owner: String,
    kept_group: Option<String>,
}

impl Names {
    /// Names for a cluster.
    ///
    /// # Errors
    /// When the UID can't be part of a name.
    pub fn new(settings: &Settings, cluster: &ClusterUid) -> Result<Self, CloudError> {
        if !is_plain(&cluster.0) || cluster.0.len() > 40 {
            return Err(CloudError::Unsupported(format!("cluster UID {:?} can't be part of a name", cluster.0)));
        }
        Ok(Self {
            cluster: cluster.clone(),
            location: settings.location.clone(),
            subscription: settings.subscription.clone(),
            owner: settings.owner.clone(),
            kept_group: settings.resource_group.clone(),
        })
    }

    /// Whether the resource group is the cluster's own.
    pub fn own_group(&self) -> bool {
        self.kept_group.is_none()
    }

    /// Name of a part of the cluster's network.
    pub fn part(&self, suffix: &str) -> String {
        format!("constellation-{}{suffix}", self.cluster.0)
    }

    /// Path of the resource group, as operations on groups spell it.
    pub fn group(&self) -> String {
        format!("/subscriptions/{}/resourcegroups/{}", self.subscription, self.group_name())
    }

    fn group_name(&self) -> String {
        self.kept_group.clone().unwrap_or_else(|| self.part(""))
    }

    /// Path of a resource, or of a list when `name` is empty.
    pub fn resource(&self, kind: &str, name: &str) -> String {
        let list =
            format!("/subscriptions/{}/resourceGroups/{}/providers/{kind}", self.subscription, self.group_name());
        if name.is_empty() { list } else { format!("{list}/{name}") }
    }

    /// Path of a network resource.
    pub fn network(&self, kind: &str, name: &str) -> String {
        self.resource(&format!("Microsoft.Network/{kind}"), name)
    }

    /// Path of a VM.
    pub fn vm(&self, name: &str) -> String {
        self.resource("Microsoft.Compute/virtualMachines", name)
    }

    /// Tags of what is ours.
    pub fn tags(&self) -> Map<String, Value> {
        [(TAG_CLUSTER, &self.cluster.0), (TAG_OWNER, &self.owner)]
            .map(|(key, value)| (key.into(), json!(value)))
            .into_iter()
            .collect()
    }

    /// Whether a resource is of this cluster and of this operator.
    pub fn own(&self, resource: &Value) -> bool {
        self.tags().iter().all(|(key, value)| resource["tags"].get(key) == Some(value))
    }

    /// Id of a VM: what Azure's cloud controller writes into `spec.providerID`.
    pub fn id(&self, name: &str) -> InstanceId {
        InstanceId(format!("{SCHEME}{}", self.vm(name)))
    }

    /// Name of the VM that an id stands for; an id of another cloud, subscription or group names nothing here.
    pub fn name_of(&self, id: &InstanceId) -> Result<String, CloudError> {
        let prefix = format!("{SCHEME}{}", self.vm("x"));
        let name = id.0.strip_prefix(prefix.strip_suffix('x').unwrap_or(&prefix)).filter(|name| is_plain(name));
        name.map(str::to_owned).ok_or_else(|| CloudError::NotFound(format!("instance {}", id.0)))
    }
}

/// The cluster that a marked resource belongs to, when this operator made it.
pub fn cluster_of(owner: &str, resource: &Value) -> Option<ClusterUid> {
    let tags = &resource["tags"];
    let cluster = tags[TAG_CLUSTER].as_str().filter(|cluster| is_plain(cluster))?;
    (tags[TAG_OWNER] == owner).then(|| ClusterUid(cluster.to_owned()))
}

/// Name of the VM of a node.
///
/// # Errors
/// When the UID can't be part of a name.
pub fn vm_name(node: &NodeUid) -> Result<String, CloudError> {
    if !is_plain(&node.0) {
        return Err(CloudError::Unsupported(format!("node UID {:?} can't be part of a name", node.0)));
    }
    Ok(format!("n-{}", node.0))
}

/// Zones to try for a node, in order; one `None` where the region has no zones.
///
/// # Errors
/// When the node's zone is none of the settings'.
pub fn zones(settings: &Settings, request: &LaunchRequest) -> Result<Vec<Option<String>>, CloudError> {
    match &request.zone {
        Some(zone) if settings.zones.contains(zone) => Ok(vec![Some(zone.clone())]),
        Some(zone) => Err(CloudError::Unsupported(format!("zone {zone} is none of {}", settings.zones.join(", ")))),
        None if settings.zones.is_empty() => Ok(vec![None]),
        None => {
            let first = usize::try_from(request.index).unwrap_or_default() % settings.zones.len();
            let (before, after) = settings.zones.split_at(first);
            Ok(after.iter().chain(before).cloned().map(Some).collect())
        }
    }
}

/// Whether a size has the wanted technology.
///
/// Sizes are named family, additive features and version ("VM size naming conventions"): confidential ones are families
/// DC and EC from version 5 on, with `a` for AMD and `e` for Intel TDX. Version 2 and 3 of DC is SGX, which is no
/// confidential VM.
pub fn supports(technology: Technology, size: &str) -> Result<(), CloudError> {
    let refused = |why: &str| CloudError::Unsupported(format!("size {size:?} {why}, for example Standard_DC4as_v5"));
    let name = size.strip_prefix("Standard_").ok_or_else(|| refused("doesn't begin with Standard_"))?;
    let (head, version) = name.split_once("_v").ok_or_else(|| refused("has no version"))?;
    let version: u32 = version.parse().map_err(|_| refused("has no version"))?;
    if technology == Technology::TrustedLaunch {
        return Ok(());
    }
    let family = head.trim_start_matches(|c: char| !c.is_ascii_digit());
    let features = family.trim_start_matches(|c: char| c.is_ascii_digit());
    let confidential = (head.starts_with("DC") || head.starts_with("EC")) && version >= 5;
    let letter = if technology == Technology::SevSnp { 'a' } else { 'e' };
    if confidential && features.contains(letter) {
        return Ok(());
    }
    Err(refused(&format!("has no {technology:?}: families DC and EC from v5 with '{letter}' have")))
}

/// A VM as we speak of it; nothing when it has no node, or copies the tags of one under a name that is not the node's.
pub fn instance(names: &Names, vm: &Value, address: Option<IpAddr>) -> Option<Instance> {
    let node = NodeUid(vm["tags"][TAG_NODE].as_str()?.to_owned());
    let name = vm["name"].as_str().filter(|name| vm_name(&node).is_ok_and(|wanted| wanted == *name))?;
    let (state, message) = state(&vm["properties"]);
    Some(Instance { id: names.id(name), node, address, state, message })
}

/// "States and billing status of Azure Virtual Machines": a provisioning state and, in the instance view, a power state.
fn state(properties: &Value) -> (InstanceState, Option<String>) {
    let statuses = properties["instanceView"]["statuses"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of =
        |prefix: &str| statuses.iter().find_map(|s| s["code"].as_str()?.strip_prefix(prefix).map(|code| (s, code)));
    let power = of("PowerState/").map(|(_, code)| code);
    match (properties["provisioningState"].as_str(), power) {
        (Some("Deleting"), _) => (InstanceState::Terminating, None),
        // What runs was made; a change of it failed, which is nobody's but a person's.
        (Some("Failed"), Some("running")) => (InstanceState::Running, Some("a change of the VM failed".into())),
        (Some("Failed" | "Canceled"), _) => {
            let why = of("ProvisioningState/failed/").map_or_else(String::new, |(status, code)| {
                format!(" with {code}: {}", status["message"].as_str().unwrap_or_default())
            });
            (InstanceState::Failed, Some(format!("making the VM failed{why}")))
        }
        (_, Some("stopped" | "deallocated")) => (InstanceState::Failed, Some("the VM was stopped".into())),
        _ => (InstanceState::Running, None),
    }
}

/// Whether two resource ids name the same: Azure doesn't keep their case.
pub fn same_id(left: &str, right: &str) -> bool {
    left.eq_ignore_ascii_case(right)
}

/// Whether a resource id names something in the list that a path names.
pub fn is_below(id: &str, list: &str) -> bool {
    let rest = id.get(list.len()..).and_then(|rest| rest.strip_prefix('/'));
    rest.is_some_and(|name| !name.is_empty() && !name.contains('/'))
        && id.get(..list.len()).is_some_and(|start| same_id(start, list))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{sync::Arc, time::Duration};

    use constellation_cloud::limit::Limiter;

    use super::*;
    use crate::{Access, DiskEncryption, Pace, Reach};

    pub(crate) fn given_settings() -> Settings {
        Settings {
            subscription: "s-1".into(),
            location: "westeurope".into(),
            zones: vec!["1".into(), "2".into()],
            resource_group: None,
            owner: "operator-1".into(),
            technology: Technology::SevSnp,
            disk_encryption: DiskEncryption::GuestState,
            reach: Reach::External,
            sources: vec!["192.0.2.0/24".into()],
            endorsement_roots: Vec::new(),
            endpoint: None,
            access: Access::Anonymous,
            limiter: Arc::new(Limiter::new(1, Duration::ZERO)),
            pace: Pace::default(),
        }
    }

    #[test]
    fn settings_are_checked_field_by_field() {
        assert!(check(&given_settings()).is_ok());
        let spoilt: [fn(&mut Settings); 6] = [
            |s| s.subscription = "a/b".into(),
            |s| s.location = String::new(),
            |s| s.zones = vec!["1/".into()],
            |s| s.owner = "Owner".into(),
            |s| s.resource_group = Some("../x".into()),
            |s| s.sources = vec![],
        ];
        for spoil in spoilt {
            let mut settings = given_settings();
            spoil(&mut settings);
            assert!(matches!(check(&settings), Err(CloudError::Unsupported(_))), "{settings:?}");
        }
    }

    #[test]
    fn an_id_leads_back_to_its_name_and_a_foreign_one_nowhere() {
        let names = Names::new(&given_settings(), &ClusterUid("c-1".into())).unwrap();
        let id = names.id("n-1");
        assert_eq!(names.name_of(&id).unwrap(), "n-1");
        for foreign in
            [id.0.replace("s-1", "s-2"), id.0.replace("c-1", "c-2"), format!("{}/x", id.0), "azure://nobody".into()]
        {
            assert!(matches!(names.name_of(&InstanceId(foreign.clone())), Err(CloudError::NotFound(_))), "{foreign}");
        }
    }

    #[test]
    fn a_list_holds_what_is_right_below_its_path_in_any_case() {
        let list = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines";
        assert!(is_below(&format!("{list}/n"), list) && is_below(&format!("{}/n", list.to_uppercase()), list));
        for other in [format!("{list}/"), format!("{list}/n/extensions/e"), list.into(), "/n".into(), String::new()] {
            assert!(!is_below(&other, list), "{other}");
        }
        assert!(!is_below(&format!("{}/n", list.replace("virtualMachines", "availabilitySts")), list));
    }

    #[test]
    fn sizes_tell_their_technology() {
        let fits = |technology, size| supports(technology, size).is_ok();
        for size in ["Standard_DC4as_v5", "Standard_DC96ads_v5", "Standard_EC4as_cc_v5", "Standard_DC2as_v6"] {
            assert!(fits(Technology::SevSnp, size) && !fits(Technology::Tdx, size), "{size}");
        }
        for size in ["Standard_DC4es_v5", "Standard_EC2eds_v5", "Standard_DC16es_v6"] {
            assert!(fits(Technology::Tdx, size) && !fits(Technology::SevSnp, size), "{size}");
        }
        for size in ["Standard_D4as_v5", "Standard_DC4s_v3", "DC4as_v5", "Standard_DC4as", "Standard_DC4as_vx", ""] {
            assert!(!fits(Technology::SevSnp, size), "{size}");
        }
        assert!(fits(Technology::TrustedLaunch, "Standard_D4as_v5"));
    }

    #[test]
    fn states_tell_running_from_removed_from_failed() {
        let of = |provisioning: &str, power: &str| {
            let statuses = json!([{"code": format!("PowerState/{power}")}]);
            state(&json!({"provisioningState": provisioning, "instanceView": {"statuses": statuses}})).0
        };
        assert_eq!(of("Creating", "starting"), InstanceState::Running);
        assert_eq!(of("Succeeded", "running"), InstanceState::Running);
        assert_eq!(of("Failed", "running"), InstanceState::Running);
        assert_eq!(of("Failed", "unknown"), InstanceState::Failed);
        assert_eq!(of("Succeeded", "deallocated"), InstanceState::Failed);
        assert_eq!(of("Deleting", "running"), InstanceState::Terminating);
        let view = json!({"statuses": [{"code": "ProvisioningState/failed/AllocationFailed", "message": "full"}]});
        let told = state(&json!({"provisioningState": "Failed", "instanceView": view}));
        assert_eq!(told.1.unwrap(), "making the VM failed with AllocationFailed: full");
    }
}
