//! Reads the topics into the hub: the devices' states here, the telemetry in [`super::telemetry`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use headwater_proto::{Message as _, pb};
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use super::catchup::Range;
use super::hub::{Hub, now_us};
use super::telemetry::Telemetry;
use crate::admin::Check;
use crate::kafka::{self, Context, KafkaSettings};

/// Records taken in between two words to the connections.
const TOGETHER: usize = 256;
/// How long they may take.
const TURN: Duration = Duration::from_millis(5);
/// Where Kafka does not say that it is a partition's end, so long a silence is: longer than a busy broker is quiet.
pub(super) const SILENCE: Duration = Duration::from_secs(15);
/// How long a question to Kafka may take.
const TIME: Duration = Duration::from_secs(10);

/// A topic, read by all partitions from their starts; no group, nothing committed.
struct Tail {
    consumer: StreamConsumer<Context>,
    /// Where the partitions ended when reading began.
    high: Vec<i64>,
    /// How far reading has come.
    from: Vec<i64>,
}

/// What a reader of a topic is set to.
pub(super) fn config(settings: &KafkaSettings) -> Result<rdkafka::ClientConfig, kafka::Error> {
    settings.client_config(&[
        ("group.id", "headwater-gateway"),
        ("enable.auto.commit", "false"),
        // Only where the log was made anew, or retention was quicker.
        ("auto.offset.reset", "earliest"),
        ("fetch.wait.max.ms", "10"),
        // The last thing in a partition is mostly the mark of a transaction, which never comes as a message.
        ("enable.partition.eof", "true"),
        ("queued.max.messages.kbytes", "16384"),
        ("allow.auto.create.topics", "false"),
    ])
}

impl Tail {
    async fn open(settings: &KafkaSettings, topic: &str, partitions: u32) -> Result<Self, kafka::Error> {
        let config = config(settings)?;
        let name = topic.to_string();
        let marks = {
            let (settings, config) = (settings.clone(), config.clone());
            let marks = move || -> Result<Vec<(i64, i64)>, kafka::Error> {
                let consumer = settings.consumer(&config)?;
                (0..partitions)
                    .map(|partition| consumer.fetch_watermarks(&name, partition as i32, TIME))
                    .collect::<KafkaResult<_>>()
                    .map_err(|source| unreachable(&config, &source))
            };
            tokio::task::spawn_blocking(marks)
                .await
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?
        };
        let from: Vec<i64> = marks.iter().map(|&(low, _)| low).collect();
        let mut list = TopicPartitionList::new();
        for (partition, &offset) in from.iter().enumerate() {
            list.add_partition_offset(topic, partition as i32, Offset::Offset(offset))
                .map_err(kafka::Error::Client)?;
        }
        let consumer: StreamConsumer<Context> = config
            .create_with_context(settings.context())
            .map_err(kafka::Error::Client)?;
        consumer.assign(&list).map_err(kafka::Error::Client)?;
        Ok(Self {
            consumer,
            high: marks.into_iter().map(|(_, high)| high).collect(),
            from,
        })
    }

    /// Notes that this offset has been read; whether all that stood there at the beginning has.
    fn is_read(&mut self, read: Option<(i32, i64)>) -> bool {
        if let Some((partition, offset)) = read
            && let Some(from) = self.from.get_mut(partition as usize)
        {
            *from = offset + 1;
        }
        self.from.iter().zip(&self.high).all(|(from, high)| from >= high)
    }
}

fn unreachable(config: &rdkafka::ClientConfig, error: &KafkaError) -> kafka::Error {
    let bootstrap = config.get("bootstrap.servers").unwrap_or_default().to_string();
    let why = error.to_string();
    kafka::Error::Unreachable { bootstrap, why }
}

/// Opens the devices' states and reads them up to their ends, then hands the readers over that go on. `None`: shut down first.
///
/// # Errors
/// Those of Kafka; [`kafka::Error::is_transient`] says whether trying again can help.
pub async fn open(
    hub: &Arc<Hub>,
    settings: &KafkaSettings,
    shutdown: &CancellationToken,
) -> Result<Option<Readers>, kafka::Error> {
    let partitions = hub.log().partitions();
    let mut devices = Tail::open(settings, &settings.topics().devices, partitions).await?;
    let mut heard = false;
    let mut read = devices.is_read(None);
    while !read {
        tokio::select! {
            message = tokio::time::timeout(SILENCE, devices.consumer.recv()) => match message {
                Ok(Ok(message)) => {
                    heard = true;
                    device(hub, &message);
                    let at = (message.partition(), message.offset());
                    drop(message);
                    read = devices.is_read(Some(at));
                }
                Ok(Err(KafkaError::PartitionEOF(partition))) => {
                    heard = true;
                    let end = devices.high.get(partition as usize).copied().unwrap_or_default();
                    read = devices.is_read(Some((partition, end - 1)));
                }
                Ok(Err(error)) => {
                    return Err(kafka::Error::Unreachable { bootstrap: settings.bootstrap.clone(), why: error.to_string() });
                }
                Err(_) if heard => read = true,
                Err(_) => {
                    let why = format!("nothing of the devices' states came within {SILENCE:?}");
                    return Err(kafka::Error::Unreachable { bootstrap: settings.bootstrap.clone(), why });
                }
            },
            () = shutdown.cancelled() => return Ok(None),
        }
    }
    hub.fleet_mut().complete();
    hub.fleet_mut().tick(now_us());
    let telemetry = Telemetry::new(settings)?;
    Ok(Some(Readers { devices, telemetry }))
}

/// What reads on.
pub struct Readers {
    devices: Tail,
    telemetry: Telemetry,
}

impl Readers {
    /// Reads on until `shutdown`, and keeps the rates.
    pub async fn run(self, hub: &Arc<Hub>, check: &Check, shutdown: &CancellationToken) {
        let failing = AtomicBool::new(false);
        let states = Source {
            take: device,
            ended: |_, _| {},
            failed: |_, _| {},
        };
        let devices = follow(&self.devices.consumer, hub, check, &failing, states);
        let ticks = async {
            let mut interval = tokio::time::interval(Duration::from_secs(1));
            loop {
                interval.tick().await;
                tick(hub);
            }
        };
        tokio::select! {
            () = devices => {}
            () = self.telemetry.run(hub, check, &failing) => {}
            () = ticks => {}
            () = probe(hub, check, &failing) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// What becomes of what is read.
pub(super) struct Source {
    /// Takes a record.
    pub(super) take: fn(&Hub, &BorrowedMessage<'_>),
    /// That is all there is in this partition.
    pub(super) ended: fn(&Hub, u32),
    /// It cannot be read just now.
    pub(super) failed: fn(&Hub, &KafkaError),
}

/// Takes in message after message; never ends.
pub(super) async fn follow(
    consumer: &StreamConsumer<Context>,
    hub: &Hub,
    check: &Check,
    failing: &AtomicBool,
    source: Source,
) {
    loop {
        let first = consumer.recv().await;
        let began = Instant::now();
        let more = || {
            // Others on this thread have their turn too.
            let has_time = began.elapsed() < TURN;
            has_time.then(|| consumer.recv().now_or_never()).flatten()
        };
        each(first, more, |next| match next {
            Ok(message) => (source.take)(hub, &message),
            Err(KafkaError::PartitionEOF(partition)) => (source.ended)(hub, partition as u32),
            // librdkafka goes on by itself, or is told where.
            Err(error) => {
                failing.store(true, Ordering::Relaxed);
                check.failing(format!("reading: {error}"));
                (source.failed)(hub, &error);
            }
        });
        hub.announce();
        tokio::task::yield_now().await;
    }
}

/// Takes the first and up to [`TOGETHER`] in all of those that `more` has. Whatever it asks for, it takes: what Kafka's client has handed out does not
/// come again.
fn each<T>(first: T, mut more: impl FnMut() -> Option<T>, mut take: impl FnMut(T)) {
    take(first);
    for _ in 1..TOGETHER {
        let Some(next) = more() else { return };
        take(next);
    }
}

/// Finds out when Kafka answers again: no record need come for that.
async fn probe(hub: &Hub, check: &Check, failing: &AtomicBool) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Beyond every log there is nothing to read: only its ends are asked for.
        let beyond = Range {
            partition: 0,
            from: i64::MAX,
            until: i64::MAX,
        };
        if failing.load(Ordering::Relaxed) && hub.catch_up.read(beyond).await.is_ok() {
            failing.store(false, Ordering::Relaxed);
            check.ready();
        }
    }
}

/// A record of the devices' states.
fn device(hub: &Hub, message: &BorrowedMessage<'_>) {
    let Some(name) = message.key().and_then(|key| std::str::from_utf8(key).ok()) else {
        return;
    };
    if headwater_proto::name::check_device(name).is_err() {
        // Checkpoints, and what is none of ours.
        return;
    }
    match message.payload() {
        None => {
            hub.fleet_mut().state(name, None, now_us());
            hub.cache_mut().forget(name);
        }
        Some(payload) => match pb::DeviceState::decode(payload) {
            Ok(state) => hub.fleet_mut().state(name, Some(state), now_us()),
            Err(error) => tracing::warn!("the state of device {name} cannot be decoded: {error}"),
        },
    }
}

fn tick(hub: &Hub) {
    let (devices, online) = {
        let mut fleet = hub.fleet_mut();
        fleet.tick(now_us());
        fleet.count()
    };
    hub.announce();
    let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    hub.metrics.devices.set(gauge(devices));
    hub.metrics.devices_online.set(gauge(online));
    hub.metrics.log_bytes.set(gauge(hub.log().held()));
    hub.metrics.held_bytes.set(gauge(hub.held.held()));
    let cache = hub.cache();
    hub.metrics.cache_bytes.set(gauge(cache.bytes()));
    hub.metrics
        .cache_refused
        .set(i64::try_from(cache.refused()).unwrap_or(i64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_was_asked_for_is_left_behind() {
        let mut queue = 0..1000;
        let mut taken = Vec::new();
        while let Some(first) = queue.next() {
            let before = taken.len();
            each(first, || queue.next(), |number| taken.push(number));
            assert!(taken.len() - before <= TOGETHER, "others have their turn");
        }
        assert_eq!(taken, Vec::from_iter(0..1000));
    }
}
