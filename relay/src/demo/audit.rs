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
    /// Sequence numbers that are missing between two of a stream.
    pub missing: u64,
}

/// The count, record by record. The first of each stream that is still in the log is where its chain begins.
#[derive(Debug, Default)]
struct Chains {
    next: HashMap<(Vec<u8>, u64), u64>,
    audit: Audit,
}

impl Chains {
    fn record(&mut self, device: &[u8], name: Name) {
        self.audit.batches += 1;
        let next = self
            .next
            .entry((device.to_vec(), name.stream))
            .or_insert(name.seq);
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
                chains.record(device, name);
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
        for (stream, seq, through) in [
            (1, 4, 4),
            (1, 5, 5),
            (2, 1, 1),
            (1, 5, 5),
            (1, 6, 9),
            (1, 10, 10),
            (2, 4, 4),
        ] {
            chains.record(b"a", name(stream, seq, through));
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
}
