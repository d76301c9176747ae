//! Mode PRESENCE: the fleet as it stands, then its changes, at a bounded rate.

use std::time::{Duration, Instant};

use headwater_proto::{Message as _, pb};
use pb::server_frame::Frame;

use super::{Counted, Kind, Turn};
use crate::gateway::filter::Globs;
use crate::gateway::hub::Hub;
use crate::gateway::token::Grant;

/// Devices looked at in one turn.
const SCAN: usize = 4096;

/// A subscription of mode PRESENCE.
#[derive(Debug)]
pub struct Presence {
    id: u32,
    devices: Globs,
    interval: Duration,
    due: Instant,
    /// The last change of the fleet that was looked at.
    seen: u64,
    /// Up to this change it is the snapshot; `None`: that is complete.
    snapshot: Option<u64>,
    /// The token of before, and up to which change its devices have been told.
    before: Option<(Globs, u64)>,
}

impl Presence {
    /// Of these devices.
    pub fn new(id: u32, devices: Globs, interval: Duration, now: Instant, hub: &Hub) -> Self {
        let snapshot = Some(hub.fleet().version());
        Self {
            id,
            devices,
            interval,
            due: now,
            seen: 0,
            snapshot,
            before: None,
        }
    }

    /// See [`super::Subscription::change`]: all are gone through again, and those told of left out.
    pub fn look_again(&mut self, before: &Grant) {
        // Where that was under way, some are told of twice, which is harmless.
        self.before = self.before.is_none().then(|| (before.read.clone(), self.seen));
        self.seen = 0;
        self.due = Instant::now();
    }

    /// See [`super::Subscription::poll`].
    pub fn poll(&mut self, now: Instant, hub: &Hub, grant: &Grant, most: usize) -> Turn {
        if now < self.due && self.snapshot.is_none() {
            return Turn::Idle(Some(self.due));
        }
        let fleet = hub.fleet();
        let (mut devices, mut bytes, mut more) = (Vec::new(), 0, false);
        for (looked, (version, name)) in fleet.changes(self.seen).enumerate() {
            if self.snapshot.is_some_and(|snapshot| version > snapshot) {
                break;
            }
            if bytes >= most || looked == SCAN {
                more = true;
                break;
            }
            self.seen = version;
            if !grant.read.matches(name) || !self.devices.matches(name) {
                continue;
            }
            if let Some((before, seen)) = &self.before
                && version <= *seen
                && before.matches(name)
            {
                continue;
            }
            let presence = fleet
                .presence(name)
                .filter(|told| self.snapshot.is_none() || !told.removed);
            if let Some(presence) = presence {
                bytes += presence.encoded_len() + 4;
                devices.push(presence);
            }
        }
        drop(fleet);
        if !more {
            self.before = None;
        }
        let snapshot = self.snapshot.is_some();
        if devices.is_empty() && (more || !snapshot) {
            return if more { Turn::Again } else { Turn::Idle(None) };
        }
        if let (Some(until), false) = (self.snapshot, more) {
            self.seen = self.seen.max(until);
            self.snapshot = None;
        }
        if self.snapshot.is_none() {
            self.due = now + self.interval;
        }
        let snapshot_complete = snapshot && !more;
        let frame = pb::Presence {
            id: self.id,
            devices,
            snapshot,
            snapshot_complete,
        };
        Turn::Frame(Counted::of(Frame::Presence(frame), Kind::Merged))
    }
}
