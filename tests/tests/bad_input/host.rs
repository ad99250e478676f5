//! A host that lacks what VMs of provider `local` need: told as a warning that says what to install or to free, and well
//! again without a restart of the operator.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use constellation_crds::{
    ConstellationCluster,
    condition::{Condition, reason},
};
use constellation_tests::{faults::flow::LONG, world::World};
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, ObjectMeta, PostParams},
    core::{GroupVersionKind, TypeMeta},
};
use serde_json::{Value, json};

/// Where distributions keep OVMF.
const FIRMWARE: [&str; 2] = ["/usr/share/OVMF", "/usr/share/edk2"];
/// Hides those folders in the mount namespace that it runs in, and becomes a program there.
const HIDDEN: &str = r#"for folder in /usr/share/OVMF /usr/share/edk2; do
    [ ! -d "$folder" ] || mount -t tmpfs none "$folder" || exit
done
exec "$@""#;

/// An operator whose host is what a test makes of it: programs come from a folder, and firmware can be hidden.
pub struct Host {
    pub world: World,
    programs: PathBuf,
    /// The image that clusters want.
    image: PathBuf,
}

impl Host {
    pub async fn start(name: &str) -> Self {
        Self::start_through(name, &[]).await
    }

    /// Starts the operator through a program that becomes it, in its mount namespace.
    async fn start_through(name: &str, through: &[&str]) -> Self {
        let mut host = Self::prepare(name).await;
        host.operator(through);
        host
    }

    /// A host whose operator isn't started yet.
    pub async fn prepare(name: &str) -> Self {
        let dir = folder(name);
        let world = World::start(dir.clone(), "first").await;
        let programs = dir.join("programs");
        let _ = fs::remove_dir_all(&programs);
        fs::create_dir_all(&programs).unwrap();
        for entry in fs::read_dir("/usr/bin").unwrap() {
            let entry = entry.unwrap();
            symlink(entry.path(), programs.join(entry.file_name())).unwrap();
        }
        Self { world, programs, image: "/nowhere/image.raw".into() }
    }

    /// Starts the operator in a mount namespace of its own.
    pub fn operator(&mut self, through: &[&str]) {
        let path = format!("PATH={}", self.programs.display());
        // A proxy to the Internet is nothing that the operator's own API server is behind.
        let proxy = "HTTPS_PROXY=http://127.0.0.1:9";
        let through = [&["unshare", "--mount"], through, &["env", &path, proxy]].concat();
        self.world.operator_through(&through, &[]);
    }

    /// Uncovers the firmware for an operator that runs, so is in its own mount namespace, and started with it [`HIDDEN`].
    fn show_firmware(&self) {
        let target = self.world.operator_pid().to_string();
        for folder in FIRMWARE.into_iter().filter(|folder| Path::new(folder).exists()) {
            let status = Command::new("nsenter").args(["--mount", "--target", &target, "umount", folder]).status();
            assert!(status.unwrap().success(), "umount {folder} (needs root)");
        }
    }

    fn remove(&self, program: &str) {
        fs::remove_file(self.programs.join(program)).unwrap();
    }

    /// Puts a program there that says another version.
    fn pretend(&self, program: &str, says: &str) {
        self.remove(program);
        let path = self.programs.join(program);
        fs::write(&path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn put_right(&self, program: &str) {
        let _ = fs::remove_file(self.programs.join(program));
        symlink(Path::new("/usr/bin").join(program), self.programs.join(program)).unwrap();
    }

    /// Asks for a cluster.
    pub async fn ask(&mut self, name: &str) {
        name.clone_into(&mut self.world.cluster);
        let pcrs: Value = [4, 11, 12, 13].map(|n: u8| (n.to_string(), json!(["00".repeat(32)]))).into_iter().collect();
        let sets = json!([{"name": "any", "platform": "qemu-vtpm", "pcrs": pcrs}]);
        let version = json!({"image": {"local": self.image}, "kubernetesVersion": "v1.36.3",
            "measurements": {"inline": sets}});
        self.world.apply_object(object("NodeVersion", "host", &version)).await;
        let cluster = json!({"provider": {"local": {}}, "tee": "vtpm", "nodeVersion": "host",
            "controlPlane": {"replicas": 1, "instanceType": "1x512"}});
        self.world.apply_object(object("ConstellationCluster", name, &cluster)).await;
    }

    /// Waits until the cluster is stalled for a reason, with these words, and a warning said so.
    pub async fn told(&mut self, why: &str, words: &str) {
        let stalled = async |w: &World| {
            let conditions = w.cluster().await.and_then(|c| c.status).map(|s| s.conditions).unwrap_or_default();
            let says = |c: &Condition| c.reason == why && c.message.contains(words);
            let is = |kind, holds: fn(&str) -> bool| {
                conditions.iter().any(|c| c.type_ == kind && holds(&c.status) && says(c))
            };
            is("Ready", |status| status != "True") && is("Stalled", |status| status == "True")
        };
        self.world.until(words, LONG, stalled).await;
        let cluster = self.world.cluster.clone();
        self.warned(&cluster, why, words).await;
    }

    /// Waits until a node's launch failed for a reason, with these words, and a warning said so.
    pub async fn launch_fails(&mut self, why: &str, words: &str) {
        let failed = async |w: &World| {
            let node = w.nodes().await.pop().and_then(|node| node.status);
            node.is_some_and(|status| {
                let launched = status.conditions.iter().find(|c| c.type_ == "Launched");
                launched.is_some_and(|c| c.reason == why && c.message.contains(words))
            })
        };
        self.world.until(words, LONG, failed).await;
        let node = self.world.nodes().await.pop().unwrap().name_any();
        self.warned(&node, why, words).await;
    }

    /// Waits until a warning about an object says these words.
    async fn warned(&mut self, object: &str, why: &str, words: &str) {
        let of = format!("involvedObject.name={object},type=Warning,reason={why}");
        let warned = async |w: &World| {
            let events: Api<Event> = Api::default_namespaced(w.client());
            let events = events.list(&ListParams::default().fields(&of)).await.unwrap().items;
            events.iter().any(|event| event.message.as_ref().is_some_and(|message| message.contains(words)))
        };
        self.world.until(&format!("the Event of {object}: {words}"), LONG, warned).await;
    }

    /// Puts an image there that QEMU opens, and from which nothing boots.
    pub fn image(&mut self) {
        self.image = self.world.dir().join("image.raw");
        fs::write(&self.image, disk()).unwrap();
    }

    /// Waits until a node has its VM.
    pub async fn launches(&mut self) {
        let launched = async |w: &World| {
            let node = w.nodes().await.pop().and_then(|node| node.status);
            node.is_some_and(|status| status.conditions.iter().any(|c| c.type_ == "Launched" && c.status == "True"))
        };
        self.world.until("the VM", LONG, launched).await;
    }

    /// Waits until the network is there, which is what stalled.
    pub async fn goes_on(&mut self) {
        let network = async |w: &World| w.condition("InfrastructureReady").await && !w.condition("Stalled").await;
        self.world.until("the network", LONG, network).await;
    }

    pub async fn end(&mut self) {
        self.world.delete_cluster().await;
        self.world.until("nothing left", LONG, async |w| w.cluster().await.is_none()).await;
    }

    /// Folder of the cluster's state.
    pub async fn state(&self) -> PathBuf {
        let cluster: ConstellationCluster = self.world.cluster().await.unwrap();
        self.world.dir().join("local").join(cluster.metadata.uid.unwrap())
    }
}

/// Folder of a host's operator, which keeps its clusters in `local` there.
pub fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bad-input").join(name)
}

fn object(kind: &str, name: &str, spec: &Value) -> DynamicObject {
    let kind = GroupVersionKind::gvk("constellation.dev", "v1alpha1", kind);
    DynamicObject {
        types: Some(TypeMeta { api_version: kind.api_version(), kind: kind.kind }),
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: json!({"spec": spec}),
    }
}

/// A disk with a partition table that says where it ends, and nothing else.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 4096];
    disk[512..520].copy_from_slice(b"EFI PART");
    disk[544..552].copy_from_slice(&7_u64.to_le_bytes());
    disk
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_missing_or_too_old_is_asked_for_by_its_package_and_used_once_it_is_there() {
    let mut host = Host::start("programs").await;
    for (name, program, says, words) in [
        ("no-qemu", "qemu-system-x86_64", None, "qemu-system-x86_64 (package qemu-system-x86)"),
        (
            "old-qemu",
            "qemu-system-x86_64",
            Some("QEMU emulator version 5.2.0 (Debian 1:5.2)"),
            "is 5.2, 6.0 or later is needed (package qemu-system-x86)",
        ),
        ("no-swtpm", "swtpm", None, "swtpm (package swtpm)"),
        (
            "old-swtpm",
            "swtpm",
            Some("TPM emulator version 0.5.2, Copyright (c)"),
            "is 0.5, 0.6 or later is needed (package swtpm)",
        ),
        ("mute-swtpm", "swtpm", Some("no version"), "does not tell its version (package swtpm)"),
    ] {
        match says {
            None => host.remove(program),
            Some(says) => host.pretend(program, says),
        }
        host.ask(name).await;
        host.told(reason::HOST_NOT_READY, words).await;
        host.put_right(program);
        host.goes_on().await;
        host.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn firmware_that_is_missing_is_asked_for_by_its_package_and_used_once_it_is_there() {
    let mut host = Host::start_through("firmware", &["bash", "-c", HIDDEN, "hidden"]).await;
    host.ask("no-firmware").await;
    host.told(reason::HOST_NOT_READY, "OVMF_CODE.fd and OVMF_VARS.fd (package ovmf)").await;
    host.show_firmware();
    host.goes_on().await;
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubeconfig_that_is_none_is_asked_for_by_its_secret_and_nothing_is_done_until_it_is_restored() {
    let mut host = Host::start("kubeconfig").await;
    let secrets: Api<Secret> = Api::default_namespaced(host.world.client());
    let name = "kubeconfig-kubeconfig";
    let mut broken = Secret { string_data: Some([("value".into(), "{".into())].into()), ..Secret::default() };
    broken.metadata.name = Some(name.to_owned());
    secrets.create(&PostParams::default(), &broken).await.unwrap();
    host.ask("kubeconfig").await;
    host.told(reason::SECRET_INVALID, "Secret kubeconfig-kubeconfig holds no kubeconfig").await;
    assert!(!host.world.condition("InfrastructureReady").await);
    secrets.delete(name, &DeleteParams::default()).await.unwrap();
    host.goes_on().await;
    // One that would have the operator read and send a file of its own; who deletes the cluster isn't kept from it.
    let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1", "certificate-authority-data": "QQ=="}}],
        "users": [{"name": "u", "user": {"tokenFile": "/etc/hostname"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}]});
    broken.string_data = Some([("value".into(), text.to_string())].into());
    secrets.create(&PostParams::default(), &broken).await.unwrap();
    host.told(reason::SECRET_INVALID, "may hold data only, and has tokenFile").await;
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_missing_empty_or_cut_off_is_named_and_launched_once_it_is_whole() {
    let mut host = Host::start("image").await;
    let image = host.world.dir().join("image.raw");
    let _ = fs::remove_file(&image);
    host.image.clone_from(&image);
    host.ask("image").await;
    host.launch_fails(reason::LAUNCH_FAILED, "cannot be read").await;
    fs::write(&image, "").unwrap();
    host.launch_fails(reason::LAUNCH_FAILED, "is not a file, or is empty").await;
    fs::write(&image, &disk()[..4000]).unwrap();
    host.launch_fails(reason::LAUNCH_FAILED, "is cut off: it has 4000 of 4096 bytes").await;
    host.image();
    host.launches().await;
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_somebody_else_holds_is_named_and_used_once_it_is_free() {
    let mut host = Host::start("port").await;
    host.ask("taken").await;
    host.goes_on().await;
    // The host goes down and comes up again, and somebody else is faster.
    let state = host.state().await;
    host.world.kill_operator();
    let pid = fs::read_to_string(state.join("supervisor.pid")).unwrap();
    assert!(Command::new("kill").args(["-KILL", pid.trim()]).status().unwrap().success());
    let port: u16 = fs::read_to_string(state.join("port")).unwrap().trim().parse().unwrap();
    let begun = Instant::now();
    let taken = loop {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(taken) => break taken,
            Err(error) => assert!(begun.elapsed() < LONG, "{error}"),
        }
        // Another process's end can only be looked at.
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    host.operator(&[]);
    host.told(reason::HOST_NOT_READY, &format!("port {port} on 127.0.0.1")).await;
    drop(taken);
    host.goes_on().await;
    host.end().await;
}
