//! The topic of replies, read from near its end on.

use std::collections::BTreeSet;
use std::time::Duration;

use headwater_proto::Message as _;
use headwater_proto::pb::Reply;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::{Context, Error, KafkaSettings};

/// How long after a command's time its reply may come: the bridge says that it has expired.
pub const GRACE: Duration = Duration::from_secs(15);

/// What a look at the topic gave.
#[derive(Debug)]
pub enum Look {
    /// A reply.
    Reply(Reply),
    /// Nothing new for now; whether everything that stood there at the beginning has been read.
    Nothing {
        /// It has.
        caught_up: bool,
    },
}

/// A reader of `headwater.replies`: no group, nothing committed.
pub struct Replies {
    consumer: BaseConsumer<Context>,
    /// Partitions not yet read up to where they ended.
    behind: BTreeSet<i32>,
}

impl Replies {
    /// From so many records before each partition's end on. Blocks.
    ///
    /// # Errors
    /// Those of Kafka; [`Error::is_transient`] says whether trying again can help.
    pub fn open(kafka: &KafkaSettings, before: i64) -> Result<Self, Error> {
        let topic = kafka.topics().replies;
        let config = kafka.client_config(&[
            // No group is used, but the library wants the name of one.
            ("group.id", "headwater-relay-command"),
            ("enable.auto.commit", "false"),
            ("isolation.level", "read_committed"),
            ("auto.offset.reset", "latest"),
            ("allow.auto.create.topics", "false"),
            ("enable.partition.eof", "true"),
            ("fetch.wait.max.ms", "50"),
            ("queued.max.messages.kbytes", "4096"),
        ])?;
        let consumer = kafka.consumer(&config)?;
        let partitions = partitions(kafka, &consumer, &topic)?;
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions as i32 {
            let (low, high) = consumer
                .fetch_watermarks(&topic, partition, kafka.timeout)
                .map_err(|error| kafka.unreachable(&consumer, &error))?;
            let from = low.max(high.saturating_sub(before));
            list.add_partition_offset(&topic, partition, Offset::Offset(from))
                .map_err(Error::Client)?;
        }
        consumer.assign(&list).map_err(Error::Client)?;
        Ok(Self {
            consumer,
            behind: (0..partitions as i32).collect(),
        })
    }

    /// Partitions of a topic, asked over this connection. Blocks.
    ///
    /// # Errors
    /// [`Error::Unreachable`]; [`Error::Topic`] where it does not exist.
    pub fn partitions(&self, kafka: &KafkaSettings, topic: &str) -> Result<u32, Error> {
        partitions(kafka, &self.consumer, topic)
    }

    /// The next reply, if it comes within this time. An absent Kafka is waited for. Blocks.
    pub fn look(&mut self, within: Duration) -> Look {
        match self.consumer.poll(within) {
            Some(Ok(message)) => match Reply::decode(message.payload().unwrap_or_default()) {
                Ok(reply) => return Look::Reply(reply),
                Err(error) => tracing::debug!("a record of {} is no reply: {error}", message.topic()),
            },
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.behind.remove(&partition);
            }
            Some(Err(error)) => tracing::debug!("reading replies: {error}"),
            None => {}
        }
        Look::Nothing {
            caught_up: self.behind.is_empty(),
        }
    }
}

fn partitions(kafka: &KafkaSettings, consumer: &BaseConsumer<Context>, topic: &str) -> Result<u32, Error> {
    let metadata = consumer
        .fetch_metadata(Some(topic), kafka.timeout)
        .map_err(|error| kafka.unreachable(consumer, &error))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    match found.map_or(0, |found| found.partitions().len() as u32) {
        0 => Err(Error::Topic {
            topic: topic.to_owned(),
            why: "does not exist: a bridge creates it when it starts; or kafka.prefix is another one".into(),
        }),
        count => Ok(count),
    }
}
