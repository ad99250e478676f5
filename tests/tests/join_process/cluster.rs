//! One API server for all tests of this program, with the certificates that kubeadm would have made.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use constellation_crds::{NodeAdmission, TrustBundle};
use constellation_operator::init::install;
use constellation_tests::{
    controlplane::{self, Options},
    swtpm::alone,
};
use k8s_openapi::{
    api::core::v1::ConfigMap, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, CustomResourceExt as _,
    api::{ListParams, PostParams},
};
use serde_json::json;

/// What kubeadm would have written for the kubelets.
pub const KUBELET_CONFIG: &str = "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\n";

/// New definitions are served within a second; a loaded box may take longer.
const SERVED: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);

/// The running control plane.
pub struct ControlPlane {
    pki: PathBuf,
    url: String,
}

impl ControlPlane {
    /// The one of this program, started by whoever asks first.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<ControlPlane> = OnceLock::new();
        SHARED.get_or_init(|| {
            let (ready, started) = mpsc::channel();
            // The programs die with the thread that started them, so it lives as long as this program.
            thread::spawn(move || match start() {
                Ok((control_plane, _running)) => {
                    let _ = ready.send(Ok(control_plane));
                    loop {
                        thread::park();
                    }
                }
                Err(error) => drop(ready.send(Err(error))),
            });
            started.recv().expect("the thread sends").expect("the control plane starts")
        })
    }

    /// kubeadm's folder of certificates and keys.
    pub fn pki(&self) -> &Path {
        &self.pki
    }

    /// A kubeconfig of the user whose certificate has this name in our folder.
    pub fn kubeconfig(&self, name: &str) -> String {
        self.kubeconfig_of(&self.pki.join(format!("{name}.crt")), &self.pki.join(format!("{name}.key")))
    }

    /// A kubeconfig of whoever has this certificate and key.
    pub fn kubeconfig_of(&self, certificate: &Path, key: &Path) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": {
                "server": self.url,
                "certificate-authority": self.pki.join("ca.crt"),
            }}],
            "users": [{ "name": "test", "user": { "client-certificate": certificate, "client-key": key } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        })
        .to_string()
    }

    /// A client that uses this kubeconfig.
    pub async fn client(&self, kubeconfig: &str) -> Result<Client> {
        Ok(Client::try_from(controlplane::config(kubeconfig).await?)?)
    }
}

fn start() -> Result<(ControlPlane, controlplane::ControlPlane)> {
    // Below the target folder, so that a killed run leaves nothing elsewhere; each run starts over.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("join-process");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let pki = folder.join("pki");
    certificates(&pki)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let running = controlplane::ControlPlane::start_with(&Options { dir: Some(folder), audit_log: None }).await?;
        let control_plane = ControlPlane { pki, url: running.url() };
        prepare(&running.client().await?).await?;
        Ok((control_plane, running))
    })
}

/// Installs what the operator installs.
async fn prepare(client: &Client) -> Result<()> {
    let params = PostParams::default();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in [NodeAdmission::crd(), TrustBundle::crd()] {
        definitions.create(&params, &definition).await?;
    }
    let config: ConfigMap = serde_json::from_value(json!({
        "metadata": { "name": "kubelet-config" }, "data": { "kubelet": KUBELET_CONFIG },
    }))?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let (nodes, bundles): (Api<NodeAdmission>, Api<TrustBundle>) = (Api::all(client.clone()), Api::all(client.clone()));
    let begun = Instant::now();
    while begun.elapsed() < SERVED {
        // The namespace comes a moment after the API server.
        let there = maps.create(&params, &config).await.is_ok() || maps.get("kubelet-config").await.is_ok();
        let all = ListParams::default();
        // The product's own rights, so that these tests fail when a verifier needs more.
        if there
            && install::grant(client).await.is_ok()
            && nodes.list(&all).await.is_ok()
            && bundles.list(&all).await.is_ok()
        {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    bail!("the definitions aren't served");
}

/// As kubeadm with `encryptionAlgorithm: ECDSA-P256` does it: keys in SEC1 form. Also under the harness's names.
fn certificates(pki: &Path) -> Result<()> {
    fs::create_dir_all(pki.join("etcd"))?;
    for (name, subject) in [("ca", "kubernetes"), ("front-proxy-ca", "front-proxy-ca"), ("etcd/ca", "etcd-ca")] {
        openssl(pki, &format!("ecparam -name prime256v1 -genkey -noout -out {name}.key"))?;
        openssl(pki, &format!("req -x509 -new -key {name}.key -subj /CN={subject} -days 30 -out {name}.crt"))?;
    }
    openssl(pki, "ecparam -name prime256v1 -genkey -noout -out sa.key")?;
    openssl(pki, "ec -in sa.key -pubout -out sa.pub")?;
    for half in ["key", "pub"] {
        fs::copy(pki.join(format!("sa.{half}")), pki.join(format!("service-account.{half}")))?;
    }
    let server = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n";
    let client = "extendedKeyUsage=clientAuth\n";
    for (name, subject, extensions) in [
        ("serving", "/CN=kube-apiserver", server),
        ("admin", "/O=system:masters/CN=admin", client),
        ("verifier", "/CN=constellation:verifier", client),
    ] {
        fs::write(pki.join("extensions"), extensions)?;
        openssl(pki, &format!("ecparam -name prime256v1 -genkey -noout -out {name}.key"))?;
        openssl(pki, &format!("req -new -key {name}.key -subj {subject} -out {name}.csr"))?;
        let signed = "-CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile extensions";
        openssl(pki, &format!("x509 -req -in {name}.csr {signed} -out {name}.crt"))?;
    }
    // The harness takes a folder with this file as it is.
    Ok(fs::write(pki.join("complete"), "")?)
}

fn openssl(folder: &Path, arguments: &str) -> Result<()> {
    let output = alone::command("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .context("openssl isn't installed")?;
    ensure!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Starts a program that dies with the thread that started it.
pub fn spawn(program: &Path, log: &Path, arguments: &[String]) -> Result<Child> {
    spawn_in(program, log, arguments, &[])
}

/// As [`spawn`], with more in its environment.
pub fn spawn_in(program: &Path, log: &Path, arguments: &[String], environment: &[(&str, String)]) -> Result<Child> {
    let log = fs::File::create(log)?;
    alone::command("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(program)
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))
}

pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
