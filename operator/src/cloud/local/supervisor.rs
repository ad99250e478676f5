//! The process inside a cluster's namespaces: owns its VMs and proxies, answers the operator.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{BufReader, copy_bidirectional},
    net::{TcpListener, UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    api::{self, Record, Reply, Request, State, View},
    checks::{check_image, check_room, files},
    instance::{Begin, Host, Order, Phase, Vm},
    layout::{ClusterDir, SOCKET, Shape, Subnet, plain_name},
    netns,
    probe::{self, Tools},
    proxy::{self, API_SERVER, VERIFIER},
    shelf, swtpm,
};
use crate::cloud::{CloudError, dial};

/// What ends a supervisor.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("reading {} failed", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the network's description is not understood")]
    Network(#[source] CloudError),
    #[error("setting up {what} failed")]
    Setup { what: &'static str, source: io::Error },
    #[error("setting up the bridge failed")]
    Bridge(#[from] netns::Error),
    #[error("making the TPM CA failed")]
    Ca(#[from] swtpm::Error),
}

/// A cluster's VMs and endpoint.
pub(super) struct Supervisor {
    dir: ClusterDir,
    host: Arc<Host>,
    vms: Mutex<BTreeMap<String, Slot>>,
    targets: Mutex<Vec<String>>,
    /// Addresses of the targets whose VMs run.
    reachable: watch::Sender<Vec<Ipv4Addr>>,
}

/// The supervisor's end of a VM's task.
struct Slot {
    record: Record,
    address: Ipv4Addr,
    phase: watch::Receiver<Phase>,
    orders: mpsc::Sender<Order>,
}

/// Runs until told to end. Standard input is the listener on the host's loopback, made before the namespace was
/// entered; standard output holds the cluster's lock.
pub(super) async fn run(dir: ClusterDir, cidr: &str) -> Result<(), Error> {
    let setup = |what| move |source| Error::Setup { what, source };
    let subnet = Subnet::parse(cidr).map_err(Error::Network)?;
    let tools = Tools::find().map_err(Error::Network)?;
    let outside = outside_listener().map_err(setup("the port on the host"))?;
    netns::ensure_bridge(&tools.ip, subnet).await?;
    swtpm::ensure_ca(&dir.ca(), &tools).await?;
    fs::create_dir_all(dir.instances()).map_err(setup("the instances' directory"))?;
    let host = Arc::new(Host {
        subnet,
        ca: dir.ca(),
        instances: dir.instances(),
        accelerator: Mutex::new(probe::accelerator()),
        tools,
    });
    let supervisor = Supervisor::load(dir, host)?;

    let bind = |address: Ipv4Addr, port| TcpListener::bind(SocketAddr::from((address, port)));
    let gateway = subnet.gateway();
    let api_server = bind(gateway, API_SERVER).await.map_err(setup("the endpoint"))?;
    let verifier = bind(gateway, VERIFIER).await.map_err(setup("the endpoint of the verifiers"))?;
    let socket = UnixListener::bind(SOCKET).map_err(setup("the socket"))?;
    let mut stop = signal(SignalKind::terminate()).map_err(setup("signals"))?;
    tokio::spawn(proxy::forward(outside, API_SERVER, supervisor.reachable.subscribe()));
    tokio::spawn(proxy::forward(api_server, API_SERVER, supervisor.reachable.subscribe()));
    tokio::spawn(proxy::forward(verifier, VERIFIER, supervisor.reachable.subscribe()));
    tracing::info!(dir = %supervisor.dir.path().display(), "Supervising");
    loop {
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((stream, _)) => { tokio::spawn(supervisor.clone().answer(stream)); }
                Err(error) => {
                    tracing::warn!(%error, "Accepting a call failed");
                    // Out of file descriptors, most likely: do not spin until some are closed.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            // The kernel ends all VMs with this process: it is the first of its pid namespace.
            _ = stop.recv() => return Ok(()),
        }
    }
}

fn outside_listener() -> io::Result<TcpListener> {
    let listener = StdListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

impl Supervisor {
    /// Takes over what an earlier supervisor left: its VMs ended with it and are failed now.
    fn load(dir: ClusterDir, host: Arc<Host>) -> Result<Arc<Self>, Error> {
        let read = |path: PathBuf| move |source| Error::Read { path, source };
        let targets = match fs::read(dir.targets()) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| read(dir.targets())(e.into()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(read(dir.targets())(error)),
        };
        let left = shelf::load(&host.instances, true).map_err(read(host.instances.clone()))?;
        let (reachable, _) = watch::channel(Vec::new());
        let supervisor = Arc::new(Self { dir, host, vms: Mutex::default(), targets: Mutex::new(targets), reachable });
        for record in left {
            let address = supervisor.host.subnet.node(record.index).map_err(Error::Network)?;
            let begin = Begin::Failed(ENDED_WITH_SUPERVISOR.to_owned());
            let slot = supervisor.begin(record, address, begin);
            lock(&supervisor.vms).insert(slot.record.node.clone(), slot);
        }
        Ok(supervisor)
    }

    async fn answer(self: Arc<Self>, stream: UnixStream) {
        let mut stream = BufReader::new(stream);
        let request = match timeout(Duration::from_secs(10), api::read(&mut stream)).await {
            Ok(Ok(request)) => request,
            // Somebody looked whether the socket answers.
            Ok(Err(api::Error::Cut)) | Err(_) => return,
            Ok(Err(error)) => {
                let reply =
                    Reply::from(CloudError::Unsupported(format!("the supervisor does not understand: {error}")));
                api::write(&mut stream, &reply).await.ok();
                return;
            }
        };
        let reply = match request {
            Request::Dial { address } => return self.dial(stream, address).await,
            Request::Find => Ok(Reply::Vms { vms: lock(&self.vms).values().map(view).collect() }),
            Request::Launch { vm } => self.launch(vm),
            Request::Ping => Ok(Reply::Done),
            Request::Restart { node } => self.restart(&node).await,
            Request::Targets { nodes } => self.set_targets(nodes),
            Request::Terminate { node } => self.terminate(&node).await,
        };
        // A caller that went away asks again.
        api::write(&mut stream, &reply.unwrap_or_else(Reply::from)).await.ok();
    }

    async fn dial(&self, mut stream: BufReader<UnixStream>, address: SocketAddr) {
        let allowed = match address {
            SocketAddr::V4(v4) => self.host.subnet.contains(*v4.ip()),
            SocketAddr::V6(_) => false,
        };
        let connected = if allowed {
            dial(address).await
        } else {
            Err(CloudError::Unsupported(format!("{address} is not in the cluster's network")))
        };
        match connected {
            Ok(mut node) => {
                if api::write(&mut stream, &Reply::Done).await.is_ok() {
                    // An error ends both sides, which is all there is to do.
                    copy_bidirectional(&mut stream, &mut node).await.ok();
                }
            }
            Err(error) => {
                api::write(&mut stream, &Reply::from(error)).await.ok();
            }
        }
    }

    fn launch(self: &Arc<Self>, record: Record) -> Result<Reply, CloudError> {
        let mut vms = lock(&self.vms);
        if let Some(slot) = vms.get(&record.node) {
            return Ok(Reply::Vms { vms: vec![view(slot)] });
        }
        plain_name(&record.node)?;
        let shape = Shape::parse(&record.instance_type)?;
        let address = self.host.subnet.node(record.index)?;
        check_image(Path::new(&record.image))?;
        check_room(&self.host.instances, record.state_disk_bytes, shape)?;
        if let Some(other) = vms.values().find(|slot| slot.address == address) {
            return Err(CloudError::Transient(format!("{address} is still used by node {}", other.record.node)));
        }
        tracing::info!(node = record.node, name = record.name, %address, "Launching VM");
        shelf::create(&self.host.instances, &record).map_err(|e| files(&self.host.instances, &e))?;
        let slot = self.begin(record, address, Begin::Start);
        let reply = Reply::Vms { vms: vec![view(&slot)] };
        vms.insert(slot.record.node.clone(), slot);
        Ok(reply)
    }

    async fn restart(&self, node: &str) -> Result<Reply, CloudError> {
        let (done, answer) = oneshot::channel();
        self.order(node, Order::Restart(done)).await?;
        answer.await.map_err(|_| not_found(node))?;
        Ok(Reply::Done)
    }

    async fn terminate(&self, node: &str) -> Result<Reply, CloudError> {
        let (done, answer) = oneshot::channel();
        self.order(node, Order::Terminate(done)).await?;
        answer
            .await
            .map_err(|_| not_found(node))?
            .map_err(|why| CloudError::Transient(format!("removing the VM of node {node} failed: {why}")))?;
        lock(&self.vms).remove(node);
        self.refresh();
        Ok(Reply::Done)
    }

    async fn order(&self, node: &str, order: Order) -> Result<(), CloudError> {
        let orders = lock(&self.vms).get(node).map(|slot| slot.orders.clone()).ok_or_else(|| not_found(node))?;
        orders.send(order).await.map_err(|_| not_found(node))
    }

    fn set_targets(&self, nodes: Vec<String>) -> Result<Reply, CloudError> {
        let failed = |e: io::Error| files(self.dir.path(), &e);
        let path = self.dir.targets();
        let unfinished = path.with_extension("unfinished");
        fs::write(&unfinished, serde_json::to_vec(&nodes).map_err(|e| failed(e.into()))?).map_err(failed)?;
        fs::rename(unfinished, path).map_err(failed)?;
        *lock(&self.targets) = nodes;
        self.refresh();
        Ok(Reply::Done)
    }

    /// Tells the proxies which targets can be reached now.
    fn refresh(&self) {
        let targets = lock(&self.targets).clone();
        let vms = lock(&self.vms);
        let running = |node: &String| {
            vms.get(node).filter(|slot| *slot.phase.borrow() == Phase::Running).map(|slot| slot.address)
        };
        let now: Vec<Ipv4Addr> = targets.iter().filter_map(running).collect();
        self.reachable.send_if_modified(|old| {
            let changed = *old != now;
            if changed {
                tracing::info!(targets = ?now, "Endpoint targets changed");
                *old = now;
            }
            changed
        });
    }

    /// Starts a VM's task and a second one that tells the proxies whenever the first changes its phase.
    fn begin(self: &Arc<Self>, record: Record, address: Ipv4Addr, begin: Begin) -> Slot {
        let (phase, mut changes) = watch::channel(Phase::Starting);
        let (orders, received) = mpsc::channel(8);
        let slot = Slot { record: record.clone(), address, phase: changes.clone(), orders };
        tokio::spawn(Vm { host: self.host.clone(), record, address, phase, orders: received }.run(begin));
        let supervisor = self.clone();
        tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                supervisor.refresh();
            }
        });
        slot
    }
}

fn view(slot: &Slot) -> View {
    let (state, message) = match &*slot.phase.borrow() {
        Phase::Failed(message) => (State::Failed, Some(message.clone())),
        Phase::Running | Phase::Starting => (State::Running, None),
        Phase::Terminating => (State::Terminating, None),
    };
    View { node: slot.record.node.clone(), address: Some(slot.address), state, message }
}

fn not_found(node: &str) -> CloudError {
    CloudError::NotFound(format!("VM of node {node}"))
}

/// A poisoned lock guards values that are whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Also said of VMs that are found while no supervisor runs.
pub(super) const ENDED_WITH_SUPERVISOR: &str = "the VM ended with its supervisor; the node must be replaced";
