//! Reports of SEV-SNP through `/dev/sev-guest`, the way before configfs-tsm.
//!
//! Source: Linux, `include/uapi/linux/sev-guest.h` and `Documentation/virt/coco/sev-guest.rst` (6.1); the response: AMD,
//! "SEV Secure Nested Paging Firmware ABI" (56860) 1.55, table 25 `MSG_REPORT_RSP`.

use std::{fs::File, os::fd::AsFd as _, path::Path};

use rustix::ioctl::{self, Opcode, Updater, opcode};

use super::report::{Attested, Error, Provider, Reporter};
use crate::guest::certificates;

/// The device.
pub const DEVICE: &str = "/dev/sev-guest";
/// Version of the messages.
const VERSION: u8 = 1;
/// Room for an answer, bytes: `struct snp_report_resp`.
const RESPONSE: usize = 4000;
/// Where the report begins: status, size and 24 reserved bytes come before.
const HEADER: usize = 32;
/// Bytes of a report.
const REPORT: usize = 1184;
/// `SNP_GET_EXT_REPORT`: `_IOWR('S', 0x2, struct snp_guest_request_ioctl)`.
const GET_EXTENDED_REPORT: Opcode = opcode::read_write::<Request>(b'S', 2);

/// `struct snp_guest_request_ioctl`.
#[repr(C)]
struct Request {
    version: u8,
    asked: u64,
    response: u64,
    /// Status of the firmware in the lower half, of the host in the upper.
    status: u64,
}

/// `struct snp_ext_report_req`, which begins with `struct snp_report_req`.
#[repr(C)]
struct ReportRequest {
    data: [u8; 64],
    vmpl: u32,
    reserved: [u8; 28],
    certificates: u64,
    length: u32,
}

/// The device, open.
pub struct SevGuest(File);

impl SevGuest {
    /// Opens the device at a path, usually [`DEVICE`].
    ///
    /// # Errors
    /// When it isn't there, or not for us.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::options().read(true).write(true).open(path);
        Ok(Self(file.map_err(|source| Error::Io { doing: "opening the processor's device", source })?))
    }
}

impl Reporter for SevGuest {
    fn attest(&mut self, data: &[u8; 64]) -> Result<Attested, Error> {
        let mut certificates = vec![0u8; certificates::MAX_BYTES];
        let mut response = vec![0u8; RESPONSE];
        let mut asked = ReportRequest {
            data: *data,
            vmpl: 0,
            reserved: [0; 28],
            certificates: certificates.as_mut_ptr().expose_provenance() as u64,
            length: u32::try_from(certificates::MAX_BYTES).map_err(|_| Error::Form("room for certificates"))?,
        };
        let mut request = Request {
            version: VERSION,
            asked: (&raw mut asked).expose_provenance() as u64,
            response: response.as_mut_ptr().expose_provenance() as u64,
            status: 0,
        };
        #[allow(unsafe_code, reason = "the kernel's only interface to the firmware is this call")]
        // SAFETY: the operation's code holds the size of `Request`, which is the kernel's structure field by field
        // (`the_structures_are_the_kernels` below), so the kernel reads and writes no more than it. The three addresses
        // in it are of live, exclusively borrowed memory of this function that outlives the call: `asked` is a
        // `struct snp_ext_report_req`, `response` has the 4000 bytes of a `struct snp_report_resp`, `certificates` has
        // as many bytes as `length` says. All of them are plain bytes and numbers, which are valid whatever is written.
        let done = unsafe { ioctl::ioctl(self.0.as_fd(), Updater::<GET_EXTENDED_REPORT, Request>::new(&mut request)) };
        if let Err(error) = done {
            return Err(refused(request.status)
                .unwrap_or(Error::Io { doing: "asking the processor for a report", source: error.into() }));
        }
        if let Some(error) = refused(request.status) {
            return Err(error);
        }
        Ok(Attested { provider: Provider::Snp, report: report(&response)?.to_vec(), certificates })
    }
}

/// What the status says, unless it is success.
fn refused(status: u64) -> Option<Error> {
    let half = |shift: u32| u32::try_from(status >> shift & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    (status != 0).then(|| Error::Firmware { firmware: half(0), host: half(32) })
}

/// The report in an answer.
///
/// # Errors
/// When the firmware refused, or the answer hasn't its form.
pub fn report(response: &[u8]) -> Result<&[u8], Error> {
    let number = |at: usize| response.get(at..at + 4).and_then(<[u8]>::first_chunk).map(|it| u32::from_le_bytes(*it));
    match (number(0), number(4).map(usize::try_from)) {
        (Some(0), Some(Ok(REPORT))) => response.get(HEADER..HEADER + REPORT).ok_or(Error::Form("answer")),
        (Some(0), _) => Err(Error::Form("report's length")),
        (Some(firmware), _) => Err(Error::Firmware { firmware, host: 0 }),
        (None, _) => Err(Error::Form("answer")),
    }
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;
    use crate::snp::parse::Report;

    /// A genuine report (`vectors/trustee-snp`).
    const GENUINE: &[u8] = include_bytes!("../../vectors/trustee-snp/test-report.bin");

    fn answer(status: u32, size: usize) -> Vec<u8> {
        let mut answer = [status.to_le_bytes(), u32::try_from(size).unwrap().to_le_bytes()].concat();
        answer.resize(HEADER, 0);
        answer.extend_from_slice(GENUINE);
        answer.resize(RESPONSE, 0);
        answer
    }

    #[test]
    fn the_structures_are_the_kernels() {
        // As a C program prints them with `linux/sev-guest.h` of Debian 12; no kernel with such a device has seen them.
        assert_eq!(GET_EXTENDED_REPORT, 0xc020_5302);
        assert_eq!((size_of::<Request>(), offset_of!(Request, asked), offset_of!(Request, status)), (32, 8, 24));
        assert_eq!(size_of::<ReportRequest>(), 112);
        let offsets = (offset_of!(ReportRequest, certificates), offset_of!(ReportRequest, length));
        assert_eq!(offsets, (96, 104));
    }

    #[test]
    fn a_genuine_report_is_taken_out_of_its_answer_and_a_wrong_answer_refused() {
        let good = answer(0, REPORT);
        assert_eq!(report(&good).unwrap(), GENUINE);
        assert!(Report::parse(report(&good).unwrap()).is_ok());
        assert!(matches!(report(&answer(0x16, REPORT)), Err(Error::Firmware { firmware: 0x16, host: 0 })));
        assert!(matches!(report(&answer(0, REPORT + 1)), Err(Error::Form("report's length"))));
        assert!(matches!(report(&good[..HEADER + REPORT - 1]), Err(Error::Form("answer"))));
        assert!(matches!(report(&[]), Err(Error::Form("answer"))));
    }

    #[test]
    fn the_hosts_refusal_is_told_apart_from_the_firmwares() {
        assert!(refused(0).is_none());
        assert!(matches!(refused(1 << 32), Some(Error::Firmware { firmware: 0, host: 1 })));
        assert!(matches!(refused(0x16), Some(Error::Firmware { firmware: 0x16, host: 0 })));
    }

    #[test]
    fn a_file_that_is_no_such_device_gives_no_report() {
        assert!(matches!(SevGuest::open(Path::new("/dev/null")).unwrap().attest(&[0; 64]), Err(Error::Io { .. })));
        assert!(SevGuest::open(Path::new("/nonexistent")).is_err());
    }
}
