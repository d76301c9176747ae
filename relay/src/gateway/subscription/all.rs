//! Mode ALL: every batch in order, from a cursor.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_proto::pb;
use pb::server_frame::Frame;

use super::latest::{Parts, close};
use super::{CAUGHT_UP_EVERY, Counted, Kind, Turn};
use crate::gateway::catchup::{self, Chunk, Range};
use crate::gateway::filter::{Filter, Globs};
use crate::gateway::hub::Hub;
use crate::gateway::log::Place;
use crate::gateway::record::Record;
use crate::gateway::token::Grant;

/// Records looked at in one turn, so that one that matches nothing leaves room for others.
const SCAN: usize = 256;
/// How long after a failed read the next is tried.
const RETRY: Duration = Duration::from_secs(1);

/// A subscription of mode ALL.
#[derive(Debug)]
pub struct All {
    id: u32,
    devices: Globs,
    filter: Arc<Filter>,
    /// The next offset of each partition.
    cursor: Vec<i64>,
    /// Partitions whose cursor lies beyond the log in memory: Kafka is asked whether it can be.
    ahead: Vec<u32>,
    not_before_us: i64,
    epoch: u64,
    snapshot: Option<Snapshot>,
    gap: Option<pb::Gap>,
    /// Read from Kafka, and not yet handed on.
    chunk: Option<Read>,
    fetching: bool,
    failed: bool,
    retry: Option<Instant>,
    /// The partition whose turn it is.
    turn: u32,
    told: Option<(Instant, Vec<i64>)>,
}

/// Where a subscription starts.
#[derive(Clone, Debug, Default)]
pub struct Beginning {
    /// The next offset of each partition.
    pub cursor: Vec<i64>,
    /// What arrived before is left out, microseconds.
    pub not_before_us: Option<i64>,
    /// The newest values first.
    pub snapshot: bool,
}

/// How far a snapshot has come: slots of the cache in order. A value that came after the cursor was taken is left out;
/// it comes as data.
#[derive(Debug)]
struct Snapshot {
    next: u32,
    end: u32,
    before: Vec<i64>,
}

#[derive(Debug)]
struct Read {
    partition: u32,
    records: VecDeque<Arc<Record>>,
    next: i64,
}

impl All {
    /// From a beginning.
    pub fn new(id: u32, devices: Globs, filter: Arc<Filter>, beginning: Beginning, hub: &Hub) -> Self {
        let snapshot = beginning.snapshot.then(|| Snapshot {
            next: 0,
            end: hub.cache().devices(),
            before: beginning.cursor.clone(),
        });
        let log = hub.log();
        let ahead = (0..log.partitions())
            .filter(|&p| beginning.cursor[p as usize] > log.next(p))
            .collect();
        Self {
            id,
            devices,
            filter,
            ahead,
            not_before_us: beginning.not_before_us.unwrap_or(i64::MIN),
            cursor: beginning.cursor,
            epoch: log.epoch(),
            snapshot,
            gap: None,
            chunk: None,
            fetching: false,
            failed: false,
            retry: None,
            turn: 0,
            told: None,
        }
    }

    /// The number of its metric filter.
    pub fn filter(&self) -> u32 {
        self.filter.number
    }

    /// Its cursor, as the client sees it.
    pub fn cursor(&self) -> pb::Cursor {
        let position = |(partition, &offset)| pb::PartitionOffset {
            partition: partition as u32,
            offset,
        };
        pb::Cursor {
            positions: self.cursor.iter().enumerate().map(position).collect(),
        }
    }

    /// See [`super::Subscription::poll`].
    pub fn poll(&mut self, now: Instant, hub: &Hub, grant: &Grant) -> Turn {
        if let Some(gap) = self.gap.take() {
            return Turn::Frame(Counted::of(Frame::Gap(gap), Kind::Gap));
        }
        if self.snapshot.is_some() {
            return self.snapshot(hub, grant);
        }
        if self.chunk.is_some() {
            return self.read_on(hub, grant);
        }
        if let Some(turn) = self.ask(now) {
            return turn;
        }
        self.live(now, hub, grant)
    }

    fn snapshot(&mut self, hub: &Hub, grant: &Grant) -> Turn {
        let Some(snapshot) = &mut self.snapshot else {
            return Turn::Again;
        };
        let cache = hub.cache();
        let mut parts = Parts::default();
        while snapshot.next < snapshot.end && !parts.is_full() {
            let Some(device) = cache.device(snapshot.next) else {
                break;
            };
            snapshot.next += 1;
            if grant.read.matches(&device.name) && self.devices.matches(&device.name) {
                let before = snapshot
                    .before
                    .get(device.partition as usize)
                    .copied()
                    .unwrap_or(i64::MAX);
                if let Some(batch) = device.batch(&self.filter.metrics, 0, before) {
                    parts.add(&batch, 1);
                }
            }
        }
        drop(cache);
        if snapshot.next >= snapshot.end {
            self.snapshot = None;
        }
        if parts.is_empty() {
            Turn::Again
        } else {
            Turn::Frame(close(&parts, self.id, true))
        }
    }

    /// Hands on what was read from Kafka.
    fn read_on(&mut self, hub: &Hub, grant: &Grant) -> Turn {
        let Some(read) = &mut self.chunk else {
            return Turn::Again;
        };
        let Some(record) = read.records.pop_front() else {
            self.cursor[read.partition as usize] = read.next;
            self.chunk = None;
            return Turn::Again;
        };
        self.cursor[record.partition as usize] = record.offset + 1;
        if self.wants(&record, grant) {
            self.take(&record, hub, false)
        } else {
            Turn::Again
        }
    }

    /// Asks for a read where a cursor lies beyond the log in memory.
    fn ask(&mut self, now: Instant) -> Option<Turn> {
        if self.retry.is_some_and(|retry| now < retry) || self.fetching {
            return None;
        }
        let partition = *self.ahead.first()?;
        self.fetching = true;
        Some(Turn::Read(Range {
            partition,
            from: self.cursor[partition as usize],
            until: i64::MAX,
        }))
    }

    fn live(&mut self, now: Instant, hub: &Hub, grant: &Grant) -> Turn {
        let log = hub.log();
        if log.epoch() != self.epoch {
            self.epoch = log.epoch();
            drop(log);
            return self.reset(hub);
        }
        let partitions = self.cursor.len() as u32;
        let (mut looked, mut ended, mut wait) = (0, 0, None);
        while ended < partitions && looked < SCAN {
            let partition = self.turn % partitions;
            let cursor = &mut self.cursor[partition as usize];
            match log.place(partition, *cursor) {
                Place::At(record) => {
                    *cursor = record.offset + 1;
                    looked += 1;
                    // The next partition's turn, so that a busy one leaves room.
                    self.turn = (partition + 1) % partitions;
                    ended = 0;
                    if self.wants(&record, grant) {
                        // A frame is made without the lock.
                        drop(log);
                        return self.take(&record, hub, true);
                    }
                }
                Place::Behind(base) => {
                    let from = *cursor;
                    let ready = self.retry.is_none_or(|retry| now >= retry);
                    if !self.fetching && ready {
                        self.fetching = true;
                        return Turn::Read(Range {
                            partition,
                            from,
                            until: base,
                        });
                    }
                    wait = wait.or(Some(self.retry));
                    self.turn = (partition + 1) % partitions;
                    ended += 1;
                }
                Place::End(next) => {
                    *cursor = next;
                    self.turn = (partition + 1) % partitions;
                    ended += 1;
                }
            }
        }
        drop(log);
        match wait {
            _ if looked >= SCAN => Turn::Again,
            Some(retry) => Turn::Idle(retry),
            None if self.fetching || !self.ahead.is_empty() => Turn::Idle(self.retry),
            None => self.caught_up(now),
        }
    }

    fn caught_up(&mut self, now: Instant) -> Turn {
        match &self.told {
            Some((_, told)) if *told == self.cursor => return Turn::Idle(None),
            Some((at, _)) if now < *at + CAUGHT_UP_EVERY => return Turn::Idle(Some(*at + CAUGHT_UP_EVERY)),
            _ => {}
        }
        self.told = Some((now, self.cursor.clone()));
        Turn::Tell(Frame::CaughtUp(pb::CaughtUp {
            id: self.id,
            cursor: Some(self.cursor()),
        }))
    }

    /// The topic was made anew: a cursor that is now beyond its end is of another log.
    fn reset(&mut self, hub: &Hub) -> Turn {
        let log = hub.log();
        for partition in 0..log.partitions() {
            let from = self.cursor[partition as usize];
            if from > log.next(partition) {
                let base = log.base(partition);
                self.cursor[partition as usize] = base;
                // One gap a turn: the epoch stays as it was until the last.
                self.epoch = self.epoch.wrapping_sub(1);
                self.gap = Some(self.a_gap(partition, from, base, pb::GapReason::Reset));
                break;
            }
        }
        Turn::Again
    }

    fn wants(&self, record: &Record, grant: &Grant) -> bool {
        record.arrival_us >= self.not_before_us
            && grant.read.matches(&record.device)
            && self.devices.matches(&record.device)
    }

    /// What becomes of a record that is wanted.
    fn take(&self, record: &Record, hub: &Hub, live: bool) -> Turn {
        if !record.readable {
            let (from, to) = (record.offset, record.offset + 1);
            let gap = self.a_gap(record.partition, from, to, pb::GapReason::Unreadable);
            return Turn::Frame(Counted::of(Frame::Gap(gap), Kind::Gap));
        }
        match record.frame(&self.filter, &hub.limits) {
            Some(shared) => {
                let live_us = record.newest_us.filter(|_| live);
                let kind = Kind::Data {
                    shared: shared.hit,
                    live_us,
                };
                Turn::Frame(Counted {
                    frame: shared.frame,
                    kind,
                })
            }
            None => Turn::Again,
        }
    }

    fn a_gap(&self, partition: u32, from_offset: i64, to_offset: i64, reason: pb::GapReason) -> pb::Gap {
        pb::Gap {
            id: self.id,
            partition,
            from_offset,
            to_offset,
            reason: reason as i32,
        }
    }

    /// What came of a read. Returns what the client is to be told.
    pub fn fetched(
        &mut self,
        now: Instant,
        range: Range,
        result: Result<Chunk, catchup::Error>,
    ) -> Option<Frame> {
        self.fetching = false;
        let chunk = match result {
            Ok(chunk) => chunk,
            Err(error) => {
                self.retry = Some(now + RETRY);
                let first = !std::mem::replace(&mut self.failed, true);
                let message = format!("{error}; trying again");
                let code = pb::ErrorCode::Unavailable as i32;
                return first.then_some(Frame::Error(pb::ServerError {
                    id: self.id,
                    code,
                    message,
                    command: String::new(),
                }));
            }
        };
        (self.failed, self.retry) = (false, None);
        self.ahead.retain(|&partition| partition != range.partition);
        let cursor = &mut self.cursor[range.partition as usize];
        if *cursor != range.from {
            return None;
        }
        if range.from > chunk.high {
            *cursor = chunk.low;
            self.gap = Some(self.a_gap(range.partition, range.from, chunk.low, pb::GapReason::Reset));
        } else if range.from < chunk.low {
            *cursor = chunk.low;
            self.gap = Some(self.a_gap(range.partition, range.from, chunk.low, pb::GapReason::Retention));
        }
        if range.from <= chunk.high {
            let (partition, next) = (range.partition, chunk.next);
            self.chunk = Some(Read {
                partition,
                records: chunk.records.into(),
                next,
            });
        }
        None
    }

    /// The window has been closed for a while: what was read ahead is let go, the cursor stays.
    pub fn let_go(&mut self) {
        self.chunk = None;
    }
}

#[cfg(test)]
mod tests;
