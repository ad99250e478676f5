//! What the machine proves itself with: its TPM, and in a cloud what speaks for that.
//!
//! Which of them the firmware's tables choose is no matter of trust: the verifier's platform says what it wants to see.

use std::path::Path;

use constellation_attestation::{
    collect::{
        AttestationKey, Tpm,
        machine::{BoxError, Cloud, Service},
        nitro,
        report::Reporter,
        sev_guest::{self, SevGuest},
        transport::Device,
        tsm::{REPORTS, Tsm},
    },
    guest::thim::{self, Certificates},
};
use tokio::{runtime::Handle, task::block_in_place};

use crate::{error::Error, metadata::Metadata, platform::Platform};

/// Opens the TPM with the key that the platform's cloud speaks for.
///
/// # Errors
/// When the TPM, or what speaks for it, can't be opened.
pub fn open(platform: Platform, tcti: &str, authority: &str) -> Result<Tpm, Error> {
    let key = match platform {
        Platform::Aws => AttestationKey::Aws,
        Platform::Azure => AttestationKey::Azure,
        Platform::Gcp => AttestationKey::Google,
        Platform::Local => AttestationKey::Own,
    };
    let tpm = Tpm::open_with(tcti, key)?;
    Ok(match platform {
        Platform::Aws => {
            let wire = Device::open(Path::new(nitro::DEVICE));
            let wire =
                wire.map_err(|error| Error::Nitro(nitro::Error::Tpm("opening the TPM's device", error.into())))?;
            tpm.in_cloud(Cloud::Aws { wire: Box::new(wire), reporter: reporter()? })
        }
        Platform::Azure => {
            let service = Metadata { authority: authority.to_owned() };
            tpm.in_cloud(Cloud::Azure(Box::new(Azure(service))))
        }
        Platform::Gcp => tpm.in_cloud(Cloud::Google(reporter()?)),
        Platform::Local => tpm,
    })
}

/// The processor, if it reports: through the kernel's common interface, or AMD's own in older kernels.
fn reporter() -> Result<Option<Box<dyn Reporter>>, Error> {
    if let Some(tsm) = Tsm::find(Path::new(REPORTS)) {
        return Ok(Some(Box::new(tsm)));
    }
    let device = Path::new(sev_guest::DEVICE);
    if !device.exists() {
        return Ok(None);
    }
    Ok(Some(Box::new(SevGuest::open(device).map_err(Error::Report)?)))
}

/// Azure's services for its guests.
struct Azure(Metadata);

impl Azure {
    /// Evidence is collected where blocking is allowed; the services answer in some hundred milliseconds.
    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<Vec<u8>, Error> {
        block_in_place(|| Handle::current().block_on(self.0.send(method, path, headers, body)))
            .map(|answer| answer.body)
    }
}

impl Service for Azure {
    /// Microsoft, "Trusted Hardware Identity Management", "How do I request collateral in a confidential VM".
    fn certificates(&mut self) -> Result<Certificates, BoxError> {
        let answer = self.ask("GET", "/metadata/THIM/amd/certification", &[("metadata", "true")], Vec::new())?;
        Ok(Certificates::parse(&answer)?)
    }

    /// Microsoft, "Guest attestation for confidential virtual machines", "TD quote".
    fn quote(&mut self, report: &[u8]) -> Result<Vec<u8>, BoxError> {
        let headers = [("content-type", "application/json")];
        let answer = self.ask("POST", "/acc/tdquote", &headers, thim::quote_request(report))?;
        Ok(thim::quote(&answer)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::fake::service;

    #[tokio::test(flavor = "multi_thread")]
    async fn azures_services_are_asked_as_they_want_to_be() {
        let (authority, heads) = service(|head| match head {
            head if head.starts_with("get /metadata/thim/amd/certification ") => (200, "", b"{}".to_vec()),
            head if head.starts_with("post /acc/tdquote ") => (200, "", br#"{"quote":"AA"}"#.to_vec()),
            _ => (404, "", Vec::new()),
        })
        .await;
        let mut azure = Azure(Metadata { authority });
        // Both answers are too little to be believed to be what was asked for; that they came is in the heads.
        assert!(azure.certificates().unwrap_err().to_string().contains("can't be read"));
        let refused = azure.quote(b"report").unwrap_err().to_string();
        assert!(refused.contains("quote isn't one"), "{refused}");
        let heads = heads.lock().unwrap();
        assert!(heads[0].contains("\r\nmetadata: true\r\n"), "{heads:?}");
        assert!(heads[1].contains("\r\ncontent-type: application/json\r\n"), "{heads:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_service_that_says_no_is_an_error() {
        let (authority, _) = service(|_| (500, "", Vec::new())).await;
        let mut azure = Azure(Metadata { authority });
        assert!(azure.certificates().unwrap_err().to_string().contains("500"));
        assert!(azure.quote(b"report").is_err());
    }
}
