//! The `local` provider against real QEMU, swtpm and namespaces. The image is noise: firmware runs and finds nothing
//! to boot, which is all that a cloud has to do.

#![allow(clippy::unwrap_used, clippy::too_many_lines)]

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use constellation_attestation::delivery::{self, Hints};
use constellation_operator::cloud::{
    Cloud, CloudError, ClusterUid, InstanceState, LaunchRequest, Network, NetworkRequest, NodeUid,
    local::{LocalCloud, leaks},
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::AsyncReadExt;

const CONFIG: &[u8] = b"launch configuration \x00\xff";
const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 11);

/// A state directory that is removed, with whatever runs in it, when the test ends.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        // Longer than a socket's path may be, on purpose.
        let long = "a-directory-with-a-very-long-name-so-that-no-socket-path-under-it-would-fit-anywhere";
        let dir = std::env::temp_dir().join(format!("constellation-{name}-{}", std::process::id())).join(long);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    fn cloud(&self) -> LocalCloud {
        LocalCloud::new(self.state()).with_executable(env!("CARGO_BIN_EXE_constellation-operator").into())
    }

    fn image(&self) -> String {
        let path = self.0.join("node.img");
        let mut noise = vec![0; 1 << 20];
        File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
        fs::write(&path, noise).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn supervisor(&self, cluster: &ClusterUid) -> String {
        fs::read_to_string(self.state().join(&cluster.0).join("supervisor.pid")).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for pid in fs::read_dir(self.state()).into_iter().flatten().flatten() {
            if let Ok(pid) = fs::read_to_string(pid.path().join("supervisor.pid"))
                && leaks(&self.state()).iter().any(|line| line.starts_with(&format!("process {pid}:")))
            {
                Command::new("kill").args(["-KILL", &pid]).status().ok();
            }
        }
        fs::remove_dir_all(self.0.parent().unwrap()).ok();
    }
}

fn cluster() -> ClusterUid {
    ClusterUid("0b9f3c1e-1111-4a4a-8888-000000000001".into())
}

async fn given_network(cloud: &LocalCloud) -> Network {
    let request = NetworkRequest { cluster: cluster(), name: "demo".into(), node_cidr: "10.77.0.0/24".into() };
    cloud.ensure_network(&request).await.unwrap()
}

fn launch_request(image: &str, node: &str, index: u32) -> LaunchRequest {
    LaunchRequest {
        cluster: cluster(),
        node: NodeUid(node.into()),
        name: format!("node-{index}"),
        control_plane: true,
        image: image.into(),
        instance_type: "1x256".into(),
        zone: None,
        state_disk_bytes: 64 << 20,
        index,
        launch_config: CONFIG.into(),
    }
}

async fn eventually(what: &str, mut seen: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !seen().await {
        assert!(Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs `work` in a thread inside the network namespace of a process.
fn inside<T: Send + 'static>(pid: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = File::open(Path::new("/proc").join(pid).join("ns/net")).unwrap();
    std::thread::spawn(move || {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    })
    .join()
    .unwrap()
}

/// An API server that says hello, at the node's address.
fn given_api_server(pid: &str) {
    inside(pid, || {
        let status = Command::new("ip").args(["addr", "add", &format!("{NODE}/32"), "dev", "lo"]).status().unwrap();
        assert!(status.success());
        let listener = TcpListener::bind((NODE, 6443)).unwrap();
        std::thread::spawn(move || {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept() {
                stream.write_all(b"hello").unwrap();
                held.push(stream);
            }
        });
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_lives_from_launch_to_removal_and_leaves_nothing() {
    let place = Place::new("life");
    let cloud = place.cloud();
    let network = given_network(&cloud).await;
    assert_eq!(network.endpoint, "10.77.0.1:6443");
    assert_eq!(network.cert_sans, ["10.77.0.1", "127.0.0.1"]);
    assert_eq!(given_network(&cloud).await, network);
    let roots = cloud.endorsement_roots(&cluster()).await.unwrap();
    assert!(roots.len() == 2 && roots.iter().all(|root| root.contains("BEGIN CERTIFICATE")), "{roots:?}");

    // Ten callers, one VM.
    let request = launch_request(&place.image(), "n-1", 1);
    let launches = futures::future::join_all((0..10).map(|_| cloud.launch(&request))).await;
    let instance = launches[0].as_ref().unwrap().clone();
    assert!(launches.iter().all(|other| other.as_ref().unwrap().id == instance.id));
    assert_eq!(instance.address, Some(IpAddr::V4(NODE)));
    assert_eq!(cloud.find(&cluster()).await.unwrap().len(), 1);
    eventually("the firmware's first word", async || {
        cloud.console(&cluster(), &instance.id).is_ok_and(|text| !text.is_empty())
    })
    .await;
    let qemus = || leaks(&place.state()).iter().filter(|line| line.contains("qemu-system")).count();
    assert_eq!(qemus(), 1);

    // The guest is told who it is and where verifiers are, in the form that clouds deliver.
    let user_data = fs::read(place.state().join(cluster().0).join("instances/n-1/user-data")).unwrap();
    let hints = Hints { verifiers: vec!["10.77.0.1:9001".into()] };
    assert_eq!(delivery::split(&user_data), (CONFIG, hints));
    let supervisor = place.supervisor(&cluster());
    given_api_server(&supervisor);

    // The endpoint leads to its targets only, and lets go of those removed.
    let outside: SocketAddr = network.external_url.strip_prefix("https://").unwrap().parse().unwrap();
    let mut hello = [0; 5];
    assert_eq!(TcpStream::connect(outside).unwrap().read(&mut hello).unwrap_or(0), 0);
    cloud.set_endpoint_targets(&cluster(), std::slice::from_ref(&instance.id)).await.unwrap();
    let mut direct = cloud.dial(&cluster(), SocketAddr::from((NODE, 6443))).await.unwrap();
    direct.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    let mut through = cloud.dial(&cluster(), "10.77.0.1:6443".parse().unwrap()).await.unwrap();
    through.read_exact(&mut hello).await.unwrap();
    let mut external = tokio::net::TcpStream::connect(outside).await.unwrap();
    external.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    cloud.set_endpoint_targets(&cluster(), &[]).await.unwrap();
    assert_eq!(external.read(&mut hello).await.unwrap_or(0), 0);
    assert_eq!(through.read(&mut hello).await.unwrap_or(0), 0);
    let elsewhere = cloud.dial(&cluster(), "127.0.0.1:22".parse().unwrap()).await;
    assert!(matches!(elsewhere, Err(CloudError::Unsupported(_))));

    // The operator restarts, then the VM.
    drop(cloud);
    let cloud = place.cloud();
    let found = cloud.find(&cluster()).await.unwrap();
    assert_eq!((found.len(), &found[0].id, found[0].state), (1, &instance.id, InstanceState::Running));
    assert_eq!(cloud.clusters().await.unwrap(), [cluster()]);
    assert_eq!(place.supervisor(&cluster()), supervisor);
    let before = cloud.console(&cluster(), &instance.id).unwrap().len();
    cloud.restart(&cluster(), &instance.id).await.unwrap();
    eventually("a second boot", async || cloud.console(&cluster(), &instance.id).unwrap().len() > before).await;
    assert_eq!(qemus(), 1);

    cloud.terminate(&cluster(), &instance.id).await.unwrap();
    assert!(matches!(cloud.terminate(&cluster(), &instance.id).await, Err(CloudError::NotFound(_))));
    assert_eq!(cloud.find(&cluster()).await.unwrap(), []);
    assert_eq!(qemus(), 0);
    let taps = inside(&supervisor, || Command::new("ip").args(["-o", "link"]).output().unwrap().stdout);
    assert!(!String::from_utf8_lossy(&taps).contains("tap"));
    cloud.remove_network(&cluster()).await.unwrap();
    assert!(matches!(cloud.remove_network(&cluster()).await, Err(CloudError::NotFound(_))));
    assert_eq!(leaks(&place.state()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_supervisor_takes_its_vms_along_and_they_are_found_failed() {
    let place = Place::new("killed");
    let cloud = place.cloud();
    let network = given_network(&cloud).await;
    let image = place.image();
    let one = cloud.launch(&launch_request(&image, "n-1", 1)).await.unwrap();
    let two = cloud.launch(&launch_request(&image, "n-2", 2)).await.unwrap();
    let qemus = || leaks(&place.state()).iter().filter(|line| line.contains("qemu-system")).count();
    eventually("two VMs", async || qemus() == 2).await;
    Command::new("kill").args(["-KILL", &place.supervisor(&cluster())]).status().unwrap();
    eventually("the end of all processes", async || {
        !leaks(&place.state()).iter().any(|line| line.starts_with("process"))
    })
    .await;

    // Without a supervisor, and under the next one, which has the same port.
    for _ in 0..2 {
        let found = cloud.find(&cluster()).await.unwrap();
        assert_eq!(found.len(), 2);
        assert!(
            found.iter().all(|instance| instance.state == InstanceState::Failed && instance.message.is_some()),
            "{found:?}"
        );
        assert_eq!(given_network(&cloud).await, network);
    }
    let again = cloud.launch(&launch_request(&image, "n-1", 1)).await.unwrap();
    assert_eq!((&again.id, again.state), (&one.id, InstanceState::Failed));
    cloud.terminate(&cluster(), &one.id).await.unwrap();
    Command::new("kill").args(["-KILL", &place.supervisor(&cluster())]).status().unwrap();
    eventually("the end of all processes", async || {
        !leaks(&place.state()).iter().any(|line| line.starts_with("process"))
    })
    .await;
    cloud.terminate(&cluster(), &two.id).await.unwrap();
    assert!(matches!(cloud.terminate(&cluster(), &two.id).await, Err(CloudError::NotFound(_))));
    cloud.remove_network(&cluster()).await.unwrap();
    assert_eq!(leaks(&place.state()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_never_work_is_refused_before_anything_is_made() {
    let place = Place::new("refused");
    let cloud = place.cloud();
    let image = place.image();
    let good = launch_request(&image, "n-1", 1);
    assert!(matches!(cloud.launch(&good).await, Err(CloudError::NotFound(_))), "there is no network yet");
    given_network(&cloud).await;
    let change = NetworkRequest { cluster: cluster(), name: "demo".into(), node_cidr: "10.78.0.0/24".into() };
    assert!(matches!(cloud.ensure_network(&change).await, Err(CloudError::Unsupported(_))));
    for wrong in [
        LaunchRequest { image: "/nonexistent/node.img".into(), ..good.clone() },
        LaunchRequest { instance_type: "t3.large".into(), ..good.clone() },
        LaunchRequest { index: 245, ..good.clone() },
        LaunchRequest { node: NodeUid("../n-1".into()), ..good.clone() },
        LaunchRequest { state_disk_bytes: 0, ..good.clone() },
    ] {
        let refused = cloud.launch(&wrong).await;
        assert!(matches!(refused, Err(CloudError::Unsupported(_))), "{wrong:?}: {refused:?}");
    }
    let huge = LaunchRequest { instance_type: "1x1048576".into(), ..good.clone() };
    assert!(matches!(cloud.launch(&huge).await, Err(CloudError::Capacity(_))));
    assert_eq!(cloud.find(&cluster()).await.unwrap(), []);
    cloud.remove_network(&cluster()).await.unwrap();
    assert_eq!(leaks(&place.state()), Vec::<String>::new());
}
