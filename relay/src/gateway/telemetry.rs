//! Reads the telemetry into the hub: the end of each partition that somebody watches, and no others.
//!
//! A partition is picked up at its first watcher's word. Subscriptions start in it once its end is in memory, with the newest values of devices
//! that have been silent for longer than that reaches back; so a late watcher's snapshot is what an early one's is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::{self, FuturesUnordered};
use headwater_proto::Body;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Semaphore;

use super::catchup::{self, Range};
use super::hub::Hub;
use super::reader::{SILENCE, Source, follow};
use super::record::Record;
use crate::admin::Check;
use crate::kafka::{self, Context, KafkaSettings};

/// Subscriptions wait so long for the newest values of silent devices. Those that are fetched later come to LATEST as changes; what begins with a
/// snapshot in mode ALL waits for them all.
const PATIENCE: Duration = Duration::from_secs(10);
/// Silent devices asked for at a time: subscribers that read history have the other readers.
const TOGETHER: usize = 2;
/// How long after a failure the next is tried.
const RETRY: Duration = Duration::from_secs(1);

/// Why partitions could not be picked up; trying again later can help.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// Their ends are not to be had.
    #[error(transparent)]
    Ends(#[from] catchup::Error),
    /// They cannot be read.
    #[error("reading: {0}")]
    Assign(#[from] KafkaError),
}

/// The reader of the telemetry; no group, nothing committed.
pub struct Telemetry {
    consumer: StreamConsumer<Context>,
    topic: String,
    /// To ask for silent devices.
    turns: Semaphore,
}

impl Telemetry {
    /// That reads nothing yet.
    ///
    /// # Errors
    /// Settings that cannot be used.
    pub fn new(settings: &KafkaSettings) -> Result<Self, kafka::Error> {
        let consumer = super::reader::config(settings)?
            // What lies at a position that is out of range is of another log, perhaps: that is looked at before reading goes on.
            .set("auto.offset.reset", "error")
            // A topic that is gone is told of after this, not half a minute later when it may be back.
            .set("topic.metadata.propagation.max.ms", "1000")
            .create_with_context(settings.context())
            .map_err(kafka::Error::Client)?;
        let topic = settings.topics().telemetry;
        let turns = Semaphore::new(TOGETHER);
        Ok(Self {
            consumer,
            topic,
            turns,
        })
    }

    /// Reads what is watched; never ends.
    pub async fn run(&self, hub: &Arc<Hub>, check: &Check, failing: &AtomicBool) {
        let source = Source {
            take: batch,
            ended: |hub, partition| {
                hub.watches.came(partition, None);
            },
            failed: |hub, error| {
                if is_doubtful(error) {
                    hub.watches.doubt();
                }
            },
        };
        tokio::join!(
            follow(&self.consumer, hub, check, failing, source),
            self.attend(hub, check, failing)
        );
    }

    /// Picks partitions up as they are watched, and lets them go.
    async fn attend(&self, hub: &Hub, check: &Check, failing: &AtomicBool) {
        let mut interval = tokio::time::interval(Duration::from_secs(1));
        let mut under_way = FuturesUnordered::new();
        loop {
            if hub.watches.is_doubted() {
                tracing::warn!(
                    topic = self.topic,
                    "the topic is not what it was: its partitions are picked up again"
                );
                under_way.clear();
                if let Err(error) = self.consumer.unassign() {
                    failing.store(true, Ordering::Relaxed);
                    check.failing(format!("reading: {error}"));
                }
            }
            // Each by itself: one that cannot be read holds up no other.
            for partition in hub.watches.call() {
                under_way.push(async move {
                    let result = self.pick_up(hub, partition).await;
                    if result.is_err() {
                        tokio::time::sleep(RETRY).await;
                        hub.watches.sleep(&[partition]);
                    }
                    result
                });
            }
            tokio::select! {
                () = hub.watches.called() => {}
                Some(result) = under_way.next(), if !under_way.is_empty() => if let Err(error) = result {
                    failing.store(true, Ordering::Relaxed);
                    check.failing(error.to_string());
                },
                _ = interval.tick() => self.let_go(hub),
            }
            let read = hub.watches.read();
            hub.metrics
                .partitions_read
                .set(i64::try_from(read).unwrap_or(i64::MAX));
        }
    }

    /// Reads on from where it was left, or from a little before its end.
    async fn pick_up(&self, hub: &Hub, partition: u32) -> Result<(), Error> {
        let began = Instant::now();
        let (left, last, epoch) = {
            let log = hub.log();
            (log.next(partition), log.last(partition), log.epoch_of(partition))
        };
        // What came last, to see whether it is still there. Beyond every log there is nothing to read: only its ends are asked for.
        let from = last.map_or(i64::MAX, |(offset, _)| offset);
        let until = from.saturating_add(1);
        let ends = hub
            .catch_up
            .read(Range {
                partition,
                from,
                until,
            })
            .await?;
        let is_same = last.is_none_or(|last| {
            // What retention took tells nothing.
            let found = ends
                .records
                .first()
                .map(|record| (record.offset, record.arrival_us));
            ends.low > last.0 || found == Some(last)
        });
        let marks = (ends.low, ends.high);
        let backfill = hub.settings.log_backfill;
        let from = hub.log_mut().go_on(partition, marks, is_same, backfill);
        let is_another = hub.log().epoch_of(partition) != epoch;
        if is_another {
            tracing::warn!(
                partition,
                left,
                from,
                "the telemetry is of another topic: whoever reads it is told of a gap"
            );
        }
        if from != left || is_another {
            // Something lies between that is not read: what was newest before it need not be so any more.
            hub.cache_mut().forget_partition(partition);
        }
        hub.watches.reading(partition, from, ends.high);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition as i32, Offset::Offset(from))?;
        self.consumer.incremental_assign(&list)?;
        come(hub, partition).await;
        let fetched = async {
            let count = self.fetch_silent(hub, partition).await;
            if count > 0 {
                tracing::info!(devices = count, "fetched the last values of silent devices");
            }
        };
        let mut fetched = std::pin::pin!(fetched);
        let in_time = tokio::time::timeout(PATIENCE, fetched.as_mut()).await.is_ok();
        hub.watches.wake(&[partition]);
        hub.announce();
        let took = began.elapsed();
        tracing::debug!(partition, ?took, "a partition is watched, and read");
        if !in_time {
            fetched.await;
        }
        hub.watches.complete(partition);
        hub.announce();
        Ok(())
    }

    /// Fetches the newest batch of each device of this partition that has been silent for longer than the log in memory reaches
    /// back. Returns of how many.
    async fn fetch_silent(&self, hub: &Hub, partition: u32) -> usize {
        let all = hub.log().partitions();
        let silent: Vec<(Arc<str>, Range)> = {
            let (fleet, cache) = (hub.fleet(), hub.cache());
            let unknown =
                |name: &str, offset| cache.newest_offset(name).is_none_or(|known: i64| known < offset);
            let range = |(name, from): (&Arc<str>, i64)| {
                let until = from + 1;
                let range = Range {
                    partition,
                    from,
                    until,
                };
                let here = headwater_proto::shard::partition(name, all) == partition;
                (here && unknown(name, from)).then(|| (Arc::clone(name), range))
            };
            fleet.newest_offsets().filter_map(range).collect()
        };
        let fetched = stream::iter(silent).map(|(name, range)| async move {
            let records = self.until_read(hub, range).await;
            let mut count = 0;
            for record in records {
                let decoded = headwater_proto::protobuf::decode(&record.batch(), &hub.limits);
                if let Ok(batch) = decoded
                    && record.device == name
                {
                    hub.cache_mut().update(&record, &batch);
                    count += 1;
                }
            }
            count
        });
        let fetched = fetched.buffer_unordered(TOGETHER);
        fetched.fold(0, |sum, count| async move { sum + count }).await
    }

    /// Reads a record of a silent device, however long Kafka is away.
    async fn until_read(&self, hub: &Hub, range: Range) -> Vec<Arc<Record>> {
        loop {
            // Subscribers that read history have the other readers. The semaphore is never closed.
            let turn = self.turns.acquire().await;
            match hub.catch_up.read(range).await {
                Ok(chunk) => return chunk.records,
                Err(error) => tracing::debug!(?range, "a silent device cannot be read: {error}"),
            }
            drop(turn);
            tokio::time::sleep(RETRY).await;
        }
    }

    fn let_go(&self, hub: &Hub) {
        let gone = hub.watches.let_go(Instant::now(), hub.settings.linger);
        if gone.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::new();
        for &partition in &gone {
            list.add_partition(&self.topic, partition as i32);
        }
        match self.consumer.incremental_unassign(&list) {
            Ok(()) => tracing::debug!(partitions = ?gone, "nobody watches: partitions are read no longer"),
            Err(error) => {
                tracing::warn!("partitions {gone:?} could not be let go: {error}");
                hub.watches.doubt();
            }
        }
    }
}

/// Whether the topic may be another by now: it is gone, or has no such offset.
fn is_doubtful(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        AutoOffsetReset, OffsetOutOfRange, UnknownPartition, UnknownTopic, UnknownTopicId,
        UnknownTopicOrPartition,
    };
    matches!(
        error.rdkafka_error_code(),
        Some(
            AutoOffsetReset
                | OffsetOutOfRange
                | UnknownPartition
                | UnknownTopic
                | UnknownTopicId
                | UnknownTopicOrPartition
        )
    )
}

/// Until all that stood in this partition has come.
async fn come(hub: &Hub, partition: u32) {
    let mut changed = hub.listen();
    let far = || hub.log().next(partition);
    let mut last = (far(), Instant::now());
    while !hub.watches.are_read(&[partition]) {
        let _ = tokio::time::timeout(Duration::from_millis(500), changed.changed()).await;
        let now = far();
        if now != last.0 {
            last = (now, Instant::now());
        } else if last.1.elapsed() >= SILENCE {
            return;
        }
    }
}

/// A record. The cache comes before the log: a snapshot leaves out what stands in the log after its
/// cursor, and must not miss what stands before.
fn batch(hub: &Hub, message: &BorrowedMessage<'_>) {
    let ledger = Arc::clone(hub.log().ledger());
    let (record, decoded) = catchup::decoded(message, &hub.limits, &ledger);
    hub.metrics.records.inc();
    let is_news = hub.watches.came(record.partition, Some(record.offset + 1));
    if let Some(newest_us) = record.newest_us.filter(|_| is_news) {
        let us = record.arrival_us.saturating_sub(newest_us);
        hub.metrics.sample_to_kafka.observe_us(us);
    }
    match &decoded {
        Some(batch) => {
            hub.cache_mut().update(&record, batch);
            let readings = if let Body::Readings(readings) = &batch.body {
                readings.len()
            } else {
                0
            };
            hub.fleet_mut()
                .seen(&record.device, readings, record.arrival_us, record.newest_us);
        }
        None => {
            hub.metrics.unreadable.inc();
            tracing::warn!(
                partition = record.partition,
                offset = record.offset,
                device = %record.device,
                "a telemetry record cannot be decoded; subscribers are told of a gap"
            );
        }
    }
    hub.log_mut().append(record);
}
