//! Closed batches become journal entries: encoded, and split where a frame would pass a limit.

use headwater_proto::{Body, Clock, Column, Error, Limits, LossReason, Readings, SeriesSet, Values, frame};

use crate::batcher::Closed;
use crate::clock::Correction;
use crate::config;
use crate::journal::Entry;

/// Encodes batches as the settings say.
pub(crate) struct Sealer {
    frames: frame::Sealer,
    encoding: frame::Encoding,
    compression: frame::Compression,
    limits: Limits,
}

impl Sealer {
    pub(crate) fn new(settings: &config::Uplink, limits: Limits) -> Self {
        Self {
            frames: frame::Sealer::default(),
            encoding: settings.encoding.into(),
            compression: settings.compression.into(),
            limits,
        }
    }

    /// The entries that a batch makes, in order: one if it fits a frame, several if it has to be split, a loss for what does
    /// not even fit alone.
    pub(crate) fn seal(&mut self, closed: Closed) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(1);
        let mut parts = vec![closed.readings];
        while let Some(part) = parts.pop() {
            let readings = part.len() as u64;
            let oldest_us = part
                .times
                .iter()
                .filter_map(|times| times.first())
                .min()
                .copied()
                .unwrap_or(0);
            let body = Body::Readings(part);
            let error = match self.frames.seal(
                &body,
                &closed.series,
                self.encoding,
                self.compression,
                &self.limits,
            ) {
                Ok(sealed) => {
                    entries.push(Entry::batch(sealed, closed.series.clone(), readings, oldest_us));
                    continue;
                }
                Err(error) => error,
            };
            if let (Error::Limit { .. }, Body::Readings(part)) = (&error, body)
                && let Some((first, second)) = split(part)
            {
                parts.push(second);
                parts.push(first);
                continue;
            }
            log::error!("{readings} readings cannot be sent: {error}; a loss record takes their place");
            entries.push(Entry::Loss {
                readings,
                reason: LossReason::Refused,
            });
        }
        entries
    }
}

/// A batch with its times put right, encoded as it was; `None` if it is none, or cannot be decoded or encoded again, which is logged.
pub(crate) fn correct(
    sealed: &frame::Sealed,
    series: &SeriesSet,
    correction: &Correction,
    limits: &Limits,
) -> Option<frame::Sealed> {
    let bytes = sealed.frame(1, 1);
    let corrected = frame::Frame::parse(&bytes, limits)
        .and_then(|frame| frame.body(Some(series), limits))
        .and_then(|body| {
            let Body::Readings(mut readings) = body else {
                return Ok(None);
            };
            readings.clock = Clock::Synchronised;
            let times = readings.times.iter_mut().flatten();
            times.for_each(|time_us| *time_us = correction.apply(*time_us));
            let encoding = match (sealed.envelope >> 2) & 3 {
                postcard if postcard == frame::Encoding::Postcard as u8 => frame::Encoding::Postcard,
                _ => frame::Encoding::Protobuf,
            };
            let compression = match sealed.envelope & 3 {
                0 => frame::Compression::None,
                _ => frame::Compression::Deflate,
            };
            frame::seal(&Body::Readings(readings), series, encoding, compression, limits).map(Some)
        });
    match corrected {
        Ok(corrected) => corrected,
        Err(error) => {
            log::error!("the times of a batch cannot be put right: {error}; it goes out flagged");
            None
        }
    }
}

/// Halves a batch: in time, or, where each column has one reading left, by columns. `None` if there is one reading.
fn split(mut readings: Readings) -> Option<(Readings, Readings)> {
    let mut second = Readings {
        clock: readings.clock,
        ..Readings::default()
    };
    if readings.times.iter().any(|times| times.len() > 1) {
        let mut cuts = Vec::with_capacity(readings.times.len());
        for times in &mut readings.times {
            let cut = times.len().div_ceil(2);
            cuts.push(cut);
            second.times.push(times.split_off(cut));
        }
        for column in &mut readings.columns {
            second
                .columns
                .push(split_column(column, cuts[column.times as usize]));
        }
        second.columns.retain(|column| !column.values.is_empty());
    } else if readings.columns.len() > 1 {
        second.columns = readings.columns.split_off(readings.columns.len() / 2);
        second.times = readings.times.clone();
    } else {
        return None;
    }
    Some((compact(readings), compact(second)))
}

fn split_column(column: &mut Column, cut: usize) -> Column {
    let values = match &mut column.values {
        Values::F64(values) => Values::F64(values.split_off(cut)),
        Values::I64(values) => Values::I64(values.split_off(cut)),
        Values::Bool(values) => Values::Bool(values.split_off(cut)),
        Values::String(values) => Values::String(values.split_off(cut)),
    };
    let at = column.suspect.partition_point(|index| (*index as usize) < cut);
    let suspect = column
        .suspect
        .split_off(at)
        .into_iter()
        .map(|index| index - cut as u32)
        .collect();
    Column {
        metric: column.metric.clone(),
        unit: column.unit.clone(),
        times: column.times,
        values,
        suspect,
    }
}

/// Leaves out time columns that no column uses.
fn compact(mut readings: Readings) -> Readings {
    let mut renumbered = vec![None; readings.times.len()];
    let mut times = Vec::new();
    for column in &mut readings.columns {
        let index = column.times as usize;
        column.times = *renumbered[index].get_or_insert_with(|| {
            times.push(std::mem::take(&mut readings.times[index]));
            times.len() as u32 - 1
        });
    }
    readings.times = times;
    readings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batcher::Batcher;
    use crate::source::{Metric, Reading, Sample};
    use headwater_proto::{Value, frame::Frame};
    use std::time::Instant;

    fn sealer(limits: &Limits) -> Sealer {
        Sealer::new(&config::Uplink::default(), limits.clone())
    }

    fn closed(rows: usize, columns: usize, length: usize) -> Closed {
        let mut batcher = Batcher::new(config::Batch::default(), Limits::default());
        for row in 0..rows {
            let reading = |column: usize| {
                Reading::new(
                    Metric::new(format!("m{column}"), ""),
                    Value::String(format!("{row}-{column}-{}", "x".repeat(length))),
                )
            };
            let readings = (0..columns).map(reading).collect();
            batcher.push(
                Instant::now(),
                Sample {
                    time_us: row as i64,
                    readings,
                },
            );
        }
        batcher.close().unwrap()
    }

    /// (time, value) of every reading of one metric, over all parts in order.
    fn readings_of(entries: &[Entry], closed: &Closed, metric: &str, limits: &Limits) -> Vec<(i64, String)> {
        let mut out = Vec::new();
        for entry in entries {
            let Entry::Batch { sealed, .. } = entry else {
                panic!("{entry:?}")
            };
            let bytes = sealed.frame(1, 1);
            let body = Frame::parse(&bytes, limits)
                .unwrap()
                .body(Some(&closed.series), limits)
                .unwrap();
            let Body::Readings(readings) = body else {
                panic!("{body:?}")
            };
            for column in readings.columns.iter().filter(|column| column.metric == metric) {
                let Values::String(values) = &column.values else {
                    panic!()
                };
                let times = &readings.times[column.times as usize];
                out.extend(times.iter().copied().zip(values.iter().cloned()));
            }
        }
        out
    }

    #[test]
    fn a_batch_over_a_limit_is_split_and_stays_whole_and_in_order() {
        let closed = closed(50, 5, 20);
        let limits = Limits {
            readings: 40,
            ..Limits::default()
        };
        let parts = sealer(&limits).seal(closed.clone());
        assert!(parts.len() > 4, "{}", parts.len());
        for column in 0..5 {
            let expected: Vec<_> = (0..50)
                .map(|row| (row, format!("{row}-{column}-{}", "x".repeat(20))))
                .collect();
            assert_eq!(
                readings_of(&parts, &closed, &format!("m{column}"), &limits),
                expected
            );
        }
    }

    #[test]
    fn a_wide_row_is_split_by_columns() {
        let closed = closed(1, 100, 5);
        let limits = Limits {
            readings: 7,
            ..Limits::default()
        };
        let parts = sealer(&limits).seal(closed.clone());
        assert!(parts.len() >= 15, "{}", parts.len());
        for column in 0..100 {
            assert_eq!(
                readings_of(&parts, &closed, &format!("m{column}"), &limits).len(),
                1
            );
        }
    }

    #[test]
    fn no_frame_is_over_the_limit_and_what_does_not_fit_alone_is_a_loss() {
        let mut random = 1u64;
        let mut noise = |length: usize| {
            let letter = |_| {
                random = random
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                char::from(b' ' + (random >> 33) as u8 % 94)
            };
            (0..length).map(letter).collect::<String>()
        };
        let limits = Limits {
            frame_bytes: 5_000,
            ..Limits::default()
        };
        let mut batcher = Batcher::new(config::Batch::default(), Limits::default());
        for (time_us, length) in [(0, 2_000), (1, 2_000), (2, 20_000), (3, 2_000), (4, 2_000)] {
            let reading = Reading::new(Metric::new("log", ""), Value::String(noise(length)));
            batcher.push(
                Instant::now(),
                Sample {
                    time_us,
                    readings: vec![reading],
                },
            );
        }
        let entries = sealer(&limits).seal(batcher.close().unwrap());
        let mut lost = 0;
        for entry in &entries {
            match entry {
                Entry::Batch { sealed, .. } => assert!(sealed.frame(u32::MAX, u64::MAX).len() <= 5_000),
                Entry::Loss { readings, reason } => {
                    assert_eq!(*reason, LossReason::Refused);
                    lost += readings;
                }
            }
        }
        assert_eq!(lost, 1);
        assert_eq!(entries.iter().map(Entry::readings).sum::<u64>(), 5);
    }
}
