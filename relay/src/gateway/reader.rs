//! Reads the topics into the hub: the end of the telemetry, and the devices' states.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use headwater_proto::{Body, Message as _, pb};
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use super::catchup::{self, Range};
use super::hub::{Hub, now_us};
use crate::admin::Check;
use crate::kafka::{self, Context, KafkaSettings};

/// Records taken in between two words to the connections.
const TOGETHER: usize = 256;
/// How long a question to Kafka may take.
const TIME: Duration = Duration::from_secs(10);

/// A topic, read by all partitions from chosen offsets; no group, nothing committed.
struct Tail {
    consumer: StreamConsumer<Context>,
    /// Where the partitions ended when reading began.
    high: Vec<i64>,
    /// Where reading began.
    from: Vec<i64>,
}

impl Tail {
    /// From `backfill` records before each partition's end (`None`: from its start).
    async fn open(
        settings: &KafkaSettings,
        topic: &str,
        partitions: u32,
        backfill: Option<u32>,
    ) -> Result<Self, kafka::Error> {
        let config = settings.client_config(&[
            ("group.id", "headwater-gateway"),
            ("enable.auto.commit", "false"),
            // Only where the log was made anew, or retention was quicker.
            ("auto.offset.reset", "earliest"),
            ("fetch.wait.max.ms", "10"),
            // The last thing in a partition is mostly the mark of a transaction, which never comes as a message.
            ("enable.partition.eof", "true"),
            ("queued.max.messages.kbytes", "16384"),
            ("allow.auto.create.topics", "false"),
        ])?;
        let name = topic.to_string();
        let marks = {
            let (settings, config) = (settings.clone(), config.clone());
            let marks = move || -> Result<Vec<(i64, i64)>, kafka::Error> {
                let consumer = settings.consumer(&config)?;
                (0..partitions)
                    .map(|partition| consumer.fetch_watermarks(&name, partition as i32, TIME))
                    .collect::<KafkaResult<_>>()
                    .map_err(|source| unreachable(&config, &source))
            };
            tokio::task::spawn_blocking(marks)
                .await
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?
        };
        let from = |&(low, high): &(i64, i64)| backfill.map_or(low, |count| low.max(high - i64::from(count)));
        let from: Vec<i64> = marks.iter().map(from).collect();
        let mut list = TopicPartitionList::new();
        for (partition, &offset) in from.iter().enumerate() {
            list.add_partition_offset(topic, partition as i32, Offset::Offset(offset))
                .map_err(kafka::Error::Client)?;
        }
        let consumer: StreamConsumer<Context> = config
            .create_with_context(settings.context())
            .map_err(kafka::Error::Client)?;
        consumer.assign(&list).map_err(kafka::Error::Client)?;
        Ok(Self {
            consumer,
            high: marks.into_iter().map(|(_, high)| high).collect(),
            from,
        })
    }

    /// Notes that this offset has been read; whether all that stood there at the beginning has.
    fn is_read(&mut self, read: Option<(i32, i64)>) -> bool {
        if let Some((partition, offset)) = read
            && let Some(from) = self.from.get_mut(partition as usize)
        {
            *from = offset + 1;
        }
        self.from.iter().zip(&self.high).all(|(from, high)| from >= high)
    }
}

fn unreachable(config: &rdkafka::ClientConfig, error: &KafkaError) -> kafka::Error {
    let bootstrap = config.get("bootstrap.servers").unwrap_or_default().to_string();
    let why = error.to_string();
    kafka::Error::Unreachable { bootstrap, why }
}

/// Opens both topics and reads them up to their ends, then hands the readers over that go on. `None`: shut down first.
///
/// # Errors
/// Those of Kafka; [`kafka::Error::is_transient`] says whether trying again can help.
pub async fn open(
    hub: &Arc<Hub>,
    settings: &KafkaSettings,
    shutdown: &CancellationToken,
) -> Result<Option<Readers>, kafka::Error> {
    let topics = settings.topics();
    let partitions = hub.log().partitions();
    let backfill = Some(hub.settings.log_backfill);
    let mut devices = Tail::open(settings, &topics.devices, partitions, None).await?;
    let mut telemetry = Tail::open(settings, &topics.telemetry, partitions, backfill).await?;
    {
        let mut log = hub.log_mut();
        for (partition, &offset) in telemetry.from.iter().enumerate() {
            log.begin(partition as u32, offset);
        }
    }
    // Where Kafka does not say that it is the end, a moment of silence is.
    let silence = Duration::from_secs(2);
    for (tail, take) in [
        (&mut devices, device as fn(&Hub, &BorrowedMessage<'_>)),
        (&mut telemetry, batch),
    ] {
        let mut read = tail.is_read(None);
        while !read {
            tokio::select! {
                message = tokio::time::timeout(silence, tail.consumer.recv()) => match message {
                    Ok(Ok(message)) => {
                        take(hub, &message);
                        let at = (message.partition(), message.offset());
                        drop(message);
                        read = tail.is_read(Some(at));
                    }
                    Ok(Err(KafkaError::PartitionEOF(partition))) => {
                        let end = tail.high.get(partition as usize).copied().unwrap_or_default();
                        read = tail.is_read(Some((partition, end - 1)));
                    }
                    Ok(Err(error)) => {
                        return Err(kafka::Error::Unreachable { bootstrap: settings.bootstrap.clone(), why: error.to_string() });
                    }
                    Err(_) => read = true,
                },
                () = shutdown.cancelled() => return Ok(None),
            }
        }
    }
    hub.fleet_mut().complete();
    hub.go_live();
    hub.fleet_mut().tick(now_us());
    Ok(Some(Readers { devices, telemetry }))
}

/// What reads on.
pub struct Readers {
    devices: Tail,
    telemetry: Tail,
}

impl Readers {
    /// Reads on until `shutdown`, and keeps the rates.
    pub async fn run(self, hub: &Arc<Hub>, check: &Check, shutdown: &CancellationToken) {
        let failing = AtomicBool::new(false);
        let devices = follow(&self.devices.consumer, hub, check, &failing, device);
        let telemetry = follow(&self.telemetry.consumer, hub, check, &failing, batch);
        let ticks = async {
            let mut interval = tokio::time::interval(Duration::from_secs(1));
            loop {
                interval.tick().await;
                tick(hub);
            }
        };
        tokio::select! {
            () = devices => {}
            () = telemetry => {}
            () = ticks => {}
            () = probe(hub, check, &failing) => {}
            () = fetch_silent(hub) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// Takes in message after message; never ends.
async fn follow(
    consumer: &StreamConsumer<Context>,
    hub: &Hub,
    check: &Check,
    failing: &AtomicBool,
    take: fn(&Hub, &BorrowedMessage<'_>),
) {
    loop {
        let mut next = Some(consumer.recv().await);
        let began = Instant::now();
        for _ in 0..TOGETHER {
            match next {
                Some(Ok(message)) => take(hub, &message),
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                // librdkafka goes on by itself.
                Some(Err(error)) => {
                    failing.store(true, Ordering::Relaxed);
                    check.failing(format!("reading: {error}"));
                }
                None => break,
            }
            // Others on this thread have their turn too.
            next = if began.elapsed() < Duration::from_millis(5) {
                consumer.recv().now_or_never()
            } else {
                None
            };
        }
        hub.announce();
        tokio::task::yield_now().await;
    }
}

/// Finds out when Kafka answers again: no record need come for that.
async fn probe(hub: &Hub, check: &Check, failing: &AtomicBool) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Beyond every log there is nothing to read: only its ends are asked for.
        let beyond = Range {
            partition: 0,
            from: i64::MAX,
            until: i64::MAX,
        };
        if failing.load(Ordering::Relaxed) && hub.catch_up.read(beyond).await.is_ok() {
            failing.store(false, Ordering::Relaxed);
            check.ready();
        }
    }
}

/// A record of the telemetry. The cache comes before the log: a snapshot leaves out what stands in the log after its
/// cursor, and must not miss what stands before.
fn batch(hub: &Hub, message: &BorrowedMessage<'_>) {
    let ledger = Arc::clone(hub.log().ledger());
    let (record, decoded) = catchup::decoded(message, &hub.limits, &ledger);
    hub.metrics.records.inc();
    if let Some(newest_us) = record.newest_us.filter(|_| hub.is_live()) {
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

/// A record of the devices' states.
fn device(hub: &Hub, message: &BorrowedMessage<'_>) {
    let Some(name) = message.key().and_then(|key| std::str::from_utf8(key).ok()) else {
        return;
    };
    if headwater_proto::name::check_device(name).is_err() {
        // Checkpoints, and what is none of ours.
        return;
    }
    match message.payload() {
        None => {
            hub.fleet_mut().state(name, None, now_us());
            hub.cache_mut().forget(name);
        }
        Some(payload) => match pb::DeviceState::decode(payload) {
            Ok(state) => hub.fleet_mut().state(name, Some(state), now_us()),
            Err(error) => tracing::warn!("the state of device {name} cannot be decoded: {error}"),
        },
    }
}

fn tick(hub: &Hub) {
    let (devices, online) = {
        let mut fleet = hub.fleet_mut();
        fleet.tick(now_us());
        fleet.count()
    };
    hub.announce();
    let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    hub.metrics.devices.set(gauge(devices));
    hub.metrics.devices_online.set(gauge(online));
    hub.metrics.log_bytes.set(gauge(hub.log().held()));
    let cache = hub.cache();
    hub.metrics.cache_bytes.set(gauge(cache.bytes()));
    hub.metrics
        .cache_refused
        .set(i64::try_from(cache.refused()).unwrap_or(i64::MAX));
}

/// Fetches the newest batch of each device that has been silent for longer than the log in memory reaches back; then waits
/// for ever.
async fn fetch_silent(hub: &Hub) {
    let silent: Vec<(Arc<str>, i64)> = {
        let (fleet, cache) = (hub.fleet(), hub.cache());
        let unknown =
            |(name, offset): &(Arc<str>, i64)| cache.newest_offset(name).is_none_or(|known| known < *offset);
        fleet.newest_offsets().into_iter().filter(unknown).collect()
    };
    let partitions = hub.log().partitions();
    let mut fetched = 0;
    for (name, offset) in silent {
        let partition = headwater_proto::shard::partition(&name, partitions);
        let chunk = hub
            .catch_up
            .read(Range {
                partition,
                from: offset,
                until: offset + 1,
            })
            .await;
        for record in chunk.into_iter().flat_map(|chunk| chunk.records) {
            let decoded = headwater_proto::protobuf::decode(&record.batch(), &hub.limits);
            if let Ok(batch) = decoded
                && record.device == name
            {
                hub.cache_mut().update(&record, &batch);
                fetched += 1;
            }
        }
    }
    if fetched > 0 {
        tracing::info!(devices = fetched, "fetched the last values of silent devices");
        hub.announce();
    }
    std::future::pending::<()>().await;
}
