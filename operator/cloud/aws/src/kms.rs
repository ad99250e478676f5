//! AWS KMS as keeper of master secrets.
//!
//! AWS rotates the material of a key behind its ARN and keeps the old: nothing is to be wrapped again then. For another
//! key it is wrapped again inside KMS (`ReEncrypt`): the secret doesn't leave it.

use async_trait::async_trait;
use aws_sdk_kms::{Client, error::ProvideErrorMetadata, error::SdkError, primitives::Blob};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use constellation_cloud::{
    CloudError,
    custody::{Binding, CustodyError, KeyService, Wrapped},
};
use zeroize::Zeroizing;

use crate::{
    convert::TAG_CLUSTER,
    credentials::{Access, configure},
    error::Refusal,
};

/// AWS KMS.
#[derive(Debug)]
pub struct AwsKms {
    client: Client,
}

impl AwsKms {
    /// Connects; nothing is sent before the first use. `endpoint` is another address of KMS.
    pub async fn connect(region: &str, access: &Access, endpoint: Option<&str>) -> Self {
        Self { client: Client::new(&configure(region, access, endpoint).await) }
    }

    /// The region in a key's ARN.
    #[must_use]
    pub fn region(arn: &str) -> Option<&str> {
        let mut parts = arn.split(':').skip(2);
        (parts.next() == Some("kms")).then(|| parts.next()).flatten().filter(|region| !region.is_empty())
    }
}

fn refused<E>(operation: &'static str) -> impl FnOnce(SdkError<E, HttpResponse>) -> CustodyError
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    move |error| {
        let refusal = Refusal::new(operation, &error);
        if refusal.is(&["InvalidCiphertextException", "IncorrectKeyException"]) {
            return CustodyError::Foreign(format!("{operation} refused it"));
        }
        let key = ["DisabledException", "KMSInvalidStateException", "NotFoundException", "KeyUnavailableException"];
        if refusal.is(&key) || refusal.is(&["InvalidKeyUsageException", "InvalidArnException"]) {
            return CustodyError::Key(CloudError::from(refusal).to_string());
        }
        match CloudError::from(refusal) {
            CloudError::Denied(why) => CustodyError::Denied(why),
            CloudError::Throttled { after } => CustodyError::Throttled { after },
            CloudError::NotFound(why) | CloudError::Unsupported(why) => CustodyError::Key(why),
            other => CustodyError::Transient(other.to_string()),
        }
    }
}

#[async_trait]
impl KeyService for AwsKms {
    fn name(&self) -> &'static str {
        "aws"
    }

    async fn wrap(&self, key: &str, secret: &[u8], binding: &Binding) -> Result<Wrapped, CustodyError> {
        let send = self.client.encrypt().key_id(key).plaintext(Blob::new(secret));
        let send = send.encryption_context(TAG_CLUSTER, &binding.cluster).send();
        let done = send.await.map_err(refused("kms:Encrypt"))?;
        wrapped(key, done.ciphertext_blob)
    }

    async fn unwrap(&self, wrapped: &Wrapped, binding: &Binding) -> Result<Zeroizing<Vec<u8>>, CustodyError> {
        let send = self.client.decrypt().key_id(&wrapped.key).ciphertext_blob(Blob::new(wrapped.ciphertext.clone()));
        let send = send.encryption_context(TAG_CLUSTER, &binding.cluster).send();
        let done = send.await.map_err(refused("kms:Decrypt"))?;
        let secret = done.plaintext.map(|blob| Zeroizing::new(blob.into_inner()));
        secret.ok_or_else(|| CustodyError::Transient("Decrypt gave nothing".into()))
    }

    async fn version(&self, _: &str) -> Result<Option<String>, CustodyError> {
        Ok(None)
    }

    async fn rewrap(&self, old: &Wrapped, key: &str, binding: &Binding) -> Result<Wrapped, CustodyError> {
        let region = |arn| Self::region(arn).map(str::to_owned);
        if region(&old.key) != region(key) {
            // One call reaches one region only.
            let secret = self.unwrap(old, binding).await?;
            return self.wrap(key, &secret, binding).await;
        }
        let send = self.client.re_encrypt().source_key_id(&old.key).destination_key_id(key);
        let send = send.ciphertext_blob(Blob::new(old.ciphertext.clone()));
        let send = send.source_encryption_context(TAG_CLUSTER, &binding.cluster);
        let send = send.destination_encryption_context(TAG_CLUSTER, &binding.cluster).send();
        let done = send.await.map_err(refused("kms:ReEncrypt"))?;
        wrapped(key, done.ciphertext_blob)
    }
}

fn wrapped(key: &str, blob: Option<Blob>) -> Result<Wrapped, CustodyError> {
    let ciphertext = blob.map(Blob::into_inner).filter(|bytes| !bytes.is_empty());
    let ciphertext = ciphertext.ok_or_else(|| CustodyError::Transient("KMS gave no ciphertext".into()))?;
    Ok(Wrapped { key: key.to_owned(), version: None, ciphertext })
}
