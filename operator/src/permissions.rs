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
    }
}
