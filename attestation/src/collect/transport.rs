//! The way to a TPM: a device of the kernel, or a software TPM's socket. Calls block.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    thread::sleep,
    time::Duration,
};

use crate::guest::wire::{self, Command, HEADER, MAX_RESPONSE};

/// `TPM_RC_YIELDED`, `TPM_RC_TESTING`, `TPM_RC_NV_RATE` and `TPM_RC_RETRY` (TPM 2.0 Library, part 2, 6.6.3): the command
/// is to be sent again. Linux does so for the second and the last, for two seconds (`tpm_transmit`); nobody does it for a
/// software TPM.
const AGAIN: [u32; 4] = [0x908, 0x90a, 0x920, 0x922];
/// Pauses before that double from this one, as in Linux.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// How often: pauses of 0.6 s in all.
const REPEATS: u32 = 5;
/// Longest wait for a software TPM.
const SOCKET: Duration = Duration::from_mins(1);

/// Why a command had no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The TPM's address has another form.
    #[error("{0:?} is no way to a TPM: it is device:PATH, or swtpm:host=HOST,port=PORT")]
    Address(String),
    /// The TPM can't be reached, or gave no answer.
    #[error("the TPM can't be reached, or gave no answer")]
    Io(#[from] io::Error),
    /// The TPM refused, or its answer makes no sense.
    #[error(transparent)]
    Answer(#[from] wire::Error),
}

/// Carries commands to a TPM as bytes. Calls block.
pub trait Wire {
    /// Sends one command and receives its answer, of at most [`MAX_RESPONSE`] bytes.
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>>;
}

impl<W: Wire + ?Sized> Wire for &mut W {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        (**self).exchange(command)
    }
}

/// An answer that says yes, see [`wire::Answer`].
#[derive(Debug)]
pub struct Answered {
    /// The handle of what was made; zero, which is a register's, of a command that makes nothing.
    pub handle: u32,
    /// The parameters.
    pub parameters: Vec<u8>,
}

/// Has a TPM carry out a command, again while it asks for that.
///
/// # Errors
/// When it can't be reached, refuses, or answers with something else.
pub fn send(wire: &mut dyn Wire, command: &Command) -> Result<Answered, Error> {
    let bytes = command.to_bytes();
    let mut repeats = 0;
    loop {
        let response = wire.exchange(&bytes)?;
        match command.answer(&response) {
            Err(wire::Error::Refused(code)) if AGAIN.contains(&code) && repeats < REPEATS => {
                sleep(FIRST_PAUSE * 2_u32.pow(repeats));
                repeats += 1;
            }
            answer => {
                let wire::Answer { handle, parameters } = answer?;
                return Ok(Answered { handle: handle.unwrap_or_default(), parameters: parameters.to_vec() });
            }
        }
    }
}

/// The way to the TPM at an address, for example `device:/dev/tpmrm0` or `swtpm:host=127.0.0.1,port=2321`.
///
/// # Errors
/// When it isn't one, or there is no TPM.
pub fn open(address: &str) -> Result<Box<dyn Wire + Send>, Error> {
    if let Some(path) = address.strip_prefix("device:") {
        return Ok(Box::new(Device::open(Path::new(path))?));
    }
    let place = address.strip_prefix("swtpm:host=").and_then(|rest| rest.split_once(",port="));
    let port = place.and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
    let (host, port) = port.ok_or_else(|| Error::Address(address.to_owned()))?;
    Ok(Box::new(Socket { host, port }))
}

/// A TPM's device.
pub struct Device(File);

impl Device {
    /// Opens it. Of the TPM itself, not its resource manager, only one program can have it open.
    ///
    /// # Errors
    /// When it isn't there, or in use.
    pub fn open(path: &Path) -> io::Result<Self> {
        File::options().read(true).write(true).open(path).map(Self)
    }
}

impl Wire for Device {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(command)?;
        // The driver gives an answer whole in one read.
        let mut response = vec![0; MAX_RESPONSE];
        let length = self.0.read(&mut response)?;
        response.truncate(length);
        Ok(response)
    }
}

/// A software TPM, which serves one connection at a time: each command has its own, so that others get their turn.
struct Socket {
    host: String,
    port: u16,
}

impl Wire for Socket {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect((self.host.as_str(), self.port))?;
        stream.set_read_timeout(Some(SOCKET))?;
        stream.write_all(command)?;
        let mut response = vec![0; HEADER];
        stream.read_exact(&mut response)?;
        let size = response.get(2..6).and_then(|size| <[u8; 4]>::try_from(size).ok()).map_or(0, u32::from_be_bytes);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if !(HEADER..=MAX_RESPONSE).contains(&size) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer of a length that none has"));
        }
        response.resize(size, 0);
        stream.read_exact(response.get_mut(HEADER..).unwrap_or_default())?;
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says this code so often before it says yes.
    struct Busy(u32, u32);

    impl Wire for Busy {
        fn exchange(&mut self, _: &[u8]) -> io::Result<Vec<u8>> {
            let code = if self.1 == 0 { 0 } else { self.0 };
            self.1 = self.1.saturating_sub(1);
            Ok([&[0x80, 0x01, 0, 0, 0, 10][..], &code.to_be_bytes()].concat())
        }
    }

    #[test]
    fn a_tpm_that_asks_for_it_is_sent_the_command_again_and_one_that_refuses_is_not() {
        let command = Command::new(0x17a, &[]);
        for code in AGAIN {
            assert!(send(&mut Busy(code, 1), &command).is_ok(), "{code:#x}");
        }
        assert!(send(&mut Busy(0x922, REPEATS), &command).is_ok());
        let without_end = send(&mut Busy(0x922, REPEATS + 1), &command);
        assert!(matches!(without_end, Err(Error::Answer(wire::Error::Refused(0x922)))), "{without_end:?}");
        let refused = send(&mut Busy(0x921, 1), &command);
        assert!(matches!(refused, Err(Error::Answer(wire::Error::Refused(0x921)))), "{refused:?}");
    }

    #[test]
    fn what_is_no_address_is_told_what_one_is() {
        for wrong in ["", "/dev/tpmrm0", "swtpm:host=localhost", "swtpm:host=localhost,port=x", "mssim:"] {
            let told = open(wrong).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(told.contains("device:PATH"), "{wrong}: {told}");
        }
        assert!(matches!(open("device:/nowhere"), Err(Error::Io(_))));
    }
}
