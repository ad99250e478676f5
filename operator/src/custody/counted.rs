//! A key service whose calls are counted and timed.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use constellation_cloud::{
    calls::Call,
    custody::{Binding, CustodyError, KeyService, Wrapped},
};
use zeroize::Zeroizing;

use crate::metrics::Metrics;

/// The service, and who is told.
pub struct Counted {
    service: Box<dyn KeyService>,
    metrics: Arc<Metrics>,
}

impl Counted {
    /// Counts every call of a service from now on.
    #[must_use]
    pub fn new(service: Box<dyn KeyService>, metrics: Arc<Metrics>) -> Self {
        Self { service, metrics }
    }

    async fn tell<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, CustodyError>>,
    ) -> Result<T, CustodyError> {
        let start = Instant::now();
        let end = call.await;
        let outcome = end.as_ref().err().map_or("ok", CustodyError::word);
        self.metrics.asked(self.service.name(), &Call { operation, outcome, took: start.elapsed() });
        end
    }
}

#[async_trait]
impl KeyService for Counted {
    fn name(&self) -> &'static str {
        self.service.name()
    }

    async fn wrap(&self, key: &str, secret: &[u8], binding: &Binding) -> Result<Wrapped, CustodyError> {
        self.tell("wrap", self.service.wrap(key, secret, binding)).await
    }

    async fn unwrap(&self, wrapped: &Wrapped, binding: &Binding) -> Result<Zeroizing<Vec<u8>>, CustodyError> {
        self.tell("unwrap", self.service.unwrap(wrapped, binding)).await
    }

    async fn version(&self, key: &str) -> Result<Option<String>, CustodyError> {
        self.tell("version", self.service.version(key)).await
    }

    async fn rewrap(&self, wrapped: &Wrapped, key: &str, binding: &Binding) -> Result<Wrapped, CustodyError> {
        self.tell("rewrap", self.service.rewrap(wrapped, key, binding)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wraps everything, and opens nothing.
    struct Shut;

    #[async_trait]
    impl KeyService for Shut {
        fn name(&self) -> &'static str {
            "vault"
        }

        async fn wrap(&self, key: &str, _: &[u8], _: &Binding) -> Result<Wrapped, CustodyError> {
            Ok(Wrapped { key: key.to_owned(), version: None, ciphertext: vec![1] })
        }

        async fn unwrap(&self, _: &Wrapped, _: &Binding) -> Result<Zeroizing<Vec<u8>>, CustodyError> {
            Err(CustodyError::Denied("a test".into()))
        }

        async fn version(&self, _: &str) -> Result<Option<String>, CustodyError> {
            Ok(None)
        }
    }

    #[tokio::test]
    async fn calls_of_a_key_service_are_counted_by_their_outcome_and_timed() {
        let metrics = Arc::<Metrics>::default();
        let service = Counted::new(Box::new(Shut), Arc::clone(&metrics));
        let binding = Binding { cluster: "c".into() };
        let wrapped = service.wrap("k", b"secret", &binding).await.unwrap();
        service.wrap("k", b"secret", &binding).await.unwrap();
        assert!(matches!(service.unwrap(&wrapped, &binding).await, Err(CustodyError::Denied(_))));
        let text = metrics.text().unwrap();
        for line in [
            "constellation_key_service_requests_total{service=\"vault\",operation=\"wrap\",code=\"ok\"} 2\n",
            "constellation_key_service_requests_total{service=\"vault\",operation=\"unwrap\",code=\"denied\"} 1\n",
            "constellation_key_service_request_duration_seconds_count{service=\"vault\",operation=\"wrap\"} 2\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("secret"), "{text}");
    }
}
