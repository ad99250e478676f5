//! Azure's paravisor: its report, renewed for what the guest wants to have said, and the key that it keeps.
//!
//! Source: Microsoft, "Guest attestation for confidential virtual machines", "Attestation report" and "User data".

use std::{thread, time::Duration};

use super::{Error, Tpm};
use crate::azure::hcl::Report;

/// The key that the paravisor's report speaks for.
pub(super) const KEY: u32 = 0x8100_0003;
/// The paravisor's report.
const REPORT: u32 = 0x0140_0001;
/// What it is to say. A read of the report makes the paravisor fetch another one, but not within two seconds of the last
/// (`OpenHCL`, `tpm_device`, `REPORT_TIMER_PERIOD`), as after a conversation that broke.
const USER_DATA: u32 = 0x0140_0002;
/// Looks for the new report: three seconds in all; the paravisor needs some hundred milliseconds.
const LOOKS: u32 = 60;
const PAUSE: Duration = Duration::from_millis(50);

impl Tpm {
    /// The paravisor's report about `data`.
    ///
    /// # Errors
    /// When the TPM isn't a paravisor's, or the report stays an older one.
    pub fn paravisor_report(&mut self, data: &[u8; 64]) -> Result<Vec<u8>, Error> {
        self.write_nv(USER_DATA, data)?;
        for _ in 0..LOOKS {
            let bytes = self.read_nv(REPORT)?;
            let runtime = Report::parse(&bytes).and_then(|report| report.runtime());
            // Read only to know that it is the new one; whether it is genuine is the verifier's matter.
            match runtime {
                Ok(runtime) if runtime.user_data.0 == data => return Ok(bytes),
                Ok(_) => thread::sleep(PAUSE),
                Err(_) => return Err(Error::Unexpected("a report of the paravisor")),
            }
        }
        Err(Error::Unexpected("a new report of the paravisor"))
    }
}
