//! The image for clouds, booted where a cloud is pretended: EC2's firmware tables, disks on `NVMe` and SCSI, an address by
//! DHCP, user data from the metadata service. It finds all of them, and its TPM holds what was predicted, in both banks.
//!
//! Needs the programs (`cargo build --workspace --bins`) and the image (`tests/run.sh image`), which
//! `CONSTELLATION_CLOUD_IMAGE` names. The host of a cloud is **simulated** here; the image and its TPM are not.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

#[path = "cloud_image/host.rs"]
mod host;

use std::{path::PathBuf, process::Command, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_attestation::{
    appraise::pcr15_before_join,
    delivery::{self, Hints},
    protocol::{LaunchConfig, Role},
    tpm::Hash,
};
use constellation_tests::operator::program;
use serde_json::Value;

use self::host::Host;

/// Booting takes some twenty seconds without KVM when nothing else runs.
const BOOT: Duration = Duration::from_mins(5);

fn image() -> PathBuf {
    let folder =
        std::env::var("CONSTELLATION_CLOUD_IMAGE").expect("CONSTELLATION_CLOUD_IMAGE names the builder's folder");
    PathBuf::from(folder).join("image.raw")
}

/// What the builder says that a machine which boots the image measures.
fn predicted() -> Value {
    let output = Command::new(program("constellation-image").unwrap()).arg("predict").arg(image()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_machine_of_a_cloud_finds_network_user_data_and_disk_and_measures_what_was_predicted() {
    let launch = LaunchConfig {
        cluster_uid: "c0ffee00-0000-4000-8000-000000000001".into(),
        node_uid: "c0ffee00-0000-4000-8000-000000000002".into(),
        node_name: "pretended-1".into(),
        role: Role::Worker,
        owner_public_key: STANDARD.encode(b"nobody checks it before an owner comes"),
    };
    let bytes = launch.to_bytes();
    let mut host = Host::start(&image(), delivery::join(&bytes, &Hints::default()));

    for line in [
        // The first free address of the pretended network.
        "dhcp: bound 169.254.169.15/24 on eth0",
        "Measured the launch configuration node=\"pretended-1\" state=Waiting",
        "The state disk is /dev/nvme0n1",
    ] {
        host.says(line, BOOT);
    }
    let asked = host.asked();
    assert_eq!(asked[..2], ["PUT /latest/api/token", "GET /latest/user-data"], "{asked:?}");

    let mut tpm = host.cut_power();
    let predicted = predicted();
    let launch = pcr15_before_join(&bytes);
    for (bank, registers) in [(Hash::Sha256, &predicted["pcrs"]), (Hash::Sha384, &predicted["pcrsSha384"])] {
        for index in [2, 4, 9, 11, 12, 13] {
            let found = hex::encode(tpm.register(bank, index));
            assert_eq!(registers[index.to_string()], Value::from(vec![found]), "register {index} of {bank:?}");
        }
        assert_eq!(tpm.register(bank, 15), launch.of(bank), "register 15 of {bank:?}");
    }
}

/// What a cloud's DHCP gives is what the machine has: Compute Engine's network of one address with routes (option 121), and
/// a plain network with a router.
#[test]
fn an_address_of_either_form_is_applied_and_stays_the_only_one() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../bootstrapper/image/files/dhcp.sh");
    // In namespaces of its own: the machine's network and files stay as they are.
    let show = "ip -4 -o addr show dev eth0; ip -4 route; ip link show dev eth0; cat /etc/resolv.conf; echo --;";
    let story = format!(
        "set -e; mount -t tmpfs none /etc; ip link add eth0 type bridge; export interface=eth0 lease=60
         sh {script} deconfig
         ip=10.128.0.7 mask=32 mtu=1460 router=192.0.2.9 dns='169.254.169.254' \
            staticroutes='10.128.0.1/32 0.0.0.0 0.0.0.0/0 10.128.0.1' sh {script} bound; {show}
         ip=172.31.5.9 mask=20 router='172.31.0.1 172.31.0.2' dns='172.31.0.2 172.31.0.3' sh {script} bound; {show}
         ip=172.31.5.9 mask=20 router='172.31.0.1 172.31.0.2' dns='172.31.0.2' sh {script} renew; {show}"
    );
    let output = Command::new("unshare").args(["--net", "--mount", "sh", "-c", &story]).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}");
    let states: Vec<&str> = text.split("--\n").collect();
    let [google, plain, renewed, ""] = states[..] else { panic!("{text}") };
    for wanted in [
        "inet 10.128.0.7/32 ",
        "10.128.0.1 dev eth0 scope link",
        "default via 10.128.0.1 dev eth0 onlink",
        " mtu 1460 ",
        "nameserver 169.254.169.254\n",
    ] {
        assert!(google.contains(wanted), "{wanted:?} in\n{google}\n{errors}");
    }
    for wanted in
        ["inet 172.31.5.9/20 ", "default via 172.31.0.1 dev eth0", "nameserver 172.31.0.2\nnameserver 172.31.0.3\n"]
    {
        assert!(plain.contains(wanted), "{wanted:?} in\n{plain}\n{errors}");
    }
    assert!(!plain.contains("10.128.0"), "{plain}");
    assert_eq!(renewed.matches(" inet ").count(), 1, "{renewed}");
    assert!(renewed.contains("inet 172.31.5.9/20 ") && !renewed.contains("172.31.0.3"), "{renewed}");
}
