//! Mode LATEST: the newest value per device and metric, at a bounded rate.

use std::time::{Duration, Instant};

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::{Counted, Kind, Turn};
use crate::gateway::budget::Held;
use crate::gateway::cache::Device;
use crate::gateway::deflate::prepared::Prepared;
use crate::gateway::filter::Globs;
use crate::gateway::hub::Hub;
use crate::gateway::token::Grant;

/// Devices looked at in one turn.
const SCAN: usize = 4096;

/// A subscription of mode LATEST.
///
/// Few changes are told in their order. More than go into a frame are told in a round over all devices: who changes again and again has its turn in it as
/// everyone has, however slow the client, where in the order of changes it would have moved on each time before its turn came.
#[derive(Debug)]
pub struct Latest {
    id: u32,
    devices: Globs,
    metrics: Globs,
    interval: Duration,
    due: Instant,
    /// The last change of the cache up to which all has been told, but for what the round has before it.
    seen: u64,
    round: Option<Round>,
    /// What is told are the values as they stood.
    snapshot: bool,
    /// Devices may be told of for the first time that are known since long.
    widened: bool,
    /// How many batches of each device, by slot, have been told or overwritten.
    told: Vec<u64>,
    /// What that takes.
    held: Held,
}

/// A way through the devices by slot.
#[derive(Debug)]
struct Round {
    next: u32,
    /// The last change when it began.
    until: u64,
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
        let (seen, round, told) = if snapshot {
            let (next, until) = (0, version);
            (0, Some(Round { next, until }), Vec::new())
        } else {
            (version, None, cache.batches())
        };
        held.set(told.capacity() * size_of::<u64>());
        Self {
            id,
            devices,
            metrics,
            interval,
            due: now,
            seen,
            round,
            snapshot,
            widened: false,
            told,
            held,
        }
    }

    /// See [`super::Subscription::change`]: what has been told of a device is known, so the others are told of.
    pub fn look_again(&mut self) {
        (self.seen, self.widened, self.due) = (0, true, Instant::now());
        // What remains of a snapshot is one still.
        self.round = self.round.take().filter(|_| self.snapshot);
        if let Some(round) = &mut self.round {
            round.next = 0;
        }
    }

    /// See [`super::Subscription::poll`].
    pub fn poll(&mut self, now: Instant, hub: &Hub, grant: &Grant, most: usize) -> Turn {
        if now < self.due && self.round.is_none() {
            return Turn::Idle(Some(self.due));
        }
        let cache = hub.cache();
        let mut parts = Parts::default();
        let mut more = false;
        if let Some(Round { next, .. }) = self.round {
            let slots = (next..cache.devices()).filter_map(|slot| Some((slot, cache.device(slot)?)));
            for (looked, (slot, device)) in slots.enumerate() {
                if parts.bytes() >= most || looked == SCAN {
                    more = true;
                    break;
                }
                self.take(slot, device, grant, &mut parts);
                if let Some(round) = &mut self.round {
                    round.next = slot + 1;
                }
            }
        } else {
            for (looked, (version, slot, device)) in cache.changes(self.seen).enumerate() {
                if parts.bytes() >= most || looked == SCAN {
                    more = true;
                    break;
                }
                self.take(slot, device, grant, &mut parts);
                self.seen = version;
            }
        }
        if more {
            let (next, until) = (0, cache.version());
            self.round.get_or_insert(Round { next, until });
        } else {
            self.seen = self.round.take().map_or(cache.version(), |round| round.until);
        }
        // What has changed since the round began has been announced, and nobody wakes for it again.
        let again = more || self.snapshot || cache.version() > self.seen;
        drop(cache);
        self.held.set(self.told.capacity() * size_of::<u64>());
        let snapshot = self.snapshot;
        self.snapshot &= more;
        if parts.is_empty() {
            return if again { Turn::Again } else { Turn::Idle(None) };
        }
        if !more && !snapshot {
            self.due = now + self.interval;
        }
        Turn::Frame(close(&parts, self.id, snapshot))
    }

    /// Enters what is new of a device, if it is wanted.
    fn take(&mut self, slot: u32, device: &Device, grant: &Grant, parts: &mut Parts) {
        let slot = slot as usize;
        if self.told.get(slot) == Some(&device.batches)
            || !grant.read.matches(&device.name)
            || !self.devices.matches(&device.name)
        {
            return;
        }
        if self.told.len() <= slot {
            self.told.resize(slot + 1, 0);
        }
        let told = std::mem::replace(&mut self.told[slot], device.batches);
        if let Some(batch) = device.batch(&self.metrics, told, i64::MAX) {
            // Of those before the first that is told nothing was overwritten: they were not this subscription's.
            let first = self.snapshot || self.widened && told == 0;
            let merged = if first { 1 } else { device.batches - told };
            parts.add(&batch, merged);
        }
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

#[cfg(test)]
mod tests {
    use super::super::all::tests::hub;
    use super::*;
    use crate::gateway::budget::Budget;
    use crate::gateway::record::tests::{batch, record};
    use headwater_proto::{Message as _, pb};
    use pb::server_frame::Frame;
    use std::collections::BTreeSet;
    use std::sync::Arc;

    /// Every device's next batch comes.
    fn come(hub: &Hub, round: i64, devices: i64) {
        let ledger = Arc::clone(hub.log().ledger());
        for device in 0..devices {
            let batch = batch(&format!("gw-{device:03}"), round as u64, round * 1_000_000);
            hub.cache_mut()
                .update(&record(0, round * devices + device, &batch, &ledger), &batch);
        }
    }

    fn latest(hub: &Hub, snapshot: bool, now: Instant) -> Latest {
        let held = Held::new(Budget::new(1 << 20, None));
        let interval = Duration::from_millis(500);
        Latest::new(1, Globs::All, Globs::All, interval, snapshot, now, (hub, held))
    }

    /// The devices of the next frame; whether it is of the snapshot.
    fn frame(latest: &mut Latest, now: Instant, hub: &Hub, grant: &Grant) -> Option<(Vec<String>, bool)> {
        loop {
            match latest.poll(now, hub, grant, 500) {
                Turn::Again => {}
                Turn::Frame(counted) => {
                    let frame = pb::ServerFrame::decode(counted.frame.plain()).unwrap();
                    let Some(Frame::Latest(latest)) = frame.frame else {
                        panic!("{frame:?}")
                    };
                    let names = latest.batches.into_iter().map(|batch| batch.device);
                    return Some((names.collect(), latest.snapshot));
                }
                _ => return None,
            }
        }
    }

    #[test]
    fn on_a_slow_link_everyone_has_a_turn_though_all_of_them_change_all_the_time() {
        let (hub, mut now) = (hub(), Instant::now());
        let grant = hub.keys.check(None).unwrap();
        come(&hub, 1, 200);
        let mut latest = latest(&hub, true, now);
        let (mut snapshot, mut told) = (BTreeSet::new(), BTreeSet::new());
        // Every second all of them change, and the link takes one small frame.
        for round in 2..150 {
            come(&hub, round, 200);
            now += Duration::from_secs(1);
            let (names, of_snapshot) = frame(&mut latest, now, &hub, &grant).unwrap();
            assert!(names.len() < 20, "{}", names.len());
            if of_snapshot {
                snapshot.extend(names);
            } else {
                told.extend(names);
            }
        }
        assert_eq!(snapshot.len(), 200, "the values as they stood");
        assert_eq!(told.len(), 200, "and each one's changes");
    }

    #[test]
    fn what_does_not_fit_follows_at_once_and_nothing_comes_twice() {
        let (hub, now) = (hub(), Instant::now());
        let grant = hub.keys.check(None).unwrap();
        come(&hub, 1, 200);
        let mut latest = latest(&hub, false, now);
        assert_eq!(frame(&mut latest, now, &hub, &grant), None, "nothing is new");
        come(&hub, 2, 200);
        let mut told = BTreeSet::new();
        while let Some((names, of_snapshot)) = frame(&mut latest, now, &hub, &grant) {
            assert!(!of_snapshot);
            for name in names {
                assert!(told.insert(name));
            }
        }
        assert_eq!(told.len(), 200);
    }
}
