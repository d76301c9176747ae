//! The order in which device states and checkpoints are written to `headwater.devices`.
//!
//! A checkpoint promises: every state before it in its partition is complete up to its telemetry offset. So when one is
//! due, a mark with the offset of that moment goes to the end of the queue of states waiting to be written: whatever was
//! delivered before is in a state already written, or in the queue ahead of the mark. It is written when the states
//! ahead of it are known to be in Kafka.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

/// What to write next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The state of the device with this number.
    State(u32),
    /// The checkpoint of a partition.
    Checkpoint {
        /// The partition.
        partition: u32,
        /// The offset its states are complete up to.
        telemetry_offset: i64,
    },
}

/// States that changed, and marks.
#[derive(Debug)]
pub struct Ledger {
    delay: Duration,
    urgent: VecDeque<u32>,
    urgently: HashSet<u32>,
    queue: VecDeque<(Instant, Entry)>,
    waiting: HashSet<u32>,
    unconfirmed: usize,
}

impl Ledger {
    /// Changes are written `delay` after the first of them, so that many make one state.
    pub fn new(delay: Duration) -> Self {
        Self {
            delay,
            urgent: VecDeque::new(),
            urgently: HashSet::new(),
            queue: VecDeque::new(),
            waiting: HashSet::new(),
            unconfirmed: 0,
        }
    }

    /// The device's state changed.
    pub fn changed(&mut self, device: u32, now: Instant) {
        if self.waiting.insert(device) {
            self.queue.push_back((now, Entry::State(device)));
        }
    }

    /// The device's state changed in a way that others should see at once.
    pub fn changed_urgently(&mut self, device: u32) {
        // Its place in the queue, if it has one, is passed over later.
        self.waiting.remove(&device);
        if self.urgently.insert(device) {
            self.urgent.push_back(device);
        }
    }

    /// A checkpoint is due: everything up to this offset has been delivered.
    pub fn mark(&mut self, partition: u32, telemetry_offset: i64, now: Instant) {
        self.queue.push_back((
            now,
            Entry::Checkpoint {
                partition,
                telemetry_offset,
            },
        ));
    }

    /// What to write next, if anything may be written now.
    pub fn take(&mut self, now: Instant) -> Option<Entry> {
        if let Some(device) = self.urgent.pop_front() {
            self.urgently.remove(&device);
            self.unconfirmed += 1;
            return Some(Entry::State(device));
        }
        loop {
            let (since, entry) = *self.queue.front()?;
            match entry {
                Entry::State(device) => {
                    if self.waiting.contains(&device) && now < since + self.delay {
                        return None;
                    }
                    self.queue.pop_front();
                    if self.waiting.remove(&device) {
                        self.unconfirmed += 1;
                        return Some(entry);
                    }
                }
                Entry::Checkpoint { .. } => {
                    if self.unconfirmed > 0 {
                        return None;
                    }
                    self.queue.pop_front();
                    return Some(entry);
                }
            }
        }
    }

    /// A state that was taken is in Kafka.
    pub fn confirmed(&mut self) {
        self.unconfirmed = self.unconfirmed.saturating_sub(1);
    }

    /// A state that was taken did not get to Kafka: it is due again, and no mark holds any longer.
    pub fn failed(&mut self, device: u32, now: Instant) {
        self.unconfirmed = self.unconfirmed.saturating_sub(1);
        self.queue.retain(|(_, entry)| matches!(entry, Entry::State(_)));
        self.changed(device, now);
    }

    /// Whether nothing is left to write or to be confirmed.
    pub fn is_clean(&self) -> bool {
        self.urgent.is_empty() && self.queue.is_empty() && self.unconfirmed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn many_changes_make_one_state() {
        let (mut ledger, start) = (Ledger::new(SECOND), Instant::now());
        ledger.changed(1, start);
        ledger.changed(1, start + SECOND / 2);
        assert_eq!(ledger.take(start + SECOND / 2), None);
        assert_eq!(ledger.take(start + SECOND), Some(Entry::State(1)));
        assert_eq!(ledger.take(start + 9 * SECOND), None);
    }

    #[test]
    fn a_checkpoint_waits_until_the_states_before_it_are_in_kafka() {
        let (mut ledger, start) = (Ledger::new(SECOND), Instant::now());
        let checkpoint = Entry::Checkpoint {
            partition: 3,
            telemetry_offset: 40,
        };
        ledger.changed(1, start);
        ledger.mark(3, 40, start);
        ledger.changed(2, start);
        let late = start + 9 * SECOND;
        assert_eq!(ledger.take(late), Some(Entry::State(1)));
        assert_eq!(ledger.take(late), None);
        ledger.confirmed();
        assert_eq!(ledger.take(late), Some(checkpoint));
        assert_eq!(ledger.take(late), Some(Entry::State(2)));
    }

    #[test]
    fn an_urgent_change_goes_first_and_once() {
        let (mut ledger, start) = (Ledger::new(SECOND), Instant::now());
        ledger.changed(1, start);
        ledger.changed(2, start);
        ledger.changed_urgently(2);
        ledger.changed_urgently(2);
        assert_eq!(ledger.take(start), Some(Entry::State(2)));
        assert_eq!(ledger.take(start), None);
        assert_eq!(ledger.take(start + SECOND), Some(Entry::State(1)));
        assert_eq!(ledger.take(start + SECOND), None);
        ledger.confirmed();
        ledger.confirmed();
        assert!(ledger.is_clean());
    }

    #[test]
    fn a_state_that_failed_voids_the_marks_behind_it() {
        let (mut ledger, start) = (Ledger::new(SECOND), Instant::now());
        ledger.changed(1, start);
        ledger.mark(0, 5, start);
        assert_eq!(ledger.take(start + SECOND), Some(Entry::State(1)));
        ledger.failed(1, start + SECOND);
        assert_eq!(ledger.take(start + 2 * SECOND), Some(Entry::State(1)));
        ledger.confirmed();
        assert_eq!(ledger.take(start + 2 * SECOND), None);
    }
}
