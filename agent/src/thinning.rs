//! How coarsely readings are taken while a month's data budget runs short: the uplink's budget sets it, the processing of
//! metrics on their way to the batcher reads it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The factor by which intervals are lengthened; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Thinning(Arc<AtomicU32>);

impl Default for Thinning {
    fn default() -> Self {
        Self(Arc::new(AtomicU32::new(1)))
    }
}

impl Thinning {
    /// At least 1: of so many intervals of a metric one reading remains. 1: all do.
    pub(crate) fn factor(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the factor; 0 counts as 1.
    pub(crate) fn set(&self, factor: u32) {
        self.0.store(factor.max(1), Ordering::Relaxed);
    }
}
