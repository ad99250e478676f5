//! The definitions of our kinds as Kubernetes gets them: the derived ones, tidied.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::{ConfidentialNode, ConstellationCluster, NodeAdmission, NodeGroup, NodeVersion, TrustBundle};

/// The kinds that live where the operator runs.
#[must_use]
pub fn management() -> Vec<CustomResourceDefinition> {
    vec![
        tidy(ConstellationCluster::crd()),
        tidy(NodeVersion::crd()),
        tidy(NodeGroup::crd()),
        tidy(ConfidentialNode::crd()),
    ]
}

/// The kinds that live in the cluster that was made.
#[must_use]
pub fn workload() -> Vec<CustomResourceDefinition> {
    vec![tidy(TrustBundle::crd()), tidy(NodeAdmission::crd())]
}

/// Drops what the API server does not know or should not keep:
/// number formats of Rust, and `nullable` (a null is pruned then, so that `has()` in a rule means a value).
fn tidy(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) {
            tidy_schema(schema);
            if let Some(status) = schema.properties.as_mut().and_then(|p| p.get_mut("status")) {
                drop_rules(status);
            }
        }
    }
    definition
}

/// Rules are for what users write; in a status they only cost, and could keep the operator from telling the truth.
fn drop_rules(schema: &mut JSONSchemaProps) {
    schema.x_kubernetes_validations = None;
    children(schema, drop_rules);
}

fn tidy_schema(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.format = match schema.format.take().as_deref() {
        Some("uint8" | "uint16" | "uint32" | "uint64" | "int64") => Some("int64".to_owned()),
        Some("int8" | "int16" | "int32") => Some("int32".to_owned()),
        other => other.map(str::to_owned),
    };
    children(schema, tidy_schema);
}

fn children(schema: &mut JSONSchemaProps, visit: fn(&mut JSONSchemaProps)) {
    schema.properties.iter_mut().flat_map(|p| p.values_mut()).for_each(visit);
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => visit(items),
        Some(JSONSchemaPropsOrArray::Schemas(list)) => list.iter_mut().for_each(visit),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        visit(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_stay_below_100_kib() {
        for definition in management().into_iter().chain(workload()) {
            let yaml = serde_yaml::to_string(&definition).unwrap();
            assert!(yaml.len() < 100 * 1024, "{:?}: {} bytes", definition.metadata.name, yaml.len());
        }
    }

    #[test]
    fn no_user_field_has_a_default_and_none_is_nullable() {
        for definition in management().into_iter().chain(workload()) {
            let json = serde_json::to_string(&definition).unwrap();
            assert!(!json.contains(r#""default":"#) && !json.contains("nullable") && !json.contains("uint"));
        }
    }
}
