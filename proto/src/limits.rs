//! What is accepted, in and out.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::Error;
use crate::model::{Readings, Values};

/// Limits on what is encoded and decoded. Every one is refused with an error that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Readings in a batch, over all columns; and entries over all its time columns. Default 100,000.
    pub readings: usize,
    /// Columns in a batch, its time columns, and series in a series set. Default 10,000.
    pub columns: usize,
    /// Bytes of a frame on the MQTT link, envelope and header included. Default 200,000.
    pub frame_bytes: usize,
    /// Bytes of a body after decompression, and of a protobuf batch in Kafka. Default 900,000: under Kafka's
    /// default `message.max.bytes` with its headers.
    pub body_bytes: usize,
    /// Bytes of all string values of a batch after expanding dictionaries. Default 4,000,000.
    pub string_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            readings: 100_000,
            columns: 10_000,
            frame_bytes: 200_000,
            body_bytes: 900_000,
            string_bytes: 4_000_000,
        }
    }
}

impl Limits {
    /// Whether these readings are within the limits and whole: every column has as many values as its time column
    /// has times, and suspect indices ascend and exist.
    ///
    /// # Errors
    /// [`Error::Limit`] or [`Error::Malformed`], naming the column.
    pub fn check(&self, readings: &Readings) -> Result<(), Error> {
        within("columns", readings.columns.len(), self.columns)?;
        within("columns", readings.times.len(), self.columns)?;
        within(
            "readings",
            readings.times.iter().map(Vec::len).sum(),
            self.readings,
        )?;
        within("readings", readings.len(), self.readings)?;
        let mut string_bytes = 0usize;
        for (index, column) in readings.columns.iter().enumerate() {
            let malformed = |why: String| Error::Malformed {
                what: format!("column {index} ({})", column.metric),
                why,
            };
            let Some(times) = readings.times.get(column.times as usize) else {
                return Err(malformed(format!(
                    "time column {} of {}",
                    column.times,
                    readings.times.len()
                )));
            };
            if times.len() != column.values.len() {
                return Err(malformed(format!(
                    "{} values at {} times",
                    column.values.len(),
                    times.len()
                )));
            }
            let ascending = column.suspect.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascending
                || column
                    .suspect
                    .last()
                    .is_some_and(|last| *last as usize >= column.values.len())
            {
                return Err(malformed(format!(
                    "suspect indices must ascend and be below {}",
                    column.values.len()
                )));
            }
            if let Values::String(values) = &column.values {
                string_bytes += values.iter().map(String::len).sum::<usize>();
            }
        }
        within("string_bytes", string_bytes, self.string_bytes)
    }
}

pub(crate) fn within(what: &'static str, actual: usize, limit: usize) -> Result<(), Error> {
    if actual > limit {
        Err(Error::Limit { what, actual, limit })
    } else {
        Ok(())
    }
}
