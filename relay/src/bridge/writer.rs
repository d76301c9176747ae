//! Where telemetry and states go: transactions of a bridge in a group, or plain producers of one that is alone.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::commands::Batch;
use super::fleet::{Record, State};
use super::group::Group;
use super::ownership::Terms;
use super::producer::{Pieces, Producer, Refusal, Report, Reports};
use super::settings::BridgeSettings;
use super::transactions::{Entry, Transactions, Writes};
use crate::admin::Check;
use crate::kafka::{Context, Error, KafkaSettings};

/// What is needed to make a writer, again and again.
#[derive(Clone)]
pub struct Maker {
    /// Where Kafka is.
    pub kafka: KafkaSettings,
    /// What bounds there are.
    pub bridge: BridgeSettings,
    /// What is known of Kafka's health.
    pub context: Context,
    /// Who is told what became of records.
    pub tell: mpsc::UnboundedSender<Report>,
    /// Who is told while Kafka lets us wait.
    pub check: Check,
    /// The group, and our transactional id; `None`: alone.
    pub group: Option<(Group, String)>,
    /// What is owned.
    pub terms: Terms,
}

impl Maker {
    /// Whether the topics still have as many partitions as at the start.
    ///
    /// # Errors
    /// [`Error::Topic`], where they were made anew with others.
    pub fn keeps_partitions(&self, partitions: u32) -> Result<(), Error> {
        let before = self.terms.partitions();
        if partitions == before {
            return Ok(());
        }
        let why = format!(
            "has {partitions} partitions, and had {before} when this bridge started: it has to be started again"
        );
        let topic = self.kafka.topics().telemetry;
        Err(Error::Topic { topic, why })
    }

    /// Makes one. Nothing that an earlier one of this bridge wrote is still open then. `None` once `shutdown`. Blocks.
    ///
    /// # Errors
    /// Where only an operator can help.
    pub fn make(&self, pieces: Pieces, shutdown: &CancellationToken) -> Result<Option<Writer>, Error> {
        let (context, tell) = (self.context.clone(), self.tell.clone());
        let Some((group, id)) = &self.group else {
            let reports = Reports::new(tell, context, pieces);
            let plain = Producer::telemetry(&self.kafka, &self.bridge, reports)?;
            return Ok(Some(Writer::Plain(plain)));
        };
        let transactions = Transactions::start(
            &self.kafka,
            &self.bridge,
            (Writes::Records, id),
            group.clone(),
            self.terms.clone(),
            context,
            pieces,
            tell,
            &self.check,
            shutdown,
        )?;
        Ok(transactions.map(Writer::Transactions))
    }

    /// Makes a way for answers to commands, as [`Maker::make`] does. Blocks.
    ///
    /// # Errors
    /// Where only an operator can help.
    pub fn answers(&self, side: &Producer, shutdown: &CancellationToken) -> Result<Option<Answers>, Error> {
        let Some((group, id)) = &self.group else {
            return Ok(Some(Answers::Plain(side.clone())));
        };
        let transactions = Transactions::start(
            &self.kafka,
            &self.bridge,
            (Writes::Answers, &answers_id(id)),
            group.clone(),
            self.terms.clone(),
            self.context.clone(),
            Pieces::Many,
            self.tell.clone(),
            &self.check,
            shutdown,
        )?;
        Ok(transactions.map(Answers::Transactions))
    }
}

/// The way to telemetry, and of a bridge in a group to states as well. Dropping it blocks for a moment.
pub enum Writer {
    /// Of a bridge that is alone.
    Plain(Producer),
    /// Of a bridge in a group.
    Transactions(Transactions),
}

impl Writer {
    /// Hands over a record of telemetry.
    ///
    /// # Errors
    /// [`Refusal`], and the record; then there will be no report.
    pub fn record(&self, record: Record) -> Result<(), (Refusal, Box<Record>)> {
        match self {
            Self::Plain(producer) => producer
                .record(&record)
                .map_err(|refusal| (refusal, Box::new(record))),
            Self::Transactions(transactions) => match transactions.write(Entry::Record(Box::new(record))) {
                Err(Entry::Record(record)) => Err((ended(), record)),
                _ => Ok(()),
            },
        }
    }

    /// Hands over a state or a checkpoint. `side`: the producer for them of a bridge that is alone.
    ///
    /// # Errors
    /// [`Refusal`]; then there will be no report.
    pub fn state(&self, state: State, side: &Producer) -> Result<(), Refusal> {
        match self {
            Self::Plain(_) => side.state(&state),
            Self::Transactions(transactions) => transactions.write(Entry::State(state)).map_err(|_| ended()),
        }
    }
}

/// The id of the transactions that answer commands, of a bridge whose others have this id.
pub fn answers_id(id: &str) -> String {
    format!("{id}.answers")
}

/// The way to replies. Dropping it blocks for a moment.
pub enum Answers {
    /// Of a bridge that is alone: each answer is reported by itself, and the offset is not committed.
    Plain(Producer),
    /// Of a bridge in a group.
    Transactions(Transactions),
}

impl Answers {
    /// Hands answers over. Returns how many reports there will be; 0 if they are not taken.
    pub fn write(&self, batch: Batch) -> usize {
        match self {
            Self::Plain(producer) => {
                let place = (batch.partition, batch.term);
                let taken = batch
                    .answers
                    .iter()
                    .take_while(|answer| producer.answer(answer, place).is_ok());
                taken.count()
            }
            Self::Transactions(transactions) => {
                usize::from(transactions.write(Entry::Answers(batch)).is_ok())
            }
        }
    }
}

fn ended() -> Refusal {
    Refusal::Fatal("transactions have ended".into())
}
