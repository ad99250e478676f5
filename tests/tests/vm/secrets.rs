//! Nothing of a cluster of VMs that is secret is where none may be, after a life with power cuts, a refusal and a roll.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_attestation::keys;
use constellation_tests::{
    scan::{Places, Secret},
    world::World,
};
use k8s_openapi::api::core::v1;
use kube::{Api, ResourceExt as _};

use crate::inside::Inside;

/// What was generated for the cluster: keys of owner, verifiers and administrator, and what disk keys are made from.
async fn secrets(world: &World) -> Vec<Secret> {
    let api: Api<v1::Secret> = Api::namespaced(world.client(), "default");
    let of = async |name: &str, key: &str| {
        let secret = api.get(&format!("{}-{name}", world.cluster)).await.unwrap();
        secret.data.unwrap().remove(key).unwrap().0
    };
    let text = async |name: &str, key: &str| String::from_utf8(of(name, key).await).unwrap();
    let master = of("master-secret", "secret").await;
    let disks = keys::derive(&master, keys::DISK_SECRET);
    let kubeconfig: serde_yaml::Value = serde_yaml::from_str(&text("kubeconfig", "value").await).unwrap();
    let admin = kubeconfig["users"][0]["user"]["client-key-data"].as_str().unwrap();
    let admin = STANDARD.decode(admin).unwrap();
    let mut secrets = vec![
        Secret::new("master secret", &master).unwrap(),
        Secret::new("disk secret", disks.as_slice()).unwrap(),
        Secret::of_key("owner key", &text("owner-key", "key.pem").await).unwrap(),
        Secret::of_key("verifier CA's key", &text("verifier-ca", "tls.key").await).unwrap(),
        Secret::of_key("administrator's key", std::str::from_utf8(&admin).unwrap()).unwrap(),
    ];
    for node in world.nodes().await {
        let key = keys::disk_key(disks.as_slice(), &node.uid().unwrap());
        secrets.push(Secret::new(&format!("disk key of {}", node.name_any()), key.as_slice()).unwrap());
    }
    secrets
}

/// Every log, console and command line below a folder.
fn add_files(places: &mut Places, folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            add_files(places, &path);
        } else if path.extension().is_some_and(|kind| ["log", "cmd"].iter().any(|shown| kind == *shown)) {
            places.add_file(&path).unwrap();
        }
    }
}

/// Looks through the operator's log, everything the host's programs wrote, both API servers but their Secrets, and command
/// lines and environments of all processes of the host and of every node.
pub async fn assert_none_is_out(world: &World, inside: &Inside, local: &Path) {
    let secrets = secrets(world).await;
    let mut places = Places::default();
    places.add_file(&world.dir().join("operator.log")).unwrap();
    add_files(&mut places, local);
    places.add_objects(&world.client()).await.unwrap();
    places.add_objects(&inside.client()).await.unwrap();
    places.add_processes().unwrap();
    for name in inside.nodes().await {
        let processes = inside.processes(&name);
        for program in ["constellation-bootstrapper", "kubelet"] {
            assert!(processes.contains(program), "{name} shows no {program}");
        }
        places.add(&format!("processes of {name}"), processes.as_bytes());
    }
    assert_eq!(places.find(&secrets), Vec::<String>::new());
    // It looked where it should have.
    for place in ["console.log", "qemu.log", "supervisor.log", "qemu.cmd", "nodeadmissions of ", "/environ"] {
        assert!(places.names().any(|name| name.contains(place)), "{place}");
    }
}
