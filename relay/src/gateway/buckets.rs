//! Readings in buckets of time: least, greatest, last and number, per device, metric and unit. Pure.
//!
//! What is held is what has come since it was last taken out, nothing of before: two buckets of one place and width are
//! joined into what one bucket of all their readings would be ([`Cell::join`]), whoever does it. So nothing has to be
//! remembered of what was told, and a late reading costs what any other does.
//!
//! Buckets begin at multiples of their width since the epoch. Where too many are held, widths double: each is then
//! a whole number of the narrower ones, which are joined.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_proto::{Batch, Body, Values, pb};

use super::filter::Globs;

/// Most buckets of one column while nothing can be taken out: as many points as a small chart is wide.
pub const COLUMN_BUCKETS: usize = 128;
/// Bytes held while nothing can be taken out, about; what one batch adds comes on top.
pub const HELD_BYTES: usize = 1 << 20;

/// What a bucket costs in memory, about.
const CELL_BYTES: usize = 64;
/// What a column costs, beside its names.
const COLUMN_BYTES: usize = 600;
/// What a bucket takes in a frame, about: three doubles, number, count, time.
const CELL_WIRE: usize = 31;
/// What a column takes in a frame, beside its names.
const COLUMN_WIRE: usize = 32;

/// What is known of one bucket's readings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// The least value, by total order: -0 is less than 0.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// That with the greatest time; of several the one that came last.
    pub last: f64,
    /// Its time, microseconds.
    pub last_us: i64,
    /// How many.
    pub count: u64,
}

impl Cell {
    fn of(value: f64, time_us: i64) -> Self {
        Self {
            min: value,
            max: value,
            last: value,
            last_us: time_us,
            count: 1,
        }
    }

    /// Takes in what came after it.
    pub fn join(&mut self, later: &Self) {
        if later.min.total_cmp(&self.min).is_lt() {
            self.min = later.min;
        }
        if later.max.total_cmp(&self.max).is_gt() {
            self.max = later.max;
        }
        if later.last_us >= self.last_us {
            (self.last, self.last_us) = (later.last, later.last_us);
        }
        self.count = self.count.saturating_add(later.count);
    }
}

/// One device's metric in one unit.
#[derive(Debug)]
struct Column {
    unit: Box<str>,
    width_us: i64,
    /// By number: the time divided by the width.
    cells: BTreeMap<i64, Cell>,
}

impl Column {
    fn add(&mut self, index: i64, cell: &Cell) {
        self.cells
            .entry(index)
            .and_modify(|known| known.join(cell))
            .or_insert(*cell);
    }

    /// Doubles the width. Returns whether it could.
    fn widen(&mut self) -> bool {
        let Some(width_us) = self.width_us.checked_mul(2) else {
            return false;
        };
        self.width_us = width_us;
        for (index, cell) in std::mem::take(&mut self.cells) {
            // Ascending: what is joined is later than what is there.
            self.add(index.div_euclid(2), &cell);
        }
        true
    }
}

/// What a device had to give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Loss {
    first_arrival_us: i64,
    last_arrival_us: i64,
    readings: u64,
}

/// What is taken out.
#[derive(Debug, Default)]
pub struct Taken {
    /// By device, metric and unit.
    pub columns: Vec<pb::SeriesColumn>,
    /// By device.
    pub losses: Vec<pb::SeriesLoss>,
    /// Batches that something was taken of.
    pub merged: u32,
}

/// The buckets of one subscription.
#[derive(Debug)]
pub struct Buckets {
    width_us: i64,
    devices: BTreeMap<Arc<str>, BTreeMap<Box<str>, Vec<Column>>>,
    losses: BTreeMap<Arc<str>, Loss>,
    merged: u64,
    cells: usize,
    columns: usize,
    /// No column has more buckets.
    tallest: usize,
    /// Bytes of names and units, those of its device with each column.
    names: usize,
}

impl Buckets {
    /// None yet, of this width in microseconds, 1 or more.
    pub fn new(width_us: i64) -> Self {
        Self {
            width_us: width_us.max(1),
            devices: BTreeMap::new(),
            losses: BTreeMap::new(),
            merged: 0,
            cells: 0,
            columns: 0,
            tallest: 0,
            names: 0,
        }
    }

    /// Takes in those of a batch's metrics.
    pub fn add(&mut self, batch: &Batch, metrics: &Globs, arrival_us: i64) {
        let readings = match &batch.body {
            Body::Readings(readings) => readings,
            Body::Loss(loss) => return self.lose(&batch.device, loss.readings, arrival_us),
        };
        let mut counted = false;
        for column in &readings.columns {
            let Some(times) = readings.times.get(column.times as usize) else {
                continue;
            };
            if !metrics.matches(&column.metric) {
                continue;
            }
            let numbers: Box<dyn Iterator<Item = f64>> = match &column.values {
                Values::F64(values) => Box::new(values.iter().copied()),
                Values::I64(values) => Box::new(values.iter().map(|&value| value as f64)),
                Values::Bool(values) => Box::new(values.iter().map(|&value| f64::from(u8::from(value)))),
                Values::String(_) => continue,
            };
            let readings = times.iter().copied().zip(numbers);
            let mut readings = readings.filter(|(_, value)| !value.is_nan()).peekable();
            if readings.peek().is_none() {
                continue;
            }
            counted = true;
            let known = self.column(&batch.device, &column.metric, &column.unit);
            let (width_us, had) = (known.width_us, known.cells.len());
            // Neighbours mostly share a bucket: one look-up for all of them.
            while let Some((time_us, value)) = readings.next() {
                let index = time_us.div_euclid(width_us);
                let mut cell = Cell::of(value, time_us);
                while let Some((time_us, value)) =
                    readings.next_if(|(time_us, _)| time_us.div_euclid(width_us) == index)
                {
                    cell.join(&Cell::of(value, time_us));
                }
                known.add(index, &cell);
            }
            let has = known.cells.len();
            self.cells += has - had;
            self.tallest = self.tallest.max(has);
        }
        self.merged += u64::from(counted);
    }

    fn column(&mut self, device: &str, metric: &str, unit: &str) -> &mut Column {
        if !self.devices.contains_key(device) {
            self.devices.insert(Arc::from(device), BTreeMap::new());
        }
        let metrics = self.devices.entry(Arc::from(device)).or_default();
        if !metrics.contains_key(metric) {
            metrics.insert(metric.into(), Vec::new());
        }
        let columns = metrics.entry(metric.into()).or_default();
        let place = columns.iter().position(|column| *column.unit == *unit);
        let place = place.unwrap_or_else(|| {
            columns.push(Column {
                unit: unit.into(),
                width_us: self.width_us,
                cells: BTreeMap::new(),
            });
            self.columns += 1;
            self.names += device.len() + metric.len() + unit.len();
            columns.len() - 1
        });
        &mut columns[place]
    }

    fn lose(&mut self, device: &str, readings: u64, arrival_us: i64) {
        let loss = self.losses.entry(Arc::from(device)).or_insert(Loss {
            first_arrival_us: arrival_us,
            last_arrival_us: arrival_us,
            readings: 0,
        });
        loss.first_arrival_us = loss.first_arrival_us.min(arrival_us);
        loss.last_arrival_us = loss.last_arrival_us.max(arrival_us);
        loss.readings = loss.readings.saturating_add(readings);
        self.merged += 1;
    }

    /// Keeps what is of these devices.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.losses.retain(|device, _| keep(device));
        self.devices.retain(|device, _| keep(device));
        (self.cells, self.columns, self.names, self.tallest) = (0, 0, 0, 0);
        for (device, metrics) in &self.devices {
            for (metric, columns) in metrics {
                for column in columns {
                    self.cells += column.cells.len();
                    self.columns += 1;
                    self.names += device.len() + metric.len() + column.unit.len();
                    self.tallest = self.tallest.max(column.cells.len());
                }
            }
        }
    }

    /// Whether there is nothing to take out.
    pub fn is_empty(&self) -> bool {
        self.columns == 0 && self.losses.is_empty()
    }

    /// Bytes in memory, about.
    pub fn held(&self) -> usize {
        self.cells * CELL_BYTES + (self.columns + self.losses.len()) * COLUMN_BYTES + self.names
    }

    /// Bytes in a frame, about.
    pub fn frame_bytes(&self) -> usize {
        self.cells * CELL_WIRE + (self.columns + self.losses.len()) * COLUMN_WIRE + self.names
    }

    /// Widens until what is held is within [`COLUMN_BUCKETS`] and [`HELD_BYTES`], or no column has more than two buckets.
    pub fn settle(&mut self) {
        self.narrow(COLUMN_BUCKETS, HELD_BYTES);
    }

    /// As [`Buckets::settle`], where memory is short.
    pub fn settle_for_less(&mut self) {
        self.narrow(COLUMN_BUCKETS / 8, HELD_BYTES / 64);
    }

    fn narrow(&mut self, column_buckets: usize, held_bytes: usize) {
        if self.tallest > column_buckets {
            self.widen_over(column_buckets);
        }
        // Those with the most make way first. Where nothing gives way any more, each has two or fewer, or times at both ends of i64.
        while self.held() > held_bytes && self.tallest > 2 && self.widen_over(self.tallest / 2) {}
    }

    /// Widens every column until it has at most so many buckets, but two: those on either side of the epoch never become one. Returns whether there are fewer now.
    fn widen_over(&mut self, most: usize) -> bool {
        let (mut joined, mut tallest) = (0, 0);
        for column in self.devices.values_mut().flat_map(BTreeMap::values_mut).flatten() {
            let had = column.cells.len();
            while column.cells.len() > most.max(2) && column.widen() {}
            joined += had - column.cells.len();
            tallest = tallest.max(column.cells.len());
        }
        self.cells -= joined;
        self.tallest = tallest;
        joined > 0
    }

    #[cfg(test)]
    fn all_columns(&self) -> impl Iterator<Item = &Column> {
        self.devices.values().flat_map(BTreeMap::values).flatten()
    }

    /// Takes everything out. What comes next has the width of the beginning.
    pub fn take(&mut self) -> Taken {
        let taken = std::mem::replace(self, Self::new(self.width_us));
        let mut columns = Vec::with_capacity(taken.columns);
        for (device, metrics) in taken.devices {
            for (metric, units) in metrics {
                for column in units {
                    out(&device, &metric, &column, &mut columns);
                }
            }
        }
        let losses = taken.losses.into_iter().map(|(device, loss)| pb::SeriesLoss {
            device: device.to_string(),
            first_arrival_us: loss.first_arrival_us,
            last_arrival_us: loss.last_arrival_us,
            readings: loss.readings,
        });
        Taken {
            columns,
            losses: losses.collect(),
            merged: u32::try_from(taken.merged).unwrap_or(u32::MAX),
        }
    }
}

/// A column as a message; as several where the distance between buckets does not fit their numbers.
fn out(device: &str, metric: &str, column: &Column, columns: &mut Vec<pb::SeriesColumn>) {
    let mut first = None;
    for (&index, cell) in &column.cells {
        // The bucket that i64 begins in may begin before it.
        let start = index.checked_mul(column.width_us);
        let number = first.and_then(|first: i64| u32::try_from(index.checked_sub(first)?).ok());
        let number = number.unwrap_or_else(|| {
            first = start.map(|_| index);
            columns.push(pb::SeriesColumn {
                device: device.to_string(),
                metric: metric.to_string(),
                unit: column.unit.to_string(),
                start_us: start.unwrap_or(i64::MIN),
                bucket_us: column.width_us,
                ..pb::SeriesColumn::default()
            });
            0
        });
        let Some(message) = columns.last_mut() else {
            continue;
        };
        message.bucket.push(number);
        message.min.push(cell.min);
        message.max.push(cell.max);
        message.last.push(cell.last);
        message.count.push(u32::try_from(cell.count).unwrap_or(u32::MAX));
        message
            .last_us
            .push(cell.last_us.abs_diff(start.unwrap_or(i64::MIN)));
    }
}

#[cfg(test)]
mod tests;
