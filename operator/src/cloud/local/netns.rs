//! The network inside the cluster's namespace: one bridge, one tap per VM, made with `ip`.

use std::{
    io,
    net::Ipv4Addr,
    path::Path,
    process::{Output, Stdio},
};

use tokio::{io::AsyncWriteExt, process::Command};

use super::layout::Subnet;

/// What went wrong with the network.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("ip did not run")]
    Run(#[source] io::Error),
    #[error("setting up the {what} failed: {output}")]
    Refused { what: String, output: String },
}

/// Brings up the loopback and the bridge with the gateway's address.
pub(super) async fn ensure_bridge(ip: &Path, subnet: Subnet) -> Result<(), Error> {
    batch(ip, "bridge", &bridge(subnet)).await
}

/// Makes a tap on the bridge, anew if there was one.
pub(super) async fn ensure_tap(ip: &Path, tap: &str) -> Result<(), Error> {
    // Fails when there is none, which is the usual case.
    remove_tap(ip, tap).await.ok();
    batch(ip, tap, &format!("tuntap add dev {tap} mode tap\nlink set {tap} master {BRIDGE} up\n")).await
}

/// Removes a tap.
pub(super) async fn remove_tap(ip: &Path, tap: &str) -> Result<(), Error> {
    batch(ip, tap, &format!("link del dev {tap}\n")).await
}

/// The bridge has an address of its own: without one it takes the lowest of its taps', which changes while guests
/// hold the old one in their neighbour tables.
fn bridge(subnet: Subnet) -> String {
    let [a, b, c, d] = subnet.gateway().octets();
    format!(
        "link set dev lo up\n\
         link add {BRIDGE} address 52:54:{a:02x}:{b:02x}:{c:02x}:{d:02x} type bridge forward_delay 0\n\
         addr add {} dev {BRIDGE}\n\
         link set dev {BRIDGE} up\n",
        subnet.with_prefix(subnet.gateway())
    )
}

/// Name of the tap of the node at this address: unique in the namespace, short enough for the kernel.
pub(super) fn tap_name(address: Ipv4Addr) -> String {
    let [_, b, c, d] = address.octets();
    format!("tap{b:02x}{c:02x}{d:02x}")
}

const BRIDGE: &str = "br0";

async fn batch(ip: &Path, what: &str, commands: &str) -> Result<(), Error> {
    let mut child = Command::new(ip)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::Run)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(commands.as_bytes()).await.map_err(Error::Run)?;
    }
    let Output { status, stderr, .. } = child.wait_with_output().await.map_err(Error::Run)?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::Refused { what: what.to_owned(), output: super::console::tail(&stderr, 3) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bridge_holds_the_gateway() {
        let commands = bridge(Subnet::parse("10.77.0.0/24").unwrap());
        assert!(commands.contains("link add br0 address 52:54:0a:4d:00:01 type bridge"));
        assert!(commands.contains("addr add 10.77.0.1/24 dev br0\n"));
    }

    #[test]
    fn tap_names_differ_between_nodes_and_fit_the_kernel() {
        let name = tap_name(Ipv4Addr::new(10, 77, 0, 11));
        assert_eq!(name, "tap4d000b");
        assert!(name.len() <= 15);
    }
}
