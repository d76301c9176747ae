//! Foreign devices: programs that publish by rules of their own, on topics of their own. MQTT → Kafka, and only then the
//! broker is told to forget.
//!
//! A bridge is to a foreign device what an agent is to its sensors: it makes batches of what comes, under streams that it begins and
//! numbers itself. Each entry `[[foreign]]` of the settings runs by itself: a connection, a producer, and between them
//! plain structs with time and messages as arguments: [`entry`] (what a message says), [`batch`] and [`intake`] (batches, and the
//! order of acknowledging), [`roster`] (who is there). [`session`] drives them, [`connection`] and [`producer`] are thin.
//!
//! - **What is promised** is what MQTT can: of QoS 1, at least once. A message is acknowledged when everything made of it is in Kafka; one that
//!   the broker sends again, since a bridge or a connection died between, is in Kafka twice. Of QoS 0, at most once.
//! - **One bridge runs an entry**: the one that owns the partition of the entry's name, under an MQTT session that goes by the
//!   entry. So messages stay in order, and whoever takes the entry over takes the session over, with all that is not acknowledged.
//!   `shared = true` spreads the messages over all bridges instead: each has a session of its own then.
//! - **Nothing is unbounded**: the broker sends no more than the window holds; while Kafka is away it keeps the rest.

pub mod batch;
pub mod connection;
pub mod entry;
pub mod intake;
pub mod metrics;
pub mod presence;
pub mod producer;
pub mod roster;
pub mod session;
pub mod settings;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headwater_proto::{Message as _, pb, shard};
use rdkafka::Message as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::ownership::Terms;
use super::reader;
use super::settings::BridgeSettings;
use crate::admin::{Check, Monitor};
use crate::kafka::{self, KafkaSettings};
use crate::mqtt::{MqttSettings, Route};
use connection::{Connection, Plan};
use entry::Entry;
use intake::Bounds;
use metrics::{Families, Metrics};
use presence::Presence;
use producer::Producer;
use roster::Roster;
use session::{Caution, End, Session};
use settings::ForeignSettings;

/// How often it is looked whether an entry is ours.
const LOOK: Duration = Duration::from_millis(50);
/// Longest wait between two runs.
const BACKOFF: Duration = Duration::from_secs(5);
/// So long each message goes by itself after Kafka has refused one.
const CAUTIOUS: Duration = Duration::from_secs(60);
/// Bytes of a batch. Small: what is refused with it is asked for again.
const BATCH: usize = 256 * 1024;

/// What all entries have in common.
#[derive(Clone)]
pub struct Place {
    /// Where Kafka is.
    pub kafka: KafkaSettings,
    /// What bounds there are.
    pub bridge: BridgeSettings,
    /// Where the broker is.
    pub mqtt: MqttSettings,
    /// What this bridge owns.
    pub terms: Terms,
    /// Where it is told what goes on.
    pub monitor: Monitor,
    /// When all is to end.
    pub shutdown: CancellationToken,
}

/// Runs all entries until the shutdown.
///
/// # Errors
/// Where only an operator can help.
pub async fn run(entries: Vec<ForeignSettings>, place: Place) -> Result<(), Error> {
    if entries.is_empty() {
        return Ok(());
    }
    let families = place.monitor.register(Families::new);
    let side = Producer::side(&place.kafka, place.kafka.context())?;
    let mut tasks = JoinSet::new();
    for settings in entries {
        let name = format!("bridge foreign {}", settings.id);
        let runner = Runner {
            check: place.monitor.check(&name, "waiting for the group of bridges"),
            metrics: families.of(&settings.id),
            side: side.clone(),
            settings,
            place: place.clone(),
            crowd: Arc::new(AtomicBool::new(false)),
        };
        tasks.spawn(runner.run());
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    }
    // Dead letters and states may still be on their way.
    let flush = tokio::task::spawn_blocking(move || side.flush(Duration::from_millis(500)));
    drop(flush.await);
    Ok(())
}

/// Runs an entry again and again, while it is this bridge's.
struct Runner {
    settings: ForeignSettings,
    place: Place,
    check: Check,
    metrics: Metrics,
    side: Producer,
    /// Whether other bridges have partitions, too.
    crowd: Arc<AtomicBool>,
}

impl Runner {
    async fn run(self) -> Result<(), Error> {
        let mut caution = Caution::default();
        let mut failures = 0u32;
        loop {
            let Some(stop) = self.turn().await else {
                return Ok(());
            };
            if caution.since.is_some_and(|since| since.elapsed() > CAUTIOUS) {
                caution = Caution::default();
            }
            let begun = Instant::now();
            let end = self.once(&mut caution, &stop).await?;
            stop.cancel();
            match end {
                End::Stopped => failures = 0,
                End::Failed(reason) => {
                    self.metrics.recoveries.inc();
                    self.check
                        .failing(format!("{reason}; what was not acknowledged is asked for again"));
                    failures = if begun.elapsed() > CAUTIOUS {
                        1
                    } else {
                        failures + 1
                    };
                    // The first time at once: it may have been one record. Then ever slower.
                    let wait = Duration::from_millis(250) * ((1u32 << failures.min(6)) - 2);
                    tokio::select! {
                        () = tokio::time::sleep(wait.min(BACKOFF)) => {}
                        () = self.place.shutdown.cancelled() => return Ok(()),
                    }
                }
            }
        }
    }

    /// Waits until the entry is this bridge's. Returns what ends when it is no longer; `None` at the shutdown.
    async fn turn(&self) -> Option<CancellationToken> {
        let (terms, shutdown) = (self.place.terms.clone(), self.place.shutdown.clone());
        let partition = shard::partition(&self.settings.id, terms.partitions());
        let shared = self.settings.shared;
        let is_ours = move |terms: &Terms| {
            if shared {
                terms.any()
            } else {
                terms.running(partition)
            }
        };
        while !is_ours(&terms) {
            // Another has it; this bridge waits, and is well. Until the group has told, its own check says so.
            self.check.ready();
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = shutdown.cancelled() => return None,
            }
        }
        if shutdown.is_cancelled() {
            return None;
        }
        let stop = shutdown.child_token();
        let (told, crowd) = (stop.clone(), Arc::clone(&self.crowd));
        tokio::spawn(async move {
            loop {
                if !is_ours(&terms) {
                    return told.cancel();
                }
                crowd.store(!terms.all(), Ordering::Relaxed);
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    () = told.cancelled() => return,
                }
            }
        });
        Some(stop)
    }

    async fn once(&self, caution: &mut Caution, stop: &CancellationToken) -> Result<End, Error> {
        let (settings, place) = (&self.settings, &self.place);
        let limits = place.bridge.limits.codec();
        let mut roster = Roster::new(
            &settings.id,
            place.terms.partitions(),
            settings.devices,
            place.bridge.state_interval,
        );
        let Some(states) = self.states(stop).await? else {
            return Ok(End::Stopped);
        };
        states.iter().for_each(|state| roster.restore(state));
        // It was checked at the start.
        let mut entry = match Entry::new(settings) {
            Ok(entry) => entry,
            Err(why) => return Ok(End::Failed(why)),
        };
        let plan = self.plan();
        let filters = plan.filters.clone();
        let route = Route::new(&place.mqtt, "mqtt", None)?;
        let producer = Producer::telemetry(&place.kafka, &place.bridge, place.kafka.context())?;
        self.check.failing(format!("connecting to {}", place.mqtt.broker));
        let (connection, events) = Connection::start(route, plan);
        let (shared, crowd) = (settings.shared, Arc::clone(&self.crowd));
        // With others there, what the broker would keep for us is theirs; alone, we shall be back.
        let leave = move || {
            if shared && crowd.load(Ordering::Relaxed) {
                filters.clone()
            } else {
                Vec::new()
            }
        };
        let session = Session {
            id: &settings.id,
            entry: &mut entry,
            roster: &mut roster,
            bounds: Bounds {
                linger: settings.linger,
                bytes: BATCH.min(limits.body_bytes / 2),
                readings: limits.readings,
                columns: limits.columns,
                one_by_one: false,
            },
            room: usize::from(settings.window) * 2,
            state_rate: f64::from(place.bridge.state_rate),
            // Of messages that bridges share, none knows all.
            away_after: if settings.shared {
                Duration::ZERO
            } else {
                settings.away_after
            },
            connection,
            producer,
            side: self.side.clone(),
            metrics: self.metrics.clone(),
            check: self.check.clone(),
            caution,
            leave: &leave,
        };
        Ok(session.run(events, stop).await)
    }

    fn plan(&self) -> Plan {
        let (settings, place) = (&self.settings, &self.place);
        let prefix = &place.kafka.prefix;
        let availability = settings.availability.iter().map(|of| &of.topic);
        let mut filters: Vec<String> = settings.topics.iter().chain(availability).cloned().collect();
        if let Some(sparkplug) = &settings.sparkplug {
            filters = headwater_foreign::sparkplug::Topic::filters(&sparkplug.groups);
        }
        let client_id = match (settings.shared, place.mqtt.client_id.as_str()) {
            // Whoever runs the entry has its session.
            (false, _) => format!("{prefix}-foreign-{}", settings.id),
            (true, "") => format!("{prefix}-{}-{}", hostname(), settings.id),
            (true, id) => format!("{id}-{}", settings.id),
        };
        Plan {
            client_id,
            session_expiry: settings.session_expiry,
            window: settings.window,
            filters: filters
                .into_iter()
                .map(|filter| match settings.shared {
                    true => format!("$share/{prefix}-{}/{filter}", settings.id),
                    false => filter,
                })
                .collect(),
            longest: settings.map.max_payload.as_u64() as usize,
            presence: settings.sparkplug.as_ref().and_then(Presence::new),
        }
    }

    /// What earlier runs left of foreign devices in Kafka. `None` once stopped.
    async fn states(&self, stop: &CancellationToken) -> Result<Option<Vec<pb::DeviceState>>, Error> {
        let (kafka, check, stop) = (self.place.kafka.clone(), self.check.clone(), stop.clone());
        let (partitions, id) = (self.place.terms.partitions(), self.settings.id.clone());
        let read = tokio::task::spawn_blocking(move || {
            let mut states = std::collections::BTreeMap::new();
            let from: Vec<(u32, i64)> = (0..partitions).map(|partition| (partition, 0)).collect();
            let read = reader::read(
                &kafka,
                &kafka.topics().devices,
                &from,
                &check,
                &stop,
                |at, message| {
                    let state = message
                        .payload()
                        .and_then(|value| pb::DeviceState::decode(value).ok());
                    let state = state.filter(|state| state.foreign.as_ref().is_some_and(|of| of.entry == id));
                    let key = (message.key().unwrap_or_default().to_vec(), at);
                    match state {
                        Some(state) => drop(states.insert(key, state)),
                        None => drop(states.remove(&key)),
                    }
                },
            )?;
            Ok::<_, kafka::Error>(read.map(|_| states.into_values().collect()))
        });
        Ok(read
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?)
    }
}

/// The machine's name, for a session that is to be found again; letters, digits and `-`.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name
        .trim()
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter
            } else {
                '-'
            }
        })
        .collect();
    if name.is_empty() { "relay".into() } else { name }
}
