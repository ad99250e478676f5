//! The join as a state machine with an attacker in it, checked exhaustively by `tests/attacker.rs`.
//!
//! One honest worker, one verifier, one node uid. The attacker owns the network and the cloud: it reads and replays
//! all evidence, has a TPM of its own that the same maker endorses, makes keys in software, boots a second machine
//! from the honest image, may hold the TLS private key of either side, edits the admission, and crashes the verifier
//! between record and ticket. It breaks no cryptography: it can't sign with another TPM, nor open what is sealed.
//!
//! What evidence is about is computed by [`constellation_attestation::binding`], the product's own function. A
//! [`Checks`] with one field off is a verifier with one bug, and the checker must find what that bug costs.

mod attacker;
mod verifier;

use std::collections::BTreeSet;

use constellation_attestation::protocol::{Purpose, Role};
use stateright::{Model, Property};

pub use attacker::Action;

/// Who holds a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// The worker that the owner launched.
    Honest,
    /// The same image and launch configuration on the attacker's machine: its software is honest, its keys are safe.
    Double,
    /// The attacker.
    Attacker,
}

/// What signs quotes and opens credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tpm {
    /// The honest worker's, endorsed.
    Honest,
    /// The attacker's own, endorsed by the same maker; it tells the truth about what the attacker runs.
    Attackers,
    /// No TPM at all but keys in software, which sign anything and which nobody endorses.
    Software,
}

/// A TLS connection; its exporter is its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wire {
    /// Ends at the verifier.
    Verifier(u8),
    /// From the honest node to an attacker that holds the verifier's TLS key.
    Lured(u8),
}

/// A quote, as far as a verifier looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quote {
    /// What signed it.
    pub signer: Tpm,
    /// Whether the registers are those of the good image.
    pub good_image: bool,
    /// Role in the launch configuration that was measured into PCR 15.
    pub measured: Measured,
    /// Report data: the digest of a [`constellation_attestation::binding::Binding`].
    pub about: [u8; 32],
    /// Where it was made. Nobody in the model looks at it; properties do.
    pub made_on: Option<Wire>,
}

/// [`Role`] with an order, so that it can be in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Measured {
    /// A worker.
    Worker,
    /// A control-plane node.
    ControlPlane,
}

impl From<Role> for Measured {
    fn from(role: Role) -> Self {
        match role {
            Role::ControlPlane => Self::ControlPlane,
            Role::Worker => Self::Worker,
        }
    }
}

/// What a Hello claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hello {
    /// Whose encryption key secrets are to be sealed to.
    pub encryption: Party,
    /// The TPM of the endorsement key certificate.
    pub endorsement: Tpm,
    /// The TPM of the attestation key.
    pub attestation: Tpm,
}

/// How far the verifier is on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The challenge has left.
    Challenged,
    /// The admission is recorded; the ticket, with this role's material, was made before and has not left.
    Recorded(Measured),
    /// Refused, granted, or cut off by a crash.
    Over,
}

/// A connection at the verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Served {
    /// Who has the other end.
    pub peer: Party,
    /// What it claims.
    pub hello: Hello,
    /// How far it is.
    pub stage: Stage,
}

/// What left the verifier, sealed to one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// Whose key opens it.
    pub opens: Party,
    /// The machine that was admitted.
    pub machine: Tpm,
    /// Role whose material is in it.
    pub material: Measured,
    /// Whether a verifier had crashed before.
    pub after_crash: bool,
}

/// One state of the world.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct World {
    /// Connections at the verifier; the index is exporter, nonce and credential secret.
    pub served: Vec<Served>,
    /// Connections of the honest node to the attacker.
    pub lured: u8,
    /// All genuine quotes that were ever made; evidence isn't secret.
    pub quotes: BTreeSet<Quote>,
    /// Credential secrets that a TPM opened for the attacker.
    pub opened: BTreeSet<u8>,
    /// The machine in the admission record.
    pub record: Option<Tpm>,
    /// Whether somebody made a control-plane node of the worker in its admission.
    pub promoted: bool,
    /// Whether the verifier crashed.
    pub crashed: bool,
    /// Evidence that was accepted: on which connection, and where it was made.
    pub accepted: BTreeSet<(Wire, Option<Wire>)>,
    /// What left.
    pub tickets: BTreeSet<Ticket>,
}

/// The verifier's checks; one that is off is a seeded bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a check of its own that a test turns off")]
pub struct Checks {
    /// The TLS exporter is part of what evidence is about (`binding.rs`).
    pub exporter: bool,
    /// The role in the admission is the measured one (`tpm.pcr.15`, `admission.launch-config`).
    pub role: bool,
    /// The quote is about this conversation (`tpm.quote.nonce`).
    pub nonce: bool,
    /// The endorsed TPM vouches for the attestation key (`tpm.ak.credential`).
    pub credential: bool,
    /// The endorsement key's certificate is of a named CA (`tpm.ek.certificate`).
    pub endorsement: bool,
    /// The registers are those of a set (`tpm.pcr.<n>`).
    pub registers: bool,
    /// A recorded node is the same machine (`admission.second-key`).
    pub record: bool,
}

impl Checks {
    /// The product.
    pub const ALL: Self = Self {
        exporter: true,
        role: true,
        nonce: true,
        credential: true,
        endorsement: true,
        registers: true,
        record: true,
    };
}

/// The model: which checks are made, which TLS private keys were stolen, and how much may happen.
#[derive(Clone, Copy, Debug)]
pub struct Join {
    /// The verifier's checks.
    pub checks: Checks,
    /// Whether the attacker holds the honest node's TLS key, so that it can dial as the node.
    pub node_key_stolen: bool,
    /// Whether it holds the verifier's TLS key, so that it can serve the honest node.
    pub verifier_key_stolen: bool,
    /// Most connections at the verifier.
    pub connections: u8,
    /// Most connections of the honest node to the attacker.
    pub lures: u8,
}

/// Purposes that somebody with a verifier's TLS key may ask the honest node for.
pub(crate) const PURPOSES: [Purpose; 2] = [Purpose::Join, Purpose::Reattest];

impl Model for Join {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::default()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        attacker::possible(self, world, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        Some(attacker::act(self, world, &action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("the attacker opens no ticket", |_, world: &World| {
                world.tickets.iter().all(|ticket| ticket.opens != Party::Attacker)
            }),
            Property::always("a worker gets no control-plane material", |_, world: &World| {
                world.tickets.iter().all(|ticket| ticket.material == Measured::Worker)
            }),
            Property::always("evidence is accepted only where it was made", |_, world: &World| {
                world.accepted.iter().all(|(wire, made_on)| *made_on == Some(*wire))
            }),
            Property::always("one machine is the node", |_, world: &World| {
                let machines: BTreeSet<Tpm> = world.tickets.iter().map(|ticket| ticket.machine).collect();
                machines.len() <= 1
            }),
            Property::always("what left was recorded", |_, world: &World| {
                world.tickets.is_empty() || world.record.is_some()
            }),
            Property::sometimes("the honest node is admitted", |_, world: &World| {
                world.tickets.iter().any(|ticket| ticket.opens == Party::Honest)
            }),
            Property::sometimes("a ticket lost in a crash is given again", |_, world: &World| {
                world.tickets.iter().any(|ticket| ticket.opens == Party::Honest && ticket.after_crash)
            }),
        ]
    }
}
