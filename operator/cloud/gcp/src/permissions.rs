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
            // With `serviceAccount` in the cluster's spec.
            "compute.instances.setServiceAccount",
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

/// The same for the key of a master secret (Cloud KMS, "Permissions and roles").
pub const KEY_CALLS: &[(&str, &[&str])] = &[
    ("cloudkms.cryptoKeys.decrypt", &["cloudkms.cryptoKeyVersions.useToDecrypt"]),
    ("cloudkms.cryptoKeys.encrypt", &["cloudkms.cryptoKeyVersions.useToEncrypt"]),
    ("cloudkms.cryptoKeys.get", &["cloudkms.cryptoKeys.get"]),
];

/// Definition of a custom role for `gcloud iam roles create constellationOperator --project P --file -`.
///
/// A service account for nodes needs `roles/iam.serviceAccountUser` on that account besides.
#[must_use]
pub fn custom_role() -> String {
    role("Constellation Operator", "Creates and removes clusters of confidential VMs", CALLS)
}

/// Definition of a custom role for the key of a master secret, to be given on that key alone.
#[must_use]
pub fn key_role() -> String {
    role("Constellation master secret", "Wraps and opens master secrets", KEY_CALLS)
}

fn role(title: &str, description: &str, calls: &[(&str, &[&str])]) -> String {
    let all: BTreeSet<_> = calls.iter().flat_map(|(_, permissions)| *permissions).collect();
    let mut text = format!("title: {title}\ndescription: {description}\nstage: GA\nincludedPermissions:\n");
    for permission in all {
        // Writing to a string can't fail.
        let _ = writeln!(text, "- {permission}");
    }
    text
}

/// A refusal, with what may be missing.
pub fn explain(method: &str, text: &str) -> String {
    let needed =
        CALLS.iter().chain(KEY_CALLS).find(|(name, _)| *name == method).map(|(_, permissions)| permissions.join(", "));
    match needed {
        Some(needed) => {
            let document = if method.starts_with("cloudkms.") { "gcp-key" } else { "gcp" };
            format!("{text} (needs {needed}; `constellation-operator permissions {document}` prints the role)")
        }
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
        let text = explain("cloudkms.cryptoKeys.decrypt", "no");
        assert!(text.contains("useToDecrypt; `constellation-operator permissions gcp-key`"), "{text}");
    }
}
