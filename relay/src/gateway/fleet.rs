//! The fleet as this gateway sees it: each device's state from `headwater.devices`, and its rates from the telemetry.
//!
//! As in the cache, each device has one place in an order of changes, and a subscriber remembers how far it has come.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use headwater_proto::pb;

/// Rates are over this many whole seconds, of which the present one is none yet: a batch a second, or every ten, makes a steady rate.
const SECONDS: usize = 20;
/// How long a device that was removed is still told of, microseconds.
const REMOVED_US: i64 = 600_000_000;

/// The fleet.
#[derive(Debug, Default)]
pub struct Fleet {
    devices: BTreeMap<Arc<str>, Device>,
    changes: BTreeMap<u64, Arc<str>>,
    version: u64,
    complete: bool,
}

#[derive(Debug, Default)]
struct Device {
    state: pb::DeviceState,
    removed_us: Option<i64>,
    version: u64,
    /// Second, readings and batches of the last [`SECONDS`] seconds of arrivals, and of the present one.
    buckets: Vec<(i64, u32, u32)>,
    first_arrival_us: i64,
    last_arrival_us: i64,
    newest_us: i64,
    /// Something came, or a rate moved, since the last tick.
    stirred: bool,
    rates: (f64, f64),
}

impl Fleet {
    /// A device's state from Kafka; `None`: its record was deleted.
    pub fn state(&mut self, name: &str, state: Option<pb::DeviceState>, now_us: i64) {
        let (name, mut device) = self.take(name);
        let before = (device.state.clone(), device.removed_us.is_some());
        match state {
            Some(state) => {
                device.state = state;
                device.removed_us = None;
            }
            None => device.removed_us = Some(now_us),
        }
        // A state that says nothing new but "heard of it again" waits for the tick.
        let mut quiet = before.0;
        quiet.last_seen_us = device.state.last_seen_us;
        quiet.newest_offset_plus_1 = device.state.newest_offset_plus_1;
        quiet.positions.clone_from(&device.state.positions);
        let changed = device.version == 0 || quiet != device.state || before.1 != device.removed_us.is_some();
        device.stirred |= !changed;
        self.put(name, device, changed);
    }

    /// A batch of a device came.
    pub fn seen(&mut self, name: &str, readings: usize, arrival_us: i64, newest_us: Option<i64>) {
        let (name, mut device) = self.take(name);
        if device.last_arrival_us == 0 {
            device.first_arrival_us = arrival_us;
        }
        device.last_arrival_us = device.last_arrival_us.max(arrival_us);
        device.newest_us = device.newest_us.max(newest_us.unwrap_or(i64::MIN));
        let second = arrival_us.div_euclid(1_000_000);
        match device.buckets.iter_mut().find(|bucket| bucket.0 == second) {
            Some(bucket) => (bucket.1, bucket.2) = (bucket.1.saturating_add(readings as u32), bucket.2 + 1),
            None => device.buckets.push((second, readings as u32, 1)),
        }
        if device.buckets.len() > SECONDS + 1 {
            device.buckets.remove(0);
        }
        device.stirred = true;
        let changed = device.version == 0;
        self.put(name, device, changed);
    }

    /// Once a second: works the rates out, and puts what stirred into the order of changes.
    pub fn tick(&mut self, now_us: i64) {
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        for (name, device) in &mut self.devices {
            if device
                .removed_us
                .is_some_and(|removed| now_us - removed > REMOVED_US)
            {
                gone.push(Arc::clone(name));
                continue;
            }
            // Whoever writes into Kafka may have a clock that is ahead of this one's.
            let now = now_us.max(device.last_arrival_us).div_euclid(1_000_000);
            device.buckets.retain(|bucket| bucket.0 >= now - SECONDS as i64);
            let first = device.first_arrival_us.div_euclid(1_000_000);
            let whole = (now - first).clamp(0, SECONDS as i64);
            // Of a device that came just now there is nothing else.
            let counted = |bucket: &&(i64, u32, u32)| whole == 0 || bucket.0 < now;
            let per_second = |count: u32| f64::from(count) / whole.max(1) as f64;
            let counted = device.buckets.iter().filter(counted);
            let (readings, batches) = counted.fold((0_u32, 0), |(readings, batches), bucket| {
                (readings.saturating_add(bucket.1), batches + bucket.2)
            });
            let rates = (per_second(readings), per_second(batches));
            if std::mem::take(&mut device.stirred) || rates != device.rates {
                device.rates = rates;
                changed.push(Arc::clone(name));
            }
        }
        for name in gone {
            if let Some(device) = self.devices.remove(&name) {
                self.changes.remove(&device.version);
            }
        }
        for name in changed {
            if let Some(device) = self.devices.get_mut(&name) {
                self.changes.remove(&device.version);
                self.version += 1;
                device.version = self.version;
                self.changes.insert(self.version, name);
            }
        }
    }

    fn take(&mut self, name: &str) -> (Arc<str>, Device) {
        self.devices
            .remove_entry(name)
            .unwrap_or_else(|| (Arc::from(name), Device::default()))
    }

    fn put(&mut self, name: Arc<str>, mut device: Device, changed: bool) {
        if changed {
            self.changes.remove(&device.version);
            self.version += 1;
            device.version = self.version;
            self.changes.insert(self.version, Arc::clone(&name));
        }
        self.devices.insert(name, device);
    }

    /// All states that stood in Kafka at the start have been read.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// Whether [`Fleet::complete`].
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The number of the latest change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Devices, and how many of them are online.
    pub fn count(&self) -> (usize, usize) {
        (
            self.devices.len(),
            self.devices.values().filter(|device| device.state.online).count(),
        )
    }

    /// Offsets of the devices' newest batches in the telemetry: (device, offset).
    pub fn newest_offsets(&self) -> impl Iterator<Item = (&Arc<str>, i64)> {
        let offset = |device: &Device| device.state.newest_offset_plus_1 - 1;
        self.devices
            .iter()
            .filter(move |(_, device)| device.removed_us.is_none() && offset(device) >= 0)
            .map(move |(name, device)| (name, offset(device)))
    }

    /// The devices that changed after `version`, each at its latest change, in that order.
    pub fn changes(&self, version: u64) -> impl Iterator<Item = (u64, &Arc<str>)> {
        self.changes
            .range(version + 1..)
            .map(|(&version, name)| (version, name))
    }

    /// The devices by name, beginning behind `after`: each with the number of its latest change.
    pub fn behind<'a>(
        &'a self,
        after: Option<&Arc<str>>,
    ) -> impl Iterator<Item = (u64, &'a Arc<str>)> + use<'a> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.devices.range::<Arc<str>, _>((from, Bound::Unbounded));
        behind.map(|(name, device)| (device.version, name))
    }

    /// What is told of a device.
    pub fn presence(&self, name: &str) -> Option<pb::DevicePresence> {
        let device = self.devices.get(name)?;
        let state = &device.state;
        let lag = device.last_arrival_us.saturating_sub(device.newest_us);
        Some(pb::DevicePresence {
            device: name.to_string(),
            online: state.online && device.removed_us.is_none(),
            since_us: state.since_us,
            last_seen_us: state.last_seen_us.max(device.last_arrival_us),
            agent: state.agent.clone(),
            waiting: state.waiting,
            lost_readings: state.lost_readings,
            readings_per_s: device.rates.0,
            batches_per_s: device.rates.1,
            lag_us: if device.newest_us > 0 { lag } else { 0 },
            removed: device.removed_us.is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000;

    fn state(online: bool, last_seen_us: i64) -> Option<pb::DeviceState> {
        Some(pb::DeviceState {
            online,
            last_seen_us,
            newest_offset_plus_1: 8,
            ..Default::default()
        })
    }

    fn names(fleet: &Fleet, version: u64) -> Vec<String> {
        fleet.changes(version).map(|(_, name)| name.to_string()).collect()
    }

    #[test]
    fn a_change_of_state_is_told_at_once_and_hearing_again_with_the_tick() {
        let mut fleet = Fleet::default();
        fleet.state("a", state(true, 1), S);
        fleet.state("b", state(true, 1), S);
        assert_eq!(names(&fleet, 0), ["a", "b"]);
        let version = fleet.version();
        fleet.state("a", state(true, 2), 2 * S);
        assert_eq!(names(&fleet, version), [""; 0]);
        fleet.tick(2 * S);
        assert_eq!(names(&fleet, version), ["a"]);
        assert_eq!(fleet.presence("a").unwrap().last_seen_us, 2);
        fleet.state("b", state(false, 3), 3 * S);
        assert_eq!(names(&fleet, version), ["a", "b"]);
        assert_eq!(fleet.count(), (2, 1));
        assert_eq!(fleet.newest_offsets().count(), 2);
    }

    #[test]
    fn a_device_that_was_removed_is_told_of_and_forgotten_later() {
        let mut fleet = Fleet::default();
        fleet.state("a", state(true, 1), S);
        fleet.state("a", None, 2 * S);
        let presence = fleet.presence("a").unwrap();
        assert!(presence.removed && !presence.online);
        fleet.tick(3 * S + REMOVED_US);
        assert!(fleet.presence("a").is_none());
        assert_eq!(names(&fleet, 0), [""; 0]);
    }

    #[test]
    fn rates_are_steady_and_fall_to_zero() {
        let mut fleet = Fleet::default();
        let t0 = 1_000 * S;
        for second in 0..100 {
            if second % 10 == 0 {
                fleet.seen("a", 80, t0 + second * S, Some(t0 + second * S - 300_000));
            }
            fleet.tick(t0 + second * S);
            if second >= SECONDS as i64 {
                let presence = fleet.presence("a").unwrap();
                assert_eq!(
                    (presence.readings_per_s, presence.batches_per_s),
                    (8.0, 0.1),
                    "at {second}"
                );
                assert_eq!(presence.lag_us, 300_000);
            }
        }
        fleet.tick(t0 + 130 * S);
        assert_eq!(fleet.presence("a").unwrap().readings_per_s, 0.0);
        let version = fleet.version();
        fleet.tick(t0 + 131 * S);
        assert_eq!(fleet.version(), version, "nothing moves any more");
    }

    #[test]
    fn a_batch_a_second_is_a_rate_of_one_whenever_in_the_second_it_comes() {
        for tick in [0, 400_000, 999_999] {
            let mut fleet = Fleet::default();
            for second in 100..160 {
                // Before the tick, or after it.
                let early = 300_000 <= tick;
                if early {
                    fleet.seen("a", 8, second * S + 300_000, None);
                }
                fleet.tick(second * S + tick);
                if !early {
                    fleet.seen("a", 8, second * S + 300_000, None);
                }
                if second > 101 {
                    let presence = fleet.presence("a").unwrap();
                    assert_eq!((presence.readings_per_s, presence.batches_per_s), (8.0, 1.0));
                }
            }
        }
    }

    #[test]
    fn a_bridge_whose_clock_is_ahead_changes_no_rate() {
        let mut fleet = Fleet::default();
        for second in 100..160 {
            fleet.seen("a", 8, (second + 90) * S, None);
            fleet.tick(second * S + 500_000);
            assert!(second < 102 || fleet.presence("a").unwrap().readings_per_s == 8.0);
        }
        fleet.tick(300 * S);
        assert_eq!(fleet.presence("a").unwrap().readings_per_s, 0.0);
    }

    #[test]
    fn a_new_device_has_a_rate_at_once() {
        let mut fleet = Fleet::default();
        for second in 0..3 {
            fleet.seen("a", 10, (100 + second) * S, None);
        }
        fleet.tick(103 * S);
        assert_eq!(fleet.presence("a").unwrap().readings_per_s, 10.0);
        fleet.seen("b", 10, 103 * S, None);
        fleet.tick(103 * S + 100);
        assert_eq!(fleet.presence("b").unwrap().readings_per_s, 10.0);
    }
}
