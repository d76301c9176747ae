//! Where batches wait until the relay has acknowledged them: the contract, and the bounded form in memory.
//!
//! A journal holds **streams**. Each start of the agent opens one, under a random id, and appends to it alone; what earlier
//! starts left behind (a journal on flash can) keeps its id and drains first. A stream is a chain of records with sequence
//! numbers 1, 2, 3, …:
//!
//! - [`Journal::append`] puts an entry at the end of the current stream and gives it the next number. It never fails and
//!   never waits; a journal that cannot keep its promise of durability says so in its log and holds the entry in memory.
//! - [`Journal::read`] reads the record that begins at a number. The uplink reads in order, each record as often as it has to
//!   send it.
//! - [`Journal::sent`] is called just before a record is handed to the network. From then on the relay may know its extent,
//!   so that extent must not change any more: what was sent as 5 stays 5, even if its content is given up.
//! - [`Journal::forget`] is called when the relay has acknowledged everything through a number, and is the only way in which a
//!   record disappears. A stream of an earlier start that is empty then disappears too.
//! - [`Journal::give_up`], and the journal itself when it is full, when a record cannot be read back or is too old, put a
//!   **loss record** in the place of what is given up. Loss records that stand side by side and were never sent are merged. So
//!   the chain has no holes, and the number of records stays bounded however long an outage lasts.
//!
//! After a restart every record held counts as sent. What is acknowledged is forgotten, so a stream's last acknowledged
//! number is always the one before its first record.

mod memory;

use std::sync::Arc;

use headwater_proto::frame::Sealed;
use headwater_proto::{Loss, LossReason, SeriesSet};

pub(crate) use memory::Memory;

/// What is appended.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// A batch.
    Batch {
        sealed: Arc<Sealed>,
        /// The set that names its columns; it travels with the batch, since a later start knows other sets.
        series: Arc<SeriesSet>,
        readings: u64,
        /// Time of its oldest reading, microseconds since the Unix epoch.
        oldest_us: i64,
    },
    /// Readings that were given up before they were a batch.
    Loss { readings: u64, reason: LossReason },
}

impl Entry {
    pub(crate) fn batch(sealed: Sealed, series: Arc<SeriesSet>, readings: u64, oldest_us: i64) -> Self {
        Self::Batch {
            sealed: Arc::new(sealed),
            series,
            readings,
            oldest_us,
        }
    }

    /// The number of readings in it, or lost with it.
    #[cfg(test)]
    pub(crate) fn readings(&self) -> u64 {
        match self {
            Self::Batch { readings, .. } | Self::Loss { readings, .. } => *readings,
        }
    }
}

/// What is read back.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Its first sequence number.
    pub(crate) seq: u64,
    /// Its last: `seq`, but for a loss record that covers more.
    pub(crate) through: u64,
    pub(crate) content: Content,
}

/// What a record holds.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Batch {
        sealed: Arc<Sealed>,
        series: Arc<SeriesSet>,
    },
    Loss(Loss),
}

/// A stream and what is held of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) stream: u64,
    /// The first sequence number held; the one before it is the last acknowledged.
    pub(crate) first: u64,
    /// The last sequence number held; `first - 1` if none is.
    pub(crate) last: u64,
}

/// What became of readings that are forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forgotten {
    /// The relay has them.
    pub(crate) delivered: u64,
    /// They were given up, and the relay knows.
    pub(crate) lost: u64,
}

/// What is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Records, loss records among them.
    pub(crate) batches: u64,
    /// Readings in batches.
    pub(crate) readings: u64,
    /// Encoded bytes of batches.
    pub(crate) bytes: u64,
    /// Readings that loss records speak of.
    pub(crate) lost: u64,
    /// Time of the oldest reading of the first batch, microseconds since the Unix epoch; 0: there is none.
    pub(crate) oldest_us: i64,
}

/// A journal; the module's documentation is its contract.
pub(crate) trait Journal: Send {
    /// The streams that hold something, in the order in which they were opened; the current one is always there, and last.
    fn streams(&self) -> Vec<Extent>;

    /// Appends to the current stream and returns the entry's sequence number.
    fn append(&mut self, entry: Entry) -> u64;

    /// The record that begins at `seq`; `None` if there is none.
    fn read(&mut self, stream: u64, seq: u64) -> Option<Record>;

    /// The record that begins at `seq` is about to be sent.
    fn sent(&mut self, stream: u64, seq: u64);

    /// Forgets every record that ends at or before `through`.
    fn forget(&mut self, stream: u64, through: u64) -> Forgotten;

    /// Puts a loss record in the place of the batch `seq`; `false` if there is no such batch.
    fn give_up(&mut self, stream: u64, seq: u64, reason: LossReason) -> bool;

    /// What is held, over all streams.
    fn waiting(&self) -> Waiting;
}
