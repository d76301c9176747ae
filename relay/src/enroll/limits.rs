//! What one address may have of the endpoint: a share of its connections, and a number of requests a minute. Of IPv6 a network (/64) counts as one
//! address, since whoever has one has 2^64 of them. The time is an argument.
//!
//! When all connections are taken, a newcomer takes the place of one whose request has not yet come, of the network that has most of them:
//! the oldest. So however many addresses hold connections open and say nothing, shares become smaller as more networks come, and who has
//! none gets one. A request that has come is always answered.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// Connections at a time.
pub(super) const CONNECTIONS: usize = 256;
/// Connections of one address. One more is closed at once: agents come again.
pub(super) const CONNECTIONS_EACH: usize = 32;
/// A connection of a network that has no more of them than the newcomer's would have is left alone for so long: by then who means it has
/// asked.
const GRACE: Duration = Duration::from_secs(5);
/// Addresses whose requests are counted at a time, each by itself.
const ADDRESSES: usize = 65_536;

/// Whom an address counts as.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

/// Connections of networks.
#[derive(Debug, Default)]
pub(super) struct Connected(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    next: u64,
    /// In the order in which they came.
    connections: BTreeMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    network: IpAddr,
    since: Instant,
    /// Its request has come.
    asked: bool,
    end: CancellationToken,
}

/// One of them, for as long as it lasts.
#[derive(Debug)]
pub(super) struct Place {
    connected: Arc<Connected>,
    id: u64,
    end: CancellationToken,
}

impl Connected {
    /// `None`: the network has its share, and no other has more than is due to it.
    pub(super) fn take(self: &Arc<Self>, network: IpAddr, now: Instant) -> Option<Place> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for connection in open.connections.values() {
            *counts.entry(connection.network).or_default() += 1;
        }
        let own = counts.get(&network).copied().unwrap_or(0);
        if own >= CONNECTIONS_EACH {
            return None;
        }
        if open.connections.len() >= CONNECTIONS {
            let count = |connection: &Connection| counts.get(&connection.network).copied().unwrap_or(0);
            let silent = open
                .connections
                .iter()
                .filter(|(_, connection)| !connection.asked);
            // Of those with the greatest count the first.
            let (&id, oldest) = silent.rev().max_by_key(|(_, connection)| count(connection))?;
            let is_old = now.saturating_duration_since(oldest.since) >= GRACE;
            if count(oldest) < own + if is_old { 1 } else { 2 } {
                return None;
            }
            open.end(id);
        }
        let (id, end) = (open.next, CancellationToken::new());
        open.next += 1;
        open.connections.insert(
            id,
            Connection {
                network,
                since: now,
                asked: false,
                end: end.clone(),
            },
        );
        let connected = Arc::clone(self);
        Some(Place { connected, id, end })
    }
}

impl Open {
    fn end(&mut self, id: u64) {
        if let Some(connection) = self.connections.remove(&id) {
            connection.end.cancel();
        }
    }
}

impl Place {
    /// Its request has come: from now on it makes way for nobody.
    pub(super) fn asked(&self) {
        let mut open = self.connected.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = open.connections.get_mut(&self.id) {
            connection.asked = true;
        }
    }

    /// Ends when it has to make way.
    pub(super) fn end(&self) -> CancellationToken {
        self.end.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connected.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.end(self.id);
    }
}

/// Requests of networks in this minute.
#[derive(Debug)]
pub(super) struct Minute {
    most: u32,
    began: Instant,
    /// `None`: all of those for which there was no room, together.
    counts: HashMap<Option<IpAddr>, u32>,
}

impl Minute {
    pub(super) fn new(most: u32, now: Instant) -> Self {
        Self {
            most,
            began: now,
            counts: HashMap::new(),
        }
    }

    /// Whether this network may ask once more.
    pub(super) fn take(&mut self, network: IpAddr, now: Instant) -> bool {
        if now.saturating_duration_since(self.began) >= Duration::from_secs(60) {
            (self.began, self.counts) = (now, HashMap::new());
        }
        let known = self.counts.len() < ADDRESSES || self.counts.contains_key(&Some(network));
        let count = self.counts.entry(known.then_some(network)).or_default();
        *count = count.saturating_add(1);
        *count <= self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_requests_a_minute() {
        let began = Instant::now();
        let mut minute = Minute::new(2, began);
        let (one, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let taken: Vec<bool> = [one, one, one, other]
            .map(|address| minute.take(address, began))
            .to_vec();
        assert_eq!(taken, [true, true, false, true]);
        assert!(!minute.take(one, began + Duration::from_secs(59)));
        assert!(minute.take(one, began + Duration::from_secs(60)));
    }

    #[test]
    fn addresses_for_which_there_is_no_room_have_one_count_together() {
        let began = Instant::now();
        let mut minute = Minute::new(3, began);
        let address = |n: usize| IpAddr::from((n as u32).to_be_bytes());
        for n in 0..ADDRESSES {
            assert!(minute.take(address(n), began));
        }
        let taken = [1, 2, 3, 4].map(|n| minute.take(address(ADDRESSES + n), began));
        assert_eq!(taken, [true, true, true, false]);
        assert!(
            minute.take(address(0), began),
            "who is known has a count of its own"
        );
        assert!(minute.counts.len() <= ADDRESSES + 1);
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::7"), of("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8:1:2::7"), of("2001:db8:1:3::7"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }

    #[test]
    fn an_address_has_its_share_of_connections_and_gets_it_back() {
        let (connected, now) = (Arc::new(Connected::default()), Instant::now());
        let (one, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut places: Vec<_> = (0..CONNECTIONS_EACH).map(|_| connected.take(one, now)).collect();
        assert!(places.iter().all(Option::is_some));
        assert!(connected.take(one, now).is_none());
        drop(connected.take(other, now).unwrap());
        places.pop();
        drop(connected.take(one, now).unwrap());
        drop(places);
        assert!(connected.0.lock().unwrap().connections.is_empty());
    }

    #[test]
    fn when_all_are_taken_the_oldest_silent_one_of_who_has_most_makes_way() {
        let (connected, now) = (Arc::new(Connected::default()), Instant::now());
        let address = |n: usize| IpAddr::from((n as u32).to_be_bytes());
        let ended = |place: &Place| place.end().is_cancelled();
        // 192 of networks that have one each, and 64 of two that have 32.
        let few: Vec<_> = (0..CONNECTIONS - 2 * CONNECTIONS_EACH)
            .map(|n| connected.take(address(1_000 + n), now).unwrap())
            .collect();
        let many: Vec<_> = (0..2 * CONNECTIONS_EACH)
            .map(|n| connected.take(address(n % 2), now).unwrap())
            .collect();
        // What has asked stays, though it be the oldest.
        many[0].asked();
        let first = connected.take(address(7), now).unwrap();
        assert!(ended(&many[1]), "the oldest of those that have most");
        assert_eq!(many.iter().filter(|place| ended(place)).count(), 1);
        // Until all have one or two: 30 of each of the two networks make way.
        let more: Vec<_> = (0..61)
            .map(|n| connected.take(address(5_000 + n), now).unwrap())
            .collect();
        let left: Vec<usize> = (0..many.len()).filter(|at| !ended(&many[*at])).collect();
        assert_eq!(left, [0, 63]);
        assert!(!few.iter().chain(&more).chain([&first]).any(ended));
        // Now nobody has more than a newcomer would have: those that have just come are left alone, and the oldest makes way when it has had
        // its time.
        assert!(connected.take(address(9_000), now + GRACE / 2).is_none());
        let late = connected.take(address(9_000), now + GRACE).unwrap();
        assert!(ended(&few[0]) && !ended(&few[1]));
        // Who has one already takes none from those that have one.
        assert!(connected.take(address(9_000), now + 2 * GRACE).is_none());
        for place in few.iter().chain(&many).chain(&more).chain([&first, &late]) {
            place.asked();
        }
        assert!(
            connected.take(address(9_001), now + 2 * GRACE).is_none(),
            "all are being answered"
        );
        drop((few, many, more, first, late));
        assert!(connected.0.lock().unwrap().connections.is_empty());
    }
}
