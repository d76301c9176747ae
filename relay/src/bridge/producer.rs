//! The producers and their delivery reports.
//!
//! Of a bridge in a group, telemetry and states go through a transactional one ([`transactions`](super::transactions)). Of a bridge
//! that is alone, telemetry goes through one that is idempotent and gapless and never gives a record up by time: either all records of a
//! partition get to Kafka in order, or the whole producer fails, and what got through is found by a scan before another
//! is made. States and dead letters go through a second, so that a failure there (no access to the dead letters, say)
//! stops nobody's readings.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer,
};
use tokio::sync::mpsc;

use super::commands::answer::{Answer, Kind};
use super::fleet::{DeadLetter, Entered, Letter, Outcome, Record, State, Ticket};
use super::record::{LENGTH, REASON, SEQ, SERIES, SOURCE, STREAM, TOPIC};
use super::settings::BridgeSettings;
use super::transactions::Writes;
use crate::kafka::{Context, Error, KafkaSettings, Topics, as_context};

/// How long a transaction may take at least.
const TRANSACTION: Duration = Duration::from_secs(30);

/// What became of something handed to a producer.
#[derive(Debug)]
pub enum Report {
    /// A record of telemetry.
    Telemetry(Ticket, Outcome),
    /// A state or a checkpoint, and its offset if it is in Kafka.
    State(Entered, Option<i64>),
    /// Whether the answers to commands of this partition, in this term, are in Kafka.
    Answers(u32, u64, bool),
    /// A dead letter.
    DeadLetter(Letter, Outcome),
    /// Transactions have ended, for this reason.
    Ended(Writes, String),
}

impl Report {
    /// Whether something did not get into Kafka.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Telemetry(_, outcome) | Self::DeadLetter(_, outcome) => {
                !matches!(outcome, Outcome::Stored(_))
            }
            Self::State(_, stored) => stored.is_none(),
            Self::Answers(_, _, stored) => !stored,
            Self::Ended(..) => true,
        }
    }

    /// What it says where the transaction came to nothing.
    #[must_use]
    pub fn void(self) -> Self {
        match self {
            Self::Telemetry(ticket, Outcome::Stored(_)) => Self::Telemetry(ticket, Outcome::Failed),
            Self::State(entered, _) => Self::State(entered, None),
            Self::Answers(partition, term, _) => Self::Answers(partition, term, false),
            other => other,
        }
    }
}

/// What travels with a record to its report.
#[derive(Debug)]
pub enum Token {
    /// Of telemetry.
    Telemetry(Ticket),
    /// Of a state or checkpoint.
    State(Entered),
    /// Of a dead letter.
    DeadLetter(Letter),
    /// Of an answer to a command: the partition and the term.
    Answer(u32, u64),
}

/// Sends reports from librdkafka's thread to the bridge.
pub struct Reports {
    tell: mpsc::UnboundedSender<Report>,
    context: Context,
    pieces: Pieces,
}

/// What a producer sends in one piece, to be taken or refused by Kafka as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pieces {
    /// Records of one partition that wait together.
    Many,
    /// One record. Dearer, but what is refused is known to be so for itself.
    One,
}

impl Pieces {
    /// The client's property.
    fn most(self) -> &'static str {
        match self {
            Self::Many => "10000",
            Self::One => "1",
        }
    }
}

impl Reports {
    /// Tells here.
    pub fn new(tell: mpsc::UnboundedSender<Report>, context: Context, pieces: Pieces) -> Self {
        Self {
            tell,
            context,
            pieces,
        }
    }

    fn outcome(&self, result: &DeliveryResult<'_>) -> Outcome {
        let error = match result {
            Ok(message) => return Outcome::Stored(message.offset()),
            Err((error, _)) => error,
        };
        match error.rdkafka_error_code().and_then(unfit) {
            Some(reason) if self.pieces == Pieces::One => Outcome::Unfit(reason),
            Some(_) => Outcome::Suspect,
            None => Outcome::Failed,
        }
    }
}

as_context!(Reports);

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Token>;

    fn delivery(&self, result: &DeliveryResult<'_>, token: Box<Token>) {
        if result.is_ok() {
            self.context.answered();
        }
        let report = match *token {
            Token::State(entered) => {
                Report::State(entered, result.as_ref().ok().map(|message| message.offset()))
            }
            Token::Answer(partition, term) => Report::Answers(partition, term, result.is_ok()),
            Token::DeadLetter(letter) => Report::DeadLetter(letter, self.outcome(result)),
            Token::Telemetry(ticket) => Report::Telemetry(ticket, self.outcome(result)),
        };
        // Unbounded, but no more than what is in flight, which is bounded. Nobody listens only when the bridge is gone.
        let _ = self.tell.send(report);
    }
}

/// Errors that concern a record's own size or content.
pub fn unfit(code: RDKafkaErrorCode) -> Option<String> {
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

/// A record of telemetry, as the client takes it.
pub fn of_record<'a>(
    topics: &'a Topics,
    record: &'a Record,
    token: Box<Token>,
) -> BaseRecord<'a, [u8], Vec<u8>, Box<Token>> {
    BaseRecord::with_opaque_to(&topics.telemetry, token)
        .partition(record.partition as i32)
        .key(record.key.as_bytes())
        .payload(&record.value)
        .timestamp(record.arrival.us / 1000)
        .headers(record.name.headers())
}

/// A state or a checkpoint, as the client takes it.
pub fn of_state<'a>(
    topics: &'a Topics,
    state: &'a State,
    token: Box<Token>,
) -> BaseRecord<'a, [u8], Vec<u8>, Box<Token>> {
    BaseRecord::with_opaque_to(&topics.devices, token)
        .partition(state.entered.partition as i32)
        .key(state.key.as_bytes())
        .payload(&state.value)
}

/// An answer to a command, as the client takes it.
pub fn of_answer<'a>(
    topics: &'a Topics,
    answer: &'a Answer,
    (partition, term): (u32, u64),
) -> BaseRecord<'a, [u8], [u8], Box<Token>> {
    let token = Box::new(Token::Answer(partition, term));
    let (topic, headers) = match &answer.kind {
        Kind::Reply(_) => (&topics.replies, None),
        Kind::DeadLetter(reason) => {
            let source = format!("{partition}:{}", answer.offset);
            let headers = [(TOPIC, &topics.commands), (REASON, reason), (SOURCE, &source)];
            let headers = headers
                .into_iter()
                .fold(OwnedHeaders::new(), |headers, (key, value)| {
                    let value = Some(value);
                    headers.insert(Header { key, value })
                });
            (&topics.deadletter, Some(headers))
        }
    };
    let record = BaseRecord::with_opaque_to(topic, token)
        .key(answer.key.as_bytes())
        .payload(answer.value.as_ref());
    match headers {
        Some(headers) => record.headers(headers),
        None => record,
    }
}

/// KiB of the client's queue. The bridge's own bound comes first; this is so much above it that the client's bookkeeping fits too.
fn room(bridge: &BridgeSettings) -> String {
    (bridge.in_flight.as_u64() / 1024 * 2)
        .clamp(1024, 2_097_151)
        .to_string()
}

/// Bytes of the largest record.
fn largest(bridge: &BridgeSettings) -> String {
    (bridge.limits.body.as_u64() + 65_536)
        .clamp(100_000, 1_000_000_000)
        .to_string()
}

/// A transactional producer under this id. Its reports come while it is polled.
///
/// # Errors
/// [`Error::Client`], [`Error::Secret`].
pub fn transactional(
    kafka: &KafkaSettings,
    bridge: &BridgeSettings,
    id: &str,
    reports: Reports,
) -> Result<BaseProducer<Reports>, Error> {
    let (kbytes, largest) = (room(bridge), largest(bridge));
    // A transaction that is cut off is ended by whoever takes its partitions over, or by Kafka after this time.
    let limit = bridge.session_timeout.max(TRANSACTION).as_millis().to_string();
    kafka
        .client_config(&[
            ("transactional.id", id),
            // Of replies and dead letters; everything else names its partition.
            ("partitioner", "murmur2_random"),
            ("transaction.timeout.ms", &limit),
            ("message.timeout.ms", &limit),
            // What waits together is handed over together.
            ("linger.ms", "1"),
            ("batch.num.messages", reports.pieces.most()),
            ("compression.type", "lz4"),
            ("queue.buffering.max.messages", "500000"),
            ("queue.buffering.max.kbytes", &kbytes),
            ("message.max.bytes", &largest),
            ("allow.auto.create.topics", "false"),
        ])?
        .create_with_context(reports)
        .map_err(Error::Client)
}

/// For a producer that is idempotent and gapless and never gives a record up by time.
///
/// # Errors
/// [`Error::Secret`].
pub fn gapless(
    kafka: &KafkaSettings,
    bridge: &BridgeSettings,
    pieces: Pieces,
) -> Result<ClientConfig, Error> {
    let (kbytes, largest) = (room(bridge), largest(bridge));
    kafka.client_config(&[
        ("enable.idempotence", "true"),
        ("enable.gapless.guarantee", "true"),
        ("message.timeout.ms", "0"),
        ("linger.ms", "2"),
        ("batch.num.messages", pieces.most()),
        ("compression.type", "lz4"),
        ("queue.buffering.max.messages", "500000"),
        ("queue.buffering.max.kbytes", &kbytes),
        ("message.max.bytes", &largest),
        ("allow.auto.create.topics", "false"),
    ])
}

/// For a producer of what must not hold readings up.
///
/// # Errors
/// [`Error::Secret`].
pub fn beside(kafka: &KafkaSettings) -> Result<ClientConfig, Error> {
    kafka.client_config(&[
        ("enable.idempotence", "true"),
        // Of replies and dead letters; everything else names its partition.
        ("partitioner", "murmur2_random"),
        ("message.timeout.ms", "30000"),
        ("linger.ms", "2"),
        ("batch.num.messages", Pieces::One.most()),
        ("compression.type", "lz4"),
        ("queue.buffering.max.messages", "20000"),
        ("queue.buffering.max.kbytes", "32768"),
        ("allow.auto.create.topics", "false"),
    ])
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
    /// The one for the telemetry of a bridge that is alone.
    ///
    /// # Errors
    /// [`Error::Client`], [`Error::Secret`].
    pub fn telemetry(
        kafka: &KafkaSettings,
        bridge: &BridgeSettings,
        reports: Reports,
    ) -> Result<Self, Error> {
        Self::new(&gapless(kafka, bridge, reports.pieces)?, kafka, reports)
    }

    /// The one for dead letters, and for the states of a bridge that is alone.
    ///
    /// # Errors
    /// [`Error::Client`], [`Error::Secret`].
    pub fn side(
        kafka: &KafkaSettings,
        context: Context,
        tell: mpsc::UnboundedSender<Report>,
    ) -> Result<Self, Error> {
        Self::new(&beside(kafka)?, kafka, Reports::new(tell, context, Pieces::One))
    }

    fn new(config: &ClientConfig, kafka: &KafkaSettings, reports: Reports) -> Result<Self, Error> {
        let inner = config.create_with_context(reports).map_err(Error::Client)?;
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
        let token = Box::new(Token::Telemetry(record.ticket()));
        self.send(of_record(&self.topics, record, token))
    }

    /// Hands over a state or a checkpoint.
    ///
    /// # Errors
    /// [`Refusal`]; then there will be no report.
    pub fn state(&self, state: &State) -> Result<(), Refusal> {
        let token = Box::new(Token::State(state.entered));
        self.send(of_state(&self.topics, state, token))
    }

    /// Hands over an answer to a command of this partition, in this term.
    ///
    /// # Errors
    /// [`Refusal`]; then there will be no report.
    pub fn answer(&self, answer: &Answer, place: (u32, u64)) -> Result<(), Refusal> {
        self.send(of_answer(&self.topics, answer, place))
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
        if let Some((stream, seq)) = letter.letter.refuses {
            headers = headers
                .insert(Header {
                    key: STREAM,
                    value: Some(&format!("{stream:016x}")),
                })
                .insert(Header {
                    key: SEQ,
                    value: Some(&seq.to_string()),
                });
        }
        if let Some(series) = &letter.series {
            headers = headers.insert(Header {
                key: SERIES,
                value: Some(series),
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
    pub fn flush(&self, timeout: Duration) {
        // What did not get through shows in its report.
        let _ = self.inner.flush(timeout);
    }

    /// Asks Kafka for a sign of life; blocks up to `timeout`.
    pub fn probe(&self, timeout: Duration) -> bool {
        let topic = Some(self.topics.telemetry.as_str());
        let answered = self.inner.client().fetch_metadata(topic, timeout).is_ok();
        if answered {
            self.inner.context().context.answered();
        }
        answered
    }
}
