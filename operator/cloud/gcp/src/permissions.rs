//! The least that the operator's service account needs: read off the calls that this crate makes.

use std::{collections::BTreeSet, fmt::Write as _};

/// Every method that this crate calls, and the IAM permissions Google asks for it (Compute Engine API reference,
/// "IAM Permissions" of each method). A test compares the list with the calls that are really made.
pub const CALLS: &[(&str, &[&str])] = &[
    ("compute.addresses.delete", &["compute.addresses.delete"]),
    ("compute.addresses.get", &["compute.addresses.get"]),
    ("compute.addresses.insert", &["compute.addresses.create", "compute.addresses.setLabels"]),
    ("compute.firewalls.delete", &["compute.firewalls.delete", "compute.networks.updatePolicy"]),
    ("compute.firewalls.get", &["compute.firewalls.get"]),
    ("compute.firewalls.insert", &["compute.firewalls.create", "compute.networks.updatePolicy"]),
    ("compute.firewalls.patch", &["compute.firewalls.update", "compute.networks.updatePolicy"]),
    ("compute.forwardingRules.delete", &["compute.forwardingRules.delete"]),
    ("compute.forwardingRules.get", &["compute.forwardingRules.get"]),
    (
        "compute.forwardingRules.insert",
        &[
            "compute.addresses.use",
            "compute.forwardingRules.create",
            "compute.forwardingRules.setLabels",
            "compute.regionBackendServices.use",
        ],
    ),
    ("compute.globalOperations.get", &["compute.globalOperations.get"]),
    ("compute.instanceGroups.addInstances", &["compute.instanceGroups.update", "compute.instances.use"]),
    ("compute.instanceGroups.delete", &["compute.instanceGroups.delete"]),
    ("compute.instanceGroups.get", &["compute.instanceGroups.get"]),
    ("compute.instanceGroups.insert", &["compute.instanceGroups.create", "compute.networks.use"]),
    ("compute.instanceGroups.listInstances", &["compute.instanceGroups.get"]),
    ("compute.instanceGroups.removeInstances", &["compute.instanceGroups.update"]),
    ("compute.instances.aggregatedList", &["compute.instances.list"]),
    ("compute.instances.delete", &["compute.instances.delete"]),
    ("compute.instances.get", &["compute.instances.get"]),
    (
        "compute.instances.insert",
        &[
            "compute.disks.create",
            "compute.disks.setLabels",
            "compute.images.useReadOnly",
            "compute.instances.create",
            "compute.instances.setLabels",
            "compute.instances.setMetadata",
            "compute.subnetworks.use",
            "compute.subnetworks.useExternalIp",
        ],
    ),
    ("compute.networks.delete", &["compute.networks.delete"]),
    ("compute.networks.get", &["compute.networks.get"]),
    ("compute.networks.insert", &["compute.networks.create"]),
    ("compute.networks.list", &["compute.networks.list"]),
    ("compute.regionBackendServices.delete", &["compute.regionBackendServices.delete"]),
    ("compute.regionBackendServices.get", &["compute.regionBackendServices.get"]),
    (
        "compute.regionBackendServices.insert",
        &[
            "compute.instanceGroups.use",
            "compute.regionBackendServices.create",
            "compute.regionHealthChecks.useReadOnly",
        ],
    ),
    ("compute.regionHealthChecks.delete", &["compute.regionHealthChecks.delete"]),
    ("compute.regionHealthChecks.get", &["compute.regionHealthChecks.get"]),
    ("compute.regionHealthChecks.insert", &["compute.regionHealthChecks.create"]),
    ("compute.regionOperations.get", &["compute.regionOperations.get"]),
    ("compute.regions.get", &["compute.regions.get"]),
    ("compute.subnetworks.delete", &["compute.subnetworks.delete"]),
    ("compute.subnetworks.get", &["compute.subnetworks.get"]),
    ("compute.subnetworks.insert", &["compute.networks.updatePolicy", "compute.subnetworks.create"]),
    ("compute.zoneOperations.get", &["compute.zoneOperations.get"]),
    ("compute.zones.get", &["compute.zones.get"]),
];

/// Definition of a custom role for `gcloud iam roles create constellationOperator --project P --file -`.
///
/// A service account for nodes needs `roles/iam.serviceAccountUser` on that account besides.
#[must_use]
pub fn custom_role() -> String {
    let all: BTreeSet<_> = CALLS.iter().flat_map(|(_, permissions)| *permissions).collect();
    let mut text = String::from(
        "title: Constellation Operator\ndescription: Creates and removes clusters of confidential VMs\nstage: GA\n\
         includedPermissions:\n",
    );
    for permission in all {
        // Writing to a string can't fail.
        let _ = writeln!(text, "- {permission}");
    }
    text
}

/// A refusal, with what may be missing.
pub fn explain(method: &str, text: &str) -> String {
    let needed = CALLS.iter().find(|(name, _)| *name == method).map(|(_, permissions)| permissions.join(", "));
    match needed {
        Some(needed) => format!("{text} (needs {needed}; `constellation-operator permissions gcp` prints the role)"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_holds_each_permission_once_and_no_wildcard() {
        let role = custom_role();
        assert_eq!(role.matches("\n- compute.networks.updatePolicy\n").count(), 1);
        assert!(!role.contains('*') && role.starts_with("title: "));
    }

    #[test]
    fn a_refusal_names_the_permission() {
        let text = explain("compute.instances.delete", "no");
        assert!(text.contains("needs compute.instances.delete;"), "{text}");
        assert_eq!(explain("compute.unknown", "no"), "no");
    }
}
