//! The journal in memory, bounded in bytes. What it holds ends with the process.
//!
//! When it is full, the oldest batch that is not acknowledged makes way, whether in flight or not. One that was sent may have
//! arrived: its loss record keeps its place and extent, and if the acknowledgement comes before the loss record was sent,
//! the readings count as delivered.

use std::collections::VecDeque;
use std::sync::Arc;

use headwater_proto::frame::Sealed;
use headwater_proto::{Loss, LossReason, SeriesSet};

use super::{Content, Entry, Extent, Forgotten, Journal, Record, Waiting};

/// What a record costs beside its body: the record itself, its allocations, its place in the queue.
const OVERHEAD: usize = 192;

/// The journal in memory.
pub(crate) struct Memory {
    stream: u64,
    /// Body bytes and overhead that may be held.
    bound: usize,
    /// The number that the next entry gets.
    next: u64,
    records: VecDeque<Held>,
    /// How many records at the front are loss records: where the oldest batch stands.
    losses_in_front: usize,
    waiting: Waiting,
}

struct Held {
    seq: u64,
    through: u64,
    readings: u64,
    content: HeldContent,
    /// Its extent is known outside.
    sent: bool,
}

enum HeldContent {
    Batch {
        sealed: Arc<Sealed>,
        series: Arc<SeriesSet>,
        oldest_us: i64,
    },
    Loss {
        reason: LossReason,
        sent: bool,
    },
}

impl Memory {
    /// An empty journal whose current stream is `stream`.
    pub(crate) fn new(stream: u64, bound: usize) -> Self {
        Self {
            stream,
            bound,
            next: 1,
            records: VecDeque::new(),
            losses_in_front: 0,
            waiting: Waiting::default(),
        }
    }

    fn first(&self) -> u64 {
        self.records.front().map_or(self.next, |record| record.seq)
    }

    fn position(&self, stream: u64, seq: u64) -> Option<usize> {
        let at = self.records.partition_point(|record| record.seq < seq);
        self.records
            .get(at)
            .filter(|record| stream == self.stream && record.seq == seq)
            .map(|_| at)
    }

    fn held_bytes(&self) -> usize {
        self.waiting.bytes as usize + self.records.len() * OVERHEAD
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
        self.count_losses_in_front();
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
        if previous.sent || record.sent {
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

    fn count_losses_in_front(&mut self) {
        let is_loss = |record: &Held| matches!(record.content, HeldContent::Loss { .. });
        self.losses_in_front = self.records.iter().take_while(|record| is_loss(record)).count();
        self.waiting.oldest_us = match self
            .records
            .get(self.losses_in_front)
            .map(|record| &record.content)
        {
            Some(HeldContent::Batch { oldest_us, .. }) => *oldest_us,
            _ => 0,
        };
    }
}

impl Journal for Memory {
    fn streams(&self) -> Vec<Extent> {
        vec![Extent {
            stream: self.stream,
            first: self.first(),
            last: self.next - 1,
        }]
    }

    fn append(&mut self, entry: Entry) -> u64 {
        let seq = self.next;
        self.next += 1;
        self.waiting.batches += 1;
        let (readings, content) = match entry {
            Entry::Batch {
                sealed,
                series,
                readings,
                oldest_us,
            } => {
                self.waiting.bytes += sealed.body.len() as u64;
                self.waiting.readings += readings;
                (
                    readings,
                    HeldContent::Batch {
                        sealed,
                        series,
                        oldest_us,
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
        });
        self.merge_with_previous(self.records.len() - 1);
        self.count_losses_in_front();
        while self.held_bytes() > self.bound && self.losses_in_front < self.records.len() {
            self.lose(self.losses_in_front, LossReason::JournalFull);
        }
        seq
    }

    fn read(&mut self, stream: u64, seq: u64) -> Option<Record> {
        let record = &self.records[self.position(stream, seq)?];
        let content = match &record.content {
            HeldContent::Batch { sealed, series, .. } => Content::Batch {
                sealed: sealed.clone(),
                series: series.clone(),
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

    fn sent(&mut self, stream: u64, seq: u64) {
        if let Some(at) = self.position(stream, seq) {
            let record = &mut self.records[at];
            record.sent = true;
            if let HeldContent::Loss { sent, .. } = &mut record.content {
                *sent = true;
            }
        }
    }

    fn forget(&mut self, stream: u64, through: u64) -> Forgotten {
        let mut forgotten = Forgotten::default();
        if stream != self.stream {
            return forgotten;
        }
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
        self.count_losses_in_front();
        forgotten
    }

    fn give_up(&mut self, stream: u64, seq: u64, reason: LossReason) -> bool {
        let Some(at) = self.position(stream, seq) else {
            return false;
        };
        let is_batch = matches!(self.records[at].content, HeldContent::Batch { .. });
        self.lose(at, reason);
        is_batch
    }

    fn waiting(&self) -> Waiting {
        self.waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: u64 = 7;

    fn batch(length: usize, readings: u64) -> Entry {
        let sealed = Sealed {
            envelope: 0x10,
            series_set: 1,
            body: vec![0; length],
        };
        Entry::batch(sealed, Arc::new(SeriesSet::new(Vec::new(), 0)), readings, 5)
    }

    /// First and last number of a record; readings and reason of a loss.
    type Link = (u64, u64, Option<(u64, LossReason)>);

    fn chain(journal: &mut Memory) -> Vec<Link> {
        let extent = journal.streams()[0];
        let mut seq = extent.first;
        let mut out = Vec::new();
        while seq <= extent.last {
            let record = journal
                .read(STREAM, seq)
                .unwrap_or_else(|| panic!("a hole at {seq} in {extent:?}"));
            let loss = match record.content {
                Content::Batch { .. } => None,
                Content::Loss(loss) => {
                    assert_eq!(loss.through, record.through);
                    Some((loss.readings, loss.reason))
                }
            };
            out.push((record.seq, record.through, loss));
            seq = record.through + 1;
        }
        assert_eq!(out.len() as u64, journal.waiting().batches);
        out
    }

    #[test]
    fn overflow_drops_the_oldest_and_merges_what_was_never_sent() {
        let mut journal = Memory::new(STREAM, 4 * (100 + OVERHEAD));
        for seq in 1..=10 {
            assert_eq!(journal.append(batch(100, 10)), seq);
        }
        let full = LossReason::JournalFull;
        assert_eq!(
            chain(&mut journal),
            [
                (1, 7, Some((70, full))),
                (8, 8, None),
                (9, 9, None),
                (10, 10, None)
            ]
        );
        assert_eq!(
            journal.forget(STREAM, 7),
            Forgotten {
                delivered: 0,
                lost: 70
            }
        );
        assert_eq!(
            journal.forget(STREAM, 10),
            Forgotten {
                delivered: 30,
                lost: 0
            }
        );
        assert_eq!(journal.waiting(), Waiting::default());
        assert_eq!(
            journal.streams(),
            [Extent {
                stream: STREAM,
                first: 11,
                last: 10
            }]
        );
    }

    #[test]
    fn what_was_sent_keeps_its_extent_when_it_is_given_up() {
        let mut journal = Memory::new(STREAM, 4 * (100 + OVERHEAD));
        journal.append(batch(100, 1));
        journal.append(batch(100, 2));
        journal.sent(STREAM, 1);
        journal.sent(STREAM, 2);
        for _ in 3..=8 {
            journal.append(batch(100, 4));
        }
        let full = LossReason::JournalFull;
        let chain = chain(&mut journal);
        assert_eq!(
            chain[..3],
            [
                (1, 1, Some((1, full))),
                (2, 2, Some((2, full))),
                (3, 6, Some((16, full)))
            ]
        );
        // The acknowledgement of 1 was on its way; the loss record of 2 was sent since.
        journal.sent(STREAM, 2);
        assert_eq!(
            journal.forget(STREAM, 1),
            Forgotten {
                delivered: 1,
                lost: 0
            }
        );
        assert_eq!(
            journal.forget(STREAM, 2),
            Forgotten {
                delivered: 0,
                lost: 2
            }
        );
    }

    #[test]
    fn a_batch_larger_than_the_bound_is_a_loss_at_once() {
        let mut journal = Memory::new(STREAM, 1024);
        journal.append(batch(2000, 3));
        assert_eq!(chain(&mut journal), [(1, 1, Some((3, LossReason::JournalFull)))]);
    }

    #[test]
    fn another_stream_and_a_number_that_is_not_there_change_nothing() {
        let mut journal = Memory::new(STREAM, 1024);
        journal.append(batch(10, 3));
        assert_eq!(journal.forget(STREAM + 1, 1), Forgotten::default());
        assert!(!journal.give_up(STREAM + 1, 1, LossReason::Refused));
        assert!(!journal.give_up(STREAM, 2, LossReason::Refused));
        assert!(journal.read(STREAM + 1, 1).is_none());
        assert_eq!(chain(&mut journal), [(1, 1, None)]);
        assert!(journal.give_up(STREAM, 1, LossReason::Refused));
        assert!(!journal.give_up(STREAM, 1, LossReason::Refused));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Append(usize, u64),
        AppendLoss(u64),
        Send(u64),
        Forget(u64),
        GiveUp(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0usize..600, 0u64..9).prop_map(|(length, readings)| Step::Append(length, readings)),
            1 => (0u64..9).prop_map(Step::AppendLoss),
            4 => (0u64..6).prop_map(Step::Send),
            2 => (0u64..6).prop_map(Step::Forget),
            1 => (0u64..6).prop_map(Step::GiveUp),
        ]
    }

    proptest! {
        /// Whatever happens: no hole in the chain, every reading accounted for, memory bounded, sent extents unchanged.
        #[test]
        fn the_chain_has_no_holes_and_every_reading_is_counted(steps in prop::collection::vec(step(), 0..200)) {
            let bound = 3_000;
            let mut journal = Memory::new(STREAM, bound);
            let (mut appended, mut forgotten) = (0, Forgotten::default());
            let mut sent: Vec<(u64, u64)> = Vec::new();
            for step in steps {
                let first = journal.streams()[0].first;
                match step {
                    Step::Append(length, readings) => {
                        appended += readings;
                        journal.append(batch(length, readings));
                    }
                    Step::AppendLoss(readings) => {
                        appended += readings;
                        journal.append(Entry::Loss { readings, reason: LossReason::Refused });
                    }
                    // In order, as the uplink does: the record behind those that were sent.
                    Step::Send(ahead) => {
                        let mut seq = first;
                        for _ in 0..=ahead.min(4) {
                            let Some(record) = journal.read(STREAM, seq) else { break };
                            journal.sent(STREAM, seq);
                            if !sent.contains(&(seq, record.through)) {
                                sent.push((seq, record.through));
                            }
                            seq = record.through + 1;
                        }
                    }
                    Step::Forget(ahead) => {
                        if let Some((_, through)) =
                            sent.iter().filter(|(seq, _)| *seq >= first).nth(ahead as usize)
                        {
                            let more = journal.forget(STREAM, *through);
                            forgotten.delivered += more.delivered;
                            forgotten.lost += more.lost;
                        }
                    }
                    Step::GiveUp(ahead) => {
                        journal.give_up(STREAM, first + ahead, LossReason::Refused);
                    }
                }
                let chain = chain(&mut journal);
                let waiting = journal.waiting();
                prop_assert_eq!(
                    appended,
                    forgotten.delivered + forgotten.lost + waiting.readings + waiting.lost
                );
                let losses = chain.iter().filter(|record| record.2.is_some()).count();
                prop_assert!(journal.held_bytes() <= bound.max(losses * OVERHEAD));
                let first = journal.streams()[0].first;
                for (seq, through) in sent.iter().filter(|(seq, _)| *seq >= first) {
                    prop_assert!(chain.iter().any(|record| (record.0, record.1) == (*seq, *through)));
                }
                // Not more loss records than were sent, and one more for each batch between them.
                let batches = chain.len() - losses;
                prop_assert!(losses <= sent.len() + batches + 1);
            }
        }
    }
}
