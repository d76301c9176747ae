//! Ties the fleets to MQTT, Kafka and the group of bridges. It never waits for any of them: whatever Kafka does, MQTT is read on.

mod commands;
mod handover;
mod writing;

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::budget::Budget;
use super::commands::reader::Reader;
use super::commands::request::Read;
use super::device::Now;
use super::fleet::{Message, Outcome, Shared, Step};
use super::fleets::Fleets;
use super::foreign::{self, settings::ForeignSettings};
use super::group::{self, Group};
use super::metrics::Metrics;
use super::mqtt::{Event, Mqtt};
use super::ownership::Terms;
use super::producer::{Producer, Report};
use super::settings::BridgeSettings;
use super::writer::{Maker, Writer};
use crate::admin::{Check, Monitor};
use crate::kafka::{self, KafkaSettings};
use crate::mqtt::{self, MqttSettings, Route};
use handover::{Leaving, Takeovers};
use writing::Recovered;

/// The beat of everything periodic.
const BEAT: Duration = Duration::from_millis(50);
/// Devices that gave no sign of life this long after the subscription was made are taken as away.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);
/// How long stopping may take for what is in flight, and again for the states.
const LAST_WORDS: Duration = Duration::from_millis(1200);
/// When the way to the broker is full of acks, it is looked again after this time.
const ROOM: Duration = Duration::from_millis(2);
/// Messages or reports handled in one go, before the others get their turn.
const BURST: usize = 256;

/// Carries readings from MQTT to Kafka until `shutdown`.
///
/// # Errors
/// Where only an operator can help; an absent Kafka or MQTT broker is waited for.
pub async fn run(
    bridge: BridgeSettings,
    mqtt: MqttSettings,
    foreign: Vec<ForeignSettings>,
    kafka: KafkaSettings,
    monitor: Monitor,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    // Before anything is waited for: wrong settings do not get right by it.
    let route = Route::new(&mqtt, "mqtt", None)?;
    let kafka_check = monitor.check("bridge kafka", &format!("no answer yet from {}", kafka.bootstrap));
    let mqtt_check = monitor.check("bridge mqtt", "waiting for Kafka: positions first");
    let metrics = monitor.register(Metrics::new);
    let Some(partitions) = kafka::await_topics(&kafka, &kafka_check, &shutdown).await? else {
        return Ok(());
    };
    metrics
        .in_flight_limit_bytes
        .set(bridge.in_flight.as_u64() as i64);
    metrics.topic_partitions.set(i64::from(partitions));
    let terms = Terms::new(partitions);
    let shared = Shared {
        partitions,
        in_flight: Budget::new(bridge.in_flight.as_u64() as usize),
        devices: Budget::new(bridge.limits.devices),
        metrics: metrics.clone(),
    };
    let (tell, reports) = mpsc::unbounded_channel();
    let (tell_of_group, of_group) = mpsc::unbounded_channel();
    let context = kafka.context();
    let side = Producer::side(&kafka, context.clone(), tell.clone())?;
    let (tell_of_commands, reads) = mpsc::unbounded_channel();
    let (mut group, mut member) = (None, None);
    if bridge.alone {
        let all = (0..partitions).filter_map(|partition| Some((partition, terms.begin(partition)?)));
        // The receiver is right here.
        let _ = tell_of_group.send(group::Event::Assigned(all.collect()));
    } else {
        kafka_check.failing(format!("joining the group {} of bridges", kafka.group()));
        let (joined, thread) = Group::join(
            &kafka,
            &bridge,
            terms.clone(),
            context.clone(),
            tell_of_group.clone(),
        )?;
        let id = format!("{}.{:08x}", kafka.group(), mqtt::random());
        group = Some((joined.clone(), id));
        member = Some((joined, thread));
    }
    let place = foreign::Place {
        kafka: kafka.clone(),
        bridge: bridge.clone(),
        mqtt: mqtt.clone(),
        terms: terms.clone(),
        monitor: monitor.clone(),
        shutdown: shutdown.clone(),
    };
    let writer = group.as_ref().map(|(_, id)| id.as_str());
    let of_commands = commands::shared(&kafka, &bridge, writer, partitions, &monitor);
    let reader = Reader::start(
        &kafka,
        context.clone(),
        of_commands.bytes.clone(),
        tell_of_commands,
    )?;
    let maker = Maker {
        kafka,
        bridge: bridge.clone(),
        context,
        tell,
        check: kafka_check,
        group,
        terms,
    };
    mqtt_check.failing(format!("connecting to {}", mqtt.broker));
    let limits = bridge.limits.codec();
    let longest = limits.body_bytes.max(limits.frame_bytes) + 1;
    let (connection, events) = Mqtt::start(route, longest);
    let mut driver = Driver {
        fleets: Fleets::new(bridge, shared, of_commands),
        commands: commands::Down::new(reader),
        maker,
        metrics,
        writer: None,
        side,
        connection,
        mqtt_check,
        shutdown,
        connected: false,
        joined: false,
        held_up: None,
        member,
        takeovers: Takeovers::new(),
        leaving: Vec::new(),
        recovery: None,
        recoveries: 0,
        one_by_one: None,
        last_report: Instant::now(),
        states_budget: 0.0,
        fault: None,
        probe: None,
    };
    driver.begin();
    driver.begin_answers();
    tokio::try_join!(
        driver.run(events, reports, of_group, reads),
        foreign::run(foreign, place)
    )?;
    Ok(())
}

struct Driver {
    maker: Maker,
    fleets: Fleets,
    commands: commands::Down,
    metrics: Metrics,
    /// `None` while it is made, or made anew.
    writer: Option<Writer>,
    side: Producer,
    connection: Mqtt,
    mqtt_check: Check,
    shutdown: CancellationToken,
    /// Whether the MQTT connection stands.
    connected: bool,
    /// Whether the group has told what is ours, if only that nothing is.
    joined: bool,
    /// An ack that found no room on its way to the broker, and when to try again. What it says stays true; all behind it waits.
    held_up: Option<(Instant, String, Vec<u8>)>,
    /// The membership and its thread, of a bridge that is not alone.
    member: Option<(Group, std::thread::JoinHandle<()>)>,
    takeovers: Takeovers,
    leaving: Vec<Leaving>,
    recovery: Option<JoinHandle<Recovered>>,
    /// In a row, without a delivery between them.
    recoveries: u32,
    /// Since when records go to Kafka one by one: it refused some that went together.
    one_by_one: Option<Instant>,
    last_report: Instant,
    states_budget: f64,
    /// What is wrong with Kafka, while something is.
    fault: Option<String>,
    /// Asks Kafka for a sign of life: with nothing to send, nothing else would notice that it is back.
    probe: Option<JoinHandle<()>>,
}

impl Driver {
    async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut reports: mpsc::UnboundedReceiver<Report>,
        mut of_group: mpsc::UnboundedReceiver<group::Event>,
        mut reads: mpsc::UnboundedReceiver<Read>,
    ) -> Result<(), Error> {
        let shutdown = self.shutdown.clone();
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut checkpoint = tokio::time::interval(self.maker.bridge.checkpoint_interval.max(BEAT));
        // Once it is told to stop, it lets go of everything first.
        let mut until = None;
        while !self.has_let_go(until) {
            let next_ack = match &self.held_up {
                Some((again, ..)) => Some(*again),
                None if self.connected => self.fleets.next_ack(),
                None => None,
            };
            let next_ack = next_ack.map(tokio::time::Instant::from_std);
            tokio::select! {
                () = shutdown.cancelled(), if until.is_none() => {
                    if let Some((group, _)) = &self.member {
                        group.leave();
                    }
                    until = Some(Instant::now() + 2 * LAST_WORDS);
                }
                Some(event) = events.recv() => {
                    self.event(event);
                    for _ in 1..BURST {
                        let Ok(event) = events.try_recv() else { break };
                        self.event(event);
                    }
                    self.step_commands();
                }
                Some(read) = reads.recv() => self.commands_read(read, &mut reads),
                Some(report) = reports.recv() => self.reports(report, &mut reports),
                Some(event) = of_group.recv() => self.of_group(event)?,
                () = tokio::time::sleep_until(next_ack.unwrap_or_else(tokio::time::Instant::now)), if next_ack.is_some() => {
                    self.acks();
                }
                _ = beat.tick() => self.beat(),
                _ = checkpoint.tick() => self.fleets.mark(Now::read()),
                taken = self.takeovers.next() => self.taken(taken?),
                ended = async { self.recovery.as_mut().expect("polled only if there is one").await }, if self.recovery.is_some() => {
                    self.recovery = None;
                    // All reports of the old producer are in by now: it is gone.
                    while let Ok(report) = reports.try_recv() {
                        self.report(report);
                    }
                    let recovered = ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
                    self.recovered(recovered);
                }
                made = self.commands.made() => {
                    while let Ok(report) = reports.try_recv() {
                        self.report(report);
                    }
                    self.answers_made(made?);
                }
            }
        }
        self.stop(&mut reports).await;
        Ok(())
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Message(message, _room) => self.message(&message),
            Event::Connected => {
                self.metrics.mqtt_connects.inc();
                self.metrics.mqtt_connected.set(1);
                self.connected = true;
                // Where something is to be subscribed, it is in order when that is done.
                if self.fleets.partitions().is_empty() {
                    self.mqtt_check.ready();
                }
            }
            Event::Subscribed(shares) => {
                self.mqtt_check.ready();
                let now = Instant::now();
                shares
                    .into_iter()
                    .for_each(|share| self.fleets.subscribed(share, now));
            }
            Event::Disconnected(reason) => {
                self.metrics.mqtt_connected.set(0);
                self.mqtt_check.failing(reason);
                self.connected = false;
                self.held_up = None;
                self.fleets.disconnected();
            }
        }
    }

    fn message(&mut self, message: &Message) {
        match self.fleets.message(Now::read(), message) {
            Step::Nothing => {}
            Step::Produce(record) => self.produce(record),
            Step::DeadLetter(letter) => {
                if self.side.dead_letter(&letter).is_err() {
                    self.fleets
                        .dead_letter(Now::read(), &letter.letter, &Outcome::Failed);
                }
            }
        }
    }

    fn acks(&mut self) {
        let now = Now::read();
        // A connection that ends takes them along.
        while self.connected {
            let held_up = self.held_up.take().map(|(_, topic, payload)| (topic, payload));
            let Some((topic, payload)) = held_up.or_else(|| self.fleets.ack(now)) else {
                return;
            };
            match self.connection.publish(topic, payload) {
                Ok(()) => drop(self.metrics.acks.inc()),
                // Those behind it wait, and grow together, a note a device.
                Err((topic, payload)) => {
                    self.held_up = Some((now.at + ROOM, topic, payload));
                    return;
                }
            }
        }
    }

    fn beat(&mut self) {
        let now = Now::read();
        self.fleets.give_up(now, SIGN_OF_LIFE);
        let rate = f64::from(self.maker.bridge.state_rate);
        self.states_budget = (self.states_budget + rate * BEAT.as_secs_f64()).min(rate);
        self.states(now.at);
        self.step_commands();
        self.let_go();
        self.together_again();
        self.judge_kafka();
        if let Some(summary) = self.metrics.summary(now.at) {
            tracing::warn!("since the last such line: {summary}");
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
