//! What foreign devices' readings, states and dead letters go to Kafka by.
//!
//! Readings by a producer of the entry's own that is idempotent and gapless and never gives a record up by time: all records get
//! to Kafka in order, or the producer fails as a whole. No transaction is needed, and none would help: who fences partitions
//! fences the writers of agents' streams, and a foreign device's stream has no other writer than the run that began it. States and dead
//! letters go by a second one, shared by all entries, so that a failure there stops nobody's readings.

use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::mpsc;

use super::intake::Record;
use super::roster::State;
use crate::bridge::producer::{self, Pieces, unfit};
use crate::bridge::record::{FOREIGN, LENGTH, REASON, TOPIC};
use crate::bridge::settings::BridgeSettings;
use crate::kafka::{Context, Error, KafkaSettings, Topics, as_context};

/// What became of something handed to a producer.
#[derive(Debug, PartialEq, Eq)]
pub enum Report {
    /// A record is in Kafka, at this offset.
    Stored {
        /// Its number.
        record: u64,
        /// Its offset.
        offset: i64,
    },
    /// A record is not.
    Failed {
        /// Its number.
        record: u64,
        /// Whether it is for its own size or content, which will not change.
        unfit: bool,
        /// Why.
        reason: String,
    },
    /// A device's state, and whether it is in Kafka.
    State(u32, bool),
    /// The dead letter of a message, and whether it is in Kafka.
    Letter(u64, bool),
}

/// What travels with a record to its report.
pub struct Token {
    what: What,
    tell: mpsc::UnboundedSender<Report>,
}

enum What {
    Record(u64),
    State(u32),
    Letter(u64),
}

/// Sends reports from librdkafka's thread to the entry.
pub struct Reports {
    context: Context,
}

as_context!(Reports);

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Token>;

    fn delivery(&self, result: &DeliveryResult<'_>, token: Box<Token>) {
        if result.is_ok() {
            self.context.answered();
        }
        let report = match token.what {
            What::State(device) => Report::State(device, result.is_ok()),
            What::Letter(message) => Report::Letter(message, result.is_ok()),
            What::Record(record) => match result {
                Ok(message) => Report::Stored {
                    record,
                    offset: message.offset(),
                },
                Err((error, _)) => {
                    let unfit = error.rdkafka_error_code().and_then(unfit);
                    Report::Failed {
                        record,
                        unfit: unfit.is_some(),
                        reason: unfit.unwrap_or_else(|| error.to_string()),
                    }
                }
            },
        };
        // No more than what is in flight, which is bounded. Nobody listens only when the run is over.
        let _ = token.tell.send(report);
    }
}

/// A dead letter.
#[derive(Clone, Debug)]
pub struct Letter {
    /// The message's number.
    pub message: u64,
    /// The topic it came on.
    pub topic: String,
    /// The payload, perhaps cut.
    pub payload: bytes::Bytes,
    /// The payload's length before it was cut.
    pub length: usize,
    /// Why.
    pub reason: String,
    /// When it arrived, microseconds since the Unix epoch.
    pub arrival_us: i64,
}

/// Why something was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not now.
    Full,
    /// Never, for its size or content.
    Unfit(String),
    /// By a producer that has failed for good.
    Fatal(String),
}

/// A producer. Clones are the same one.
#[derive(Clone)]
pub struct Producer {
    inner: ThreadedProducer<Reports>,
    topics: Topics,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").finish_non_exhaustive()
    }
}

impl Producer {
    /// The one for an entry's readings.
    ///
    /// # Errors
    /// [`Error::Client`], [`Error::Secret`].
    pub fn telemetry(
        kafka: &KafkaSettings,
        bridge: &BridgeSettings,
        context: Context,
    ) -> Result<Self, Error> {
        let config = producer::gapless(kafka, bridge, Pieces::Many)?;
        let inner = config
            .create_with_context(Reports { context })
            .map_err(Error::Client)?;
        Ok(Self {
            inner,
            topics: kafka.topics(),
        })
    }

    /// The one for states and dead letters.
    ///
    /// # Errors
    /// [`Error::Client`], [`Error::Secret`].
    pub fn side(kafka: &KafkaSettings, context: Context) -> Result<Self, Error> {
        let config = producer::beside(kafka)?;
        let inner = config
            .create_with_context(Reports { context })
            .map_err(Error::Client)?;
        Ok(Self {
            inner,
            topics: kafka.topics(),
        })
    }

    /// Hands over a record of telemetry.
    ///
    /// # Errors
    /// [`Refusal`]; then there will be no report.
    pub fn record(
        &self,
        entry: &str,
        record: &Record,
        tell: &mpsc::UnboundedSender<Report>,
    ) -> Result<(), Refusal> {
        let headers = record.name.headers().insert(Header {
            key: FOREIGN,
            value: Some(entry),
        });
        let kafka =
            BaseRecord::with_opaque_to(&self.topics.telemetry, token(What::Record(record.number), tell))
                .partition(record.partition as i32)
                .key(record.key.as_bytes())
                .payload(&record.value)
                .timestamp(record.arrival.us / 1000)
                .headers(headers);
        self.send(kafka)
    }

    /// Hands over a state.
    ///
    /// # Errors
    /// [`Refusal`]; then there will be no report.
    pub fn state(&self, state: &State, tell: &mpsc::UnboundedSender<Report>) -> Result<(), Refusal> {
        let kafka = BaseRecord::with_opaque_to(&self.topics.devices, token(What::State(state.device), tell))
            .partition(state.partition as i32)
            .key(state.key.as_bytes())
            .payload(&state.value);
        self.send(kafka)
    }

    /// Hands over a dead letter.
    ///
    /// # Errors
    /// [`Refusal`]; then there will be no report.
    pub fn letter(
        &self,
        entry: &str,
        letter: &Letter,
        tell: &mpsc::UnboundedSender<Report>,
    ) -> Result<(), Refusal> {
        let mut headers = OwnedHeaders::new();
        for (key, value) in [
            (TOPIC, letter.topic.as_str()),
            (REASON, letter.reason.as_str()),
            (FOREIGN, entry),
        ] {
            headers = headers.insert(Header {
                key,
                value: Some(value),
            });
        }
        if letter.payload.len() < letter.length {
            headers = headers.insert(Header {
                key: LENGTH,
                value: Some(&letter.length.to_string()),
            });
        }
        let kafka =
            BaseRecord::with_opaque_to(&self.topics.deadletter, token(What::Letter(letter.message), tell))
                .key(entry.as_bytes())
                .payload(letter.payload.as_ref())
                .timestamp(letter.arrival_us / 1000)
                .headers(headers);
        self.send(kafka)
    }

    fn send(
        &self,
        record: BaseRecord<'_, [u8], impl rdkafka::message::ToBytes + ?Sized, Box<Token>>,
    ) -> Result<(), Refusal> {
        self.inner.send(record).map_err(|(error, _)| {
            let code = error.rdkafka_error_code();
            match (code, code.and_then(unfit)) {
                (Some(RDKafkaErrorCode::QueueFull), _) => Refusal::Full,
                (_, Some(reason)) => Refusal::Unfit(reason),
                _ => Refusal::Fatal(error.to_string()),
            }
        })
    }

    /// Waits until everything is reported, at most `timeout`. Blocks.
    pub fn flush(&self, timeout: Duration) {
        // What did not get through shows in its report.
        let _ = self.inner.flush(timeout);
    }
}

fn token(what: What, tell: &mpsc::UnboundedSender<Report>) -> Box<Token> {
    Box::new(Token {
        what,
        tell: tell.clone(),
    })
}
