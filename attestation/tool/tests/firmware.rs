//! `predict` of firmware, and `floors`, as a user meets them.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

mod program;

use std::fs;

use program::{complaint, lines, run};
use serde_json::json;

#[test]
fn firmware_gives_launch_digests_for_each_number_of_processors() {
    let amd_sev = "sev-ovmf/ovmf_AmdSev_suffix.bin";
    let about = ["--vcpus", "4,1", "--cpu", "EPYC-v4"];
    let found = lines(&[&["--output", "json", "predict", amd_sev], about.as_slice()].concat());
    let one = "19358ba9a7615534a9a1e2f0dfc29384dcd4dcb7062ff9c6013b26869a5fc6ecabe033c48dd6f6db5d6d76e7c5df632d";
    assert_eq!((&found[0]["measurements"]["1"], &found[0]["vmm"]), (&json!(one), &json!("qemu")));
    let text = run(&[&["predict", amd_sev], about.as_slice()].concat());
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.starts_with(&format!("launch digest, 1 vCPU: {one}\nlaunch digest, 4 vCPU: ")), "{text}");

    let files = tempfile::tempdir().unwrap();
    let [kernel, initrd] = ["kernel", "initrd"].map(|name| files.path().join(name));
    fs::write(&kernel, "kernel").unwrap();
    fs::write(&initrd, "initrd").unwrap();
    let (kernel, initrd) = (kernel.to_str().unwrap(), initrd.to_str().unwrap());
    let booted = ["--vcpus", "4", "--vmm", "ec2", "--kernel", kernel, "--initrd", initrd, "--cmdline", "console=ttyS0"];
    let found = lines(&[&["--output", "json", "predict", amd_sev], booted.as_slice()].concat());
    let four = "8c8e32cece492b44896d4e1f8a44621505a44849567891bfb2b005e2d8eb26d076acf825d8facbc69fa9d1d953092eb2";
    assert_eq!(found[0]["measurements"]["4"], four);
}

#[test]
fn firmware_that_can_not_be_predicted_says_what_to_do() {
    let (amd_sev, ovmf) = ("sev-ovmf/ovmf_AmdSev_suffix.bin", "sev-ovmf/ovmf_OvmfX64_suffix.bin");
    for (arguments, said) in [
        (&[amd_sev][..], "--vcpus 4"),
        (&[amd_sev, "--vcpus", "4"], "--cpu EPYC-v4"),
        (&[amd_sev, "--vcpus", "0", "--cpu", "EPYC-v4"], "a machine has 1 to 4096"),
        (&[amd_sev, "--vcpus", "1", "--cpu", "EPYC-v4", "--guest-features", "0x20"], "SNPActive"),
        (&[amd_sev, "--vcpus", "1", "--cpu", "EPYC-v4", "--guest-features", "33"], "begins with 0x"),
        (&[amd_sev, "--vcpus", "1", "--cpu", "Skylake"], "is no model of a processor"),
        (&[amd_sev, "--vcpus", "1", "--vmm", "xen"], "gce or qemu"),
        (&[amd_sev, "--vcpus", "1", "--initrd", amd_sev], "--kernel"),
        (&[ovmf, "--vcpus", "1", "--cpu", "EPYC-v4", "--kernel", amd_sev], "OvmfPkg/AmdSev"),
        (&["../tests/vectors/predict/small-uki.efi", "--vcpus", "1"], "isn't an OVMF image"),
    ] {
        let found = complaint(&[&["predict"], arguments].concat());
        assert!(found.contains(said), "{arguments:?}: {found}");
    }
}

#[test]
fn floors_are_members_of_a_policy_for_a_platform_at_a_time() {
    let of = |platform, now| lines(&["--output", "json", "floors", platform, "--now", now]).remove(0);
    let floors = of("gcp-snp", "2026-11-27T00:00:00Z");
    let milan = json!({"Milan": {"atLeast": "bl=4,tee=0,snp=27,ucode=222"}});
    assert_eq!(
        (&floors["policy"]["reportedTcb"], &floors["policy"]["provisional"]),
        (&milan, &json!({"exact": false}))
    );
    assert_ne!(of("gcp-snp", "2026-11-26T00:00:00Z")["policy"], floors["policy"]);
    assert_eq!(of("aws-snp", "2026-11-27T00:00:00Z")["policy"]["provisional"], json!({"anyOf": [false, true]}));
    for (platform, now) in [("qemu-tdx", "2026-11-27T00:00:00Z"), ("snp", "2024-01-01T00:00:00Z")] {
        let said = complaint(&["floors", platform, "--now", now]);
        assert!(said.contains("known are those of aws-snp"), "{said}");
    }
}
