//! The one function that turns everything a conversation is about into the evidence's report data.

use sha2::{Digest, Sha256};

use crate::protocol::{BootKeys, Purpose};

/// Who appraises. Part of the binding, so a conversation can't be reflected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifierRole {
    /// The in-cluster verifier.
    Cluster,
    /// The cluster's owner, that is the operator.
    Owner,
}

/// Everything that the evidence must be about.
#[derive(Clone, Debug)]
pub struct Binding<'a> {
    /// What the conversation is for.
    pub purpose: Purpose,
    /// Who appraises.
    pub verifier_role: VerifierRole,
    /// 32 bytes of the TLS exporter with [`crate::protocol::EXPORTER_LABEL`] and the nonce as context.
    pub exporter: &'a [u8; 32],
    /// The challenge's nonce.
    pub nonce: &'a [u8],
    /// SPKI (DER) of the node's TLS leaf certificate.
    pub node_spki: &'a [u8],
    /// SPKI (DER) of the verifier's TLS leaf certificate.
    pub verifier_spki: &'a [u8],
    /// The keys of this boot.
    pub keys: &'a BootKeys,
    /// UID of the cluster.
    pub cluster_uid: &'a str,
    /// UID of the node.
    pub node_uid: &'a str,
    /// Revision of the trust policy.
    pub policy_revision: u64,
}

impl Binding<'_> {
    /// SHA-256 over a version label and every member, each preceded by its length (u64, big endian).
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let role: &[u8] = match self.verifier_role {
            VerifierRole::Cluster => b"node to cluster verifier",
            VerifierRole::Owner => b"node to owner",
        };
        let revision = self.policy_revision.to_be_bytes();
        let members: [&[u8]; 12] = [
            b"constellation-attest-1",
            self.purpose.as_str().as_bytes(),
            role,
            self.exporter,
            self.nonce,
            self.node_spki,
            self.verifier_spki,
            &self.keys.csr,
            &self.keys.encryption,
            &self.keys.wireguard,
            self.cluster_uid.as_bytes(),
            self.node_uid.as_bytes(),
        ];
        let mut hash = Sha256::new();
        for member in members.into_iter().chain([revision.as_slice()]) {
            hash.update((member.len() as u64).to_be_bytes());
            hash.update(member);
        }
        hash.finalize().into()
    }
}
