use proptest::prelude::*;

use super::{firmware::SectionKind, *};

/// The last page of edk2's `OvmfPkg/AmdSev` image: it checks a kernel's hashes.
const AMD_SEV: &[u8] = include_bytes!("../../../vectors/sev-ovmf/ovmf_AmdSev_suffix.bin");
/// The last page of edk2's `OvmfPkg` image: it doesn't.
const OVMF_X64: &[u8] = include_bytes!("../../../vectors/sev-ovmf/ovmf_OvmfX64_suffix.bin");

/// Where, before the image's end, the end of its table stands.
const FOOTER: usize = 32 + 18;

fn machine(vmm: Vmm, cpu: &str, vcpus: u32, features: u64) -> Launch<'static> {
    Launch { vmm, cpu: cpu.parse().unwrap(), vcpus, features, kernel: None }
}

fn plain() -> Launch<'static> {
    machine(Vmm::Qemu, "EPYC-v4", 1, SNP_ACTIVE)
}

fn digest(image: &[u8], launch: &Launch<'_>) -> String {
    predict(&Firmware::parse(image).unwrap(), launch).unwrap().to_string()
}

/// Changes bytes at a distance from the image's end.
fn changed(image: &[u8], distance: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = image.to_vec();
    let start = image.len() - distance;
    image[start..start + bytes.len()].copy_from_slice(bytes);
    image
}

/// How far before the end an entry's identity stands.
fn entry(image: &[u8], guid: firmware::Guid) -> usize {
    let guid = guid.to_bytes();
    image.len() - image.windows(16).rposition(|window| window == guid).unwrap()
}

/// How far before the end the sections' description stands.
fn metadata(image: &[u8]) -> usize {
    image.len() - image.windows(4).rposition(|window| window == b"ASEV").unwrap()
}

fn refused(image: &[u8]) -> String {
    Firmware::parse(image).unwrap_err().to_string()
}

#[test]
fn digests_are_those_that_virtee_sev_8_0_0_publishes() {
    // tests/measurement.rs of the crate `sev` 8.0.0, which takes /dev/null for kernel and initial RAM disk.
    let empty = Kernel::new(b"", b"", "").unwrap();
    let with_line = Kernel::new(b"", b"", "console=ttyS0 loglevel=7").unwrap();
    let with = |launch: Launch<'static>, kernel| Launch { kernel: Some(kernel), ..launch };
    let four = machine(Vmm::Qemu, "EPYC-v4", 4, 1);
    let four_swapping = machine(Vmm::Qemu, "EPYC-v4", 4, 0x21);
    for (image, launch, wanted) in [
        (
            AMD_SEV,
            with(machine(Vmm::Ec2Old, "EPYC-v4", 1, 1), &empty),
            "7d3756157c805bf6adf617064c8552e8c1688fa1c8756f11cbf56ba5d25c9270fb69c0505c1cbe1c5c66c0e34c6ed3be",
        ),
        (
            AMD_SEV,
            with(machine(Vmm::Ec2Old, "EPYC-v4", 1, 0x21), &empty),
            "6ae80856486b1396af8c82a40351d6ed76a20c785e9c7fa4ffa27c22d5d6313b4b3b458cd3c9968e6f89fb5d8450d7a6",
        ),
        (
            AMD_SEV,
            with(plain(), &with_line),
            "6d287813eb5222d770f75005c664e34c204f385ce832cc2ce7d0d6f354454362f390ef83a92046c042e706363b4b08fa",
        ),
        (
            AMD_SEV,
            with(four, &empty),
            "5061fffb019493a903613d56d54b94912a1a2f9e4502385f5c194616753720a92441310ba6c4933de877c36e23046ad5",
        ),
        (
            AMD_SEV,
            with(four_swapping, &empty),
            "4953b1fb416fa874980e8442b3706d345926d5f38879134e00813c5d7abcbe78eafe7b422907be0b4698e2414a631942",
        ),
        (
            OVMF_X64,
            plain(),
            "da0296de8193586a5512078dcd719eccecbd87e2b825ad4148c44f665dc87df21e5b49e21523a9ad993afdb6a30b4005",
        ),
        (
            OVMF_X64,
            machine(Vmm::Qemu, "EPYC-v4", 1, 0x21),
            "28797ae0afaba4005a81e629acebfb59e6687949d6be44007cd5506823b0dd66f146aaae26ff291eed7b493d8a64c385",
        ),
    ] {
        assert_eq!(digest(image, &launch), wanted, "{launch:?}");
    }
}

#[test]
fn digests_are_those_that_sev_snp_measure_0_0_13_gives() {
    for (image, launch, wanted) in [
        (
            AMD_SEV,
            machine(Vmm::Qemu, "EPYC-Milan", 2, 0x21),
            "2939f85e9efe5dc13bf200ff25ddd14d5242df1821f5e642878caa9e11e58c02358740bfe12c72360baa3aec4bf671ee",
        ),
        (
            AMD_SEV,
            machine(Vmm::Ec2, "EPYC-Rome", 64, 1),
            "97aabd6fb32003de24631c22611eb887274b554a6987503a11a3f4d39b5192d2280c921fbe3f9c897b484363c801a0db",
        ),
        (
            AMD_SEV,
            machine(Vmm::Gce, "EPYC-Turin", 3, 5),
            "d4bd1f238a592dcb4d042f125d3675d847b5219d4c2e036e0d11685b70de7165c880fc0e18ab3609742c27d3a704ff3a",
        ),
        (
            OVMF_X64,
            machine(Vmm::Qemu, "EPYC-Turin", 3, 5),
            "5ad0714a24338cbf53f8626c856456de29834941c7a3be29c4043a3848303f80af5f4c617f379e2f8dd34fd9bc5c3797",
        ),
        (
            OVMF_X64,
            machine(Vmm::Gce, "EPYC-Milan", 2, 0x21),
            "9bbecdeca73bb575f023a26f3247d59b9d3426f290e33322f419463852d5042b8845cd5464a458938385e7622fcb1071",
        ),
    ] {
        assert_eq!(digest(image, &launch), wanted, "{launch:?}");
    }
    let kernel = Kernel::new(b"kernel", b"initrd", "console=ttyS0").unwrap();
    for (vmm, wanted) in [
        (Vmm::Qemu, "e0b35a492d19e251075c8617337af95365f1e26ba744daf72321a4495ef13a61065abb4ebed051e2de384d2018bbd22d"),
        (Vmm::Ec2, "8c8e32cece492b44896d4e1f8a44621505a44849567891bfb2b005e2d8eb26d076acf825d8facbc69fa9d1d953092eb2"),
        (Vmm::Gce, "aa8405f3156e221f75afed01af350618d2797bf6ba18eaf50b319c921ecc6ffc8a78c48c111bff9fa3c55099602f018b"),
    ] {
        let launch = Launch { kernel: Some(&kernel), ..machine(vmm, "EPYC-Genoa", 4, 1) };
        assert_eq!(digest(AMD_SEV, &launch), wanted, "{vmm:?}");
    }
}

#[test]
fn any_changed_byte_of_the_firmware_changes_the_digest_or_is_refused() {
    let genuine = digest(AMD_SEV, &plain());
    for position in 0..AMD_SEV.len() {
        for bit in [0, 7] {
            let mut image = AMD_SEV.to_vec();
            image[position] ^= 1 << bit;
            if let Ok(firmware) = Firmware::parse(&image) {
                assert_ne!(predict(&firmware, &plain()).unwrap().to_string(), genuine, "byte {position}");
            }
        }
    }
}

#[test]
fn whatever_a_machine_is_started_with_changes_its_digest() {
    let kernel = |kernel: &[u8], initrd: &[u8], line| Kernel::new(kernel, initrd, line).unwrap();
    let kernels = [kernel(b"k", b"i", "c"), kernel(b"K", b"i", "c"), kernel(b"k", b"I", "c"), kernel(b"k", b"i", "c ")];
    let mut launches = vec![plain(), Launch { cpu: Cpu::new(25, 1, 1), ..plain() }];
    launches.push(Launch { vcpus: 2, ..plain() });
    launches.push(Launch { features: 0x21, ..plain() });
    launches.extend([Vmm::Ec2, Vmm::Ec2Old, Vmm::Gce].map(|vmm| Launch { vmm, ..plain() }));
    launches.extend(kernels.iter().map(|kernel| Launch { kernel: Some(kernel), ..plain() }));
    let mut digests: Vec<_> = launches.iter().map(|launch| digest(AMD_SEV, launch)).collect();
    digests.push(digest(&[&[0; 4096], AMD_SEV].concat(), &plain()));
    digests.sort();
    let all = digests.len();
    digests.dedup();
    assert_eq!(digests.len(), all);
}

#[test]
fn a_machine_that_can_not_be_a_guest_is_refused() {
    let firmware = Firmware::parse(AMD_SEV).unwrap();
    let said = |launch: Launch<'_>| predict(&firmware, &launch).unwrap_err();
    assert_eq!(said(Launch { features: 0x20, ..plain() }), Error::Features(0x20));
    assert_eq!(said(Launch { vcpus: 0, ..plain() }), Error::Vcpus(0));
    assert_eq!(said(Launch { vcpus: MAX_VCPUS + 1, ..plain() }), Error::Vcpus(MAX_VCPUS + 1));
    assert!(predict(&firmware, &Launch { vcpus: MAX_VCPUS, ..plain() }).is_ok());
}

#[test]
fn a_kernel_that_the_firmware_does_not_check_is_refused() {
    let kernel = Kernel::new(b"kernel", b"", "").unwrap();
    let launch = Launch { kernel: Some(&kernel), ..plain() };
    assert!(predict(&Firmware::parse(AMD_SEV).unwrap(), &launch).is_ok());
    assert_eq!(predict(&Firmware::parse(OVMF_X64).unwrap(), &launch), Err(Error::KernelHashes));
    assert_eq!(Kernel::new(b"", b"", "quiet\0"), Err(hashes::ZeroByte));
}

#[test]
fn firmware_with_one_thing_wrong_is_refused_for_that() {
    let firmware = Firmware::parse(AMD_SEV).unwrap();
    assert_eq!((firmware.address(), firmware.reset_vector()), (0xffff_f000, 0x80_b004));
    assert_eq!(firmware.hash_table_offset(), Some(0xc00));
    let kinds: Vec<_> = firmware.sections().iter().map(|section| section.kind).collect();
    let memory = SectionKind::Memory;
    let own = [SectionKind::Secrets, SectionKind::Cpuid, SectionKind::CallingArea, SectionKind::KernelHashes];
    assert_eq!(kinds, [[memory; 2].as_slice(), &own, &[memory]].concat());

    let guid = |first, second, third, rest| entry(AMD_SEV, firmware::Guid(first, second, third, rest));
    let reset = guid(0x00f7_71de, 0x1a7e, 0x4fcb, 0x890e_68c7_7e2f_b44e);
    let place = guid(0xdc88_6566, 0x984a, 0x4798, 0xa75e_5585_a7bf_67cc);
    let hashes = guid(0x7255_371f, 0x3a3b, 0x4b04, 0x927b_1da6_efa8_d454);
    let sev = metadata(AMD_SEV);
    let first = sev - 16;
    for (distance, bytes, said) in [
        (FOOTER - 2, &[0][..], "its table isn't at the end"),
        (FOOTER, &[17, 0], "longer than the table"),
        (FOOTER, &[0xff, 0xff], "longer than the table"),
        (reset, &[0], "no reset block of SEV-ES"),
        (reset + 2, &[17, 0], "longer than the table"),
        (reset + 2, &[18, 0], "entry"),
        (place, &[0], "no SEV metadata"),
        (place + 6, &[0, 0, 0, 0], "aren't inside it"),
        (place + 6, &[0xff, 0xff, 0xff, 0xff], "aren't inside it"),
        (place + 6, &[1, 0, 0, 0], "aren't inside it"),
        (place + 6, &[15, 0, 0, 0], "end early"),
        (hashes + 6, &[16, 0, 0, 0], "stand outside their section"),
        (hashes + 10, &[0x51, 0x0f, 0x81, 0], "stand outside their section"),
        (hashes + 10, &[0, 0x0c, 0x80, 0], "stand outside their section"),
        (hashes, &AMD_SEV[AMD_SEV.len() - reset..AMD_SEV.len() - reset + 16], "an entry twice"),
        (sev, b"X", "no signature"),
        (sev - 4, &[0], "as long as"),
        (sev - 8, &[2], "another version"),
        (sev - 12, &[6], "as long as"),
        (sev - 12, &[65], "too many sections"),
        (first, &[1], "isn't whole pages"),
        (first - 4, &[1], "isn't whole pages"),
        (first - 4, &[0, 0, 0, 8], "larger than any firmware needs"),
        (first - 8, &[9], "kind 0x9"),
        (first - 12 * 2 - 4, &[0, 0x20], "one page by its kind"),
    ] {
        let said_now = refused(&changed(AMD_SEV, distance, bytes));
        assert!(said_now.contains(said), "{distance} {bytes:?}: {said_now}");
    }
    for (image, said) in [
        (vec![], "0 bytes"),
        (AMD_SEV[1..].to_vec(), "4095 bytes"),
        (vec![0; 4096], "its table isn't at the end"),
        (vec![0; firmware::MAX_BYTES + 4096], "at most 16777216 bytes"),
    ] {
        let said_now = refused(&image);
        assert!(said_now.contains(said), "{said_now}");
    }
}

#[test]
fn an_image_and_its_sections_are_as_large_as_the_bounds_say_or_smaller() {
    let image = |length: usize| [vec![0; length - AMD_SEV.len()], AMD_SEV.to_vec()].concat();
    assert!(Firmware::parse(&image(firmware::MAX_BYTES)).is_ok());
    assert!(refused(&image(firmware::MAX_BYTES + 4096)).contains("at most 16777216 bytes"));
    let first = metadata(AMD_SEV) - 16;
    let sections = Firmware::parse(AMD_SEV).unwrap();
    let others: u64 = sections.sections().iter().skip(1).map(|section| section.bytes).sum();
    let of = |total: u64| changed(AMD_SEV, first - 4, &u32::try_from(total - others).unwrap().to_le_bytes());
    let bytes = |image: &[u8]| -> u64 { Firmware::parse(image).unwrap().sections().iter().map(|s| s.bytes).sum() };
    assert_eq!(bytes(&of(firmware::MAX_SECTION_BYTES)), firmware::MAX_SECTION_BYTES);
    assert!(refused(&of(firmware::MAX_SECTION_BYTES + 4096)).contains("larger than any firmware needs"));
}

#[test]
fn a_file_that_ends_as_firmware_does_is_told_from_others() {
    for (bytes, is_one) in
        [(AMD_SEV, true), (OVMF_X64, true), (&AMD_SEV[..4095], false), (&[0; 4096], false), (&[], false)]
    {
        assert_eq!(Firmware::is_one(bytes), is_one);
    }
}

#[test]
fn models_have_qemus_names_or_a_signature() {
    for (name, signature) in [
        ("EPYC", 0x0080_0f12),
        ("EPYC-v4", 0x0080_0f12),
        ("EPYC-IBPB", 0x0080_0f12),
        ("EPYC-Rome-v2", 0x0083_0f10),
        ("EPYC-Milan", 0x00a0_0f11),
        ("EPYC-Genoa-v1", 0x00a1_0f10),
        ("EPYC-Turin", 0x00b0_0f00),
        ("0xa20f12", 0x00a2_0f12),
    ] {
        assert_eq!(name.parse::<Cpu>().unwrap().signature(), signature, "{name}");
    }
    for name in ["", "epyc", "EPYC-", "EPYC-v", "EPYC-v0", "EPYC-v4-v4", "EPYC-Naples", "0x", "0x1ffffffff", "Skylake"]
    {
        assert!(name.parse::<Cpu>().is_err(), "{name}");
    }
    let monitors = ["ec2", "ec2-old", "gce", "qemu"].map(|name| name.parse::<Vmm>().unwrap());
    assert_eq!(monitors, [Vmm::Ec2, Vmm::Ec2Old, Vmm::Gce, Vmm::Qemu]);
    assert!("QEMU".parse::<Vmm>().is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_fall(
        tail in prop::collection::vec(any::<u8>(), 0..300),
        changes in prop::collection::vec((0_usize..600, any::<u8>()), 0..12),
    ) {
        let mut image = AMD_SEV.to_vec();
        let start = image.len() - tail.len();
        for (place, byte) in changes {
            let place = image.len() - 1 - place;
            image[place] = byte;
        }
        let _ = Firmware::parse(&image).map(|firmware| predict(&firmware, &plain()));
        image.splice(start.., tail);
        let _ = Firmware::parse(&image).map(|firmware| predict(&firmware, &plain()));
    }
}
