//! A VM's console: its end, fit for a status message, and a bound on all of it.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

/// The last `lines` lines that hold anything, joined by " | ", without control sequences.
#[must_use]
pub fn tail(text: &[u8], lines: usize) -> String {
    let text = plain(&String::from_utf8_lossy(text));
    let kept: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let joined = kept[kept.len().saturating_sub(lines)..].join(" | ");
    let from = joined.len().saturating_sub(LONGEST);
    let from = (from..joined.len()).find(|at| joined.is_char_boundary(*at)).unwrap_or(0);
    joined[from..].to_owned()
}

/// The last lines of a file; nothing if there is no such file.
pub(super) fn tail_of(path: &Path, lines: usize) -> String {
    let end = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(16 * 1024)))?;
        let mut text = Vec::new();
        file.take(16 * 1024).read_to_end(&mut text)?;
        Ok(text)
    };
    tail(&end().unwrap_or_default(), lines)
}

/// Greatest console, bytes: a boot writes below 1 MiB, and a guest that never stops must not fill its host's disk.
const GREATEST: u64 = 16 * 1024 * 1024;
/// What is kept of a greater one.
const KEPT: u64 = 1024 * 1024;

/// Keeps the end of a console that became too great; whether it had. Who writes it appends, and so writes on behind what
/// was kept; a line that comes at this very moment may be lost.
///
/// # Errors
/// When the file can't be read or written. One that isn't there is small.
pub(super) fn bound(path: &Path) -> io::Result<bool> {
    let mut file = match File::options().read(true).append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    let length = file.metadata()?.len();
    if length <= GREATEST {
        return Ok(false);
    }
    file.seek(SeekFrom::Start(length - KEPT))?;
    let mut end = Vec::new();
    Read::by_ref(&mut file).take(KEPT).read_to_end(&mut end)?;
    file.set_len(0)?;
    file.write_all(&end)?;
    Ok(true)
}

/// Conditions and events cut longer messages anyway.
const LONGEST: usize = 1024;

/// Drops terminal control sequences and other control characters but line ends.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                if chars.next_if_eq(&'[').is_some() {
                    // Parameters, then one final byte from '@' to '~'.
                    for c in chars.by_ref() {
                        if ('@'..='~').contains(&c) {
                            break;
                        }
                    }
                } else {
                    chars.next();
                }
            }
            '\n' | '\r' => out.push('\n'),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_holds_the_last_lines_without_colours() {
        let text = b"\x1b[2J\x1b[01;01Hfirst\r\n\r\nsecond\x07\n\x1b[1;31mKernel panic\x1b[0m\n";
        assert_eq!(tail(text, 2), "second | Kernel panic");
        assert_eq!(tail(text, 9), "first | second | Kernel panic");
        assert_eq!(tail(b"", 3), "");
    }

    #[test]
    fn a_very_long_line_is_cut_at_a_character() {
        let text = "é".repeat(2000);
        assert!(tail(text.as_bytes(), 1).len() <= LONGEST);
    }

    #[test]
    fn a_console_that_is_too_great_keeps_its_end_and_goes_on_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        assert!(!bound(&path).unwrap());
        let mut writer = File::options().create(true).append(true).open(&path).unwrap();
        writer.set_len(GREATEST).unwrap();
        assert!(!bound(&path).unwrap());
        writer.write_all(b"the last line\n").unwrap();
        assert!(bound(&path).unwrap());
        writer.write_all(b"one more\n").unwrap();
        assert_eq!(writer.metadata().unwrap().len(), KEPT + 9);
        assert_eq!(tail_of(&path, 2), "the last line | one more");
    }

    #[test]
    fn a_missing_file_has_no_tail() {
        assert_eq!(tail_of(Path::new("/nonexistent/console.log"), 3), "");
    }
}
