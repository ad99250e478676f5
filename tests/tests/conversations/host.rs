//! A cluster's host: what provider `local` asks of its supervisor is done here, with machines that run without a VM.
//!
//! The provider's room is the operator's own (`operator/src/cloud/local`). It finds the cluster's folder with lock, socket
//! and port as a supervisor leaves them, and speaks to the socket in its own words. A process that holds the lock stands
//! for the namespaces: who ends it, ends every machine.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::fd::AsRawFd as _,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_attestation::channel::Identity;
use constellation_tests::{
    faults::{
        plan::{Fate, Plan},
        proxy::Process,
    },
    kubeadm::ControlPlane,
    process::free_port,
    swtpm::Swtpm,
};
use kube::Client;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    process::{Child, Command},
    sync::{Mutex as AsyncMutex, watch},
    task::JoinSet,
};

use crate::{
    door,
    machine::Machine,
    talk::{deed, relay},
};

/// Between two looks at what machines do, which are processes of their own.
const LOOK: Duration = Duration::from_millis(200);
/// The network that the operator asks for; its machines are on loopback.
const NODE_CIDR: &str = "10.77.0.0/24";

/// A host with one cluster; it ends when it is dropped.
pub struct Host {
    shared: Arc<Shared>,
    _work: JoinSet<()>,
}

struct Shared {
    plan: Plan,
    process: Arc<dyn Process>,
    plane: Arc<ControlPlane>,
    client: Client,
    /// Whoever makes the machines' TPMs.
    maker: Swtpm,
    /// Port of every machine's agent; each has an address of its own.
    port: u16,
    machines: AsyncMutex<BTreeMap<String, Machine>>,
    targets: Mutex<Vec<String>>,
    /// How often a machine was made for a node, by the node's UID.
    made: Mutex<BTreeMap<String, u32>>,
    wrongs: Mutex<Vec<String>>,
    /// What happens to the cluster: conversations of another part are others.
    part: Mutex<String>,
    /// Whether a machine's API server can be reached.
    serves: watch::Sender<bool>,
}

impl Host {
    /// The supervisor of the cluster whose folder this is; `inside` leads to its API server whenever a machine runs it.
    pub async fn start(
        dir: &Path,
        name: &str,
        plane: Arc<ControlPlane>,
        (plan, process): (Plan, Arc<dyn Process>),
        inside: SocketAddr,
    ) -> Result<Self> {
        fs::create_dir_all(dir.join("ca"))?;
        let maker = Swtpm::start()?;
        // The names that the provider knows its CA by.
        for (name, pem) in ["issuercert.pem", "swtpm-localca-rootca-cert.pem"].iter().zip(maker.endorsement_roots()?) {
            fs::write(dir.join("ca").join(name), pem)?;
        }
        fs::write(dir.join("network.json"), json!({"name": name, "nodeCidr": NODE_CIDR}).to_string())?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        fs::write(dir.join("port"), listener.local_addr()?.port().to_string())?;
        let (serves, change) = watch::channel(false);
        let door = door::keep(listener, door::certificate(plane.pki())?, inside, change);
        let client = plane.client(plane.admin()).await?;
        let shared = Arc::new(Shared {
            plan,
            process,
            plane,
            client,
            maker,
            port: free_port()?,
            machines: AsyncMutex::default(),
            targets: Mutex::default(),
            made: Mutex::default(),
            wrongs: Mutex::default(),
            part: Mutex::default(),
            serves,
        });
        let holder = holder(dir)?;
        // Its whole path may be too long for a socket.
        let folder = fs::File::open(dir)?;
        let socket = UnixListener::bind(format!("/proc/self/fd/{}/supervisor.sock", folder.as_raw_fd()))?;
        let mut work = JoinSet::new();
        work.spawn(door);
        work.spawn(accept(Arc::clone(&shared), socket));
        work.spawn(tend(Arc::clone(&shared)));
        work.spawn(until_ended(Arc::clone(&shared), holder));
        Ok(Self { shared, _work: work })
    }

    /// What goes wrong from now on goes wrong.
    pub fn arm(&self) {
        self.shared.plan.arm();
    }

    /// What happens to the cluster from now on.
    pub fn begin(&self, part: String) {
        *lock(&self.shared.part) = part;
    }

    /// At how many turns of its conversations in this part the operator died.
    pub fn turns(&self, part: &str) -> usize {
        let words = format!(" in {part}, turn ");
        self.shared.plan.done().iter().filter(|done| done.contains(&words)).count()
    }

    /// How many deeds of different names there were, where the process dies at each.
    pub fn met(&self) -> usize {
        self.shared.plan.met()
    }

    /// Cuts the power of all machines, and switches them on again.
    pub async fn cut_power(&self) -> Result<()> {
        let mut machines = self.shared.machines.lock().await;
        self.shared.serves.send_replace(false);
        for machine in machines.values_mut() {
            machine.cut_power().await?;
        }
        Ok(())
    }

    /// Whether a machine's API server can be reached.
    pub fn serves(&self) -> bool {
        *self.shared.serves.borrow()
    }

    /// The names of the machines that run.
    pub async fn names(&self) -> Vec<String> {
        self.shared.machines.lock().await.values().map(|machine| machine.name.clone()).collect()
    }

    /// What there is of machines. Each was granted these two, and proves to its owner to be a member.
    pub async fn picture(&self, owner: &Identity, granted: &[Vec<u8>; 2]) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for machine in self.shared.machines.lock().await.values() {
            ensure!(machine.granted()? == *granted, "{} was granted other secrets", machine.name);
            ensure!(machine.is_member(owner, &granted[1]).await?, "{} is no member", machine.name);
            lines.push(format!("machine cut off {}", machine.cuts));
        }
        Ok(lines)
    }

    /// Whether all that was asked for could be done, and no node got two machines.
    pub fn fine(&self) -> Result<()> {
        let wrongs = lock(&self.shared.wrongs).clone();
        ensure!(wrongs.is_empty(), "{wrongs:#?}");
        let made = lock(&self.shared.made).clone();
        ensure!(made.values().all(|times| *times == 1), "machines by node: {made:?}");
        Ok(())
    }
}

impl Shared {
    fn note<T>(&self, done: Result<T>) {
        if let Err(error) = done {
            lock(&self.wrongs).push(format!("{error:#}"));
        }
    }

    async fn answer(&self, stream: UnixStream) {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        // Who looks whether the socket answers says nothing, and who dies no whole line.
        let whole = stream.read_line(&mut line).await.is_ok();
        let Some(request) = serde_json::from_str::<Value>(&line).ok().filter(|_| whole) else { return };
        if request["call"] == "dial" {
            return self.note(self.dial(stream, &request).await);
        }
        let effect = self.effect(&request).await;
        let fate = effect.map_or(Fate::Pass, |effect| self.plan.fate(&deed(), &effect));
        if fate == Fate::KillBefore {
            return self.process.kill();
        }
        let reply = match self.carry_out(&request).await {
            Ok(reply) => reply,
            Err(error) => return self.note::<()>(Err(error.context(line))),
        };
        if fate == Fate::KillAfter {
            return self.process.kill();
        }
        // Who asked may have died meanwhile.
        let _ = stream.write_all(format!("{reply}\n").as_bytes()).await;
    }

    /// A name for what a request changes; nothing where it changes nothing.
    async fn effect(&self, request: &Value) -> Option<String> {
        let machines = self.machines.lock().await;
        let name = |uid: &Value| machines.get(uid.as_str()?).map(|machine| machine.name.clone());
        match request["call"].as_str()? {
            "launch" => Some(format!("launch {}", request["vm"]["name"])),
            "targets" => {
                let names: Vec<_> = request["nodes"].as_array()?.iter().map(name).collect();
                Some(format!("lead to {names:?}"))
            }
            "terminate" => Some(format!("terminate {}", name(&request["node"])?)),
            _ => None,
        }
    }

    async fn carry_out(&self, request: &Value) -> Result<Value> {
        let done = json!({"answer": "done"});
        match request["call"].as_str().unwrap_or_default() {
            "find" => {
                let machines = self.machines.lock().await;
                let views: Vec<_> = machines.iter().map(|(uid, machine)| view(uid, machine)).collect();
                Ok(json!({"answer": "vms", "vms": views}))
            }
            "launch" => self.launch(&request["vm"]).await,
            "ping" => Ok(done),
            "targets" => {
                *lock(&self.targets) = serde_json::from_value(request["nodes"].clone())?;
                Ok(done)
            }
            "terminate" => {
                let node = request["node"].as_str().context("a node has a uid")?;
                let there = self.machines.lock().await.remove(node).is_some();
                let refused = json!({"answer": "refused", "kind": "notFound", "message": format!("VM of node {node}")});
                Ok(if there { done } else { refused })
            }
            other => bail!("nobody asks a supervisor to {other}"),
        }
    }

    async fn launch(&self, vm: &Value) -> Result<Value> {
        let text = |member: &str| vm[member].as_str().with_context(|| format!("a VM has {member}"));
        let (uid, name) = (text("node")?, text("name")?);
        let mut machines = self.machines.lock().await;
        if !machines.contains_key(uid) {
            let index =
                vm["index"].as_u64().and_then(|index| u8::try_from(index + 10).ok()).context("a small number")?;
            let address = SocketAddr::from(([127, 0, 0, index], self.port));
            let launch = STANDARD.decode(text("launchConfig")?)?;
            let peers: Vec<_> = machines.values().filter_map(Machine::verifier).collect();
            let tpm = Swtpm::start_like(&self.maker)?;
            let machine = Machine::boot((uid, name), address, launch, tpm, &self.plane, &peers).await?;
            machines.insert(uid.to_owned(), machine);
            *lock(&self.made).entry(uid.to_owned()).or_default() += 1;
        }
        Ok(json!({"answer": "vms", "vms": [view(uid, &machines[uid])]}))
    }

    async fn dial(&self, mut stream: BufReader<UnixStream>, request: &Value) -> Result<()> {
        let address: SocketAddr = serde_json::from_value(request["address"].clone())?;
        let found = {
            let machines = self.machines.lock().await;
            let found = machines.values().find(|machine| machine.address().ip() == address.ip());
            found.map(|machine| (machine.address(), format!("tell {} in {}", machine.name, lock(&self.part))))
        };
        let connected = match &found {
            Some((address, _)) => TcpStream::connect(address).await.ok(),
            None => None,
        };
        let (Some((_, words)), Some(machine)) = (found, connected) else {
            let refused = json!({"answer": "refused", "kind": "transient", "message": "nobody answers there"});
            let _ = stream.write_all(format!("{refused}\n").as_bytes()).await;
            return Ok(());
        };
        if stream.write_all(b"{\"answer\":\"done\"}\n").await.is_ok() {
            // An error ends both sides, which is all there is to do.
            let _ = relay(stream, machine, &words, &self.plan, &self.process).await;
        }
        Ok(())
    }

    async fn tend(&self) -> Result<()> {
        let (mut serves, targets) = (false, lock(&self.targets).clone());
        for (uid, machine) in self.machines.lock().await.iter_mut().filter(|(_, machine)| machine.serves()) {
            machine.tend(&self.plane, &self.client).await?;
            serves |= targets.contains(uid);
        }
        self.serves.send_if_modified(|before| std::mem::replace(before, serves) != serves);
        Ok(())
    }
}

async fn accept(shared: Arc<Shared>, socket: UnixListener) {
    loop {
        let Ok((stream, _)) = socket.accept().await else { continue };
        let shared = Arc::clone(&shared);
        // What was begun is done, though whoever asked for it dies meanwhile.
        tokio::spawn(async move { shared.answer(stream).await });
    }
}

/// Does what machines do by themselves, for ever.
async fn tend(shared: Arc<Shared>) {
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        shared.note(shared.tend().await);
    }
}

/// All machines end with the process that holds the lock, which only the operator ends.
async fn until_ended(shared: Arc<Shared>, mut holder: Child) {
    shared.note(holder.wait().await.map_err(Into::into));
    shared.machines.lock().await.clear();
    shared.serves.send_replace(false);
    if shared.plan.fate(&deed(), "end the host's part") != Fate::Pass {
        shared.process.kill();
    }
}

/// A process that works in the cluster's folder and holds its lock.
fn holder(dir: &Path) -> Result<Child> {
    let lock = fs::File::options().create(true).append(true).open(dir.join("supervisor.lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let holder = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "sleep", "infinity"])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(lock)
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    fs::write(dir.join("supervisor.pid"), holder.id().context("it runs")?.to_string())?;
    Ok(holder)
}

fn view(uid: &str, machine: &Machine) -> Value {
    json!({"node": uid, "address": machine.address().ip(), "state": "running", "message": null})
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
