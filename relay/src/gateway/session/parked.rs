//! Subscriptions whose partitions nobody has watched so far: they begin once these are read.

use std::time::{Duration, Instant};

use headwater_proto::pb;
use pb::start::At;

use super::{Session, Waiting, earliest};
use crate::gateway::watch::Watching;

/// After this long a client is told that Kafka is waited for.
const TELL: Duration = Duration::from_secs(5);

/// A subscription that waits for its partitions.
#[derive(Debug)]
pub(super) struct Parked {
    subscribe: pb::Subscribe,
    /// When its client is told; `None`: it has been.
    tell: Option<Instant>,
}

impl Parked {
    pub(super) fn new(subscribe: pb::Subscribe, now: Instant) -> Self {
        let tell = Some(now + TELL);
        Self { subscribe, tell }
    }
}

/// Whether its partitions are read as far as it needs.
pub(super) fn may_begin(subscribe: &pb::Subscribe, watching: &Watching) -> bool {
    let at = subscribe.start.as_ref().and_then(|start| start.at.as_ref());
    match (subscribe.mode(), at) {
        // What is fetched later would never come to it: it is data of before.
        (pb::Mode::All, Some(At::Snapshot(_))) => watching.is_whole(),
        _ => watching.is_awake(),
    }
}

impl Session {
    /// Begins the subscriptions whose partitions are read by now. Returns when to look again at the others.
    pub(super) fn rise(&mut self, now: Instant) -> Option<Instant> {
        let (mut risen, mut late, mut wake) = (Vec::new(), Vec::new(), None);
        for (&id, entry) in &mut self.subscriptions {
            let Waiting::Parked(parked) = &mut entry.subscription else {
                continue;
            };
            if may_begin(&parked.subscribe, &entry.watching) {
                risen.push(std::mem::take(&mut parked.subscribe));
            } else if parked.tell.is_some_and(|tell| tell <= now) {
                parked.tell = None;
                late.push(id);
            } else {
                wake = earliest(wake, parked.tell);
            }
        }
        for id in late {
            let why = "Kafka has not been read up to its end yet; it is waited for".to_string();
            self.error(id, pb::ErrorCode::Unavailable, why);
        }
        for subscribe in risen {
            // The token may be another by now: all is looked at anew.
            let id = subscribe.id;
            self.subscribe(subscribe, now);
            if let Some(Waiting::Parked(_)) = self.subscriptions.get(&id).map(|entry| &entry.subscription) {
                // It was refused.
                self.remove(id);
            }
        }
        wake
    }
}
