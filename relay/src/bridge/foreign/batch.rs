//! A batch that gathers readings of one foreign device.

use std::collections::HashMap;

use headwater_foreign::Reading;
use headwater_proto::{Column, Readings, Value, ValueType, Values};

/// What a reading takes beside a text, and a column beside its names, as an estimate from above: bytes.
const READING: usize = 20;

/// The readings so far, column by column.
#[derive(Debug, Default)]
pub struct Gathered {
    columns: Vec<Gathering>,
    index: HashMap<(String, String, ValueType), usize>,
    bytes: usize,
    readings: usize,
}

#[derive(Debug)]
struct Gathering {
    metric: String,
    unit: String,
    times: Vec<i64>,
    values: Values,
}

impl Gathered {
    /// Adds a reading, which came at `arrival_us`.
    pub fn push(&mut self, reading: Reading, arrival_us: i64) {
        let value_type = reading.value.value_type();
        let key = (reading.metric, reading.unit, value_type);
        let at = match self.index.get(&key) {
            Some(&at) => at,
            None => {
                self.bytes += key.0.len() + key.1.len() + READING;
                self.columns.push(Gathering {
                    metric: key.0.clone(),
                    unit: key.1.clone(),
                    times: Vec::new(),
                    values: Values::empty(value_type),
                });
                self.index.insert(key, self.columns.len() - 1);
                self.columns.len() - 1
            }
        };
        let column = &mut self.columns[at];
        self.readings += 1;
        self.bytes += READING;
        column.times.push(reading.time_us.unwrap_or(arrival_us));
        match (&mut column.values, reading.value) {
            (Values::F64(values), Value::F64(value)) => values.push(value),
            (Values::I64(values), Value::I64(value)) => values.push(value),
            (Values::Bool(values), Value::Bool(value)) => values.push(value),
            (Values::String(values), Value::String(value)) => {
                self.bytes += value.len();
                values.push(value);
            }
            // A column is found by its type.
            _ => unreachable!("a column has values of its own type only"),
        }
    }

    /// No more than so many bytes when encoded.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of readings.
    pub fn len(&self) -> usize {
        self.readings
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.readings == 0
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// As a batch has them: columns that have the same times share them.
    pub fn finish(self) -> Readings {
        let mut times: Vec<Vec<i64>> = Vec::new();
        let mut places: HashMap<Vec<i64>, u32> = HashMap::new();
        let columns = self.columns.into_iter().map(|column| {
            let next = times.len() as u32;
            let place = *places.entry(column.times).or_insert_with_key(|of| {
                times.push(of.clone());
                next
            });
            Column {
                metric: column.metric,
                unit: column.unit,
                times: place,
                values: column.values,
                suspect: Vec::new(),
            }
        });
        Readings {
            columns: columns.collect(),
            times,
            ..Readings::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(metric: &str, time_us: Option<i64>, value: Value) -> Reading {
        Reading {
            metric: metric.into(),
            device: String::new(),
            unit: String::new(),
            time_us,
            value,
        }
    }

    #[test]
    fn what_was_read_together_shares_its_times_and_a_type_has_its_own_column() {
        let mut gathered = Gathered::default();
        for at in [10, 20] {
            gathered.push(reading("t", None, Value::F64(1.5)), at);
            gathered.push(reading("h", None, Value::I64(at)), at);
        }
        gathered.push(reading("t", Some(7), Value::String("none".into())), 30);
        assert_eq!((gathered.len(), gathered.columns()), (5, 3));
        let readings = gathered.finish();
        assert_eq!(readings.times, [vec![10, 20], vec![7]]);
        let shown: Vec<_> = readings
            .columns
            .iter()
            .map(|of| (of.metric.as_str(), of.times))
            .collect();
        assert_eq!(shown, [("t", 0), ("h", 0), ("t", 1)]);
        assert_eq!(readings.columns[1].values, Values::I64(vec![10, 20]));
    }

    #[test]
    fn it_is_never_larger_than_it_says() {
        let mut gathered = Gathered::default();
        for at in 0..500i64 {
            let wild = (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            gathered.push(
                reading("double", Some(wild as i64), Value::F64(f64::from_bits(wild))),
                0,
            );
            gathered.push(reading("integer", Some(!wild as i64), Value::I64(wild as i64)), 0);
            gathered.push(
                reading(
                    &format!("metric {at}"),
                    Some(at),
                    Value::String(format!("{wild}")),
                ),
                0,
            );
        }
        let said = gathered.bytes();
        let batch = headwater_proto::Batch {
            body: headwater_proto::Body::Readings(gathered.finish()),
            ..Default::default()
        };
        let length = headwater_proto::protobuf::encode(&batch).len();
        assert!(length <= said, "{length} bytes, {said} at most");
    }
}
