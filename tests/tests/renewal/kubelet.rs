//! What a kubelet does for its next certificate, and who signs it: kube-controller-manager.

use std::{
    process::Child,
    time::{Duration, Instant},
};

use anyhow::Result;
use constellation_attestation::protocol::{KUBELET_LIFE, KUBELET_SIGNER};
use constellation_tests::{
    controlplane::programs,
    process::{free_port, spawn_in},
};
use constellation_verifier::{
    authority::{self, Subject},
    renewal,
};
use jiff::Timestamp;
use k8s_openapi::api::{authentication::v1::SelfSubjectReview, certificates::v1::CertificateSigningRequest};
use kube::{Api, Client, api::PostParams};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::json;
use tempfile::TempDir;
use x509_parser::pem::parse_x509_pem;

use crate::{cluster, scene::Scene};

/// A renewal takes a second or two; a loaded box may take longer, and kube-controller-manager has to start.
pub const LIMIT: Duration = Duration::from_mins(2);
pub const POLL: Duration = Duration::from_millis(50);

/// Whoever holds a certificate of a node's kubelet.
pub struct Kubelet {
    node: String,
    certificate: String,
    folder: TempDir,
}

impl Kubelet {
    pub fn new(node: &str, certificate: &str, key: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kubelet.crt"), certificate).unwrap();
        std::fs::write(folder.path().join("kubelet.key"), key).unwrap();
        Self { node: node.to_owned(), certificate: certificate.to_owned(), folder }
    }

    /// With a certificate that the cluster's CA signed and no verifier knows.
    pub fn signed_by_ca(node: &str) -> Self {
        let read = |name: &str| std::fs::read_to_string(cluster::shared().pki().join(name)).unwrap();
        let (key, user) = (KeyPair::generate().unwrap(), format!("system:node:{node}"));
        let subject = Subject { organization: Some("system:nodes"), common_name: &user };
        let time = (Timestamp::now(), KUBELET_LIFE);
        let certificate = authority::client_certificate(&read("ca.crt"), &read("ca.key"), &key, subject, time).unwrap();
        Self::new(node, &certificate, &key.serialize_pem())
    }

    /// As the API server names it.
    pub fn digest(&self) -> String {
        renewal::fingerprint(self.certificate.as_bytes()).unwrap()
    }

    /// How long its certificate lives from when it was made, in whole days.
    pub fn days(&self) -> i64 {
        let (_, pem) = parse_x509_pem(self.certificate.as_bytes()).unwrap();
        let validity = pem.parse_x509().unwrap().validity().clone();
        let life = validity.not_after.timestamp() - validity.not_before.timestamp();
        // Both signers date back by five minutes.
        life.div_euclid(24 * 3600)
    }

    pub async fn client(&self) -> Client {
        let path = |name: &str| self.folder.path().join(name);
        let control_plane = cluster::shared();
        control_plane.client(&control_plane.kubeconfig_of(&path("kubelet.crt"), &path("kubelet.key"))).await.unwrap()
    }

    /// Who it is to the API server.
    pub async fn who(&self) -> String {
        let review: SelfSubjectReview = serde_json::from_value(json!({})).unwrap();
        let who = Api::all(self.client().await).create(&PostParams::default(), &review).await.unwrap();
        who.status.unwrap().user_info.unwrap().username.unwrap()
    }

    /// Asks for its next certificate; gives the request's name.
    pub async fn ask(&self) -> String {
        self.ask_of(KUBELET_SIGNER).await
    }

    /// As [`Kubelet::ask`], of any signer. In the form of client-go's `util/certificate`.
    pub async fn ask_of(&self, signer: &str) -> String {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{}", self.node));
        // Go ends lines by a line feed alone.
        let request = params.serialize_request(&key).unwrap().pem().unwrap().replace('\r', "");
        let spec = json!({"metadata": {"generateName": "csr-"}, "spec": {
            "request": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, request),
            "signerName": signer, "usages": ["digital signature", "client auth"],
        }});
        let request: CertificateSigningRequest = serde_json::from_value(spec).unwrap();
        let request = Api::all(self.client().await).create(&PostParams::default(), &request).await.unwrap();
        let name = request.metadata.name.unwrap();
        std::fs::write(self.folder.path().join(&name), key.serialize_pem()).unwrap();
        name
    }

    /// What a request was answered with so far: the next certificate, or what the peer reads in a denial.
    pub async fn answered(&self, name: &str) -> Option<Result<Self, String>> {
        let requests: Api<CertificateSigningRequest> = Api::all(self.client().await);
        let status = requests.get(name).await.unwrap().status.unwrap_or_default();
        let denied = status.conditions.into_iter().flatten().find(|condition| condition.type_ == "Denied");
        if let Some(denied) = denied {
            return Some(Err(denied.message.unwrap_or_default()));
        }
        let certificate = String::from_utf8(status.certificate?.0).unwrap();
        let key = std::fs::read_to_string(self.folder.path().join(name)).unwrap();
        Some(Ok(Self::new(&self.node, &certificate, &key)))
    }

    /// Waits for the answer.
    pub async fn answer(&self, name: String) -> Result<Self, String> {
        let begun = Instant::now();
        loop {
            if let Some(answer) = self.answered(&name).await {
                return answer;
            }
            assert!(begun.elapsed() < LIMIT, "{name} isn't answered");
            tokio::time::sleep(POLL).await;
        }
    }

    pub async fn renew(&self) -> Result<Self, String> {
        self.answer(self.ask().await).await
    }
}

/// kube-controller-manager with its approver and its signer, and nothing else; ends when dropped.
pub struct Signer(Child);

impl Signer {
    pub fn start(scene: &Scene) -> Result<Self> {
        let (control_plane, folder) = (cluster::shared(), scene.folder.path());
        let program = programs::built(&["kube-controller-manager"])?.join("kube-controller-manager");
        let kubeconfig = folder.join("controller-manager.conf");
        std::fs::write(&kubeconfig, control_plane.admin())?;
        let pki = |name: &str| control_plane.pki().join(name).display().to_string();
        let arguments = [
            format!("--kubeconfig={}", kubeconfig.display()),
            "--controllers=certificatesigningrequest-approving-controller,certificatesigningrequest-signing-controller"
                .to_owned(),
            format!("--cluster-signing-cert-file={}", pki("ca.crt")),
            format!("--cluster-signing-key-file={}", pki("ca.key")),
            // As the bootstrapper has it.
            "--cluster-signing-duration=168h".to_owned(),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", free_port()?),
        ];
        Ok(Self(spawn_in(&program, &folder.join("controller-manager.log"), &arguments, &[])?))
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
