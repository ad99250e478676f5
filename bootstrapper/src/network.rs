//! The machine's own address and name. The address comes from a hint of the host, or in a cloud by DHCP, which a service
//! of the image runs; what either says is believed by nobody, so it needs no proof.

use std::{fs, net::IpAddr, path::Path, time::Duration};

use serde::Deserialize;

use crate::{error::Error, host::command};

/// Where QEMU's firmware-configuration device shows the hint.
pub const HINT: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/constellation/network/raw";
const DEVICE: &str = "eth0";
/// Setting addresses takes milliseconds; without KVM a busy machine needs longer.
const LIMIT: Duration = Duration::from_secs(30);
/// Greatest packet of a pod, and of the mesh that carries it, bytes: the smallest network of the clouds (Compute Engine's
/// default of 1460) less `WireGuard`'s overhead (80 with IPv6).
pub const MTU: u32 = 1460 - 80;

/// The hint.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Hint {
    /// Address with prefix length, for example `10.77.0.11/24`.
    pub address: String,
    /// Default gateway.
    pub gateway: String,
}

impl Hint {
    /// Reads the hint; absent means that the network is configured already.
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(path).map_err(|e| Error::File(format!("reading {}", path.display()), e))?;
        Self::parse(&text).map(Some)
    }

    /// What the hint says.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let hint: Self =
            serde_json::from_str(text).map_err(|e| Error::Launch(format!("network hint can't be read: {e}")))?;
        hint.ip()?;
        Ok(hint)
    }

    /// The address without its prefix length.
    pub fn ip(&self) -> Result<IpAddr, Error> {
        let (address, length) = self.address.split_once('/').unwrap_or((&self.address, ""));
        let wrong = || Error::Launch(format!("network hint holds a bad address {}", self.address));
        length.parse::<u8>().map_err(|_| wrong())?;
        self.gateway.parse::<IpAddr>().map_err(|_| wrong())?;
        address.parse().map_err(|_| wrong())
    }
}

/// Configures the machine's network device, by one program: to start one takes a tenth of a second on an emulated processor.
pub async fn configure(hint: &Hint) -> Result<(), Error> {
    let Hint { address, gateway } = hint;
    let commands = format!(
        "link set lo up\naddr replace {address} dev {DEVICE}\nlink set {DEVICE} up\nroute replace default via {gateway}\n"
    );
    command::with_input(&["ip", "-batch", "-"], commands.as_bytes(), LIMIT).await
}

/// Takes packets to `address` as our own, until the next boot.
pub async fn own(address: IpAddr) -> Result<(), Error> {
    command::run(&["ip", "route", "replace", "local", &address.to_string(), "dev", DEVICE]).await
}

/// Names the machine. Where DHCP named a resolver there is no other one to be written.
///
/// # Errors
/// When a file can't be written.
pub fn name(host: &str, address: IpAddr, resolver: Option<&str>) -> Result<(), Error> {
    let mut files = vec![
        ("/proc/sys/kernel/hostname", host.to_owned()),
        ("/etc/hostname", format!("{host}\n")),
        ("/etc/hosts", format!("127.0.0.1 localhost\n{address} {host}\n")),
    ];
    files.extend(resolver.map(|resolver| ("/etc/resolv.conf", format!("nameserver {resolver}\n"))));
    for (path, text) in files {
        fs::write(path, text).map_err(|e| Error::File(format!("writing {path}"), e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_with_a_prefix_is_accepted() {
        let hint = |address: &str| Hint { address: address.into(), gateway: "10.77.0.1".into() };
        assert_eq!(hint("10.77.0.11/24").ip().unwrap().to_string(), "10.77.0.11");
        for bad in ["10.77.0.11", "x/24", "10.77.0.11/x", ""] {
            assert!(hint(bad).ip().is_err(), "{bad}");
        }
    }
}
