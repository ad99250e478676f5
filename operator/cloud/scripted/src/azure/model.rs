//! Azure's own description of its APIs, and whether a request keeps to it.
//!
//! `azure-*.json` are made from Microsoft's Python packages by `tests/models.sh`: the operations (method, URL, API
//! version, query parameters) and the types of bodies. Checked are all of them, and that nothing is sent that only Azure
//! may say.

use std::{fs, path::PathBuf, sync::OnceLock};

use serde_json::{Value, json};

/// Members that only Azure writes.
const READ_ONLY: [&str; 6] = ["etag", "instanceView", "provisioningState", "resourceGuid", "timeCreated", "vmId"];

/// Types of bodies, by operation.
const BODIES: [(&str, &str); 7] = [
    ("load_balancer_backend_address_pools_create_or_update", "BackendAddressPool"),
    ("load_balancers_create_or_update", "LoadBalancer"),
    ("network_security_groups_create_or_update", "NetworkSecurityGroup"),
    ("public_ip_addresses_create_or_update", "PublicIPAddress"),
    ("resource_groups_create_or_update", "ResourceGroup"),
    ("virtual_machines_create_or_update", "VirtualMachine"),
    ("virtual_networks_create_or_update", "VirtualNetwork"),
];

fn documents() -> &'static [Value] {
    static DOCUMENTS: OnceLock<Vec<Value>> = OnceLock::new();
    DOCUMENTS.get_or_init(|| {
        let folder = std::env::var_os("CONSTELLATION_CACHE").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/constellation-operator"),
            PathBuf::from,
        );
        let read = |name: &str| {
            let path = folder.join(format!("models/azure-{name}.json"));
            let text = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run tests/models.sh azure", path.display()));
            serde_json::from_slice::<Value>(&text).unwrap()
        };
        let mut resource = read("resource");
        // This package has operations only; the type is of the REST reference, "Resource Groups - Create Or Update".
        resource["types"]["ResourceGroup"] = json!({"required": ["location"], "properties": {
            "location": {"type": "string"}, "managedBy": {"type": "string"},
            "tags": {"type": "object", "additionalProperties": {"type": "string"}}}});
        vec![read("compute"), read("network"), resource]
    })
}

/// What is wrong with a request; nothing when it keeps to the model.
pub fn check(verb: &str, path: &str, query: &[(String, String)], body: Option<&Value>) -> Vec<String> {
    let Some((document, operation)) = operation(verb, path) else { return vec![format!("no operation {verb} {path}")] };
    let name = operation["name"].as_str().unwrap();
    let mut wrong = Vec::new();
    let known = operation["query"].as_array().unwrap();
    for (key, value) in query {
        // A page's token is in the link that the list itself gave.
        if !known.contains(&json!(key)) && key != "$skiptoken" {
            wrong.push(format!("{name}: unknown query parameter {key}={value}"));
        }
    }
    let version = query.iter().find(|(key, _)| key == "api-version").map(|(_, value)| value.as_str());
    if version != operation["version"].as_str() {
        wrong.push(format!("{name}: API version {version:?}, the model is {}", operation["version"]));
    }
    match (BODIES.iter().find(|(of, _)| *of == name), body) {
        (Some((_, schema)), Some(body)) => object(name, document, schema, body, &mut wrong),
        (Some(_), None) => wrong.push(format!("{name}: no body")),
        (None, Some(_)) => wrong.push(format!("{name}: a body, none is wanted")),
        (None, None) => {}
    }
    wrong
}

fn operation(verb: &str, path: &str) -> Option<(&'static Value, &'static Value)> {
    let parts: Vec<_> = path.split('/').collect();
    let fits = |operation: &&Value| {
        let template: Vec<_> = operation["url"].as_str().unwrap_or_default().split('/').collect();
        operation["method"] == verb
            && template.len() == parts.len()
            && template.iter().zip(&parts).all(|(want, part)| want.starts_with('{') || want == part)
    };
    documents()
        .iter()
        .find_map(|document| Some((document, document["operations"].as_array().unwrap().iter().find(fits)?)))
}

fn object(at: &str, document: &Value, schema: &str, given: &Value, wrong: &mut Vec<String>) {
    let schema = &document["types"][schema];
    let Some(members) = given.as_object() else { return wrong.push(format!("{at}: an object is wanted")) };
    for (name, member) in members {
        let at = format!("{at}.{name}");
        match schema["properties"].get(name) {
            _ if READ_ONLY.contains(&name.as_str()) => wrong.push(format!("{at}: only Azure may say this")),
            Some(schema) => value(&at, document, schema, member, wrong),
            None => wrong.push(format!("{at}: unknown member")),
        }
    }
    for name in schema["required"].as_array().unwrap() {
        if !members.contains_key(name.as_str().unwrap()) {
            wrong.push(format!("{at}: {name} is missing"));
        }
    }
}

fn value(at: &str, document: &Value, schema: &Value, given: &Value, wrong: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        return object(at, document, name, given, wrong);
    }
    if let Some(known) = schema["enum"].as_array() {
        if !known.contains(given) {
            wrong.push(format!("{at}: {given} is none of {known:?}"));
        }
        return;
    }
    let fits = match schema["type"].as_str() {
        Some("string") => given.is_string(),
        Some("integer") => given.is_i64() || given.is_u64(),
        Some("number") => given.is_number(),
        Some("boolean") => given.is_boolean(),
        Some("array") => given.as_array().is_some_and(|items| {
            for item in items {
                value(&format!("{at}[]"), document, &schema["items"], item, wrong);
            }
            true
        }),
        Some("object") => given.as_object().is_some_and(|members| {
            let schema = &schema["additionalProperties"];
            for (name, member) in members {
                value(&format!("{at}.{name}"), document, schema, member, wrong);
            }
            true
        }),
        _ => true,
    };
    if !fits {
        wrong.push(format!("{at}: {given} is no {}", schema["type"]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/v";

    fn put(body: &Value, version: &str) -> Vec<String> {
        check("PUT", VM, &[("api-version".into(), version.into())], Some(body))
    }

    #[test]
    fn the_model_accepts_a_good_request_and_refuses_it_with_one_thing_wrong() {
        let good = json!({"location": "l", "tags": {"a": "b"}, "zones": ["1"], "properties": {
            "securityProfile": {"securityType": "ConfidentialVM", "uefiSettings": {"vTpmEnabled": true}},
            "storageProfile": {"dataDisks": [{"lun": 0, "createOption": "Empty", "diskSizeGB": 8}]}}});
        assert_eq!(put(&good, "2026-04-01"), Vec::<String>::new());
        let spoilt: [fn(&mut Value); 8] = [
            |v| v["properties"]["securityProfile"]["securityType"] = json!("ConfidentialVm"),
            |v| v["properties"]["securityProfile"]["uefiSettings"] = json!({"vTPMEnabled": true}),
            |v| v["properties"]["storageProfile"]["dataDisks"][0]["diskSizeGB"] = json!("8"),
            |v| v["properties"]["storageProfile"]["dataDisks"] = json!([{"lun": 0}]),
            |v| v["properties"]["timeCreated"] = Value::Null,
            |v| v["tags"]["a"] = json!(1),
            |v| v["zones"] = json!("1"),
            |v| drop(v.as_object_mut().unwrap().remove("location")),
        ];
        for spoil in spoilt {
            let mut bad = good.clone();
            spoil(&mut bad);
            assert_eq!(put(&bad, "2026-04-01").len(), 1, "{bad}");
        }
        assert_eq!(put(&good, "2024-07-01").len(), 1);
        assert_eq!(check("PUT", "/subscriptions/s/virtualMachines/v", &[], None).len(), 1);
    }
}
