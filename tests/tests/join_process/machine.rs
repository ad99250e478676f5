//! A machine without a VM: a software TPM whose PCRs say what it booted, and the node's half of the conversation.

use std::{fs, net::SocketAddr};

use anyhow::Result;
use constellation_attestation::{
    binding::VerifierRole,
    boot::BootSecrets,
    channel::{self, Channel, Trust},
    collect::{AttestationKey, Tpm},
    protocol::{Evidence, Hello, LaunchConfig, Purpose, Request, Ticket, Verdict},
    session::{self, Attester, BoxError},
};
use constellation_tests::{
    agent::{IMAGE, extend, tool},
    swtpm::Swtpm,
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// Where Azure keeps the key that [`AttestationKey::Azure`] quotes with: any key can be put there.
const AZURES: &str = "0x81000003";
/// No file: a firmware without an event log.
const NO_LOG: &str = "/nonexistent/event-log";

/// A machine that was booted.
pub struct Machine {
    pub launch: LaunchConfig,
    pub secrets: BootSecrets,
    pub tpm: Tpm,
    swtpm: Swtpm,
}

impl Machine {
    /// Boots the good image with this launch configuration.
    pub fn boot(launch: &LaunchConfig) -> Result<Self> {
        let swtpm = Swtpm::start()?;
        let tpm = measure(&swtpm, &IMAGE, &launch.to_bytes())?;
        Ok(Self { launch: launch.clone(), secrets: BootSecrets::generate()?, tpm, swtpm })
    }

    /// As [`Machine::boot`], with a TPM of the same make and keys as another machine's.
    pub fn boot_like(other: &Self, launch: &LaunchConfig) -> Result<Self> {
        Self::boot_like_measuring(other, launch, &IMAGE)
    }

    /// As [`Machine::boot_like`], of any image.
    pub fn boot_like_measuring(other: &Self, launch: &LaunchConfig, image: &[(u8, [u8; 32])]) -> Result<Self> {
        let swtpm = Swtpm::start_like(&other.swtpm)?;
        let tpm = measure(&swtpm, image, &launch.to_bytes())?;
        Ok(Self { launch: launch.clone(), secrets: BootSecrets::generate()?, tpm, swtpm })
    }

    /// The same machine, which quotes with another key of its TPM: one with this scheme and these attributes, in tpm2-tools'
    /// words.
    pub fn with_key(self, scheme: &str, attributes: &str) -> Result<Self> {
        let Self { launch, secrets, tpm, swtpm } = self;
        drop(tpm);
        let (folder, tcti) = (tempfile::tempdir()?, swtpm.tcti());
        let key = folder.path().join("key").display().to_string();
        let algorithm = format!("ecc256:{scheme}:null");
        let template = ["-C", "e", "-G", &algorithm, "-g", "sha256"];
        tool(&tcti, "tpm2_createprimary", &[template.as_slice(), &["-a", attributes, "-c", &key]].concat())?;
        tool(&tcti, "tpm2_evictcontrol", &["-C", "o", "-c", &key, AZURES])?;
        tool(&tcti, "tpm2_flushcontext", &["--transient-object"])?;
        let mut tpm = Tpm::open_with(&tcti, AttestationKey::Azure)?;
        tpm.set_event_log(NO_LOG);
        Ok(Self { launch, secrets, tpm, swtpm })
    }

    /// Its TPM, which quotes a bank with the key of [`Machine::with_key`] and the hash of that key's scheme.
    pub fn by_hand(self, bank: &'static str, hash: &'static str) -> ByHand {
        ByHand { tpm: Some(self.tpm), swtpm: self.swtpm, bank, hash }
    }

    /// The same machine after a power cycle: same TPM, fresh PCRs and keys.
    pub fn reboot(self) -> Result<Self> {
        let Self { launch, tpm, mut swtpm, .. } = self;
        drop(tpm);
        swtpm.reboot()?;
        let tpm = measure(&swtpm, &IMAGE, &launch.to_bytes())?;
        Ok(Self { launch, secrets: BootSecrets::generate()?, tpm, swtpm })
    }

    /// The TPM's state as it is now, for [`Machine::reboot_from`].
    pub fn copy_of_tpm(&self) -> Result<TempDir> {
        self.swtpm.copy()
    }

    /// As [`Machine::reboot`], with the TPM's state put back to an earlier one.
    pub fn reboot_from(mut self, earlier: &TempDir) -> Result<Self> {
        self.swtpm.put_back(earlier)?;
        self.reboot()
    }

    /// Who endorses its TPM.
    pub fn endorsement_roots(&self) -> Result<Vec<String>> {
        self.swtpm.endorsement_roots()
    }

    /// The owner in the launch configuration.
    pub fn owner_spki(&self) -> Vec<u8> {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        STANDARD.decode(&self.launch.owner_public_key).expect("the launch configuration is ours")
    }

    pub fn hello(&mut self, purpose: Purpose) -> Result<Hello> {
        Ok(Hello {
            purpose,
            node_uid: self.launch.node_uid.clone(),
            cluster_uid: self.launch.cluster_uid.clone(),
            address: "127.0.0.1".to_owned(),
            keys: self.secrets.keys(),
            ek_certificate: self.tpm.ek_certificate()?,
            ek_public: self.tpm.ek_public(),
            ak_public: self.tpm.ak_public(),
        })
    }

    /// Joins like an honest node.
    pub async fn join(&mut self, verifier: SocketAddr) -> Result<Ticket, session::Error> {
        self.join_altered(verifier, |_| {}, |_| {}).await
    }

    /// Joins, with something changed in the Hello or in the evidence.
    pub async fn join_altered(
        &mut self,
        verifier: SocketAddr,
        hello: impl Fn(&mut Hello),
        evidence: impl Fn(&mut Evidence) + Send + Sync,
    ) -> Result<Ticket, session::Error> {
        let (verdict, binding) = self.converse(verifier, hello, evidence).await?;
        session::unseal(&verdict, &binding, &self.secrets.opener)
    }

    /// Everything up to the verdict.
    pub async fn converse(
        &mut self,
        verifier: SocketAddr,
        change: impl Fn(&mut Hello),
        evidence: impl Fn(&mut Evidence) + Send + Sync,
    ) -> Result<(Verdict, [u8; 32]), session::Error> {
        let mut hello = self.hello(Purpose::Join).expect("the TPM gives its certificate");
        change(&mut hello);
        let mut channel = self.connect(verifier).await?;
        channel.send(&hello).await?;
        let mut attester = Altered { tpm: &mut self.tpm, change: &evidence };
        session::prove(&mut channel, &hello, VerifierRole::Cluster, &mut attester).await
    }

    /// Answers a caller as a bootstrapper does, but with evidence for `shown` whatever it is asked for.
    pub async fn answer(&mut self, stream: TcpStream, shown: Purpose) -> Result<(Verdict, [u8; 32]), session::Error> {
        let mut channel = channel::node_accept(stream, &self.secrets.identity, &self.owner_spki()).await?;
        let role = match channel.peer_trust() {
            Some(Trust::Verifier) => VerifierRole::Cluster,
            _ => VerifierRole::Owner,
        };
        let Request { purpose } = channel.receive().await?;
        let hello = self.hello(purpose).expect("the TPM gives its certificate");
        channel.send(&hello).await?;
        session::prove(&mut channel, &Hello { purpose: shown, ..hello }, role, &mut self.tpm).await
    }

    pub async fn connect(&self, verifier: SocketAddr) -> Result<Channel<TcpStream>, channel::Error> {
        let stream = TcpStream::connect(verifier).await.map_err(channel::Error::Io)?;
        channel::node_connect(stream, &self.secrets.identity, &self.owner_spki()).await
    }
}

/// A TPM whose evidence is changed on its way.
pub struct Altered<'a, F> {
    pub tpm: &'a mut Tpm,
    pub change: &'a F,
}

impl<F: Fn(&mut Evidence) + Send + Sync> Attester for Altered<'_, F> {
    fn activate(&mut self, credential: &[u8], secret: &[u8]) -> Result<Vec<u8>, BoxError> {
        self.tpm.activate(credential, secret)
    }

    fn evidence(&mut self, binding: &[u8; 32], activated: Vec<u8>) -> Result<Evidence, BoxError> {
        let mut evidence = self.tpm.evidence(binding, activated)?;
        (self.change)(&mut evidence);
        Ok(evidence)
    }
}

/// A TPM in the hands of tpm2-tools, which have it quote any bank with any hash. The values that are shown are those of the
/// SHA-256 bank.
pub struct ByHand {
    /// Nothing while it quotes: a TPM has one client at a time.
    tpm: Option<Tpm>,
    swtpm: Swtpm,
    bank: &'static str,
    hash: &'static str,
}

impl Attester for ByHand {
    fn activate(&mut self, credential: &[u8], secret: &[u8]) -> Result<Vec<u8>, BoxError> {
        self.tpm.as_mut().ok_or("it has quoted already")?.activate(credential, secret)
    }

    fn evidence(&mut self, binding: &[u8; 32], activated: Vec<u8>) -> Result<Evidence, BoxError> {
        self.tpm = None;
        let (folder, tcti) = (tempfile::tempdir()?, self.swtpm.tcti());
        let [quote, signature, values] =
            ["quote", "signature", "values"].map(|name| folder.path().join(name).display().to_string());
        let registers = (0..16).map(|register| register.to_string()).collect::<Vec<_>>().join(",");
        tool(&tcti, "tpm2_pcrread", &[&format!("sha256:{registers}"), "-o", &values])?;
        let (quoted, data) = (format!("{}:{registers}", self.bank), hex::encode(binding));
        let what = ["-c", AZURES, "-l", &quoted, "-q", &data, "-g", self.hash];
        tool(&tcti, "tpm2_quote", &[what.as_slice(), &["-m", &quote, "-s", &signature]].concat())?;
        let (quote, signature, pcrs) = (fs::read(quote)?, fs::read(signature)?, fs::read(values)?);
        Ok(Evidence { quote, signature, pcrs, event_log: Vec::new(), activated, machine: None })
    }
}

/// Quotes with one TPM and shows another one's certificate.
pub struct Borrowed<'a> {
    pub endorsed: &'a mut Tpm,
    pub signer: &'a mut Tpm,
}

impl Attester for Borrowed<'_> {
    fn activate(&mut self, credential: &[u8], secret: &[u8]) -> Result<Vec<u8>, BoxError> {
        // The credential is for the other TPM's key, so this one doesn't open it; all that is left is a guess.
        Ok(self.endorsed.activate(credential, secret).unwrap_or_else(|_| vec![0; 32]))
    }

    fn evidence(&mut self, binding: &[u8; 32], activated: Vec<u8>) -> Result<Evidence, BoxError> {
        self.signer.evidence(binding, activated)
    }
}

/// What firmware and bootstrapper do before the first conversation.
fn measure(swtpm: &Swtpm, image: &[(u8, [u8; 32])], launch: &[u8]) -> Result<Tpm> {
    for (register, digest) in image {
        extend(swtpm, *register, digest)?;
    }
    let mut tpm = Tpm::open(&swtpm.tcti())?;
    tpm.set_event_log(NO_LOG);
    tpm.extend_pcr15(&Sha256::digest(launch).into())?;
    Ok(tpm)
}
