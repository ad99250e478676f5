//! Google's TPM: an attestation key that follows from a template in the TPM, and Google's certificate for it.
//!
//! Source: go-tpm-tools, `client/handles.go`: certificate and template (`TPMT_PUBLIC`) of an ECC and of an RSA key.

use super::{
    Doing as _, Error, Tpm,
    keys::{self, Key},
    nv,
    transport::Wire,
    unpad,
};
use crate::guest::commands;

/// Certificate and template of the ECC key, then of the RSA key: the former signs in a tenth of the time.
const KEYS: [(u32, u32); 2] = [(0x01c1_0002, 0x01c1_0003), (0x01c1_0000, 0x01c1_0001)];

/// The certified key: a primary key of the endorsement hierarchy, so the same one each time.
pub(super) fn key(wire: &mut dyn Wire) -> Result<Key, Error> {
    let (_, template) = place(wire)?;
    let index = nv::read(wire, template)?;
    let template = commands::template(&index).doing("reading the attestation key's template")?;
    keys::primary(wire, template, "making the attestation key")
}

fn place(wire: &mut dyn Wire) -> Result<(u32, u32), Error> {
    for (certificate, template) in KEYS {
        if keys::exists(wire, certificate)? && keys::exists(wire, template)? {
            return Ok((certificate, template));
        }
    }
    Err(Error::NoIndex(KEYS[0].0))
}

impl Tpm {
    /// Google's certificate for the attestation key, DER.
    ///
    /// # Errors
    /// When there is none.
    pub fn google_certificate(&mut self) -> Result<Vec<u8>, Error> {
        let (certificate, _) = place(&mut *self.wire)?;
        let mut certificate = self.read_nv(certificate)?;
        unpad(&mut certificate).ok_or(Error::Unexpected("the attestation key's certificate"))?;
        Ok(certificate)
    }
}
