//! How much a client may ask in a second, of its connection alone and with all that share its address or its subject. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Seconds of allowance that may be saved up.
const SAVED: f64 = 4.0;

/// An allowance that fills up steadily.
#[derive(Clone, Debug)]
pub struct Rate {
    per_second: f64,
    left: f64,
    since: Instant,
}

impl Rate {
    /// Full: so much a second, and four seconds of it at once.
    pub fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second);
        Self {
            per_second,
            left: per_second * SAVED,
            since: now,
        }
    }

    /// Takes so much of it. Returns whether it was there; if not, nothing is taken.
    pub fn take(&mut self, cost: u32, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        self.since = now;
        self.left = (self.left + passed * self.per_second).min(self.per_second * SAVED);
        let is_there = self.left >= f64::from(cost);
        if is_there {
            self.left -= f64::from(cost);
        }
        is_there
    }

    /// Whether it is as if nothing had ever been taken.
    fn is_full(&self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        self.left + passed * self.per_second >= self.per_second * SAVED
    }
}

/// Keys that are looked through for those to forget, at the earliest.
const SWEEP: usize = 1024;

/// Allowances that several connections share: one for each key.
#[derive(Debug)]
pub struct Rates<K> {
    per_second: u32,
    known: Mutex<Known<K>>,
}

#[derive(Debug)]
struct Known<K> {
    shares: HashMap<K, Share>,
    /// With so many keys the forgettable ones are looked for.
    sweep: usize,
}

/// An allowance that is shared.
#[derive(Clone, Debug)]
pub struct Share(Arc<Mutex<Rate>>);

impl Share {
    /// As [`Rate::take`].
    pub fn take(&self, cost: u32, now: Instant) -> bool {
        lock(&self.0).take(cost, now)
    }
}

impl<K: Eq + Hash + Clone> Rates<K> {
    /// So much a second for each key; 0: as much as anybody likes.
    pub fn new(per_second: u32) -> Self {
        let known = Known {
            shares: HashMap::new(),
            sweep: SWEEP,
        };
        Self {
            per_second,
            known: Mutex::new(known),
        }
    }

    /// The key's allowance; `None`: there is no limit.
    pub fn of(&self, key: &K, now: Instant) -> Option<Share> {
        if self.per_second == 0 {
            return None;
        }
        let mut known = lock(&self.known);
        if let Some(share) = known.shares.get(key) {
            return Some(share.clone());
        }
        // Keys come from outside: whoever has left, and has its allowance back, is forgotten.
        if known.shares.len() >= known.sweep {
            known
                .shares
                .retain(|_, share| Arc::strong_count(&share.0) > 1 || !lock(&share.0).is_full(now));
            known.sweep = SWEEP.max(known.shares.len() * 2);
        }
        let share = Share(Arc::new(Mutex::new(Rate::new(self.per_second, now))));
        known.shares.insert(key.clone(), share.clone());
        Some(share)
    }

    /// Takes so much of the key's. Returns whether it was there.
    pub fn take(&self, key: &K, cost: u32, now: Instant) -> bool {
        self.of(key, now).is_none_or(|share| share.take(cost, now))
    }
}

/// A panic under one of these locks leaves whole values behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_what_was_saved(
            per_second in 1u32..1000,
            steps in prop::collection::vec((0u64..500, 1u32..60), 1..300),
        ) {
            let began = Instant::now();
            let (mut rate, mut now, mut taken) = (Rate::new(per_second, began), began, 0.0);
            for (ms, cost) in steps {
                now += Duration::from_millis(ms);
                if rate.take(cost, now) {
                    taken += f64::from(cost);
                }
                let most = f64::from(per_second) * ((now - began).as_secs_f64() + SAVED);
                prop_assert!(taken <= most + 1e-6, "{taken} {most}");
            }
        }
    }

    #[test]
    fn each_key_has_its_own_and_shares_it() {
        let (rates, now) = (Rates::new(10), Instant::now());
        let share = rates.of(&"a", now).unwrap();
        assert!((0..39).all(|_| rates.take(&"a", 1, now)));
        assert!(share.take(1, now) && !share.take(1, now) && !rates.take(&"a", 1, now));
        assert!(rates.take(&"b", 40, now));
        assert!(Rates::new(0).take(&"a", u32::MAX, now), "0 is no limit");
    }

    #[test]
    fn who_has_left_is_forgotten_once_the_allowance_is_back() {
        let (rates, now) = (Rates::new(10), Instant::now());
        let held = rates.of(&usize::MAX, now);
        for key in 0..SWEEP {
            rates.take(&key, 1, now);
        }
        assert!(lock(&rates.known).shares.len() > SWEEP, "all have taken just now");
        let later = now + Duration::from_secs(5);
        for key in SWEEP..4 * SWEEP {
            rates.take(&key, 1, later);
        }
        assert!(!lock(&rates.known).shares.contains_key(&0));
        assert!(lock(&rates.known).shares.contains_key(&usize::MAX));
        drop(held);
    }

    #[test]
    fn who_keeps_to_the_rate_is_never_refused() {
        let mut now = Instant::now();
        let mut rate = Rate::new(100, now);
        for _ in 0..10_000 {
            now += Duration::from_millis(10);
            assert!(rate.take(1, now));
        }
        now += Duration::from_secs(1);
        assert!((0..400).all(|_| rate.take(1, now)), "four seconds at once");
        assert!(!rate.take(1, now));
    }
}
