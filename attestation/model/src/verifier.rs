//! The verifier's half: what evidence must be about, and whether it is good enough.

use constellation_attestation::{
    binding::{Binding, VerifierRole},
    protocol::{BootKeys, Purpose},
};

use crate::{Join, Measured, Party, Quote, Served, Tpm, Wire, World};

const UID: &str = "uid-1";
const CLUSTER: &str = "cluster-1";

/// What evidence for this conversation is about, by the product's own function.
pub fn about(model: &Join, purpose: Purpose, wire: Wire, nonce: u8, node: Party, encryption: Party) -> [u8; 32] {
    let exporter = match wire {
        _ if !model.checks.exporter => [0; 32],
        Wire::Verifier(number) => [1 + number; 32],
        Wire::Lured(number) => [101 + number; 32],
    };
    let key = |party: Party| vec![party as u8; 32];
    let keys = BootKeys { csr: key(encryption), encryption: key(encryption), wireguard: key(encryption) };
    Binding {
        purpose,
        verifier_role: VerifierRole::Cluster,
        exporter: &exporter,
        nonce: &[nonce; 32],
        node_spki: &key(node),
        verifier_spki: b"verifier",
        keys: &keys,
        cluster_uid: CLUSTER,
        node_uid: UID,
        policy_revision: 1,
    }
    .digest()
}

/// Whose TLS key the verifier sees at the other end: an attacker that stole the node's shows that one.
pub fn seen_at(model: &Join, peer: Party) -> Party {
    if peer == Party::Attacker && model.node_key_stolen { Party::Honest } else { peer }
}

/// Whether a credential for these two keys can be opened with these: a TPM insists on holding both, while whoever has
/// the endorsement key in software needs no TPM.
pub fn opens(keys: Tpm, endorsement: Tpm, attestation: Tpm) -> bool {
    keys == endorsement && (keys == attestation || keys == Tpm::Software)
}

/// The role that the admission says.
pub fn role(world: &World) -> Measured {
    if world.promoted { Measured::ControlPlane } else { Measured::Worker }
}

/// Appraises and admits: every check that the product makes, unless it is the seeded bug.
pub fn admits(model: &Join, world: &World, number: u8, served: Served, quote: &Quote, activated: bool) -> bool {
    let (checks, hello) = (model.checks, served.hello);
    let node = seen_at(model, served.peer);
    let wanted = about(model, Purpose::Join, Wire::Verifier(number), number, node, hello.encryption);
    let signed = quote.signer == hello.attestation;
    let same_machine = world.record.is_none_or(|machine| machine == hello.attestation);
    signed
        && (!checks.nonce || quote.about == wanted)
        && (!checks.credential || activated)
        && (!checks.endorsement || hello.endorsement != Tpm::Software)
        && (!checks.registers || quote.good_image)
        && (!checks.role || quote.measured == role(world))
        && (!checks.record || same_machine)
}
