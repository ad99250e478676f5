//! How many conversations are open in the name of one node: whoever knows a uid can't take the places of the others.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// Conversations in the name of one node at a time: a quarter of all places ([`crate::verifier::ABREAST`]). A node that
/// loses its connections has its next tries meanwhile.
pub const PER_NODE: usize = 8;

/// Who talks now. Small: there are never more entries than places for joins.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<String, usize>>);

/// One conversation; its end makes room for the next.
#[derive(Debug)]
pub struct Turn<'a> {
    turns: &'a Turns,
    uid: String,
}

impl Turns {
    /// Takes a turn in the name of a node, if one is free.
    pub fn take(&self, uid: &str) -> Option<Turn<'_>> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(uid.to_owned()).or_default();
        if *count >= PER_NODE {
            return None;
        }
        *count += 1;
        Some(Turn { turns: self, uid: uid.to_owned() })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut open = self.turns.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_a_few_turns_and_takes_none_of_anothers() {
        let turns = Turns::default();
        let mut held: Vec<_> = (0..PER_NODE).map(|_| turns.take("a").unwrap()).collect();
        assert!(turns.take("a").is_none());
        assert!(turns.take("b").is_some());
        held.pop();
        held.push(turns.take("a").unwrap());
        assert!(turns.take("a").is_none());
        drop(held);
        assert!(turns.0.lock().unwrap().is_empty(), "nothing stays of who has gone");
    }
}
