//! Ties the fleet to MQTT and Kafka. It never waits for either: whatever Kafka does, MQTT is read on.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::device::Now;
use super::fleet::{Fleet, Message, Outcome, Step};
use super::metrics::Metrics;
use super::mqtt::{self, Event, Mqtt};
use super::ownership::Ownership;
use super::producer::{Producer, Refusal, Report};
use super::reader;
use super::scan::Scan;
use super::settings::{BridgeSettings, MqttSettings};
use crate::admin::{Check, Monitor};
use crate::kafka::{self, Context, KafkaSettings};

/// The beat of everything periodic.
const BEAT: Duration = Duration::from_millis(50);
/// Devices that gave no sign of life this long after the MQTT connection was made are taken as away.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);
/// Records in flight that get no report for this long: Kafka is not well.
const SILENCE: Duration = Duration::from_secs(5);
/// How long stopping may take for what is in flight, and again for the states.
const LAST_WORDS: Duration = Duration::from_millis(1200);
/// Messages or reports handled in one go, before the others get their turn.
const BURST: usize = 256;

/// Carries readings from MQTT to Kafka until `shutdown`.
///
/// # Errors
/// Where only an operator can help; an absent Kafka or MQTT broker is waited for.
pub async fn run(
    bridge: BridgeSettings,
    mqtt: MqttSettings,
    kafka: KafkaSettings,
    monitor: Monitor,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    // Before anything is waited for: wrong settings do not get right by it.
    let options = mqtt::options(&mqtt)?;
    let kafka_check = monitor.check("bridge kafka", &format!("no answer yet from {}", kafka.bootstrap));
    let mqtt_check = monitor.check("bridge mqtt", "waiting for Kafka: positions first");
    let metrics = monitor.register(Metrics::new);
    let Some(partitions) = kafka::await_topics(&kafka, &kafka_check, &shutdown).await? else {
        return Ok(());
    };
    let ownership = Ownership::all(partitions);
    let limits = bridge.limits.codec();
    let mut fleet = Fleet::new(&bridge, ownership.clone(), metrics.clone());

    // Positions first: only who knows them can tell a duplicate.
    let began = Instant::now();
    let scans = {
        let (kafka, limits) = (kafka.clone(), limits.clone());
        let (check, stop) = (kafka_check.clone(), shutdown.clone());
        let owned: Vec<u32> = ownership.owned().collect();
        blocking(move || reader::read_all(&kafka, &owned, &limits, &check, &stop)).await?
    };
    let Some(scans) = scans else { return Ok(()) };
    for (partition, scan) in scans {
        fleet.restore(partition, scan, Now::read());
    }
    tracing::info!(
        partitions,
        devices = fleet.devices().len(),
        took = ?began.elapsed(),
        "positions read from Kafka"
    );
    kafka_check.ready();

    let (tell, reports) = mpsc::unbounded_channel();
    let context = kafka.context();
    let telemetry = Producer::telemetry(&kafka, &bridge, context.clone(), tell.clone())?;
    let side = Producer::side(&kafka, context.clone(), tell.clone())?;
    mqtt_check.failing(format!("connecting to {}", mqtt.broker));
    let longest = limits.body_bytes.max(limits.frame_bytes) + 1;
    let (connection, events) = Mqtt::start(options, &mqtt.broker, &ownership, longest);
    let driver = Driver {
        bridge,
        kafka,
        fleet,
        metrics,
        telemetry: Some(telemetry),
        side,
        connection,
        context,
        tell,
        kafka_check,
        mqtt_check,
        shutdown,
        connected: None,
        recovery: None,
        recoveries: 0,
        last_report: Instant::now(),
        states_budget: 0.0,
        fault: None,
        probe: None,
    };
    driver.run(events, reports).await
}

type Recovered = Result<Option<(Vec<(u32, Scan)>, Producer)>, kafka::Error>;

struct Driver {
    bridge: BridgeSettings,
    kafka: KafkaSettings,
    fleet: Fleet,
    metrics: Metrics,
    /// `None` while it is made anew.
    telemetry: Option<Producer>,
    side: Producer,
    connection: Mqtt,
    context: Context,
    tell: mpsc::UnboundedSender<Report>,
    kafka_check: Check,
    mqtt_check: Check,
    shutdown: CancellationToken,
    /// Since when the MQTT connection stands, and whether its grace is over.
    connected: Option<(Instant, bool)>,
    recovery: Option<JoinHandle<Recovered>>,
    /// In a row, without a delivery between them.
    recoveries: u32,
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
    ) -> Result<(), Error> {
        let shutdown = self.shutdown.clone();
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut checkpoint = tokio::time::interval(self.bridge.checkpoint_interval.max(BEAT));
        loop {
            let next_ack = self
                .connected
                .and_then(|_| self.fleet.next_ack())
                .map(tokio::time::Instant::from_std);
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(event) = events.recv() => {
                    self.event(event);
                    for _ in 1..BURST {
                        let Ok(event) = events.try_recv() else { break };
                        self.event(event);
                    }
                }
                Some(report) = reports.recv() => self.reports(report, &mut reports),
                () = tokio::time::sleep_until(next_ack.unwrap_or_else(tokio::time::Instant::now)), if next_ack.is_some() => {
                    self.acks();
                }
                _ = beat.tick() => self.beat(),
                _ = checkpoint.tick() => self.fleet.mark(Now::read()),
                ended = async { self.recovery.as_mut().expect("polled only if there is one").await }, if self.recovery.is_some() => {
                    self.recovery = None;
                    // All reports of the old producer are in by now: it is gone.
                    while let Ok(report) = reports.try_recv() {
                        self.report(report);
                    }
                    let recovered = ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
                    if let Some((scans, producer)) = recovered {
                        self.fleet.resume(Now::read(), scans);
                        self.telemetry = Some(producer);
                        self.last_report = Instant::now();
                    }
                }
            }
        }
        self.stop(&mut reports).await;
        Ok(())
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Message(message) => self.message(&message),
            Event::Connected => {
                self.metrics.mqtt_connects.inc();
                self.metrics.mqtt_connected.set(1);
                self.mqtt_check.ready();
                self.connected = Some((Instant::now(), false));
                self.fleet.connected();
            }
            Event::Disconnected(reason) => {
                self.metrics.mqtt_connected.set(0);
                self.mqtt_check.failing(reason);
                self.connected = None;
                self.fleet.disconnected();
            }
        }
    }

    fn message(&mut self, message: &Message) {
        match self.fleet.message(Now::read(), message) {
            Step::Nothing => {}
            Step::Produce(record) => {
                let Some(telemetry) = &self.telemetry else { return };
                match telemetry.record(&record) {
                    Ok(()) => {
                        if self.fleet.in_flight() == 0 {
                            self.last_report = Instant::now();
                        }
                        self.fleet.sent(&record);
                    }
                    Err(Refusal::Full) => self.fleet.unsent(&record, None),
                    Err(Refusal::Unfit(reason)) => self.fleet.unsent(&record, Some(reason)),
                    Err(Refusal::Fatal(reason)) => self.recover(&reason),
                }
            }
            Step::DeadLetter(letter) => {
                if self.side.dead_letter(&letter).is_err() {
                    self.fleet.dead_letter(Now::read(), &letter.letter, false);
                }
            }
        }
    }

    fn reports(&mut self, first: Report, more: &mut mpsc::UnboundedReceiver<Report>) {
        self.report(first);
        for _ in 1..BURST {
            let Ok(report) = more.try_recv() else { break };
            self.report(report);
        }
    }

    fn report(&mut self, report: Report) {
        let now = Now::read();
        match report {
            Report::Telemetry(ticket, outcome) => {
                let failed = !matches!(outcome, Outcome::Stored(_));
                self.fleet.reported(now, &ticket, outcome);
                self.last_report = now.at;
                if failed {
                    self.recover("records were not delivered");
                } else if self.recovery.is_none() {
                    self.recoveries = 0;
                }
            }
            Report::State(device, stored) => self.fleet.state(now.at, device, stored),
            Report::DeadLetter(letter, stored) => self.fleet.dead_letter(now, &letter, stored),
        }
    }

    /// Makes the telemetry producer anew: ends the old one, waits for its reports, and scans what of it got through.
    fn recover(&mut self, reason: &str) {
        let Some(old) = self.telemetry.take() else { return };
        self.fault = Some(format!(
            "{reason}: finding out what got through, then going on from there"
        ));
        self.recoveries += 1;
        let from: Vec<(u32, i64)> = (0u32..).zip(self.fleet.halt()).collect();
        let (bridge, kafka) = (self.bridge.clone(), self.kafka.clone());
        let (context, tell) = (self.context.clone(), self.tell.clone());
        let (check, stop) = (self.kafka_check.clone(), self.shutdown.clone());
        // The first time at once: it may have been one record. Then ever slower.
        let wait = Duration::from_millis(250) * ((1 << self.recoveries.min(6)) - 2).min(20);
        self.recovery = Some(tokio::spawn(async move {
            blocking(move || drop(old)).await;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return Ok(None),
            }
            blocking(move || {
                let scans = from
                    .iter()
                    .map(|(partition, _)| (*partition, Scan::default()))
                    .collect();
                let limits = bridge.limits.codec();
                let Some(scans) = reader::read_telemetry(&kafka, scans, &from, &limits, &check, &stop)?
                else {
                    return Ok(None);
                };
                Ok(Some((
                    scans,
                    Producer::telemetry(&kafka, &bridge, context, tell)?,
                )))
            })
            .await
        }));
    }

    fn acks(&mut self) {
        let now = Now::read();
        // Until everything is subscribed they wait; a connection that ends takes them along.
        while self.connected.is_some() {
            let Some((topic, payload)) = self.fleet.ack(now) else {
                return;
            };
            // With no room it is lost: the agent's resend asks for it again.
            if self.connection.publish(topic, payload) {
                self.metrics.acks.inc();
            }
        }
    }

    fn beat(&mut self) {
        let now = Now::read();
        if let Some((since, false)) = self.connected
            && since.elapsed() > SIGN_OF_LIFE
        {
            self.connected = Some((since, true));
            self.fleet.give_up(now);
        }
        let rate = f64::from(self.bridge.state_rate);
        self.states_budget = (self.states_budget + rate * BEAT.as_secs_f64()).min(rate);
        self.states(now.at);
        self.judge_kafka();
    }

    fn states(&mut self, now: Instant) {
        while self.states_budget >= 1.0 {
            let Some(state) = self.fleet.next_state(now) else {
                return;
            };
            self.states_budget -= 1.0;
            if self.side.state(&state).is_err() {
                self.fleet.state(now, state.device, false);
                return;
            }
        }
    }

    fn judge_kafka(&mut self) {
        let bootstrap = &self.kafka.bootstrap;
        if self.telemetry.is_some() {
            self.fault = None;
        }
        if self.context.all_down() {
            if self.probe.as_ref().is_none_or(JoinHandle::is_finished) {
                let side = self.side.clone();
                self.probe = Some(tokio::task::spawn_blocking(move || {
                    if !side.probe(Duration::from_secs(1)) {
                        std::thread::sleep(Duration::from_millis(500));
                    }
                }));
            }
            self.fault = Some(format!("no broker of {bootstrap} can be reached"));
        } else if self.fleet.in_flight() > 0 && self.last_report.elapsed() > SILENCE {
            self.fault = Some(format!("{bootstrap} confirms nothing that was sent"));
        }
        match &self.fault {
            None => self.kafka_check.ready(),
            Some(reason) => self.kafka_check.failing(reason.clone()),
        }
    }

    /// Lets what is in flight arrive, tells the agents, leaves states and checkpoints behind.
    async fn stop(mut self, reports: &mut mpsc::UnboundedReceiver<Report>) {
        let until = tokio::time::Instant::now() + LAST_WORDS;
        while self.fleet.in_flight() > 0 {
            match tokio::time::timeout_at(until, reports.recv()).await {
                Ok(Some(report)) => self.reports(report, reports),
                _ => break,
            }
        }
        tokio::time::sleep(self.bridge.ack_interval.min(BEAT)).await;
        self.acks();
        self.connection.stop().await;
        self.fleet.mark(Now::read());
        let until = tokio::time::Instant::now() + LAST_WORDS;
        // Everything that changed is due now.
        let due = Instant::now() + self.bridge.state_interval;
        while !self.fleet.is_clean() {
            while let Some(state) = self.fleet.next_state(due) {
                if self.side.state(&state).is_err() {
                    self.fleet.state(due, state.device, false);
                    break;
                }
            }
            match tokio::time::timeout_at(until, reports.recv()).await {
                Ok(Some(Report::State(device, stored))) => self.fleet.state(due, device, stored),
                Ok(Some(_)) => {}
                _ => break,
            }
        }
        let (telemetry, side) = (self.telemetry, self.side);
        blocking(move || {
            // The last checkpoint may still be on its way.
            side.flush(LAST_WORDS);
            drop((telemetry, side));
        })
        .await;
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
