//! The fleets of all partitions that the bridge owns at present, each with its term: who a message is for, who a report is for.
//!
//! A report of an earlier term only gives back what was in flight: what it says is for nobody any more.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headwater_proto::topic::{self, Kind};

use super::commands::position::Position;
use super::commands::request::Read;
use super::commands::{self, Commands};
use super::device::Now;
use super::fleet::{Entered, Fleet, Letter, Message, Outcome, Record, Shared, State, Step, Ticket};
use super::ownership::Share;
use super::scan::Scan;
use super::settings::BridgeSettings;

/// A partition's fleet.
#[derive(Debug)]
struct Owned {
    term: u64,
    fleet: Fleet,
    commands: Commands,
    /// Since when its topics are subscribed on this MQTT connection, and whether the grace for signs of life is over.
    subscribed: Option<(Instant, bool)>,
}

/// The fleets, by partition.
#[derive(Debug)]
pub struct Fleets {
    settings: BridgeSettings,
    shared: Shared,
    /// What all partitions share of commands.
    pub(super) of_commands: commands::Shared,
    owned: BTreeMap<u32, Owned>,
    halted: bool,
    /// Whose states are written next, so that all get their turn.
    turn: u32,
}

impl Fleets {
    /// No partition yet.
    pub fn new(settings: BridgeSettings, shared: Shared, of_commands: commands::Shared) -> Self {
        Self {
            settings,
            shared,
            of_commands,
            owned: BTreeMap::new(),
            halted: false,
            turn: 0,
        }
    }

    /// A partition is taken over; `scan` is what an earlier bridge left of it, `position` how far commands are answered.
    pub fn take(&mut self, partition: u32, term: u64, scan: Scan, position: Position, now: Now) {
        let mut fleet = Fleet::new(&self.settings, partition, term, self.shared.clone());
        fleet.restore(scan, now);
        if self.halted {
            fleet.halt();
        }
        let owned = Owned {
            term,
            fleet,
            commands: Commands::new(&self.of_commands, partition, term, position),
            subscribed: None,
        };
        self.owned.insert(partition, owned);
        self.count();
    }

    /// A partition is given up: all that is known of it is forgotten.
    pub fn forget(&mut self, partition: u32) {
        self.owned.remove(&partition);
        self.count();
    }

    /// The partitions there are fleets of.
    pub fn partitions(&self) -> Vec<u32> {
        self.owned.keys().copied().collect()
    }

    /// Whether there is a fleet of this partition.
    pub fn has(&self, partition: u32) -> bool {
        self.owned.contains_key(&partition)
    }

    /// Devices known.
    pub fn devices(&self) -> usize {
        self.shared.devices.used()
    }

    /// Bytes handed to Kafka and not reported.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.used()
    }

    /// Whether records of these partitions are in flight.
    pub fn in_flight_of(&self, partitions: &[u32]) -> bool {
        let mut fleets = partitions.iter().filter_map(|at| self.owned.get(at));
        fleets.any(|owned| owned.fleet.in_flight() > 0)
    }

    fn of(&mut self, partition: u32, term: u64) -> Option<&mut Fleet> {
        let owned = self.owned.get_mut(&partition)?;
        (owned.term == term).then_some(&mut owned.fleet)
    }

    /// A message came.
    pub fn message(&mut self, now: Now, message: &Message) -> Step {
        let metrics = &self.shared.metrics;
        metrics.bytes_in.inc_by(message.length as u64);
        let Some((name, kind)) = topic::parse(&message.topic) else {
            metrics.refuse("topic");
            return Step::Nothing;
        };
        let partition = headwater_proto::shard::partition(name, self.shared.partitions);
        match self.owned.get_mut(&partition) {
            Some(owned) if kind == Kind::Reply => {
                if message.retained || message.payload.len() < message.length {
                    self.of_commands.metrics.ignore("unreadable");
                } else {
                    owned.commands.reply(now, name, &message.payload);
                }
                Step::Nothing
            }
            Some(owned) => {
                if kind == Kind::Hello && !message.retained {
                    owned.commands.hello(name, now.at);
                }
                owned.fleet.message(now, name, kind, message)
            }
            // Still on its way when the subscription ended.
            None => {
                metrics.drop("partition of another bridge");
                Step::Nothing
            }
        }
    }

    /// A record was handed to Kafka's client.
    pub fn sent(&mut self, record: &Record) {
        if let Some(fleet) = self.of(record.partition, record.term) {
            fleet.sent(record);
        }
        self.gauge();
    }

    /// A record that was sent was not taken after all: there will be no report.
    pub fn taken_back(&mut self, record: &Record) {
        self.shared.in_flight.give_back(record.cost());
        if let Some(fleet) = self.of(record.partition, record.term) {
            fleet.taken_back(record);
        }
        self.gauge();
    }

    /// Kafka's client would not take a record now. `unfit`: nor ever, for this reason.
    pub fn unsent(&mut self, record: &Record, unfit: Option<String>) {
        if let Some(fleet) = self.of(record.partition, record.term) {
            fleet.unsent(record, unfit);
        }
    }

    /// Kafka's report of a record that was sent. Returns whether its term still runs.
    pub fn reported(&mut self, now: Now, ticket: &Ticket, outcome: Outcome) -> bool {
        self.shared.in_flight.give_back(ticket.cost);
        self.gauge();
        let fleet = self.of(ticket.partition, ticket.term);
        fleet.map(|fleet| fleet.reported(now, ticket, outcome)).is_some()
    }

    /// What became of a dead letter.
    pub fn dead_letter(&mut self, now: Now, letter: &Letter, outcome: &Outcome) {
        if let Some(fleet) = self.of(letter.partition, letter.term) {
            fleet.dead_letter(now, letter, outcome);
        }
    }

    /// Whether a state or a checkpoint is in Kafka.
    pub fn state(&mut self, now: Instant, entered: Entered, stored: bool) {
        if let Some(fleet) = self.of(entered.partition, entered.term) {
            fleet.state(now, entered, stored);
        }
    }

    /// Until [`Fleets::resume`] no batch is accepted. Returns by partition the offset from which to scan what got through.
    pub fn halt(&mut self) -> Vec<(u32, i64)> {
        self.halted = true;
        let all = self.owned.iter_mut();
        all.map(|(&partition, owned)| (partition, owned.fleet.halt()))
            .collect()
    }

    /// No batch of this partition is accepted any more: it is about to be given up.
    pub fn retire(&mut self, partition: u32) {
        if let Some(owned) = self.owned.get_mut(&partition) {
            owned.fleet.halt();
            owned.commands.stop();
        }
    }

    /// Every record in flight has been reported, and these scans say what of them is in Kafka: the rest is asked for again.
    pub fn resume(&mut self, now: Now, scans: Vec<(u32, Scan)>) {
        self.halted = false;
        let mut scans: BTreeMap<u32, Scan> = scans.into_iter().collect();
        for (partition, owned) in &mut self.owned {
            match scans.remove(partition) {
                Some(scan) => owned.fleet.resume(now, scan),
                // One taken over meanwhile had nothing in flight.
                None => owned.fleet.unhalt(),
            }
        }
    }

    /// The topics of this share are subscribed: every device has to give a sign of life, or a retained status.
    pub fn subscribed(&mut self, share: Share, now: Instant) {
        for (_, owned) in self.owned.iter_mut().filter(|(at, _)| share.covers(**at)) {
            owned.subscribed = Some((now, false));
            owned.commands.listen(true);
            owned.fleet.connected();
        }
    }

    /// The MQTT connection is gone: nobody can be told anything.
    pub fn disconnected(&mut self) {
        for owned in self.owned.values_mut() {
            owned.subscribed = None;
            owned.commands.listen(false);
            owned.fleet.disconnected();
        }
    }

    /// Devices that gave no sign of life within `grace` of the subscription are taken as away.
    pub fn give_up(&mut self, now: Now, grace: Duration) {
        for owned in self.owned.values_mut() {
            if let Some((since, false)) = owned.subscribed
                && now.at.saturating_duration_since(since) > grace
            {
                owned.subscribed = Some((since, true));
                owned.fleet.give_up(now);
            }
        }
    }

    /// When the next ack is due. Those of a partition that is not subscribed wait: what they ask for would not be heard.
    pub fn next_ack(&self) -> Option<Instant> {
        let listening = self.owned.values().filter(|owned| owned.subscribed.is_some());
        listening.filter_map(|owned| owned.fleet.next_ack()).min()
    }

    /// The next ack that is due: topic and payload.
    pub fn ack(&mut self, now: Now) -> Option<(String, Vec<u8>)> {
        let mut listening = self.owned.values_mut().filter(|owned| owned.subscribed.is_some());
        listening.find_map(|owned| owned.fleet.ack(now))
    }

    /// Checkpoints are due.
    pub fn mark(&mut self, now: Now) {
        for owned in self.owned.values_mut() {
            owned.fleet.mark(now);
        }
    }

    /// A checkpoint of this partition is due.
    pub fn mark_one(&mut self, partition: u32, now: Now) {
        if let Some(owned) = self.owned.get_mut(&partition) {
            owned.fleet.mark(now);
        }
    }

    /// The next state or checkpoint to write, if one may be written now. Call [`Fleets::state`] with the outcome.
    pub fn next_state(&mut self, now: Instant) -> Option<State> {
        let (before, after) = (self.owned.range(..self.turn), self.owned.range(self.turn..));
        let order: Vec<u32> = after.chain(before).map(|(&partition, _)| partition).collect();
        for partition in order {
            if let Some(state) = self.next_state_of(partition, now) {
                self.turn = partition + 1;
                return Some(state);
            }
        }
        None
    }

    /// The next state or checkpoint of this partition to write.
    pub fn next_state_of(&mut self, partition: u32, now: Instant) -> Option<State> {
        self.owned.get_mut(&partition)?.fleet.next_state(now)
    }

    /// Whether every state and checkpoint of these partitions is in Kafka.
    pub fn are_clean(&self, partitions: &[u32]) -> bool {
        let mut fleets = partitions.iter().filter_map(|at| self.owned.get(at));
        fleets.all(|owned| owned.fleet.is_clean())
    }

    /// A command was read.
    pub fn command(&mut self, read: Read) {
        if let Some(owned) = self.owned.get_mut(&read.partition)
            && owned.term == read.term
        {
            owned.commands.read(read);
        }
    }

    /// Sends commands that can be sent, gives up those whose time is over. `publish`: puts a message on its way, and returns whether there was
    /// room.
    pub fn commands(&mut self, now: Now, mut publish: impl FnMut(String, &[u8]) -> bool) {
        for owned in self.owned.values_mut() {
            let fleet = &owned.fleet;
            let presence = |device: &str| fleet.presence_of(device);
            owned.commands.step(now, presence, &mut publish);
        }
        let held = i64::try_from(self.of_commands.bytes.used()).unwrap_or(i64::MAX);
        self.of_commands.metrics.bytes.set(held);
    }

    /// The next answers to commands to write, of all partitions. Call [`Fleets::answered`] with the outcome of each.
    pub fn answers(&mut self) -> Vec<commands::Batch> {
        self.owned
            .values_mut()
            .filter_map(|owned| owned.commands.answers())
            .collect()
    }

    /// Whether the answers of this partition that were on their way are in Kafka.
    pub fn answered(&mut self, partition: u32, term: u64, stored: bool) {
        if let Some(owned) = self.owned.get_mut(&partition)
            && owned.term == term
        {
            owned.commands.written(stored);
        }
    }

    /// What Kafka holds as a partition's position of commands, while none of its answers is on its way.
    pub fn committed(&mut self, partition: u32, term: u64, position: &Position) {
        if let Some(owned) = self.owned.get_mut(&partition)
            && owned.term == term
        {
            owned.commands.committed(position);
        }
    }

    /// The partitions there are fleets of, with their terms.
    pub fn terms(&self) -> Vec<(u32, u64)> {
        self.owned
            .iter()
            .map(|(&partition, owned)| (partition, owned.term))
            .collect()
    }

    fn count(&self) {
        self.shared.metrics.partitions.set(self.owned.len() as i64);
    }

    fn gauge(&self) {
        self.shared.metrics.in_flight_bytes.set(self.in_flight() as i64);
    }
}
