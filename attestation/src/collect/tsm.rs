//! Reports of the processor through Linux' configfs-tsm, for SEV-SNP and TDX.
//!
//! Source: Linux, `Documentation/ABI/testing/configfs-tsm-report` (6.7): one folder is one request; `inblob` is written,
//! `outblob` and `auxblob` are read, and `generation` counts the writes, so that nobody else's request is taken for ours.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use super::report::{Attested, Error, Provider, Reporter};

/// Where the folders are made.
pub const REPORTS: &str = "/sys/kernel/config/tsm/report";
/// Greatest report, bytes: `TSM_OUTBLOB_MAX` of `include/linux/tsm.h`, for either blob.
const MAX_BLOB: usize = 32 * 1024;
/// Longest text of an attribute.
const MAX_TEXT: usize = 64;
/// Writes of one request: `inblob`.
const WRITES: &str = "1";

/// Files of one request. The kernel's are the real ones.
pub trait Entry {
    /// Writes an attribute whole.
    fn write(&mut self, attribute: &str, bytes: &[u8]) -> io::Result<()>;
    /// Reads at most so many bytes of an attribute, and one more if there are more.
    fn read(&mut self, attribute: &str, most: usize) -> io::Result<Vec<u8>>;
}

/// The kernel's interface.
pub struct Tsm {
    reports: PathBuf,
}

impl Tsm {
    /// The interface below a folder, usually [`REPORTS`], if the kernel has it.
    #[must_use]
    pub fn find(reports: &Path) -> Option<Self> {
        reports.is_dir().then(|| Self { reports: reports.to_owned() })
    }
}

impl Reporter for Tsm {
    fn attest(&mut self, data: &[u8; 64]) -> Result<Attested, Error> {
        request(&mut Folder::make(&self.reports)?, data)
    }
}

/// One request, from the first write to the last read.
///
/// # Errors
/// When an attribute can't be used, is too long, or somebody else wrote into the request.
pub fn request(entry: &mut dyn Entry, data: &[u8; 64]) -> Result<Attested, Error> {
    let failed = |doing| move |source| Error::Io { doing, source };
    let provider = text(entry, "provider")?;
    let provider = match provider.as_str() {
        "sev_guest" => Provider::Snp,
        "tdx_guest" => Provider::Tdx,
        _ => return Err(Error::Provider(provider)),
    };
    entry.write("inblob", data).map_err(failed("asking for a report"))?;
    let report = bounded(entry.read("outblob", MAX_BLOB).map_err(failed("reading the report"))?)?;
    let certificates = match entry.read("auxblob", MAX_BLOB) {
        Ok(blob) => bounded(blob)?,
        // Other processors have none, and some hosts give none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(Error::Io { doing: "reading the report's certificates", source }),
    };
    if text(entry, "generation")? != WRITES {
        return Err(Error::Conflict);
    }
    if report.is_empty() {
        return Err(Error::Form("report"));
    }
    Ok(Attested { provider, report, certificates })
}

fn text(entry: &mut dyn Entry, attribute: &'static str) -> Result<String, Error> {
    let bytes = entry.read(attribute, MAX_TEXT).map_err(|source| Error::Io { doing: attribute, source })?;
    let text = String::from_utf8(bytes).ok().filter(|text| text.len() <= MAX_TEXT).ok_or(Error::Form(attribute))?;
    Ok(text.trim().to_owned())
}

fn bounded(blob: Vec<u8>) -> Result<Vec<u8>, Error> {
    if blob.len() > MAX_BLOB { Err(Error::Form("report's length")) } else { Ok(blob) }
}

/// A folder of our own, removed when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn make(reports: &Path) -> Result<Self, Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("constellation-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = reports.join(name);
        // A folder that is there already is somebody else's request.
        fs::create_dir(&path).map_err(|source| Error::Io { doing: "making a request for a report", source })?;
        Ok(Self(path))
    }
}

impl Entry for Folder {
    fn write(&mut self, attribute: &str, bytes: &[u8]) -> io::Result<()> {
        // The kernel makes the files; one that isn't there must not be made.
        let mut file = fs::File::options().write(true).open(self.0.join(attribute))?;
        io::Write::write_all(&mut file, bytes)
    }

    fn read(&mut self, attribute: &str, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        fs::File::open(self.0.join(attribute))?.take(most as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // configfs removes a folder with its files; what stays costs the kernel one report's memory.
        let _ = fs::remove_dir(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request as the kernel keeps one: a write counts and makes the report stale, a read makes it.
    struct Kernel {
        provider: &'static str,
        inblob: Option<Vec<u8>>,
        generation: u32,
        certificates: Option<Vec<u8>>,
        /// Somebody who writes into the same request before the report is read.
        intruder: Option<[u8; 64]>,
        most: usize,
    }

    impl Kernel {
        fn new() -> Self {
            let certificates = Some(vec![0; 8]);
            Self { provider: "sev_guest\n", inblob: None, generation: 0, certificates, intruder: None, most: 1184 }
        }
    }

    impl Entry for Kernel {
        fn write(&mut self, attribute: &str, bytes: &[u8]) -> io::Result<()> {
            assert_eq!(attribute, "inblob");
            self.inblob = Some(bytes.to_vec());
            self.generation += 1;
            if let Some(theirs) = self.intruder.take() {
                self.write("inblob", &theirs)?;
            }
            Ok(())
        }

        fn read(&mut self, attribute: &str, most: usize) -> io::Result<Vec<u8>> {
            let bytes = match attribute {
                "provider" => self.provider.into(),
                "generation" => format!("{}\n", self.generation).into_bytes(),
                "outblob" => {
                    let data = self.inblob.clone().ok_or(io::ErrorKind::InvalidInput)?;
                    data.into_iter().cycle().take(self.most).collect()
                }
                "auxblob" => self.certificates.clone().ok_or(io::ErrorKind::NotFound)?,
                _ => return Err(io::ErrorKind::NotFound.into()),
            };
            Ok(bytes.into_iter().take(most + 1).collect())
        }
    }

    #[test]
    fn the_report_is_about_what_was_asked_and_comes_with_its_certificates() {
        let first = request(&mut Kernel::new(), &[1; 64]).unwrap();
        assert_eq!((first.provider, &first.report[..64], first.certificates.len()), (Provider::Snp, &[1; 64][..], 8));
        assert_ne!(first.report, request(&mut Kernel::new(), &[2; 64]).unwrap().report);
        let mut tdx = Kernel { provider: "tdx_guest\n", certificates: None, ..Kernel::new() };
        let quote = request(&mut tdx, &[3; 64]).unwrap();
        assert_eq!((quote.provider, quote.certificates), (Provider::Tdx, Vec::new()));
    }

    #[test]
    fn a_request_with_one_thing_wrong_gives_no_report() {
        let mut written = Kernel { intruder: Some([9; 64]), ..Kernel::new() };
        assert!(matches!(request(&mut written, &[1; 64]), Err(Error::Conflict)));
        let mut unknown = Kernel { provider: "sample\n", ..Kernel::new() };
        assert!(matches!(request(&mut unknown, &[1; 64]), Err(Error::Provider(name)) if name == "sample"));
        let mut endless = Kernel { most: 2 * MAX_BLOB, ..Kernel::new() };
        assert!(matches!(request(&mut endless, &[1; 64]), Err(Error::Form("report's length"))));
        let mut nothing = Kernel { most: 0, ..Kernel::new() };
        assert!(matches!(request(&mut nothing, &[1; 64]), Err(Error::Form("report"))));
    }

    #[test]
    fn a_folder_that_is_no_kernels_gives_no_report_and_is_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let mut tsm = Tsm::find(folder.path()).unwrap();
        assert!(matches!(tsm.attest(&[1; 64]), Err(Error::Io { doing: "provider", .. })));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(Tsm::find(&folder.path().join("none")).is_none());
    }
}
