//! What an owner says about fetching: whether at all, and from where.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use constellation_attestation::tdx::collateral::ROOT_CRL;

/// AMD's Key Distribution Service.
const AMD: &str = "https://kdsintf.amd.com";
/// Intel's Provisioning Certification Service.
const INTEL: &str = "https://api.trustedservices.intel.com";

/// Fetching of what makers and clouds say about machines.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Fetch what makers of processors and clouds say about machines; without it, `ConfigMap` `constellation-collateral` is
    /// written by hand.
    #[arg(long, env = "CONSTELLATION_FETCH_COLLATERAL", value_parser = clap::builder::BoolishValueParser::new())]
    pub fetch_collateral: bool,
    /// Certificates of CAs, PEM, that mirrors may have beside those of the system.
    #[arg(long, env = "CONSTELLATION_COLLATERAL_CA", value_name = "FILE")]
    pub collateral_ca: Option<PathBuf>,
    /// Where things are.
    #[command(flatten)]
    pub sources: Sources,
}

/// Where makers, or mirrors of them, have what they say.
#[derive(Args, Clone, Debug)]
pub struct Sources {
    /// AMD's Key Distribution Service.
    #[arg(long = "amd-kds-url", env = "CONSTELLATION_AMD_KDS_URL", value_name = "URL", default_value = AMD, value_parser = base)]
    pub amd: String,
    /// Intel's Provisioning Certification Service, or a cache (PCCS).
    #[arg(long = "intel-pcs-url", env = "CONSTELLATION_INTEL_PCS_URL", value_name = "URL", default_value = INTEL, value_parser = base)]
    pub intel: String,
    /// Where Intel has the revocation list of its root.
    #[arg(long = "intel-root-crl-url", env = "CONSTELLATION_INTEL_ROOT_CRL_URL", value_name = "URL", default_value = ROOT_CRL, value_parser = base)]
    pub intel_root: String,
    /// Which of Intel's TCB data, by how long after its publication it counts.
    #[arg(
        long = "intel-tcb-update",
        env = "CONSTELLATION_INTEL_TCB_UPDATE",
        value_name = "WHICH",
        default_value = "standard"
    )]
    pub update: Update,
    /// Mirror of Google's issuers: the host that a certificate names is the first part of the path. Absent: that host.
    #[arg(long = "google-issuers-url", env = "CONSTELLATION_GOOGLE_ISSUERS_URL", value_name = "URL", value_parser = base)]
    pub google: Option<String>,
}

/// Parameter `update` of Intel's service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Update {
    /// What was published last: platforms that weren't updated yet are out of date at once.
    Early,
    /// What everybody had time to update to.
    Standard,
}

/// An address to put paths behind.
fn base(text: &str) -> Result<String, String> {
    let url: hyper::Uri = text.parse().map_err(|error| format!("it is no URL: {error}"))?;
    let plain = url.query().is_none() && !text.contains(['#', '@']);
    if url.scheme_str() != Some("https") || url.host().is_none() || !plain {
        return Err("it must be https://HOST[:PORT][/PATH]".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_https_and_nothing_but_an_address() {
        assert_eq!(base("https://pccs.example:8081/").as_deref(), Ok("https://pccs.example:8081"));
        assert_eq!(base("https://mirror.example/kds").as_deref(), Ok("https://mirror.example/kds"));
        for wrong in
            ["", "mirror.example", "http://mirror.example", "https://", "https://a/?b", "https://a@b/", "ftp://a"]
        {
            assert!(base(wrong).is_err(), "{wrong}");
        }
    }
}
