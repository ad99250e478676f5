//! Whether operators that take turns to lead wrote in their own turns alone.

use super::proxy::Moment;

/// What one operator's proxy saw: when the operator began to lead, and when it wrote what.
pub struct Told {
    /// Beginnings, in order.
    pub reigns: Vec<Moment>,
    /// Side effects that the API server took.
    pub writes: Vec<(Moment, String)>,
}

/// Side effects that took effect when another operator led already, or before their own ever did.
#[must_use]
pub fn out_of_turn(operators: &[Told]) -> Vec<String> {
    let mut late = Vec::new();
    for (n, Told { reigns, writes }) in operators.iter().enumerate() {
        let others =
            || operators.iter().enumerate().filter(|(other, _)| *other != n).flat_map(|(_, told)| &told.reigns);
        for (moment, effect) in writes {
            let begun = reigns.iter().rfind(|reign| reign.sent <= moment.sent);
            let ended = |begun: &Moment| others().any(|other| other.is_after(begun) && moment.is_after(other));
            if begun.is_none_or(ended) {
                late.push(format!("operator {n}: {effect}"));
            }
        }
    }
    late
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn what_takes_effect_after_another_one_began_to_lead_is_told() {
        let start = Instant::now();
        let at = |second: u64, version: Option<u64>| {
            let sent = start + Duration::from_secs(second);
            Moment { sent, answered: sent + Duration::from_millis(10), version }
        };
        let first = |writes: Vec<Moment>| Told {
            reigns: vec![at(0, Some(10)), at(60, Some(60))],
            writes: writes.into_iter().map(|moment| (moment, "x".to_owned())).collect(),
        };
        let second = || Told {
            reigns: vec![at(30, Some(30))],
            writes: vec![(at(31, Some(31)), "y".to_owned()), (at(32, None), "z".to_owned())],
        };
        let fine = first(vec![at(1, Some(11)), at(29, None), at(61, Some(61)), at(62, None)]);
        assert_eq!(out_of_turn(&[fine, second()]), Vec::<String>::new());
        // One that changed nothing gives an old version, whenever it was sent.
        assert_eq!(out_of_turn(&[first(vec![at(40, Some(20))]), second()]), Vec::<String>::new());
        // Sent in time, and taken too late; removed too late; written by who never led.
        for late in [at(29, Some(33)), at(33, None)] {
            assert_eq!(out_of_turn(&[first(vec![late]), second()]), ["operator 0: x"]);
        }
        let never = Told { reigns: Vec::new(), ..first(vec![at(1, Some(11))]) };
        assert_eq!(out_of_turn(&[never, second()]), ["operator 0: x"]);
    }
}
