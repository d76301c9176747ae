//! Reading from Kafka what is no longer in memory: a few consumers in threads of their own, for all connections.
//!
//! A subscription has at most one read on its way, of at most `CHUNK_BYTES`; so what all of them hold is bounded, and a
//! reader serves whoever asked first.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use headwater_proto::Limits;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::{mpsc, oneshot};

use super::record::Record;
use crate::kafka::{Context, KafkaSettings};

/// Batch bytes of one read.
const CHUNK_BYTES: usize = 256 << 10;
/// How long a read may take.
const TIME: Duration = Duration::from_secs(10);
/// Records that are looked through for a time where Kafka has no index of times.
const SCAN: usize = 100_000;

/// What to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The partition.
    pub partition: u32,
    /// The first offset.
    pub from: i64,
    /// No further than this offset, exclusive.
    pub until: i64,
}

/// What was read.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The partition's first offset that Kafka still holds.
    pub low: i64,
    /// The offset after its last.
    pub high: i64,
    /// Every record from `max(from, low)` up to `next`.
    pub records: Vec<Arc<Record>>,
    /// Where to read on.
    pub next: i64,
}

/// Why it could not be read; trying again later can help.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Kafka does not answer.
    #[error("Kafka cannot be read just now: {0}")]
    Kafka(KafkaError),
    /// The gateway is stopping.
    #[error("the gateway is stopping")]
    Stopping,
}

enum Job {
    Read(Range, oneshot::Sender<Result<Chunk, Error>>),
    Times(i64, u32, oneshot::Sender<Result<Vec<i64>, Error>>),
}

/// The way to the readers.
#[derive(Clone, Debug)]
pub struct CatchUp {
    jobs: mpsc::Sender<Job>,
}

impl CatchUp {
    /// Starts that many readers. They end when the last of this is dropped.
    ///
    /// # Errors
    /// Where settings cannot be used, or a thread cannot be had.
    pub fn start(settings: &KafkaSettings, readers: usize, limits: &Limits) -> Result<Self, super::Error> {
        let (jobs, queue) = mpsc::channel(64);
        let queue = Arc::new(Mutex::new(queue));
        for index in 0..readers {
            let config = settings.client_config(&[
                // A group's name is required; nothing is ever committed.
                ("group.id", "headwater-gateway"),
                ("enable.auto.commit", "false"),
                ("enable.partition.eof", "true"),
                ("auto.offset.reset", "earliest"),
                ("fetch.wait.max.ms", "10"),
                ("fetch.message.max.bytes", "262144"),
                ("queued.max.messages.kbytes", "1024"),
                ("allow.auto.create.topics", "false"),
            ])?;
            let reader = Reader {
                consumer: settings.consumer(&config)?,
                topic: settings.topics().telemetry,
                limits: limits.clone(),
                ledger: Arc::default(),
            };
            let queue = Arc::clone(&queue);
            std::thread::Builder::new()
                .name(format!("catch-up-{index}"))
                .spawn(move || {
                    loop {
                        let job = queue
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .blocking_recv();
                        // With nothing assigned it brings no records, but a fresh token if the last one has expired meanwhile.
                        drop(reader.consumer.poll(Duration::ZERO));
                        // Whoever asked may be gone: then nobody minds.
                        match job {
                            Some(Job::Read(_, reply)) if reply.is_closed() => {}
                            Some(Job::Read(range, reply)) => {
                                drop(reply.send(reader.read(range, CHUNK_BYTES)));
                            }
                            Some(Job::Times(time, count, reply)) => {
                                drop(reply.send(reader.times(time, count)));
                            }
                            None => return,
                        }
                    }
                })
                .map_err(super::Error::Listen)?;
        }
        Ok(Self { jobs })
    }

    /// Reads some of a range.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn read(&self, range: Range) -> Result<Chunk, Error> {
        let (reply, answer) = oneshot::channel();
        self.jobs
            .send(Job::Read(range, reply))
            .await
            .map_err(|_| Error::Stopping)?;
        answer.await.map_err(|_| Error::Stopping)?
    }

    /// For each partition an offset before which nothing arrived at or after `time_us`, as late as is easily found.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn times(&self, time_us: i64, partitions: u32) -> Result<Vec<i64>, Error> {
        let (reply, answer) = oneshot::channel();
        self.jobs
            .send(Job::Times(time_us, partitions, reply))
            .await
            .map_err(|_| Error::Stopping)?;
        answer.await.map_err(|_| Error::Stopping)?
    }
}

struct Reader {
    consumer: BaseConsumer<Context>,
    topic: String,
    limits: Limits,
    ledger: Arc<AtomicUsize>,
}

impl Reader {
    fn read(&self, range: Range, bytes: usize) -> Result<Chunk, Error> {
        let (low, high) = self.watermarks(range.partition).map_err(Error::Kafka)?;
        let mut chunk = Chunk {
            low,
            high,
            records: Vec::new(),
            next: range.from.max(low),
        };
        let until = range.until.min(high);
        if range.from > high || chunk.next >= until {
            return Ok(chunk);
        }
        let mut held = 0;
        let result = self.each(range.partition, chunk.next, |message| {
            match message {
                Some(message) if message.offset() < until => {
                    let record = record(message, &self.limits, &self.ledger);
                    held += record.batch_bytes();
                    chunk.next = record.offset + 1;
                    chunk.records.push(Arc::new(record));
                }
                _ => chunk.next = until,
            }
            held < bytes && chunk.next < until
        });
        match result {
            Ok(()) => Ok(chunk),
            // What came before the error counts.
            Err(_) if !chunk.records.is_empty() => Ok(chunk),
            Err(error) => Err(Error::Kafka(error)),
        }
    }

    /// Hands over each message from an offset on, and `None` at the partition's end, while `take` wants more.
    fn each(
        &self,
        partition: u32,
        from: i64,
        mut take: impl FnMut(Option<&rdkafka::message::BorrowedMessage<'_>>) -> bool,
    ) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition as i32, Offset::Offset(from))?;
        self.consumer.assign(&list)?;
        let deadline = Instant::now() + TIME;
        let mut failure = None;
        let result = loop {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) if message.partition() == partition as i32 && message.offset() >= from => {
                    if !take(Some(&message)) {
                        break Ok(());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(ended))) if ended == partition as i32 => {
                    take(None);
                    break Ok(());
                }
                Some(Err(error)) => failure = Some(error),
                Some(Ok(_)) | None => {}
            }
            if Instant::now() > deadline {
                break Err(failure.unwrap_or(KafkaError::MessageConsumption(
                    rdkafka::error::RDKafkaErrorCode::OperationTimedOut,
                )));
            }
        };
        self.consumer.unassign()?;
        result
    }

    fn times(&self, time_us: i64, partitions: u32) -> Result<Vec<i64>, Error> {
        // Kafka's timestamps are milliseconds: rounded down, so that nothing is missed.
        let time_ms = time_us.div_euclid(1000);
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(&self.topic, partition as i32, Offset::Offset(time_ms))
                .map_err(Error::Kafka)?;
        }
        let found = self
            .consumer
            .offsets_for_times(list, TIME)
            .map_err(Error::Kafka)?;
        (0..partitions)
            .map(|partition| {
                let found = found
                    .find_partition(&self.topic, partition as i32)
                    .map(|element| element.offset());
                match found {
                    Some(Offset::Offset(offset)) if offset >= 0 => Ok(offset),
                    _ => self.scan(partition, time_ms),
                }
            })
            .collect::<KafkaResult<_>>()
            .map_err(Error::Kafka)
    }

    /// Kafka knows of nothing at or after that time: either there is none, or this broker has no index of times (the
    /// demo's). Looks at the last record, and from the start where that is later.
    fn scan(&self, partition: u32, time_ms: i64) -> KafkaResult<i64> {
        let (low, high) = self.watermarks(partition)?;
        if low >= high {
            return Ok(high);
        }
        let time =
            |message: &rdkafka::message::BorrowedMessage<'_>| message.timestamp().to_millis().unwrap_or(0);
        let mut last = i64::MIN;
        self.each(partition, high - 1, |message| {
            last = message.map_or(last, time);
            false
        })?;
        if last < time_ms {
            return Ok(high);
        }
        let (mut found, mut count) = (low, 0);
        self.each(partition, low, |message| {
            count += 1;
            let Some(message) = message else { return false };
            found = message.offset();
            time(message) < time_ms && count < SCAN
        })?;
        Ok(found)
    }

    fn watermarks(&self, partition: u32) -> KafkaResult<(i64, i64)> {
        self.consumer
            .fetch_watermarks(&self.topic, partition as i32, TIME)
    }
}

/// A record of what Kafka gave.
pub fn record<M: Message>(message: &M, limits: &Limits, ledger: &Arc<AtomicUsize>) -> Record {
    decoded(message, limits, ledger).0
}

/// As [`record`], with the decoded batch beside it.
pub fn decoded<M: Message>(
    message: &M,
    limits: &Limits,
    ledger: &Arc<AtomicUsize>,
) -> (Record, Option<headwater_proto::Batch>) {
    let arrival_us = message.timestamp().to_millis().unwrap_or(0).saturating_mul(1000);
    let at = (message.partition() as u32, message.offset(), arrival_us);
    Record::new(
        at,
        message.key().unwrap_or_default(),
        message.payload().unwrap_or_default(),
        limits,
        ledger,
    )
}
