//! What a cloud delivers to a node as user data: the launch configuration, which is measured, and then hints, which
//! nobody believes.
//!
//! One line each: a launch configuration is compact JSON, in which no line ends. The first line alone goes into PCR 15,
//! so that a hint may change without changing the node.

use serde::{Deserialize, Serialize};

/// Greatest user data, bytes: EC2 takes 16 KiB ("Instance user data"), others more.
pub const MAX_BYTES: usize = 16 * 1024;
/// Verifiers that a node asks in turn; an endpoint stands for a whole control plane.
const MAX_VERIFIERS: usize = 16;

/// Where to ask. A wrong hint costs time: whoever answers must prove who it is.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Hints {
    /// `host:port` of each verifier.
    #[serde(default)]
    pub verifiers: Vec<String>,
}

/// The user data of a node.
///
/// # Panics
/// Never: a list of strings serialises.
#[must_use]
pub fn join(launch: &[u8], hints: &Hints) -> Vec<u8> {
    let hints = serde_json::to_vec(hints).expect("a list of strings serialises");
    [launch, b"\n", &hints].concat()
}

/// The launch configuration, byte for byte, and the hints; hints that can't be read are none.
#[must_use]
pub fn split(delivered: &[u8]) -> (&[u8], Hints) {
    let mut lines = delivered.splitn(2, |byte| *byte == b'\n');
    let launch = lines.next().unwrap_or_default();
    let mut hints: Hints = lines.next().and_then(|text| serde_json::from_slice(text).ok()).unwrap_or_default();
    hints.verifiers.truncate(MAX_VERIFIERS);
    (launch, hints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_joined_comes_apart_and_the_launch_configuration_keeps_every_byte() {
        let hints = Hints { verifiers: vec!["192.0.2.1:9001".into()] };
        let launch = br#"{"nodeName":"a\nb"}"#;
        assert_eq!(split(&join(launch, &hints)), (launch.as_slice(), hints));
        assert_eq!(split(&join(launch, &Hints::default())), (launch.as_slice(), Hints::default()));
    }

    #[test]
    fn hints_never_change_what_is_measured() {
        for hints in [&b""[..], b"\n", b"\n{", b"\n{\"verifiers\":7}", b"\n{}\n{}", b"\n{\"more\":1}"] {
            let delivered = [b"{}", hints].concat();
            assert_eq!(split(&delivered), (&b"{}"[..], Hints::default()), "{hints:?}");
        }
        let many = Hints { verifiers: vec!["v".into(); 99] };
        assert_eq!(split(&join(b"{}", &many)).1.verifiers.len(), MAX_VERIFIERS);
    }
}
