//! Which partitions of the telemetry somebody watches, and how far their reading has come: only those are read. Pure, but for the lock.
//!
//! A subscription holds a [`Watching`] for as long as it lives. A partition that nobody watched is asleep: it is picked up at the first
//! watcher's word, and only once its end is in memory, with the newest values of its silent devices, can subscriptions
//! start in it. Who comes back soon finds it awake: it is let go only after a while without watchers.
//!
//! A snapshot waits longer than others: until the newest values of all silent devices are there, however many they are.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The partitions, and who watches them.
#[derive(Clone, Debug)]
pub struct Watches {
    inner: Arc<Mutex<Inner>>,
    /// Somebody watches what is asleep.
    called: Arc<Notify>,
}

#[derive(Debug)]
struct Inner {
    partitions: Vec<Partition>,
    /// Those who watch all of them.
    everything: Watchers,
    /// Somebody doubts that what is read is still the same.
    doubted: bool,
}

#[derive(Debug, Default)]
struct Watchers {
    count: usize,
    /// Since when there are none, where there have been some.
    left: Option<Instant>,
}

impl Watchers {
    fn come(&mut self) {
        self.count += 1;
        self.left = None;
    }

    fn go(&mut self, now: Instant) {
        self.count -= 1;
        if self.count == 0 {
            self.left = Some(now);
        }
    }

    fn are_gone(&self, now: Instant, linger: Duration) -> bool {
        self.count == 0
            && self
                .left
                .is_none_or(|left| now.saturating_duration_since(left) >= linger)
    }
}

#[derive(Debug, Default)]
struct Partition {
    watchers: Watchers,
    state: State,
}

/// How far a partition's reading has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// It is not read.
    #[default]
    Asleep,
    /// It is being picked up.
    Called,
    /// It is read; what stood in it when that began has not all come, up to this offset.
    Reading(i64),
    /// All that stood in it has come.
    Read,
    /// Subscriptions may start in it, but for those that begin with a snapshot of all its devices.
    Awake,
    /// The newest values of its silent devices are all there.
    Whole,
}

impl State {
    fn is_awake(self) -> bool {
        matches!(self, Self::Awake | Self::Whole)
    }
}

/// A subscription's watch over its partitions, until this is dropped.
#[derive(Debug)]
pub struct Watching {
    watches: Watches,
    /// `None`: all.
    partitions: Option<Box<[u32]>>,
}

impl Watches {
    /// All of that many partitions asleep.
    pub fn new(partitions: u32) -> Self {
        let inner = Inner {
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            everything: Watchers::default(),
            doubted: false,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            called: Arc::default(),
        }
    }

    /// Watches these partitions; `None`: all.
    pub fn watch(&self, partitions: Option<&[u32]>) -> Watching {
        let mut inner = self.lock();
        match partitions {
            None => inner.everything.come(),
            Some(partitions) => {
                for &partition in partitions {
                    inner.partitions[partition as usize].watchers.come();
                }
            }
        }
        let asleep = !inner.to_call().is_empty();
        drop(inner);
        if asleep {
            self.called.notify_one();
        }
        Watching {
            watches: self.clone(),
            partitions: partitions.map(Into::into),
        }
    }

    /// Until somebody watches what is asleep.
    pub async fn called(&self) {
        self.called.notified().await;
    }

    /// The partitions that are asleep and watched: they are being picked up from here on.
    pub fn call(&self) -> Vec<u32> {
        let mut inner = self.lock();
        let called = inner.to_call();
        for &partition in &called {
            inner.partitions[partition as usize].state = State::Called;
        }
        called
    }

    /// Reading of a partition goes on at `from`; `until` is its end as of now.
    pub fn reading(&self, partition: u32, from: i64, until: i64) {
        let state = if from >= until {
            State::Read
        } else {
            State::Reading(until)
        };
        self.set(partition, state);
    }

    /// Everything of a partition before this offset has come; `None`: everything there is. Returns whether that is news: not of what stood
    /// in it when it was picked up.
    pub fn came(&self, partition: u32, next: Option<i64>) -> bool {
        let mut inner = self.lock();
        let Some(partition) = inner.partitions.get_mut(partition as usize) else {
            return false;
        };
        match partition.state {
            State::Reading(until) => {
                if next.is_none_or(|next| next >= until) {
                    partition.state = State::Read;
                }
                false
            }
            state => state == State::Read || state.is_awake(),
        }
    }

    /// Whether all that stood in these has come.
    pub fn are_read(&self, partitions: &[u32]) -> bool {
        self.all(partitions, |state| state == State::Read || state.is_awake())
    }

    /// Subscriptions may start in them.
    pub fn wake(&self, partitions: &[u32]) {
        for &partition in partitions {
            self.set(partition, State::Awake);
        }
    }

    /// Nothing is missing of the newest values in it any more.
    pub fn complete(&self, partition: u32) {
        self.set(partition, State::Whole);
    }

    /// What was read may be of another topic by now: all are picked up again.
    pub fn doubt(&self) {
        self.lock().doubted = true;
        self.called.notify_one();
    }

    /// Whether there was [`Watches::doubt`] since this was asked last. Then all are asleep from here on.
    pub fn is_doubted(&self) -> bool {
        let mut inner = self.lock();
        let doubted = std::mem::take(&mut inner.doubted);
        if doubted {
            for partition in &mut inner.partitions {
                partition.state = State::Asleep;
            }
        }
        doubted
    }

    /// They could not be picked up, or are read no longer.
    pub fn sleep(&self, partitions: &[u32]) {
        for &partition in partitions {
            self.set(partition, State::Asleep);
        }
    }

    /// The partitions that have had no watcher for so long: they are read no longer.
    pub fn let_go(&self, now: Instant, linger: Duration) -> Vec<u32> {
        let mut inner = self.lock();
        if !inner.everything.are_gone(now, linger) {
            return Vec::new();
        }
        let mut gone = Vec::new();
        for (number, partition) in (0..).zip(&mut inner.partitions) {
            if partition.state.is_awake() && partition.watchers.are_gone(now, linger) {
                partition.state = State::Asleep;
                gone.push(number);
            }
        }
        gone
    }

    /// How many are read.
    pub fn read(&self) -> usize {
        let inner = self.lock();
        let asleep = |partition: &&Partition| !matches!(partition.state, State::Asleep | State::Called);
        inner.partitions.iter().filter(asleep).count()
    }

    fn set(&self, partition: u32, state: State) {
        if let Some(partition) = self.lock().partitions.get_mut(partition as usize) {
            partition.state = state;
        }
    }

    fn all(&self, partitions: &[u32], is: impl Fn(State) -> bool) -> bool {
        let inner = self.lock();
        let state = |partition: &u32| inner.partitions.get(*partition as usize).map(|known| known.state);
        partitions
            .iter()
            .all(|partition| state(partition).is_some_and(&is))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under this lock leaves whole values behind.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn to_call(&self) -> Vec<u32> {
        let all = self.everything.count > 0;
        let wanted = |(_, partition): &(u32, &Partition)| {
            partition.state == State::Asleep && (all || partition.watchers.count > 0)
        };
        let numbered = (0..).zip(&self.partitions);
        numbered.filter(wanted).map(|(number, _)| number).collect()
    }
}

impl Watching {
    /// Whether subscriptions may start in all of its partitions.
    pub fn is_awake(&self) -> bool {
        self.all(State::is_awake)
    }

    /// Whether those may, too, that begin with a snapshot of all their devices.
    pub fn is_whole(&self) -> bool {
        self.all(|state| state == State::Whole)
    }

    fn all(&self, is: impl Fn(State) -> bool) -> bool {
        match &self.partitions {
            Some(partitions) => self.watches.all(partitions, is),
            None => {
                let inner = self.watches.lock();
                inner.partitions.iter().all(|partition| is(partition.state))
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut inner = self.watches.lock();
        match &self.partitions {
            None => inner.everything.go(now),
            Some(partitions) => {
                for &partition in partitions {
                    inner.partitions[partition as usize].watchers.go(now);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_secs(60);

    /// Picked up, read and awake.
    fn rouse(watches: &Watches) -> Vec<u32> {
        let called = watches.call();
        for &partition in &called {
            watches.reading(partition, 5, 10);
            assert!(!watches.are_read(&[partition]));
            watches.came(partition, Some(10));
            assert!(watches.are_read(&[partition]));
        }
        watches.wake(&called);
        called
    }

    #[test]
    fn a_partition_is_called_once_by_the_first_who_watches_it() {
        let watches = Watches::new(4);
        assert_eq!(watches.call(), [0u32; 0]);
        let one = watches.watch(Some(&[1, 3]));
        let two = watches.watch(Some(&[3]));
        assert!(!one.is_awake() && !two.is_awake());
        assert_eq!(rouse(&watches), [1, 3]);
        assert!(one.is_awake() && two.is_awake() && watches.call().is_empty());
        assert_eq!(watches.read(), 2);
        let all = watches.watch(None);
        assert!(!all.is_awake());
        assert_eq!(rouse(&watches), [0, 2]);
        assert!(all.is_awake());
    }

    #[test]
    fn it_is_let_go_a_while_after_the_last_has_left() {
        let watches = Watches::new(4);
        let (one, two, all) = (
            watches.watch(Some(&[1])),
            watches.watch(Some(&[1, 2])),
            watches.watch(None),
        );
        rouse(&watches);
        let later = Instant::now() + LINGER * 2;
        assert_eq!(watches.let_go(later, LINGER), [0u32; 0]);
        drop(all);
        assert_eq!(watches.let_go(Instant::now(), LINGER), [0u32; 0], "not at once");
        let later = Instant::now() + LINGER * 2;
        assert_eq!(watches.let_go(later, LINGER), [0, 3]);
        drop(one);
        assert_eq!(watches.let_go(later, LINGER), [0u32; 0], "it has another");
        drop(two);
        let later = Instant::now() + LINGER * 2;
        assert_eq!(watches.let_go(later, LINGER), [1, 2]);
        assert_eq!(watches.read(), 0);
        let back = watches.watch(Some(&[2]));
        assert_eq!(rouse(&watches), [2]);
        assert!(back.is_awake());
    }

    #[test]
    fn a_snapshot_waits_until_nothing_is_missing_and_is_let_go_like_others() {
        let watches = Watches::new(2);
        let one = watches.watch(Some(&[1]));
        rouse(&watches);
        assert!(one.is_awake() && !one.is_whole());
        watches.complete(1);
        assert!(one.is_awake() && one.is_whole() && watches.are_read(&[1]));
        assert!(watches.came(1, Some(11)), "what comes now is news");
        assert!(!watches.watch(None).is_whole(), "the other is asleep");
        drop(one);
        assert_eq!(watches.let_go(Instant::now() + LINGER * 2, LINGER), [1]);
    }

    #[test]
    fn all_that_is_watched_is_called_again_where_there_is_doubt() {
        let watches = Watches::new(3);
        let one = watches.watch(Some(&[0, 2]));
        assert!(!watches.is_doubted());
        rouse(&watches);
        watches.doubt();
        watches.doubt();
        assert!(watches.is_doubted() && !watches.is_doubted());
        assert!(!one.is_awake());
        assert_eq!(watches.read(), 0);
        assert_eq!(watches.call(), [0, 2]);
    }

    #[test]
    fn one_that_could_not_be_picked_up_is_called_again() {
        let watches = Watches::new(2);
        let _one = watches.watch(Some(&[0]));
        assert_eq!(watches.call(), [0]);
        assert_eq!(watches.call(), [0u32; 0], "it is under way");
        watches.sleep(&[0]);
        assert_eq!(watches.call(), [0]);
        watches.reading(0, 7, 7);
        assert!(watches.are_read(&[0]), "there was nothing to read");
        watches.reading(0, 0, 7);
        watches.came(0, Some(6));
        assert!(!watches.are_read(&[0]));
        watches.came(0, None);
        assert!(watches.are_read(&[0]), "Kafka says that it is the end");
    }
}
