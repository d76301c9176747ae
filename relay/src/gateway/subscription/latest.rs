//! Mode LATEST: the newest value per device and metric, at a bounded rate.

use std::time::{Duration, Instant};

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::{Counted, Kind, Turn};
use crate::gateway::budget::Held;
use crate::gateway::deflate::prepared::Prepared;
use crate::gateway::filter::Globs;
use crate::gateway::hub::Hub;
use crate::gateway::token::Grant;

/// Devices looked at in one turn.
const SCAN: usize = 4096;

/// A subscription of mode LATEST.
#[derive(Debug)]
pub struct Latest {
    id: u32,
    devices: Globs,
    metrics: Globs,
    interval: Duration,
    due: Instant,
    /// The last change of the cache that was looked at.
    seen: u64,
    /// Up to this change it is the snapshot.
    snapshot: u64,
    /// How many batches of each device, by slot, have been told or overwritten.
    told: Vec<u64>,
    /// What that takes.
    held: Held,
}

impl Latest {
    /// From now on, or from the values as they stand.
    pub fn new(
        id: u32,
        devices: Globs,
        metrics: Globs,
        interval: Duration,
        snapshot: bool,
        now: Instant,
        (hub, mut held): (&Hub, Held),
    ) -> Self {
        let cache = hub.cache();
        let version = cache.version();
        let (seen, snapshot, told) = if snapshot {
            (0, version, Vec::new())
        } else {
            (version, 0, cache.batches())
        };
        held.set(told.capacity() * size_of::<u64>());
        Self {
            id,
            devices,
            metrics,
            interval,
            due: now,
            seen,
            snapshot,
            told,
            held,
        }
    }

    /// See [`super::Subscription::change`]: what has been told of a device is known, so the others are told of.
    pub fn look_again(&mut self) {
        (self.seen, self.snapshot, self.due) = (0, 0, Instant::now());
    }

    /// See [`super::Subscription::poll`].
    pub fn poll(&mut self, now: Instant, hub: &Hub, grant: &Grant, most: usize) -> Turn {
        let in_snapshot = self.seen < self.snapshot;
        if now < self.due && !in_snapshot {
            return Turn::Idle(Some(self.due));
        }
        let cache = hub.cache();
        let mut parts = Parts::default();
        let mut more = false;
        for (looked, (version, slot, device)) in cache.changes(self.seen).enumerate() {
            // The snapshot's frames hold nothing else.
            if in_snapshot && version > self.snapshot {
                break;
            }
            if parts.bytes() >= most || looked == SCAN {
                more = true;
                break;
            }
            self.seen = version;
            if !grant.read.matches(&device.name) || !self.devices.matches(&device.name) {
                continue;
            }
            let slot = slot as usize;
            if self.told.len() <= slot {
                self.told.resize(slot + 1, 0);
            }
            let told = std::mem::replace(&mut self.told[slot], device.batches);
            if let Some(batch) = device.batch(&self.metrics, told, i64::MAX) {
                let merged = if in_snapshot { 1 } else { device.batches - told };
                parts.add(&batch, merged);
            }
        }
        drop(cache);
        self.held.set(self.told.capacity() * size_of::<u64>());
        if in_snapshot && !more {
            // Devices that have changed since come as changes.
            self.seen = self.seen.max(self.snapshot);
        }
        if parts.is_empty() {
            return if more || in_snapshot {
                Turn::Again
            } else {
                Turn::Idle(None)
            };
        }
        if !in_snapshot {
            self.due = now + self.interval;
        }
        Turn::Frame(close(&parts, self.id, in_snapshot))
    }
}

/// A `Latest` frame in the making: its batches are encoded already.
#[derive(Debug, Default)]
pub(super) struct Parts {
    batches: Vec<u8>,
    merged: u64,
}

impl Parts {
    /// An encoded batch that so many went into.
    pub(super) fn add(&mut self, batch: &[u8], merged: u64) {
        encode_key(2, WireType::LengthDelimited, &mut self.batches);
        encode_varint(batch.len() as u64, &mut self.batches);
        self.batches.extend_from_slice(batch);
        self.merged += merged;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.batches.len()
    }
}

/// `ServerFrame { latest: Latest { id, batches, merged, snapshot } }`.
pub(super) fn close(parts: &Parts, id: u32, snapshot: bool) -> Counted {
    let mut tail = Vec::with_capacity(16);
    encode_key(1, WireType::Varint, &mut tail);
    encode_varint(u64::from(id), &mut tail);
    encode_key(3, WireType::Varint, &mut tail);
    encode_varint(parts.merged.min(u64::from(u32::MAX)), &mut tail);
    encode_key(4, WireType::Varint, &mut tail);
    encode_varint(u64::from(snapshot), &mut tail);
    let length = (parts.batches.len() + tail.len()) as u64;
    let mut frame = Vec::with_capacity(length as usize + 2 + encoded_len_varint(length));
    encode_key(17, WireType::LengthDelimited, &mut frame);
    encode_varint(length, &mut frame);
    frame.extend_from_slice(&parts.batches);
    frame.extend_from_slice(&tail);
    Counted {
        frame: std::sync::Arc::new(Prepared::new(frame)),
        kind: Kind::Merged,
    }
}
