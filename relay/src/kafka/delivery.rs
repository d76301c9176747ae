//! Single records, each with the word of what became of it.

use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;

use super::{Context, Error, KafkaSettings, as_context};

/// Records that may wait for Kafka.
const WAITING: &str = "10000";

/// What became of a record: Kafka has it with all copies, or why not.
pub type Delivery = oneshot::Receiver<Result<(), KafkaError>>;

/// Writes single records, with all copies acknowledged (acks=all, idempotent). Its thread ends with it.
pub struct Sender {
    producer: ThreadedProducer<Deliveries>,
}

struct Deliveries {
    context: Context,
}

as_context!(Deliveries);

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<oneshot::Sender<Result<(), KafkaError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, tell: Self::DeliveryOpaque) {
        let outcome = result.as_ref().map(drop).map_err(|(error, _)| error.clone());
        // Nobody may be waiting any more.
        let _ = tell.send(outcome);
    }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl Sender {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// [`Error::Client`], [`Error::Secret`].
    pub fn new(kafka: &KafkaSettings) -> Result<Self, Error> {
        let timeout = kafka.timeout.as_millis().max(1000).to_string();
        let config = kafka.client_config(&[
            ("enable.idempotence", "true"),
            ("linger.ms", "0"),
            ("message.timeout.ms", &timeout),
            ("queue.buffering.max.messages", WAITING),
            ("allow.auto.create.topics", "false"),
        ])?;
        let context = kafka.context();
        let producer = config
            .create_with_context(Deliveries { context })
            .map_err(Error::Client)?;
        Ok(Self { producer })
    }

    /// Hands a record over. `partition`: left out, Kafka's client chooses. What becomes of it is told after `kafka.timeout` at the latest; where it
    /// is late, Kafka may have it all the same.
    pub fn send(&self, topic: &str, partition: Option<u32>, key: &str, value: &[u8]) -> Delivery {
        let (tell, told) = oneshot::channel();
        let mut record = BaseRecord::with_opaque_to(topic, Box::new(tell)).payload(value);
        if !key.is_empty() {
            record = record.key(key.as_bytes());
        }
        if let Some(partition) = partition {
            record = record.partition(partition as i32);
        }
        if let Err((error, record)) = self.producer.send(record) {
            let _ = record.delivery_opaque.send(Err(error));
        }
        told
    }

    /// Waits for what was handed over, for so long at most.
    pub fn flush(&self, within: std::time::Duration) {
        if let Err(error) = self.producer.flush(within) {
            tracing::debug!("flushing single records: {error}");
        }
    }
}
