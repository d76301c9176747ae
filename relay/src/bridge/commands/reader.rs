//! Reads the commands of owned partitions from Kafka: a thread of its own, which reads a partition no faster than its commands are looked at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

use bytes::Bytes;
use headwater_proto::Message as _;
use headwater_proto::pb::Command;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::request::{Held, LONGEST, Queued, Read};
use crate::bridge::budget::Budget;
use crate::kafka::{Context, Error, KafkaSettings};

/// Records of a partition that were read and not looked at: no more are read.
const AHEAD: usize = 64;
/// What a record takes beside its bytes.
const OVERHEAD: usize = 256;
/// The longest a new order waits.
const LOOK: Duration = Duration::from_millis(50);

/// What is to be done.
#[derive(Debug)]
enum Order {
    /// Read this partition, in this term, from this offset.
    Read(u32, u64, i64),
    /// No longer.
    Leave(u32),
    /// Commit this offset with its metadata: of a bridge that is alone.
    Commit(u32, i64, String),
}

/// The thread, and the way to it. It ends with this.
#[derive(Debug)]
pub struct Reader {
    orders: Sender<Order>,
}

impl Reader {
    /// Starts it. What is read takes its bytes from `budget`.
    ///
    /// # Errors
    /// [`Error::Client`], [`Error::Secret`], [`Error::Thread`].
    pub fn start(
        kafka: &KafkaSettings,
        context: Context,
        budget: Budget,
        tell: mpsc::UnboundedSender<Read>,
    ) -> Result<Self, Error> {
        let config = kafka.client_config(&[
            // Not joined: the bridge's own membership says what is read, and its transactions commit.
            ("group.id", &kafka.group()),
            ("enable.auto.commit", "false"),
            // Where retention was quicker, or the topic was made anew.
            ("auto.offset.reset", "earliest"),
            ("allow.auto.create.topics", "false"),
            ("fetch.wait.max.ms", "100"),
            ("queued.max.messages.kbytes", "1024"),
        ])?;
        let consumer = config.create_with_context(context).map_err(Error::Client)?;
        let (orders, of_bridge) = channel();
        let worker = Worker {
            consumer,
            topic: kafka.topics().commands,
            orders: of_bridge,
            tell,
            budget,
            reading: BTreeMap::new(),
        };
        std::thread::Builder::new()
            .name("commands".into())
            .spawn(move || worker.run())
            .map_err(Error::Thread)?;
        Ok(Self { orders })
    }

    /// Reads this partition from this offset on.
    pub fn read(&self, partition: u32, term: u64, from: i64) {
        // It ends only with the bridge.
        let _ = self.orders.send(Order::Read(partition, term, from));
    }

    /// Reads this partition no longer.
    pub fn leave(&self, partition: u32) {
        let _ = self.orders.send(Order::Leave(partition));
    }

    /// Commits an offset outside of transactions.
    pub fn commit(&self, partition: u32, offset: i64, metadata: String) {
        let _ = self.orders.send(Order::Commit(partition, offset, metadata));
    }
}

/// A partition that is read.
struct Reading {
    term: u64,
    next: i64,
    queued: Arc<AtomicUsize>,
    paused: bool,
}

struct Worker {
    consumer: BaseConsumer<Context>,
    topic: String,
    orders: Receiver<Order>,
    tell: mpsc::UnboundedSender<Read>,
    budget: Budget,
    reading: BTreeMap<u32, Reading>,
}

impl Worker {
    fn run(mut self) {
        loop {
            match self.orders() {
                Ok(true) => self.assign(),
                Ok(false) => {}
                Err(()) => return,
            }
            self.pause();
            match self.consumer.poll(LOOK) {
                None => {}
                Some(Ok(message)) => {
                    let Some(reading) = self.reading.get_mut(&(message.partition() as u32)) else {
                        continue;
                    };
                    reading.next = message.offset() + 1;
                    if self.tell.send(read(&message, reading, &self.budget)).is_err() {
                        return;
                    }
                }
                Some(Err(error)) => tracing::debug!("reading {}: {error}", self.topic),
            }
        }
    }

    /// Takes all orders that wait. Whether other partitions are read now; an error when nobody gives orders any more.
    fn orders(&mut self) -> Result<bool, ()> {
        let mut changed = false;
        loop {
            match self.orders.try_recv() {
                Ok(Order::Read(partition, term, from)) => {
                    let reading = Reading {
                        term,
                        next: from,
                        queued: Arc::default(),
                        paused: false,
                    };
                    self.reading.insert(partition, reading);
                    changed = true;
                }
                Ok(Order::Leave(partition)) => changed |= self.reading.remove(&partition).is_some(),
                Ok(Order::Commit(partition, offset, metadata)) => {
                    if let Err(error) = self.commit(partition, offset, &metadata) {
                        tracing::debug!("committing commands: {error}");
                    }
                }
                Err(TryRecvError::Empty) => return Ok(changed),
                Err(TryRecvError::Disconnected) => return Err(()),
            }
        }
    }

    fn assign(&mut self) {
        let mut list = TopicPartitionList::new();
        let mut assigned = Ok(());
        for (&partition, reading) in &mut self.reading {
            reading.paused = false;
            assigned = assigned.and(list.add_partition_offset(
                &self.topic,
                partition as i32,
                Offset::Offset(reading.next),
            ));
        }
        if let Err(error) = assigned.and_then(|()| self.consumer.assign(&list)) {
            tracing::error!("commands cannot be read: {error}");
        }
    }

    /// Stops reading partitions that are far ahead, and goes on with those that are not.
    fn pause(&mut self) {
        let spent = self.budget.is_spent();
        let (mut pause, mut resume) = (TopicPartitionList::new(), TopicPartitionList::new());
        for (&partition, reading) in &mut self.reading {
            let ahead = reading.queued.load(Ordering::Relaxed);
            let most = if reading.paused { AHEAD / 4 } else { AHEAD };
            let full = ahead >= most || (spent && ahead > 0);
            if full != reading.paused {
                reading.paused = full;
                let list = if full { &mut pause } else { &mut resume };
                list.add_partition(&self.topic, partition as i32);
            }
        }
        if pause.count() > 0
            && let Err(error) = self.consumer.pause(&pause)
        {
            tracing::debug!("pausing commands: {error}");
        }
        if resume.count() > 0
            && let Err(error) = self.consumer.resume(&resume)
        {
            tracing::debug!("resuming commands: {error}");
        }
    }

    fn commit(&self, partition: u32, offset: i64, metadata: &str) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        let mut element = list.add_partition(&self.topic, partition as i32);
        element.set_offset(Offset::Offset(offset))?;
        element.set_metadata(metadata);
        self.consumer.commit(&list, CommitMode::Async)
    }
}

fn read(message: &BorrowedMessage<'_>, reading: &Reading, budget: &Budget) -> Read {
    let payload = message.payload().unwrap_or_default();
    let content = match Command::decode(payload) {
        Ok(command) => Ok(command),
        Err(error) => {
            let kept = &payload[..payload.len().min(LONGEST)];
            Err((
                format!("no headwater.v1.Command: {error}"),
                Bytes::copy_from_slice(kept),
            ))
        }
    };
    let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
    Read {
        partition: message.partition() as u32,
        term: reading.term,
        offset: message.offset(),
        written_us: message.timestamp().to_millis().map(|ms| ms.saturating_mul(1000)),
        held: Held::new(budget, payload.len() + key.len() + OVERHEAD),
        queued: Queued::new(&reading.queued),
        key,
        content,
    }
}
