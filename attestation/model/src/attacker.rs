//! What may happen: honest nodes do their part, the attacker does whatever it can, the verifier may crash.

use constellation_attestation::protocol::Purpose;

use crate::{
    Hello, Join, Measured, PURPOSES, Party, Quote, Served, Stage, Ticket, Tpm, Wire, World,
    verifier::{about, admits, opens, role, seen_at},
};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Somebody connects to the verifier, says Hello and is challenged.
    Dial(Party, Hello),
    /// An honest node proves itself on its own connection.
    Prove(u8),
    /// The attacker shows this quote on its connection.
    Show(u8, Quote),
    /// The attacker, with the verifier's TLS key, asks the honest node for evidence and forwards a challenge to it.
    Lure(Purpose, u8),
    /// The ticket leaves.
    Grant(u8),
    /// Somebody who may write admissions makes a control-plane node of the worker.
    Promote,
    /// The verifier dies: every connection is gone, the record stays.
    Crash,
}

/// Everything that can happen next.
pub fn possible(model: &Join, world: &World, actions: &mut Vec<Action>) {
    if world.served.len() < usize::from(model.connections) {
        for party in [Party::Honest, Party::Double] {
            actions.push(Action::Dial(party, honest_hello(party)));
        }
        for encryption in [Party::Honest, Party::Attacker] {
            for (endorsement, attestation) in claims() {
                actions.push(Action::Dial(Party::Attacker, Hello { encryption, endorsement, attestation }));
            }
        }
    }
    for (number, served) in (0..).zip(&world.served) {
        match (served.stage, served.peer) {
            (Stage::Challenged, Party::Attacker) => {
                actions.extend(world.quotes.iter().map(|quote| Action::Show(number, *quote)));
                actions.extend(forged(model, number, served).map(|quote| Action::Show(number, quote)));
            }
            (Stage::Challenged, _) => actions.push(Action::Prove(number)),
            (Stage::Recorded(_), _) => actions.push(Action::Grant(number)),
            (Stage::Over, _) => {}
        }
        if model.verifier_key_stolen && world.lured < model.lures {
            actions.extend(PURPOSES.map(|purpose| Action::Lure(purpose, number)));
        }
    }
    if !world.promoted {
        actions.push(Action::Promote);
    }
    if !world.crashed {
        actions.push(Action::Crash);
    }
}

/// The world after it.
pub fn act(model: &Join, world: &World, action: &Action) -> World {
    let mut next = world.clone();
    match *action {
        Action::Dial(peer, hello) => next.served.push(Served { peer, hello, stage: Stage::Challenged }),
        Action::Prove(number) => {
            let served = world.served[usize::from(number)];
            let wire = Wire::Verifier(number);
            let node = served.peer;
            let data = about(model, Purpose::Join, wire, number, node, node);
            let quote = genuine(served.hello.attestation, data, wire);
            next.quotes.insert(quote);
            judge(model, &mut next, number, &quote, true);
        }
        Action::Show(number, quote) => {
            let hello = world.served[usize::from(number)].hello;
            let own = [Tpm::Attackers, Tpm::Software].iter().any(|&k| opens(k, hello.endorsement, hello.attestation));
            judge(model, &mut next, number, &quote, own || world.opened.contains(&number));
        }
        Action::Lure(purpose, number) => {
            let wire = Wire::Lured(world.lured);
            let data = about(model, purpose, wire, number, Party::Honest, Party::Honest);
            next.quotes.insert(genuine(Tpm::Honest, data, wire));
            let hello = world.served[usize::from(number)].hello;
            if opens(Tpm::Honest, hello.endorsement, hello.attestation) {
                next.opened.insert(number);
            }
            next.lured += 1;
        }
        Action::Grant(number) => {
            let served = &mut next.served[usize::from(number)];
            if let Stage::Recorded(material) = served.stage {
                served.stage = Stage::Over;
                let (opens, machine) = (served.hello.encryption, served.hello.attestation);
                next.tickets.insert(Ticket { opens, machine, material, after_crash: world.crashed });
            }
        }
        Action::Promote => next.promoted = true,
        Action::Crash => {
            next.crashed = true;
            next.served.iter_mut().for_each(|served| served.stage = Stage::Over);
        }
    }
    next
}

/// Prepares the ticket and records before it leaves, as `Verifier::settle` does.
fn judge(model: &Join, world: &mut World, number: u8, quote: &Quote, activated: bool) {
    let served = world.served[usize::from(number)];
    let good = admits(model, world, number, served, quote, activated);
    if good {
        world.record.get_or_insert(served.hello.attestation);
        world.accepted.insert((Wire::Verifier(number), quote.made_on));
    }
    let stage = if good { Stage::Recorded(role(world)) } else { Stage::Over };
    world.served[usize::from(number)].stage = stage;
}

fn honest_hello(party: Party) -> Hello {
    let tpm = if party == Party::Honest { Tpm::Honest } else { Tpm::Attackers };
    Hello { encryption: party, endorsement: tpm, attestation: tpm }
}

/// Certificate and attestation key that the attacker may put together.
fn claims() -> impl Iterator<Item = (Tpm, Tpm)> {
    let all = [Tpm::Honest, Tpm::Attackers, Tpm::Software];
    all.into_iter().flat_map(move |endorsement| all.into_iter().map(move |attestation| (endorsement, attestation)))
}

fn genuine(signer: Tpm, about: [u8; 32], wire: Wire) -> Quote {
    Quote { signer, good_image: true, measured: Measured::Worker, about, made_on: Some(wire) }
}

/// Quotes about exactly what is asked, that the attacker can make itself: its TPM tells that the image isn't the good
/// one, and keys in software say anything.
fn forged(model: &Join, number: u8, served: &Served) -> impl Iterator<Item = Quote> {
    let wire = Wire::Verifier(number);
    let node = seen_at(model, served.peer);
    let about = about(model, Purpose::Join, wire, number, node, served.hello.encryption);
    let quote = move |signer, good_image, measured| Quote { signer, good_image, measured, about, made_on: Some(wire) };
    [Measured::Worker, Measured::ControlPlane]
        .into_iter()
        .flat_map(move |measured| [quote(Tpm::Attackers, false, measured), quote(Tpm::Software, true, measured)])
}
