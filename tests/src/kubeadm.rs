//! An API server with the certificates that kubeadm would have made.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    controlplane::{self, Options},
    swtpm::alone,
};

/// What kubeadm would have written for the kubelets.
pub const KUBELET_CONFIG: &str = "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\n";

/// A namespace is there within a second; a loaded box may take longer.
const SERVED: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);

/// The running control plane; it lives as long as this program.
pub struct ControlPlane {
    pki: PathBuf,
    url: String,
    kubeconfig: String,
}

impl ControlPlane {
    /// Starts one in a folder, which is emptied; there is in it what kubeadm and then `prepare` put there.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(folder: &Path, prepare: impl AsyncFnOnce(Client) -> Result<()> + Send + 'static) -> Result<Self> {
        let (folder, (ready, started)) = (folder.to_owned(), mpsc::channel());
        // The programs die with the thread that started them, so it lives as long as this program.
        thread::spawn(move || match start(folder, prepare) {
            Ok((control_plane, _running)) => {
                let _ = ready.send(Ok(control_plane));
                loop {
                    thread::park();
                }
            }
            Err(error) => drop(ready.send(Err(error))),
        });
        started.recv().context("the thread sends")?
    }

    /// kubeadm's folder of certificates and keys.
    #[must_use]
    pub fn pki(&self) -> &Path {
        &self.pki
    }

    /// The administrator's kubeconfig as kubeadm writes it: it holds all that it needs.
    #[must_use]
    pub fn admin(&self) -> &str {
        &self.kubeconfig
    }

    /// A kubeconfig of the user whose certificate has this name in our folder.
    #[must_use]
    pub fn kubeconfig(&self, name: &str) -> String {
        self.kubeconfig_of(&self.pki.join(format!("{name}.crt")), &self.pki.join(format!("{name}.key")))
    }

    /// A kubeconfig of whoever has this certificate and key.
    #[must_use]
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
    ///
    /// # Errors
    /// When it can't be used.
    pub async fn client(&self, kubeconfig: &str) -> Result<Client> {
        Ok(Client::try_from(controlplane::config(kubeconfig).await?)?)
    }
}

fn start(
    folder: PathBuf,
    prepare: impl AsyncFnOnce(Client) -> Result<()>,
) -> Result<(ControlPlane, controlplane::ControlPlane)> {
    // Each run starts over.
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let pki = folder.join("pki");
    certificates(&pki)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let running = controlplane::ControlPlane::start_with(&Options { dir: Some(folder), audit_log: None }).await?;
        let config = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "kubelet-config" },
            "data": { "kubelet": KUBELET_CONFIG },
        });
        let client = running.client().await?;
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
        let params = PatchParams::apply("kubeadm");
        // The namespace comes a moment after the API server.
        let begun = Instant::now();
        while let Err(error) = maps.patch("kubelet-config", &params, &Patch::Apply(&config)).await {
            ensure!(begun.elapsed() < SERVED, "kube-system doesn't come: {error}");
            tokio::time::sleep(POLL).await;
        }
        prepare(client).await?;
        Ok((ControlPlane { pki, url: running.url(), kubeconfig: running.kubeconfig() }, running))
    })
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
