//! Mode ALL: every batch in order, from a cursor.

use std::sync::Arc;
use std::time::Instant;

use headwater_proto::pb;
use pb::server_frame::Frame;

use super::cursor::{self, Beginning, Cursor, Next};
use super::latest::{Parts, close};
use super::{CaughtUp, Counted, Kind, Live, Turn};
use crate::gateway::catchup::{self, Chunk, Range};
use crate::gateway::filter::{Filter, Globs};
use crate::gateway::hub::Hub;
use crate::gateway::record::Record;
use crate::gateway::token::Grant;

/// Devices looked at in one turn of a snapshot.
const SCAN: u32 = 4096;

/// A subscription of mode ALL.
#[derive(Debug)]
pub struct All {
    id: u32,
    devices: Globs,
    filter: Arc<Filter>,
    cursor: Cursor,
    snapshot: Option<Snapshot>,
    caught_up: CaughtUp,
}

/// How far a snapshot has come: slots of the cache in order. A value that came after the cursor was taken is left out;
/// it comes as data.
#[derive(Debug)]
struct Snapshot {
    next: u32,
    end: u32,
    before: Vec<i64>,
}

impl All {
    /// From a beginning.
    pub fn new(id: u32, devices: Globs, filter: Arc<Filter>, beginning: Beginning, hub: &Hub) -> Self {
        let snapshot = beginning.snapshot.then(|| Snapshot {
            next: 0,
            end: hub.cache().devices(),
            before: beginning.positions.clone(),
        });
        Self {
            id,
            devices,
            filter,
            cursor: Cursor::new(id, beginning, hub),
            snapshot,
            caught_up: CaughtUp::default(),
        }
    }

    /// The number of its metric filter.
    pub fn filter(&self) -> u32 {
        self.filter.number
    }

    /// Its cursor, as the client sees it: where to go on from. `None`: the snapshot is not complete.
    pub fn cursor(&self) -> Option<pb::Cursor> {
        self.snapshot
            .is_none()
            .then(|| cursor::whole(&self.cursor.positions()))
    }

    /// See [`super::Subscription::poll`].
    pub fn poll(&mut self, now: Instant, hub: &Hub, grant: &Grant, most: usize) -> Turn {
        if self.snapshot.is_some() {
            return self.snapshot(hub, grant, most);
        }
        let devices = &self.devices;
        let wants = |record: &Record| grant.read.matches(&record.device) && devices.matches(&record.device);
        match self.cursor.next(now, hub, wants) {
            Next::Record(record, live) => self.take(&record, hub, live),
            Next::Gap(gap) => Turn::Frame(Counted::of(Frame::Gap(gap), Kind::Gap)),
            Next::Read(range) => Turn::Read(range),
            Next::Again => Turn::Again,
            Next::Idle(until) => Turn::Idle(until),
            Next::End => self.caught_up.poll(now, self.id, self.cursor.positions()),
        }
    }

    fn snapshot(&mut self, hub: &Hub, grant: &Grant, most: usize) -> Turn {
        let Some(snapshot) = &mut self.snapshot else {
            return Turn::Again;
        };
        let cache = hub.cache();
        let mut parts = Parts::default();
        let end = snapshot.end.min(snapshot.next.saturating_add(SCAN));
        while snapshot.next < end && parts.bytes() < most {
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

    /// What becomes of a record that is wanted.
    fn take(&self, record: &Record, hub: &Hub, live: bool) -> Turn {
        if !record.readable {
            let gap = self.cursor.unreadable(record);
            return Turn::Frame(Counted::of(Frame::Gap(gap), Kind::Gap));
        }
        match record.frame(&self.filter, &hub.limits) {
            Some(shared) => {
                let live = live.then_some(Live {
                    arrival_us: record.arrival_us,
                    newest_us: record.newest_us,
                });
                let kind = Kind::Data {
                    shared: shared.hit,
                    live,
                };
                Turn::Frame(Counted {
                    frame: shared.frame,
                    kind,
                })
            }
            None => Turn::Again,
        }
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

    /// The window has been closed for a while: what was read ahead is let go, the cursor stays.
    pub fn let_go(&mut self) {
        self.cursor.let_go();
    }
}

#[cfg(test)]
pub(super) mod tests;
