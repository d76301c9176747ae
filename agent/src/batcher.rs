//! Readings become batches, column by column. Pure: time is an argument.
//!
//! A batch is closed by its number of readings, its size or its age, whichever is reached first. Metrics that were sampled at
//! the same times share one time column. The series set grows as metrics appear and never shrinks; a batch names the set as of
//! its closing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use headwater_proto::{Clock, Column, Limits, Readings, Series, SeriesSet, Value, ValueType, Values, name};

use crate::clock::Correction;
use crate::config;
use crate::source::{Metric, Sample};

/// A closed batch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Closed {
    pub(crate) readings: Readings,
    /// The set that names its columns.
    pub(crate) series: Arc<SeriesSet>,
}

/// The batch that is open, and the series known so far.
pub(crate) struct Batcher {
    settings: config::Batch,
    limits: Limits,
    /// Where each metric's column of each type stands; [`REFUSED`] for one that is not taken.
    index: HashMap<Arc<Metric>, [usize; 4]>,
    /// One for each series, in the set's order; empty ones are left out of a batch.
    columns: Vec<OpenColumn>,
    /// As of the last closing; stale when there are more columns than it has series.
    series: Arc<SeriesSet>,
    /// The hashes given so far, so that no two sets share one.
    hashes: Vec<u32>,
    readings: usize,
    bytes: usize,
    opened: Option<Instant>,
    refused: u64,
}

struct OpenColumn {
    metric: Arc<Metric>,
    times: Vec<i64>,
    values: Values,
    /// Indices of values that are not to be trusted.
    suspect: Vec<u32>,
}

/// What part of its age a batch may be closed early.
const EARLY: u32 = 50;
const UNSEEN: usize = usize::MAX;
const REFUSED: usize = usize::MAX - 1;

impl Batcher {
    pub(crate) fn new(settings: config::Batch, limits: Limits) -> Self {
        Self {
            settings,
            limits,
            index: HashMap::new(),
            columns: Vec::new(),
            series: Arc::new(SeriesSet::new(Vec::new(), 0)),
            hashes: Vec::new(),
            readings: 0,
            bytes: 0,
            opened: None,
            refused: 0,
        }
    }

    /// Goes on with other settings; nothing may be open. The series known so far stay, so that a reload costs no series set, unless
    /// they are more than half of those that a device may have: some may be of sources that are gone.
    pub(crate) fn reload(&mut self, settings: config::Batch) {
        self.settings = settings;
        if self.columns.len() > self.limits.columns / 2 {
            self.index.clear();
            self.columns.clear();
            self.series = Arc::new(SeriesSet::new(Vec::new(), 0));
        }
    }

    /// Takes a sample in. Returns the number of readings taken, which leaves out those of metrics with a name that is not
    /// allowed.
    pub(crate) fn push(&mut self, now: Instant, sample: Sample) -> usize {
        let mut taken = 0;
        for reading in sample.readings {
            let column = self.column(&reading.metric, reading.value.value_type());
            let Some(column) = self.columns.get_mut(column) else {
                self.refused += 1;
                continue;
            };
            self.bytes += match &reading.value {
                Value::F64(_) | Value::I64(_) => 8,
                Value::Bool(_) => 1,
                Value::String(text) => text.len() + 1,
            };
            if reading.suspect {
                column.suspect.push(column.times.len() as u32);
            }
            column.times.push(sample.time_us);
            match (&mut column.values, reading.value) {
                (Values::F64(values), Value::F64(value)) => values.push(value),
                (Values::I64(values), Value::I64(value)) => values.push(value),
                (Values::Bool(values), Value::Bool(value)) => values.push(value),
                (Values::String(values), Value::String(value)) => values.push(value),
                _ => unreachable!("a column is found by its value type"),
            }
            taken += 1;
        }
        if taken > 0 {
            self.opened.get_or_insert(now);
            self.bytes += 8;
            self.readings += taken;
        }
        taken
    }

    /// Puts the times of the open batch right.
    pub(crate) fn correct(&mut self, correction: &Correction) {
        let times = self.columns.iter_mut().flat_map(|column| &mut column.times);
        times.for_each(|time_us| *time_us = correction.apply(*time_us));
    }

    /// Readings in the open batch.
    pub(crate) fn open(&self) -> usize {
        self.readings
    }

    /// Time of the first reading in the open batch, microseconds since the Unix epoch.
    pub(crate) fn oldest_us(&self) -> Option<i64> {
        self.columns
            .iter()
            .filter_map(|column| column.times.first())
            .min()
            .copied()
    }

    /// When the open batch is too old; `None` if there is none.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.opened.map(|opened| opened + self.settings.age)
    }

    /// Whether the open batch is to be closed. By its age that is so a little early, for who asks anyway: the sample that comes when it
    /// is due closes it, whether it comes a moment before or after, and nobody has to be woken a moment later.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let early = self.settings.age / EARLY;
        self.readings >= self.settings.readings
            || self.bytes as u64 >= self.settings.bytes.as_u64()
            || self.deadline().is_some_and(|deadline| now + early >= deadline)
    }

    /// Closes the open batch; `None` if it holds nothing.
    pub(crate) fn close(&mut self) -> Option<Closed> {
        self.opened.take()?;
        (self.readings, self.bytes) = (0, 0);
        if self.series.series().len() < self.columns.len() {
            self.series = self.grown();
        }
        let mut readings = Readings {
            clock: Clock::Synchronised,
            ..Readings::default()
        };
        let mut shared: HashMap<Vec<i64>, u32> = HashMap::new();
        for column in self.columns.iter_mut().filter(|column| !column.times.is_empty()) {
            // The next batch is likely as long as this one.
            let length = column.times.len();
            let times = std::mem::replace(&mut column.times, Vec::with_capacity(length));
            let values = match &mut column.values {
                Values::F64(values) => Values::F64(std::mem::replace(values, Vec::with_capacity(length))),
                Values::I64(values) => Values::I64(std::mem::replace(values, Vec::with_capacity(length))),
                Values::Bool(values) => Values::Bool(std::mem::take(values)),
                Values::String(values) => Values::String(std::mem::take(values)),
            };
            let next = shared.len() as u32;
            readings.columns.push(Column {
                metric: column.metric.name.clone(),
                unit: column.metric.unit.clone(),
                times: *shared.entry(times).or_insert(next),
                values,
                suspect: std::mem::take(&mut column.suspect),
            });
        }
        readings.times = vec![Vec::new(); shared.len()];
        for (times, index) in shared {
            readings.times[index as usize] = times;
        }
        Some(Closed {
            readings,
            series: self.series.clone(),
        })
    }

    fn column(&mut self, metric: &Arc<Metric>, value_type: ValueType) -> usize {
        let found = self
            .index
            .get(metric)
            .map_or(UNSEEN, |columns| columns[value_type as usize]);
        if found != UNSEEN {
            return found;
        }
        let mut column = self.columns.len();
        if let Err(error) = name::check_metric(&metric.name) {
            log::error!("{error}; its readings are left out");
            column = REFUSED;
        } else if column >= self.limits.columns {
            if self.refused == 0 {
                let (name, limit) = (&metric.name, self.limits.columns);
                log::error!("metric {name:?} is one more than the {limit} a device may have; left out");
            }
            // Not even remembered: there may be no end of them.
            return REFUSED;
        } else {
            let values = Values::empty(value_type);
            self.columns.push(OpenColumn {
                metric: metric.clone(),
                times: Vec::new(),
                values,
                suspect: Vec::new(),
            });
        }
        self.index.entry(metric.clone()).or_insert([UNSEEN; 4])[value_type as usize] = column;
        column
    }

    /// The set with all series known now, under a hash that no earlier set had.
    fn grown(&mut self) -> Arc<SeriesSet> {
        let series = || {
            let series = self.columns.iter().map(|column| Series {
                metric: column.metric.name.clone(),
                unit: column.metric.unit.clone(),
                value_type: column.values.value_type(),
            });
            series.collect::<Vec<_>>()
        };
        let mut salt = 0;
        let mut set = SeriesSet::new(series(), salt);
        while self.hashes.contains(&set.hash()) {
            salt += 1;
            set = SeriesSet::new(series(), salt);
        }
        self.hashes.push(set.hash());
        Arc::new(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Reading;
    use headwater_config::{ByteSize, Duration};
    use proptest::prelude::*;

    fn settings() -> config::Batch {
        config::Batch {
            readings: 1000,
            bytes: ByteSize::mib(1),
            age: Duration::from_secs(10),
        }
    }

    fn batcher(settings: config::Batch) -> Batcher {
        Batcher::new(settings, Limits::default())
    }

    fn sample(time_us: i64, values: &[(&str, Value)]) -> Sample {
        let reading = |(name, value): &(&str, Value)| Reading::new(Metric::new(*name, "u"), value.clone());
        Sample {
            time_us,
            readings: values.iter().map(reading).collect(),
        }
    }

    #[test]
    fn metrics_sampled_together_share_a_time_column() {
        let mut batcher = batcher(settings());
        let now = Instant::now();
        for time in 0..3 {
            batcher.push(now, sample(time, &[("a", Value::F64(1.0)), ("b", Value::I64(2))]));
            if time != 1 {
                batcher.push(now, sample(time, &[("c", Value::Bool(true))]));
            }
        }
        let Closed { readings, series } = batcher.close().unwrap();
        assert_eq!(readings.times, [vec![0, 1, 2], vec![0, 2]]);
        let times: Vec<_> = readings.columns.iter().map(|column| column.times).collect();
        assert_eq!(times, [0, 0, 1]);
        let types: Vec<_> = series.series().iter().map(|series| series.value_type).collect();
        assert_eq!(types, [ValueType::F64, ValueType::I64, ValueType::Bool]);
        assert!(batcher.close().is_none());
    }

    #[test]
    fn a_batch_is_closed_by_count_size_or_age() {
        let now = Instant::now();
        let one = |batcher: &mut Batcher| batcher.push(now, sample(0, &[("a", Value::F64(1.0))]));
        let mut by_count = batcher(config::Batch {
            readings: 2,
            ..settings()
        });
        one(&mut by_count);
        assert!(!by_count.is_due(now));
        one(&mut by_count);
        assert!(by_count.is_due(now));
        let mut by_size = batcher(config::Batch {
            bytes: ByteSize::b(1024),
            ..settings()
        });
        by_size.push(now, sample(0, &[("s", Value::String("x".repeat(1024)))]));
        assert!(by_size.is_due(now));
        let mut by_age = batcher(settings());
        assert_eq!(by_age.deadline(), None);
        one(&mut by_age);
        assert!(!by_age.is_due(now + Duration::from_millis(9_799)));
        // The sample that comes when it is due may come a moment before.
        assert!(by_age.is_due(now + Duration::from_millis(9_990)));
        assert!(by_age.is_due(now + Duration::from_secs(10)));
        by_age.close();
        assert!(!by_age.is_due(now + Duration::from_secs(60)));
    }

    #[test]
    fn the_series_set_grows_and_keeps_its_order() {
        let mut batcher = batcher(settings());
        let now = Instant::now();
        batcher.push(now, sample(0, &[("a", Value::F64(1.0))]));
        let first = batcher.close().unwrap();
        batcher.push(now, sample(1, &[("a", Value::F64(1.0))]));
        let same = batcher.close().unwrap();
        assert!(Arc::ptr_eq(&first.series, &same.series));
        // The same metric with another type is a column of its own.
        batcher.push(
            now,
            sample(2, &[("b", Value::F64(1.0)), ("a", Value::String("off".into()))]),
        );
        let grown = batcher.close().unwrap();
        assert_ne!(first.series.hash(), grown.series.hash());
        let names: Vec<_> = grown
            .series
            .series()
            .iter()
            .map(|series| series.metric.as_str())
            .collect();
        assert_eq!(names, ["a", "b", "a"]);
        assert_eq!(grown.readings.columns.len(), 2);
    }

    #[test]
    fn a_name_that_is_not_allowed_or_one_metric_too_many_costs_only_itself() {
        let mut batcher = Batcher::new(
            settings(),
            Limits {
                columns: 2,
                ..Limits::default()
            },
        );
        let now = Instant::now();
        let values = ["", "a", "b\n", "b", "c"].map(|name| (name, Value::F64(1.0)));
        assert_eq!(batcher.push(now, sample(0, &values)), 2);
        let names: Vec<_> = batcher
            .close()
            .unwrap()
            .readings
            .columns
            .into_iter()
            .map(|column| column.metric)
            .collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(batcher.push(now, sample(0, &[("c", Value::F64(1.0))])), 0);
        assert!(batcher.close().is_none());
    }

    proptest! {
        /// Whatever comes in comes out, each metric's readings in the order in which they came.
        #[test]
        fn nothing_is_lost_and_order_is_kept(
            samples in prop::collection::vec((0i64..1000, prop::collection::vec((0u8..5, any::<i64>()), 0..6)), 0..60),
            closing in 1usize..40,
        ) {
            let mut batcher = batcher(config::Batch { readings: closing, ..settings() });
            let now = Instant::now();
            let (mut expected, mut seen) = (HashMap::<String, Vec<(i64, i64)>>::new(), HashMap::new());
            let mut take = |closed: Option<Closed>| {
                for column in closed.iter().flat_map(|closed| &closed.readings.columns) {
                    let times = &closed.as_ref().unwrap().readings.times[column.times as usize];
                    let Values::I64(values) = &column.values else { panic!() };
                    assert_eq!(times.len(), values.len());
                    let all: &mut Vec<(i64, i64)> = seen.entry(column.metric.clone()).or_default();
                    all.extend(times.iter().copied().zip(values.iter().copied()));
                }
            };
            for (time, readings) in samples {
                let names: Vec<String> = readings.iter().map(|(metric, _)| format!("m{metric}")).collect();
                let values: Vec<_> = names
                    .iter()
                    .zip(&readings)
                    .map(|(name, (_, value))| (name.as_str(), Value::I64(*value)))
                    .collect();
                for (name, (_, value)) in names.iter().zip(&readings) {
                    expected.entry(name.clone()).or_default().push((time, *value));
                }
                batcher.push(now, sample(time, &values));
                if batcher.is_due(now) {
                    take(batcher.close());
                }
            }
            take(batcher.close());
            prop_assert_eq!(seen, expected);
        }
    }
}
