//! Apache Kafka for the time of a measurement, and what comes into a topic.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use headwater_proto::{Body, Limits, Readings, Values, protobuf};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

/// A broker of this run's own; it ends when this is dropped.
pub(crate) struct Kafka {
    pub(crate) bootstrap: String,
    script: PathBuf,
    data: PathBuf,
}

impl Kafka {
    /// Starts it with its data in `work`.
    pub(crate) fn start(work: &Path) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/kafka");
        let data = work.join("kafka");
        let output = Command::new(&script)
            .args(["start", "--data"])
            .arg(&data)
            .env("KAFKA_HEAP", "1g")
            .output()
            .with_context(|| format!("cannot run {}", script.display()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let bootstrap = said
            .split_whitespace()
            .find_map(|word| word.strip_prefix("bootstrap="));
        let Some(bootstrap) = bootstrap else {
            bail!("Kafka did not start: {}", String::from_utf8_lossy(&output.stderr));
        };
        Ok(Self {
            bootstrap: bootstrap.to_string(),
            script,
            data,
        })
    }

    /// A client's settings.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }

    /// Creates a topic.
    pub(crate) fn create(&self, topic: &str, partitions: i32) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let (topics, options) = ([&topic], AdminOptions::new());
        let created = admin.create_topics(topics, &options);
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        for result in runtime.block_on(created)? {
            result.map_err(|(name, code)| anyhow::anyhow!("topic {name} was not created: {code}"))?;
        }
        Ok(())
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let _ = Command::new(&self.script)
            .args(["stop", "--kill", "--data"])
            .arg(&self.data)
            .output();
    }
}

/// Counts what comes into a topic, from its start on; it ends when this is dropped.
pub(crate) struct Watch {
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

/// When a record with this mark came last.
type Marks = HashMap<(String, u64), Instant>;

#[derive(Default)]
struct Seen {
    records: AtomicU64,
    bytes: AtomicU64,
    marked: AtomicBool,
    marks: Mutex<Marks>,
    ended: AtomicBool,
}

impl Watch {
    /// Watches `topic`, which must be there.
    pub(crate) fn start(kafka: &Kafka, topic: &str) -> Result<Self> {
        Self::counting(kafka, topic, |_| 1)
    }

    /// The same, where a record is a batch: it counts for as many as it has readings.
    pub(crate) fn of_batches(kafka: &Kafka, topic: &str) -> Result<Self> {
        Self::counting(kafka, topic, |value| {
            readings(value).map_or(0, |r| r.len() as u64)
        })
    }

    fn counting(kafka: &Kafka, topic: &str, count: fn(&[u8]) -> u64) -> Result<Self> {
        let consumer: BaseConsumer = kafka
            .client()
            .set("group.id", "headwater-bench")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "20")
            .create()?;
        assign(&consumer, topic)?;
        let seen = Arc::new(Seen::default());
        let noted = seen.clone();
        let thread = thread::spawn(move || {
            while !noted.ended.load(Ordering::Relaxed) {
                if let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) {
                    noted.take(&message, count);
                }
            }
        });
        Ok(Self {
            seen,
            thread: Some(thread),
        })
    }

    /// Records so far.
    pub(crate) fn records(&self) -> u64 {
        self.seen.records.load(Ordering::Relaxed)
    }

    /// Bytes of their values so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.seen.bytes.load(Ordering::Relaxed)
    }

    /// From now on it is noted when each came.
    pub(crate) fn mark(&self) {
        self.seen.marked.store(true, Ordering::Relaxed);
    }

    /// What was noted.
    pub(crate) fn marks(&self) -> Marks {
        let mut marks = self.seen.marks.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut marks)
    }

    /// Waits for so many records.
    pub(crate) fn reach(&self, records: u64) -> Result<()> {
        let begun = Instant::now();
        while self.records() < records {
            ensure!(
                begun.elapsed() < Duration::from_secs(60),
                "{} of {records} records came into Kafka",
                self.records()
            );
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.seen.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Seen {
    fn take(&self, message: &BorrowedMessage<'_>, count: fn(&[u8]) -> u64) {
        let value = message.payload().unwrap_or_default();
        if self.marked.load(Ordering::Relaxed) {
            let found = marks(message);
            let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
            marks.extend(found.into_iter().map(|mark| (mark, Instant::now())));
        }
        self.bytes.fetch_add(value.len() as u64, Ordering::Relaxed);
        self.records.fetch_add(count(value), Ordering::Relaxed);
    }
}

/// What tells a record apart: the numbers of the field `n` that are in it, as text or as a metric; else device and sequence number.
fn marks(message: &BorrowedMessage<'_>) -> Vec<(String, u64)> {
    let Some(payload) = message.payload() else {
        return Vec::new();
    };
    let Some(seq) = header(message, "hw-seq") else {
        return numbered(payload)
            .map(|number| (String::new(), number))
            .into_iter()
            .collect();
    };
    let numbers = readings(payload)
        .into_iter()
        .flat_map(|readings| readings.columns);
    let numbers = numbers
        .filter(|column| column.metric.ends_with(".n"))
        .flat_map(|column| match column.values {
            Values::I64(numbers) => numbers,
            _ => Vec::new(),
        });
    let mut marks: Vec<_> = numbers.map(|number| (String::new(), number as u64)).collect();
    if let (true, Some(device)) = (marks.is_empty(), message.key()) {
        marks.push((String::from_utf8_lossy(device).into_owned(), seq));
    }
    marks
}

fn header(message: &BorrowedMessage<'_>, name: &str) -> Option<u64> {
    let header = message.headers()?.iter().find(|header| header.key == name)?;
    std::str::from_utf8(header.value?).ok()?.parse().ok()
}

fn numbered(payload: &[u8]) -> Option<u64> {
    let (_, after) = std::str::from_utf8(payload).ok()?.rsplit_once("n=")?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn readings(value: &[u8]) -> Option<Readings> {
    match protobuf::decode(value, &Limits::default()).ok()?.body {
        Body::Readings(readings) => Some(readings),
        Body::Loss(_) => None,
    }
}

fn assign(consumer: &BaseConsumer, topic: &str) -> Result<()> {
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10))?;
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        list.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
    }
    ensure!(list.count() > 0, "the topic {topic} is not there");
    Ok(consumer.assign(&list)?)
}

/// A record as it stands in a topic.
pub(crate) struct Stored {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) headers: rdkafka::message::OwnedHeaders,
}

/// The first `most` records of a topic.
pub(crate) fn read(kafka: &Kafka, topic: &str, most: usize) -> Result<Vec<Stored>> {
    let consumer: BaseConsumer = kafka
        .client()
        .set("group.id", "headwater-bench")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()?;
    assign(&consumer, topic)?;
    let mut records = Vec::new();
    while records.len() < most {
        let Some(message) = consumer.poll(Duration::from_secs(2)) else {
            break;
        };
        let message = message?;
        records.push(Stored {
            key: message.key().unwrap_or_default().to_vec(),
            value: message.payload().unwrap_or_default().to_vec(),
            headers: message
                .headers()
                .map(|headers| headers.detach())
                .unwrap_or_default(),
        });
    }
    ensure!(!records.is_empty(), "nothing is in {topic}");
    Ok(records)
}
