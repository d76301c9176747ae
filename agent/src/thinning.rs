//! How coarsely readings are taken while a month's data budget runs short: the uplink's budget sets it, the way of samples into the
//! agent heeds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The factor by which intervals are lengthened, and what that has left out; clones share both.
#[derive(Clone, Debug, Default)]
pub(crate) struct Thinning(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// 0 stands for 1.
    factor: AtomicU32,
    left_out: AtomicU64,
}

impl Thinning {
    /// At least 1: of so many intervals of a metric one reading remains. 1: all do.
    pub(crate) fn factor(&self) -> u32 {
        self.0.factor.load(Ordering::Relaxed).max(1)
    }

    /// Sets the factor; 0 counts as 1.
    pub(crate) fn set(&self, factor: u32) {
        self.0.factor.store(factor, Ordering::Relaxed);
    }

    /// Readings that were left out since the start.
    pub(crate) fn left_out(&self) -> u64 {
        self.0.left_out.load(Ordering::Relaxed)
    }

    /// So many more readings were left out.
    pub(crate) fn leave_out(&self, readings: usize) {
        self.0.left_out.fetch_add(readings as u64, Ordering::Relaxed);
    }
}
