//! The end of the telemetry log in memory: a ring per partition, bounded together by bytes.
//!
//! A subscription is a cursor. While it stands within the ring it reads here; what made way for newer records it reads
//! from Kafka. Offsets that are missing (compaction, transaction markers) are no gap: a ring says from which offset on it
//! holds *everything there is*.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::record::Record;

/// The rings.
#[derive(Debug)]
pub struct Log {
    rings: Vec<Ring>,
    /// The partitions of the records in memory, in the order they came.
    order: VecDeque<u32>,
    /// Bytes that records hold, those that were taken out but are still being sent included.
    held: Arc<AtomicUsize>,
    capacity: usize,
    epoch: u64,
}

#[derive(Debug, Default)]
struct Ring {
    /// From here on every record is in the ring.
    base: i64,
    /// The next offset to come.
    next: i64,
    records: VecDeque<Arc<Record>>,
    /// Offset and arrival of the last record that came, microseconds, whether it is still held or not.
    last: Option<(i64, i64)>,
    /// How often the log was found to be another.
    epoch: u64,
}

/// Where a cursor stands.
#[derive(Clone, Debug)]
pub enum Place {
    /// The next record there is at or after it.
    At(Arc<Record>),
    /// There is none yet: everything before this offset has been read.
    End(i64),
    /// The ring begins later, at this offset.
    Behind(i64),
}

impl Log {
    /// Empty, for that many partitions, holding up to `capacity` bytes.
    pub fn new(partitions: u32, capacity: usize) -> Self {
        Self {
            rings: (0..partitions).map(|_| Ring::default()).collect(),
            order: VecDeque::new(),
            held: Arc::default(),
            capacity,
            epoch: 0,
        }
    }

    /// The count of bytes that new records are to be entered in.
    pub fn ledger(&self) -> &Arc<AtomicUsize> {
        &self.held
    }

    /// How often a partition was found to be of another topic, made anew under the name; of all partitions together.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The same of one partition. A position of an earlier epoch is of another log, whatever lies there now.
    pub fn epoch_of(&self, partition: u32) -> u64 {
        self.rings.get(partition as usize).map_or(0, |ring| ring.epoch)
    }

    /// Offset and arrival of the last record that came of a partition: by these the log is known to be the same.
    pub fn last(&self, partition: u32) -> Option<(i64, i64)> {
        self.rings.get(partition as usize).and_then(|ring| ring.last)
    }

    /// The number of partitions.
    pub fn partitions(&self) -> u32 {
        self.rings.len() as u32
    }

    /// Reading of a partition begins at this offset.
    pub fn begin(&mut self, partition: u32, offset: i64) {
        if let Some(ring) = self.rings.get_mut(partition as usize) {
            *ring = Ring {
                base: offset,
                next: offset,
                records: VecDeque::new(),
                last: None,
                epoch: ring.epoch,
            };
        }
        self.order.retain(|&other| other != partition);
    }

    /// As [`Log::begin`], of another topic that was made under the name.
    fn begin_anew(&mut self, partition: u32, offset: i64) {
        self.begin(partition, offset);
        if let Some(ring) = self.rings.get_mut(partition as usize) {
            ring.epoch += 1;
            self.epoch += 1;
        }
    }

    /// Reading of a partition goes on: where it was left, if no more than `backfill` records have come since then, otherwise that many before
    /// its end. `low` and `high` are what Kafka holds of it; `is_same`: what came last stands where it came from. Returns the offset to read from.
    pub fn go_on(&mut self, partition: u32, (low, high): (i64, i64), is_same: bool, backfill: u32) -> i64 {
        let from = low.max(high - i64::from(backfill));
        let next = self.next(partition);
        if next > high || !is_same {
            // What was read before is of another log.
            self.begin_anew(partition, from);
            return from;
        }
        if next >= from {
            return next;
        }
        self.begin(partition, from);
        from
    }

    /// The next record of its partition. The oldest records make way. One that goes back means that the topic was made
    /// anew: then its partition's ring begins again.
    pub fn append(&mut self, record: Record) {
        let partition = record.partition;
        let Some(ring) = self.rings.get_mut(partition as usize) else {
            return;
        };
        if record.offset < ring.next {
            self.begin_anew(partition, record.offset);
        }
        let ring = &mut self.rings[partition as usize];
        ring.next = record.offset + 1;
        ring.last = Some((record.offset, record.arrival_us));
        ring.records.push_back(Arc::new(record));
        self.order.push_back(partition);
        // One record is always kept, so that a log too small for it still moves.
        while self.held.load(Ordering::Relaxed) > self.capacity && self.order.len() > 1 {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            let ring = &mut self.rings[oldest as usize];
            if let Some(record) = ring.records.pop_front() {
                ring.base = record.offset + 1;
            }
        }
    }

    /// Where a cursor stands.
    pub fn place(&self, partition: u32, offset: i64) -> Place {
        let Some(ring) = self.rings.get(partition as usize) else {
            return Place::End(offset);
        };
        if offset < ring.base {
            return Place::Behind(ring.base);
        }
        let index = ring.records.partition_point(|record| record.offset < offset);
        match ring.records.get(index) {
            Some(record) => Place::At(Arc::clone(record)),
            None => Place::End(ring.next.max(offset)),
        }
    }

    /// The next offset to come.
    pub fn next(&self, partition: u32) -> i64 {
        self.rings.get(partition as usize).map_or(0, |ring| ring.next)
    }

    /// From this offset on every record of a partition is in memory.
    pub fn base(&self, partition: u32) -> i64 {
        self.rings.get(partition as usize).map_or(0, |ring| ring.base)
    }

    /// The next offset to come of every partition.
    pub fn end(&self) -> Vec<i64> {
        self.rings.iter().map(|ring| ring.next).collect()
    }

    /// The first offset whose record arrived at or after `time_us`, if the ring is known to reach back that far.
    pub fn at_time(&self, partition: u32, time_us: i64) -> Option<i64> {
        let ring = self.rings.get(partition as usize)?;
        let first = ring.records.front()?;
        if first.arrival_us >= time_us {
            return None;
        }
        let found = ring.records.iter().find(|record| record.arrival_us >= time_us);
        Some(found.map_or(ring.next, |record| record.offset))
    }

    /// Bytes held.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{batch, record};
    use super::*;
    use proptest::prelude::*;

    fn append(log: &mut Log, partition: u32, offset: i64) {
        let ledger = Arc::clone(log.ledger());
        log.append(record(
            partition,
            offset,
            &batch("gw", offset as u64, offset * 1000),
            &ledger,
        ));
    }

    fn offset(place: &Place) -> Option<i64> {
        match place {
            Place::At(record) => Some(record.offset),
            _ => None,
        }
    }

    #[test]
    fn a_cursor_reads_on_over_missing_offsets() {
        let mut log = Log::new(2, 1 << 20);
        log.begin(1, 10);
        append(&mut log, 1, 10);
        append(&mut log, 1, 14);
        assert_eq!(offset(&log.place(1, 10)), Some(10));
        assert_eq!(offset(&log.place(1, 11)), Some(14));
        assert!(matches!(log.place(1, 15), Place::End(15)));
        assert!(matches!(log.place(1, 9), Place::Behind(10)));
        assert!(
            matches!(log.place(1, 99), Place::End(99)),
            "a gateway that is ahead of this one"
        );
        assert!(matches!(log.place(0, 0), Place::End(0)));
        assert_eq!(log.end(), [0, 15]);
    }

    #[test]
    fn a_topic_made_anew_begins_its_ring_again() {
        let mut log = Log::new(1, 1 << 20);
        log.begin(0, 100);
        append(&mut log, 0, 100);
        append(&mut log, 0, 3);
        assert_eq!((log.epoch(), log.epoch_of(0)), (1, 1));
        assert_eq!(log.last(0), Some((3, 1_000_000)));
        assert!(matches!(log.place(0, 1), Place::Behind(3)));
        assert_eq!(offset(&log.place(0, 3)), Some(3));
        assert_eq!(log.next(0), 4);
    }

    #[test]
    fn a_partition_that_was_left_goes_on_where_that_is_near() {
        let mut log = Log::new(1, 1 << 20);
        assert_eq!(log.go_on(0, (0, 100), true, 10), 90, "never read before");
        for at in 90..100 {
            append(&mut log, 0, at);
        }
        assert_eq!(log.go_on(0, (0, 105), true, 10), 100, "all that is held is whole");
        assert_eq!(offset(&log.place(0, 95)), Some(95));
        assert_eq!(log.go_on(0, (0, 105), true, 0), 105, "further than the backfill");
        assert!(matches!(log.place(0, 95), Place::Behind(105)));
        assert_eq!(log.go_on(0, (120, 125), true, 10), 120, "retention was quicker");
        assert_eq!(log.epoch(), 0);
        assert_eq!(log.go_on(0, (0, 7), true, 10), 0, "the topic was made anew");
        assert_eq!(log.epoch_of(0), 1);
        assert!(matches!(log.place(0, 0), Place::End(0)));
        append(&mut log, 0, 6);
        assert_eq!(
            log.go_on(0, (0, 20), false, 10),
            10,
            "and has overtaken the one of before"
        );
        assert_eq!((log.epoch_of(0), log.last(0)), (2, None));
        assert!(matches!(log.place(0, 6), Place::Behind(10)));
    }

    #[test]
    fn a_time_is_found_only_where_the_ring_surely_holds_it() {
        let mut log = Log::new(1, 1 << 20);
        let ledger = Arc::clone(log.ledger());
        for (offset, arrival) in [(5, 100), (6, 200), (7, 300)] {
            let mut record = record(0, offset, &batch("gw", 1, 0), &ledger);
            record.arrival_us = arrival;
            log.append(record);
        }
        assert_eq!(log.at_time(0, 150), Some(6));
        assert_eq!(log.at_time(0, 301), Some(8));
        assert_eq!(
            log.at_time(0, 100),
            None,
            "there may be others of that time before"
        );
    }

    proptest! {
        #[test]
        fn bounded_and_whole_from_its_base(
            capacity in 1000usize..20_000,
            steps in proptest::collection::vec((0u32..3, 1i64..4), 1..200),
        ) {
            let mut log = Log::new(3, capacity);
            let mut written: Vec<Vec<i64>> = vec![vec![]; 3];
            for (partition, step) in steps {
                let last = written[partition as usize].last().copied().unwrap_or(-1);
                append(&mut log, partition, last + step);
                written[partition as usize].push(last + step);
                prop_assert!(log.held() <= capacity || log.order.len() == 1);
            }
            for (partition, offsets) in written.iter().enumerate() {
                let (Place::Behind(base) | Place::End(base)) = log.place(partition as u32, -1) else {
                    prop_assert!(false);
                    unreachable!()
                };
                let mut cursor = base;
                let mut read = vec![];
                while let Place::At(record) = log.place(partition as u32, cursor) {
                    read.push(record.offset);
                    cursor = record.offset + 1;
                }
                let expected: Vec<i64> = offsets.iter().copied().filter(|offset| *offset >= base).collect();
                prop_assert_eq!(read, expected);
            }
        }
    }
}
