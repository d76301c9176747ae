//! Partitions come and go: positions first, then MQTT; and the other way round.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Driver, blocking};
use crate::bridge::commands::position::Position;
use crate::bridge::device::Now;
use crate::bridge::ownership::{Share, ancestors};
use crate::bridge::reader;
use crate::bridge::scan::Scan;
use crate::bridge::writer::Maker;
use crate::bridge::{Error, group};
use crate::kafka;

/// Partitions that are asked back.
pub(super) struct Leaving {
    pub(super) partitions: Vec<u32>,
    done: SyncSender<()>,
    marked: bool,
}

/// What was read of partitions with their terms; `None` when stopped meanwhile.
pub(super) type Taken = Option<Vec<(u32, u64, Scan, Position)>>;

/// Partitions whose positions are being read.
pub(super) struct Takeovers(JoinSet<Result<Taken, kafka::Error>>);

impl Takeovers {
    pub(super) fn new() -> Self {
        Self(JoinSet::new())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next that is done; never, while there is none.
    pub(super) async fn next(&mut self) -> Result<Taken, kafka::Error> {
        match self.0.join_next().await {
            Some(taken) => taken.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())),
            None => std::future::pending().await,
        }
    }
}

impl Driver {
    pub(super) fn of_group(&mut self, event: group::Event) -> Result<(), Error> {
        match event {
            group::Event::Assigned(terms) => {
                self.joined = true;
                self.metrics.rebalances.inc();
                if !terms.is_empty() {
                    self.take(terms);
                }
            }
            group::Event::Revoked(partitions, done) => {
                self.metrics.rebalances.inc();
                let shares = self.shares(&partitions);
                self.connection.unsubscribe(&shares);
                partitions.iter().for_each(|&at| self.fleets.retire(at));
                self.leaving.push(Leaving {
                    partitions,
                    done,
                    marked: false,
                });
                self.let_go();
            }
            group::Event::Lost(partitions) => {
                self.leaving
                    .retain(|leaving| leaving.partitions.iter().all(|at| !partitions.contains(at)));
                let shares = self.shares(&partitions);
                self.connection.unsubscribe(&shares);
                partitions.iter().for_each(|&at| self.forget(at));
            }
            group::Event::Fault(reason) if self.joined => tracing::debug!("{reason}"),
            group::Event::Fault(reason) => self.maker.check.failing(reason),
            group::Event::Grown(partition) => {
                return Err(Error::Kafka(kafka::Error::Grown {
                    topic: self.maker.kafka.topics().commands,
                    partition,
                    count: self.maker.terms.partitions(),
                }));
            }
        }
        Ok(())
    }

    /// What is subscribed for these partitions, those there are fleets of.
    fn shares(&self, partitions: &[u32]) -> Vec<Share> {
        let of = self.maker.terms.partitions();
        let share = |&partition: &u32| {
            let has = self.fleets.has(partition);
            has.then_some(Share::Partition { partition, of })
        };
        partitions.iter().filter_map(share).collect()
    }

    /// Reads the positions of what is ours now.
    fn take(&mut self, terms: Vec<(u32, u64)>) {
        let (maker, stop) = (self.maker.clone(), self.shutdown.clone());
        let (metrics, begun) = (self.metrics.clone(), Instant::now());
        self.takeovers.0.spawn(blocking(move || {
            let partitions: Vec<u32> = terms.iter().map(|(partition, _)| *partition).collect();
            let Some(mut scans) = read(&maker, &partitions, &stop)? else {
                return Ok(None);
            };
            // Where nobody has been before, devices may stand in the partitions that were theirs when there were fewer.
            let of = maker.terms.partitions();
            let new = scans.iter().filter(|(_, scan)| !scan.begun);
            let before: BTreeSet<u32> = new.flat_map(|(partition, _)| ancestors(*partition, of)).collect();
            // As read, before any has adopted from another.
            let own = scans.iter().filter(|(partition, _)| before.contains(partition));
            let mut others: Vec<(u32, Scan)> = own.cloned().collect();
            let unread = before.into_iter().filter(|at| !partitions.contains(at));
            let Some(read) = read(&maker, &unread.collect::<Vec<u32>>(), &stop)? else {
                return Ok(None);
            };
            others.extend(read);
            for (partition, scan) in scans.iter_mut().filter(|(_, scan)| !scan.begun) {
                let is_ours = |device: &str| headwater_proto::shard::partition(device, of) == *partition;
                for ancestor in ancestors(*partition, of) {
                    let other = others.iter().find(|(number, _)| *number == ancestor);
                    if let Some((_, other)) = other {
                        scan.adopt(other.clone(), is_ours);
                    }
                }
            }
            let own = maker.group.as_ref().map(|(_, id)| id.as_str());
            let (kafka, bridge) = (&maker.kafka, &maker.bridge);
            let positions = reader::read_positions(kafka, bridge, own, &partitions, &maker.check, &stop)?;
            let Some(positions) = positions else {
                return Ok(None);
            };
            let mut positions: BTreeMap<u32, Position> = positions.into_iter().collect();
            let taken = scans.into_iter().zip(terms);
            let taken = taken.map(|((partition, scan), (_, term))| {
                let position = positions.remove(&partition).unwrap_or_default();
                (partition, term, scan, position)
            });
            metrics.takeovers.inc_by(partitions.len() as u64);
            metrics.takeover_seconds.observe(begun.elapsed().as_secs_f64());
            Ok(Some(taken.collect()))
        }));
    }

    /// Positions are known: now MQTT.
    pub(super) fn taken(&mut self, taken: Taken) {
        let mut shares = Vec::new();
        let now = Now::read();
        for (partition, term, scan, position) in taken.unwrap_or_default() {
            // It may have been taken away meanwhile.
            if self.maker.terms.holds(partition, term) {
                self.commands.reader.read(partition, term, position.offset());
                self.fleets.take(partition, term, scan, position, now);
                shares.push(partition);
            }
        }
        tracing::info!(
            partitions = ?shares,
            devices = self.fleets.devices(),
            "positions read from Kafka"
        );
        if shares.is_empty() {
            return;
        }
        let shares = if self.maker.group.is_some() {
            self.shares(&shares)
        } else {
            vec![Share::All]
        };
        if self.connected {
            self.mqtt_check
                .failing("subscribing the topics of new partitions");
        }
        self.connection.subscribe(shares);
    }

    /// Goes on letting go of what is asked back: what is in flight arrives, states and a checkpoint follow, then it is the next one's.
    pub(super) fn let_go(&mut self) {
        let due = Instant::now() + self.maker.bridge.state_interval;
        let mut leaving = std::mem::take(&mut self.leaving);
        leaving.retain_mut(|leaving| !self.lets_go(leaving, due));
        self.leaving = leaving;
    }

    fn forget(&mut self, partition: u32) {
        self.commands.reader.leave(partition);
        self.fleets.forget(partition);
    }

    fn lets_go(&mut self, leaving: &mut Leaving, due: Instant) -> bool {
        let Some(writer) = &self.writer else {
            return false;
        };
        if self.fleets.in_flight_of(&leaving.partitions) {
            return false;
        }
        for &partition in &leaving.partitions {
            if !leaving.marked {
                self.fleets.mark_one(partition, Now::read());
            }
            while let Some(state) = self.fleets.next_state_of(partition, due) {
                let entered = state.entered;
                if writer.state(state, &self.side).is_err() {
                    self.fleets.state(due, entered, false);
                    break;
                }
            }
        }
        leaving.marked = true;
        if !self.fleets.are_clean(&leaving.partitions) {
            return false;
        }
        leaving.partitions.iter().for_each(|&at| self.forget(at));
        // The group waits no longer than its patience.
        let _ = leaving.done.try_send(());
        true
    }

    /// Whether everything is handed over, or it takes too long.
    pub(super) fn has_let_go(&self, until: Option<Instant>) -> bool {
        let Some(until) = until else { return false };
        let left = self
            .member
            .as_ref()
            .is_none_or(|(_, thread)| thread.is_finished());
        left || Instant::now() > until
    }
}

/// What there is in Kafka of these partitions, once nothing is open in them.
fn read(
    maker: &Maker,
    partitions: &[u32],
    stop: &CancellationToken,
) -> Result<Option<Vec<(u32, Scan)>>, kafka::Error> {
    if partitions.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let (kafka, check) = (&maker.kafka, &maker.check);
    if let Some((_, id)) = &maker.group
        && reader::settle(kafka, &maker.bridge, id, partitions, check, stop)?.is_none()
    {
        return Ok(None);
    }
    reader::read_all(kafka, partitions, &maker.bridge.limits.codec(), check, stop)
}
