//! The newest value of every metric of every device, as this gateway has seen it.
//!
//! Subscribers keep no queue of changes: each device has a place in one order of changes, and a subscriber remembers how
//! far in that order it has come, and per device how many batches it has been told of.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use headwater_proto::{Batch, Body, Clock, Column, Readings, Value, Values, protobuf};

use super::filter::Globs;
use super::record::Record;

/// What a metric costs in memory, roughly, beside its strings.
const METRIC_BYTES: usize = 160;
/// What a device costs.
const DEVICE_BYTES: usize = 300;
/// A reading this far ahead of its arrival has a wrong clock, and does not hold its place against later ones.
const AHEAD_US: i64 = 60_000_000;

/// The cache.
#[derive(Debug)]
pub struct Cache {
    slots: Vec<Device>,
    by_name: HashMap<Arc<str>, u32>,
    /// change → slot: each device once, at its latest change.
    changes: BTreeMap<u64, u32>,
    version: u64,
    bytes: usize,
    capacity: usize,
    refused: u64,
}

/// A device's newest values.
#[derive(Debug)]
pub struct Device {
    /// Its name.
    pub name: Arc<str>,
    /// Its partition.
    pub partition: u32,
    /// Batches that have come, beginning with 1.
    pub batches: u64,
    version: u64,
    stream: u64,
    seq: u64,
    newest_offset: i64,
    metrics: Vec<Metric>,
}

#[derive(Debug)]
struct Metric {
    name: Arc<str>,
    unit: Arc<str>,
    time_us: i64,
    value: Value,
    suspect: bool,
    uncertain: bool,
    arrival_us: i64,
    /// The record it came in.
    offset: i64,
    /// Which of the device's batches that was.
    batch: u64,
}

impl Cache {
    /// Empty, holding up to about `capacity` bytes. What comes beyond is not kept.
    pub fn new(capacity: usize) -> Self {
        Self {
            slots: Vec::new(),
            by_name: HashMap::new(),
            changes: BTreeMap::new(),
            version: 0,
            bytes: 0,
            capacity,
            refused: 0,
        }
    }

    /// A record, newer or older than what is known of its device: per metric the newer reading stays.
    pub fn update(&mut self, record: &Record, batch: &Batch) {
        let Body::Readings(readings) = &batch.body else {
            return;
        };
        let Some(slot) = self.slot(record) else { return };
        let device = &mut self.slots[slot as usize];
        device.batches += 1;
        if record.offset >= device.newest_offset {
            device.newest_offset = record.offset;
            (device.stream, device.seq) = (batch.stream, batch.seq);
        }
        let room = self.capacity.saturating_sub(self.bytes);
        let (grown, refused) = device.take(record, readings, room);
        self.bytes += grown;
        self.refused += refused;
        self.changes.remove(&device.version);
        self.version += 1;
        device.version = self.version;
        self.changes.insert(self.version, slot);
    }

    fn slot(&mut self, record: &Record) -> Option<u32> {
        if let Some(&slot) = self.by_name.get(&record.device) {
            return Some(slot);
        }
        if self.bytes + DEVICE_BYTES > self.capacity {
            self.refused += 1;
            return None;
        }
        self.bytes += DEVICE_BYTES + record.device.len();
        let slot = self.slots.len() as u32;
        self.by_name.insert(Arc::clone(&record.device), slot);
        self.slots.push(Device {
            name: Arc::clone(&record.device),
            partition: record.partition,
            batches: 0,
            version: 0,
            stream: 0,
            seq: 0,
            newest_offset: -1,
            metrics: Vec::new(),
        });
        Some(slot)
    }

    /// A device that is gone: its values are forgotten.
    pub fn forget(&mut self, name: &str) {
        let Some(&slot) = self.by_name.get(name) else {
            return;
        };
        let device = &mut self.slots[slot as usize];
        self.bytes -= device.metrics.iter().map(Metric::bytes).sum::<usize>();
        device.metrics = Vec::new();
    }

    /// Values of a partition are not known any more: newer ones may have been passed over.
    pub fn forget_partition(&mut self, partition: u32) {
        for device in self
            .slots
            .iter_mut()
            .filter(|device| device.partition == partition)
        {
            self.bytes -= device.metrics.iter().map(Metric::bytes).sum::<usize>();
            device.metrics = Vec::new();
            device.newest_offset = -1;
        }
    }

    /// The number of the latest change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Devices known.
    pub fn devices(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Bytes held, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Values and devices that found no room.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The offset of the newest record known of a device.
    pub fn newest_offset(&self, device: &str) -> Option<i64> {
        self.by_name
            .get(device)
            .map(|&slot| self.slots[slot as usize].newest_offset)
    }

    /// How many batches have come of each device: what a subscriber that starts now has "seen".
    pub fn batches(&self) -> Vec<u64> {
        self.slots.iter().map(|device| device.batches).collect()
    }

    /// The devices that changed after `version`, each at its latest change, in that order: (change, slot, device).
    pub fn changes(&self, version: u64) -> impl Iterator<Item = (u64, u32, &Device)> {
        self.changes
            .range(version + 1..)
            .map(|(&version, &slot)| (version, slot, &self.slots[slot as usize]))
    }

    /// A device by its slot.
    pub fn device(&self, slot: u32) -> Option<&Device> {
        self.slots.get(slot as usize)
    }
}

impl Device {
    /// The readings of a batch, as far as `room` bytes go. Returns by how many bytes the device grew, and how many
    /// metrics found no room.
    fn take(&mut self, record: &Record, readings: &Readings, room: usize) -> (usize, u64) {
        let (mut grown, mut refused) = (0, 0);
        for column in &readings.columns {
            let Some(times) = readings.times.get(column.times as usize) else {
                continue;
            };
            // The last of those with the greatest time.
            let newest = (0..times.len().min(column.values.len())).max_by_key(|&index| times[index]);
            let Some(index) = newest else { continue };
            let (time_us, value) = (times[index], value(&column.values, index));
            let known = self
                .metrics
                .iter()
                .position(|metric| *metric.name == *column.metric);
            if let Some(place) = known {
                let old = &self.metrics[place];
                let ahead = old.time_us > old.arrival_us.saturating_add(AHEAD_US) || old.uncertain;
                let newer = (time_us, record.offset) >= (old.time_us, old.offset);
                if !(newer || ahead && record.offset > old.offset) {
                    continue;
                }
            }
            let unit = match known.map(|place| &self.metrics[place].unit) {
                Some(unit) if **unit == *column.unit => Arc::clone(unit),
                _ => Arc::from(column.unit.as_str()),
            };
            let name = match known.map(|place| &self.metrics[place].name) {
                Some(name) => Arc::clone(name),
                None => Arc::from(column.metric.as_str()),
            };
            let metric = Metric {
                name,
                unit,
                time_us,
                value,
                suspect: column.suspect.contains(&(index as u32)),
                uncertain: readings.clock == Clock::Uncertain,
                arrival_us: record.arrival_us,
                offset: record.offset,
                batch: self.batches,
            };
            let before = known.map_or(0, |place| self.metrics[place].bytes());
            if metric.bytes() > before && grown + metric.bytes() - before > room {
                refused += 1;
                continue;
            }
            grown = (grown + metric.bytes()).saturating_sub(before);
            match known {
                Some(place) => self.metrics[place] = metric,
                None => self.metrics.push(metric),
            }
        }
        (grown, refused)
    }

    /// A `headwater.v1.Batch` of the newest values of these metrics, one reading a column: those that came after
    /// `after_batch` batches and stand before the offset `before`. `None` where there is none.
    pub fn batch(&self, metrics: &Globs, after_batch: u64, before: i64) -> Option<Vec<u8>> {
        let mut readings = Readings::default();
        let mut places: HashMap<i64, u32> = HashMap::new();
        for metric in &self.metrics {
            if metric.batch <= after_batch || metric.offset >= before || !metrics.matches(&metric.name) {
                continue;
            }
            let times = *places.entry(metric.time_us).or_insert_with(|| {
                readings.times.push(vec![metric.time_us]);
                readings.times.len() as u32 - 1
            });
            if metric.uncertain {
                readings.clock = Clock::Uncertain;
            }
            readings.columns.push(Column {
                metric: metric.name.to_string(),
                unit: metric.unit.to_string(),
                times,
                values: match &metric.value {
                    Value::F64(value) => Values::F64(vec![*value]),
                    Value::I64(value) => Values::I64(vec![*value]),
                    Value::Bool(value) => Values::Bool(vec![*value]),
                    Value::String(value) => Values::String(vec![value.clone()]),
                },
                suspect: if metric.suspect { vec![0] } else { vec![] },
            });
        }
        if readings.columns.is_empty() {
            return None;
        }
        let body = Body::Readings(readings);
        let batch = Batch {
            device: self.name.to_string(),
            stream: self.stream,
            seq: self.seq,
            body,
        };
        Some(protobuf::encode(&batch))
    }
}

impl Metric {
    fn bytes(&self) -> usize {
        let text = if let Value::String(text) = &self.value {
            text.len()
        } else {
            0
        };
        METRIC_BYTES + self.name.len() + self.unit.len() + text
    }
}

fn value(values: &Values, index: usize) -> Value {
    match values {
        Values::F64(values) => Value::F64(values[index]),
        Values::I64(values) => Value::I64(values[index]),
        Values::Bool(values) => Value::Bool(values[index]),
        Values::String(values) => Value::String(values[index].clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{batch, record};
    use super::*;
    use headwater_proto::Limits;

    fn update(cache: &mut Cache, offset: i64, batch: &Batch) {
        cache.update(&record(0, offset, batch, &Arc::default()), batch);
    }

    fn read(bytes: &[u8]) -> Vec<(String, i64, Value)> {
        let batch = protobuf::decode(bytes, &Limits::default()).unwrap();
        let Body::Readings(readings) = batch.body else {
            panic!()
        };
        let mut out: Vec<_> = readings
            .columns
            .iter()
            .map(|c| {
                (
                    c.metric.clone(),
                    readings.times[c.times as usize][0],
                    value(&c.values, 0),
                )
            })
            .collect();
        out.sort_by(|a, b| a.0.cmp(&b.0));
        out
    }

    #[test]
    fn the_newest_reading_of_each_metric_stays() {
        let mut cache = Cache::new(1 << 20);
        update(&mut cache, 5, &batch("gw", 2, 9_000_000));
        // A backlog that drains later, and a batch of before.
        update(&mut cache, 6, &batch("gw", 1, 4_000_000));
        update(&mut cache, 1, &batch("gw", 1, 3_000_000));
        let device = cache.device(0).unwrap();
        assert_eq!((device.batches, cache.newest_offset("gw")), (3, Some(6)));
        assert_eq!(
            read(&device.batch(&Globs::All, 0, i64::MAX).unwrap()),
            [
                ("door".to_string(), 8_500_000, Value::Bool(true)),
                ("hum".to_string(), 9_000_000, Value::I64(2)),
                ("temp".to_string(), 9_000_000, Value::F64(2.0)),
            ]
        );
    }

    #[test]
    fn a_clock_that_was_ahead_does_not_hold_its_place() {
        let mut cache = Cache::new(1 << 20);
        // The record's arrival is 1 s; the readings claim a day later.
        update(&mut cache, 1, &batch("gw", 1, 86_400_000_000));
        update(&mut cache, 2, &batch("gw", 2, 1_000_000));
        let values = read(&cache.device(0).unwrap().batch(&Globs::All, 0, i64::MAX).unwrap());
        assert_eq!(values[2], ("temp".to_string(), 1_000_000, Value::F64(2.0)));
    }

    #[test]
    fn changes_come_once_each_and_in_order() {
        let mut cache = Cache::new(1 << 20);
        for (offset, device) in [(1, "a"), (2, "b"), (3, "c"), (4, "a")] {
            update(&mut cache, offset, &batch(device, 1, offset * 1_000_000));
        }
        let names = |version| {
            cache
                .changes(version)
                .map(|(_, _, d)| d.name.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(0), ["b", "c", "a"]);
        assert_eq!(names(2), ["c", "a"]);
        assert_eq!(names(cache.version()), [""; 0]);
        assert_eq!(cache.batches(), [2, 1, 1]);
    }

    #[test]
    fn what_was_told_and_what_comes_later_is_left_out() {
        let mut cache = Cache::new(1 << 20);
        update(&mut cache, 5, &batch("gw", 1, 1_000_000));
        let device = cache.device(0).unwrap();
        assert!(device.batch(&Globs::All, 1, i64::MAX).is_none(), "told already");
        assert!(device.batch(&Globs::All, 0, 5).is_none(), "to come as data");
        assert!(device.batch(&Globs::none(), 0, i64::MAX).is_none());
    }

    #[test]
    fn bounded() {
        let mut cache = Cache::new(3000);
        for device in 0..100 {
            update(&mut cache, device, &batch(&format!("gw-{device}"), 1, 1_000_000));
        }
        assert!(cache.bytes() <= 3000 + 20 && cache.devices() < 10 && cache.refused() > 90);
        let before = cache.bytes();
        cache.forget("gw-0");
        assert!(cache.bytes() < before);
        assert!(cache.device(0).unwrap().batch(&Globs::All, 0, i64::MAX).is_none());
    }
}
