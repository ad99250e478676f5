//! Prints the least that the operator's identity needs in a cloud, as the cloud's own tools read it.

#[cfg(not(feature = "aws"))]
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
}

/// The document.
///
/// # Errors
/// When the room of that cloud isn't part of this program.
pub fn document(of: &Permissions) -> anyhow::Result<String> {
    match of {
        #[cfg(feature = "aws")]
        Permissions::Aws { owner } => Ok(constellation_cloud_aws::policy(owner)),
        #[cfg(not(feature = "aws"))]
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
    }
}
