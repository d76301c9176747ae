//! Which partitions, and so which shards, a bridge owns, and since when.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use headwater_proto::shard::SHARDS;
use headwater_proto::topic::{self, Kind};

/// What is subscribed and given up together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Share {
    /// Every shard: of a bridge that is alone.
    All,
    /// The shards of one partition.
    Partition {
        /// The partition.
        partition: u32,
        /// How many there are.
        of: u32,
    },
}

impl Share {
    /// The MQTT filters that cover one kind of topic for it.
    pub fn filters(self, kind: Kind) -> Vec<String> {
        match self {
            Self::All => vec![topic::filter(kind)],
            Self::Partition { partition, of } => (partition..SHARDS)
                .step_by(of as usize)
                .map(|shard| topic::shard_filter(shard as u8, kind))
                .collect(),
        }
    }

    /// Whether this partition belongs to it.
    pub fn covers(self, partition: u32) -> bool {
        match self {
            Self::All => true,
            Self::Partition { partition: own, .. } => own == partition,
        }
    }
}

/// The partitions in which devices of this one stood when there were fewer, half as many each time; the latest first.
pub fn ancestors(partition: u32, of: u32) -> Vec<u32> {
    let mut ancestors = Vec::new();
    let (mut before, mut last) = (of / 2, partition);
    while before > 0 {
        if partition % before != last {
            last = partition % before;
            ancestors.push(last);
        }
        before /= 2;
    }
    ancestors
}

/// The terms in which this bridge owns partitions: each time that it is given one, a new term begins. Clones share them.
///
/// Whatever is on its way to Kafka carries the term in which it was accepted. So nothing of an earlier term is produced in a later
/// one, however long it waited between: another bridge may have owned the partition meanwhile.
#[derive(Clone, Debug)]
pub struct Terms {
    /// By partition: the term that runs, 0 where none does.
    running: Arc<[AtomicU64]>,
    last: Arc<AtomicU64>,
}

impl Terms {
    /// None runs yet.
    pub fn new(partitions: u32) -> Self {
        Self {
            running: (0..partitions).map(|_| AtomicU64::new(0)).collect(),
            last: Arc::default(),
        }
    }

    /// The number of partitions there are.
    pub fn partitions(&self) -> u32 {
        self.running.len() as u32
    }

    /// The partition is ours from now on. Returns the term; `None` for a partition that did not exist at the start.
    pub fn begin(&self, partition: u32) -> Option<u64> {
        let running = self.running.get(partition as usize)?;
        let term = self.last.fetch_add(1, Ordering::SeqCst) + 1;
        running.store(term, Ordering::SeqCst);
        Some(term)
    }

    /// The partition is ours no longer.
    pub fn end(&self, partition: u32) {
        if let Some(running) = self.running.get(partition as usize) {
            running.store(0, Ordering::SeqCst);
        }
    }

    /// Whether the partition is ours.
    pub fn running(&self, partition: u32) -> bool {
        let running = self.running.get(partition as usize);
        running.is_some_and(|running| running.load(Ordering::SeqCst) != 0)
    }

    /// Whether any partition is ours.
    pub fn any(&self) -> bool {
        (0..self.partitions()).any(|partition| self.running(partition))
    }

    /// Whether all partitions are ours.
    pub fn all(&self) -> bool {
        (0..self.partitions()).all(|partition| self.running(partition))
    }

    /// Whether the partition is ours, in this very term.
    pub fn holds(&self, partition: u32, term: u64) -> bool {
        self.running
            .get(partition as usize)
            .is_some_and(|running| running.load(Ordering::SeqCst) == term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_owns_all_needs_one_filter() {
        assert_eq!(Share::All.filters(Kind::Data), ["hw1/+/+/data"]);
    }

    #[test]
    fn a_share_is_its_shards() {
        let share = |partition| Share::Partition { partition, of: 4 };
        let filters = share(1).filters(Kind::Hello);
        assert_eq!(filters.len(), 64);
        assert_eq!(filters[1], "hw1/5/+/hello");
        for device in ["a", "b", "gw-01", "pump-7"] {
            let filter = topic::shard_filter(headwater_proto::shard::shard(device), Kind::Hello);
            let partition = headwater_proto::shard::partition(device, 4);
            for other in 0..4 {
                assert_eq!(
                    share(other).filters(Kind::Hello).contains(&filter),
                    other == partition,
                    "{device}"
                );
            }
        }
    }

    #[test]
    fn a_partition_descends_from_those_there_were_before() {
        assert_eq!(ancestors(5, 8), [1, 0]);
        assert_eq!(ancestors(6, 8), [2, 0]);
        assert_eq!(ancestors(3, 8), [1, 0]);
        assert_eq!(ancestors(0, 8), [0u32; 0]);
        assert_eq!(ancestors(0, 1), [0u32; 0]);
    }

    #[test]
    fn a_term_ends_for_good() {
        let terms = Terms::new(2);
        let first = terms.begin(1).unwrap();
        assert!(terms.holds(1, first) && !terms.holds(0, first));
        assert!(terms.running(1) && !terms.running(0) && terms.any() && !terms.all());
        terms.end(1);
        assert!(!terms.holds(1, first));
        let second = terms.begin(1).unwrap();
        assert!(terms.holds(1, second) && !terms.holds(1, first));
        assert_eq!(terms.begin(2), None);
    }
}
