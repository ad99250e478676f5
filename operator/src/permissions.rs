//! Prints the least that the operator's identity needs in a cloud, as the cloud's own tools read it.

#[cfg(not(all(feature = "aws", feature = "azure", feature = "gcp")))]
use anyhow::bail;
use clap::Subcommand;

/// Whose document.
#[derive(Subcommand, Clone, Debug)]
pub enum Permissions {
    /// A policy of AWS, for `aws iam create-policy --policy-document file://FILE`.
    Aws {
        /// UID of the management cluster's namespace kube-system, by which the operator marks what is its own.
        owner: String,
    },
    /// A custom role of Azure, for `az role definition create --role-definition @FILE`.
    Azure {
        /// The subscription in which the role may be given.
        subscription: String,
    },
    /// A custom role of Google Cloud, for `gcloud iam roles create constellationOperator --project P --file FILE`.
    Gcp,
    /// A policy of AWS for the key of a master secret.
    AwsKey {
        /// ARN of the key.
        arn: String,
    },
    /// A role of an Azure Managed HSM for the key of a master secret, for `az keyvault role definition create --hsm-name
    /// HSM --role-definition @FILE`; to be assigned on `/keys/NAME`.
    AzureKey,
    /// A custom role of Google Cloud for the key of a master secret, for `gcloud iam roles create constellationKey
    /// --project P --file FILE`; to be given on the key.
    GcpKey,
}

/// The document.
///
/// # Errors
/// When the room of that cloud isn't part of this program.
pub fn document(of: &Permissions) -> anyhow::Result<String> {
    match of {
        #[cfg(feature = "aws")]
        Permissions::Aws { owner } => Ok(constellation_cloud_aws::policy(owner)),
        #[cfg(feature = "azure")]
        Permissions::Azure { subscription } => Ok(constellation_cloud_azure::custom_role(subscription)),
        #[cfg(feature = "gcp")]
        Permissions::Gcp => Ok(constellation_cloud_gcp::custom_role()),
        #[cfg(feature = "aws")]
        Permissions::AwsKey { arn } => Ok(constellation_cloud_aws::key_policy(arn)),
        #[cfg(feature = "azure")]
        Permissions::AzureKey => Ok(constellation_cloud_azure::key_role()),
        #[cfg(feature = "gcp")]
        Permissions::GcpKey => Ok(constellation_cloud_gcp::key_role()),
        #[cfg(not(all(feature = "aws", feature = "azure", feature = "gcp")))]
        other => bail!("this operator was built without this provider ({other:?}): its document comes with its room"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_printed_where_the_room_is_built_in_and_refused_elsewhere() {
        let aws = document(&Permissions::Aws { owner: "o-1".into() });
        assert_eq!(aws.is_ok_and(|policy| policy.contains("\"o-1\"")), cfg!(feature = "aws"));
        let azure = document(&Permissions::Azure { subscription: "s-1".into() });
        assert_eq!(azure.is_ok_and(|role| role.contains("/subscriptions/s-1")), cfg!(feature = "azure"));
        let gcp = document(&Permissions::Gcp);
        assert_eq!(gcp.is_ok_and(|role| role.contains("- compute.instances.create\n")), cfg!(feature = "gcp"));
        let aws = document(&Permissions::AwsKey { arn: "k-1".into() });
        assert_eq!(aws.is_ok_and(|policy| policy.contains("\"k-1\"")), cfg!(feature = "aws"));
        let azure = document(&Permissions::AzureKey);
        assert_eq!(azure.is_ok_and(|role| role.contains("managedHsm/keys/decrypt/action")), cfg!(feature = "azure"));
        let gcp = document(&Permissions::GcpKey);
        assert_eq!(gcp.is_ok_and(|role| role.contains("- cloudkms.cryptoKeys.get\n")), cfg!(feature = "gcp"));
    }
}
