//! Seats for callers that have proved nothing: a limited number, of which no address keeps another one out.
//!
//! Whoever calls gets a seat. With more callers than seats, the address that holds the most loses its oldest: who sends a
//! crowd displaces itself and nobody else (max-min fairness). Within one address an honest caller, who needs some round
//! trips, is the oldest only if as many as there are seats came meanwhile.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

/// A limited number of seats.
#[derive(Debug)]
pub struct Seats {
    limit: usize,
    taken: Mutex<Taken>,
}

/// Who sits, by number: the lowest came first.
#[derive(Debug, Default)]
struct Taken {
    next: u64,
    callers: BTreeMap<u64, Caller>,
}

#[derive(Debug)]
struct Caller {
    source: IpAddr,
    /// Whoever drops it takes the seat away.
    _held: watch::Sender<()>,
}

/// One caller's seat; its end makes room for another one.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    number: u64,
    lost: watch::Receiver<()>,
}

impl Seats {
    /// Seats for so many callers at a time, of which there must be one at least.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: Mutex::default() })
    }

    /// A seat for a caller of this address. The one who makes room for it, if anybody must, was here before.
    #[must_use]
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Seat {
        let mut taken = self.lock();
        let number = taken.next;
        taken.next += 1;
        let (held, lost) = watch::channel(());
        taken.callers.insert(number, Caller { source: source(address), _held: held });
        if taken.callers.len() > self.limit {
            taken.displace();
        }
        Seat { seats: Arc::clone(self), number, lost }
    }

    /// Whether nobody sits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().callers.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Takes the oldest seat of the source that has the most.
    fn displace(&mut self) {
        let mut counts = HashMap::<IpAddr, usize>::new();
        for caller in self.callers.values() {
            *counts.entry(caller.source).or_default() += 1;
        }
        let most = counts.values().max().copied();
        let oldest = self.callers.iter().find(|(_, caller)| counts.get(&caller.source).copied() == most);
        if let Some(number) = oldest.map(|(number, _)| *number) {
            self.callers.remove(&number);
        }
    }
}

impl Seat {
    /// Works until it is done; nothing when the seat is lost before.
    pub async fn hold<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            // Nothing is ever sent: this ends with the sender.
            _ = self.lost.changed() => None,
            done = work => Some(done),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().callers.remove(&self.number);
    }
}

/// What one caller has of addresses: all of an IPv6 subnet, which is 64 bits long (RFC 4291, 2.5.4), or one of IPv4,
/// however it is written.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Whether the seat is still held.
    async fn sits(seat: &mut Seat) -> bool {
        seat.hold(ready(())).await.is_some()
    }

    #[tokio::test]
    async fn who_sends_a_crowd_displaces_itself_its_oldest_first() {
        let seats = Seats::new(3);
        let mut honest = seats.take(address("192.0.2.1"));
        let mut crowd: Vec<_> = (0..5).map(|_| seats.take(address("192.0.2.2"))).collect();
        assert!(sits(&mut honest).await);
        let mut held = Vec::new();
        for seat in &mut crowd {
            held.push(sits(seat).await);
        }
        assert_eq!(held, [false, false, false, true, true]);
        // Another honest one takes the crowd's next.
        let mut other = seats.take(address("192.0.2.3"));
        assert!(sits(&mut honest).await && sits(&mut other).await);
        assert!(!sits(&mut crowd[3]).await && sits(&mut crowd[4]).await);
        assert!(!sits(&mut crowd[0]).await, "what is lost stays lost");
    }

    #[tokio::test]
    async fn where_all_have_one_the_oldest_makes_room_and_never_who_comes() {
        let seats = Seats::new(1);
        let mut first = seats.take(address("192.0.2.1"));
        assert!(sits(&mut first).await);
        let mut second = seats.take(address("192.0.2.2"));
        assert!(!sits(&mut first).await && sits(&mut second).await);
        assert_eq!(first.hold(pending::<()>()).await, None, "work ends with the seat");
    }

    #[tokio::test]
    async fn a_seat_that_was_left_is_free() {
        let seats = Seats::new(1);
        assert!(seats.is_empty());
        drop(seats.take(address("192.0.2.1")));
        let mut seat = seats.take(address("192.0.2.2"));
        // The end of a seat that was lost takes none from who sits there now.
        let lost = std::mem::replace(&mut seat, seats.take(address("192.0.2.3")));
        drop(lost);
        assert!(sits(&mut seat).await && !seats.is_empty());
        drop(seat);
        assert!(seats.is_empty(), "nothing stays of who has gone");
    }

    #[test]
    fn a_subnet_is_one_source_and_so_is_an_address_however_it_is_written() {
        assert_eq!(source(address("2001:db8:0:1::1")), source(address("2001:db8:0:1:ffff::2")));
        assert_ne!(source(address("2001:db8:0:1::1")), source(address("2001:db8:0:2::1")));
        assert_eq!(source(address("::ffff:192.0.2.1")), address("192.0.2.1"));
        assert_ne!(source(address("192.0.2.1")), source(address("192.0.2.2")));
    }
}
