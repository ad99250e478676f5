//! The few TPM commands that are sent as bytes, because a TPM library doesn't know one of them, and their answers.
//!
//! Source: TCG, "TPM 2.0 Library" 1.59: part 1, 18 (structure), 19.4 (password authorisation); part 2 (types); part 3, 31
//! (NV commands). All numbers are big endian. The vendor's command is AWS's, from its `nitro-tpm-attest`.

/// Greatest answer, bytes: `TPM_BUFSIZE` of Linux, `drivers/char/tpm/tpm.h`.
pub const MAX_RESPONSE: usize = 4096;
/// Bytes of a header: tag, size, code.
pub const HEADER: usize = 10;
/// Most bytes that one command reads or writes: every TPM takes 512 (PC Client Platform TPM Profile, `NV_BUFFER_MAX`).
pub const CHUNK: usize = 512;

/// `TPM_ST_NO_SESSIONS` and `TPM_ST_SESSIONS` (part 2, 6.9).
const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
/// `TPM_RH_OWNER` and `TPM_RS_PW` (part 2, 7.4).
const OWNER: u32 = 0x4000_0001;
const PASSWORD: u32 = 0x4000_0009;
/// Codes of commands (part 2, 6.5.2).
const NV_UNDEFINE_SPACE: u32 = 0x122;
const NV_DEFINE_SPACE: u32 = 0x12a;
const NV_WRITE: u32 = 0x137;
const NV_READ: u32 = 0x14e;
/// `TPM2_VENDOR_AWS_NSM_REQUEST`.
const NSM_REQUEST: u32 = 0x2000_0001;
/// `TPM_ALG_SHA512`: 64 bytes of authorisation fit.
const SHA512: u16 = 0x000d;
/// `TPMA_NV_AUTHWRITE`, `TPMA_NV_AUTHREAD` (part 2, 13.4).
const ATTRIBUTES: u32 = 1 << 2 | 1 << 18;

/// Why an answer isn't one that can be used.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It isn't an answer to such a command.
    #[error("the TPM's answer has a wrong form")]
    Form,
    /// The TPM says no.
    #[error("the TPM refused with code {0:#x}")]
    Refused(u32),
}

/// An NV index that is used as a buffer, with the password that guards it.
#[derive(Clone, Copy)]
pub struct Buffer<'a> {
    /// Its number.
    pub index: u32,
    /// Its password.
    pub auth: &'a [u8],
}

impl Buffer<'_> {
    /// `TPM2_NV_DefineSpace` of so many bytes.
    #[must_use]
    pub fn define(&self, size: u16) -> Vec<u8> {
        let mut public = self.index.to_be_bytes().to_vec();
        public.extend_from_slice(&SHA512.to_be_bytes());
        public.extend_from_slice(&ATTRIBUTES.to_be_bytes());
        public.extend_from_slice(&sized(&[]));
        public.extend_from_slice(&size.to_be_bytes());
        command(NV_DEFINE_SPACE, &[OWNER], &[], &[sized(self.auth), sized(&public)].concat())
    }

    /// `TPM2_NV_UndefineSpace`.
    #[must_use]
    pub fn undefine(&self) -> Vec<u8> {
        command(NV_UNDEFINE_SPACE, &[OWNER, self.index], &[], &[])
    }

    /// `TPM2_NV_Write`.
    #[must_use]
    pub fn write(&self, data: &[u8], offset: u16) -> Vec<u8> {
        command(NV_WRITE, &[self.index; 2], self.auth, &[sized(data).as_slice(), &offset.to_be_bytes()].concat())
    }

    /// `TPM2_NV_Read`.
    #[must_use]
    pub fn read(&self, size: u16, offset: u16) -> Vec<u8> {
        command(NV_READ, &[self.index; 2], self.auth, &[size.to_be_bytes(), offset.to_be_bytes()].concat())
    }

    /// The vendor's command: reads a request from the buffer and writes the answer into it.
    #[must_use]
    pub fn nsm_request(&self) -> Vec<u8> {
        command(NSM_REQUEST, &[self.index; 2], self.auth, &[])
    }
}

/// Parameters of a successful answer to a command with a session.
///
/// # Errors
/// When the TPM refused, or the answer's lengths don't fit each other.
pub fn parameters(response: &[u8]) -> Result<&[u8], Error> {
    if response.len() > MAX_RESPONSE {
        return Err(Error::Form);
    }
    let (tag, rest) = response.split_first_chunk::<2>().ok_or(Error::Form)?;
    let (size, rest) = number(rest)?;
    let (code, rest) = number(rest)?;
    if usize::try_from(size).ok() != Some(response.len()) {
        return Err(Error::Form);
    }
    match (u16::from_be_bytes(*tag), code) {
        (SESSIONS, 0) => {
            let (length, rest) = number(rest)?;
            let length = usize::try_from(length).map_err(|_| Error::Form)?;
            Ok(rest.split_at_checked(length).ok_or(Error::Form)?.0)
        }
        // An answer that says no ends with its code (part 1, 18.4).
        (NO_SESSIONS, code) if code != 0 && rest.is_empty() => Err(Error::Refused(code)),
        _ => Err(Error::Form),
    }
}

/// What exactly one `TPM2B` holds.
///
/// # Errors
/// When the bytes are anything else.
pub fn unsized_exact(bytes: &[u8]) -> Result<&[u8], Error> {
    match bytes.split_first_chunk::<2>() {
        Some((length, rest)) if usize::from(u16::from_be_bytes(*length)) == rest.len() => Ok(rest),
        _ => Err(Error::Form),
    }
}

fn number(bytes: &[u8]) -> Result<(u32, &[u8]), Error> {
    let (number, rest) = bytes.split_first_chunk::<4>().ok_or(Error::Form)?;
    Ok((u32::from_be_bytes(*number), rest))
}

/// A `TPM2B`; what we write is shorter than 64 KiB.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let [low, high, ..] = bytes.len().to_le_bytes();
    [&[high, low], bytes].concat()
}

/// A command whose first handle is authorised by a password.
fn command(code: u32, handles: &[u32], password: &[u8], parameters: &[u8]) -> Vec<u8> {
    let handles = handles.iter().flat_map(|handle| handle.to_be_bytes());
    // Session, no nonce, no attributes, password (part 1, 19.4).
    let session = [&PASSWORD.to_be_bytes()[..], &sized(&[]), &[0], &sized(password)].concat();
    let [a, b, c, d, ..] = session.len().to_le_bytes();
    let body: Vec<u8> = handles.chain([d, c, b, a]).chain(session).chain(parameters.iter().copied()).collect();
    let [a, b, c, d, ..] = (HEADER + body.len()).to_le_bytes();
    [&SESSIONS.to_be_bytes()[..], &[d, c, b, a], &code.to_be_bytes(), &body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] = &[0x80, 0x02, 0, 0, 0, 22, 0, 0, 0, 0, 0, 0, 0, 3, 0, 1, 7, 0, 0, 1, 0, 0];

    #[test]
    fn a_command_is_what_the_specification_draws() {
        let buffer = Buffer { index: 0x0180_0c57, auth: b"pw" };
        let wanted = [
            "8002", "00000025", "0000014e", // with sessions, 37 bytes, TPM2_NV_Read
            "01800c57", "01800c57", // the index, authorised by itself
            "0000000b", "40000009", "0000", "00",
            "00027077", // 11 bytes: a password, no nonce, no attributes, "pw"
            "0200", "0010", // 512 bytes from offset 16
        ];
        assert_eq!(hex::encode(buffer.read(0x0200, 0x10)), wanted.concat());
        assert_eq!(hex::encode(&buffer.nsm_request()[..18]), "8002000000212000000101800c5701800c57");
    }

    #[test]
    fn a_good_answer_gives_its_parameters_and_a_refusal_its_code() {
        assert_eq!(parameters(GOOD), Ok(&[0, 1, 7][..]));
        assert_eq!(unsized_exact(&[0, 1, 7]), Ok(&[7][..]));
        assert_eq!(parameters(&[0x80, 0x01, 0, 0, 0, 10, 0, 0, 1, 0x43]), Err(Error::Refused(0x143)));
    }

    #[test]
    fn an_answer_with_one_thing_wrong_is_none() {
        let changed = |at: usize, value: u8| {
            let mut bytes = GOOD.to_vec();
            bytes[at] = value;
            bytes
        };
        for (bytes, why) in [
            (Vec::new(), "nothing"),
            (GOOD[..9].to_vec(), "cut in the header"),
            (changed(5, 21), "a size that is too small"),
            (changed(5, 23), "a size that is too great"),
            (changed(1, 1), "no session"),
            (changed(9, 1), "a code with parameters"),
            (changed(13, 9), "parameters past the end"),
            (changed(10, 0xff), "a length beyond everything"),
            (vec![0x80; MAX_RESPONSE + 1], "too long"),
        ] {
            assert_eq!(parameters(&bytes), Err(Error::Form), "{why}");
        }
        for bytes in [&[][..], &[0], &[0, 2, 7], &[0, 0, 7]] {
            assert_eq!(unsized_exact(bytes), Err(Error::Form), "{bytes:?}");
        }
    }
}
