//! The control plane's certificates and keys, made once per folder.

use std::{
    fs,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// Written last: a folder without it was left by an interrupted run and is made anew.
const COMPLETE: &str = "complete";

/// A folder of certificates and keys.
pub struct Pki {
    dir: PathBuf,
    ca: String,
    admin_certificate: String,
    admin_key: String,
}

impl Pki {
    /// Reads the folder, or fills it.
    ///
    /// # Errors
    /// When it can't be read or written.
    pub fn load_or_create(dir: &Path) -> Result<Self> {
        if !dir.join(COMPLETE).exists() {
            create(dir).with_context(|| format!("making certificates in {}", dir.display()))?;
        }
        let read = |name: &str| fs::read_to_string(dir.join(name)).with_context(|| format!("reading {name}"));
        Ok(Self {
            dir: dir.to_owned(),
            ca: read("ca.crt")?,
            admin_certificate: read("admin.crt")?,
            admin_key: read("admin.key")?,
        })
    }

    /// Path of a file of the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A kubeconfig of a member of `system:masters`.
    #[must_use]
    pub fn kubeconfig(&self, url: &str) -> String {
        let encode = |text: &str| STANDARD.encode(text);
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: management\n\
             clusters:\n- name: management\n  cluster:\n    server: {url}\n    certificate-authority-data: {}\n\
             users:\n- name: admin\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n\
             contexts:\n- name: management\n  context:\n    cluster: management\n    user: admin\n    namespace: default\n",
            encode(&self.ca),
            encode(&self.admin_certificate),
            encode(&self.admin_key),
        )
    }
}

fn create(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, "constellation test control plane");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    write(dir, "ca.crt", &params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);

    let names = ["127.0.0.1", "localhost", "10.0.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    let mut serving = CertificateParams::new(names.map(str::to_owned).to_vec())?;
    serving.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    serving.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    issue(dir, "serving", &serving, &issuer)?;

    let mut admin = CertificateParams::new(Vec::<String>::new())?;
    admin.distinguished_name.push(DnType::CommonName, "admin");
    admin.distinguished_name.push(DnType::OrganizationName, "system:masters");
    admin.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    issue(dir, "admin", &admin, &issuer)?;

    let tokens = KeyPair::generate()?;
    write(dir, "service-account.key", &tokens.serialize_pem())?;
    write(dir, "service-account.pub", &tokens.public_key_pem())?;
    write(dir, COMPLETE, "")
}

fn issue(dir: &Path, name: &str, params: &CertificateParams, issuer: &Issuer<'_, KeyPair>) -> Result<()> {
    let key = KeyPair::generate()?;
    write(dir, &format!("{name}.crt"), &params.signed_by(&key, issuer)?.pem())?;
    write(dir, &format!("{name}.key"), &key.serialize_pem())
}

fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(dir.join(name))?;
    Ok(file.write_all(text.as_bytes())?)
}
