//! As whom we call AWS.

use std::{fmt, time::Duration};

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_credential_types::Credentials;
use zeroize::Zeroizing;

/// A call that takes longer has lost its connection: the APIs answer in seconds, the work goes on behind them.
const CALL: Duration = Duration::from_secs(30);

/// Where credentials come from.
#[derive(Clone, Debug)]
pub enum Access {
    /// The operator's own identity: web identity, pod identity, instance profile, or the environment.
    Ambient,
    /// A key that a user keeps in a Secret. Works, but never expires by itself: the operator warns.
    Static(StaticKey),
}

/// An access key. No `Debug` of its secret.
#[derive(Clone)]
pub struct StaticKey {
    /// Its public half.
    pub id: String,
    /// Its secret half.
    pub secret: Zeroizing<String>,
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The configuration of all clients. Calls are sent once: whoever reconciles comes again, and waits as long as AWS says.
pub async fn configure(region: &str, access: &Access, endpoint: Option<&str>) -> SdkConfig {
    let timeouts = TimeoutConfig::builder().operation_timeout(CALL).connect_timeout(CALL / 3).build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts);
    if let Access::Static(key) = access {
        loader = loader.credentials_provider(Credentials::new(&key.id, key.secret.as_str(), None, None, "Secret"));
    }
    if let Some(url) = endpoint {
        loader = loader.endpoint_url(url);
    }
    loader.load().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_not_show_its_secret() {
        let key = StaticKey { id: "AKIA1".into(), secret: Zeroizing::new("hidden".into()) };
        let shown = format!("{:?}", Access::Static(key));
        assert!(shown.contains("AKIA1") && !shown.contains("hidden"), "{shown}");
    }
}
