//! `TPMS_ATTEST` of a quote (TPM 2.0 Library, Part 2, 10.12.12).

use super::{Error, Reader};

/// `TPM_GENERATED_VALUE` (Part 2, 6.2): only the TPM itself puts this in front of what it signs.
pub const MAGIC: u32 = 0xff54_4347;
/// `TPM_ST_ATTEST_QUOTE` (Part 2, 6.9).
pub const TYPE_QUOTE: u16 = 0x8018;
/// Banks a quote may select: a TPM has one per hash it implements, in practice at most five.
const MAX_SELECTIONS: u32 = 16;

/// A selection of registers of one bank (`TPMS_PCR_SELECTION`, Part 2, 10.6.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Hash algorithm of the bank.
    pub bank: u16,
    /// Registers, ascending.
    pub pcrs: Vec<u8>,
}

/// What a TPM says when it is asked for a quote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attest {
    /// The caller's qualifying data.
    pub extra_data: Vec<u8>,
    /// Milliseconds the TPM has been powered.
    pub clock: u64,
    /// Number of TPM resets.
    pub reset_count: u32,
    /// Number of TPM restarts or resumes since.
    pub restart_count: u32,
    /// Whether no later clock value was ever reported.
    pub safe: bool,
    /// Vendor-specific version.
    pub firmware_version: u64,
    /// Selected registers.
    pub selections: Vec<Selection>,
    /// Digest over their values.
    pub pcr_digest: Vec<u8>,
}

impl Attest {
    /// Parses a quote.
    ///
    /// # Errors
    /// When the bytes are anything else: other magic, other type, cut off, or followed by more.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader(bytes);
        let magic = reader.u32("magic")?;
        if magic != MAGIC {
            return Err(Error::Value { what: "magic", value: magic.into() });
        }
        let kind = reader.u16("type")?;
        if kind != TYPE_QUOTE {
            return Err(Error::Value { what: "type", value: kind.into() });
        }
        reader.sized("qualifiedSigner")?;
        let extra_data = reader.sized("extraData")?.to_vec();
        let clock = reader.u64("clock")?;
        let reset_count = reader.u32("resetCount")?;
        let restart_count = reader.u32("restartCount")?;
        let safe = match reader.u8("safe")? {
            0 => false,
            1 => true,
            value => return Err(Error::Value { what: "safe", value: value.into() }),
        };
        let firmware_version = reader.u64("firmwareVersion")?;
        let count = reader.u32("pcrSelect.count")?;
        if count > MAX_SELECTIONS {
            return Err(Error::Value { what: "pcrSelect.count", value: count.into() });
        }
        let mut selections = Vec::new();
        for _ in 0..count {
            let bank = reader.u16("pcrSelect.hash")?;
            let size = reader.u8("pcrSelect.sizeofSelect")?;
            let bits = reader.take(size.into(), "pcrSelect")?;
            if size > 4 {
                return Err(Error::Value { what: "pcrSelect.sizeofSelect", value: size.into() });
            }
            let pcrs = (0..size * 8).filter(|n| bits.get(usize::from(n / 8)).is_some_and(|b| b >> (n % 8) & 1 == 1));
            selections.push(Selection { bank, pcrs: pcrs.collect() });
        }
        let pcr_digest = reader.sized("pcrDigest")?.to_vec();
        reader.end()?;
        Ok(Self { extra_data, clock, reset_count, restart_count, safe, firmware_version, selections, pcr_digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A quote of so many selections, each of these bits.
    fn quote(selections: u32, bits: &[u8]) -> Vec<u8> {
        let head = [&MAGIC.to_be_bytes()[..], &TYPE_QUOTE.to_be_bytes(), &[0; 4], &[0; 16], &[1], &[0; 8]].concat();
        let selection = [&[0, 0x0b, u8::try_from(bits.len()).unwrap()], bits].concat();
        let selections = [selections.to_be_bytes().to_vec(), selection.repeat(selections as usize)].concat();
        [head, selections, vec![0, 1, 9]].concat()
    }

    #[test]
    fn registers_are_selected_bit_by_bit() {
        for (bits, pcrs) in [
            (&[][..], &[][..]),
            (&[0b0000_0001], &[0]),
            (&[0b1000_0010, 0, 0b1000_0000], &[1, 7, 23]),
            (&[0, 0b0101_0000, 0, 0b1000_0001], &[12, 14, 24, 31]),
        ] {
            let Attest { selections, pcr_digest, .. } = Attest::parse(&quote(1, bits)).unwrap();
            assert_eq!(selections, [Selection { bank: 0x0b, pcrs: pcrs.to_vec() }]);
            assert_eq!(pcr_digest, [9]);
        }
        let wrong = Error::Value { what: "pcrSelect.sizeofSelect", value: 5 };
        assert_eq!(Attest::parse(&quote(1, &[1; 5])), Err(wrong));
    }

    #[test]
    fn a_quote_has_no_more_selections_than_there_are_banks() {
        for count in [0, 1, 2, 15, 16] {
            assert_eq!(Attest::parse(&quote(count, &[1, 0, 0])).unwrap().selections.len(), count as usize);
        }
        for count in [17, 18] {
            let wrong = Error::Value { what: "pcrSelect.count", value: count.into() };
            assert_eq!(Attest::parse(&quote(count, &[1, 0, 0])), Err(wrong));
        }
    }
}
