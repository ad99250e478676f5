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
    Api,
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
struct Host {
    world: World,
    programs: PathBuf,
    /// The image that clusters want.
    image: PathBuf,
}

impl Host {
    async fn start(name: &str) -> Self {
        Self::start_through(name, &[]).await
    }

    /// Starts the operator through a program that becomes it, in its mount namespace.
    async fn start_through(name: &str, through: &[&str]) -> Self {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bad-input").join(name);
        let world = World::start(dir.clone(), "first").await;
        let programs = dir.join("programs");
        let _ = fs::remove_dir_all(&programs);
        fs::create_dir_all(&programs).unwrap();
        for entry in fs::read_dir("/usr/bin").unwrap() {
            let entry = entry.unwrap();
            symlink(entry.path(), programs.join(entry.file_name())).unwrap();
        }
        let mut host = Self { world, programs, image: "/nowhere/image.raw".into() };
        host.operator(through);
        host
    }

    /// Starts the operator in a mount namespace of its own.
    fn operator(&mut self, through: &[&str]) {
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
    async fn ask(&mut self, name: &str) {
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

    /// Waits until the cluster is stalled for its host, with these words, and a warning said so.
    async fn told(&mut self, words: &str) {
        let stalled = async |w: &World| {
            let conditions = w.cluster().await.and_then(|c| c.status).map(|s| s.conditions).unwrap_or_default();
            let is = |kind: &str, status: &str| {
                let holds = |c: &&Condition| {
                    (c.type_.as_str(), c.status.as_str(), c.reason.as_str()) == (kind, status, reason::HOST_NOT_READY)
                };
                conditions.iter().find(holds).is_some_and(|c| c.message.contains(words))
            };
            is("Ready", "False") && is("Stalled", "True")
        };
        self.world.until(words, LONG, stalled).await;
        let warned = async |w: &World| warnings(w).await.iter().any(|message| message.contains(words));
        self.world.until("its Event", LONG, warned).await;
    }

    /// Waits until a node's launch failed, with these words.
    async fn launch_fails(&mut self, words: &str) {
        let failed = async |w: &World| {
            let node = w.nodes().await.pop().and_then(|node| node.status);
            node.is_some_and(|status| {
                let launched = status.conditions.iter().find(|c| c.type_ == "Launched");
                launched.is_some_and(|c| c.reason == reason::LAUNCH_FAILED && c.message.contains(words))
            })
        };
        self.world.until(words, LONG, failed).await;
    }

    /// Waits until the network is there, which is what stalled.
    async fn goes_on(&mut self) {
        let network = async |w: &World| w.condition("InfrastructureReady").await && !w.condition("Stalled").await;
        self.world.until("the network", LONG, network).await;
    }

    async fn end(&mut self) {
        self.world.delete_cluster().await;
        self.world.until("nothing left", LONG, async |w| w.cluster().await.is_none()).await;
    }

    /// Folder of the cluster's state.
    async fn state(&self) -> PathBuf {
        let cluster: ConstellationCluster = self.world.cluster().await.unwrap();
        self.world.dir().join("local").join(cluster.metadata.uid.unwrap())
    }
}

fn object(kind: &str, name: &str, spec: &Value) -> DynamicObject {
    let kind = GroupVersionKind::gvk("constellation.dev", "v1alpha1", kind);
    DynamicObject {
        types: Some(TypeMeta { api_version: kind.api_version(), kind: kind.kind }),
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: json!({"spec": spec}),
    }
}

/// What warnings said of the cluster.
async fn warnings(world: &World) -> Vec<String> {
    let events: Api<Event> = Api::default_namespaced(world.client());
    let all = events.list(&ListParams::default()).await.unwrap().items.into_iter();
    all.filter(|event| event.involved_object.name.as_ref() == Some(&world.cluster))
        .filter(|event| event.type_.as_deref() == Some("Warning"))
        .filter_map(|event| event.message)
        .collect()
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
        host.told(words).await;
        host.put_right(program);
        host.goes_on().await;
        host.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn firmware_that_is_missing_is_asked_for_by_its_package_and_used_once_it_is_there() {
    let mut host = Host::start_through("firmware", &["bash", "-c", HIDDEN, "hidden"]).await;
    host.ask("no-firmware").await;
    host.told("OVMF_CODE.fd and OVMF_VARS.fd (package ovmf)").await;
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
    let told = async |w: &World| {
        let status = w.cluster().await.and_then(|cluster| cluster.status).unwrap_or_default();
        let is = |kind: &str, value: &str| {
            status.conditions.iter().any(|c| {
                (c.type_.as_str(), c.status.as_str(), c.reason.as_str()) == (kind, value, reason::SECRET_INVALID)
                    && c.message.contains("Secret kubeconfig-kubeconfig holds no kubeconfig")
            })
        };
        is("Ready", "Unknown") && is("Stalled", "True")
    };
    host.world.until("the Secret named", LONG, told).await;
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
    let told = async |w: &World| {
        let status = w.cluster().await.and_then(|cluster| cluster.status).unwrap_or_default();
        status
            .conditions
            .iter()
            .any(|c| c.type_ == "Stalled" && c.message.contains("may hold data only, and has tokenFile"))
    };
    host.world.until("the member named", LONG, told).await;
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_missing_empty_or_cut_off_is_named_and_launched_once_it_is_whole() {
    let mut host = Host::start("image").await;
    let image = host.world.dir().join("image.raw");
    let _ = fs::remove_file(&image);
    host.image.clone_from(&image);
    host.ask("image").await;
    host.launch_fails("cannot be read").await;
    fs::write(&image, "").unwrap();
    host.launch_fails("is not a file, or is empty").await;
    // A partition table that says where the disk ends, and no more of the disk.
    let mut disk = vec![0; 4096];
    disk[512..520].copy_from_slice(b"EFI PART");
    disk[544..552].copy_from_slice(&7_u64.to_le_bytes());
    fs::write(&image, &disk[..4000]).unwrap();
    host.launch_fails("is cut off: it has 4000 of 4096 bytes").await;
    fs::write(&image, &disk).unwrap();
    let launched = async |w: &World| {
        let node = w.nodes().await.pop().and_then(|node| node.status);
        node.is_some_and(|status| status.conditions.iter().any(|c| c.type_ == "Launched" && c.status == "True"))
    };
    host.world.until("the VM", LONG, launched).await;
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
    host.told(&format!("port {port} on 127.0.0.1")).await;
    drop(taken);
    host.goes_on().await;
    host.end().await;
}
