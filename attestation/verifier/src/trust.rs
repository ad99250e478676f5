//! The owner-signed trust policy: believed for its signature, and never an older one again.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use constellation_attestation::{
    dsse,
    platform::Platform,
    policy::{TRUST_POLICY_TYPE, TrustPolicy},
};
use constellation_crds::node::Mismatch;

use crate::admit::reason;

/// Why a bundle isn't used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bundle is for another cluster.
    #[error("the trust bundle is for another cluster")]
    Cluster,
    /// The remembered revision can't be read or written; without it an old bundle would pass.
    #[error("remembering the trust bundle's revision in {0} failed")]
    Floor(PathBuf, #[source] io::Error),
    /// The signed policy can't be used.
    #[error("the trust bundle's policy can't be used: {0}")]
    Policy(String),
    /// An older bundle than one that was used before.
    #[error("the trust bundle's revision {given} is older than {last}, which was used before")]
    Revision {
        /// Revision of the bundle.
        given: u64,
        /// Greatest revision that was ever used here.
        last: u64,
    },
    /// Not signed by the owner.
    #[error("the trust bundle isn't signed by the owner")]
    Signature(#[source] dsse::Error),
}

impl Error {
    /// The clause that doesn't hold; nothing when it is our own disk that failed.
    #[must_use]
    pub fn reason(&self) -> Option<Mismatch> {
        let (clause, expected, actual) = match self {
            Self::Floor(..) => return None,
            Self::Cluster => ("trust.cluster", None, None),
            Self::Policy(_) => ("trust.policy", None, None),
            Self::Revision { given, last } => {
                ("trust.revision", Some(format!("at least {last}")), Some(given.to_string()))
            }
            Self::Signature(_) => ("trust.signature", None, None),
        };
        Some(reason(clause, expected.as_deref(), actual.as_deref(), &self.to_string()))
    }
}

/// The owner whose bundles are believed, and the greatest revision used so far.
pub struct Trust {
    owner_spki: Vec<u8>,
    cluster_uid: String,
    platform: Platform,
    path: PathBuf,
    memory: Mutex<Memory>,
}

struct Memory {
    /// The greatest revision.
    floor: u64,
    /// The envelope that was accepted last: most joins find the same one.
    last: Option<(String, Arc<TrustPolicy>)>,
}

impl Trust {
    /// Reads the remembered revision from `path`; a missing file means that none was used yet.
    pub fn open(owner_spki: &[u8], cluster_uid: &str, platform: Platform, path: &Path) -> Result<Self, Error> {
        let failed = |error| Error::Floor(path.to_owned(), error);
        let floor = match fs::read_to_string(path) {
            Ok(text) => {
                text.trim().parse().map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(failed(error)),
        };
        Ok(Self {
            owner_spki: owner_spki.to_owned(),
            cluster_uid: cluster_uid.to_owned(),
            platform,
            path: path.to_owned(),
            memory: Mutex::new(Memory { floor, last: None }),
        })
    }

    /// Greatest revision used so far.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).floor
    }

    /// Verifies an envelope and gives its policy; a newer revision is on disk before it is used.
    pub fn accept(&self, envelope: &str) -> Result<Arc<TrustPolicy>, Error> {
        let known = {
            let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            memory.last.as_ref().filter(|(known, _)| known == envelope).map(|(_, policy)| Arc::clone(policy))
        };
        let policy = known.map_or_else(|| self.verify(envelope).map(Arc::new), Ok)?;
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if policy.revision < memory.floor {
            return Err(Error::Revision { given: policy.revision, last: memory.floor });
        }
        if policy.revision > memory.floor {
            write(&self.path, policy.revision).map_err(|error| Error::Floor(self.path.clone(), error))?;
            memory.floor = policy.revision;
        }
        memory.last = Some((envelope.to_owned(), Arc::clone(&policy)));
        Ok(policy)
    }

    /// All that an envelope says by itself.
    fn verify(&self, envelope: &str) -> Result<TrustPolicy, Error> {
        let payload = dsse::verify(envelope, TRUST_POLICY_TYPE, &self.owner_spki).map_err(Error::Signature)?;
        let policy: TrustPolicy =
            serde_json::from_slice(&payload).map_err(|error| Error::Policy(format!("not a policy: {error}")))?;
        if policy.cluster_uid != self.cluster_uid {
            return Err(Error::Cluster);
        }
        policy.validate().map_err(|error| Error::Policy(error.to_string()))?;
        // A cloud speaks for its TPMs itself, with keys that we know.
        if self.platform.has_endorsement_key() && policy.endorsement_roots.is_empty() {
            return Err(Error::Policy("it names no endorser of TPMs".to_owned()));
        }
        Ok(policy)
    }
}

/// Replaces the file in one step, and survives a crash at any moment.
fn write(path: &Path, revision: u64) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let mut file = File::create(&fresh)?;
    file.write_all(revision.to_string().as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests;
