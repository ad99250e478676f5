//! The end of a log, fit for a status message.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

/// The last `lines` lines that hold anything, joined by " | ", without control sequences.
pub(super) fn tail(text: &[u8], lines: usize) -> String {
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
    fn a_missing_file_has_no_tail() {
        assert_eq!(tail_of(Path::new("/nonexistent/console.log"), 3), "");
    }
}
