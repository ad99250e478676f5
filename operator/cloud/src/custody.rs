//! Keeping a master secret by a key that never leaves a key service: only the wrapped form is stored.
//!
//! What is wrapped is bound to one cluster by [`Binding`]: the service authenticates it, so that the wrapped secret of
//! one cluster can't be passed off as another's.

use std::time::Duration;

use async_trait::async_trait;
use zeroize::Zeroizing;

/// A wrapped secret, and what is needed to open it. Not secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapped {
    /// The key, as the user named it.
    pub key: String,
    /// The version of the key that wrapped it, in the service's words; absent where the service doesn't tell.
    pub version: Option<String>,
    /// The service's output, whole.
    pub ciphertext: Vec<u8>,
}

/// What a wrapped secret belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// UID of the `ConstellationCluster`.
    pub cluster: String,
}

/// Why a key service did not do it; the reaction follows the variant.
#[derive(Debug, thiserror::Error)]
pub enum CustodyError {
    /// Our identity may not use the key: names the permission.
    #[error("the key service denies: {0}")]
    Denied(String),
    /// The key is missing, disabled or pending deletion: somebody must bring it back.
    #[error("the key can't be used: {0}")]
    Key(String),
    /// It was not wrapped by this key for this cluster, or was changed since.
    #[error("the wrapped secret is not this key's and this cluster's: {0}")]
    Foreign(String),
    /// Too many calls.
    #[error("the key service throttles, retry after {}s", after.as_secs())]
    Throttled {
        /// How long to wait.
        after: Duration,
    },
    /// It may work the next time.
    #[error("{0}")]
    Transient(String),
}

impl CustodyError {
    /// A fixed word for metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Denied(_) => "denied",
            Self::Key(_) => "key",
            Self::Foreign(_) => "foreign",
            Self::Throttled { .. } => "throttled",
            Self::Transient(_) => "transient",
        }
    }
}

/// A key service. No function logs or returns a secret in an error.
#[async_trait]
pub trait KeyService: Send + Sync {
    /// Its name: `aws`, `azure`, `gcp`, `vault`.
    fn name(&self) -> &'static str;

    /// Encrypts a secret of at most 4096 bytes under the newest version of a key.
    async fn wrap(&self, key: &str, secret: &[u8], binding: &Binding) -> Result<Wrapped, CustodyError>;

    /// Decrypts it. Uses `wrapped.key` and no other, whatever the ciphertext says.
    async fn unwrap(&self, wrapped: &Wrapped, binding: &Binding) -> Result<Zeroizing<Vec<u8>>, CustodyError>;

    /// The newest version of a key; absent where the service doesn't tell. Opens nothing.
    async fn version(&self, key: &str) -> Result<Option<String>, CustodyError>;

    /// Wraps it again under the newest version of `key`, which may be another key. Services that can do it without
    /// giving the secret out do that.
    async fn rewrap(&self, wrapped: &Wrapped, key: &str, binding: &Binding) -> Result<Wrapped, CustodyError> {
        let secret = self.unwrap(wrapped, binding).await?;
        self.wrap(key, &secret, binding).await
    }
}

/// Whether a secret must be wrapped again: the user names another key, or the key has a newer version.
#[must_use]
pub fn must_rewrap(wrapped: &Wrapped, key: &str, newest: Option<&str>) -> bool {
    wrapped.key != key || newest.is_some_and(|newest| wrapped.version.as_deref() != Some(newest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_wrapped_again_for_another_key_or_a_newer_version_only() {
        let wrapped = Wrapped { key: "k".into(), version: Some("3".into()), ciphertext: vec![1] };
        assert!(!must_rewrap(&wrapped, "k", Some("3")));
        assert!(!must_rewrap(&wrapped, "k", None), "a service that tells no version re-wraps by itself");
        assert!(must_rewrap(&wrapped, "k", Some("4")));
        assert!(must_rewrap(&wrapped, "l", Some("3")));
    }
}
