//! The readings, and their way into Kafka.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use headwater_proto::{Batch, Body, shard};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::crowd::Crowd;
use super::protocol::Kind;
use super::server::{self, PARTITIONS};
use crate::bridge::kafka::Kafka;
use crate::{peers, trace};

/// Different batches that are sent in turn.
const BATCHES: usize = 64;
/// How long subscribers may take to have what was published.
const PATIENCE: Duration = Duration::from_secs(60);

/// The same batches for every server.
pub(super) struct Load {
    batches: Vec<(Batch, String)>,
    /// Readings in a batch.
    pub(super) readings: u64,
}

impl Load {
    pub(super) fn new(path: &Path, rows: usize) -> Result<Self> {
        let trace = trace::read(path)?;
        let batches: Vec<(Batch, String)> = trace
            .rows
            .chunks_exact(rows)
            .take(BATCHES)
            .enumerate()
            .map(|(number, rows)| {
                let batch = Batch {
                    device: format!("gw-{number}"),
                    stream: 0x6865_6164,
                    seq: 0,
                    body: Body::Readings(trace::readings(&trace.metrics, rows)),
                };
                (batch, peers::json_rows(&trace.metrics, rows).to_string())
            })
            .collect();
        ensure!(
            !batches.is_empty(),
            "{} has less than {rows} rows",
            path.display()
        );
        Ok(Self {
            readings: trace::count(&trace.rows[..rows]) as u64,
            batches,
        })
    }
}

/// How fast.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// One batch in this time.
    Every(Duration),
    /// As fast as quick subscribers take them, with so many batches underway.
    Underway(u64),
}

/// Publishes for one server.
pub(super) struct Publisher<'a> {
    load: &'a Load,
    kind: Kind,
    topic: String,
    producer: BaseProducer,
    /// Batches so far; their numbers begin with 1.
    sent: u64,
}

impl<'a> Publisher<'a> {
    pub(super) fn new(load: &'a Load, kind: Kind, topic: &str, kafka: &Kafka) -> Result<Self> {
        let producer = kafka.client().set("linger.ms", "0").set("acks", "1").create()?;
        Ok(Self {
            load,
            kind,
            topic: topic.into(),
            producer,
            sent: 0,
        })
    }

    fn publish(&mut self, crowd: &Crowd) -> Result<()> {
        self.sent += 1;
        let (batch, json) = &self.load.batches[self.sent as usize % self.load.batches.len()];
        let mut batch = batch.clone();
        batch.seq = self.sent;
        let value = server::record(self.kind, &batch, json);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        crowd.counts.publish(self.sent)?;
        let mut record = BaseRecord::to(&self.topic)
            .key(&batch.device)
            .partition(shard::partition(&batch.device, PARTITIONS) as i32)
            .timestamp(now.as_millis() as i64)
            .payload(&value);
        while let Err((error, again)) = self.producer.send(record) {
            ensure!(
                error.rdkafka_error_code() == Some(rdkafka::types::RDKafkaErrorCode::QueueFull),
                "{error}"
            );
            self.producer.poll(Duration::from_millis(1));
            record = again;
        }
        self.producer.poll(Duration::ZERO);
        Ok(())
    }

    /// Batches that every quick subscriber has had on average.
    fn had(crowd: &Crowd) -> u64 {
        crowd.counts.quick.load(Ordering::Relaxed) / crowd.quick as u64
    }

    /// One batch after the other until one arrives at every quick subscriber: until then a consumer may still be joining its group. Counts from
    /// then on.
    pub(super) fn begin(&mut self, crowd: &Crowd) -> Result<u64> {
        let begun = Instant::now();
        while Self::had(crowd) == 0 {
            ensure!(begun.elapsed() < PATIENCE, "nothing arrives");
            self.publish(crowd)?;
            std::thread::sleep(Duration::from_millis(200));
        }
        // What is still on its way.
        let mut before = u64::MAX;
        loop {
            let now = crowd.counts.quick.load(Ordering::Relaxed);
            if now == before {
                // What came before the first that arrived is nobody's fault.
                return Ok(self.sent - now / crowd.quick as u64);
            }
            before = now;
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    /// Publishes for so long. `missed`: batches before the first that arrived.
    pub(super) fn run(&mut self, crowd: &Crowd, pace: Pace, time: Duration, missed: u64) -> Result<()> {
        let begun = Instant::now();
        match pace {
            Pace::Every(every) => {
                for number in 0_u32.. {
                    let due = every * number;
                    if due >= time {
                        break;
                    }
                    std::thread::sleep(due.saturating_sub(begun.elapsed()));
                    self.publish(crowd)?;
                }
            }
            Pace::Underway(most) => {
                while begun.elapsed() < time {
                    if self.sent - missed < Self::had(crowd) + most {
                        self.publish(crowd)?;
                    } else {
                        std::thread::sleep(Duration::from_micros(200));
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits until quick subscribers have all that was published, and returns what they miss of it.
    pub(super) fn settle(&self, crowd: &Crowd, missed: u64) -> u64 {
        let wanted = (self.sent - missed) * crowd.quick as u64;
        let left = || wanted.saturating_sub(crowd.counts.quick.load(Ordering::Relaxed));
        let (mut before, mut since) = (u64::MAX, Instant::now());
        while left() > 0 && since.elapsed() < Duration::from_secs(5) {
            if left() != before {
                (before, since) = (left(), Instant::now());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        left()
    }
}

impl Drop for Publisher<'_> {
    fn drop(&mut self) {
        let _ = self.producer.flush(Duration::from_secs(5));
    }
}
