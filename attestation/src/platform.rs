//! The platforms whose evidence is known: a closed set, chosen by the verifier's policy and never by the evidence.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What a machine's evidence rests on. Text at the border of a program, this type inside.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum Platform {
    /// AWS `NitroTPM`: a document that AWS signs; no memory encryption.
    AwsNitroTpm,
    /// AWS SEV-SNP with a `NitroTPM`.
    AwsSnp,
    /// Azure SEV-SNP with the paravisor's vTPM.
    AzureSnp,
    /// Azure TDX with the paravisor's vTPM.
    AzureTdx,
    /// Azure Trusted Launch: a vTPM of the host; no memory encryption.
    AzureTrustedLaunch,
    /// GCP SEV-ES: a vTPM of the host that says so; no report of the hardware.
    GcpSevEs,
    /// GCP SEV-SNP with a vTPM of the host.
    GcpSnp,
    /// GCP TDX with a vTPM of the host.
    GcpTdx,
    /// QEMU with TDX: run-time registers, no TPM.
    QemuTdx,
    /// QEMU with a software TPM of the host: proves nothing against the host.
    QemuVtpm,
    /// No machine at all: proves nothing.
    Simulated,
    /// SEV-SNP without a vTPM.
    Snp,
}

/// Hardware that reports on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tee {
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
}

/// Text that names no platform.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} isn't a platform; known are {known}", known = Platform::names())]
pub struct Unknown(String);

impl Platform {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::AwsNitroTpm,
        Self::AwsSnp,
        Self::AzureSnp,
        Self::AzureTdx,
        Self::AzureTrustedLaunch,
        Self::GcpSevEs,
        Self::GcpSnp,
        Self::GcpTdx,
        Self::QemuTdx,
        Self::QemuVtpm,
        Self::Simulated,
        Self::Snp,
    ];

    /// Its name, as in JSON and on command lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AwsNitroTpm => "aws-nitro-tpm",
            Self::AwsSnp => "aws-snp",
            Self::AzureSnp => "azure-snp",
            Self::AzureTdx => "azure-tdx",
            Self::AzureTrustedLaunch => "azure-trusted-launch",
            Self::GcpSevEs => "gcp-sev-es",
            Self::GcpSnp => "gcp-snp",
            Self::GcpTdx => "gcp-tdx",
            Self::QemuTdx => "qemu-tdx",
            Self::QemuVtpm => "qemu-vtpm",
            Self::Simulated => "simulated",
            Self::Snp => "snp",
        }
    }

    /// The hardware that reports on it, if there is one. SEV-ES encrypts memory but gives no report.
    #[must_use]
    pub const fn tee(self) -> Option<Tee> {
        match self {
            Self::AwsSnp | Self::AzureSnp | Self::GcpSnp | Self::Snp => Some(Tee::Snp),
            Self::AzureTdx | Self::GcpTdx | Self::QemuTdx => Some(Tee::Tdx),
            Self::AwsNitroTpm | Self::AzureTrustedLaunch | Self::GcpSevEs | Self::QemuVtpm | Self::Simulated => None,
        }
    }

    /// Bytes of a register of its TPM, if it has one: `NitroTPM` documents hold the SHA-384 bank, we quote the SHA-256
    /// bank of all others.
    #[must_use]
    pub const fn register_bytes(self) -> Option<usize> {
        match self {
            Self::AwsNitroTpm | Self::AwsSnp => Some(48),
            Self::QemuTdx | Self::Snp => None,
            _ => Some(32),
        }
    }

    /// Whether its TPM's endorsement key, which its maker certified, speaks for the attestation key. In the clouds the
    /// provider does: Google's certificate, the paravisor's report, AWS's document.
    #[must_use]
    pub const fn has_endorsement_key(self) -> bool {
        match self {
            Self::QemuVtpm | Self::Simulated | Self::AzureTrustedLaunch | Self::QemuTdx | Self::Snp => true,
            Self::AwsNitroTpm
            | Self::AwsSnp
            | Self::AzureSnp
            | Self::AzureTdx
            | Self::GcpSevEs
            | Self::GcpSnp
            | Self::GcpTdx => false,
        }
    }

    /// Whether somebody beside the machine has to have said something that may change: a processor's maker, or a cloud.
    #[must_use]
    pub const fn needs_collateral(self) -> bool {
        self.tee().is_some() || !self.has_endorsement_key()
    }

    fn names() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Platform {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        Self::ALL.into_iter().find(|platform| platform.as_str() == text).ok_or_else(|| Unknown(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_has_one_name_as_text_and_in_json() {
        for platform in Platform::ALL {
            assert_eq!(platform.as_str().parse(), Ok(platform));
            assert_eq!(serde_json::to_value(platform).unwrap(), platform.as_str());
            assert_eq!(serde_json::from_value::<Platform>(platform.as_str().into()).unwrap(), platform);
        }
        for wrong in ["", "SNP", "qemu", "sgx"] {
            assert!(wrong.parse::<Platform>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_platform_has_somebody_who_speaks_for_its_tpm_and_mostly_somebody_who_has_to_be_asked() {
        for (platform, endorsement_key, collateral) in [
            (Platform::AwsNitroTpm, false, true),
            (Platform::AwsSnp, false, true),
            (Platform::AzureSnp, false, true),
            (Platform::AzureTdx, false, true),
            (Platform::AzureTrustedLaunch, true, false),
            (Platform::GcpSevEs, false, true),
            (Platform::GcpSnp, false, true),
            (Platform::GcpTdx, false, true),
            (Platform::QemuTdx, true, true),
            (Platform::QemuVtpm, true, false),
            (Platform::Simulated, true, false),
            (Platform::Snp, true, true),
        ] {
            let said = (platform.has_endorsement_key(), platform.needs_collateral());
            assert_eq!(said, (endorsement_key, collateral), "{platform}");
        }
    }

    #[test]
    fn who_names_no_platform_is_told_all_of_them() {
        let said = "sgx".parse::<Platform>().unwrap_err().to_string();
        let known: Vec<_> = Platform::ALL.iter().map(|platform| platform.as_str()).collect();
        assert_eq!(said, format!("\"sgx\" isn't a platform; known are {}", known.join(", ")));
    }
}
