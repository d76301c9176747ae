//! One stream's records in memory: a chain without holes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use headwater_proto::frame::Sealed;
use headwater_proto::{Loss, LossReason, SeriesSet};

use super::store::Unwritten;
use super::{ClockEpoch, Content, Entry, Extent, Forgotten, Record, Waiting};

/// What a record costs beside its body: the record itself, its allocations, its place in the queue.
pub(super) const OVERHEAD: usize = 192;

/// One stream's records.
pub(super) struct Chain {
    stream: u64,
    /// The number that the next entry gets.
    next: u64,
    records: VecDeque<Held>,
    /// Records that end at or before this number are being written, and may not change.
    pinned: u64,
    /// How many records at the front are pinned or losses: where the oldest batch stands that can make way.
    settled: usize,
    waiting: Waiting,
}

struct Held {
    seq: u64,
    through: u64,
    readings: u64,
    content: HeldContent,
    /// Its extent is known outside.
    sent: bool,
    /// Since when it waits, as far as that was looked at.
    since: Option<Instant>,
}

enum HeldContent {
    Batch {
        sealed: Arc<Sealed>,
        series: Arc<SeriesSet>,
        oldest_us: i64,
        clock: Option<ClockEpoch>,
    },
    Loss {
        reason: LossReason,
        sent: bool,
    },
}

impl Chain {
    /// An empty chain whose first record will be `next`.
    pub(super) fn new(stream: u64, next: u64) -> Self {
        Self {
            stream,
            next,
            records: VecDeque::new(),
            pinned: 0,
            settled: 0,
            waiting: Waiting::default(),
        }
    }

    pub(super) fn stream(&self) -> u64 {
        self.stream
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// Bytes it takes, overhead included.
    pub(super) fn cost(&self) -> usize {
        self.waiting.bytes as usize + self.records.len() * OVERHEAD
    }

    pub(super) fn extent(&self) -> Extent {
        let first = self.records.front().map_or(self.next, |record| record.seq);
        Extent {
            stream: self.stream,
            first,
            last: self.next - 1,
            durable: first - 1,
            torn: false,
        }
    }

    fn position(&self, seq: u64) -> Option<usize> {
        let at = self.records.partition_point(|record| record.seq < seq);
        self.records
            .get(at)
            .filter(|record| record.seq == seq)
            .map(|_| at)
    }

    pub(super) fn append(&mut self, entry: Entry) -> u64 {
        let seq = self.next;
        self.next += 1;
        self.waiting.batches += 1;
        let (readings, content) = match entry {
            Entry::Batch {
                sealed,
                series,
                readings,
                oldest_us,
                clock,
            } => {
                self.waiting.bytes += sealed.body.len() as u64;
                self.waiting.readings += readings;
                (
                    readings,
                    HeldContent::Batch {
                        sealed,
                        series,
                        oldest_us,
                        clock,
                    },
                )
            }
            Entry::Loss { readings, reason } => {
                self.waiting.lost += readings;
                (readings, HeldContent::Loss { reason, sent: false })
            }
        };
        self.records.push_back(Held {
            seq,
            through: seq,
            readings,
            content,
            sent: false,
            since: None,
        });
        self.merge_with_previous(self.records.len() - 1);
        self.look_at_front();
        seq
    }

    pub(super) fn read(&self, seq: u64) -> Option<Record> {
        let record = &self.records[self.position(seq)?];
        let content = match &record.content {
            HeldContent::Batch {
                sealed,
                series,
                clock,
                ..
            } => Content::Batch {
                sealed: sealed.clone(),
                series: series.clone(),
                clock: *clock,
            },
            HeldContent::Loss { reason, .. } => Content::Loss(Loss {
                through: record.through,
                readings: record.readings,
                reason: *reason,
            }),
        };
        Some(Record {
            seq,
            through: record.through,
            content,
        })
    }

    pub(super) fn sent(&mut self, seq: u64) {
        if let Some(at) = self.position(seq) {
            let record = &mut self.records[at];
            record.sent = true;
            if let HeldContent::Loss { sent, .. } = &mut record.content {
                *sent = true;
            }
        }
    }

    pub(super) fn forget(&mut self, through: u64) -> Forgotten {
        let mut forgotten = Forgotten::default();
        while let Some(record) = self.records.pop_front_if(|record| record.through <= through) {
            self.waiting.batches -= 1;
            match record.content {
                HeldContent::Batch { sealed, .. } => {
                    self.waiting.bytes -= sealed.body.len() as u64;
                    self.waiting.readings -= record.readings;
                    forgotten.delivered += record.readings;
                }
                HeldContent::Loss { sent, .. } => {
                    self.waiting.lost -= record.readings;
                    // Sent as a batch and never as a loss: it was the batch that arrived.
                    match record.sent && !sent {
                        true => forgotten.delivered += record.readings,
                        false => forgotten.lost += record.readings,
                    }
                }
            }
        }
        // An earlier start may have sent a part of what is one loss now. How many readings that part had is not known any more:
        // they count as lost.
        if let Some(record) = self.records.front_mut() {
            record.seq = record.seq.max(through + 1);
        }
        self.look_at_front();
        forgotten
    }

    pub(super) fn give_up(&mut self, seq: u64, reason: LossReason) -> bool {
        let Some(at) = self.position(seq) else {
            return false;
        };
        let is_batch = matches!(self.records[at].content, HeldContent::Batch { .. });
        self.lose(at, reason);
        is_batch
    }

    /// What is new waits since `now`.
    pub(super) fn stamp(&mut self, now: Instant) {
        let new = self.records.iter_mut().rev();
        for record in new.take_while(|record| record.since.is_none()) {
            record.since = Some(now);
        }
    }

    /// Since when the oldest record waits that is not being written.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        let at = self
            .records
            .partition_point(|record| record.through <= self.pinned);
        self.records.get(at).and_then(|record| record.since)
    }

    /// Records from the front on, about `budget` bytes of them, to be written; they stay as they are until [`Chain::unpin`].
    pub(super) fn pin(&mut self, budget: usize) -> Vec<Unwritten> {
        let mut bytes = 0;
        let mut unwritten = Vec::new();
        for held in &self.records {
            if bytes >= budget {
                break;
            }
            let Some(record) = self.read(held.seq) else { break };
            let oldest_us = match &held.content {
                HeldContent::Batch {
                    sealed, oldest_us, ..
                } => {
                    bytes += sealed.body.len() + 64;
                    *oldest_us
                }
                HeldContent::Loss { .. } => {
                    bytes += 64;
                    0
                }
            };
            unwritten.push(Unwritten {
                stream: self.stream,
                record,
                readings: held.readings,
                oldest_us,
            });
        }
        self.pinned = unwritten.last().map_or(0, |last| last.record.through);
        self.look_at_front();
        unwritten
    }

    /// The last number that is being written; 0: none is.
    pub(super) fn pinned(&self) -> u64 {
        self.pinned
    }

    /// Whether something is being written.
    pub(super) fn is_pinned(&self) -> bool {
        self.pinned > 0
    }

    /// What was being written is, or is not.
    pub(super) fn unpin(&mut self, written: bool) {
        let pinned = std::mem::take(&mut self.pinned);
        if written {
            self.forget(pinned);
        }
        self.look_at_front();
    }

    /// Gives up the oldest batch that can make way; `false` if there is none.
    pub(super) fn lose_oldest(&mut self) -> bool {
        let found = self.settled < self.records.len();
        if found {
            self.lose(self.settled, LossReason::JournalFull);
        }
        found
    }

    /// Puts a loss record in the place of the batch at `at`, and merges it with its neighbours where they allow.
    fn lose(&mut self, at: usize, why: LossReason) {
        let record = &mut self.records[at];
        let HeldContent::Batch { sealed, .. } = &record.content else {
            return;
        };
        self.waiting.bytes -= sealed.body.len() as u64;
        self.waiting.readings -= record.readings;
        self.waiting.lost += record.readings;
        record.content = HeldContent::Loss {
            reason: why,
            sent: false,
        };
        self.merge_with_previous(at + 1);
        self.merge_with_previous(at);
        self.look_at_front();
    }

    fn merge_with_previous(&mut self, at: usize) {
        let (Some(previous), Some(record)) = (
            at.checked_sub(1).and_then(|p| self.records.get(p)),
            self.records.get(at),
        ) else {
            return;
        };
        let (HeldContent::Loss { reason: a, .. }, HeldContent::Loss { reason: b, .. }) =
            (&previous.content, &record.content)
        else {
            return;
        };
        if previous.sent || record.sent || previous.through <= self.pinned {
            return;
        }
        // Of two reasons the one that says that there was too much of it all.
        let reason = if a == b { *a } else { LossReason::JournalFull };
        let (through, readings) = (record.through, record.readings);
        self.records.remove(at);
        self.waiting.batches -= 1;
        let previous = &mut self.records[at - 1];
        previous.through = through;
        previous.readings += readings;
        previous.content = HeldContent::Loss { reason, sent: false };
    }

    fn look_at_front(&mut self) {
        let pinned = self.pinned;
        let is_settled =
            |record: &&Held| record.through <= pinned || matches!(record.content, HeldContent::Loss { .. });
        self.settled = self.records.iter().take_while(is_settled).count();
        self.waiting.oldest_us = self
            .records
            .iter()
            .find_map(|record| match record.content {
                HeldContent::Batch { oldest_us, .. } => Some(oldest_us),
                HeldContent::Loss { .. } => None,
            })
            .unwrap_or(0);
    }
}
