//! Reads the telemetry topic once more when the demo ends, and counts what a log that loses and repeats nothing must not
//! have.

use std::collections::HashMap;

use rdkafka::Message as _;
use tokio_util::sync::CancellationToken;

use crate::admin::Check;
use crate::bridge::reader;
use crate::bridge::record::Name;
use crate::kafka::{Error, KafkaSettings};

/// What the log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Batches and loss records.
    pub batches: u64,
    /// Those that were there before.
    pub repeated: u64,
    /// Sequence numbers that are missing between two of a stream, or before its first where the log still has its beginning.
    pub missing: u64,
}

/// The count, record by record. A stream begins with 1; but in a partition whose oldest records are gone, with the first that is left.
#[derive(Debug, Default)]
struct Chains {
    next: HashMap<(Vec<u8>, u64), u64>,
    /// Of each partition, whether its first record was still there.
    whole: HashMap<i32, bool>,
    audit: Audit,
}

impl Chains {
    fn record(&mut self, partition: i32, offset: i64, device: &[u8], name: Name) {
        self.audit.batches += 1;
        let whole = *self.whole.entry(partition).or_insert(offset == 0);
        let first = if whole { 1 } else { name.seq };
        let next = self.next.entry((device.to_vec(), name.stream)).or_insert(first);
        if name.seq < *next {
            self.audit.repeated += 1;
            return;
        }
        self.audit.missing += name.seq - *next;
        *next = name.through.saturating_add(1);
    }
}

/// Reads everything that is there. Blocks.
///
/// # Errors
/// If no client can be made. `None` once `shutdown`.
pub fn audit(
    kafka: &KafkaSettings,
    partitions: u32,
    check: &Check,
    shutdown: &CancellationToken,
) -> Result<Option<Audit>, Error> {
    let mut chains = Chains::default();
    let from: Vec<(u32, i64)> = (0..partitions).map(|partition| (partition, 0)).collect();
    let ends = reader::read(
        kafka,
        &kafka.topics().telemetry,
        &from,
        check,
        shutdown,
        |_, message| {
            if let (Some(device), Some(name)) = (message.key(), message.headers().and_then(Name::read)) {
                chains.record(message.partition(), message.offset(), device, name);
            }
        },
    )?;
    Ok(ends.map(|_| chains.audit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_and_holes_are_counted() {
        let mut chains = Chains::default();
        let name = |stream, seq, through| Name {
            stream,
            seq,
            through,
            loss: seq != through,
        };
        let records = [
            (1, 4, 4),
            (1, 5, 5),
            (2, 1, 1),
            (1, 5, 5),
            (1, 6, 9),
            (1, 10, 10),
            (2, 4, 4),
        ];
        // The first two records of this partition are gone.
        for ((stream, seq, through), offset) in records.into_iter().zip(2..) {
            chains.record(0, offset, b"a", name(stream, seq, through));
        }
        assert_eq!(
            chains.audit,
            Audit {
                batches: 7,
                repeated: 1,
                missing: 2
            }
        );
    }

    #[test]
    fn a_beginning_that_never_came_is_missing() {
        let mut chains = Chains::default();
        let name = |stream, seq| Name {
            stream,
            seq,
            through: seq,
            loss: false,
        };
        chains.record(3, 0, b"a", name(1, 1));
        chains.record(3, 1, b"b", name(2, 3));
        assert_eq!(chains.audit.missing, 2);
    }
}
