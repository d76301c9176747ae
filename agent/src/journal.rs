//! Where batches wait until the relay has acknowledged them: the contract, which the form in memory and the form on flash keep.
//!
//! A journal holds **streams**. Each start of the agent opens one, under a random id, and appends to it alone until
//! `Journal::open_stream` begins another; what came before it keeps its id and drains. A stream is a chain of records with
//! sequence numbers 1, 2, 3, …:
//!
//! - `Journal::append` puts an entry at the end of the current stream and gives it the next number. It never fails and
//!   never waits; a journal that cannot keep its promise of durability says so in its log and holds the entry in memory.
//! - `Journal::read` reads the record that begins at a number. The uplink reads in order, each record as often as it has to
//!   send it. A record that is still being fetched is `Read::Loading`: the reader waits for it and skips nothing, and
//!   `Journal::woken` tells when to try again.
//! - `Journal::sent` is called just before a record is handed to the network. From then on the relay may know its extent,
//!   so that extent must not change any more: what was sent as 5 stays 5, even if its content is given up.
//! - `Journal::forget` is called when the relay has acknowledged everything through a number, and is the only way in which a
//!   record disappears. A stream of an earlier start that is empty then disappears too. What the forgotten held is told at once
//!   where it is known, and else by a later `Journal::tick`; until then it counts as waiting.
//! - `Journal::give_up`, and the journal itself when it is full, when a record cannot be read back or is too old, put a
//!   **loss record** in the place of what is given up. Loss records that stand side by side and were never sent are merged. So
//!   the chain has no holes, and the number of records stays bounded however long an outage lasts.
//! - `Journal::tick` does what is due, at `Journal::deadline` at the latest.
//! - `Journal::close` is called once, at a clean stop: everything that waits goes to flash, and a mark that says so.
//!
//! A stream that ended without this mark is **torn**: its end was younger than what flash had to know. It is listed, even
//! if nothing of it is held, until the relay has been told (`Journal::told`).
//!
//! What is acknowledged is forgotten, so a stream's last acknowledged number is always the one before its first record. After a
//! restart the relay may know more of a stream than flash does: a position beyond a stream's end then means all of it.

mod chain;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod damage;
mod disk;
mod flash;
mod format;
mod keeper;
mod ledger;
mod memory;
pub(crate) mod mount;
#[cfg(test)]
mod rig;
mod segment;
mod sent;
mod store;
mod thread;
pub mod trial;
#[cfg(test)]
mod troubles;
mod unfinished;
#[cfg(test)]
mod unfinished_writes;
pub mod view;

use std::sync::Arc;
use std::time::Instant;

use headwater_proto::frame::Sealed;
use headwater_proto::{Loss, LossReason, SeriesSet};
use tokio::sync::Notify;

use crate::stats::{JournalFault, JournalMode};

pub(crate) use flash::Flash;
pub(crate) use memory::Memory;

/// What the times of a batch were made with, while the clock was not known to be right: enough to correct them later, within the same
/// boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClockEpoch {
    /// The boot whose monotonic clock they come from: its id as a number.
    pub(crate) boot: u128,
    /// A time = the monotonic clock's + this, in microseconds.
    pub(crate) offset_us: i64,
}

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
        /// `None`: its times are final.
        clock: Option<ClockEpoch>,
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
            clock: None,
        }
    }

    /// The same, with times that were made by a clock not known to be right.
    pub(crate) fn made_with(mut self, epoch: Option<ClockEpoch>) -> Self {
        if let Self::Batch { clock, .. } = &mut self {
            *clock = epoch;
        }
        self
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

impl Record {
    /// What its times were made with; `None`: they are final.
    pub(crate) fn clock(&self) -> Option<ClockEpoch> {
        match &self.content {
            Content::Batch { clock, .. } => *clock,
            Content::Loss(_) => None,
        }
    }
}

/// What a record holds.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Batch {
        sealed: Arc<Sealed>,
        series: Arc<SeriesSet>,
        /// `None`: its times are final.
        clock: Option<ClockEpoch>,
    },
    Loss(Loss),
}

/// An attempt to read.
#[derive(Clone, Debug)]
pub(crate) enum Read {
    Record(Record),
    /// It is held, and on its way into memory.
    Loading,
    /// No record begins there.
    None,
}

/// A stream and what is held of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) stream: u64,
    /// The first sequence number held; the one before it is the last acknowledged.
    pub(crate) first: u64,
    /// The last sequence number held; `first - 1` if none is.
    pub(crate) last: u64,
    /// The last of them that is on flash and so outlives a power cut; `first - 1` if none is.
    pub(crate) durable: u64,
    /// It ended without the mark of a clean stop: what came after `last` is lost, unless the relay has it.
    pub(crate) torn: bool,
}

/// What became of readings that are forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forgotten {
    /// The relay has them.
    pub(crate) delivered: u64,
    /// They were given up, and the relay knows.
    pub(crate) lost: u64,
}

impl Forgotten {
    /// Both together.
    fn and(self, other: Self) -> Self {
        Self {
            delivered: self.delivered + other.delivered,
            lost: self.lost + other.lost,
        }
    }
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

impl Waiting {
    /// Both together; `other` comes behind.
    fn and(self, other: Self) -> Self {
        Self {
            batches: self.batches + other.batches,
            readings: self.readings + other.readings,
            bytes: self.bytes + other.bytes,
            lost: self.lost + other.lost,
            oldest_us: if self.oldest_us == 0 {
                other.oldest_us
            } else {
                self.oldest_us
            },
        }
    }
}

/// Figures of the medium.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// What is in memory alone.
    pub(crate) unwritten: Waiting,
    pub(crate) mode: JournalMode,
    /// Why flash cannot be used, when the settings ask for it.
    pub(crate) fault: Option<JournalFault>,
    /// Bytes of batches held in memory, those read back for sending among them.
    pub(crate) memory_bytes: u64,
    /// Bytes of the files on flash.
    pub(crate) flash_bytes: u64,
    /// Bytes written to flash since the start.
    pub(crate) flash_written: u64,
    /// Records, segments or files that could not be read and were set aside since the start.
    pub(crate) quarantined: u64,
    /// Segments found since the start whose last write was not finished; nothing of it had been promised.
    pub(crate) unfinished: u64,
    /// Readings that earlier starts left on flash, lost ones among them.
    pub(crate) found: u64,
}

/// A journal; the module's documentation is its contract.
pub(crate) trait Journal: Send {
    /// The streams that hold something or are torn, in the order in which they were opened; the current one is always there, and
    /// last. Streams can appear at any time before the current one: flash answers late, and tells of only so many at a time.
    fn streams(&self) -> Vec<Extent>;

    /// Begins a new current stream; the one before it is complete, and disappears when it is drained.
    fn open_stream(&mut self, stream: u64);

    /// Appends to the current stream and returns the entry's sequence number.
    fn append(&mut self, entry: Entry) -> u64;

    /// The record that begins at `seq`.
    fn read(&mut self, stream: u64, seq: u64) -> Read;

    /// The record that begins at `seq` is about to be sent: its numbers stay together from now on. `false`: it may have made way since it
    /// was read, and is to be read again.
    fn sent(&mut self, stream: u64, seq: u64) -> bool;

    /// Forgets every record that ends at or before `through`, and that part of a loss record that does.
    fn forget(&mut self, stream: u64, through: u64) -> Forgotten;

    /// Puts a loss record in the place of the batch `seq`; `false` if there is no such batch.
    fn give_up(&mut self, stream: u64, seq: u64, reason: LossReason) -> bool;

    /// The relay has answered a hello that listed all streams: it knows which are torn.
    fn told(&mut self);

    /// What is held, over all streams.
    fn waiting(&self) -> Waiting;

    /// Does what is due. What was appended since the last call counts as appended now. Returns what earlier calls of
    /// [`Journal::forget`] could not tell.
    fn tick(&mut self, now: Instant) -> Forgotten;

    /// When [`Journal::tick`] has something to do.
    fn deadline(&self) -> Option<Instant>;

    /// Is notified when something was loaded, written or found; call [`Journal::tick`] then.
    fn woken(&self) -> Arc<Notify>;

    /// Figures of the medium.
    fn figures(&self) -> Figures;

    /// Begins the end: nothing is appended any more.
    fn close(&mut self);

    /// Whether everything that can be made durable is. [`Journal::woken`] tells of progress.
    fn is_closed(&self) -> bool;
}
