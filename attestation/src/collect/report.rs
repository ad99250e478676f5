//! What attests for the processor: one small trait, and what it gives.

use std::io;

/// Who made a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// SEV-SNP: an attestation report.
    Snp,
    /// TDX: a quote.
    Tdx,
}

/// A report and what the host adds to it. None of it is trusted by anybody yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// Who made it.
    pub provider: Provider,
    /// The report or quote.
    pub report: Vec<u8>,
    /// The host's table of certificates ([`guest::certificates`](crate::guest::certificates)); empty if it gives none.
    pub certificates: Vec<u8>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else used our request.
    #[error("somebody else wrote into our request for a report")]
    Conflict,
    /// The firmware or the host refused.
    #[error("the processor's firmware refused with {firmware:#x}, the host with {host:#x}")]
    Firmware {
        /// Status of the firmware.
        firmware: u32,
        /// Status of the host.
        host: u32,
    },
    /// Something hasn't its form.
    #[error("the {0} hasn't its form")]
    Form(&'static str),
    /// The kernel refused.
    #[error("{doing} failed")]
    Io {
        /// What we were doing.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A kind of processor that isn't known.
    #[error("reports of {0:?} aren't known")]
    Provider(String),
}

/// Has the processor attest. Calls block.
pub trait Reporter: Send {
    /// A report about `data`.
    fn attest(&mut self, data: &[u8; 64]) -> Result<Attested, Error>;
}
