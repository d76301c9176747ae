//! Mode PRESENCE: the fleet as it stands, then its changes, at a bounded rate.

use std::sync::Arc;
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
///
/// Few changes are told in their order. More than go into a frame are told in a round over the whole fleet by name: who changes again and again has its turn in it
/// as everyone has, however slow the client, where in the order of changes the same ones would always come first. Who changes during a round, before its turn, is
/// told of in it as it is then, and once more by that change.
#[derive(Debug)]
pub struct Presence {
    id: u32,
    devices: Globs,
    interval: Duration,
    due: Instant,
    /// The last change of the fleet up to which all has been told, but for what the round has before it.
    seen: u64,
    round: Option<Round>,
    /// What is told is the fleet as it stood.
    snapshot: bool,
    /// The token of before, and up to which change its devices have been told.
    before: Option<(Globs, u64)>,
}

/// A way through the fleet by name.
#[derive(Debug)]
struct Round {
    /// The last device that was looked at.
    after: Option<Arc<str>>,
    /// The last change when it began.
    until: u64,
}

impl Presence {
    /// Of these devices.
    pub fn new(id: u32, devices: Globs, interval: Duration, now: Instant, hub: &Hub) -> Self {
        let until = hub.fleet().version();
        Self {
            id,
            devices,
            interval,
            due: now,
            seen: 0,
            round: Some(Round { after: None, until }),
            snapshot: true,
            before: None,
        }
    }

    /// See [`super::Subscription::change`]: all are gone through again, and those told of left out.
    pub fn look_again(&mut self, before: &Grant) {
        // Where that was under way, some are told of twice, which is harmless.
        self.before = self.before.is_none().then(|| (before.read.clone(), self.seen));
        (self.seen, self.round, self.due) = (0, None, Instant::now());
    }

    /// See [`super::Subscription::poll`].
    pub fn poll(&mut self, now: Instant, hub: &Hub, grant: &Grant, most: usize) -> Turn {
        if now < self.due && self.round.is_none() {
            return Turn::Idle(Some(self.due));
        }
        let fleet = hub.fleet();
        let (mut devices, mut bytes, mut more) = (Vec::new(), 0, false);
        let next: Box<dyn Iterator<Item = (u64, &Arc<str>)>> = match &self.round {
            Some(round) => Box::new(fleet.behind(round.after.as_ref())),
            None => Box::new(fleet.changes(self.seen)),
        };
        let since = self.seen;
        for (looked, (version, name)) in next.enumerate() {
            if bytes >= most || looked == SCAN {
                more = true;
                break;
            }
            match &mut self.round {
                Some(round) => round.after = Some(Arc::clone(name)),
                None => self.seen = version,
            }
            if version <= since || !grant.read.matches(name) || !self.devices.matches(name) {
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
                .filter(|told| !self.snapshot || !told.removed);
            if let Some(presence) = presence {
                bytes += presence.encoded_len() + 4;
                devices.push(presence);
            }
        }
        if more {
            let until = fleet.version();
            self.round.get_or_insert(Round { after: None, until });
        } else {
            self.seen = self.round.take().map_or(fleet.version(), |round| round.until);
            self.before = None;
        }
        // What has changed since the round began has been announced, and nobody wakes for it again.
        let again = more || fleet.version() > self.seen;
        drop(fleet);
        if devices.is_empty() && (more || !self.snapshot) {
            return if again { Turn::Again } else { Turn::Idle(None) };
        }
        let snapshot = self.snapshot;
        if !more {
            self.snapshot = false;
            self.due = now + self.interval;
        }
        let frame = pb::Presence {
            id: self.id,
            devices,
            snapshot,
            snapshot_complete: snapshot && !more,
        };
        Turn::Frame(Counted::of(Frame::Presence(frame), Kind::Merged))
    }
}

#[cfg(test)]
mod tests {
    use super::super::all::tests::hub;
    use super::*;
    use std::collections::BTreeSet;

    const S: i64 = 1_000_000;

    fn devices(turn: Turn) -> Option<pb::Presence> {
        let Turn::Frame(counted) = turn else { return None };
        let frame: pb::ServerFrame = pb::ServerFrame::decode(counted.frame.plain()).unwrap();
        match frame.frame {
            Some(Frame::Presence(presence)) => Some(presence),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn on_a_slow_link_everyone_has_a_turn_though_all_of_them_change_all_the_time() {
        let (hub, mut now) = (hub(), Instant::now());
        let grant = hub.keys.check(None).unwrap();
        let stir = |second: i64| {
            let mut fleet = hub.fleet_mut();
            for device in 0..200 {
                let at = (1000 + second) * S;
                fleet.seen(&format!("gw-{device:03}"), 10, at, Some(at));
            }
            fleet.tick((1000 + second) * S);
        };
        stir(0);
        let interval = Duration::from_millis(500);
        let mut presence = Presence::new(1, Globs::All, interval, now, &hub);
        let (mut snapshot, mut told) = (BTreeSet::new(), BTreeSet::new());
        // Every second all of them change, and the link takes one small frame.
        for second in 1..100 {
            stir(second);
            now += Duration::from_secs(1);
            let frame = loop {
                match presence.poll(now, &hub, &grant, 500) {
                    Turn::Again => {}
                    turn => break devices(turn).unwrap(),
                }
            };
            assert!(frame.devices.len() < 20, "{}", frame.devices.len());
            let names = frame.devices.into_iter().map(|device| device.device);
            if frame.snapshot {
                snapshot.extend(names);
            } else {
                told.extend(names);
            }
        }
        assert_eq!(snapshot.len(), 200, "the fleet as it stood");
        assert_eq!(told.len(), 200, "and each of its changes' devices");
    }

    #[test]
    fn what_does_not_fit_follows_at_once_and_nothing_comes_twice() {
        let (hub, now) = (hub(), Instant::now());
        let grant = hub.keys.check(None).unwrap();
        let interval = Duration::from_secs(3600);
        let mut presence = Presence::new(1, Globs::All, interval, now, &hub);
        assert!(
            devices(presence.poll(now, &hub, &grant, 500))
                .unwrap()
                .snapshot_complete
        );
        for device in 0..200 {
            hub.fleet_mut()
                .seen(&format!("gw-{device:03}"), 10, 1000 * S, None);
        }
        let mut told = BTreeSet::new();
        let later = now + interval;
        while let Some(frame) = devices(presence.poll(later, &hub, &grant, 500)) {
            assert!(!frame.snapshot);
            for device in frame.devices {
                assert!(told.insert(device.device));
            }
        }
        assert_eq!(told.len(), 200);
        assert!(matches!(presence.poll(later, &hub, &grant, 500), Turn::Idle(Some(due)) if due > later));
    }
}
