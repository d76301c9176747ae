//! Kafka → Kafka: the readings of `headwater.telemetry` one by one in `headwater.readings`, for programs that want rows
//! (ClickHouse, Flink, sinks of Kafka Connect).
//!
//! Exactly once, by Kafka's transactions: rows and how far telemetry was read are committed together, so that whoever reads
//! with `isolation.level=read_committed` (the default of librdkafka, not of Java's consumer) sees each reading once, whatever was
//! killed meanwhile. Any number of these share the work as the consumer group `headwater-rows`; the rows of a device are in its
//! partition, in telemetry's order.
//!
//! What the commit rests on: the group's metadata, taken while the partitions are known to be ours, is part of it, and a coordinator
//! refuses those of a generation that has passed. So a member that slept through a rebalance commits nothing. One that notices gives
//! the open transaction up and goes on where its new partitions are committed: without leaving the group, or two members under
//! load would throw each other out for ever.

pub mod row;
pub mod settings;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headwater_proto::{Limits, protobuf};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, ConsumerGroupMetadata, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use crate::admin::{Check, Monitor};
use crate::kafka::{self, Context, KafkaSettings, as_context};
use settings::RowsSettings;

/// A transaction is committed when it holds so many bytes of rows, though its time has not come.
const TRANSACTION_BYTES: usize = 8 << 20;
/// What one call to Kafka may take.
const TIME: Duration = Duration::from_secs(20);
/// The pause before everything is made anew after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// What is counted, `headwater_rows_…`.
#[derive(Clone, Debug)]
struct Metrics {
    batches: Counter,
    rows: Counter,
    unreadable: Counter,
    restarts: Counter,
}

impl Metrics {
    fn new(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("headwater_rows");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        Self {
            batches: counter("batches", "Batches made into rows, committed"),
            rows: counter("rows", "Rows committed"),
            unreadable: counter(
                "unreadable",
                "Records of telemetry that are no batch, passed over",
            ),
            restarts: counter(
                "restarts",
                "Transactions given up and begun anew from what is committed",
            ),
        }
    }
}

/// Makes rows until `shutdown`.
///
/// # Errors
/// Where only an operator can help; an absent Kafka is waited for.
pub async fn run(
    rows: RowsSettings,
    kafka: KafkaSettings,
    limits: Limits,
    monitor: Monitor,
    shutdown: CancellationToken,
) -> Result<(), kafka::Error> {
    let check = monitor.check("rows kafka", &format!("no answer yet from {}", kafka.bootstrap));
    let metrics = monitor.register(Metrics::new);
    let Some(partitions) = kafka::await_topics(&kafka, &check, &shutdown).await? else {
        return Ok(());
    };
    while !shutdown.is_cancelled() {
        let made = kafka::ensure_topic(&kafka, &kafka.topics().readings, partitions).await;
        let ended = match made {
            Err(error) if !error.is_transient() => return Err(error),
            Err(error) => Err(error.to_string()),
            Ok(()) => {
                let copier = Copier::new(&rows, &kafka, &limits, &metrics, &check)?;
                let stop = shutdown.clone();
                tokio::task::spawn_blocking(move || copier.run(&stop))
                    .await
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
            }
        };
        if let Err(why) = ended {
            metrics.restarts.inc();
            check.failing(format!("rows: {why}; beginning anew from what is committed"));
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }
    Ok(())
}

/// Counts the times that partitions were taken away or given.
#[derive(Clone)]
struct Member {
    context: Context,
    changes: Arc<AtomicU64>,
}

as_context!(Member);

impl ConsumerContext for Member {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        tracing::info!("rows: {rebalance:?}");
    }
}

/// One membership in the group, from joining to the first failure.
struct Copier {
    settings: RowsSettings,
    limits: Limits,
    metrics: Metrics,
    check: Check,
    telemetry: String,
    readings: String,
    consumer: BaseConsumer<Member>,
    producer: ThreadedProducer<Context>,
    changes: Arc<AtomicU64>,
}

/// What has been handed to the producer and not been committed.
struct Transaction {
    /// The group as it was when this began.
    group: ConsumerGroupMetadata,
    /// The count of [`Member::changes`] then.
    changes: u64,
    began: Instant,
    bytes: usize,
    rows: u64,
    batches: u64,
    /// By partition: what is to be read next.
    next: BTreeMap<i32, i64>,
}

impl Copier {
    fn new(
        rows: &RowsSettings,
        kafka: &KafkaSettings,
        limits: &Limits,
        metrics: &Metrics,
        check: &Check,
    ) -> Result<Self, kafka::Error> {
        let topics = kafka.topics();
        let changes = Arc::new(AtomicU64::new(0));
        let group = format!("{}-rows", kafka.prefix);
        let session = rows.session_timeout.as_millis().to_string();
        let heartbeat = (rows.session_timeout.as_millis() / 3).to_string();
        let context = kafka.context();
        let consumer = kafka
            .client_config(&[
                ("group.id", &group),
                ("enable.auto.commit", "false"),
                ("auto.offset.reset", "earliest"),
                ("isolation.level", "read_committed"),
                ("session.timeout.ms", &session),
                ("heartbeat.interval.ms", &heartbeat),
                ("fetch.wait.max.ms", "50"),
                ("queued.max.messages.kbytes", "16384"),
                ("allow.auto.create.topics", "false"),
            ])?
            .create_with_context(Member {
                context: context.clone(),
                changes: Arc::clone(&changes),
            })
            .map_err(kafka::Error::Client)?;
        let id = format!("{group}-{:016x}", random());
        let producer = kafka
            .client_config(&[
                ("transactional.id", &id),
                // What a killed one leaves open holds its readers up for so long.
                ("transaction.timeout.ms", &session),
                ("linger.ms", "20"),
                ("compression.type", "lz4"),
                ("queue.buffering.max.kbytes", "65536"),
                ("allow.auto.create.topics", "false"),
            ])?
            .create_with_context(context)
            .map_err(kafka::Error::Client)?;
        Ok(Self {
            settings: rows.clone(),
            limits: limits.clone(),
            metrics: metrics.clone(),
            check: check.clone(),
            telemetry: topics.telemetry,
            readings: topics.readings,
            consumer,
            producer,
            changes,
        })
    }

    /// Blocks until `stop`, or a failure, whose reason is returned.
    fn run(self, stop: &CancellationToken) -> Result<(), String> {
        let result = self.copy(stop).map_err(|error| error.to_string());
        if result.is_err() {
            // The next one need not wait for the time-out; where that fails too, the time-out does it.
            let _ = self.producer.abort_transaction(Duration::from_secs(5));
        }
        result
    }

    fn copy(&self, stop: &CancellationToken) -> Result<(), KafkaError> {
        self.producer.init_transactions(TIME)?;
        self.consumer.subscribe(&[self.telemetry.as_str()])?;
        self.check.ready();
        let mut open: Option<Transaction> = None;
        loop {
            let due = open.as_ref().is_some_and(|open| {
                open.bytes >= TRANSACTION_BYTES || open.began.elapsed() >= self.settings.commit_interval
            });
            if (due || stop.is_cancelled())
                && let Some(transaction) = open.take()
            {
                self.commit(&transaction)?;
            }
            if stop.is_cancelled() {
                return Ok(());
            }
            let polled = self.consumer.poll(Duration::from_millis(50));
            if let Some(transaction) =
                open.take_if(|open| open.changes != self.changes.load(Ordering::Relaxed))
            {
                // What it holds is read again, by whoever has the partitions now.
                drop(transaction);
                again(|| self.producer.abort_transaction(TIME))?;
            }
            match polled {
                Some(Ok(message)) => {
                    if open.is_none() {
                        open = Some(self.begin()?);
                    }
                    if let Some(open) = &mut open {
                        self.take(&message, open)?;
                    }
                }
                // A broker that is away is found again; what is for good says so.
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => return Err(error),
                Some(Err(error)) => self.check.failing(format!("rows: {error}")),
                None => {}
            }
        }
    }

    /// A record has just come, so that partitions are ours and the group's metadata are of a membership that holds.
    fn begin(&self) -> Result<Transaction, KafkaError> {
        let group = self
            .consumer
            .group_metadata()
            .ok_or(KafkaError::MessageConsumption(RDKafkaErrorCode::UnknownGroup))?;
        self.producer.begin_transaction()?;
        Ok(Transaction {
            group,
            changes: self.changes.load(Ordering::Relaxed),
            began: Instant::now(),
            bytes: 0,
            rows: 0,
            batches: 0,
            next: BTreeMap::new(),
        })
    }

    fn take(&self, message: &BorrowedMessage<'_>, open: &mut Transaction) -> Result<(), KafkaError> {
        let arrival_ms = message.timestamp().to_millis().unwrap_or(0);
        let batch = match protobuf::decode(message.payload().unwrap_or_default(), &self.limits) {
            Ok(batch) => batch,
            Err(error) => {
                self.metrics.unreadable.inc();
                tracing::warn!(
                    "rows: {} {}@{} is no batch and is passed over: {error}",
                    self.telemetry,
                    message.partition(),
                    message.offset()
                );
                open.next.insert(message.partition(), message.offset() + 1);
                return Ok(());
            }
        };
        for row in row::rows(&batch, arrival_ms.saturating_mul(1000)) {
            let value = row::encode(&row, &self.settings);
            open.bytes += value.len();
            open.rows += 1;
            let mut record = BaseRecord::to(&self.readings)
                .partition(message.partition())
                .key(batch.device.as_bytes())
                .payload(&value)
                .timestamp(arrival_ms);
            while let Err((error, back)) = self.producer.send(record) {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Err(error);
                }
                // Its own thread makes room.
                std::thread::sleep(Duration::from_millis(5));
                record = back;
            }
        }
        open.batches += 1;
        open.next.insert(message.partition(), message.offset() + 1);
        Ok(())
    }

    /// Rows and positions become visible together, or not at all.
    fn commit(&self, open: &Transaction) -> Result<(), KafkaError> {
        let mut positions = TopicPartitionList::new();
        for (&partition, &next) in &open.next {
            positions.add_partition_offset(&self.telemetry, partition, Offset::Offset(next))?;
        }
        again(|| {
            self.producer
                .send_offsets_to_transaction(&positions, &open.group, TIME)
        })?;
        again(|| self.producer.commit_transaction(TIME))?;
        self.metrics.batches.inc_by(open.batches);
        self.metrics.rows.inc_by(open.rows);
        self.check.ready();
        Ok(())
    }
}

/// A call whose failure may be of the moment: it is made again, three times in all, where librdkafka says that it may be.
fn again(mut call: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    for _ in 0..2 {
        match call() {
            Err(KafkaError::Transaction(error)) if error.is_retriable() => {}
            result => return result,
        }
    }
    call()
}

/// Not for secrets: it tells instances apart.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}
