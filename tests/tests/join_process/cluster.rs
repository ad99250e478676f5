//! One etcd and one API server for all tests of this program, with the certificates that kubeadm would have made.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use constellation_crds::{NodeAdmission, TrustBundle};
use k8s_openapi::{
    api::{
        core::v1::ConfigMap,
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, CustomResourceExt as _,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

pub const ADMIN: &str = "admin-token";
pub const VERIFIER: &str = "verifier-token";
/// What kubeadm would have written for the kubelets.
pub const KUBELET_CONFIG: &str = "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\n";

/// A debug API server on a loaded box; locally it is up in five seconds.
const START: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// The running control plane.
pub struct ControlPlane {
    folder: PathBuf,
    port: u16,
}

impl ControlPlane {
    /// The one of this program, started by whoever asks first.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<ControlPlane> = OnceLock::new();
        SHARED.get_or_init(|| {
            let (ready, started) = mpsc::channel();
            // The programs die with the thread that started them, so it lives as long as this program.
            thread::spawn(move || {
                let started = start();
                let _ = ready.send(started.map(|(control_plane, children)| {
                    std::mem::forget(children);
                    control_plane
                }));
                loop {
                    thread::park();
                }
            });
            started.recv().expect("the thread sends").expect("the control plane starts")
        })
    }

    /// kubeadm's folder of certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.folder.join("pki")
    }

    /// A kubeconfig for a user with a token.
    pub fn kubeconfig(&self, token: &str) -> String {
        self.kubeconfig_for(&json!({ "token": token }))
    }

    /// A kubeconfig for whoever `user` describes.
    pub fn kubeconfig_for(&self, user: &serde_json::Value) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority": self.pki().join("ca.crt"),
            }}],
            "users": [{ "name": "test", "user": user }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        })
        .to_string()
    }

    /// A client that uses this kubeconfig.
    pub async fn client(&self, kubeconfig: &str) -> Result<Client> {
        let kubeconfig = Kubeconfig::from_yaml(kubeconfig)?;
        Ok(Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)?)
    }
}

fn start() -> Result<(ControlPlane, [Child; 2])> {
    // Below the target folder, so that a killed run leaves nothing elsewhere; each run starts over.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("join-process");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let pki = folder.join("pki");
    certificates(&pki)?;
    let programs = programs()?;
    let (etcd_port, peer_port, port) = (free_port()?, free_port()?, free_port()?);
    let (client_url, peer_url) = (format!("http://127.0.0.1:{etcd_port}"), format!("http://127.0.0.1:{peer_port}"));
    let etcd = spawn(&programs.join("etcd"), &folder.join("etcd.log"), &[
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={client_url}"),
        format!("--advertise-client-urls={client_url}"),
        format!("--listen-peer-urls={peer_url}"),
        format!("--initial-advertise-peer-urls={peer_url}"),
        format!("--initial-cluster=default={peer_url}"),
        "--unsafe-no-fsync".to_owned(),
    ])?;
    let tokens = folder.join("tokens");
    fs::write(&tokens, format!("{ADMIN},admin,1,\"system:masters\"\n{VERIFIER},constellation:verifier,2\n"))?;
    let file = |name: &str| pki.join(name).display().to_string();
    let mut api = spawn(&programs.join("kube-apiserver"), &folder.join("apiserver.log"), &[
        format!("--etcd-servers={client_url}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        format!("--tls-cert-file={}", file("apiserver.crt")),
        format!("--tls-private-key-file={}", file("apiserver.key")),
        format!("--client-ca-file={}", file("ca.crt")),
        format!("--service-account-key-file={}", file("sa.pub")),
        format!("--service-account-signing-key-file={}", file("sa.key")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--token-auth-file={}", tokens.display()),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
    ])?;
    let control_plane = ControlPlane { folder, port };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(prepare(&control_plane, &mut api))?;
    Ok((control_plane, [etcd, api]))
}

/// Waits until it is ready and installs what the operator installs.
async fn prepare(control_plane: &ControlPlane, api: &mut Child) -> Result<()> {
    let client = control_plane.client(&control_plane.kubeconfig(ADMIN)).await?;
    let begun = Instant::now();
    loop {
        let readyz = http_get("/readyz");
        if client.request_text(readyz).await.is_ok_and(|text| text == "ok") {
            break;
        }
        ensure!(api.try_wait()?.is_none(), "the API server ended, see {}", control_plane.folder.display());
        ensure!(begun.elapsed() < START, "the API server isn't ready, see {}", control_plane.folder.display());
        tokio::time::sleep(POLL).await;
    }
    let params = PostParams::default();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in [NodeAdmission::crd(), TrustBundle::crd()] {
        definitions.create(&params, &definition).await?;
    }
    let (role, binding) = permissions()?;
    Api::<ClusterRole>::all(client.clone()).create(&params, &role).await?;
    Api::<ClusterRoleBinding>::all(client.clone()).create(&params, &binding).await?;
    let config: ConfigMap = serde_json::from_value(json!({
        "metadata": { "name": "kubelet-config" }, "data": { "kubelet": KUBELET_CONFIG },
    }))?;
    while begun.elapsed() < START {
        // The namespace comes a moment after the API server.
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
        let admissions: Api<NodeAdmission> = Api::all(client.clone());
        if maps.create(&params, &config).await.is_err() && maps.get("kubelet-config").await.is_err() {
            tokio::time::sleep(POLL).await;
            continue;
        }
        if admissions.list(&kube::api::ListParams::default()).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    bail!("the definitions aren't served");
}

/// Exactly what the verifier needs, so that these tests fail when it needs more.
fn permissions() -> Result<(ClusterRole, ClusterRoleBinding)> {
    let role = serde_json::from_value(json!({
        "metadata": { "name": "constellation:verifier" },
        "rules": [
            { "apiGroups": ["constellation.dev"], "resources": ["nodeadmissions"], "verbs": ["get", "list"] },
            { "apiGroups": ["constellation.dev"], "resources": ["nodeadmissions/status"], "verbs": ["update"] },
            { "apiGroups": ["constellation.dev"], "resources": ["trustbundles"], "verbs": ["get"] },
            { "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["kubelet-config"], "verbs": ["get"] },
        ],
    }))?;
    let binding = serde_json::from_value(json!({
        "metadata": { "name": "constellation:verifier" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "constellation:verifier" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "constellation:verifier" }],
    }))?;
    Ok((role, binding))
}

/// As kubeadm with `encryptionAlgorithm: ECDSA-P256` does it: keys in SEC1 form.
fn certificates(pki: &Path) -> Result<()> {
    fs::create_dir_all(pki.join("etcd"))?;
    for (name, subject) in [("ca", "kubernetes"), ("front-proxy-ca", "front-proxy-ca"), ("etcd/ca", "etcd-ca")] {
        openssl(pki, &format!("ecparam -name prime256v1 -genkey -noout -out {name}.key"))?;
        openssl(pki, &format!("req -x509 -new -key {name}.key -subj /CN={subject} -days 30 -out {name}.crt"))?;
    }
    for name in ["sa", "apiserver"] {
        openssl(pki, &format!("ecparam -name prime256v1 -genkey -noout -out {name}.key"))?;
    }
    openssl(pki, "ec -in sa.key -pubout -out sa.pub")?;
    fs::write(pki.join("san"), "subjectAltName=IP:127.0.0.1\n")?;
    openssl(pki, "req -new -key apiserver.key -subj /CN=kube-apiserver -out apiserver.csr")?;
    openssl(pki, "x509 -req -in apiserver.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile san -out apiserver.crt")
}

fn openssl(folder: &Path, arguments: &str) -> Result<()> {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .context("openssl isn't installed")?;
    ensure!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Where etcd and the API server are; built once if need be.
fn programs() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kubernetes/build.sh");
    let output = Command::new(script).arg("control-plane").stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "building the control plane failed");
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.lines().last().context("no folder")?.trim()))
}

/// Starts a program that dies with the thread that started it.
pub fn spawn(program: &Path, log: &Path, arguments: &[String]) -> Result<Child> {
    let log = File::create(log)?;
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))
}

pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn http_get(path: &str) -> http::Request<Vec<u8>> {
    http::Request::get(path).body(Vec::new()).expect("a constant path is valid")
}
