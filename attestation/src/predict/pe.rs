//! Portable executables: sections, and the hash that firmware measures.
//!
//! Microsoft PE/COFF specification, revision 11 (headers, section table); Windows Authenticode Portable Executable
//! Signature Format, 2008, "Calculating the PE image hash".

use crate::tpm::Hash;

/// An image larger than this is refused: 1 GiB is forty times what a node boots.
const LIMIT_BYTES: usize = 1 << 30;
/// The specification's limit for images that are loaded.
const LIMIT_SECTIONS: usize = 96;

/// Why an image was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The embedded kernel command line is not text.
    #[error("the command line in the image is not UTF-8")]
    CommandLine,
    /// Two sections have the same name.
    #[error("two sections are named {0}")]
    Duplicate(String),
    /// The bytes are no portable executable for x86-64, or are cut off.
    #[error("not a portable executable: {0}")]
    Malformed(&'static str),
    /// A section that must be there is not.
    #[error("the image has no section {0}")]
    Missing(String),
    /// The image was made with a boot stub whose measurements are not known here.
    #[error("the image holds systemd-stub {found}; only the measurements of 252 are known")]
    Stub {
        /// The release found.
        found: String,
    },
}

/// One row of the section table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Name, without padding.
    pub name: String,
    /// Exact length of the data in memory.
    pub virtual_size: usize,
    /// Address in memory.
    pub virtual_address: usize,
    /// Length of the data in the file, padded.
    pub raw_size: usize,
    /// Where the data begins in the file.
    pub raw_offset: usize,
}

/// A parsed image. Offsets were checked against the bytes.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    bytes: &'a [u8],
    sections: Vec<Section>,
    checksum_at: usize,
    certificate_entry_at: usize,
    headers_size: usize,
    certificate_size: usize,
}

impl<'a> Image<'a> {
    /// Parses the headers of a 64-bit image.
    ///
    /// # Errors
    /// [`Error::Malformed`] when a header or a section lies outside of the bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        if bytes.len() > LIMIT_BYTES {
            return Err(Error::Malformed("it is too large"));
        }
        if bytes.get(..2) != Some(b"MZ") {
            return Err(Error::Malformed("no MZ at its start"));
        }
        let coff = number(bytes, 0x3c, 4)?;
        if slice(bytes, coff, 4)? != b"PE\0\0" {
            return Err(Error::Malformed("no PE signature"));
        }
        let count = number(bytes, coff + 6, 2)?;
        let optional_size = number(bytes, coff + 20, 2)?;
        let optional = coff + 24;
        if number(bytes, optional, 2)? != 0x20b {
            return Err(Error::Malformed("not a 64-bit image"));
        }
        if count > LIMIT_SECTIONS {
            return Err(Error::Malformed("too many sections"));
        }
        // The certificate table is the fifth data directory; the directories begin at 112 in a 64-bit header.
        let certificate_entry_at = optional + 112 + 4 * 8;
        if number(bytes, optional + 108, 4)? < 5 || optional_size < 112 + 5 * 8 {
            return Err(Error::Malformed("no entry for a certificate table"));
        }
        let headers_size = number(bytes, optional + 60, 4)?;
        let certificate_size = number(bytes, certificate_entry_at + 4, 4)?;
        let table = optional + optional_size;
        if headers_size > bytes.len() || headers_size < table + 40 * count || certificate_size > bytes.len() {
            return Err(Error::Malformed("sizes beyond its end"));
        }
        let mut sections = Vec::with_capacity(count);
        for index in 0..count {
            sections.push(section(bytes, table + 40 * index)?);
        }
        Ok(Self { bytes, sections, checksum_at: optional + 64, certificate_entry_at, headers_size, certificate_size })
    }

    /// The section table, in the order of the file.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The content of a section, `virtual_size` bytes: what the stub measures.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn section(&self, name: &str) -> Result<&'a [u8], Error> {
        self.find(name)?.ok_or_else(|| Error::Missing(name.to_owned()))
    }

    /// The content of a section, if there is one.
    ///
    /// # Errors
    /// When there is more than one, or the file holds less of it than the header says.
    pub fn find(&self, name: &str) -> Result<Option<&'a [u8]>, Error> {
        let mut rows = self.sections.iter().filter(|each| each.name == name);
        match (rows.next(), rows.next()) {
            (None, _) => Ok(None),
            (Some(row), None) if row.virtual_size <= row.raw_size => {
                slice(self.bytes, row.raw_offset, row.virtual_size).map(Some)
            }
            (Some(_), None) => Err(Error::Malformed("a section is cut off")),
            (Some(_), Some(_)) => Err(Error::Duplicate(name.to_owned())),
        }
    }

    /// The image hash that firmware measures and signatures sign: all of the file but the checksum, the certificate
    /// table's entry and the certificate table. A signed image and the same image unsigned have the same hash.
    #[must_use]
    pub fn authenticode(&self, hash: Hash) -> Vec<u8> {
        let part = |from: usize, to: usize| self.bytes.get(from..to).unwrap_or_default();
        let mut parts = vec![
            part(0, self.checksum_at),
            part(self.checksum_at + 4, self.certificate_entry_at),
            part(self.certificate_entry_at + 8, self.headers_size),
        ];
        let mut rows: Vec<&Section> = self.sections.iter().filter(|each| each.raw_size > 0).collect();
        rows.sort_by_key(|each| each.raw_offset);
        let mut hashed = self.headers_size;
        for row in rows {
            parts.push(part(row.raw_offset, row.raw_offset + row.raw_size));
            hashed += row.raw_size;
        }
        parts.push(part(hashed, self.bytes.len().saturating_sub(self.certificate_size)));
        hash.digest(&parts)
    }
}

fn section(bytes: &[u8], at: usize) -> Result<Section, Error> {
    let name = slice(bytes, at, 8)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = std::str::from_utf8(name).map_err(|_| Error::Malformed("a section's name is not text"))?;
    let row = Section {
        name: name.to_owned(),
        virtual_size: number(bytes, at + 8, 4)?,
        virtual_address: number(bytes, at + 12, 4)?,
        raw_size: number(bytes, at + 16, 4)?,
        raw_offset: number(bytes, at + 20, 4)?,
    };
    slice(bytes, row.raw_offset, row.raw_size)?;
    Ok(row)
}

fn slice(bytes: &[u8], at: usize, size: usize) -> Result<&[u8], Error> {
    let end = at.checked_add(size).ok_or(Error::Malformed("an offset overflows"))?;
    bytes.get(at..end).ok_or(Error::Malformed("it is cut off"))
}

/// A little-endian number of up to four bytes.
fn number(bytes: &[u8], at: usize, size: usize) -> Result<usize, Error> {
    Ok(slice(bytes, at, size)?.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte)))
}
