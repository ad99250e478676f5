//! The ACPI table that says where the firmware of a confidential guest left its event log.
//!
//! Source: ACPI 6.5, 5.2.34 "CC Event Log ACPI Table": a header of 36 bytes, then type and subtype of the guest, two
//! reserved bytes, and length and address of the log; little endian. Linux shows the log itself beside the table.

/// Bytes of the table.
pub const SIZE: usize = 56;
/// `CCEL`.
const SIGNATURE: &[u8; 4] = b"CCEL";
/// Type of a TDX guest (UEFI 2.10, 38.2.1).
const TDX: u8 = 2;

/// Why bytes aren't such a table.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It isn't such a table, or its sum isn't zero.
    #[error("it isn't a CCEL table")]
    Form,
    /// It is another technology's.
    #[error("the guest's type is {0}")]
    Kind(u8),
}

/// Bytes that a TDX guest's firmware reserved for its log.
///
/// # Errors
/// When it isn't a TDX guest's table.
pub fn reserved(table: &[u8]) -> Result<u64, Error> {
    let table: &[u8; SIZE] = table.try_into().map_err(|_| Error::Form)?;
    let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    let says = table.get(4..8) == Some(&56u32.to_le_bytes()[..]);
    if !table.starts_with(SIGNATURE) || sum != 0 || !says {
        return Err(Error::Form);
    }
    let length = table.get(40..48).and_then(<[u8]>::first_chunk).ok_or(Error::Form)?;
    match table[36] {
        TDX => Ok(u64::from_le_bytes(*length)),
        other => Err(Error::Kind(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A genuine table of Google Cloud (`vectors/go-tdx-guest`).
    const TABLE: &[u8; SIZE] = include_bytes!("../../vectors/go-tdx-guest/ccel/ccel_table.dat");
    const LOG: &[u8] = include_bytes!("../../vectors/go-tdx-guest/ccel/ccel_data.dat");

    /// The table with one byte changed and its sum mended.
    fn changed(at: usize, value: u8) -> [u8; SIZE] {
        let mut table = *TABLE;
        table[9] = table[9].wrapping_add(table[at]).wrapping_sub(value);
        table[at] = value;
        table
    }

    #[test]
    fn a_genuine_table_says_how_long_its_log_is() {
        assert_eq!(reserved(TABLE), Ok(LOG.len() as u64));
    }

    #[test]
    fn a_table_with_one_thing_wrong_is_refused() {
        let mut sum = *TABLE;
        sum[9] ^= 1;
        assert_eq!(reserved(&sum), Err(Error::Form));
        assert_eq!(reserved(&changed(0, b'D')), Err(Error::Form));
        assert_eq!(reserved(&changed(4, 57)), Err(Error::Form));
        assert_eq!(reserved(&changed(36, 1)), Err(Error::Kind(1)));
        assert_eq!(reserved(&TABLE[..55]), Err(Error::Form));
        assert_eq!(reserved(&[TABLE.as_slice(), &[0]].concat()), Err(Error::Form));
    }
}
