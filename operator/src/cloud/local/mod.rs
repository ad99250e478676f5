//! VMs on this host: QEMU, OVMF and one emulated TPM each, in one namespace per cluster.
//!
//! The story of a cluster. `ensure_network` makes the cluster's directory under the state directory and starts its
//! supervisor (`launcher`), which enters a network and a pid namespace of its own, makes the bridge (`netns`) and the
//! CA of the TPMs (`swtpm`), and offers the endpoint (`proxy`) on the bridge.
//! The operator speaks to it over a Unix socket (`api`). `launch` writes the request to the instance's directory and
//! starts a task (`instance`) that makes disks, TPM and tap and runs QEMU (`qemu`). An operator that restarts finds
//! the supervisor by its lock and socket and the VMs by their directories. When the supervisor dies, the kernel ends
//! all its VMs; they are seen as failed. `remove_network` kills whatever runs and removes the directory; nothing else
//! was ever made.
//!
//! No trust rests on any of this: whatever the host says or serves is measured, appraised or authenticated elsewhere.

mod api;
mod checks;
mod client;
mod console;
mod instance;
mod launcher;
mod layout;
mod leaks;
mod netns;
mod probe;
mod proxy;
mod qemu;
mod shelf;
mod supervisor;
mod swtpm;

use std::{
    collections::HashMap,
    fs, io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::{Arc, Mutex as SyncMutex, PoisonError},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use self::{
    api::{Record, Reply, Request, State, View},
    client::{Asked, ask_or_lock, call, converse, vms},
    layout::{ClusterDir, Subnet, instance_id, node_of, plain_name},
};
use super::{
    Cloud, CloudError, ClusterUid, Instance, InstanceId, InstanceState, LaunchRequest, Network, NetworkRequest,
    NodeUid, Stream,
};

pub use self::{console::tail, layout::FIRST_NODE, leaks::leaks, qemu::shutdown_reason};

/// The `local` provider.
#[derive(Debug)]
pub struct LocalCloud {
    state_dir: PathBuf,
    executable: Option<PathBuf>,
    /// Starting and removing a cluster's supervisor take turns.
    turns: SyncMutex<HashMap<ClusterUid, Arc<Mutex<()>>>>,
}

/// Content of `network.json`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Description {
    name: String,
    node_cidr: String,
}

/// Arguments of the hidden subcommand `local-supervisor`.
#[derive(Clone, Debug, clap::Args)]
pub struct SupervisorArgs {
    /// Directory of the cluster.
    #[arg(long)]
    pub dir: PathBuf,
    /// Addresses of the nodes.
    #[arg(long)]
    pub cidr: String,
    /// Be the supervisor itself, inside the namespaces.
    #[arg(long)]
    pub inside: bool,
}

/// What ends `local-supervisor`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The supervisor could not be started.
    #[error("starting the supervisor failed: {0}")]
    Launch(String),
    /// The supervisor could not begin its work, or not go on.
    #[error("supervising failed: {0}")]
    Supervise(String),
}

/// Runs `local-supervisor`: starts a cluster's supervisor, or, inside the namespaces, is it. Call it first thing in
/// `main`: it makes a runtime of its own, and its standard streams have a meaning, so nothing else may print there.
///
/// # Errors
/// When it cannot be started or cannot go on. The launcher has also told its caller on standard output by then.
pub fn supervise(args: &SupervisorArgs) -> Result<(), Error> {
    let dir = ClusterDir::at(args.dir.clone());
    if !args.inside {
        let outcome = launcher::launch(&dir, &args.cidr);
        let message = outcome.as_ref().err().map(ToString::to_string);
        let reply = outcome.map_or_else(Reply::from, |()| Reply::Done);
        let line = serde_json::to_string(&reply).map_err(|e| Error::Launch(e.to_string()))?;
        println!("{line}");
        return message.map_or(Ok(()), |message| Err(Error::Launch(message)));
    }
    let failed = |e: &dyn std::error::Error| {
        let cause = e.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        Error::Supervise(format!("{e}{cause}"))
    };
    std::env::set_current_dir(dir.path()).map_err(|e| failed(&e))?;
    // Whoever called us may have set one up already.
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).try_init().ok();
    let cidr = args.cidr.clone();
    // A thread of its own: the caller may be inside a runtime already.
    let work = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(supervisor::run(dir, &cidr)).map_err(|e| failed(&e)),
            Err(e) => Err(failed(&e)),
        }
    });
    let outcome = work.join().unwrap_or_else(|_| Err(Error::Supervise("it panicked, see its log".into())));
    if let Err(error) = &outcome {
        // The last line of the log is what the launcher tells the operator.
        tracing::error!(%error, "Supervisor ended");
    }
    outcome
}

impl LocalCloud {
    /// The provider with everything it keeps under `state_dir`; an instance type is `<vCPUs>x<MiB>`, an image is the
    /// absolute path of a disk image.
    #[must_use]
    pub fn new(state_dir: PathBuf) -> Self {
        let state_dir = std::path::absolute(&state_dir).unwrap_or(state_dir);
        Self { state_dir, executable: None, turns: SyncMutex::default() }
    }

    /// Uses another executable than this process's own as supervisor; it must have the subcommand `local-supervisor`.
    #[must_use]
    pub fn with_executable(mut self, executable: PathBuf) -> Self {
        self.executable = Some(executable);
        self
    }

    /// Pulls the plug of a VM and switches it on again: same disks, same TPM, same address. Also revives a failed VM.
    ///
    /// # Errors
    /// [`CloudError::NotFound`] if there is no such VM.
    pub async fn restart(&self, cluster: &ClusterUid, id: &InstanceId) -> Result<(), CloudError> {
        let node = node_of(cluster, id)?.0;
        let dir = self.dir(cluster)?;
        self.ensure_supervisor(cluster, &dir).await?;
        call(&dir, &Request::Restart { node }).await.map(|_| ())
    }

    /// What the VM wrote to its serial console.
    ///
    /// # Errors
    /// [`CloudError::NotFound`] if there is no such VM, or it has not written anything yet.
    pub fn console(&self, cluster: &ClusterUid, id: &InstanceId) -> Result<String, CloudError> {
        let path = self.dir(cluster)?.instances().join(node_of(cluster, id)?.0).join(qemu::CONSOLE);
        let bytes = fs::read(&path).map_err(|e| CloudError::NotFound(format!("console {}: {e}", path.display())))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn dir(&self, cluster: &ClusterUid) -> Result<ClusterDir, CloudError> {
        ClusterDir::of(&self.state_dir, cluster)
    }

    fn turn(&self, cluster: &ClusterUid) -> Arc<Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(cluster.clone()).or_default().clone()
    }

    /// Starts the supervisor unless it answers.
    async fn ensure_supervisor(&self, cluster: &ClusterUid, dir: &ClusterDir) -> Result<(), CloudError> {
        let turn = self.turn(cluster);
        let _turn = turn.lock().await;
        let description =
            describe(dir)?.ok_or_else(|| CloudError::NotFound(format!("network of cluster {}", cluster.0)))?;
        self.start(dir, &description).await
    }

    /// As [`Self::ensure_supervisor`], for who has the turn.
    async fn start(&self, dir: &ClusterDir, description: &Description) -> Result<(), CloudError> {
        if call(dir, &Request::Ping).await.is_ok() {
            return Ok(());
        }
        let executable = match &self.executable {
            Some(path) => path.clone(),
            None => std::env::current_exe()
                .map_err(|e| CloudError::Transient(format!("finding our executable failed: {e}")))?,
        };
        launcher::ensure(&executable, dir, &description.node_cidr).await
    }

    fn instance(cluster: &ClusterUid, view: View) -> Instance {
        let node = NodeUid(view.node);
        Instance {
            id: instance_id(cluster, &node),
            node,
            address: view.address.map(Into::into),
            state: match view.state {
                State::Failed => InstanceState::Failed,
                State::Running => InstanceState::Running,
                State::Terminating => InstanceState::Terminating,
            },
            message: view.message,
        }
    }
}

#[async_trait]
impl Cloud for LocalCloud {
    fn name(&self) -> &'static str {
        "local"
    }

    fn platform(&self) -> &'static str {
        "qemu-vtpm"
    }

    fn exclusive(&self) -> bool {
        true
    }

    async fn endorsement_roots(&self, cluster: &ClusterUid) -> Result<Vec<String>, CloudError> {
        let ca = self.dir(cluster)?.ca();
        let read = |name| {
            let path = ca.join(name);
            fs::read_to_string(&path)
                .map_err(|e| CloudError::NotFound(format!("TPM CA certificate {}: {e}", path.display())))
        };
        swtpm::CERTIFICATES.into_iter().map(read).collect()
    }

    async fn ensure_network(&self, request: &NetworkRequest) -> Result<Network, CloudError> {
        let dir = self.dir(&request.cluster)?;
        let gateway = Subnet::parse(&request.node_cidr)?.gateway();
        let turn = self.turn(&request.cluster);
        let _turn = turn.lock().await;
        let failed = |e: io::Error| checks::files(dir.path(), &e);
        let description = match describe(&dir)? {
            Some(there) if there.node_cidr == request.node_cidr => there,
            Some(there) => {
                return Err(CloudError::Unsupported(format!(
                    "the network of cluster {} has node CIDR {}, which cannot be changed to {}",
                    request.cluster.0, there.node_cidr, request.node_cidr
                )));
            }
            None => {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(dir.path()).map_err(failed)?;
                let new = Description { name: request.name.clone(), node_cidr: request.node_cidr.clone() };
                let unfinished = dir.network().with_extension("unfinished");
                let text = serde_json::to_vec_pretty(&new).map_err(|e| failed(e.into()))?;
                fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, dir.network())).map_err(failed)?;
                new
            }
        };
        self.start(&dir, &description).await?;
        let port = fs::read_to_string(dir.port()).map_err(failed)?;
        Ok(Network {
            id: format!("local://{}", request.cluster.0),
            endpoint: format!("{gateway}:{}", proxy::API_SERVER),
            external_url: format!("https://127.0.0.1:{}", port.trim()),
            cert_sans: vec![gateway.to_string(), "127.0.0.1".into()],
        })
    }

    async fn remove_network(&self, cluster: &ClusterUid) -> Result<(), CloudError> {
        let dir = self.dir(cluster)?;
        let turn = self.turn(cluster);
        let _turn = turn.lock().await;
        if !dir.path().exists() {
            return Err(CloudError::NotFound(format!("network of cluster {}", cluster.0)));
        }
        let failed =
            |e: &dyn std::fmt::Display| CloudError::Transient(format!("removing {} failed: {e}", dir.path().display()));
        let doomed = dir.clone();
        tokio::task::spawn_blocking(move || launcher::stop(&doomed)).await.map_err(|e| failed(&e))??;
        fs::remove_dir_all(dir.path()).map_err(|e| failed(&e))
    }

    async fn launch(&self, request: &LaunchRequest) -> Result<Instance, CloudError> {
        plain_name(&request.node.0)?;
        let dir = self.dir(&request.cluster)?;
        self.ensure_supervisor(&request.cluster, &dir).await?;
        let vms = vms(call(&dir, &Request::Launch { vm: Record::from(request) }).await?)?;
        let view = vms.into_iter().find(|view| view.node == request.node.0);
        let view = view.ok_or_else(|| CloudError::Transient("the supervisor answered for another node".into()))?;
        Ok(Self::instance(&request.cluster, view))
    }

    async fn find(&self, cluster: &ClusterUid) -> Result<Vec<Instance>, CloudError> {
        let dir = self.dir(cluster)?;
        let Some(description) = describe(&dir)? else {
            return Ok(Vec::new());
        };
        let views = match ask_or_lock(&dir, &Request::Find).await? {
            Asked::Answer(reply) => vms(reply)?,
            Asked::Nobody(_lock) => ended(&dir, &description)?,
        };
        Ok(views.into_iter().map(|view| Self::instance(cluster, view)).collect())
    }

    async fn terminate(&self, cluster: &ClusterUid, id: &InstanceId) -> Result<(), CloudError> {
        let node = node_of(cluster, id)?.0;
        let dir = self.dir(cluster)?;
        if !dir.path().exists() {
            return Err(CloudError::NotFound(format!("VM of node {node}")));
        }
        let request = Request::Terminate { node: node.clone() };
        let Asked::Nobody(_lock) = ask_or_lock(&dir, &request).await? else {
            return Ok(());
        };
        // No supervisor, so no process: only the directory is left.
        if !dir.instances().join(&node).exists() {
            return Err(CloudError::NotFound(format!("VM of node {node}")));
        }
        shelf::remove_dir(&dir.instances(), &node)
            .map_err(|e| CloudError::Transient(format!("removing the directory of node {node} failed: {e}")))
    }

    async fn set_endpoint_targets(&self, cluster: &ClusterUid, targets: &[InstanceId]) -> Result<(), CloudError> {
        let nodes = targets.iter().map(|id| node_of(cluster, id).map(|node| node.0)).collect::<Result<_, _>>()?;
        let dir = self.dir(cluster)?;
        self.ensure_supervisor(cluster, &dir).await?;
        call(&dir, &Request::Targets { nodes }).await.map(|_| ())
    }

    async fn clusters(&self) -> Result<Vec<ClusterUid>, CloudError> {
        let failed = |e: io::Error| CloudError::Transient(format!("reading {} failed: {e}", self.state_dir.display()));
        let entries = match fs::read_dir(&self.state_dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut clusters = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            if let Ok(name) = entry.file_name().into_string()
                && plain_name(&name).is_ok()
                && entry.file_type().map_err(failed)?.is_dir()
            {
                clusters.push(ClusterUid(name));
            }
        }
        clusters.sort();
        Ok(clusters)
    }

    async fn dial(&self, cluster: &ClusterUid, address: SocketAddr) -> Result<Box<dyn Stream>, CloudError> {
        let dir = self.dir(cluster)?;
        let (stream, reply) = converse(&dir, &Request::Dial { address }).await?;
        reply.into_result()?;
        Ok(Box::new(stream))
    }
}

/// What the network was made from; nothing if it was not made.
fn describe(dir: &ClusterDir) -> Result<Option<Description>, CloudError> {
    let path = dir.network();
    let failed = |e: &dyn std::fmt::Display| CloudError::Transient(format!("reading {} failed: {e}", path.display()));
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| failed(&e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed(&e)),
    }
}

/// The VMs of a cluster without supervisor.
fn ended(dir: &ClusterDir, description: &Description) -> Result<Vec<View>, CloudError> {
    let subnet = Subnet::parse(&description.node_cidr)?;
    let records = shelf::load(&dir.instances(), false)
        .map_err(|e| CloudError::Transient(format!("reading {} failed: {e}", dir.instances().display())))?;
    let view = |record: Record| View {
        address: subnet.node(record.index).ok(),
        node: record.node,
        state: State::Failed,
        message: Some(supervisor::ENDED_WITH_SUPERVISOR.to_owned()),
    };
    Ok(records.into_iter().map(view).collect())
}
