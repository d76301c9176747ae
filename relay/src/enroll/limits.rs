//! What one address may have of the endpoint: a share of its connections, and a number of requests a minute. Of IPv6 a network (/64) counts as one
//! address, since whoever has one has 2^64 of them. The time is an argument.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Connections of one address. One more is closed at once: agents come again.
pub(super) const CONNECTIONS_EACH: usize = 32;
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
pub(super) struct Connected(Mutex<HashMap<IpAddr, usize>>);

/// One of them, for as long as it lasts.
#[derive(Debug)]
pub(super) struct Place {
    connected: Arc<Connected>,
    network: IpAddr,
}

impl Connected {
    /// `None`: it has its share.
    pub(super) fn take(self: &Arc<Self>, network: IpAddr) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(network).or_default();
        if *count >= CONNECTIONS_EACH {
            return None;
        }
        *count += 1;
        let connected = Arc::clone(self);
        Some(Place { connected, network })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.connected.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.network);
            }
        }
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
        let connected = Arc::new(Connected::default());
        let (one, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut places: Vec<_> = (0..CONNECTIONS_EACH).map(|_| connected.take(one)).collect();
        assert!(places.iter().all(Option::is_some));
        assert!(connected.take(one).is_none());
        drop(connected.take(other).unwrap());
        places.pop();
        drop(connected.take(one).unwrap());
        drop(places);
        assert!(connected.0.lock().unwrap().is_empty());
    }
}
