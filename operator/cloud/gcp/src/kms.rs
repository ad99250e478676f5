//! Google Cloud KMS as keeper of master secrets.
//!
//! The cluster goes into the additional authenticated data, so that KMS opens a ciphertext for its own cluster only.
//! Every way is guarded by a CRC32C, as KMS advises ("Data integrity guidelines"): a secret that was wrapped wrong would
//! be found out when a cluster is to be recovered. Google keeps old versions of a key for decryption, and a ciphertext
//! names its own, so opening names the key alone.

use async_trait::async_trait;
use constellation_cloud::{
    CloudError,
    custody::{Binding, CustodyError, KeyService, Wrapped},
};
use google_cloud_gax::{error::rpc::Code, retry_policy::NeverRetry};
use google_cloud_kms_v1::{
    client::KeyManagementService,
    model::{crypto_key::CryptoKeyPurpose, crypto_key_version::CryptoKeyVersionState},
};
use zeroize::Zeroizing;

use crate::{
    Access,
    api::{ATTEMPT, credentials},
    error::Refused,
};

/// Google Cloud KMS.
#[derive(Debug)]
pub struct CloudKms {
    client: KeyManagementService,
}

impl CloudKms {
    /// Makes the client; nothing is sent before the first use. `endpoint` is another address than
    /// `https://cloudkms.googleapis.com`, for tests and private access.
    ///
    /// # Errors
    /// [`CloudError::Denied`] when there are no credentials, [`CloudError::Unsupported`] when the endpoint is none.
    pub async fn connect(access: &Access, endpoint: Option<&str>) -> Result<Self, CloudError> {
        let builder = KeyManagementService::builder()
            .with_credentials(credentials(access)?)
            .with_retry_policy(NeverRetry)
            .with_attempt_timeout(ATTEMPT);
        let builder = match endpoint {
            Some(endpoint) => builder.with_endpoint(endpoint),
            None => builder,
        };
        let client = builder.build().await;
        Ok(Self { client: client.map_err(|e| CloudError::Unsupported(format!("making a client: {e}")))? })
    }
}

#[async_trait]
impl KeyService for CloudKms {
    fn name(&self) -> &'static str {
        "gcp"
    }

    async fn wrap(&self, key: &str, secret: &[u8], binding: &Binding) -> Result<Wrapped, CustodyError> {
        let aad = aad(binding);
        let call = self
            .client
            .encrypt()
            .set_name(named(key)?)
            .set_plaintext(secret.to_vec())
            .set_plaintext_crc32c(checksum(secret))
            .set_additional_authenticated_data_crc32c(checksum(&aad))
            .set_additional_authenticated_data(aad);
        let answer =
            call.send().await.map_err(|error| refused("cloudkms.cryptoKeys.encrypt", error, CustodyError::Key))?;
        // The checksums that went up are only worth something if KMS says that it looked at them.
        if !answer.verified_plaintext_crc32c || !answer.verified_additional_authenticated_data_crc32c {
            return Err(damaged("it did not check what it was sent"));
        }
        intact(&answer.ciphertext, answer.ciphertext_crc32c)?;
        let version = version(key, &answer.name).ok_or_else(|| damaged("another key than asked for has wrapped"))?;
        Ok(Wrapped { key: key.to_owned(), version: Some(version), ciphertext: answer.ciphertext.to_vec() })
    }

    async fn unwrap(&self, wrapped: &Wrapped, binding: &Binding) -> Result<Zeroizing<Vec<u8>>, CustodyError> {
        let aad = aad(binding);
        let call = self
            .client
            .decrypt()
            .set_name(named(&wrapped.key)?)
            .set_ciphertext(wrapped.ciphertext.clone())
            .set_ciphertext_crc32c(checksum(&wrapped.ciphertext))
            .set_additional_authenticated_data_crc32c(checksum(&aad))
            .set_additional_authenticated_data(aad);
        // Another key's, another cluster's and a changed ciphertext are invalid arguments.
        let answer =
            call.send().await.map_err(|error| refused("cloudkms.cryptoKeys.decrypt", error, CustodyError::Foreign))?;
        let secret = Zeroizing::new(answer.plaintext.to_vec());
        intact(&secret, answer.plaintext_crc32c)?;
        Ok(secret)
    }

    async fn version(&self, key: &str) -> Result<Option<String>, CustodyError> {
        let call = self.client.get_crypto_key().set_name(named(key)?);
        let found = call.send().await.map_err(|error| refused("cloudkms.cryptoKeys.get", error, CustodyError::Key))?;
        if found.purpose != CryptoKeyPurpose::EncryptDecrypt {
            return Err(CustodyError::Key(format!("{key} is no key for symmetric encryption (ENCRYPT_DECRYPT)")));
        }
        let primary = found.primary.ok_or_else(|| CustodyError::Key(format!("{key} has no primary version")))?;
        if primary.state != CryptoKeyVersionState::Enabled {
            return Err(CustodyError::Key(format!("the primary version of {key} isn't enabled")));
        }
        version(key, &primary.name).map(Some).ok_or_else(|| damaged("the primary version is of another key"))
    }
}

/// A key's resource name goes into the path of a request: nothing else may.
fn named(key: &str) -> Result<&str, CustodyError> {
    let parts: Vec<_> = key.split('/').collect();
    let fits = matches!(parts[..], ["projects", _, "locations", _, "keyRings", _, "cryptoKeys", _])
        && parts.iter().all(|part| is_name(part));
    if fits { Ok(key) } else { Err(CustodyError::Key(format!("{key:?} is no resource name of a key"))) }
}

/// Ids of keys and rings are letters, digits, `_` and `-` (Cloud KMS API, `KeyRings.create` and `CryptoKeys.create`);
/// of projects also `.` and `:` in those of a domain.
fn is_name(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    !text.is_empty() && text != "." && text != ".." && text.bytes().all(word)
}

/// The number in the name of a version of `key`.
fn version(key: &str, name: &str) -> Option<String> {
    let number = name.strip_prefix(key)?.strip_prefix("/cryptoKeyVersions/")?;
    is_name(number).then(|| number.to_owned())
}

fn aad(binding: &Binding) -> Vec<u8> {
    format!("constellation.dev/master-secret/1/{}", binding.cluster).into_bytes()
}

/// CRC32C as KMS takes it.
fn checksum(bytes: &[u8]) -> i64 {
    i64::from(crc32c::crc32c(bytes))
}

fn intact(bytes: &[u8], sum: Option<i64>) -> Result<(), CustodyError> {
    if sum == Some(checksum(bytes)) { Ok(()) } else { Err(damaged("its checksum is another")) }
}

fn damaged(why: &str) -> CustodyError {
    CustodyError::Transient(format!("the answer of Cloud KMS can't be used: {why}"))
}

/// What a refusal is about; `invalid` says of whom an invalid argument speaks.
fn refused(
    method: &'static str,
    error: google_cloud_gax::error::Error,
    invalid: impl FnOnce(String) -> CustodyError,
) -> CustodyError {
    let code = error.status().map(|status| status.code);
    match CloudError::from(Refused { method, error }) {
        // A key that is disabled or destroyed.
        CloudError::Unsupported(why) if code == Some(Code::FailedPrecondition) => CustodyError::Key(why),
        CloudError::Unsupported(why) if code == Some(Code::InvalidArgument) => invalid(why),
        CloudError::Denied(why) => CustodyError::Denied(why),
        CloudError::NotFound(why) | CloudError::Unsupported(why) => CustodyError::Key(why),
        CloudError::Throttled { after } => CustodyError::Throttled { after },
        other => CustodyError::Transient(other.to_string()),
    }
}
