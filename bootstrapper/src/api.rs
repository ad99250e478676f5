//! The cluster's API as this node's kubelet may use it: TLS with the cluster's CA and the kubelet's own certificate.

use std::time::Duration;

use crate::{
    error::Error,
    host::Host,
    https::Https,
    plan::{CREDENTIAL, CURRENT_CREDENTIAL},
};

/// The API server ends a watch by itself after this many seconds; one that died without a word is noticed soon after.
/// Each end costs one list.
const WATCH_SECONDS: u32 = 60;
/// How long an API server may be late with that.
const LATE: Duration = Duration::from_secs(20);

/// A way to the API server.
pub struct Api(Https);

impl Api {
    /// Reads the kubelet's credential; it is renewed over time, so make a new `Api` after an error.
    pub fn open(host: &Host, endpoint: &str) -> Result<Self, Error> {
        let ca = host.read("/etc/kubernetes/pki/ca.crt")?;
        let credential = host.read(if host.exists(CURRENT_CREDENTIAL)? { CURRENT_CREDENTIAL } else { CREDENTIAL })?;
        Https::new(endpoint, &ca, &credential).map(Self)
    }

    /// Gets a path.
    pub async fn get(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.0.get(path).await
    }

    /// Waits until the list at `path` changes after `version`, or the API server ends the watch.
    pub async fn changed(&self, path: &str, version: &str) -> Result<(), Error> {
        let path = format!("{path}?watch=1&resourceVersion={version}&timeoutSeconds={WATCH_SECONDS}");
        self.0.first_bytes(&path, Duration::from_secs(u64::from(WATCH_SECONDS)) + LATE).await
    }
}
