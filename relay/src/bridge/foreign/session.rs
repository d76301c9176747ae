//! One run of an entry: its connection, its producer, and what is between. It never waits for either.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Event, Message};
use super::entry::Entry;
use super::intake::{Bounds, Intake};
use super::metrics::Metrics;
use super::producer::{Letter, Producer, Refusal, Report};
use super::roster::Roster;
use crate::admin::Check;
use crate::bridge::device::Now;
use crate::mqtt::random;

/// The beat of everything periodic.
const BEAT: Duration = Duration::from_millis(50);
/// Messages or reports handled in one go, before the others get their turn.
const BURST: usize = 256;
/// How long stopping may take for what is in flight.
const LAST_WORDS: Duration = Duration::from_millis(1200);
/// Records in flight that get no report for this long: Kafka is not well.
const SILENCE: Duration = Duration::from_secs(5);
/// When the broker has nothing for us for this long, it has given us all it had.
const DRAINED: Duration = Duration::from_millis(200);
/// Messages that want an acknowledgement may wait in so many times the room of those that want none.
const AGAIN: usize = 4;
/// Messages that Kafka refuses are remembered, so many.
const UNFIT: usize = 10_000;

/// What a run leaves to the next.
#[derive(Debug, Default)]
pub struct Caution {
    /// Kafka has refused a record for its size or content: since when each message goes by itself, to find it.
    pub since: Option<Instant>,
    /// Messages that Kafka refuses.
    pub unfit: HashSet<u64>,
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Stopped,
    /// For this reason; what was not acknowledged comes again.
    Failed(String),
}

/// A run.
pub struct Session<'a> {
    /// The entry's id.
    pub id: &'a str,
    /// How messages are read.
    pub entry: &'a mut Entry,
    /// The devices.
    pub roster: &'a mut Roster,
    /// What bounds batches.
    pub bounds: Bounds,
    /// Messages of QoS 0 that may wait beside the window.
    pub room: usize,
    /// States a second at most.
    pub state_rate: f64,
    /// Devices are away after so much silence; zero: never.
    pub away_after: Duration,
    /// The connection.
    pub connection: Connection,
    /// To telemetry.
    pub producer: Producer,
    /// To states and dead letters.
    pub side: Producer,
    /// What is counted.
    pub metrics: Metrics,
    /// Who is told while something is wrong.
    pub check: Check,
    /// What the run before has left.
    pub caution: &'a mut Caution,
    /// Unsubscribed when the run is stopped, so that other bridges get what comes.
    pub leave: &'a (dyn Fn() -> Vec<String> + Send + Sync),
}

struct Running<'a> {
    of: Session<'a>,
    intake: Intake,
    tell: mpsc::UnboundedSender<Report>,
    connected: bool,
    fault: Option<String>,
    states_budget: f64,
    /// Dead letters on their way, and those to be sent again.
    letters: HashMap<u64, Letter>,
    unsent: VecDeque<u64>,
    /// What is to be published.
    asks: VecDeque<(String, Vec<u8>)>,
    /// Whether those that an earlier run knew have been asked.
    greeted: bool,
    sent: HashMap<u64, (u32, u64)>,
    last_report: Instant,
    last_message: Instant,
    begun: Instant,
    end: Option<End>,
}

impl Session<'_> {
    /// Runs until `stop`.
    pub async fn run(self, mut events: mpsc::Receiver<Event>, stop: &CancellationToken) -> End {
        let (tell, mut reports) = mpsc::unbounded_channel();
        let mut bounds = self.bounds;
        bounds.one_by_one = self.caution.since.is_some();
        let mut running = Running {
            intake: Intake::new(bounds, || u64::from(random()) << 32 | u64::from(random())),
            of: self,
            tell,
            connected: false,
            fault: None,
            states_budget: 0.0,
            letters: HashMap::new(),
            unsent: VecDeque::new(),
            asks: VecDeque::new(),
            greeted: false,
            sent: HashMap::new(),
            last_report: Instant::now(),
            last_message: Instant::now(),
            begun: Instant::now(),
            end: None,
        };
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while running.end.is_none() {
            let due = running.intake.due().map(tokio::time::Instant::from_std);
            tokio::select! {
                () = stop.cancelled() => running.end = Some(End::Stopped),
                event = events.recv() => match event {
                    Some(event) => {
                        running.event(event);
                        for _ in 1..BURST {
                            let Ok(event) = events.try_recv() else { break };
                            running.event(event);
                        }
                    }
                    None => running.fail("the connection's task has ended"),
                },
                Some(report) = reports.recv() => {
                    running.report(report);
                    for _ in 1..BURST {
                        let Ok(report) = reports.try_recv() else { break };
                        running.report(report);
                    }
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(tokio::time::Instant::now)), if due.is_some() => {
                    running.intake.close();
                }
                _ = beat.tick() => running.beat(),
            }
            running.produce();
            running.acknowledge();
        }
        running.stop(&mut events, &mut reports).await
    }
}

impl Running<'_> {
    fn fail(&mut self, reason: &str) {
        self.end.get_or_insert_with(|| End::Failed(reason.to_owned()));
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Connected { resumed } => {
                self.connected = true;
                self.of.entry.connected(resumed);
            }
            Event::Subscribed => {
                if !std::mem::replace(&mut self.greeted, true) {
                    let asks = self.of.entry.greet(Now::read(), self.of.roster.online());
                    self.asks.extend(asks);
                    self.ask();
                }
                self.of.metrics.connected.set(1);
                self.fault = None;
                self.judge();
            }
            Event::Disconnected => {
                self.connected = false;
                self.of.metrics.connected.set(0);
                self.intake.disconnected();
            }
            Event::Failing(reason) => {
                self.fault = Some(reason);
                self.judge();
            }
            Event::Message(message) => self.message(message),
        }
    }

    fn message(&mut self, message: Message) {
        let now = Now::read();
        self.last_message = now.at;
        let metrics = &self.of.metrics;
        metrics.messages.inc();
        metrics.again.inc_by(u64::from(message.again));
        // What wants an acknowledgement is bounded by the window, but for what waits of earlier connections.
        let room = self.of.room * if message.receipt.is_some() { AGAIN } else { 1 };
        if self.intake.waiting() >= room {
            metrics.dropped.inc();
            return;
        }
        let found = self.of.entry.read(
            now,
            &message.topic,
            &message.payload,
            message.length,
            message.retained,
        );
        metrics.gaps.inc_by(u64::from(found.gap));
        for (reason, count) in found.skipped {
            metrics.skip(reason, count);
        }
        let mut refusal = found.refusal;
        let roster = &mut *self.of.roster;
        for (source, online) in found.presence {
            match roster.number(&source) {
                Ok(number) => roster.presence(number, online, now),
                Err(why) => drop(refusal.get_or_insert(why)),
            }
        }
        let mark = if self.of.caution.since.is_some() {
            mark(&message)
        } else {
            0
        };
        let mut readings = Vec::with_capacity(found.readings.len());
        if self.of.caution.unfit.contains(&mark) {
            refusal = Some("Kafka refuses what is made of it, for its size or content".into());
        } else {
            for mut reading in found.readings {
                match roster.number(&std::mem::take(&mut reading.device)) {
                    Ok(number) => {
                        if !message.retained {
                            roster.heard(number, now);
                        }
                        let (name, partition) = roster.place(number);
                        readings.push((number, name, partition, reading));
                    }
                    Err(why) => drop(refusal.get_or_insert(why)),
                }
            }
        }
        self.asks.extend(found.asks);
        self.ask();
        let number = self
            .intake
            .message(now, message.receipt, readings, refusal.is_some(), mark);
        if let Some(reason) = refusal {
            tracing::debug!(
                entry = self.of.id,
                topic = message.topic,
                "a dead letter: {reason}"
            );
            self.letters.insert(
                number,
                Letter {
                    message: number,
                    topic: message.topic,
                    payload: message.payload,
                    length: message.length,
                    reason,
                    arrival_us: now.us,
                },
            );
            self.letter(number);
        }
    }

    /// Asks nodes for their births, as far as there is room.
    fn ask(&mut self) {
        while let Some((topic, payload)) = self.asks.pop_front() {
            if !self.of.connection.publish(&topic, payload.clone()) {
                return self.asks.push_front((topic, payload));
            }
            self.of.metrics.rebirths.inc();
        }
    }

    fn letter(&mut self, number: u64) {
        let Some(letter) = self.letters.get(&number) else {
            return;
        };
        if self.of.side.letter(self.of.id, letter, &self.tell).is_err() {
            self.unsent.push_back(number);
        }
    }

    fn produce(&mut self) {
        // One after the other, where it is to be found out which of them Kafka refuses.
        while self.of.caution.since.is_none() || self.intake.in_flight() == 0 {
            let Some(record) = self.intake.next_record() else {
                return;
            };
            if self.sent.is_empty() {
                self.last_report = Instant::now();
            }
            match self.of.producer.record(self.of.id, &record, &self.tell) {
                Ok(()) => drop(self.sent.insert(record.number, (record.device, record.readings))),
                Err(Refusal::Full) => return self.intake.put_back(record),
                Err(Refusal::Unfit(reason)) => return self.unfit(record.number, &reason),
                Err(Refusal::Fatal(reason)) => return self.fail(&reason),
            }
        }
    }

    /// Kafka refuses a record for its size or content: the run ends, for what follows in its stream cannot go before it.
    fn unfit(&mut self, record: u64, reason: &str) {
        let caution = &mut *self.of.caution;
        if caution.since.replace(Instant::now()).is_some() {
            if caution.unfit.len() >= UNFIT {
                caution.unfit.clear();
            }
            caution.unfit.extend(self.intake.marks(record));
        }
        self.fail(reason);
    }

    fn report(&mut self, report: Report) {
        let now = Now::read();
        match report {
            Report::Stored { record, offset } => {
                self.last_report = now.at;
                self.intake.stored(record);
                if let Some((device, readings)) = self.sent.remove(&record) {
                    self.of.roster.stored(device, offset, now);
                    self.of.metrics.batches.inc();
                    self.of.metrics.readings.inc_by(readings);
                }
            }
            Report::Failed {
                record,
                unfit: true,
                reason,
            } => self.unfit(record, &reason),
            Report::Failed { reason, .. } => self.fail(&reason),
            Report::State(device, stored) => self.of.roster.written(device, stored, now.at),
            Report::Letter(number, true) => {
                self.letters.remove(&number);
                self.of.metrics.dead_letters.inc();
                self.intake.letter_stored(number);
            }
            Report::Letter(number, false) => self.unsent.push_back(number),
        }
    }

    fn acknowledge(&mut self) {
        while let Some(receipt) = self.intake.acknowledge() {
            self.of.connection.acknowledge(receipt);
        }
        self.of.metrics.unacknowledged.set(self.intake.waiting() as i64);
    }

    fn beat(&mut self) {
        let now = Now::read();
        let after = self.of.away_after;
        // This run has to have listened for as long.
        if !after.is_zero() && self.connected && self.begun.elapsed() >= after {
            self.of.roster.give_up(now, after);
        }
        self.ask();
        for number in std::mem::take(&mut self.unsent) {
            self.letter(number);
        }
        let rate = self.of.state_rate;
        self.states_budget = (self.states_budget + rate * BEAT.as_secs_f64()).min(rate.max(1.0));
        self.states(now.at);
        self.of.metrics.devices.set(self.of.roster.len() as i64);
        self.judge();
    }

    fn states(&mut self, now: Instant) {
        while self.states_budget >= 1.0 {
            let Some(state) = self.of.roster.next_state(now) else {
                return;
            };
            self.states_budget -= 1.0;
            if self.of.side.state(&state, &self.tell).is_err() {
                return self.of.roster.written(state.device, false, now);
            }
        }
    }

    fn judge(&self) {
        let silent = !self.sent.is_empty() && self.last_report.elapsed() > SILENCE;
        match &self.fault {
            Some(reason) => self.of.check.failing(reason.clone()),
            None if silent => self.of.check.failing("Kafka confirms nothing that was sent"),
            None if self.unsent.len() > BURST => self.of.check.failing("dead letters do not get to Kafka"),
            None if self.connected => self.of.check.ready(),
            None => {}
        }
    }

    /// Lets what is in flight arrive, acknowledges it, leaves states behind.
    async fn stop(
        mut self,
        events: &mut mpsc::Receiver<Event>,
        reports: &mut mpsc::UnboundedReceiver<Report>,
    ) -> End {
        let end = self.end.take().unwrap_or(End::Stopped);
        self.of.metrics.connected.set(0);
        if end != End::Stopped {
            // Without a word, so that the broker sends again what was not acknowledged.
            self.of.connection.drop_it();
            let (producer, _) = (self.of.producer, self.tell);
            drop(tokio::task::spawn_blocking(move || drop(producer)).await);
            // What the producer still had is void, but for states: those of the next run know more.
            while let Ok(report) = reports.try_recv() {
                if let Report::State(device, stored) = report {
                    self.of.roster.written(device, stored, Instant::now());
                }
            }
            return end;
        }
        let leave = (self.of.leave)();
        self.of.connection.unsubscribe(&leave);
        self.last_message = Instant::now();
        let until = tokio::time::Instant::now() + LAST_WORDS;
        loop {
            self.intake.close();
            self.produce();
            let due = Instant::now() + Duration::from_secs(3600);
            self.states_budget = f64::MAX;
            self.states(due);
            self.acknowledge();
            let drained = leave.is_empty() || self.last_message.elapsed() > DRAINED;
            if drained && self.intake.waiting() == 0 && self.of.roster.is_clean() {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep_until(until) => break,
                Some(event) = events.recv(), if !leave.is_empty() => self.event(event),
                Some(report) = reports.recv() => self.report(report),
                () = tokio::time::sleep(BEAT) => {}
            }
        }
        self.of.connection.stop().await;
        let producer = self.of.producer;
        drop(tokio::task::spawn_blocking(move || drop(producer)).await);
        end
    }
}

/// What a message is known again by.
fn mark(message: &Message) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one((&message.topic, &message.payload))
}
