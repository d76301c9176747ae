//! The journal in memory, bounded in bytes. What it holds ends with the process.
//!
//! When it is full, the oldest batch that is not acknowledged makes way, whether in flight or not. One that was sent may have
//! arrived: its loss record keeps its place and extent, and if the acknowledgement comes before the loss record was sent,
//! the readings count as delivered.

use std::sync::Arc;
use std::time::Instant;

use headwater_proto::LossReason;
use tokio::sync::Notify;

use super::chain::Chain;
use super::{Entry, Extent, Figures, Forgotten, Journal, JournalMode, Read, Waiting};

/// The journal in memory.
pub(crate) struct Memory {
    /// Body bytes and overhead that may be held.
    bound: usize,
    /// One for each stream that holds something, and the current one at the end.
    chains: Vec<Chain>,
    woken: Arc<Notify>,
}

impl Memory {
    /// An empty journal whose current stream is `stream`.
    pub(crate) fn new(stream: u64, bound: usize) -> Self {
        Self {
            bound,
            chains: vec![Chain::new(stream, 1)],
            woken: Arc::default(),
        }
    }

    fn chain(&mut self, stream: u64) -> Option<&mut Chain> {
        self.chains.iter_mut().find(|chain| chain.stream() == stream)
    }

    fn current(&mut self) -> &mut Chain {
        self.chains.last_mut().expect("there is always a current stream")
    }

    fn held_bytes(&self) -> usize {
        self.chains.iter().map(Chain::cost).sum()
    }
}

impl Journal for Memory {
    fn streams(&self) -> Vec<Extent> {
        self.chains.iter().map(Chain::extent).collect()
    }

    fn open_stream(&mut self, stream: u64) {
        self.chains.retain(|chain| !chain.is_empty());
        self.chains.push(Chain::new(stream, 1));
    }

    fn append(&mut self, entry: Entry) -> u64 {
        let seq = self.current().append(entry);
        while self.held_bytes() > self.bound && self.chains.iter_mut().any(Chain::lose_oldest) {}
        seq
    }

    fn read(&mut self, stream: u64, seq: u64) -> Read {
        let record = self.chain(stream).and_then(|chain| chain.read(seq));
        record.map_or(Read::None, Read::Record)
    }

    fn sent(&mut self, stream: u64, seq: u64) -> bool {
        let chain = self.chain(stream);
        chain.map(|chain| chain.sent(seq)).is_some()
    }

    fn forget(&mut self, stream: u64, through: u64) -> Forgotten {
        let forgotten = self.chain(stream).map(|chain| chain.forget(through));
        let current = self.current().stream();
        self.chains
            .retain(|chain| chain.stream() == current || !chain.is_empty());
        forgotten.unwrap_or_default()
    }

    fn give_up(&mut self, stream: u64, seq: u64, reason: LossReason) -> bool {
        self.chain(stream).is_some_and(|chain| chain.give_up(seq, reason))
    }

    fn told(&mut self) {}

    fn waiting(&self) -> Waiting {
        let chains = self.chains.iter().map(Chain::waiting);
        chains.fold(Waiting::default(), Waiting::and)
    }

    fn tick(&mut self, _now: Instant) -> Forgotten {
        Forgotten::default()
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn woken(&self) -> Arc<Notify> {
        self.woken.clone()
    }

    fn figures(&self) -> Figures {
        let unwritten = self.waiting();
        Figures {
            unwritten,
            mode: JournalMode::Memory,
            memory_bytes: unwritten.bytes,
            ..Figures::default()
        }
    }

    fn close(&mut self) {}

    fn is_closed(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Content;
    use crate::journal::chain::OVERHEAD;
    use headwater_proto::SeriesSet;
    use headwater_proto::frame::Sealed;
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
            let Read::Record(record) = journal.read(STREAM, seq) else {
                panic!("a hole at {seq} in {extent:?}")
            };
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
                last: 10,
                durable: 10,
                torn: false,
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
        assert!(matches!(journal.read(STREAM + 1, 1), Read::None));
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
                            let Read::Record(record) = journal.read(STREAM, seq) else { break };
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
