//! The clock that readings are stamped by.

use std::time::{SystemTime, UNIX_EPOCH};

/// Tells the time to whoever stamps readings; clones tell the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {}

impl Clock {
    /// Microseconds since the Unix epoch; 0 for a clock that stands before it.
    pub(crate) fn now_us(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    }

    /// Whether the time is known to be right.
    pub(crate) fn is_synchronised(&self) -> bool {
        false
    }
}
