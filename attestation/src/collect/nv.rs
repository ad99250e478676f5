//! NV indices of the TPM: what a cloud keeps there for its guests, with the owner's empty authorisation.

use super::{Doing as _, Error, Tpm, keys::exists, send, transport::Wire};
use crate::guest::{
    commands::{self, CHUNK, Index},
    wire,
};

/// Greatest index that is read, bytes: Azure's report has 2600, certificates up to 2 KiB.
const MAX_BYTES: u16 = 16 * 1024;

impl Tpm {
    /// What an NV index holds.
    ///
    /// # Errors
    /// [`Error::NoIndex`] when there is none.
    pub fn read_nv(&mut self, index: u32) -> Result<Vec<u8>, Error> {
        read(&mut *self.wire, index)
    }

    /// Writes an NV index whole, and defines it first if it isn't there.
    ///
    /// # Errors
    /// When it has another size, or isn't ours to write.
    pub fn write_nv(&mut self, index: u32, bytes: &[u8]) -> Result<(), Error> {
        const DOING: &str = "writing an NV index";
        let size = u16::try_from(bytes.len()).map_err(|_| Error::Unexpected("the size of an NV index"))?;
        if !exists(&mut *self.wire, index)? {
            send(&mut *self.wire, "defining an NV index", &Index(index).define(size))?;
        }
        by_chunks(bytes, |chunk, at| send(&mut *self.wire, DOING, &Index(index).write(chunk, at)).map(drop))
    }
}

/// What an index holds.
pub(super) fn read(wire: &mut dyn Wire, index: u32) -> Result<Vec<u8>, Error> {
    const DOING: &str = "reading an NV index";
    if !exists(wire, index)? {
        return Err(Error::NoIndex(index));
    }
    let public = send(wire, DOING, &commands::read_index(index))?;
    let size = commands::index_size(&public.parameters).doing(DOING)?;
    if size > MAX_BYTES {
        return Err(Error::Unexpected("the size of an NV index"));
    }
    in_chunks(size, |ask, at| {
        let read = send(wire, DOING, &Index(index).read(ask, at))?;
        whole(&read.parameters, ask).doing(DOING)
    })
}

/// Writes bytes, which are fewer than 65,536, by writes of some of them at an offset.
pub(super) fn by_chunks<E>(bytes: &[u8], mut write: impl FnMut(&[u8], u16) -> Result<(), E>) -> Result<(), E> {
    bytes.chunks(CHUNK.into()).zip((0..=u16::MAX).step_by(CHUNK.into())).try_for_each(|(chunk, at)| write(chunk, at))
}

/// So many bytes, by reads of a number of bytes at an offset.
pub(super) fn in_chunks<E>(size: u16, mut read: impl FnMut(u16, u16) -> Result<Vec<u8>, E>) -> Result<Vec<u8>, E> {
    let mut bytes = Vec::with_capacity(size.into());
    for at in (0..size).step_by(CHUNK.into()) {
        bytes.extend(read((size - at).min(CHUNK), at)?);
    }
    Ok(bytes)
}

/// What a read gave, if it is as much as it asked for.
pub(super) fn whole(parameters: &[u8], asked: u16) -> Result<Vec<u8>, wire::Error> {
    let chunk = wire::unsized_exact(parameters)?;
    if chunk.len() == usize::from(asked) { Ok(chunk.to_vec()) } else { Err(wire::Error::Form) }
}
