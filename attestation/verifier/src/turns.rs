//! How many conversations are open in the name of one node: whoever knows a uid can't take the places of the others.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use constellation_attestation::seats::{Seat, Seats};

/// Conversations in the name of one node at a time: a quarter of all places ([`crate::verifier::ABREAST`]). A node that
/// loses its connections has its next tries meanwhile.
const PER_NODE: usize = 8;

/// Who talks now, by uid. Small: there are never more entries than places for joins.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<String, Arc<Seats>>>);

impl Turns {
    /// Takes a turn in the name of a node. One too many ends another one in its name, of the address that has the most.
    pub fn take(&self, uid: &str, address: IpAddr) -> Seat {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, seats| !seats.is_empty());
        open.entry(uid.to_owned()).or_insert_with(|| Seats::new(PER_NODE)).take(address)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::ready, net::Ipv4Addr};

    use super::*;

    #[tokio::test]
    async fn a_node_has_a_few_turns_and_takes_none_of_anothers() {
        let turns = Turns::default();
        let [honest, stranger] = [1, 2].map(|last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)));
        let mut other = turns.take("b", stranger);
        let mut honest = turns.take("a", honest);
        let mut crowd: Vec<_> = (0..PER_NODE).map(|_| turns.take("a", stranger)).collect();
        let mut held = 0;
        for seat in &mut crowd {
            held += usize::from(seat.hold(ready(())).await.is_some());
        }
        assert_eq!(held, PER_NODE - 1, "one made room for the node itself");
        assert!(honest.hold(ready(())).await.is_some() && other.hold(ready(())).await.is_some());
        drop((crowd, honest, other));
        drop(turns.take("c", stranger));
        assert_eq!(turns.0.lock().unwrap().len(), 1, "nothing stays of who has gone");
    }
}
