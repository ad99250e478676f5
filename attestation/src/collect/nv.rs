//! NV indices of the TPM: what a cloud keeps there for its guests, with the owner's empty authorisation.

use tss_esapi::{
    Context,
    attributes::NvIndexAttributesBuilder,
    handles::{NvIndexHandle, NvIndexTpmHandle, TpmHandle},
    interface_types::{
        algorithm::HashingAlgorithm,
        resource_handles::{NvAuth, Provision},
        session_handles::AuthSession,
    },
    structures::{MaxNvBuffer, NvPublicBuilder},
};

use super::{Doing as _, Error, Tpm, keys::exists};
use crate::guest::wire::CHUNK;

/// Greatest index that is read, bytes: Azure's report has 2600, certificates up to 2 KiB.
const MAX_BYTES: usize = 16 * 1024;

impl Tpm {
    /// What an NV index holds.
    ///
    /// # Errors
    /// [`Error::NoIndex`] when there is none.
    pub fn read_nv(&mut self, index: u32) -> Result<Vec<u8>, Error> {
        read(&mut self.context, index)
    }

    /// Writes an NV index whole, and defines it first if it isn't there.
    ///
    /// # Errors
    /// When it has another size, or isn't ours to write.
    pub fn write_nv(&mut self, index: u32, bytes: &[u8]) -> Result<(), Error> {
        write(&mut self.context, index, bytes)
    }
}

/// What an index holds.
pub(super) fn read(context: &mut Context, index: u32) -> Result<Vec<u8>, Error> {
    let handle = open(context, index)?;
    let read = read_open(context, handle);
    close(context, handle)?;
    read
}

fn write(context: &mut Context, index: u32, bytes: &[u8]) -> Result<(), Error> {
    if !exists(context, index)? {
        define(context, index, bytes.len())?;
    }
    let handle = open(context, index)?;
    let written = write_open(context, handle, bytes);
    close(context, handle)?;
    written
}

fn define(context: &mut Context, index: u32, size: usize) -> Result<(), Error> {
    const DOING: &str = "defining an NV index";
    // Those of Microsoft's own guest library: whoever owns the TPM reads and writes.
    let attributes = NvIndexAttributesBuilder::new()
        .with_owner_write(true)
        .with_owner_read(true)
        .with_auth_write(true)
        .with_auth_read(true)
        .build()
        .doing(DOING)?;
    let public = NvPublicBuilder::new()
        .with_nv_index(NvIndexTpmHandle::new(index).doing(DOING)?)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(attributes)
        .with_data_area_size(size)
        .build()
        .doing(DOING)?;
    let handle = context
        .execute_with_session(Some(AuthSession::Password), |context| {
            context.nv_define_space(Provision::Owner, None, public)
        })
        .doing(DOING)?;
    close(context, handle)
}

fn open(context: &mut Context, index: u32) -> Result<NvIndexHandle, Error> {
    if !exists(context, index)? {
        return Err(Error::NoIndex(index));
    }
    let handle = NvIndexTpmHandle::new(index).doing("opening an NV index")?;
    let handle = context.tr_from_tpm_public(TpmHandle::NvIndex(handle)).doing("opening an NV index")?;
    Ok(handle.into())
}

/// The library keeps a handle's state until it is told that nobody needs it.
fn close(context: &mut Context, handle: NvIndexHandle) -> Result<(), Error> {
    context.tr_close(&mut handle.into()).doing("closing an NV index")
}

fn read_open(context: &mut Context, handle: NvIndexHandle) -> Result<Vec<u8>, Error> {
    const DOING: &str = "reading an NV index";
    let (public, _) = context.nv_read_public(handle).doing(DOING)?;
    let size = public.data_size();
    if size > MAX_BYTES {
        return Err(Error::Unexpected("the size of an NV index"));
    }
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        let (ask, at) = (u16::try_from((size - bytes.len()).min(CHUNK)), u16::try_from(bytes.len()));
        let (Ok(ask), Ok(at)) = (ask, at) else { return Err(Error::Unexpected("the size of an NV index")) };
        let chunk = context
            .execute_with_session(Some(AuthSession::Password), |context| {
                context.nv_read(NvAuth::Owner, handle, ask, at)
            })
            .doing(DOING)?;
        if chunk.len() != usize::from(ask) {
            return Err(Error::Unexpected("reading an NV index"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn write_open(context: &mut Context, handle: NvIndexHandle, bytes: &[u8]) -> Result<(), Error> {
    const DOING: &str = "writing an NV index";
    for (number, chunk) in bytes.chunks(CHUNK).enumerate() {
        let at = u16::try_from(number * CHUNK).map_err(|_| Error::Unexpected("the size of an NV index"))?;
        let chunk = MaxNvBuffer::try_from(chunk).doing(DOING)?;
        context
            .execute_with_session(Some(AuthSession::Password), |context| {
                context.nv_write(NvAuth::Owner, handle, chunk, at)
            })
            .doing(DOING)?;
    }
    Ok(())
}
