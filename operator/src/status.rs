//! Writes the status of an object that was looked at, unless it has changed since.

use std::fmt::Debug;

use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{Patch, PatchParams},
    core::NamespaceResourceScope,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

/// The object with this status, whole, of which `manager` owns each field.
///
/// With the uid: an object of the same name that was made anew is another one. With the version that was looked at: what an
/// older look says must not undo what a later one wrote, nor be told again.
///
/// # Errors
/// A conflict when it changed, "not found" when it went, and what else the API server says.
pub async fn put<K>(client: &Client, object: &K, status: &impl Serialize, manager: &str) -> kube::Result<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let name = object.name_any();
    let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let body = json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()),
        "metadata": {"name": name, "uid": object.uid(), "resourceVersion": object.resource_version()}, "status": status,
    });
    api.patch_status(&name, &PatchParams::apply(manager).force(), &Patch::Apply(&body)).await
}
