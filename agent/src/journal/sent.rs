//! What was sent of each stream, known to the pipeline, which sends, and to the store, which gives up: a record whose numbers went out
//! keeps them, and one that has made way since it was read is not sent.
//!
//! Both happen in threads of their own, so that neither can go by what the other said last. The lock is held for a look at a map.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The last number that was sent of each stream, and how often something of it was given up.
#[derive(Clone, Default)]
pub(super) struct Sent(Arc<Mutex<BTreeMap<u64, Mark>>>);

#[derive(Clone, Copy, Default)]
struct Mark {
    through: u64,
    changes: u64,
}

impl Sent {
    /// How often something of a stream was given up.
    pub(super) fn changes(&self, stream: u64) -> u64 {
        self.lock().get(&stream).copied().unwrap_or_default().changes
    }

    /// A record is about to be sent, that was read from the store when there were so many `changes`, or that the pipeline alone holds.
    /// `false`: it may have made way since it was read. Then nothing is noted.
    pub(super) fn send(&self, stream: u64, seq: u64, changes: Option<u64>) -> bool {
        let mut marks = self.lock();
        let mark = marks.entry(stream).or_default();
        let as_it_was = seq <= mark.through || changes.is_none_or(|changes| changes == mark.changes);
        if as_it_was {
            mark.through = mark.through.max(seq);
        }
        as_it_was
    }

    /// Something of a stream is given up now; returns the last number of it that was sent.
    pub(super) fn give_up(&self, stream: u64) -> u64 {
        let mut marks = self.lock();
        let mark = marks.entry(stream).or_default();
        mark.changes += 1;
        mark.through
    }

    /// The last number that was sent of a stream.
    pub(super) fn through(&self, stream: u64) -> u64 {
        self.lock().get(&stream).copied().unwrap_or_default().through
    }

    /// Lets go of streams.
    pub(super) fn retain(&self, mut keep: impl FnMut(u64) -> bool) {
        self.lock().retain(|stream, _| keep(*stream));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Mark>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
