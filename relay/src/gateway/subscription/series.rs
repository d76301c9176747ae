//! Mode SERIES: readings in buckets of time, from a cursor.
//!
//! Records are taken into [`Buckets`] and these go out in one frame, all that is held, with the cursor after it: so a
//! connection that breaks off is gone on with as if it had not, at whatever gateway. History is read only as fast as frames go out,
//! in buckets of the width that was asked for. At the end of the log records are taken in while the window is closed
//! too, and buckets widen; where that cannot bound what is held, or others hold all that may be held, the cursor waits.

use std::time::{Duration, Instant};

use headwater_proto::{pb, protobuf};
use pb::server_frame::Frame;

use super::cursor::{self, Beginning, Cursor, Next};
use super::{CaughtUp, Counted, Kind, Turn};
use crate::gateway::buckets::{Buckets, HELD_BYTES};
use crate::gateway::budget::Held;
use crate::gateway::catchup::{self, Chunk, Range};
use crate::gateway::filter::Globs;
use crate::gateway::hub::Hub;
use crate::gateway::record::Record;
use crate::gateway::token::Grant;

/// Records taken in in one turn: each is decoded, and others want their turn.
const TAKEN: usize = 32;
/// Frames come once in a bucket's width, within these bounds.
const OFTENEST: Duration = Duration::from_millis(50);
const RAREST: Duration = Duration::from_secs(1);

/// A subscription of mode SERIES.
#[derive(Debug)]
pub struct Series {
    id: u32,
    devices: Globs,
    metrics: Globs,
    every: Duration,
    due: Instant,
    buckets: Buckets,
    /// What they take.
    held: Held,
    cursor: Cursor,
    /// The cursor that the client knows.
    told: Vec<i64>,
    /// To be told once what was before it has gone out.
    gap: Option<pb::Gap>,
    /// History has been told.
    live: bool,
    /// All there was has gone out.
    at_end: bool,
    caught_up: CaughtUp,
}

impl Series {
    /// From a beginning, in buckets of that width.
    pub fn new(
        id: u32,
        (devices, metrics): (Globs, Globs),
        interval: Duration,
        beginning: Beginning,
        now: Instant,
        (hub, held): (&Hub, Held),
    ) -> Self {
        let width_us = i64::try_from(interval.as_micros()).unwrap_or(i64::MAX);
        Self {
            id,
            devices,
            metrics,
            every: interval.clamp(OFTENEST, RAREST),
            due: now,
            buckets: Buckets::new(width_us),
            held,
            told: beginning.positions.clone(),
            cursor: Cursor::new(id, beginning, hub),
            gap: None,
            live: false,
            at_end: false,
            caught_up: CaughtUp::default(),
        }
    }

    /// Its cursor, as the client sees it: all before has gone out.
    pub fn cursor(&self) -> pb::Cursor {
        cursor::whole(&self.told)
    }

    /// See [`super::Subscription::poll`].
    pub fn poll(&mut self, now: Instant, hub: &Hub, grant: &Grant, most: usize) -> Turn {
        if self.at_end {
            self.at_end = false;
            let turn = self.caught_up.poll(now, self.id, self.told.clone());
            if matches!(turn, Turn::Tell(_)) {
                return turn;
            }
        }
        for _ in 0..TAKEN {
            // Where nothing more may be held, what is held goes out at once.
            let due = self.live && now >= self.due || self.held.is_spent();
            if due && !self.buckets.is_empty() || self.buckets.frame_bytes() >= most {
                return self.frame(now);
            }
            if let Some(gap) = self.gap.take() {
                if !self.buckets.is_empty() {
                    self.gap = Some(gap);
                    return self.frame(now);
                }
                self.told[gap.partition as usize] = gap.to_offset;
                return Turn::Frame(Counted::of(Frame::Gap(gap), Kind::Gap));
            }
            let devices = &self.devices;
            let wants =
                |record: &Record| grant.read.matches(&record.device) && devices.matches(&record.device);
            match self.cursor.next(now, hub, wants) {
                Next::Record(record, _) => self.take(&record, hub),
                Next::Gap(gap) => self.gap = Some(gap),
                Next::Read(range) => return Turn::Read(range),
                Next::Again => return Turn::Again,
                Next::Idle(until) if self.buckets.is_empty() || !self.live => return Turn::Idle(until),
                Next::Idle(until) => {
                    return Turn::Idle(Some(until.map_or(self.due, |until| until.min(self.due))));
                }
                Next::End => return self.end(now),
            }
        }
        Turn::Again
    }

    /// All there is has been taken in.
    fn end(&mut self, now: Instant) -> Turn {
        let history = !std::mem::replace(&mut self.live, true);
        if self.buckets.is_empty() {
            self.told = self.cursor.positions();
            return self.caught_up.poll(now, self.id, self.told.clone());
        }
        if history || now >= self.due {
            self.at_end = true;
            return self.frame(now);
        }
        Turn::Idle(Some(self.due))
    }

    fn take(&mut self, record: &Record, hub: &Hub) {
        if !record.readable {
            self.gap = Some(self.cursor.unreadable(record));
        } else if let Ok(batch) = protobuf::decode(&record.batch(), &hub.limits) {
            self.buckets.add(&batch, &self.metrics, record.arrival_us);
            self.held.set(self.buckets.held());
        }
    }

    /// All that is held, and the cursor after it.
    fn frame(&mut self, now: Instant) -> Turn {
        self.due = now + self.every;
        let mut positions = self.cursor.positions();
        if let Some(gap) = &self.gap {
            positions[gap.partition as usize] = gap.from_offset;
        }
        let before = std::mem::replace(&mut self.told, positions);
        let moved = self.told.iter().copied().enumerate();
        let moved = moved.filter(|&(partition, offset)| offset != before[partition]);
        let taken = self.buckets.take();
        self.held.set(self.buckets.held());
        let frame = Frame::Series(pb::SeriesFrame {
            id: self.id,
            columns: taken.columns,
            merged: taken.merged,
            cursor: Some(cursor::message(moved)),
            losses: taken.losses,
        });
        Turn::Frame(Counted::of(frame, Kind::Merged))
    }

    /// See [`super::Subscription::change`].
    pub fn narrow(&mut self, grant: &Grant) {
        self.buckets.retain(|device| grant.read.matches(device));
        self.held.set(self.buckets.held());
    }

    /// The window is closed: takes in what is in memory, in buckets as wide as they must be. Returns whether there is more.
    pub fn closed(&mut self, hub: &Hub, grant: &Grant) -> bool {
        if !self.live {
            return false;
        }
        for _ in 0..TAKEN {
            self.buckets.settle();
            self.held.set(self.buckets.held());
            if self.held.is_spent() {
                self.buckets.settle_for_less();
                self.held.set(self.buckets.held());
            }
            if self.gap.is_some() || self.buckets.held() >= HELD_BYTES || self.held.is_spent() {
                return false;
            }
            let devices = &self.devices;
            let wants =
                |record: &Record| grant.read.matches(&record.device) && devices.matches(&record.device);
            match self.cursor.next_in_memory(hub, wants) {
                Some(record) => self.take(&record, hub),
                None => return false,
            }
        }
        true
    }

    /// What came of a read. Returns what the client is to be told.
    pub fn fetched(
        &mut self,
        now: Instant,
        range: Range,
        result: Result<Chunk, catchup::Error>,
    ) -> Option<Frame> {
        self.cursor.fetched(now, range, result)
    }

    /// The window has been closed for a while: what was read ahead is let go, cursor and buckets stay.
    pub fn let_go(&mut self) {
        self.cursor.let_go();
    }
}

#[cfg(test)]
mod tests;
