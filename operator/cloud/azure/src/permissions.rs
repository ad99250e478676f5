//! The least that the operator's identity needs: read off the calls that this crate makes.

use std::collections::BTreeSet;

use serde_json::json;

/// Every request that this crate sends (method, and type of the resource), and the actions that Azure asks for it
/// ("Azure permissions for Compute", "… for Networking", "… for Management and governance"). A test compares the list
/// with the requests that are really sent. Making a VM with its interface and address needs the actions of these too.
pub const ACTIONS: &[(&str, &[&str])] = &[
    ("DELETE Microsoft.Compute/virtualMachines", &["Microsoft.Compute/virtualMachines/delete"]),
    ("DELETE Microsoft.Network/loadBalancers", &["Microsoft.Network/loadBalancers/delete"]),
    ("DELETE Microsoft.Network/networkSecurityGroups", &["Microsoft.Network/networkSecurityGroups/delete"]),
    ("DELETE Microsoft.Network/publicIPAddresses", &["Microsoft.Network/publicIPAddresses/delete"]),
    ("DELETE Microsoft.Network/virtualNetworks", &["Microsoft.Network/virtualNetworks/delete"]),
    ("DELETE resourcegroups", &["Microsoft.Resources/subscriptions/resourceGroups/delete"]),
    ("GET Microsoft.Compute/locations/usages", &["Microsoft.Compute/locations/usages/read"]),
    ("GET Microsoft.Compute/skus", &["Microsoft.Compute/skus/read"]),
    ("GET Microsoft.Compute/virtualMachines", &["Microsoft.Compute/virtualMachines/read"]),
    ("GET Microsoft.Network/loadBalancers", &["Microsoft.Network/loadBalancers/read"]),
    (
        "GET Microsoft.Network/loadBalancers/backendAddressPools",
        &["Microsoft.Network/loadBalancers/backendAddressPools/read"],
    ),
    ("GET Microsoft.Network/networkInterfaces", &["Microsoft.Network/networkInterfaces/read"]),
    ("GET Microsoft.Network/networkSecurityGroups", &["Microsoft.Network/networkSecurityGroups/read"]),
    ("GET Microsoft.Network/publicIPAddresses", &["Microsoft.Network/publicIPAddresses/read"]),
    ("GET Microsoft.Network/virtualNetworks", &["Microsoft.Network/virtualNetworks/read"]),
    (
        "GET operations",
        &[
            "Microsoft.Compute/locations/operations/read",
            "Microsoft.Network/locations/operations/read",
            // Of a resource group that is being deleted.
            "Microsoft.Resources/subscriptions/operationresults/read",
        ],
    ),
    ("GET resourcegroups", &["Microsoft.Resources/subscriptions/resourceGroups/read"]),
    (
        "PUT Microsoft.Compute/virtualMachines",
        &[
            "Microsoft.Compute/disks/delete",
            "Microsoft.Compute/disks/read",
            "Microsoft.Compute/disks/write",
            "Microsoft.Compute/galleries/images/versions/read",
            "Microsoft.Compute/virtualMachines/write",
            "Microsoft.Network/networkInterfaces/delete",
            "Microsoft.Network/networkInterfaces/join/action",
            "Microsoft.Network/networkInterfaces/write",
            "Microsoft.Network/publicIPAddresses/delete",
            "Microsoft.Network/publicIPAddresses/join/action",
            "Microsoft.Network/publicIPAddresses/write",
            "Microsoft.Network/virtualNetworks/subnets/join/action",
        ],
    ),
    (
        "PUT Microsoft.Network/loadBalancers",
        &["Microsoft.Network/loadBalancers/write", "Microsoft.Network/publicIPAddresses/join/action"],
    ),
    (
        "PUT Microsoft.Network/loadBalancers/backendAddressPools",
        &[
            "Microsoft.Network/loadBalancers/backendAddressPools/write",
            "Microsoft.Network/virtualNetworks/joinLoadBalancer/action",
        ],
    ),
    ("PUT Microsoft.Network/networkSecurityGroups", &["Microsoft.Network/networkSecurityGroups/write"]),
    ("PUT Microsoft.Network/publicIPAddresses", &["Microsoft.Network/publicIPAddresses/write"]),
    (
        "PUT Microsoft.Network/virtualNetworks",
        &["Microsoft.Network/networkSecurityGroups/join/action", "Microsoft.Network/virtualNetworks/write"],
    ),
    ("PUT resourcegroups", &["Microsoft.Resources/subscriptions/resourceGroups/write"]),
];

/// What the operator does with the key of a master secret, as data actions of a Managed HSM ("Managed HSM local RBAC
/// built-in roles", permitted operations). A test compares the list with the operations that are really asked for.
pub const KEY_ACTIONS: &[&str] = &[
    "Microsoft.KeyVault/managedHsm/keys/decrypt/action",
    "Microsoft.KeyVault/managedHsm/keys/encrypt/action",
    "Microsoft.KeyVault/managedHsm/keys/read/action",
];

/// The name in [`ACTIONS`] of a request.
pub fn request(method: &str, path: &str) -> &'static str {
    let kind = if path.contains("/operations/") || path.contains("/operationresults/") {
        "operations".to_owned()
    } else {
        match path.split_once("/providers/") {
            // The provider, and every second part after it: the others are names.
            Some((_, rest)) => {
                let mut parts = rest.split('/');
                let provider = parts.next().unwrap_or_default();
                std::iter::once(provider).chain(parts.step_by(2)).collect::<Vec<_>>().join("/")
            }
            None => path.split('/').nth(3).unwrap_or_default().to_owned(),
        }
    };
    let name = format!("{method} {kind}");
    ACTIONS.iter().find(|(known, _)| *known == name).map_or("other", |(known, _)| known)
}

/// Definition of a custom role for `az role definition create --role-definition @-`, assignable in one subscription.
#[must_use]
pub fn custom_role(subscription: &str) -> String {
    let actions: BTreeSet<_> = ACTIONS.iter().flat_map(|(_, actions)| *actions).collect();
    let role = json!({
        "Name": "Constellation Operator",
        "Description": "Creates and removes clusters of confidential VMs",
        "IsCustom": true,
        "Actions": actions,
        "NotActions": [],
        "DataActions": [],
        "NotDataActions": [],
        "AssignableScopes": [format!("/subscriptions/{subscription}")],
    });
    format!("{role:#}\n")
}

/// Definition of a role for `az keyvault role definition create --hsm-name HSM --role-definition @-`, to be assigned on
/// one key (`--scope /keys/NAME`). Rights on a Managed HSM's keys are the HSM's own: a role of the subscription has none.
#[must_use]
pub fn key_role() -> String {
    let role = json!({
        "roleName": "Constellation master secret",
        "description": "Wraps and opens master secrets",
        "actions": [],
        "notActions": [],
        "dataActions": KEY_ACTIONS,
        "notDataActions": [],
    });
    format!("{role:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_is_for_one_subscription_and_has_no_wildcard() {
        let role: serde_json::Value = serde_json::from_str(&custom_role("s-1")).unwrap();
        assert_eq!(role["AssignableScopes"], json!(["/subscriptions/s-1"]));
        let actions: Vec<_> = role["Actions"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
        assert!(actions.len() > 20 && actions.iter().all(|action| !action.contains('*')), "{actions:?}");
        assert_eq!(actions.iter().collect::<BTreeSet<_>>().len(), actions.len());
    }
}
