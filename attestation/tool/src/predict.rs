//! `predict`: the registers of a machine that boots an image, from the file alone.

use std::{fmt::Write as _, path::Path};

use constellation_attestation::predict;
use constellation_image::inspect::{self, Report};

use crate::input::{self, Error};

/// Greatest boot executable that is read, bytes: the parser's own limit.
const MAX_EXECUTABLE: u64 = 1 << 30;

/// Predicts the registers for a disk image or a unified kernel image.
///
/// # Errors
/// When the file is neither, or holds a boot stub whose measurements aren't known.
pub fn run(image: &Path) -> Result<Report, Error> {
    let named = |error: &dyn std::error::Error| Error::value(image.display().to_string(), error);
    if !is_executable(image)? {
        return inspect::predict(image).map_err(|e| named(&e));
    }
    let found = predict::predict(&input::read_up_to(image, MAX_EXECUTABLE)?).map_err(|e| named(&e))?;
    Ok(Report {
        pcrs: found.to_hex(),
        events: found.events_to_hex(),
        authenticode: hex::encode(found.authenticode),
        command_line: found.command_line,
    })
}

/// For people.
#[must_use]
pub fn to_text(report: &Report) -> String {
    let mut text = String::new();
    for (register, values) in &report.pcrs {
        let _ = writeln!(text, "PCR {register:2} {}", values.join(" or "));
    }
    let _ = writeln!(text, "authenticode {}\ncommand line {}", report.authenticode, report.command_line);
    text
}

/// Whether a file begins as a portable executable does (Microsoft PE/COFF, "MS-DOS Stub").
fn is_executable(path: &Path) -> Result<bool, Error> {
    use std::io::Read as _;
    let refuse = |source| Error::Read { path: path.to_owned(), source };
    let mut start = Vec::new();
    std::fs::File::open(path).map_err(refuse)?.take(2).read_to_end(&mut start).map_err(refuse)?;
    Ok(start == b"MZ")
}
