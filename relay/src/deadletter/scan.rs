//! Reads `headwater.deadletter` to its end, as who reads committed records only sees it.

use std::time::{Duration, Instant, SystemTime};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use super::Error;
use super::letter::{Letter, Place};
use crate::bridge::record::RETRIED;
use crate::kafka::{self, Context, KafkaSettings};

/// How long one look takes.
const LOOK: Duration = Duration::from_millis(100);

/// A record of the topic.
#[derive(Debug)]
pub enum Record {
    /// A letter.
    Letter(Box<Letter>),
    /// This one was retried.
    Retried(Place),
}

/// Reads all partitions to their ends as of now, from their beginnings or from this time on. The order within a partition is that of the log.
///
/// # Errors
/// [`Error::Kafka`], [`Error::Refused`].
pub fn scan(
    kafka: &KafkaSettings,
    since: Option<SystemTime>,
    mut each: impl FnMut(Record),
) -> Result<(), Error> {
    let topic = kafka.topics().deadletter;
    let consumer = consumer(kafka)?;
    let mut list = TopicPartitionList::new();
    for partition in 0..count(kafka, &consumer)? {
        let offset = match since {
            None => Offset::Beginning,
            Some(since) => {
                let ms = since
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .map_or(0, |since| since.as_millis() as i64);
                Offset::Offset(ms)
            }
        };
        list.add_partition_offset(&topic, partition, offset)
            .map_err(kafka::Error::Client)?;
    }
    if since.is_some() {
        list = consumer
            .offsets_for_times(list, kafka.timeout)
            .map_err(|why| refused("reading", &topic, why))?;
    }
    read(kafka, &consumer, &list, |record| {
        each(record);
        true
    })
}

/// The letter at this place.
///
/// # Errors
/// [`Error::Kafka`], [`Error::Refused`].
pub fn one(kafka: &KafkaSettings, place: Place) -> Result<Option<Letter>, Error> {
    let topic = kafka.topics().deadletter;
    let consumer = consumer(kafka)?;
    let mut found = None;
    if place.partition >= count(kafka, &consumer)? {
        return Ok(None);
    }
    let (low, high) = consumer
        .fetch_watermarks(&topic, place.partition, kafka.timeout)
        .map_err(|error| kafka.unreachable(&consumer, &error))?;
    if !(low..high).contains(&place.offset) {
        return Ok(None);
    }
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, place.partition, Offset::Offset(place.offset))
        .map_err(kafka::Error::Client)?;
    read(kafka, &consumer, &list, |record| {
        if let Record::Letter(letter) = record
            && letter.place == place
        {
            found = Some(*letter);
        }
        // It is the first, or there is none.
        false
    })?;
    Ok(found)
}

fn consumer(kafka: &KafkaSettings) -> Result<BaseConsumer<Context>, Error> {
    let config = kafka.client_config(&[
        // No group is used, but the library wants the name of one.
        ("group.id", "headwater-relay-deadletter"),
        ("enable.auto.commit", "false"),
        ("enable.partition.eof", "true"),
        ("isolation.level", "read_committed"),
        ("auto.offset.reset", "earliest"),
        ("allow.auto.create.topics", "false"),
        ("fetch.wait.max.ms", "50"),
        ("queued.max.messages.kbytes", "8192"),
    ])?;
    Ok(kafka.consumer(&config)?)
}

/// How many partitions there are.
fn count(kafka: &KafkaSettings, consumer: &BaseConsumer<Context>) -> Result<i32, Error> {
    let topic = kafka.topics().deadletter;
    let metadata = consumer
        .fetch_metadata(Some(&topic), kafka.timeout)
        .map_err(|error| kafka.unreachable(consumer, &error))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    match found.map_or(0, |found| found.partitions().len() as i32) {
        0 => {
            let why =
                "does not exist: a bridge creates it when it starts; or kafka.prefix is another one".into();
            Err(kafka::Error::Topic { topic, why }.into())
        }
        count => Ok(count),
    }
}

/// Reads from these offsets on to the ends, until `each` says that it is enough.
fn read(
    kafka: &KafkaSettings,
    consumer: &BaseConsumer<Context>,
    from: &TopicPartitionList,
    mut each: impl FnMut(Record) -> bool,
) -> Result<(), Error> {
    consumer.assign(from).map_err(kafka::Error::Client)?;
    let mut open = from.count();
    let mut heard = Instant::now();
    while open > 0 {
        let message = match consumer.poll(LOOK) {
            Some(Ok(message)) => message,
            Some(Err(KafkaError::PartitionEOF(_))) => {
                heard = Instant::now();
                open -= 1;
                continue;
            }
            None | Some(Err(_)) if heard.elapsed() < kafka.timeout => continue,
            Some(Err(error)) => return Err(refused("reading", &kafka.topics().deadletter, error)),
            None => return Err(kafka.unreachable(consumer, &KafkaError::Canceled).into()),
        };
        heard = Instant::now();
        let retried = message.headers().and_then(|headers| {
            let found = headers.iter().find(|header| header.key == RETRIED)?;
            std::str::from_utf8(found.value?).ok()?.parse().ok()
        });
        let record = match retried {
            Some(offset) => Record::Retried(Place {
                partition: message.partition(),
                offset,
            }),
            None => Record::Letter(Box::new(Letter::read(&message))),
        };
        if !each(record) {
            return Ok(());
        }
    }
    Ok(())
}

pub(super) fn refused(what: &'static str, topic: &str, why: KafkaError) -> Error {
    Error::Refused {
        what,
        topic: topic.to_owned(),
        why,
    }
}
