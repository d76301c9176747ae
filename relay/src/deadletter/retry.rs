//! Writes the readings of dead letters to telemetry, each letter once.
//!
//! One transactional id for whoever retries: a second one that starts ends what the first has open, and keeps it from committing. After that the
//! topic is read to its end, so whatever was ever retried is known; and each batch is committed together with a record among the dead
//! letters that says so, in the letter's own partition: so Kafka does not delete it before the letter.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Duration;

use headwater_proto::{Batch, shard};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::letter::{Letter, Place};
use super::scan::{self, Record, refused};
use super::{Error, Filter};
use crate::bridge::device::Now;
use crate::bridge::record::{Name, RETRIED};
use crate::kafka::{self, Context, KafkaSettings};
use crate::settings::Settings;

/// Whoever reads telemetry waits no longer for a retry that was cut off.
const TRANSACTION: Duration = Duration::from_secs(10);

/// Retries these letters, or all that `filter` lets through. Returns whether all of them are in telemetry now.
///
/// # Errors
/// [`Error`].
pub fn run(settings: &Settings, letters: &[Place], filter: &Filter, dry: bool) -> Result<bool, Error> {
    let kafka = &settings.kafka;
    // First: then nobody else retries until this is done.
    let producer = if dry { None } else { Some(begin(kafka)?) };
    let wanted: BTreeSet<Place> = letters.iter().copied().collect();
    let asked = |letter: &Letter| {
        if wanted.is_empty() {
            filter.lets(letter)
        } else {
            wanted.contains(&letter.place)
        }
    };
    // Places first: the letters themselves may be more than memory holds.
    let since = filter.since.filter(|_| wanted.is_empty());
    let (mut places, mut retried) = (BTreeSet::new(), BTreeSet::new());
    scan::scan(kafka, since, |record| match record {
        Record::Letter(letter) if asked(&letter) => drop(places.insert(letter.place)),
        Record::Letter(_) => {}
        Record::Retried(place) => drop(retried.insert(place)),
    })?;
    let mut out = io::stdout().lock();
    let mut all = true;
    for missing in wanted.difference(&places) {
        all = false;
        writeln!(out, "{missing}  there is no such letter")?;
    }
    let limits = settings.bridge.limits.codec();
    let mut counts = (0, 0, 0);
    for &place in &places {
        if retried.contains(&place) {
            counts.1 += 1;
            writeln!(out, "{place}  was retried before")?;
            continue;
        }
        let Some(letter) = scan::one(kafka, place)? else {
            continue;
        };
        let batch = match letter.batch(&limits) {
            Ok(batch) => batch,
            Err(why) => {
                (all, counts.2) = (false, counts.2 + 1);
                writeln!(out, "{place}  {}: not retried: {why}", letter.device)?;
                continue;
            }
        };
        let what = format!("{} as stream {:016x}", letter.device, batch.stream);
        if let Some((producer, partitions)) = &producer {
            write(kafka, producer, *partitions, place, &batch)?;
            writeln!(out, "{place}  {what}: in telemetry")?;
        } else {
            writeln!(out, "{place}  {what}: would be retried")?;
        }
        counts.0 += 1;
    }
    let (done, before, not) = counts;
    let done_or_not = if dry { "would be retried" } else { "retried" };
    writeln!(out, "{done} {done_or_not}, {before} before, {not} cannot be")?;
    Ok(all)
}

/// Keeps others from retrying. Returns the producer, and how many partitions telemetry has.
fn begin(kafka: &KafkaSettings) -> Result<(BaseProducer<Context>, u32), Error> {
    let id = format!("{}.retry", kafka.group());
    let limit = TRANSACTION.as_millis().to_string();
    let config = kafka.client_config(&[
        ("transactional.id", &id),
        ("transaction.timeout.ms", &limit),
        ("message.timeout.ms", &limit),
        ("compression.type", "lz4"),
        ("message.max.bytes", "10000000"),
        ("allow.auto.create.topics", "false"),
    ])?;
    let producer: BaseProducer<Context> = config
        .create_with_context(kafka.context())
        .map_err(kafka::Error::Client)?;
    // It asks for a token, where it needs one, only when polled.
    producer.poll(Duration::from_millis(5));
    producer
        .init_transactions(kafka.timeout)
        .map_err(kafka::Error::Transactions)?;
    let topic = kafka.topics().telemetry;
    let metadata = producer
        .client()
        .fetch_metadata(Some(&topic), kafka.timeout)
        .map_err(|why| refused("looking at", &topic, why))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let partitions = found.map_or(0, |found| found.partitions().len() as u32);
    if !partitions.is_power_of_two() || partitions > shard::SHARDS {
        let why = format!("has {partitions} partitions; a bridge works with a power of two up to 256");
        return Err(kafka::Error::Topic { topic, why }.into());
    }
    Ok((producer, partitions))
}

/// Writes a batch, and that it was retried.
fn write(
    kafka: &KafkaSettings,
    producer: &BaseProducer<Context>,
    partitions: u32,
    place: Place,
    batch: &Batch,
) -> Result<(), Error> {
    let topics = kafka.topics();
    let written = || -> KafkaResult<()> {
        producer.begin_transaction()?;
        let name = Name {
            stream: batch.stream,
            seq: batch.seq,
            through: batch.seq,
            loss: false,
        };
        let value = headwater_proto::protobuf::encode(batch);
        let offset = place.offset.to_string();
        let retried = || Header {
            key: RETRIED,
            value: Some(&offset),
        };
        let record = BaseRecord::to(&topics.telemetry)
            .partition(shard::partition(&batch.device, partitions) as i32)
            .key(batch.device.as_bytes())
            .payload(&value)
            .timestamp(Now::read().us / 1000)
            .headers(name.headers().insert(retried()));
        producer.send(record).map_err(|(error, _)| error)?;
        let note: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&topics.deadletter)
            .partition(place.partition)
            .key(batch.device.as_bytes())
            .headers(OwnedHeaders::new().insert(retried()));
        producer.send(note).map_err(|(error, _)| error)?;
        producer.commit_transaction(TRANSACTION)
    };
    written().map_err(|error: KafkaError| {
        if let Err(error) = producer.abort_transaction(Duration::from_secs(1)) {
            tracing::debug!("the transaction is left to Kafka: {error}");
        }
        refused("writing a batch to", &topics.telemetry, error)
    })
}
