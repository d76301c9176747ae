//! Where a subscription stands in the log, and how it reads on: from memory, and from Kafka where memory no longer reaches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_proto::pb;
use pb::server_frame::Frame;

use crate::gateway::catchup::{self, Chunk, Range};
use crate::gateway::hub::Hub;
use crate::gateway::log::Place;
use crate::gateway::record::Record;

/// Records looked at in one turn, so that one that matches nothing leaves room for others.
const SCAN: usize = 256;
/// The position in a partition that is not watched.
const NOWHERE: i64 = -1;
/// How long after a failed read the next is tried.
const RETRY: Duration = Duration::from_secs(1);

/// Where a subscription starts.
#[derive(Clone, Debug, Default)]
pub struct Beginning {
    /// The next offset of each partition; negative: it is not read.
    pub positions: Vec<i64>,
    /// What arrived before is left out, microseconds.
    pub not_before_us: Option<i64>,
    /// The newest values first.
    pub snapshot: bool,
    /// The partitions in which anything can match, ascending; `None`: all.
    pub watched: Option<Vec<u32>>,
}

impl Beginning {
    /// Where nothing can match there is no position.
    pub fn leave_out(&mut self) {
        let Some(watched) = &self.watched else { return };
        for (partition, position) in (0..).zip(&mut self.positions) {
            if !watched.contains(&partition) {
                *position = NOWHERE;
            }
        }
    }
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Next {
    /// A record that is wanted; whether it comes from the end of the log in memory.
    Record(Arc<Record>, bool),
    /// What cannot be had.
    Gap(pb::Gap),
    /// This is to be read from Kafka, and handed to [`Cursor::fetched`].
    Read(Range),
    /// Nothing came of this turn, but the next may.
    Again,
    /// Kafka is waited for, or until then.
    Idle(Option<Instant>),
    /// Everything there is has been handed out.
    End,
}

/// A position in every partition.
#[derive(Debug)]
pub(super) struct Cursor {
    id: u32,
    /// The next offset of each partition.
    positions: Vec<i64>,
    /// The partitions in which anything can match.
    watched: Vec<u32>,
    /// Those whose position lies beyond the log in memory: Kafka is asked whether it can be.
    ahead: Vec<u32>,
    not_before_us: i64,
    /// Of which log each position is; and as of which epoch of all together this is known.
    epochs: Vec<u64>,
    epoch: u64,
    /// Not yet handed out; its partition's position is beyond it already.
    gap: Option<pb::Gap>,
    /// Read from Kafka, and not yet handed out.
    chunk: Option<Read>,
    fetching: bool,
    failed: bool,
    retry: Option<Instant>,
    /// Whose turn it is, an index into `watched`.
    turn: usize,
}

#[derive(Debug)]
struct Read {
    partition: u32,
    records: VecDeque<Arc<Record>>,
    next: i64,
}

impl Cursor {
    /// From a beginning, for the subscription `id`.
    pub(super) fn new(id: u32, beginning: Beginning, hub: &Hub) -> Self {
        let log = hub.log();
        let watched = beginning
            .watched
            .unwrap_or_else(|| (0..log.partitions()).collect());
        let ahead = watched
            .iter()
            .copied()
            .filter(|&p| beginning.positions[p as usize] > log.next(p))
            .collect();
        Self {
            id,
            watched,
            ahead,
            not_before_us: beginning.not_before_us.unwrap_or(i64::MIN),
            positions: beginning.positions,
            epochs: (0..log.partitions()).map(|p| log.epoch_of(p)).collect(),
            epoch: log.epoch(),
            gap: None,
            chunk: None,
            fetching: false,
            failed: false,
            retry: None,
            turn: 0,
        }
    }

    /// The next offset of each partition: all before has been handed out.
    pub(super) fn positions(&self) -> Vec<i64> {
        let mut positions = self.positions.clone();
        if let Some(gap) = &self.gap {
            positions[gap.partition as usize] = gap.from_offset;
        }
        positions
    }

    /// What comes next of what is wanted.
    pub(super) fn next(&mut self, now: Instant, hub: &Hub, wants: impl Fn(&Record) -> bool) -> Next {
        if let Some(gap) = self.gap.take() {
            return Next::Gap(gap);
        }
        if let Some(gap) = self.reset(hub) {
            return Next::Gap(gap);
        }
        if self.chunk.is_some() {
            return self.read_on(wants);
        }
        if let Some(next) = self.ask(now) {
            return next;
        }
        self.live(now, hub, wants)
    }

    /// The next record that is wanted, if it is in memory; all else is left for later.
    pub(super) fn next_in_memory(
        &mut self,
        hub: &Hub,
        wants: impl Fn(&Record) -> bool,
    ) -> Option<Arc<Record>> {
        if self.gap.is_some() || self.chunk.is_some() || self.fetching {
            return None;
        }
        for &partition in &self.watched {
            let position = &mut self.positions[partition as usize];
            loop {
                // Of much that nobody wants some at a time: the log's writer waits.
                let log = hub.log();
                if log.epoch() != self.epoch {
                    return None;
                }
                for _ in 0..SCAN {
                    let Place::At(record) = log.place(partition, *position) else {
                        break;
                    };
                    *position = record.offset + 1;
                    if record.arrival_us >= self.not_before_us && wants(&record) {
                        return Some(record);
                    }
                }
                if !matches!(log.place(partition, *position), Place::At(_)) {
                    break;
                }
            }
        }
        None
    }

    /// Hands out what was read from Kafka.
    fn read_on(&mut self, wants: impl Fn(&Record) -> bool) -> Next {
        let Some(read) = &mut self.chunk else {
            return Next::Again;
        };
        for _ in 0..SCAN {
            let Some(record) = read.records.pop_front() else {
                self.positions[read.partition as usize] = read.next;
                self.chunk = None;
                break;
            };
            self.positions[record.partition as usize] = record.offset + 1;
            if record.arrival_us >= self.not_before_us && wants(&record) {
                return Next::Record(record, false);
            }
        }
        Next::Again
    }

    /// Asks for a read where a position lies beyond the log in memory.
    fn ask(&mut self, now: Instant) -> Option<Next> {
        if self.retry.is_some_and(|retry| now < retry) || self.fetching {
            return None;
        }
        let partition = *self.ahead.first()?;
        self.fetching = true;
        Some(Next::Read(Range {
            partition,
            from: self.positions[partition as usize],
            until: i64::MAX,
        }))
    }

    fn live(&mut self, now: Instant, hub: &Hub, wants: impl Fn(&Record) -> bool) -> Next {
        let log = hub.log();
        let (mut looked, mut ended, mut wait) = (0, 0, None);
        while ended < self.watched.len() && looked < SCAN {
            let partition = self.watched[self.turn % self.watched.len()];
            let position = &mut self.positions[partition as usize];
            // The next partition's turn, so that a busy one leaves room.
            self.turn = (self.turn + 1) % self.watched.len();
            match log.place(partition, *position) {
                Place::At(record) => {
                    *position = record.offset + 1;
                    looked += 1;
                    ended = 0;
                    if record.arrival_us >= self.not_before_us && wants(&record) {
                        return Next::Record(record, true);
                    }
                }
                Place::Behind(base) => {
                    let from = *position;
                    let ready = self.retry.is_none_or(|retry| now >= retry);
                    if !self.fetching && ready {
                        self.fetching = true;
                        return Next::Read(Range {
                            partition,
                            from,
                            until: base,
                        });
                    }
                    wait = wait.or(Some(self.retry));
                    ended += 1;
                }
                Place::End(next) => {
                    *position = next;
                    ended += 1;
                }
            }
        }
        match wait {
            _ if looked >= SCAN => Next::Again,
            Some(retry) => Next::Idle(retry),
            None if self.fetching || !self.ahead.is_empty() => Next::Idle(self.retry),
            None => Next::End,
        }
    }

    /// Where the topic was made anew, a position of before is of another log, and all of the new one is to come; a partition at a time.
    fn reset(&mut self, hub: &Hub) -> Option<pb::Gap> {
        let log = hub.log();
        if log.epoch() == self.epoch {
            return None;
        }
        for at in 0..self.watched.len() {
            let partition = self.watched[at];
            let known = std::mem::replace(&mut self.epochs[partition as usize], log.epoch_of(partition));
            if known == self.epochs[partition as usize] {
                continue;
            }
            let from = std::mem::replace(&mut self.positions[partition as usize], 0);
            self.ahead.retain(|&ahead| ahead != partition);
            self.chunk = self.chunk.take().filter(|read| read.partition != partition);
            // At the beginning of one log it is at the beginning of the other.
            if from > 0 {
                return Some(self.a_gap(partition, from, 0, pb::GapReason::Reset));
            }
        }
        self.epoch = log.epoch();
        None
    }

    /// The gap in the place of a record that cannot be read.
    pub(super) fn unreadable(&self, record: &Record) -> pb::Gap {
        let (from, to) = (record.offset, record.offset + 1);
        self.a_gap(record.partition, from, to, pb::GapReason::Unreadable)
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
    pub(super) fn fetched(
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
                return first.then(|| {
                    Frame::Error(pb::ServerError {
                        id: self.id,
                        code: pb::ErrorCode::Unavailable as i32,
                        message: format!("{error}; trying again"),
                        ..pb::ServerError::default()
                    })
                });
            }
        };
        (self.failed, self.retry) = (false, None);
        self.ahead.retain(|&partition| partition != range.partition);
        let position = &mut self.positions[range.partition as usize];
        if *position != range.from {
            return None;
        }
        if range.from > chunk.high {
            *position = chunk.low;
            self.gap = Some(self.a_gap(range.partition, range.from, chunk.low, pb::GapReason::Reset));
        } else if range.from < chunk.low {
            *position = chunk.low;
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

    /// The window has been closed for a while: what was read ahead is let go, the position stays.
    pub(super) fn let_go(&mut self) {
        self.chunk = None;
    }
}

/// Positions as the client sees them: those there are.
pub(in crate::gateway) fn message(positions: impl IntoIterator<Item = (usize, i64)>) -> pb::Cursor {
    let position = |(partition, offset)| pb::PartitionOffset {
        partition: partition as u32,
        offset,
    };
    pb::Cursor {
        positions: positions
            .into_iter()
            .filter(|&(_, offset)| offset > NOWHERE)
            .map(position)
            .collect(),
    }
}

/// Every partition's position as the client sees them.
pub(in crate::gateway) fn whole(positions: &[i64]) -> pb::Cursor {
    message(positions.iter().copied().enumerate())
}
