//! Keys from the master secret: HKDF-SHA256, one label per purpose.

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

/// Label of the secret from which verifiers derive nodes' disk keys.
pub const DISK_SECRET: &str = "constellation-disk-secret-1";
/// Label of the cluster's identity, which members extend into PCR 15.
pub const CLUSTER_ID: &str = "constellation-cluster-id-1";

/// 32 bytes of HKDF-SHA256 (RFC 5869) with no salt and `label` as info.
///
/// # Panics
/// Never: 32 bytes are far below HKDF's limit of 255 blocks.
#[must_use]
pub fn derive(secret: &[u8], label: &str) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    Salt::new(HKDF_SHA256, &[])
        .extract(secret)
        .expand(&[label.as_bytes()], HKDF_SHA256)
        .and_then(|okm| okm.fill(key.as_mut()))
        .expect("32 bytes are below HKDF's limit");
    key
}

/// Key of one node's state disk; the label is `disk:` and the node's UID.
#[must_use]
pub fn disk_key(disk_secret: &[u8], node_uid: &str) -> Zeroizing<[u8; 32]> {
    derive(disk_secret, &format!("disk:{node_uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_third_test_case_of_rfc_5869() {
        let expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d";
        assert_eq!(hex::encode(*derive(&[0x0b; 22], "")), expected);
    }

    #[test]
    fn every_purpose_and_every_node_has_a_key_of_its_own() {
        let secret = [7; 32];
        let keys = [
            derive(&secret, DISK_SECRET),
            derive(&secret, CLUSTER_ID),
            disk_key(&secret, "a"),
            disk_key(&secret, "b"),
            disk_key(&[8; 32], "a"),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(keys.iter().skip(index + 1).all(|other| other != key));
        }
        assert_eq!(disk_key(&secret, "a"), keys[2]);
    }
}
