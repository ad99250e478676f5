//! Every state that the attacker can bring about: nothing is wrong in any, and each seeded bug is found.

use constellation_model::{Checks, Join};
use stateright::{Checker as _, Model as _};

/// Two TLS keys stolen, and enough connections for a relay and what follows it.
fn given(checks: Checks) -> Join {
    Join { checks, node_key_stolen: true, verifier_key_stolen: true, connections: 2, lures: 1 }
}

/// Names of the properties that were violated, in the order of the model.
fn found(model: Join) -> Vec<&'static str> {
    let properties = model.properties();
    let checker = model.checker().threads(1).spawn_bfs().join();
    let discoveries = checker.discoveries();
    let always = properties.iter().filter(|property| matches!(property.expectation, stateright::Expectation::Always));
    let violated: Vec<&str> =
        always.map(|property| property.name).filter(|name| discoveries.contains_key(name)).collect();
    for property in properties.iter().filter(|p| matches!(p.expectation, stateright::Expectation::Sometimes)) {
        // The checker may stop early once something is wrong.
        assert!(!violated.is_empty() || discoveries.contains_key(property.name), "never: {}", property.name);
    }
    violated
}

#[test]
fn the_product_withstands_the_attacker_whichever_tls_keys_it_holds() {
    for (node_key_stolen, verifier_key_stolen) in [(false, false), (true, false), (false, true), (true, true)] {
        let model = Join { node_key_stolen, verifier_key_stolen, ..given(Checks::ALL) };
        assert_eq!(found(model), Vec::<&str>::new(), "{node_key_stolen} {verifier_key_stolen}");
    }
}

#[test]
fn without_the_exporter_evidence_is_relayed_between_connections() {
    let model = given(Checks { exporter: false, ..Checks::ALL });
    assert_eq!(found(model), ["evidence is accepted only where it was made"]);
}

#[test]
fn without_the_exporter_the_bound_tls_keys_hold_until_both_are_stolen() {
    let model = given(Checks { exporter: false, ..Checks::ALL });
    assert_eq!(found(Join { node_key_stolen: false, ..model }), Vec::<&str>::new());
    assert_eq!(found(Join { verifier_key_stolen: false, ..model }), Vec::<&str>::new());
}

#[test]
fn without_the_role_an_edited_admission_makes_a_control_plane_node_of_a_worker() {
    let model = given(Checks { role: false, ..Checks::ALL });
    assert_eq!(found(model), ["a worker gets no control-plane material"]);
}

#[test]
fn without_the_nonce_check_old_evidence_opens_a_ticket_for_the_attacker() {
    let violated = found(given(Checks { nonce: false, ..Checks::ALL }));
    assert!(violated.contains(&"the attacker opens no ticket"), "{violated:?}");
}

#[test]
fn without_the_credential_keys_in_software_pass_for_a_tpm() {
    let violated = found(given(Checks { credential: false, ..Checks::ALL }));
    assert!(violated.contains(&"the attacker opens no ticket"), "{violated:?}");
}

#[test]
fn without_the_endorsement_a_tpm_in_software_is_as_good_as_any() {
    let violated = found(given(Checks { endorsement: false, ..Checks::ALL }));
    assert!(violated.contains(&"the attacker opens no ticket"), "{violated:?}");
}

#[test]
fn without_the_registers_the_attackers_own_image_is_admitted() {
    let violated = found(given(Checks { registers: false, ..Checks::ALL }));
    assert!(violated.contains(&"the attacker opens no ticket"), "{violated:?}");
}

#[test]
fn without_the_record_two_machines_are_one_node() {
    let violated = found(given(Checks { record: false, ..Checks::ALL }));
    assert!(violated.contains(&"one machine is the node"), "{violated:?}");
}

#[cfg(feature = "prove")]
#[test]
fn the_product_withstands_the_attacker_on_three_connections() {
    assert_eq!(found(Join { connections: 3, ..given(Checks::ALL) }), Vec::<&str>::new());
}
