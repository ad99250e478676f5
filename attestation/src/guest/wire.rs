//! Commands to a TPM as bytes, and its answers: the structure that all of them share.
//!
//! Source: TCG, "TPM 2.0 Library" 1.59: part 1, 18 (structure), 19.4 (password authorisation); part 2 (types). All numbers
//! are big endian.

use crate::tpm::Reader;

/// Greatest answer, bytes: `TPM_BUFSIZE` of Linux, `drivers/char/tpm/tpm.h`.
pub const MAX_RESPONSE: usize = 4096;
/// Bytes of a header: tag, size, code.
pub const HEADER: usize = 10;

/// `TPM_ST_NO_SESSIONS` and `TPM_ST_SESSIONS` (part 2, 6.9).
const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
/// `TPM_RS_PW` (part 2, 7.4).
const PASSWORD: u32 = 0x4000_0009;
/// `TPMA_SESSION_CONTINUESESSION` (part 2, 8.4).
const CONTINUE: u8 = 1;

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

impl From<crate::tpm::Error> for Error {
    fn from(_: crate::tpm::Error) -> Self {
        Self::Form
    }
}

/// A command, put together in the order of its parts.
#[derive(Clone)]
pub struct Command {
    code: u32,
    handles: Vec<u8>,
    sessions: Vec<u8>,
    parameters: Vec<u8>,
    makes_handle: bool,
}

/// What follows the header of an answer that says yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The handle of what was made, of a command that makes something.
    pub handle: Option<u32>,
    /// The parameters.
    pub parameters: &'a [u8],
}

impl Command {
    /// With this code (`TPM_CC`) and handles.
    #[must_use]
    pub fn new(code: u32, handles: &[u32]) -> Self {
        let handles = handles.iter().flat_map(|handle| handle.to_be_bytes()).collect();
        Self { code, handles, sessions: Vec::new(), parameters: Vec::new(), makes_handle: false }
    }

    /// Of whose answer a handle is the first part.
    #[must_use]
    pub fn makes_handle(self) -> Self {
        Self { makes_handle: true, ..self }
    }

    /// The next handle is authorised by a password (part 1, 19.4).
    #[must_use]
    pub fn password(self, password: &[u8]) -> Self {
        self.authorised(PASSWORD, 0, password)
    }

    /// The next handle is authorised by a policy session that has no key of its own, and goes on after it.
    #[must_use]
    pub fn policy(self, session: u32) -> Self {
        self.authorised(session, CONTINUE, &[])
    }

    /// Session, no nonce, attributes, proof.
    fn authorised(mut self, session: u32, attributes: u8, proof: &[u8]) -> Self {
        self.sessions.extend_from_slice(&session.to_be_bytes());
        self.sessions.extend_from_slice(&[0, 0, attributes]);
        self.sessions.extend_from_slice(&sized(proof));
        self
    }

    /// Parameters after those that are there.
    #[must_use]
    pub fn with(mut self, parameters: &[u8]) -> Self {
        self.parameters.extend_from_slice(parameters);
        self
    }

    /// A parameter with its length before it, a `TPM2B`.
    #[must_use]
    pub fn with_sized(self, parameter: &[u8]) -> Self {
        self.with(&sized(parameter))
    }

    /// As it is sent.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = self.handles.clone();
        if !self.sessions.is_empty() {
            body.extend_from_slice(&length32(self.sessions.len()));
            body.extend_from_slice(&self.sessions);
        }
        body.extend_from_slice(&self.parameters);
        let tag = if self.sessions.is_empty() { NO_SESSIONS } else { SESSIONS };
        [&tag.to_be_bytes()[..], &length32(HEADER + body.len()), &self.code.to_be_bytes(), &body].concat()
    }

    /// What a TPM's answer to this command says.
    ///
    /// # Errors
    /// When the TPM refused, or the lengths of answer and parameters don't fit each other. What follows the parameters isn't read:
    /// it authorises the answer to us, and we believe none for its sake.
    pub fn answer<'a>(&self, response: &'a [u8]) -> Result<Answer<'a>, Error> {
        if response.len() > MAX_RESPONSE {
            return Err(Error::Form);
        }
        let mut reader = Reader(response);
        let (tag, size, code) = (reader.u16("tag")?, reader.u32("size")?, reader.u32("code")?);
        if usize::try_from(size).ok() != Some(response.len()) {
            return Err(Error::Form);
        }
        if code != 0 {
            // An answer that says no ends with its code (part 1, 18.4).
            return Err(if tag == NO_SESSIONS && reader.0.is_empty() { Error::Refused(code) } else { Error::Form });
        }
        if tag != (if self.sessions.is_empty() { NO_SESSIONS } else { SESSIONS }) {
            return Err(Error::Form);
        }
        let handle = if self.makes_handle { Some(reader.u32("handle")?) } else { None };
        if self.sessions.is_empty() {
            return Ok(Answer { handle, parameters: reader.0 });
        }
        let length = usize::try_from(reader.u32("parameterSize")?).map_err(|_| Error::Form)?;
        Ok(Answer { handle, parameters: reader.take(length, "parameters")? })
    }
}

/// What exactly one `TPM2B` holds.
///
/// # Errors
/// When the bytes are anything else.
pub fn unsized_exact(bytes: &[u8]) -> Result<&[u8], Error> {
    let mut reader = Reader(bytes);
    let inner = reader.sized("TPM2B")?;
    reader.end()?;
    Ok(inner)
}

/// A `TPM2B`; what we write is shorter than 64 KiB.
pub(super) fn sized(bytes: &[u8]) -> Vec<u8> {
    let [low, high, ..] = bytes.len().to_le_bytes();
    [&[high, low], bytes].concat()
}

fn length32(length: usize) -> [u8; 4] {
    let [a, b, c, d, ..] = length.to_le_bytes();
    [d, c, b, a]
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] = &[0x80, 0x02, 0, 0, 0, 22, 0, 0, 0, 0, 0, 0, 0, 3, 0, 1, 7, 0, 0, 1, 0, 0];
    const BARE: &[u8] = &[0x80, 0x01, 0, 0, 0, 17, 0, 0, 0, 0, 0x80, 0, 0, 1, 0, 1, 7];

    fn bare() -> Command {
        Command::new(0x176, &[])
    }

    fn with_session() -> Command {
        Command::new(0x14e, &[1]).password(b"")
    }

    #[test]
    fn a_command_is_what_the_specification_draws() {
        let read = Command::new(0x14e, &[0x0180_0c57; 2]).password(b"pw").with(&[2, 0, 0, 0x10]);
        let wanted = [
            "8002", "00000025", "0000014e", // with sessions, 37 bytes, TPM2_NV_Read
            "01800c57", "01800c57", // the index, authorised by itself
            "0000000b", "40000009", "0000", "00",
            "00027077", // 11 bytes: a password, no nonce, no attributes, "pw"
            "0200", "0010", // 512 bytes from offset 16
        ];
        assert_eq!(hex::encode(read.to_bytes()), wanted.concat());
        let two = Command::new(0x147, &[1, 2]).password(b"").policy(0x0300_0000).with_sized(&[9]);
        let wanted = [
            "8002", "0000002b", "00000147", "00000001", "00000002", // two handles
            "00000012", "40000009", "0000", "00", "0000", "03000000", "0000", "01",
            "0000", // and a session for each
            "0001", "09",
        ];
        assert_eq!(hex::encode(two.to_bytes()), wanted.concat());
        assert_eq!(hex::encode(bare().to_bytes()), "80010000000a00000176");
    }

    #[test]
    fn a_good_answer_gives_its_parameters_and_a_refusal_its_code() {
        let parameters: &[u8] = &[0, 1, 7];
        assert_eq!(with_session().answer(GOOD), Ok(Answer { handle: None, parameters }));
        assert_eq!(bare().makes_handle().answer(BARE), Ok(Answer { handle: Some(0x8000_0001), parameters }));
        assert_eq!(bare().answer(BARE), Ok(Answer { handle: None, parameters: &BARE[10..] }));
        assert_eq!(unsized_exact(parameters), Ok(&[7][..]));
        for command in [bare(), with_session(), with_session().makes_handle()] {
            assert_eq!(command.answer(&[0x80, 0x01, 0, 0, 0, 10, 0, 0, 1, 0x43]), Err(Error::Refused(0x143)));
        }
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
            assert_eq!(with_session().answer(&bytes), Err(Error::Form), "{why}");
        }
        assert_eq!(bare().answer(GOOD), Err(Error::Form), "a session that wasn't asked for");
        let ends = [0x80, 0x01, 0, 0, 0, 12, 0, 0, 0, 0, 0x80, 0];
        assert_eq!(bare().makes_handle().answer(&ends), Err(Error::Form), "a handle that is cut off");
        assert!(bare().answer(&ends).is_ok());
        for bytes in [&[][..], &[0], &[0, 2, 7], &[0, 0, 7]] {
            assert_eq!(unsized_exact(bytes), Err(Error::Form), "{bytes:?}");
        }
    }
}
