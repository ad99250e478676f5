//! What goes wrong with calls: by their kind, or by their number.

use std::collections::VecDeque;

/// What goes wrong with a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is refused with a status and the vendor's word for why.
    Refuse(u16, &'static str),
    /// It is accepted, and its operation fails with a code.
    Operation(&'static str),
    /// It is carried out, and the answer is lost.
    Lose,
    /// It is not carried out, and somebody answers this, word by word.
    Say(u16, String),
}

/// Faults to come.
#[derive(Default)]
pub struct Faults {
    /// By the kind of call that each hits; one for each call, the first that fits.
    pub named: VecDeque<(String, Fault)>,
    /// The call, counted from now, that is hit by a fault, whatever its kind.
    pub next: Option<(u64, Fault)>,
}

impl Faults {
    /// The fault that hits a call of this kind, if any; it is used up.
    pub fn due(&mut self, kind: &str) -> Option<Fault> {
        if let Some((left, fault)) = self.next.take() {
            if left == 0 {
                return Some(fault);
            }
            self.next = Some((left - 1, fault));
        }
        let at = self.named.iter().position(|(of, _)| of == kind)?;
        self.named.remove(at).map(|(_, fault)| fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_hits_the_call_of_its_number_or_its_kind_and_once() {
        let mut faults = Faults { next: Some((1, Fault::Lose)), ..Faults::default() };
        faults.named.push_back(("b".into(), Fault::Operation("x")));
        assert!(faults.due("a").is_none());
        assert!(matches!(faults.due("b"), Some(Fault::Lose)));
        assert!(matches!(faults.due("b"), Some(Fault::Operation("x"))));
        assert!(faults.due("b").is_none());
    }
}
