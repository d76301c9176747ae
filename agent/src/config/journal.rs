//! The settings of the journal.

use headwater_config::ByteSize;
use serde::Deserialize;

/// Where batches wait for their acknowledgement.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Journal {
    /// What waiting batches may take in memory; beyond it the oldest make way, and a loss record stands in their
    /// place. Default 8 MiB.
    pub memory: ByteSize,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            memory: ByteSize::mib(8),
        }
    }
}
