//! The node's identity and state: TPM, keys of this boot, launch configuration, and whether it is in yet.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_attestation::{
    appraise::{LaunchRegister, pcr15_after_join, pcr15_before_join},
    boot::BootSecrets,
    collect::Tpm,
    protocol::{
        ClusterSettings, Hello, InitRequest, LaunchConfig, NodeSettings, Progress, Purpose, RecoverKey, Role, Ticket,
    },
    session,
    told::chain,
};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::{
    error::Error,
    host::Host,
    plan::{self, Facts, HOME, MEMBER},
    progress::Log,
};

/// The administrator's kubeconfig, made by kubeadm.
const ADMIN: &str = "/etc/kubernetes/admin.conf";

/// Whether the node is in yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It failed before it was a member; it must be replaced.
    Failed,
    /// It belongs to a cluster.
    Member,
    /// Nobody has admitted it yet, or what was granted couldn't be carried out by a member that returns.
    Waiting,
    /// It carries out what was granted.
    Working,
}

/// What was granted.
pub enum Grant {
    /// By the owner: be the first.
    Init(InitRequest),
    /// By a verifier.
    Join(Ticket),
    /// By the owner, while no verifier was up.
    Recover(RecoverKey),
}

impl Grant {
    /// The cluster's identity.
    fn cluster_id(&self) -> Result<[u8; 32], Error> {
        let id = match self {
            Self::Init(grant) => &grant.cluster_id,
            Self::Join(grant) => &grant.cluster_id,
            Self::Recover(grant) => &grant.cluster_id,
        };
        id.as_slice().try_into().map_err(|_| Error::State("the cluster's identity isn't 32 bytes".into()))
    }
}

/// The node.
pub struct Machine {
    /// The TPM; it has one thing to do at a time.
    pub tpm: Mutex<Tpm>,
    /// The keys of this boot.
    pub secrets: BootSecrets,
    /// The launch configuration, parsed.
    pub launch: LaunchConfig,
    /// Its bytes, as measured.
    pub launch_bytes: Vec<u8>,
    /// The owner's public key, SPKI, DER.
    pub owner_spki: Vec<u8>,
    /// The node's address.
    pub address: String,
    /// What acts on the machine.
    pub host: Host,
    log: Mutex<Log>,
    state: watch::Sender<State>,
}

impl Machine {
    /// Measures the launch configuration into PCR 15, or recognises that this was done before the process was restarted.
    ///
    /// # Errors
    /// [`Error::Register`] when PCR 15 holds anything else.
    pub fn measure(
        mut tpm: Tpm,
        secrets: BootSecrets,
        launch_bytes: Vec<u8>,
        launch: LaunchConfig,
        address: String,
        simulated: Option<PathBuf>,
    ) -> Result<Arc<Self>, Error> {
        let owner_spki = STANDARD
            .decode(&launch.owner_public_key)
            .ok()
            .filter(|spki| !spki.is_empty())
            .ok_or_else(|| Error::Launch("names no owner".into()))?;
        if launch.cluster_uid.is_empty() || launch.node_uid.is_empty() || launch.node_name.is_empty() {
            return Err(Error::Launch("lacks a name".into()));
        }
        let host = simulated.map_or(Host::Real, Host::Simulated);
        let before = pcr15_before_join(&launch_bytes);
        let register = tpm.read_pcr15()?;
        let state = if register == LaunchRegister::ZERO.of(tpm.bank()) {
            tpm.extend_pcr15(&Sha256::digest(&launch_bytes).into())?;
            State::Waiting
        } else if register == before.of(tpm.bank()) {
            State::Waiting
        } else {
            let id = std::fs::read(match &host {
                Host::Real => PathBuf::from(format!("{HOME}/cluster-id")),
                Host::Simulated(root) => root.join(format!("{HOME}/cluster-id").trim_start_matches('/')),
            })
            .unwrap_or_default();
            if id.len() != 32 || register != pcr15_after_join(&before, &id).of(tpm.bank()) {
                return Err(Error::Register(hex::encode(register)));
            }
            State::Member
        };
        let log = Log::default();
        if state == State::Member {
            // An owner that lost its connection comes again, also after this process was restarted. A worker has none.
            let kubeconfig = host.read(ADMIN).unwrap_or_default();
            log.end(Progress::Done { kubeconfig: kubeconfig.to_string() });
        }
        let state = watch::Sender::new(state);
        let (tpm, log) = (Mutex::new(tpm), Mutex::new(log));
        Ok(Arc::new(Self { tpm, secrets, launch, launch_bytes, owner_spki, address, host, log, state }))
    }

    /// Whether the node is in yet.
    #[must_use]
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Waits until the node is a member.
    pub async fn member(&self) {
        self.until(|state| state == State::Member).await;
    }

    /// Waits until no grant is being carried out; gives whether one is still wanted.
    pub async fn wants_grant(&self) -> bool {
        self.until(|state| state != State::Working).await == Some(State::Waiting)
    }

    async fn until(&self, wanted: impl Fn(State) -> bool) -> Option<State> {
        // The sender lives in `self`, so waiting can't fail.
        self.state.subscribe().wait_for(|state| wanted(*state)).await.ok().map(|state| *state)
    }

    /// What it does for the grant that was claimed last.
    #[must_use]
    pub fn log(&self) -> Log {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How the node presents itself. Nothing in it is secret.
    pub fn hello(&self, purpose: Purpose) -> Result<Hello, Error> {
        let (endorsement, ak_public) = self.with_tpm(|tpm| (tpm.endorsement(), tpm.ak_public()));
        let (ek_certificate, ek_public) = endorsement?;
        Ok(Hello {
            purpose,
            node_uid: self.launch.node_uid.clone(),
            cluster_uid: self.launch.cluster_uid.clone(),
            address: self.address.clone(),
            keys: self.secrets.keys(),
            ek_certificate,
            ek_public,
            ak_public,
        })
    }

    /// Has the TPM do something, when it is free.
    fn with_tpm<T>(&self, work: impl FnOnce(&mut Tpm) -> T) -> T {
        session::blocking(|| work(&mut self.tpm.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Takes the node for one grant, whose progress begins anew; whoever comes second is told no.
    #[must_use]
    pub fn claim(&self) -> bool {
        self.state.send_if_modified(|state| {
            let free = *state == State::Waiting;
            if free {
                *state = State::Working;
                // Before the state is seen: who comes second follows this one.
                *self.log.lock().unwrap_or_else(PoisonError::into_inner) = Log::default();
            }
            free
        })
    }

    /// Carries out a grant to its end. Call only after [`Machine::claim`].
    ///
    /// A new node that fails while it joins ends its machine, which its owner sees and replaces. One that failed at the
    /// owner's hand stays, for the owner is listening. One that may hold a member's data waits for the next grant: what
    /// failed may be well then, and nothing is lost meanwhile.
    pub async fn carry_out(&self, grant: Grant) {
        let log = self.log();
        let opened = self.open(&grant, &log).await;
        // Recovering gives no node up, and only what was looked into is known to be empty.
        let hopeless = matches!(opened, Ok(false) | Err(Error::ForeignDisk(_))) && !matches!(grant, Grant::Recover(_));
        let joins = matches!(grant, Grant::Join(_));
        let done = match opened {
            Ok(member) => self.work(grant, member, &log).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(kubeconfig) => {
                self.state.send_replace(State::Member);
                log.end(Progress::Done { kubeconfig: kubeconfig.to_string() });
            }
            Err(error) => {
                if hopeless {
                    tracing::error!(error = %chain(&error), "Joining failed; the node must be replaced");
                    self.state.send_replace(State::Failed);
                } else {
                    tracing::error!(error = %chain(&error), "Returning failed; it is tried again");
                    self.state.send_replace(State::Waiting);
                }
                log.end(Progress::Failed { message: error.to_string() });
                if hopeless && joins {
                    self.host.power_off().await;
                }
            }
        }
    }

    /// Opens the state disk; gives whether it holds a member's data.
    async fn open(&self, grant: &Grant, log: &Log) -> Result<bool, Error> {
        grant.cluster_id()?;
        let (key, node) = match grant {
            Grant::Init(grant) => (&grant.disk_key, Some(&grant.node)),
            Grant::Join(grant) => (&grant.disk_key, Some(&grant.node)),
            Grant::Recover(grant) => (&grant.disk_key, None),
        };
        node.map_or(Ok(()), NodeSettings::validate)?;
        let integrity = node.map(|node| node.disk_integrity);
        self.host.apply(&plan::disk(integrity), &Zeroizing::new(key.clone()), log).await?;
        self.host.exists(MEMBER)
    }

    async fn work(&self, grant: Grant, member: bool, log: &Log) -> Result<Zeroizing<String>, Error> {
        let id = grant.cluster_id()?;
        let facts = Facts { address: &self.address, member };
        let role = self.launch.role;
        let plan = match &grant {
            Grant::Init(grant) => plan::init(grant, &self.launch_bytes, facts),
            Grant::Join(ticket) => plan::join(ticket, role, &self.secrets.kubelet_key_pem(), &self.launch_bytes, facts),
            Grant::Recover(_) if !member => return Err(Error::NothingToRecover),
            Grant::Recover(_) => {
                let (node, cluster) = self.settings()?;
                plan::recover(&node, &cluster, role, &self.address)
            }
        };
        self.host.apply(&plan, &Zeroizing::default(), log).await?;
        let kubeconfig = match grant {
            Grant::Init(_) => self.host.read(ADMIN)?,
            _ => Zeroizing::default(),
        };
        // Of others' mesh it is a part since its admission. A member that is started again asks nobody, and is told by its
        // device which key they know.
        if self.settings()?.1.mesh
            && let Err(error) = self.host.hold_key(&self.secrets).await
        {
            tracing::warn!(%error, "The tunnel's device has no key yet");
        }
        // Last: from here on the node is a member, also to a process that is started again.
        self.with_tpm(|tpm| tpm.extend_pcr15(&id))?;
        Ok(kubeconfig)
    }

    /// Starts what only members run, as soon as this node is one.
    ///
    /// # Errors
    /// [`Error::Command`] when it can't be started.
    pub async fn start_member(&self) -> Result<(), Error> {
        self.member().await;
        self.host.apply(&plan::member(self.launch.role), &Zeroizing::default(), &self.log()).await
    }

    /// What the node was told about itself and its cluster; only a member knows.
    pub fn settings(&self) -> Result<(NodeSettings, ClusterSettings), Error> {
        let parse = |e: serde_json::Error| Error::State(format!("our own files can't be read: {e}"));
        let node = serde_json::from_str(&self.host.read(&format!("{HOME}/node.json"))?).map_err(parse)?;
        let cluster = serde_json::from_str(&self.host.read(&format!("{HOME}/cluster.json"))?).map_err(parse)?;
        Ok((node, cluster))
    }

    /// Whether the node is to run the control plane.
    #[must_use]
    pub fn is_control_plane(&self) -> bool {
        self.launch.role == Role::ControlPlane
    }
}
