//! Launch digests of random firmware, machines and kernels are those that virtee's `sev` computes.

#![allow(clippy::unwrap_used)]

use std::io::Write as _;

use constellation_attestation::snp::launch::{Cpu, Firmware, Kernel, Launch, Vmm, predict};
use proptest::prelude::*;
use sev::measurement::{
    snp::{SnpMeasurementArgs, snp_calc_launch_digest},
    vcpu_types::CpuType,
    vmsa::{GuestFeatures, VMMType},
};

const AMD_SEV: &[u8] = include_bytes!("../../vectors/sev-ovmf/ovmf_AmdSev_suffix.bin");

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn models() -> impl Strategy<Value = (&'static str, CpuType)> {
    prop::sample::select(vec![
        ("EPYC-v4", CpuType::EpycV4),
        ("EPYC-Rome", CpuType::EpycRome),
        ("EPYC-Milan-v2", CpuType::EpycMilanV2),
        ("EPYC-Genoa", CpuType::EpycGenoa),
        ("EPYC-Turin", CpuType::EpycTurin),
    ])
}

/// EC2 as `sev` 8.0.0 knows it: before 2026.
fn monitors() -> impl Strategy<Value = (Vmm, VMMType)> {
    prop::sample::select(vec![(Vmm::Qemu, VMMType::QEMU), (Vmm::Ec2Old, VMMType::EC2)])
}

proptest! {
    #[test]
    fn digests_are_the_same(
        pages in 0_usize..4,
        noise in prop::collection::vec(any::<u8>(), 4096),
        (name, cpu_type) in models(),
        (vmm, vmm_type) in monitors(),
        vcpus in 1_u32..70,
        features in any::<u64>(),
        kernel in prop::option::of((prop::collection::vec(any::<u8>(), 0..99), prop::collection::vec(any::<u8>(), 0..99), "[a-z=]{0,40}")),
    ) {
        let image = [noise.repeat(pages), AMD_SEV.to_vec()].concat();
        let features = features | 1;
        let ours = kernel.as_ref().map(|(kernel, initrd, line)| Kernel::new(kernel, initrd, line).unwrap());
        let launch = Launch { vmm, cpu: name.parse::<Cpu>().unwrap(), vcpus, features, kernel: ours.as_ref() };
        let ours = predict(&Firmware::parse(&image).unwrap(), &launch).unwrap();

        let firmware = file(&image);
        let files = kernel.as_ref().map(|(kernel, initrd, _)| (file(kernel), file(initrd)));
        let theirs = snp_calc_launch_digest(SnpMeasurementArgs {
            vcpus,
            vcpu_type: cpu_type,
            ovmf_file: firmware.path().into(),
            guest_features: GuestFeatures(features),
            kernel_file: files.as_ref().map(|(kernel, _)| kernel.path().into()),
            initrd_file: files.as_ref().map(|(_, initrd)| initrd.path().into()),
            append: kernel.as_ref().map(|(.., line)| line.as_str()),
            ovmf_hash_str: None,
            vmm_type: Some(vmm_type),
        });
        prop_assert_eq!(ours.to_string(), theirs.unwrap().get_hex_ld());
    }
}
