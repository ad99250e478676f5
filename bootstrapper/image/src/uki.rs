//! Makes a unified kernel image: appends sections to systemd's boot stub.

use constellation_attestation::predict::pe;

use crate::error::{Result, invalid};

/// Read-only initialised data.
const CHARACTERISTICS: u32 = 0x4000_0040;

/// Appends sections to a boot stub, in the order given. The result depends on nothing but the arguments.
///
/// # Errors
/// When the stub is no portable executable or its headers have no room.
pub fn build(stub: &[u8], sections: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let parsed = pe::Image::parse(stub).map_err(|error| invalid("boot stub", error.to_string()))?;
    let mut image = stub.to_vec();
    let coff = number(&image, 0x3c)?;
    let optional = coff + 24;
    let alignment = number(&image, optional + 32)?.max(4096);
    let file_alignment = number(&image, optional + 36)?.max(512);
    if !alignment.is_power_of_two() || !file_alignment.is_power_of_two() {
        return Err(invalid("boot stub", "its alignment is no power of two"));
    }
    let old = parsed.sections().len();
    let table = optional + short(&image, coff + 20)?;
    let needed = table + 40 * (old + sections.len());
    let first = parsed.sections().iter().map(|each| each.raw_offset).filter(|at| *at > 0).min().unwrap_or(image.len());
    let first_address = parsed.sections().iter().map(|each| each.virtual_address).min().unwrap_or(alignment);

    // Symbols and debug data behind the sections are not loaded; they are cut off, with the header's pointer to them.
    let end = parsed.sections().iter().map(|each| each.raw_offset + each.raw_size).max().unwrap_or(image.len());
    image.truncate(end);
    let grown = needed.saturating_sub(first).next_multiple_of(file_alignment);
    if grown > 0 {
        image.splice(first..first, std::iter::repeat_n(0, grown));
        for index in 0..old {
            let at = table + 40 * index + 20;
            let offset = number(&image, at)?;
            if offset > 0 {
                put(&mut image, at, offset + grown)?;
            }
        }
    }
    let headers = first + grown;
    if headers > first_address {
        return Err(invalid("boot stub", "no room for more sections in its headers"));
    }
    pad(&mut image, file_alignment);

    let mut address =
        parsed.sections().iter().map(|each| each.virtual_address + each.virtual_size).max().unwrap_or(headers);
    for (index, (name, content)) in sections.iter().enumerate() {
        address = address.next_multiple_of(alignment);
        let offset = image.len();
        image.extend_from_slice(content);
        pad(&mut image, file_alignment);
        let at = table + 40 * (old + index);
        let mut label = [0; 8];
        label
            .get_mut(..name.len())
            .ok_or_else(|| invalid("section", "its name is longer than eight bytes"))?
            .copy_from_slice(name.as_bytes());
        bytes_at(&mut image, at, 40)?.fill(0);
        bytes_at(&mut image, at, 8)?.copy_from_slice(&label);
        let raw = image.len() - offset;
        for (field, value) in [(8, content.len()), (12, address), (16, raw), (20, offset)] {
            put(&mut image, at + field, value)?;
        }
        bytes_at(&mut image, at + 36, 4)?.copy_from_slice(&CHARACTERISTICS.to_le_bytes());
        address += content.len();
    }

    let count = u16::try_from(old + sections.len()).map_err(|_| invalid("boot stub", "too many sections"))?;
    bytes_at(&mut image, coff + 6, 2)?.copy_from_slice(&count.to_le_bytes());
    for (at, value) in [
        (coff + 8, 0),                                        // time stamp
        (coff + 12, 0),                                       // symbol table
        (coff + 16, 0),                                       // number of symbols
        (optional + 56, address.next_multiple_of(alignment)), // size in memory
        (optional + 60, headers),                             // size of the headers
        (optional + 64, 0),                                   // checksum
    ] {
        put(&mut image, at, value)?;
    }
    Ok(image)
}

fn pad(image: &mut Vec<u8>, alignment: usize) {
    let size = image.len().next_multiple_of(alignment);
    image.resize(size, 0);
}

fn bytes_at(image: &mut [u8], at: usize, size: usize) -> Result<&mut [u8]> {
    image.get_mut(at..at + size).ok_or_else(|| invalid("boot stub", "it is cut off"))
}

fn number(image: &[u8], at: usize) -> Result<usize> {
    let bytes = image.get(at..at + 4).ok_or_else(|| invalid("boot stub", "it is cut off"))?;
    Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte)))
}

fn short(image: &[u8], at: usize) -> Result<usize> {
    Ok(number(image, at)? & 0xffff)
}

fn put(image: &mut [u8], at: usize, value: usize) -> Result<()> {
    let value = u32::try_from(value).map_err(|_| invalid("boot stub", "an offset is larger than 4 GiB"))?;
    bytes_at(image, at, 4)?.copy_from_slice(&value.to_le_bytes());
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A stub of one section, as small as the parser takes it.
    pub(crate) fn stub() -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x3c] = 0x40;
        bytes[0x40..0x44].copy_from_slice(b"PE\0\0");
        bytes[0x46] = 1;
        bytes[0x40 + 20] = 240;
        let optional = 0x40 + 24;
        bytes[optional..optional + 2].copy_from_slice(&0x20b_u16.to_le_bytes());
        bytes[optional + 32..optional + 36].copy_from_slice(&4096_u32.to_le_bytes());
        bytes[optional + 36..optional + 40].copy_from_slice(&512_u32.to_le_bytes());
        bytes[optional + 60..optional + 64].copy_from_slice(&512_u32.to_le_bytes());
        bytes[optional + 64] = 9; // a checksum
        bytes[optional + 108] = 16;
        let row = optional + 240;
        bytes[row..row + 8].copy_from_slice(b".sdmagic");
        let marker = b"#### LoaderInfo: systemd-stub 252.1 ####";
        for (at, value) in [(8, marker.len()), (12, 0x4000), (16, 512), (20, 512)] {
            bytes[row + at..row + at + 4].copy_from_slice(&u32::try_from(value).unwrap().to_le_bytes());
        }
        bytes[512..512 + marker.len()].copy_from_slice(marker);
        bytes
    }

    #[test]
    fn sections_come_back_as_they_were_given() {
        let sections: [(&str, &[u8]); 6] = [
            (".osrel", b"ID=x"),
            (".cmdline", b"quiet"),
            (".linux", &[1; 700]),
            (".initrd", &[2; 5]),
            (".a", b"a"),
            (".b", b"b"),
        ];
        let image = build(&stub(), &sections).unwrap();
        assert_eq!(image, build(&stub(), &sections).unwrap());
        let parsed = pe::Image::parse(&image).unwrap();
        for (name, content) in sections {
            assert_eq!(parsed.section(name).unwrap(), content);
        }
        assert!(parsed.section(".sdmagic").unwrap().starts_with(b"#### LoaderInfo"));
        assert_eq!(parsed.sections()[1].virtual_address, 0x5000);
        assert_eq!(parsed.sections()[0].raw_offset, 1024, "the headers grew by one step");
    }

    #[test]
    fn something_else_than_a_stub_is_refused() {
        assert!(build(b"MZ", &[(".cmdline", b"")]).is_err());
        assert!(build(&stub(), &[(".much-too-long", b"")]).is_err());
    }
}
