//! What the bootstrapper left for the verifier: secrets, our own launch configuration, where certificates lie.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_attestation::{
    channel::{self, Identity},
    protocol::{ClusterSettings, LaunchConfig},
};
use jiff::Timestamp;
use x509_parser::{certificate::Validity, pem::parse_x509_pem};
use zeroize::Zeroizing;

const SECRET_BYTES: usize = 32;

/// Where things lie.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Our files, written by the bootstrapper.
    pub dir: PathBuf,
    /// kubeadm's certificates and keys.
    pub pki: PathBuf,
    /// An administrator's kubeconfig, for joining control-plane nodes.
    pub admin_kubeconfig: PathBuf,
}

/// Why the files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The clock, or the verifier CA, is wrong.
    #[error("{path} is valid from {from} to {until} and not now, at {now}: is the clock right?")]
    Clock {
        /// The verifier CA's certificate.
        path: PathBuf,
        /// When it begins.
        from: String,
        /// When it ends.
        until: String,
        /// What our clock says.
        now: String,
    },
    /// No TLS identity can be made from the verifier CA.
    #[error("making our TLS identity from verifier-ca.crt and verifier-ca.key failed")]
    Identity(#[source] channel::Error),
    /// A file holds something else.
    #[error("{0} doesn't hold what it should")]
    Malformed(PathBuf),
    /// A file can't be read.
    #[error("reading {0} failed")]
    Read(PathBuf, #[source] io::Error),
}

/// The files' contents. No `Debug`: most of it is secret.
pub struct Home {
    /// Secret from which nodes' disk keys are derived.
    pub disk_secret: Zeroizing<Vec<u8>>,
    /// Identity of the cluster, extended into members' PCR 15.
    pub cluster_id: Vec<u8>,
    /// Certificate of the CA that verifiers' TLS certificates are under, PEM.
    pub verifier_ca_certificate: String,
    /// Its key, PEM.
    pub verifier_ca_key: Zeroizing<String>,
    /// Launch configuration of the node we run on: names cluster and owner.
    pub launch: LaunchConfig,
    /// The owner's public key, SPKI, DER.
    pub owner_spki: Vec<u8>,
    /// What joining nodes are told about the cluster.
    pub cluster: ClusterSettings,
    /// Where things lie.
    pub paths: Paths,
}

impl Home {
    /// Reads everything and makes sure that an identity can be made from it.
    pub fn load(paths: &Paths) -> Result<Self, Error> {
        let file = |name: &str| paths.dir.join(name);
        let launch: LaunchConfig = json(&file("launch-config.json"))?;
        let owner_spki = STANDARD
            .decode(&launch.owner_public_key)
            .ok()
            .filter(|spki| !spki.is_empty())
            .ok_or_else(|| Error::Malformed(file("launch-config.json")))?;
        let home = Self {
            disk_secret: secret(&file("disk-secret"))?,
            cluster_id: secret(&file("cluster-id"))?.to_vec(),
            verifier_ca_certificate: text(&file("verifier-ca.crt"))?.to_string(),
            verifier_ca_key: text(&file("verifier-ca.key"))?,
            launch,
            owner_spki,
            cluster: json(&file("cluster.json"))?,
            paths: paths.clone(),
        };
        home.in_date(Timestamp::now())?;
        Identity::check_verifier_ca(&home.verifier_ca_certificate, &home.verifier_ca_key, &home.owner_spki)
            .map_err(Error::Identity)?;
        Ok(home)
    }

    /// A fresh TLS identity. Made for each connection, so that none outlives its certificate.
    ///
    /// # Errors
    /// When it can't be made, or the CA isn't valid now, so that no node would believe it.
    pub fn identity(&self) -> Result<Identity, Error> {
        self.in_date(Timestamp::now())?;
        Identity::verifier(&self.verifier_ca_certificate, &self.verifier_ca_key).map_err(Error::Identity)
    }

    fn in_date(&self, now: Timestamp) -> Result<(), Error> {
        let path = self.paths.dir.join("verifier-ca.crt");
        let Ok((_, pem)) = parse_x509_pem(self.verifier_ca_certificate.as_bytes()) else {
            return Err(Error::Malformed(path));
        };
        let Ok(ca) = pem.parse_x509() else { return Err(Error::Malformed(path)) };
        let Validity { not_before, not_after } = ca.validity();
        if (not_before.timestamp()..=not_after.timestamp()).contains(&now.as_second()) {
            return Ok(());
        }
        Err(Error::Clock { path, from: not_before.to_string(), until: not_after.to_string(), now: now.to_string() })
    }
}

/// Reads a text file that may be secret.
pub fn text(path: &Path) -> Result<Zeroizing<String>, Error> {
    let bytes = Zeroizing::new(fs::read(path).map_err(|error| Error::Read(path.to_owned(), error))?);
    match std::str::from_utf8(&bytes) {
        Ok(text) if !text.is_empty() => Ok(Zeroizing::new(text.to_owned())),
        _ => Err(Error::Malformed(path.to_owned())),
    }
}

fn secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let bytes = Zeroizing::new(fs::read(path).map_err(|error| Error::Read(path.to_owned(), error))?);
    if bytes.len() == SECRET_BYTES { Ok(bytes) } else { Err(Error::Malformed(path.to_owned())) }
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    serde_json::from_str(&text(path)?).map_err(|_| Error::Malformed(path.to_owned()))
}

#[cfg(test)]
pub(crate) mod tests {
    use constellation_attestation::{owner::SigningKey, platform::Platform, protocol::Role};

    use super::*;

    pub(crate) fn given_launch(owner: &SigningKey) -> LaunchConfig {
        LaunchConfig {
            cluster_uid: "cluster-1".to_owned(),
            node_uid: "node-1".to_owned(),
            node_name: "cp-0".to_owned(),
            role: Role::ControlPlane,
            owner_public_key: STANDARD.encode(owner.public_spki()),
        }
    }

    pub(crate) fn given_files(dir: &Path, owner: &SigningKey) -> Paths {
        let paths =
            Paths { dir: dir.join("constellation"), pki: dir.join("pki"), admin_kubeconfig: dir.join("admin.conf") };
        fs::create_dir_all(&paths.dir).unwrap();
        fs::create_dir_all(paths.pki.join("etcd")).unwrap();
        let (certificate, key) = Identity::issue_verifier_ca(owner).unwrap();
        let cluster = ClusterSettings {
            name: "test".to_owned(),
            kubernetes_version: "v1.36.3".to_owned(),
            endpoint: "10.77.0.1:6443".to_owned(),
            cert_sans: Vec::new(),
            pod_cidr: "10.244.0.0/16".to_owned(),
            service_cidr: "10.96.0.0/16".to_owned(),
            mesh: true,
            slow: true,
            platform: Platform::QemuVtpm,
        };
        fs::write(paths.dir.join("disk-secret"), [1; 32]).unwrap();
        fs::write(paths.dir.join("cluster-id"), [2; 32]).unwrap();
        fs::write(paths.dir.join("verifier-ca.crt"), certificate).unwrap();
        fs::write(paths.dir.join("verifier-ca.key"), key.as_bytes()).unwrap();
        fs::write(paths.dir.join("launch-config.json"), given_launch(owner).to_bytes()).unwrap();
        fs::write(paths.dir.join("cluster.json"), serde_json::to_vec(&cluster).unwrap()).unwrap();
        fs::write(&paths.admin_kubeconfig, "admin").unwrap();
        paths
    }

    #[test]
    fn whole_files_are_loaded() {
        let (dir, owner) = (tempfile::tempdir().unwrap(), SigningKey::generate().unwrap());
        let home = Home::load(&given_files(dir.path(), &owner)).unwrap();
        assert_eq!((home.disk_secret.as_slice(), home.cluster_id.as_slice()), ([1; 32].as_slice(), [2; 32].as_slice()));
        assert_eq!(home.owner_spki, owner.public_spki());
    }

    #[test]
    fn an_authority_is_used_from_its_first_to_its_last_second() {
        let (dir, owner) = (tempfile::tempdir().unwrap(), SigningKey::generate().unwrap());
        let home = Home::load(&given_files(dir.path(), &owner)).unwrap();
        let (_, pem) = parse_x509_pem(home.verifier_ca_certificate.as_bytes()).unwrap();
        let validity = pem.parse_x509().unwrap().validity().clone();
        let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        for (second, good) in [(from - 1, false), (from, true), (until, true), (until + 1, false)] {
            let answer = home.in_date(Timestamp::from_second(second).unwrap());
            assert_eq!(answer.is_ok(), good, "{second}");
            assert!(good || matches!(answer, Err(Error::Clock { .. })));
        }
    }

    #[test]
    fn a_missing_short_or_foreign_file_is_refused() {
        let (dir, owner) = (tempfile::tempdir().unwrap(), SigningKey::generate().unwrap());
        let paths = given_files(dir.path(), &owner);
        let names =
            ["disk-secret", "cluster-id", "verifier-ca.crt", "verifier-ca.key", "launch-config.json", "cluster.json"];
        for name in names {
            let path = paths.dir.join(name);
            let good = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            assert!(matches!(Home::load(&paths), Err(Error::Read(..))), "{name} missing");
            for bad in [Vec::new(), b"{}".to_vec(), vec![7; 33]] {
                fs::write(&path, bad).unwrap();
                assert!(Home::load(&paths).is_err(), "{name} replaced");
            }
            fs::write(&path, good).unwrap();
        }
        Home::load(&paths).unwrap();
        let (_, other) = Identity::issue_verifier_ca(&owner).unwrap();
        fs::write(paths.dir.join("verifier-ca.key"), other.as_bytes()).unwrap();
        assert!(matches!(Home::load(&paths), Err(Error::Identity(_))));
        // A pair that belongs together, under another owner's key: of an earlier cluster of this name.
        let (certificate, key) = Identity::issue_verifier_ca(&SigningKey::generate().unwrap()).unwrap();
        fs::write(paths.dir.join("verifier-ca.crt"), certificate).unwrap();
        fs::write(paths.dir.join("verifier-ca.key"), key.as_bytes()).unwrap();
        assert!(matches!(Home::load(&paths), Err(Error::Identity(channel::Error::VerifierCaOwner))));
    }
}
