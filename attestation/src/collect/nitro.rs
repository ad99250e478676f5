//! The attestation document of a `NitroTPM`, by its vendor's command through a buffer in NV memory.
//!
//! The way of AWS's `nitro-tpm-attest`: define a buffer with a password, write the request, send the command, read the
//! answer from the same buffer, remove it. The password keeps other programs of this guest out; against the host it is
//! nothing, nor has it to be: AWS signs the document.

use zeroize::Zeroizing;

use super::{
    nv,
    transport::{self, Answered, Wire},
};
use crate::guest::{
    commands::Buffer,
    nsm::{self, Request},
    wire::Command,
};

/// The TPM itself: the kernel's resource manager (`/dev/tpmrm0`) passes only commands on that it knows.
pub const DEVICE: &str = "/dev/tpm0";
/// Bytes of the buffer: a document has almost five KiB, and what the caller adds three at most.
pub const BUFFER: u16 = 8192;
/// Our place among the owner's indices (TCG, "Registry of reserved TPM 2.0 handles", 2.2.2: 0x01800000 to 0x01bfffff).
const INDEX: u32 = 0x0180_0c57;
/// Bytes of the password.
const PASSWORD: usize = 32;

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The answer is none.
    #[error(transparent)]
    Nsm(#[from] nsm::Error),
    /// The random source failed.
    #[error("the random source failed")]
    Random,
    /// The request is longer than the buffer.
    #[error("the request has {0} bytes, more than the buffer")]
    Request(usize),
    /// The TPM can't be reached, or refused a command.
    #[error("{0} failed")]
    Tpm(&'static str, #[source] transport::Error),
}

/// A `NitroTPM`.
pub struct NitroTpm<W> {
    wire: W,
    buffer: u16,
}

impl<W: Wire> NitroTpm<W> {
    /// Reached by a wire, with a buffer of [`BUFFER`] bytes.
    pub fn new(wire: W) -> Self {
        Self { wire, buffer: BUFFER }
    }

    /// Uses a buffer of another size, bytes.
    #[must_use]
    pub fn with_buffer(self, buffer: u16) -> Self {
        Self { buffer, ..self }
    }

    /// Has AWS attest.
    ///
    /// # Errors
    /// When the TPM refuses a command; the buffer is removed all the same.
    pub fn document(&mut self, request: &Request<'_>) -> Result<Vec<u8>, Error> {
        let (wire, size): (&mut dyn Wire, u16) = (&mut self.wire, self.buffer);
        let request = request.to_bytes()?;
        if request.len() > usize::from(size) {
            return Err(Error::Request(request.len()));
        }
        let mut password = Zeroizing::new([0; PASSWORD]);
        aws_lc_rs::rand::fill(password.as_mut()).map_err(|_| Error::Random)?;
        let buffer = Buffer { index: INDEX, auth: password.as_slice() };
        // One that a process left which died; there usually is none, and then the TPM says so.
        let _ = send(wire, "removing an old buffer", &buffer.undefine());
        send(wire, "making a buffer", &buffer.define(size))?;
        let answer = through(wire, &buffer, size, &request);
        let removed = send(wire, "removing the buffer", &buffer.undefine());
        let answer = answer?;
        removed?;
        Ok(nsm::document(&answer)?.to_vec())
    }
}

fn through(wire: &mut dyn Wire, buffer: &Buffer<'_>, size: u16, request: &[u8]) -> Result<Vec<u8>, Error> {
    const READING: &str = "reading the answer";
    nv::by_chunks(request, |chunk, at| send(wire, "writing the request", &buffer.write(chunk, at)).map(drop))?;
    send(wire, "asking for a document", &buffer.nsm_request())?;
    nv::in_chunks(size, |ask, at| {
        let read = send(wire, READING, &buffer.read(ask, at))?;
        nv::whole(&read.parameters, ask).map_err(|error| Error::Tpm(READING, error.into()))
    })
}

fn send(wire: &mut dyn Wire, doing: &'static str, command: &Command) -> Result<Answered, Error> {
    transport::send(wire, command).map_err(|error| Error::Tpm(doing, error))
}
