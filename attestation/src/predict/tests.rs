//! Predictions against images and boots that were recorded.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

/// Vectors of `tests/vectors/predict` (see its README).
fn vector(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/predict").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&vector(name)).unwrap()
}

fn of(image: &[u8]) -> Result<Prediction, Error> {
    predict(image, Hash::Sha256)
}

fn register(text: &serde_json::Value) -> Register {
    hex::decode(text.as_str().unwrap()).unwrap()
}

#[test]
fn the_small_image_is_predicted_as_it_was_computed_before() {
    let expected = json("small-uki.expected-pcrs.json");
    let found = of(&vector("small-uki.efi")).unwrap();
    for index in [4_u8, 9, 11, 12] {
        assert_eq!(found.registers[&index], register(&expected[index.to_string()]), "register {index}");
    }
    assert_eq!(found.registers[&13], [0; 32]);
    assert_eq!(found.command_line, "console=ttyS0 quiet");
}

/// No boot was recorded in this bank; the story is the same, told with the other hash.
#[test]
fn the_other_bank_has_the_same_events_by_the_other_hash() {
    let image = vector("small-uki.efi");
    let found = predict(&image, Hash::Sha384).unwrap();
    let of_256 = of(&image).unwrap();
    for (index, events) in &found.events {
        assert_eq!(events.len(), of_256.events[index].len(), "register {index}");
        assert!(events.iter().all(|event| event.len() == 48), "register {index}");
        assert_eq!(found.registers[index], replay(Hash::Sha384, events));
    }
    assert_eq!(found.registers[&13], [0; 48]);
    // As a machine of EC2 had it signed (vectors/vaportpm/nitrotpm_attestation_doc.cbor).
    let two = "518923b0f955d08da077c96aaba522b9decede61c599cea6c41889cfbea4ae4d50529d96fe4d1afdafb65e7f95bf23c4";
    assert_eq!(hex::encode(&found.registers[&2]), two);
}

#[test]
fn a_signature_changes_nothing_but_the_file() {
    assert_eq!(of(&vector("small-uki.signed.efi")).unwrap(), of(&vector("small-uki.efi")).unwrap());
}

#[test]
fn the_hash_is_the_one_that_was_signed() {
    let expected = json("small-uki.json");
    let image = vector("small-uki.efi");
    assert_eq!(
        pe::Image::parse(&image).unwrap().authenticode(Hash::Sha256),
        register(&expected["authenticode_sha256"])
    );
}

/// Registers quoted by a machine that really booted, from the digests of the image that it booted.
#[test]
fn recorded_boots_measured_what_the_formulas_say() {
    for boot in ["base-ovmf2m", "base-ovmf4m", "cmdline-changed", "mem2048"] {
        let image = json(&format!("{boot}.uki-sections.json"));
        let quoted = vector(&format!("{boot}.pcrs.bin"));
        let quoted = |index: usize| &quoted[index * 32..index * 32 + 32];
        let rows = image["sections"].as_array().unwrap();
        let row = |name: &str| rows.iter().find(|each| each["name"] == name);
        let mut sections = Vec::new();
        for name in MEASURED_SECTIONS {
            if let Some(each) = row(name) {
                sections.push((*name, register(&each["sha256_of_virtual_size_bytes"])));
            }
        }
        let linux = row(".linux").unwrap();
        let four = boot_applications(
            Hash::Sha256,
            &register(&image["authenticode_sha256"]),
            &register(&linux["authenticode_sha256"]),
        );
        assert_eq!(replay(Hash::Sha256, &four), quoted(4), "register 4 of {boot}");
        assert_eq!(replay(Hash::Sha256, &stub_sections(Hash::Sha256, &sections)), quoted(11), "register 11 of {boot}");
        let initrd = register(&row(".initrd").unwrap()["sha256_of_virtual_size_bytes"]);
        let line = row(".cmdline").unwrap()["text"].as_str().unwrap();
        assert_eq!(
            replay(Hash::Sha256, &kernel_inputs(Hash::Sha256, line, &initrd)),
            quoted(9),
            "register 9 of {boot}"
        );
        assert_eq!(replay(Hash::Sha256, &[separator(Hash::Sha256)]), quoted(2), "register 2 of {boot}");
        assert_eq!(quoted(12), [0; 32]);
        assert_eq!(quoted(13), [0; 32]);
    }
}

#[test]
fn one_byte_of_the_command_line_changes_registers_4_9_and_11() {
    let mut image = vector("small-uki.efi");
    let before = of(&image).unwrap();
    let at =
        pe::Image::parse(&image).unwrap().sections().iter().find(|each| each.name == ".cmdline").unwrap().raw_offset;
    image[at] ^= 1;
    let after = of(&image).unwrap();
    let changed: Vec<u8> = before
        .registers
        .iter()
        .filter(|(index, value)| after.registers[index] != **value)
        .map(|(index, _)| *index)
        .collect();
    assert_eq!(changed, [4, 9, 11]);
}

#[test]
fn another_stub_is_refused() {
    let image = vector("small-uki.efi");
    let at = image.windows(13).position(|each| each == b"systemd-stub ").map(|at| at + 13).unwrap();
    let mut other = image;
    other[at..at + 3].copy_from_slice(b"257");
    assert_eq!(of(&other), Err(Error::Stub { found: "257".to_owned() }));
}

#[test]
fn a_second_section_of_the_same_name_is_refused() {
    let mut image = vector("small-uki.efi");
    let at = image.windows(8).position(|each| each == b".uname\0\0").unwrap();
    image[at..at + 8].copy_from_slice(b".cmdline");
    assert_eq!(of(&image), Err(Error::Duplicate(".cmdline".to_owned())));
}

#[test]
fn an_image_cut_anywhere_is_refused() {
    let image = vector("small-uki.efi");
    for size in [0, 1, 63, 64, 200, 600, 1023, 70_000, image.len() - 1] {
        assert!(of(&image[..size]).is_err(), "{size} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_make_the_parser_fall(bytes in proptest::collection::vec(any::<u8>(), 0..2048), at in 0_usize..1024, value in any::<u8>()) {
        let _ = of(&bytes);
        let mut image = vector("small-uki.efi");
        image[at] = value;
        let _ = of(&image);
    }
}
