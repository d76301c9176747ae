//! What a source had in hand when it ended and the agent's queue had no room for: the aggregates of windows that were not over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Sample;

/// A place beside the queue; clones are the same. It holds a few samples of each source that has ended, until the agent's next step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Last(Arc<Mutex<Vec<Sample>>>);

impl Last {
    pub(super) fn put(&self, sample: Sample) {
        self.lock().push(sample);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Takes all of it, in order. It belongs behind what the queue held before.
    pub(crate) fn take(&self) -> Vec<Sample> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
