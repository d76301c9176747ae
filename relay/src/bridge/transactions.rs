//! Telemetry and states in transactions, one after the other, that only a member of the group in its present generation can commit.
//!
//! A thread takes whatever waits, produces it, adds offsets for the partitions it wrote to, and commits; meanwhile the
//! next ones gather. Kafka takes the offsets only from a member of the generation that they name. The generation is read
//! before the terms of what is produced are looked at, so what a bridge accepted while it owned a partition gets into Kafka while it owns it or
//! not at all, however long it was paused or cut off between: its transaction is aborted, and no reader sees it.
//!
//! Whoever takes a partition over waits until what of it is open has ended ([`reader::settle`](super::reader::settle)), and has then
//! seen everything that predecessors will ever have committed.
//!
//! A bridge has two of them, under ids of their own. One writes telemetry and states; that its offsets (how far it has written) are taken at all
//! is their point. The other answers commands, and its offsets are those of the commands ([`Position`]). So a topic of replies
//! that cannot be written to stops no readings.
//!
//! Delivery reports are held back until the commit. If anything fails, everything does, and the thread ends: it is for the driver to
//! find out what got through, and to start another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::commands;
use super::commands::position::Position;
use super::fleet::{Outcome, Record, State};
use super::group::Group;
use super::ownership::Terms;
use super::producer::{self, Pieces, Report, Reports, Token};
use super::settings::BridgeSettings;
use crate::admin::Check;
use crate::kafka::{Context, Error, KafkaSettings, Topics};

/// No transaction is longer: one that is aborted for a rebalance has to be sent again.
const MOST_BYTES: usize = 4 << 20;
/// How long one call to Kafka's client may take before it is looked whether somebody waits for the end.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often it is looked whether everything is reported.
const LOOK: Duration = Duration::from_millis(1);
/// How long a client that begins is listened to.
const TOKEN: Duration = Duration::from_millis(5);

/// What is to be written.
#[derive(Debug)]
pub enum Entry {
    /// A batch.
    Record(Box<Record>),
    /// A state or a checkpoint.
    State(State),
    /// Answers to commands.
    Answers(commands::Batch),
}

/// What a thread writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// Telemetry and states.
    Records,
    /// Answers to commands.
    Answers,
}

impl Entry {
    fn place(&self) -> (u32, u64) {
        match self {
            Self::Answers(batch) => (batch.partition, batch.term),
            Self::Record(record) => (record.partition, record.term),
            Self::State(state) => (state.entered.partition, state.entered.term),
        }
    }

    fn failed(self, outcome: Outcome) -> Report {
        match self {
            Self::Record(record) => Report::Telemetry(record.ticket(), outcome),
            Self::State(state) => Report::State(state.entered, None),
            Self::Answers(batch) => Report::Answers(batch.partition, batch.term, false),
        }
    }
}

/// The thread, and the way to it.
#[derive(Debug)]
pub struct Transactions {
    queue: Option<Sender<Entry>>,
    abandoned: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Transactions {
    /// Fences whatever wrote under this id before, and starts. `None` once `shutdown`. Blocks until Kafka answers.
    ///
    /// # Errors
    /// [`Error::Client`], [`Error::Secret`], [`Error::Thread`]; [`Error::Transactions`] where Kafka refuses them.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a part of the bridge of its own"
    )]
    pub fn start(
        kafka: &KafkaSettings,
        bridge: &BridgeSettings,
        (writes, id): (Writes, &str),
        group: Group,
        terms: Terms,
        context: Context,
        pieces: Pieces,
        tell: mpsc::UnboundedSender<Report>,
        check: &Check,
        shutdown: &CancellationToken,
    ) -> Result<Option<Self>, Error> {
        let (collect, collected) = mpsc::unbounded_channel();
        let producer = producer::transactional(kafka, bridge, id, Reports::new(collect, context, pieces))?;
        if !init(&producer, kafka, check, shutdown)? {
            return Ok(None);
        }
        let (queue, entries) = channel();
        let abandoned = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            producer,
            group,
            terms,
            topics: kafka.topics(),
            writes,
            id: id.to_owned(),
            answering: Vec::new(),
            entries,
            collected,
            tell,
            abandoned: Arc::clone(&abandoned),
            limit: bridge.session_timeout,
        };
        let thread = std::thread::Builder::new()
            .name("transactions".into())
            .spawn(move || worker.run())
            .map_err(Error::Thread)?;
        Ok(Some(Self {
            queue: Some(queue),
            abandoned,
            thread: Some(thread),
        }))
    }

    /// Hands something over; there will be a report of it. Returns it if the thread has ended.
    ///
    /// # Errors
    /// The entry.
    pub fn write(&self, entry: Entry) -> Result<(), Entry> {
        match &self.queue {
            Some(queue) => queue.send(entry).map_err(|error| error.0),
            None => Err(entry),
        }
    }
}

impl Drop for Transactions {
    /// Ends it without waiting for Kafka; what is open is aborted. Blocks for as long as a call to the client may take.
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::SeqCst);
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // It panics only with a message of its own.
            let _ = thread.join();
        }
    }
}

/// Ends, as their owner would, whatever transactions are open under this id, and keeps the owner from writing on.
///
/// # Errors
/// [`Error::Client`], [`Error::Secret`], [`Error::Transactions`].
pub fn fence(kafka: &KafkaSettings, bridge: &BridgeSettings, id: &str) -> Result<(), Error> {
    let (collect, _collected) = mpsc::unbounded_channel();
    let producer = producer::transactional(
        kafka,
        bridge,
        id,
        Reports::new(collect, kafka.context(), Pieces::Many),
    )?;
    // It asks for a token, where it needs one, only when polled.
    producer.poll(TOKEN);
    producer
        .init_transactions(kafka.timeout)
        .map_err(Error::Transactions)
}

fn init(
    producer: &BaseProducer<Reports>,
    kafka: &KafkaSettings,
    check: &Check,
    shutdown: &CancellationToken,
) -> Result<bool, Error> {
    let begun = Instant::now();
    loop {
        if shutdown.is_cancelled() {
            return Ok(false);
        }
        producer.poll(TOKEN);
        match producer.init_transactions(PATIENCE) {
            Ok(()) => return Ok(true),
            Err(KafkaError::Transaction(error)) if error.is_retriable() => {
                if begun.elapsed() > kafka.timeout {
                    let bootstrap = &kafka.bootstrap;
                    check.failing(format!(
                        "{bootstrap} starts no transactions: {error}; trying again"
                    ));
                }
            }
            Err(error) => return Err(Error::Transactions(error)),
        }
    }
}

struct Worker {
    producer: BaseProducer<Reports>,
    group: Group,
    terms: Terms,
    topics: Topics,
    writes: Writes,
    id: String,
    /// Partitions, and terms, of which there are answers in the transaction that is open.
    answering: Vec<(u32, u64)>,
    entries: Receiver<Entry>,
    /// The client's reports of the transaction that is open.
    collected: mpsc::UnboundedReceiver<Report>,
    tell: mpsc::UnboundedSender<Report>,
    abandoned: Arc<AtomicBool>,
    limit: Duration,
}

impl Worker {
    fn run(mut self) {
        loop {
            let first = match self.entries.recv_timeout(PATIENCE) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => {
                    // A token may be due.
                    self.producer.poll(Duration::ZERO);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if self.abandoned.load(Ordering::SeqCst) {
                self.say(first.failed(Outcome::Failed));
                continue;
            }
            if let Err(error) = self.transaction(first) {
                tracing::debug!("a transaction failed: {error}");
                self.abort(&error);
                break;
            }
        }
        // Whatever still comes in comes to nothing; nobody sends any more once the other side knows.
        while let Ok(entry) = self.entries.recv() {
            self.say(entry.failed(Outcome::Failed));
        }
    }

    fn say(&self, report: Report) {
        // Nobody listens only when the bridge is gone.
        let _ = self.tell.send(report);
    }

    /// Tells what the client has reported. Answers are told of all together, for each partition.
    fn tell_of(&self, report: Report) {
        if !matches!(report, Report::Answers(..)) {
            self.say(report);
        }
    }

    fn transaction(&mut self, first: Entry) -> KafkaResult<()> {
        // Before any term is looked at: see the top.
        let metadata = self
            .group
            .metadata()
            .ok_or(KafkaError::Global(RDKafkaErrorCode::UnknownMemberId));
        let mut partitions = BTreeSet::new();
        let mut positions = BTreeMap::new();
        let (mut bytes, mut next) = (0, Some(first));
        while let Some(entry) = next {
            let (partition, term) = entry.place();
            if !self.terms.holds(partition, term) {
                self.say(entry.failed(Outcome::Failed));
            } else {
                if partitions.is_empty()
                    && let Err(error) = self.producer.begin_transaction()
                {
                    self.say(entry.failed(Outcome::Failed));
                    return Err(error);
                }
                partitions.insert(partition);
                bytes += match entry {
                    Entry::Answers(batch) => {
                        self.answering.push((partition, term));
                        let bytes = self.answer(&batch)?;
                        let topic = self.topics.commands.clone();
                        positions.insert((topic, partition), (batch.offset, batch.metadata));
                        bytes
                    }
                    entry => self.produce(entry)?,
                };
            }
            next = if bytes < MOST_BYTES {
                self.entries.try_recv().ok()
            } else {
                None
            };
        }
        if partitions.is_empty() {
            return Ok(());
        }
        self.flush()?;
        let mut reports = Vec::new();
        let mut written: BTreeMap<(bool, u32), i64> = BTreeMap::new();
        while let Ok(report) = self.collected.try_recv() {
            let place = match &report {
                Report::Telemetry(ticket, Outcome::Stored(offset)) => Some((true, ticket.partition, *offset)),
                Report::State(entered, Some(offset)) => Some((false, entered.partition, *offset)),
                _ => None,
            };
            if let Some((telemetry, partition, offset)) = place
                && offset >= 0
            {
                let next = written.entry((telemetry, partition)).or_default();
                *next = (*next).max(offset + 1);
            }
            reports.push(report);
        }
        for ((telemetry, partition), next) in written {
            let topic = if telemetry {
                &self.topics.telemetry
            } else {
                &self.topics.devices
            };
            let metadata = Position::metadata(&Position::default(), &self.id);
            positions.insert((topic.clone(), partition), (next, metadata));
        }
        let failed = reports.iter().any(Report::is_failure);
        let committed = if failed {
            Err(KafkaError::MessageProduction(RDKafkaErrorCode::Fail))
        } else {
            metadata.and_then(|metadata| {
                let offsets = offsets(positions)?;
                self.patiently(|producer| {
                    producer.send_offsets_to_transaction(&offsets, &metadata, PATIENCE)
                })?;
                self.patiently(|producer| producer.commit_transaction(PATIENCE))
            })
        };
        for report in reports {
            self.tell_of(if committed.is_ok() { report } else { report.void() });
        }
        if committed.is_ok() {
            for (partition, term) in std::mem::take(&mut self.answering) {
                self.say(Report::Answers(partition, term, true));
            }
        }
        committed
    }

    /// Waits until everything is reported. The library's own call looks only every 100 ms, which would be most of a transaction.
    fn flush(&self) -> KafkaResult<()> {
        let begun = Instant::now();
        loop {
            let before = self.producer.in_flight_count();
            if before == 0 {
                return Ok(());
            }
            if self.abandoned.load(Ordering::SeqCst) || begun.elapsed() > self.limit * 2 {
                return Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut));
            }
            // One event a call; a call that waits for less than a millisecond spins.
            self.producer.poll(Duration::ZERO);
            if self.producer.in_flight_count() == before {
                std::thread::sleep(LOOK);
            }
        }
    }

    /// Produces answers to commands; returns their bytes.
    fn answer(&self, batch: &commands::Batch) -> KafkaResult<usize> {
        let mut bytes = 0;
        for answer in &batch.answers {
            loop {
                let record = producer::of_answer(&self.topics, answer, (batch.partition, batch.term));
                match self.producer.send(record) {
                    Ok(()) => break,
                    Err((error, _))
                        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull)
                            && !self.abandoned.load(Ordering::SeqCst) =>
                    {
                        self.producer.poll(PATIENCE);
                    }
                    Err((error, _)) => return Err(error),
                }
            }
            bytes += answer.size();
        }
        Ok(bytes)
    }

    /// Returns its bytes.
    fn produce(&self, entry: Entry) -> KafkaResult<usize> {
        loop {
            let sent = match &entry {
                Entry::Record(record) => {
                    let token = Box::new(Token::Telemetry(record.ticket()));
                    self.producer
                        .send(producer::of_record(&self.topics, record, token))
                        .map_err(|(error, _)| error)
                }
                Entry::State(state) => {
                    let token = Box::new(Token::State(state.entered));
                    self.producer
                        .send(producer::of_state(&self.topics, state, token))
                        .map_err(|(error, _)| error)
                }
                Entry::Answers(_) => return Ok(0),
            };
            let Err(error) = sent else {
                return Ok(match &entry {
                    Entry::Record(record) => record.cost(),
                    Entry::State(state) => state.value.len(),
                    Entry::Answers(_) => 0,
                });
            };
            if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull)
                && !self.abandoned.load(Ordering::SeqCst)
            {
                self.producer.poll(PATIENCE);
                continue;
            }
            let outcome = match error.rdkafka_error_code().and_then(producer::unfit) {
                Some(reason) => Outcome::Unfit(reason),
                None => Outcome::Failed,
            };
            self.say(entry.failed(outcome));
            return Err(error);
        }
    }

    /// Calls again and again what may be called again.
    fn patiently(&self, call: impl Fn(&BaseProducer<Reports>) -> KafkaResult<()>) -> KafkaResult<()> {
        let begun = Instant::now();
        loop {
            let error = match call(&self.producer) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let again = match &error {
                KafkaError::Transaction(error) => error.is_retriable(),
                error => matches!(
                    error.rdkafka_error_code(),
                    Some(RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::RequestTimedOut)
                ),
            };
            if !again || self.abandoned.load(Ordering::SeqCst) || begun.elapsed() > self.limit * 2 {
                return Err(error);
            }
        }
    }

    /// Everything of the open transaction is void; whether it is, where the commit itself got no answer, only a scan can tell.
    fn abort(&mut self, error: &KafkaError) {
        // What was not flushed, first: aborting waits until all is reported.
        self.producer
            .purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
        let _ = self.producer.flush(PATIENCE);
        while let Ok(report) = self.collected.try_recv() {
            self.tell_of(report.void());
        }
        let fatal = matches!(error, KafkaError::Transaction(error) if error.is_fatal());
        if !fatal && let Err(error) = self.producer.abort_transaction(PATIENCE * 2) {
            tracing::debug!("and cannot be aborted: {error}");
        }
        for (partition, term) in std::mem::take(&mut self.answering) {
            self.say(Report::Answers(partition, term, false));
        }
        self.say(Report::Ended(self.writes, error.to_string()));
    }
}

/// By topic and partition: the offset, and its metadata.
fn offsets(positions: BTreeMap<(String, u32), (i64, String)>) -> KafkaResult<TopicPartitionList> {
    let mut offsets = TopicPartitionList::new();
    for ((topic, partition), (offset, metadata)) in positions {
        let mut element = offsets.add_partition(&topic, partition as i32);
        element.set_offset(Offset::Offset(offset))?;
        element.set_metadata(metadata);
    }
    Ok(offsets)
}
