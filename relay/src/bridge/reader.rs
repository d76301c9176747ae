//! Reads partitions of Kafka to their ends, for a scan. Blocking: call it from a thread that may.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use headwater_proto::Limits;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use super::commands::position::Position;
use super::record::{Name, is_foreign};
use super::scan::Scan;
use super::settings::BridgeSettings;
use super::transactions;
use crate::admin::Check;
use crate::kafka::{Context, Error, KafkaSettings};

/// Transactions take a moment. One that stays open for this long in a partition whose owner has lost it was left behind.
const LEFT_OPEN: Duration = Duration::from_millis(300);
/// How long one question for offsets may take before it is asked anew.
const ASK: Duration = Duration::from_millis(500);

/// Waits until every transaction that is open now in these partitions of telemetry and states has ended (`own`: our transactional id): what predecessors will ever have
/// committed can be read then. One that stays open is ended in its owner's name, who has lost these partitions. `None` once `shutdown`.
///
/// # Errors
/// [`Error::Client`].
pub fn settle(
    kafka: &KafkaSettings,
    bridge: &BridgeSettings,
    own: &str,
    partitions: &[u32],
    check: &Check,
    shutdown: &CancellationToken,
) -> Result<Option<()>, Error> {
    let consumer = |isolation: &str| -> Result<BaseConsumer<Context>, Error> {
        kafka.consumer(&kafka.client_config(&[
            ("group.id", &kafka.group()),
            ("isolation.level", isolation),
            ("enable.auto.commit", "false"),
            ("allow.auto.create.topics", "false"),
        ])?)
    };
    let (whole, ended) = (consumer("read_uncommitted")?, consumer("read_committed")?);
    let topics = kafka.topics();
    let mut begun = Instant::now();
    let mut fenced = false;
    for topic in [&topics.telemetry, &topics.devices] {
        for &partition in partitions {
            let mut end = None;
            loop {
                if shutdown.is_cancelled() {
                    return Ok(None);
                }
                let high = |consumer: &BaseConsumer<Context>| {
                    let marks = consumer.fetch_watermarks(topic, partition as i32, kafka.timeout);
                    marks.map(|(_, high)| high)
                };
                // The end as it was when we came: what is added later is of nobody who may commit it.
                let at = match end {
                    Some(end) => Ok(end),
                    None => high(&whole),
                };
                match at.and_then(|at| Ok((at, high(&ended)?))) {
                    Ok((at, stable)) if stable >= at => break,
                    Ok((at, _)) => end = Some(at),
                    Err(error) => {
                        let bootstrap = &kafka.bootstrap;
                        check.failing(format!(
                            "asking {bootstrap} for the end of {topic}: {error}; trying again"
                        ));
                        begun = Instant::now();
                    }
                }
                if !fenced && begun.elapsed() > LEFT_OPEN {
                    fenced = true;
                    let topics = [&*topics.telemetry, &topics.devices];
                    end_transactions(kafka, bridge, own, &topics, partitions, &whole);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    Ok(Some(()))
}

/// How far the commands of these partitions are answered. `own`: our transactional id; then it is waited until every transaction that would
/// change it has ended, and one that stays open is ended in its owner's name, who has lost these partitions. `None` once `shutdown`.
///
/// # Errors
/// [`Error::Client`].
pub fn read_positions(
    kafka: &KafkaSettings,
    bridge: &BridgeSettings,
    own: Option<&str>,
    partitions: &[u32],
    check: &Check,
    shutdown: &CancellationToken,
) -> Result<Option<Vec<(u32, Position)>>, Error> {
    let config = kafka.client_config(&[
        ("group.id", &kafka.group()),
        // What is not decided yet is waited for.
        ("isolation.level", "read_committed"),
        ("enable.auto.commit", "false"),
        ("allow.auto.create.topics", "false"),
    ])?;
    let consumer = kafka.consumer(&config)?;
    let whole = kafka.consumer(config.clone().set("isolation.level", "read_uncommitted"))?;
    let topic = kafka.topics().commands;
    let begun = Instant::now();
    // Whether Kafka has answered meanwhile, if not what it was asked.
    let (mut answers, mut fenced) = (false, false);
    while !shutdown.is_cancelled() {
        let mut list = TopicPartitionList::new();
        for &partition in partitions {
            list.add_partition(&topic, partition as i32);
        }
        let asked = list.clone();
        let committed = consumer.committed_offsets(list, ASK).and_then(|committed| {
            let elements = committed.elements();
            elements.iter().try_for_each(|element| element.error())?;
            let position = |element: &TopicPartitionListElem<'_>| {
                let position = match element.offset() {
                    Offset::Offset(offset) => Position::read(offset, element.metadata()),
                    // Nothing was ever answered.
                    _ => Position::default(),
                };
                (element.partition() as u32, position)
            };
            Ok(elements.iter().map(position).collect())
        });
        let error = match committed {
            Ok(positions) => return Ok(Some(positions)),
            Err(error) => error,
        };
        if begun.elapsed() > kafka.timeout {
            let bootstrap = &kafka.bootstrap;
            check.failing(format!(
                "asking {bootstrap} how far commands are answered: {error}; trying again"
            ));
        }
        let open = answers || error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnstableOffsetCommit);
        if let Some(own) = own
            && !fenced
            && open
            && begun.elapsed() > LEFT_OPEN
        {
            fenced = true;
            end_transactions(kafka, bridge, own, &[&*topic], partitions, &whole);
        }
        answers = whole.committed_offsets(asked, ASK).is_ok();
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(None)
}

/// Ends the transactions of those who last committed offsets for these partitions of these topics. If it fails, Kafka ends them in its own time.
fn end_transactions(
    kafka: &KafkaSettings,
    bridge: &BridgeSettings,
    own: &str,
    topics: &[&str],
    partitions: &[u32],
    consumer: &BaseConsumer<Context>,
) {
    let mut list = TopicPartitionList::new();
    for topic in topics {
        for &partition in partitions {
            list.add_partition(topic, partition as i32);
        }
    }
    let committed = match consumer.committed_offsets(list, kafka.timeout) {
        Ok(committed) => committed,
        Err(error) => {
            tracing::warn!("who wrote to these partitions cannot be found out: {error}");
            return;
        }
    };
    let elements = committed.elements();
    let writers: BTreeSet<&str> = elements
        .iter()
        .map(|element| Position::writer(element.metadata()))
        .collect();
    let others = |writer: &&str| writer.starts_with(&kafka.group()) && !writer.starts_with(own);
    for writer in writers.into_iter().filter(others) {
        tracing::info!(writer, "ending the transaction that a bridge has left open");
        if let Err(error) = transactions::fence(kafka, bridge, writer) {
            tracing::warn!(writer, "its transactions cannot be ended: {error}");
        }
    }
}

/// Reads what an earlier bridge left of these partitions: states, then telemetry from the checkpoints on.
/// `None` once `shutdown`.
///
/// # Errors
/// [`Error::Client`]. While Kafka does not answer it waits, with the reason in `check`.
pub fn read_all(
    kafka: &KafkaSettings,
    partitions: &[u32],
    limits: &Limits,
    check: &Check,
    shutdown: &CancellationToken,
) -> Result<Option<Vec<(u32, Scan)>>, Error> {
    let mut scans: Vec<(u32, Scan)> = partitions
        .iter()
        .map(|&partition| (partition, Scan::default()))
        .collect();
    let topic = kafka.topics().devices;
    let from: Vec<(u32, i64)> = partitions.iter().map(|&partition| (partition, 0)).collect();
    let done = read(kafka, &topic, &from, check, shutdown, |partition, message| {
        let Some(key) = message.key().and_then(|key| std::str::from_utf8(key).ok()) else {
            return;
        };
        if let Some((_, scan)) = scans.iter_mut().find(|(number, _)| *number == partition) {
            scan.state(key, message.payload());
        }
    })?;
    if done.is_none() {
        return Ok(None);
    }
    let from: Vec<(u32, i64)> = scans
        .iter()
        .map(|(partition, scan)| (*partition, scan.checkpoint))
        .collect();
    read_telemetry(kafka, scans, &from, limits, check, shutdown)
}

/// Reads telemetry from these offsets on, into these scans. `None` once `shutdown`.
///
/// # Errors
/// [`Error::Client`].
pub fn read_telemetry(
    kafka: &KafkaSettings,
    mut scans: Vec<(u32, Scan)>,
    from: &[(u32, i64)],
    limits: &Limits,
    check: &Check,
    shutdown: &CancellationToken,
) -> Result<Option<Vec<(u32, Scan)>>, Error> {
    let topic = kafka.topics().telemetry;
    let ends = read(kafka, &topic, from, check, shutdown, |partition, message| {
        let Some(key) = message.key().and_then(|key| std::str::from_utf8(key).ok()) else {
            return;
        };
        let Some(headers) = message.headers().filter(|headers| !is_foreign(*headers)) else {
            return;
        };
        let Some(name) = Name::read(headers) else { return };
        if let Some((_, scan)) = scans.iter_mut().find(|(number, _)| *number == partition) {
            scan.telemetry(
                message.offset(),
                key,
                name,
                message.payload().unwrap_or_default(),
                limits,
            );
        }
    })?;
    let Some(ends) = ends else { return Ok(None) };
    for (partition, end) in ends {
        if let Some((_, scan)) = scans.iter_mut().find(|(number, _)| *number == partition) {
            scan.next_offset = scan.next_offset.max(end);
        }
    }
    Ok(Some(scans))
}

/// Whether the topic of states holds nothing of these partitions: then it was made anew, if anything was ever written there. Where Kafka does
/// not tell, it is taken to hold something.
///
/// # Errors
/// [`Error::Client`], [`Error::Secret`].
pub fn states_are_gone(kafka: &KafkaSettings, partitions: &[u32]) -> Result<Vec<bool>, Error> {
    let consumer = kafka.consumer(&kafka.client_config(&[("allow.auto.create.topics", "false")])?)?;
    let topic = kafka.topics().devices;
    let gone = |&partition: &u32| {
        let marks = consumer.fetch_watermarks(&topic, partition as i32, kafka.timeout);
        marks.is_ok_and(|(_, high)| high == 0)
    };
    Ok(partitions.iter().map(gone).collect())
}

/// Reads each partition from its offset to its end as of now, and returns the ends.
/// `None` once `shutdown`.
///
/// # Errors
/// [`Error::Client`].
pub fn read(
    kafka: &KafkaSettings,
    topic: &str,
    from: &[(u32, i64)],
    check: &Check,
    shutdown: &CancellationToken,
    mut each: impl FnMut(u32, &BorrowedMessage<'_>),
) -> Result<Option<Vec<(u32, i64)>>, Error> {
    let config = kafka.client_config(&[
        // No group is used, but the library wants the name of one.
        ("group.id", "headwater-relay-scan"),
        ("enable.auto.commit", "false"),
        ("enable.partition.eof", "true"),
        // Where retention has taken the offset, or the topic was made anew, all there is is read.
        ("auto.offset.reset", "earliest"),
        ("allow.auto.create.topics", "false"),
        ("fetch.wait.max.ms", "50"),
        ("queued.max.messages.kbytes", "16384"),
    ])?;
    let consumer = kafka.consumer(&config)?;
    let mut list = TopicPartitionList::new();
    for &(partition, offset) in from {
        let offset = if offset == 0 {
            Offset::Beginning
        } else {
            Offset::Offset(offset)
        };
        list.add_partition_offset(topic, partition as i32, offset)
            .map_err(Error::Client)?;
    }
    consumer.assign(&list).map_err(Error::Client)?;
    let mut ends: Vec<(u32, i64)> = from.iter().map(|(partition, _)| (*partition, 0)).collect();
    let mut open: Vec<u32> = from.iter().map(|(partition, _)| *partition).collect();
    let mut heard = Instant::now();
    while !open.is_empty() {
        if shutdown.is_cancelled() {
            return Ok(None);
        }
        match consumer.poll(Duration::from_millis(100)) {
            None if heard.elapsed() > Duration::from_secs(5) => {
                check.failing(format!(
                    "reading {topic} from {}: no answer; trying again",
                    kafka.bootstrap
                ));
            }
            None => {}
            Some(Ok(message)) => {
                heard = Instant::now();
                let partition = message.partition() as u32;
                if let Some((_, end)) = ends.iter_mut().find(|(number, _)| *number == partition) {
                    *end = (*end).max(message.offset() + 1);
                }
                each(partition, &message);
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                heard = Instant::now();
                open.retain(|number| *number != partition as u32);
            }
            Some(Err(error)) => check.failing(format!(
                "reading {topic} from {}: {error}; trying again",
                kafka.bootstrap
            )),
        }
    }
    // Nothing came after the offset asked for: then that is the end, unless the topic is another, shorter one.
    for ((partition, end), (_, asked)) in ends.iter_mut().zip(from) {
        if *end == 0 && *asked > 0 {
            let high = consumer
                .fetch_watermarks(topic, *partition as i32, kafka.timeout)
                .map_or(*asked, |(_, high)| high);
            *end = high.min(*asked);
        }
    }
    Ok(Some(ends))
}
