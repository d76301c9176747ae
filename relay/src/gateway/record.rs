//! One record of the telemetry topic, with the frames made of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use headwater_proto::{Batch, Body, Limits, Message as _, pb, protobuf};

use super::deflate::prepared::Prepared;
use super::filter::Filter;

/// What a record holds beside its bytes, while it is in memory.
const OVERHEAD: usize = 400;

/// Filters beyond this many per record are served, but not kept.
const KEPT_FILTERS: usize = 32;

/// A record, and its frames: one per metric filter, each made when first wanted, once for all.
#[derive(Debug)]
pub struct Record {
    /// The partition.
    pub partition: u32,
    /// The offset.
    pub offset: i64,
    /// The record's timestamp, microseconds: when the bridge took it in.
    pub arrival_us: i64,
    /// The device: the batch's, or the key of a record that cannot be read.
    pub device: Arc<str>,
    /// Time of the newest reading, microseconds; `None` where there is none.
    pub newest_us: Option<i64>,
    /// Whether the batch could be decoded.
    pub readable: bool,
    /// Whether it is a loss record: that concerns every metric.
    loss: bool,
    /// The frame without a filter; the batch stands at its end.
    whole: Arc<Prepared>,
    batch_bytes: usize,
    /// By the filter's serial.
    filtered: Mutex<Vec<(u64, Arc<Made>)>>,
    weight: AtomicUsize,
    ledger: Arc<AtomicUsize>,
}

type Made = OnceLock<Option<Arc<Prepared>>>;

/// A frame of a record, and whether it had been made before.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The frame.
    pub frame: Arc<Prepared>,
    /// Made for somebody else before.
    pub hit: bool,
}

impl Record {
    /// Of what Kafka holds, with the decoded batch beside it. `ledger` counts the bytes that records hold.
    pub fn new(
        (partition, offset, arrival_us): (u32, i64, i64),
        key: &[u8],
        batch: &[u8],
        limits: &Limits,
        ledger: &Arc<AtomicUsize>,
    ) -> (Self, Option<Batch>) {
        let decoded = protobuf::decode(batch, limits)
            .ok()
            .filter(|decoded| !decoded.device.is_empty());
        let device = match &decoded {
            Some(decoded) => Arc::from(decoded.device.as_str()),
            None => Arc::from(String::from_utf8_lossy(key).as_ref()),
        };
        let whole = frame(0, (partition, offset, arrival_us), batch);
        // Compressed forms count for half.
        let weight = OVERHEAD + whole.len() * 3 / 2;
        ledger.fetch_add(weight, Ordering::Relaxed);
        let record = Self {
            partition,
            offset,
            arrival_us,
            device,
            newest_us: decoded.as_ref().and_then(newest),
            readable: decoded.is_some(),
            loss: decoded
                .as_ref()
                .is_some_and(|decoded| matches!(decoded.body, Body::Loss(_))),
            whole: Arc::new(whole),
            batch_bytes: batch.len(),
            filtered: Mutex::default(),
            weight: AtomicUsize::new(weight),
            ledger: Arc::clone(ledger),
        };
        (record, decoded)
    }

    /// The batch as it stands in Kafka.
    pub fn batch(&self) -> Bytes {
        let plain = self.whole.plain();
        plain.slice(plain.len() - self.batch_bytes..)
    }

    /// Bytes of the batch as it stands in Kafka.
    pub fn batch_bytes(&self) -> usize {
        self.batch_bytes
    }

    /// The frame for a filter; `None` where nothing of the batch passes it.
    pub fn frame(&self, filter: &Filter, limits: &Limits) -> Option<Shared> {
        if filter.number == 0 {
            return Some(Shared {
                frame: Arc::clone(&self.whole),
                hit: true,
            });
        }
        let slot = {
            let mut filtered = self.filtered.lock().unwrap_or_else(PoisonError::into_inner);
            match filtered.iter().find(|(serial, _)| *serial == filter.serial) {
                Some((_, made)) => Arc::clone(made),
                None => {
                    let made = Arc::new(Made::new());
                    if filtered.len() < KEPT_FILTERS {
                        filtered.push((filter.serial, Arc::clone(&made)));
                    }
                    made
                }
            }
        };
        let mut hit = true;
        let make = || {
            hit = false;
            let frame = self.make(filter, limits)?;
            let weight = OVERHEAD / 2 + frame.len() * 3 / 2;
            self.weight.fetch_add(weight, Ordering::Relaxed);
            self.ledger.fetch_add(weight, Ordering::Relaxed);
            Some(Arc::new(frame))
        };
        let frame = slot.get_or_init(make).clone();
        frame.map(|frame| Shared { frame, hit })
    }

    fn make(&self, filter: &Filter, limits: &Limits) -> Option<Prepared> {
        let at = (self.partition, self.offset, self.arrival_us);
        if filter.metrics.is_all() || self.loss {
            return Some(frame(filter.number, at, &self.batch()));
        }
        let mut batch = protobuf::decode(&self.batch(), limits).ok()?;
        let Body::Readings(readings) = &mut batch.body else {
            return None;
        };
        readings
            .columns
            .retain(|column| filter.metrics.matches(&column.metric));
        if readings.columns.is_empty() {
            return None;
        }
        // Time columns that no column uses any more go too.
        let mut times = Vec::new();
        let mut places: Vec<Option<u32>> = vec![None; readings.times.len()];
        for column in &mut readings.columns {
            let place = places.get_mut(column.times as usize)?;
            column.times = *place.get_or_insert_with(|| {
                times.push(std::mem::take(&mut readings.times[column.times as usize]));
                times.len() as u32 - 1
            });
        }
        readings.times = times;
        Some(frame(filter.number, at, &protobuf::encode(&batch)))
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.ledger
            .fetch_sub(self.weight.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

fn frame(filter: u32, (partition, offset, arrival_us): (u32, i64, i64), batch: &[u8]) -> Prepared {
    let data = pb::Data {
        filter,
        partition,
        offset,
        arrival_us,
        batch: batch.to_vec(),
    };
    Prepared::new(
        pb::ServerFrame {
            frame: Some(pb::server_frame::Frame::Data(data)),
        }
        .encode_to_vec(),
    )
}

fn newest(batch: &Batch) -> Option<i64> {
    match &batch.body {
        Body::Readings(readings) => readings.times.iter().flatten().max().copied(),
        Body::Loss(_) => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::gateway::filter::Filters;
    use headwater_proto::{Column, Loss, LossReason, Readings, Values};

    /// A batch with two time columns: `temp` and `hum` share one, `door` has its own.
    pub(crate) fn batch(device: &str, seq: u64, at_us: i64) -> Batch {
        let column = |metric: &str, times, values| Column {
            metric: metric.into(),
            unit: String::new(),
            times,
            values,
            suspect: vec![],
        };
        let columns = vec![
            column("door", 0, Values::Bool(vec![seq.is_multiple_of(2)])),
            column("temp", 1, Values::F64(vec![20.5, seq as f64])),
            column("hum", 1, Values::I64(vec![40, seq as i64])),
        ];
        let times = vec![vec![at_us - 500_000], vec![at_us - 1_000_000, at_us]];
        let body = Body::Readings(Readings {
            times,
            columns,
            ..Readings::default()
        });
        Batch {
            device: device.into(),
            stream: 7,
            seq,
            body,
        }
    }

    pub(crate) fn record(partition: u32, offset: i64, batch: &Batch, ledger: &Arc<AtomicUsize>) -> Record {
        let bytes = protobuf::encode(batch);
        let (record, decoded) = Record::new(
            (partition, offset, 1_000_000),
            b"key",
            &bytes,
            &Limits::default(),
            ledger,
        );
        assert_eq!(decoded.as_ref(), Some(batch));
        record
    }

    fn data(shared: &Shared) -> pb::Data {
        match pb::ServerFrame::decode(shared.frame.plain()).unwrap().frame {
            Some(pb::server_frame::Frame::Data(data)) => data,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_a_filter_the_batch_stands_as_in_kafka() {
        let ledger = Arc::default();
        let batch = batch("gw-1", 3, 5_000_000);
        let record = record(2, 9, &batch, &ledger);
        assert_eq!(record.newest_us, Some(5_000_000));
        let filter = Filters::default().get(&[], 0).unwrap();
        let data = data(&record.frame(&filter, &Limits::default()).unwrap());
        assert_eq!(
            (data.filter, data.partition, data.offset, data.arrival_us),
            (0, 2, 9, 1_000_000)
        );
        assert_eq!(data.batch, protobuf::encode(&batch));
        assert_eq!(data.batch, record.batch());
    }

    #[test]
    fn a_filter_takes_the_other_columns_and_their_times_away_once() {
        let ledger = Arc::default();
        let (limits, filters) = (Limits::default(), Filters::default());
        let record = record(0, 1, &batch("gw-1", 3, 5_000_000), &ledger);
        let filter = filters.get(&["t*".into(), "hum".into()], 0).unwrap();
        let shared = record.frame(&filter, &limits).unwrap();
        let decoded = protobuf::decode(&data(&shared).batch, &limits).unwrap();
        let Body::Readings(readings) = decoded.body else {
            panic!()
        };
        assert_eq!(readings.times, [[4_000_000, 5_000_000]]);
        assert_eq!(
            readings
                .columns
                .iter()
                .map(|c| (c.metric.as_str(), c.times))
                .collect::<Vec<_>>(),
            [("temp", 0), ("hum", 0)]
        );
        let again = record.frame(&filter, &limits).unwrap();
        assert!(!shared.hit && again.hit && Arc::ptr_eq(&shared.frame, &again.frame));
        let none = filters.get(&["nothing*".into()], 0).unwrap();
        assert!(record.frame(&none, &limits).is_none());
    }

    /// Hashes of 32 bits may be the same; a number is given again once the filter that had it is gone.
    #[test]
    fn a_filter_that_comes_into_anothers_number_gets_frames_of_its_own() {
        let limits = Limits::default();
        let record = record(0, 1, &batch("gw-1", 3, 5_000_000), &Arc::default());
        let filters = Filters::default();
        let mut one = Arc::into_inner(filters.get(&["temp".into()], 0).unwrap()).unwrap();
        let mut two = Arc::into_inner(filters.get(&["door".into()], 0).unwrap()).unwrap();
        (one.number, two.number) = (7, 7);
        for (filter, metric) in [(one, "temp"), (two, "door")] {
            let shared = record.frame(&filter, &limits).unwrap();
            let Body::Readings(readings) = protobuf::decode(&data(&shared).batch, &limits).unwrap().body
            else {
                panic!()
            };
            let names: Vec<_> = readings
                .columns
                .iter()
                .map(|column| column.metric.as_str())
                .collect();
            assert_eq!((names, shared.hit), (vec![metric], false));
        }
    }

    #[test]
    fn a_loss_passes_every_filter() {
        let loss = Loss {
            through: 9,
            readings: 100,
            reason: LossReason::JournalFull,
        };
        let batch = Batch {
            device: "a".into(),
            stream: 1,
            seq: 5,
            body: Body::Loss(loss),
        };
        let record = record(0, 1, &batch, &Arc::default());
        let filter = Filters::default().get(&["temp".into()], 0).unwrap();
        let data = data(&record.frame(&filter, &Limits::default()).unwrap());
        assert_eq!(protobuf::decode(&data.batch, &Limits::default()).unwrap(), batch);
    }

    #[test]
    fn what_cannot_be_read_is_known_by_its_key() {
        let (record, decoded) = Record::new(
            (0, 1, 2),
            b"gw-9",
            &[0xff; 20],
            &Limits::default(),
            &Arc::default(),
        );
        assert!(decoded.is_none() && !record.readable);
        assert_eq!(&*record.device, "gw-9");
    }

    #[test]
    fn the_ledger_is_even_in_the_end() {
        let ledger: Arc<AtomicUsize> = Arc::default();
        let record = record(0, 1, &batch("gw-1", 3, 5_000_000), &ledger);
        let before = ledger.load(Ordering::Relaxed);
        let filter = Filters::default().get(&["temp".into()], 0).unwrap();
        record.frame(&filter, &Limits::default()).unwrap();
        assert!(ledger.load(Ordering::Relaxed) > before);
        drop(record);
        assert_eq!(ledger.load(Ordering::Relaxed), 0);
    }
}
