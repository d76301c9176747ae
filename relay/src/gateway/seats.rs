//! How many connections one address, or one token's subject, has at a time. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Seats, a number of them for each key. 0: as many as are asked for.
#[derive(Debug)]
pub struct Seats<K> {
    most: usize,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

/// A seat that is taken until this is dropped.
#[derive(Debug)]
pub struct Seat<K: Eq + Hash> {
    key: K,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Eq + Hash + Clone> Seats<K> {
    /// All free.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            taken: Arc::default(),
        }
    }

    /// One of the key's seats; `None`: all are taken.
    pub fn take(&self, key: &K) -> Option<Seat<K>> {
        let mut taken = lock(&self.taken);
        let count = taken.get(key).copied().unwrap_or_default();
        if self.most > 0 && count >= self.most {
            return None;
        }
        taken.insert(key.clone(), count + 1);
        Some(Seat {
            key: key.clone(),
            taken: Arc::clone(&self.taken),
        })
    }
}

impl<K: Eq + Hash> Drop for Seat<K> {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        match taken.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            // Keys come from outside: none stays that is not there any more.
            _ => drop(taken.remove(&self.key)),
        }
    }
}

/// A panic under this lock leaves whole values behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_seats_and_none_is_remembered() {
        let seats = Seats::new(2);
        let (one, two) = (seats.take(&"a").unwrap(), seats.take(&"a").unwrap());
        assert!(seats.take(&"a").is_none());
        let other = seats.take(&"b").unwrap();
        drop(one);
        let three = seats.take(&"a").unwrap();
        assert!(seats.take(&"a").is_none());
        drop((two, three, other));
        assert!(lock(&seats.taken).is_empty());
    }

    #[test]
    fn zero_is_no_limit() {
        let seats = Seats::new(0);
        let all: Vec<_> = (0..100).map(|_| seats.take(&1).unwrap()).collect();
        drop(all);
        assert!(lock(&seats.taken).is_empty());
    }
}
