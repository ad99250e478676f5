//! What a restarted control-plane node is given while no verifier is up: its own disk key and the cluster's identity.

use constellation_attestation::{
    keys,
    protocol::{Purpose, RecoverKey},
};

use super::talk::Secret;

impl Secret for RecoverKey {
    const PURPOSE: Purpose = Purpose::Recover;
}

/// The key of one node, and of no other.
#[must_use]
pub fn key(master_secret: &[u8], node_uid: &str) -> RecoverKey {
    let disk_secret = keys::derive(master_secret, keys::DISK_SECRET);
    RecoverKey {
        disk_key: keys::disk_key(disk_secret.as_slice(), node_uid).to_vec(),
        cluster_id: keys::derive(master_secret, keys::CLUSTER_ID).to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_nodes_have_different_keys_and_one_cluster() {
        let (a, b) = (key(&[1; 32], "a"), key(&[1; 32], "b"));
        assert!(a.disk_key != b.disk_key && a.cluster_id == b.cluster_id);
        assert!(key(&[2; 32], "a").cluster_id != a.cluster_id);
    }
}
