//! The table of certificates that a host hands out with a SEV-SNP report.
//!
//! Source: AMD, "SEV-ES Guest-Hypervisor Communication Block Standardization" (56421) 2.03, 4.1.8.1: entries of GUID
//! (16 bytes), offset and length (u32, little endian), the last one all zero, then the certificates. GUIDs are in the
//! order of RFC 4122, as AMD's own tools write them.

/// Greatest table with its certificates, bytes: `SEV_FW_BLOB_MAX_SIZE` of Linux, `include/linux/psp-sev.h`.
pub const MAX_BYTES: usize = 16 * 1024;
/// Most entries; the specification names five, clouds add one or two.
const MAX_ENTRIES: usize = 32;
const ENTRY: usize = 24;
const GUID: usize = 16;

/// Which certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ARK: the maker's root, which verifiers have.
    Ark,
    /// ASK: issuer of a VCEK.
    Ask,
    /// Revocation list of the root.
    Crl,
    /// Google's word about its firmware, a protocol buffer (gce-tcb-verifier, `sev.GCEFwCertGUID`).
    GoogleEndorsement,
    /// VCEK: the chip's key.
    Vcek,
    /// VLEK: the cloud's key.
    Vlek,
}

impl Kind {
    /// Source: the same document, table "Certificate GUIDs"; the list: `sev` of `VirTEE`, `CertType`.
    const fn guid(self) -> [u8; GUID] {
        match self {
            Self::Ark => 0xc0b4_06a4_a803_4952_9743_3fb6_014c_d0ae_u128,
            Self::Ask => 0x4ab7_b379_bbac_4fe4_a02f_05ae_f327_c782,
            Self::Crl => 0x92f8_1bc3_5811_4d3d_97ff_d19f_88dc_67ea,
            Self::GoogleEndorsement => 0x9f41_16cd_c503_4f5a_8f6f_fb68_882f_4ce2,
            Self::Vcek => 0x63da_758d_e664_4564_adc5_f4b9_3be8_accd,
            Self::Vlek => 0xa807_4bc2_a25a_483e_aae6_39c0_45a0_b8a1,
        }
        .to_be_bytes()
    }
}

/// Why bytes aren't such a table.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It is longer than a host may make it.
    #[error("it has {0} bytes, more than {MAX_BYTES}")]
    Long(usize),
    /// No entry of zeros ends it, or it has too many.
    #[error("it has no end within {MAX_ENTRIES} entries")]
    NoEnd,
    /// An entry points outside, into the table, or to nothing.
    #[error("entry {0} points to something that isn't a certificate")]
    Place(usize),
    /// A GUID stands there twice.
    #[error("entry {0} is there twice")]
    Twice(usize),
}

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table<'a> {
    entries: Vec<([u8; GUID], &'a [u8])>,
}

impl<'a> Table<'a> {
    /// Reads a table. No bytes, or only zeros, are one without entries: the host has no certificates.
    ///
    /// # Errors
    /// When an entry doesn't point to bytes behind the table.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::Long(bytes.len()));
        }
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(Self::default());
        }
        let rows: Vec<&[u8]> = bytes.chunks_exact(ENTRY).take_while(|row| row.iter().any(|byte| *byte != 0)).collect();
        let end = (rows.len() + 1) * ENTRY;
        if rows.len() > MAX_ENTRIES || end > bytes.len() {
            return Err(Error::NoEnd);
        }
        let mut entries: Vec<([u8; GUID], &[u8])> = Vec::with_capacity(rows.len());
        for (number, row) in rows.into_iter().enumerate() {
            let (guid, place) = entry(row).ok_or(Error::Place(number))?;
            let (offset, length) = place;
            let past = offset.checked_add(length).ok_or(Error::Place(number))?;
            let certificate = bytes.get(offset..past).filter(|it| offset >= end && !it.is_empty());
            if entries.iter().any(|(known, _)| *known == guid) {
                return Err(Error::Twice(number));
            }
            entries.push((guid, certificate.ok_or(Error::Place(number))?));
        }
        Ok(Self { entries })
    }

    /// The bytes of one kind.
    #[must_use]
    pub fn of(&self, kind: Kind) -> Option<&'a [u8]> {
        self.entries.iter().find(|(guid, _)| *guid == kind.guid()).map(|(_, bytes)| *bytes)
    }

    /// Number of entries, known or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the host has no certificates.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// GUID, offset and length of an entry.
fn entry(row: &[u8]) -> Option<([u8; GUID], (usize, usize))> {
    let (guid, rest) = row.split_first_chunk::<GUID>()?;
    let (offset, rest) = rest.split_first_chunk::<4>()?;
    let length = rest.first_chunk::<4>()?;
    let number = |bytes: &[u8; 4]| usize::try_from(u32::from_le_bytes(*bytes)).ok();
    Some((*guid, (number(offset)?, number(length)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table as a host makes it: entries, zeros, then each certificate.
    fn table(certificates: &[(Kind, &[u8])]) -> Vec<u8> {
        let mut offset = (certificates.len() + 1) * ENTRY;
        let (mut table, mut bodies) = (Vec::new(), Vec::new());
        for (kind, body) in certificates {
            table.extend_from_slice(&kind.guid());
            table.extend_from_slice(&u32::try_from(offset).unwrap().to_le_bytes());
            table.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
            bodies.extend_from_slice(body);
            offset += body.len();
        }
        table.resize(table.len() + ENTRY, 0);
        [table, bodies].concat()
    }

    fn good() -> Vec<u8> {
        table(&[(Kind::Vcek, b"leaf"), (Kind::Ask, b"middle"), (Kind::Ark, b"root")])
    }

    #[test]
    fn each_certificate_is_found_by_its_guid() {
        let mut bytes = good();
        bytes.resize(4096, 0);
        let table = Table::parse(&bytes).unwrap();
        assert_eq!((table.of(Kind::Vcek), table.of(Kind::Ask)), (Some(&b"leaf"[..]), Some(&b"middle"[..])));
        assert_eq!((table.of(Kind::Vlek), table.len()), (None, 3));
        assert_eq!(bytes[..4], [0x63, 0xda, 0x75, 0x8d], "the first group of the GUID is big endian");
    }

    #[test]
    fn a_host_without_certificates_gives_an_empty_table() {
        assert!(Table::parse(&[]).unwrap().is_empty());
        assert!(Table::parse(&[0; MAX_BYTES]).unwrap().is_empty());
    }

    #[test]
    fn a_table_has_as_many_entries_as_the_bound_says_or_fewer_and_bytes_behind_them() {
        let of = |count: u8| {
            let mut bytes: Vec<u8> = (1..=count)
                .flat_map(|number| {
                    let offset = u32::from(count + 1) * 24 + u32::from(number) - 1;
                    [&[number; GUID][..], &offset.to_le_bytes(), &[1, 0, 0, 0]].concat()
                })
                .collect();
            bytes.resize(bytes.len() + ENTRY, 0);
            bytes.resize(bytes.len() + usize::from(count), 7);
            bytes
        };
        for count in [1, 31, 32] {
            let bytes = of(count);
            let table = Table::parse(&bytes).unwrap();
            assert_eq!((table.len(), table.is_empty()), (count.into(), false));
        }
        for count in [33, 34] {
            assert!(matches!(Table::parse(&of(count)), Err(Error::NoEnd)), "{count}");
        }
        assert!(matches!(Table::parse(&of(1)[..2 * ENTRY]), Err(Error::Place(0))));
        assert!(matches!(Table::parse(&of(1)[..2 * ENTRY - 1]), Err(Error::NoEnd)));
    }

    #[test]
    fn a_table_with_one_thing_wrong_is_refused() {
        assert!(Table::parse(&good()).is_ok());
        let changed = |at: usize, value: u32| {
            let mut bytes = good();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            bytes
        };
        let twice = table(&[(Kind::Vcek, b"a"), (Kind::Vcek, b"b")]);
        let cases = [
            (changed(16, 0), Error::Place(0), "into the table"),
            (changed(16, u32::MAX), Error::Place(0), "far outside"),
            (changed(20, 15), Error::Place(0), "past the end"),
            (changed(20, u32::MAX), Error::Place(0), "a length beyond everything"),
            (changed(20, 0), Error::Place(0), "nothing"),
            (twice, Error::Twice(1), "twice"),
            (good()[..3 * ENTRY].to_vec(), Error::NoEnd, "no end"),
            (good()[..3 * ENTRY + 20].to_vec(), Error::NoEnd, "an end cut off"),
            (vec![1; MAX_BYTES], Error::NoEnd, "entries without end"),
            (vec![0; MAX_BYTES + 1], Error::Long(MAX_BYTES + 1), "too long"),
        ];
        for (bytes, error, why) in cases {
            assert_eq!(Table::parse(&bytes), Err(error), "{why}");
        }
    }
}
