//! The two producers and their delivery reports.
//!
//! Telemetry goes through one that is idempotent and gapless and never gives a record up by time: either all records of a
//! partition get to Kafka in order, or the whole producer fails, and what got through is found by a scan before another
//! is made. States and dead letters go through a second, so that a failure there (no access to the dead letters, say)
//! stops nobody's readings.

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::mpsc;

use super::fleet::{DeadLetter, Letter, Outcome, Record, State, Ticket};
use super::record::{LENGTH, REASON, TOPIC};
use super::settings::BridgeSettings;
use crate::kafka::{Context, Error, KafkaSettings, Topics};

/// What became of something handed to a producer.
#[derive(Debug)]
pub enum Report {
    /// A record of telemetry.
    Telemetry(Ticket, Outcome),
    /// A state (or, `None`, a checkpoint), and whether it is in Kafka.
    State(Option<u32>, bool),
    /// A dead letter, and whether it is in Kafka.
    DeadLetter(Letter, bool),
}

/// What travels with a record to its report.
#[derive(Debug)]
pub enum Token {
    /// Of telemetry.
    Telemetry(Ticket),
    /// Of a state or checkpoint.
    State(Option<u32>),
    /// Of a dead letter.
    DeadLetter(Letter),
}

/// Sends reports from librdkafka's thread to the bridge.
pub struct Reports {
    tell: mpsc::UnboundedSender<Report>,
    context: Context,
}

impl ClientContext for Reports {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = Context::ENABLE_REFRESH_OAUTH_TOKEN;

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.context.generate_oauth_token(config)
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Token>;

    fn delivery(&self, result: &DeliveryResult<'_>, token: Box<Token>) {
        if result.is_ok() {
            self.context.answered();
        }
        let report = match *token {
            Token::State(device) => Report::State(device, result.is_ok()),
            Token::DeadLetter(letter) => Report::DeadLetter(letter, result.is_ok()),
            Token::Telemetry(ticket) => {
                let outcome = match result {
                    Ok(message) => Outcome::Stored(message.offset()),
                    Err((error, _)) => match error.rdkafka_error_code().and_then(unfit) {
                        Some(reason) => Outcome::Unfit(reason),
                        None => Outcome::Failed,
                    },
                };
                Report::Telemetry(ticket, outcome)
            }
        };
        // Unbounded, but no more than what is in flight, which is bounded. Nobody listens only when the bridge is gone.
        let _ = self.tell.send(report);
    }
}

/// Errors that concern a record's own size or content.
fn unfit(code: RDKafkaErrorCode) -> Option<String> {
    use RDKafkaErrorCode::{InvalidMessage, InvalidMessageSize, InvalidRecord, MessageSizeTooLarge};
    matches!(
        code,
        MessageSizeTooLarge | InvalidMessage | InvalidMessageSize | InvalidRecord
    )
    .then(|| format!("Kafka refuses the record: {code}"))
}

/// Why a record was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not now.
    Full,
    /// Never, for this reason.
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
    /// The one for telemetry.
    ///
    /// # Errors
    /// [`Error::Client`], [`Error::Secret`].
    pub fn telemetry(
        kafka: &KafkaSettings,
        bridge: &BridgeSettings,
        context: Context,
        tell: mpsc::UnboundedSender<Report>,
    ) -> Result<Self, Error> {
        // The bridge's own bound comes first; this is so much above it that the client's bookkeeping fits too.
        let kbytes = (bridge.in_flight.as_u64() / 1024 * 2)
            .clamp(1024, 2_097_151)
            .to_string();
        let largest = (bridge.limits.body.as_u64() + 65_536)
            .clamp(100_000, 1_000_000_000)
            .to_string();
        Self::new(
            kafka,
            &[
                ("enable.idempotence", "true"),
                ("enable.gapless.guarantee", "true"),
                ("message.timeout.ms", "0"),
                ("linger.ms", "2"),
                ("compression.type", "lz4"),
                ("queue.buffering.max.messages", "500000"),
                ("queue.buffering.max.kbytes", &kbytes),
                ("message.max.bytes", &largest),
                ("allow.auto.create.topics", "false"),
            ],
            context,
            tell,
        )
    }

    /// The one for states and dead letters.
    ///
    /// # Errors
    /// [`Error::Client`], [`Error::Secret`].
    pub fn side(
        kafka: &KafkaSettings,
        context: Context,
        tell: mpsc::UnboundedSender<Report>,
    ) -> Result<Self, Error> {
        Self::new(
            kafka,
            &[
                ("enable.idempotence", "true"),
                ("message.timeout.ms", "30000"),
                ("linger.ms", "2"),
                ("compression.type", "lz4"),
                ("queue.buffering.max.messages", "20000"),
                ("queue.buffering.max.kbytes", "32768"),
                ("allow.auto.create.topics", "false"),
            ],
            context,
            tell,
        )
    }

    fn new(
        kafka: &KafkaSettings,
        own: &[(&str, &str)],
        context: Context,
        tell: mpsc::UnboundedSender<Report>,
    ) -> Result<Self, Error> {
        let inner = kafka
            .client_config(own)?
            .create_with_context(Reports { tell, context })
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
    pub fn record(&self, record: &Record) -> Result<(), Refusal> {
        let kafka = BaseRecord::with_opaque_to(
            &self.topics.telemetry,
            Box::new(Token::Telemetry(record.ticket())),
        )
        .partition(record.partition as i32)
        .key(record.key.as_bytes())
        .payload(&record.value)
        .timestamp(record.arrival.us / 1000)
        .headers(record.name.headers());
        self.send(kafka)
    }

    /// Hands over a state or a checkpoint.
    ///
    /// # Errors
    /// [`Refusal`]; then there will be no report.
    pub fn state(&self, state: &State) -> Result<(), Refusal> {
        let kafka = BaseRecord::with_opaque_to(&self.topics.devices, Box::new(Token::State(state.device)))
            .partition(state.partition as i32)
            .key(state.key.as_bytes())
            .payload(&state.value);
        self.send(kafka)
    }

    /// Hands over a dead letter.
    ///
    /// # Errors
    /// [`Refusal`]; then there will be no report.
    pub fn dead_letter(&self, letter: &DeadLetter) -> Result<(), Refusal> {
        let mut headers = OwnedHeaders::new()
            .insert(Header {
                key: TOPIC,
                value: Some(&letter.topic),
            })
            .insert(Header {
                key: REASON,
                value: Some(&letter.reason),
            });
        if letter.payload.len() < letter.length {
            headers = headers.insert(Header {
                key: LENGTH,
                value: Some(&letter.length.to_string()),
            });
        }
        let kafka = BaseRecord::with_opaque_to(
            &self.topics.deadletter,
            Box::new(Token::DeadLetter(letter.letter)),
        )
        .key(letter.key.as_bytes())
        .payload(letter.payload.as_ref())
        .timestamp(letter.arrival_us / 1000)
        .headers(headers);
        self.send(kafka)
    }

    fn send(
        &self,
        record: BaseRecord<'_, [u8], impl rdkafka::message::ToBytes + ?Sized, Box<Token>>,
    ) -> Result<(), Refusal> {
        self.inner
            .send(record)
            .map_err(|(error, _)| match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => Refusal::Full,
                Some(code) => match unfit(code) {
                    Some(reason) => Refusal::Unfit(reason),
                    None => Refusal::Fatal(error.to_string()),
                },
                None => Refusal::Fatal(error.to_string()),
            })
    }

    /// Waits until everything is reported, at most `timeout`. Blocks.
    pub fn flush(&self, timeout: std::time::Duration) {
        // What did not get through shows in its report.
        let _ = self.inner.flush(timeout);
    }

    /// Asks Kafka for a sign of life; blocks up to `timeout`.
    pub fn probe(&self, timeout: std::time::Duration) -> bool {
        let topic = Some(self.topics.telemetry.as_str());
        let answered = self.inner.client().fetch_metadata(topic, timeout).is_ok();
        if answered {
            self.inner.context().context.answered();
        }
        answered
    }
}
