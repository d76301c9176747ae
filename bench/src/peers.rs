//! The same rows as others carry them.

use anyhow::Result;
use pco::ChunkConfig;
use pco::standalone::simple_compress;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::trace::Row;

/// One reading as a JSON object.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct JsonReading {
    /// The device's name.
    pub device: String,
    /// The metric's name.
    pub metric: String,
    /// Milliseconds since the Unix epoch.
    pub time: i64,
    /// The value.
    pub value: f64,
}

/// Readings as protobuf rows.
#[derive(Clone, PartialEq, Message)]
pub struct Rows {
    /// The device's name.
    #[prost(string, tag = "1")]
    pub device: String,
    /// A message per reading.
    #[prost(message, repeated, tag = "2")]
    pub rows: Vec<RowReading>,
}

/// One reading as a protobuf message.
#[derive(Clone, PartialEq, Message)]
pub struct RowReading {
    /// The metric's name.
    #[prost(string, tag = "1")]
    pub metric: String,
    /// Microseconds since the Unix epoch.
    #[prost(int64, tag = "2")]
    pub time: i64,
    /// The value.
    #[prost(double, tag = "3")]
    pub value: f64,
}

/// `org.eclipse.tahu.protobuf.Payload`, the fields that a DDATA message with aliases fills.
#[derive(Clone, PartialEq, Message)]
pub struct SparkplugPayload {
    /// Milliseconds since the Unix epoch.
    #[prost(uint64, optional, tag = "1")]
    pub timestamp: Option<u64>,
    /// One per reading.
    #[prost(message, repeated, tag = "2")]
    pub metrics: Vec<SparkplugMetric>,
    /// 0..=255.
    #[prost(uint64, optional, tag = "3")]
    pub seq: Option<u64>,
}

/// `Payload.Metric`.
#[derive(Clone, PartialEq, Message)]
pub struct SparkplugMetric {
    /// In place of the name, as the birth certificate says.
    #[prost(uint64, optional, tag = "2")]
    pub alias: Option<u64>,
    /// Milliseconds since the Unix epoch.
    #[prost(uint64, optional, tag = "3")]
    pub timestamp: Option<u64>,
    /// 10: Double.
    #[prost(uint32, optional, tag = "4")]
    pub datatype: Option<u32>,
    /// The value.
    #[prost(double, optional, tag = "13")]
    pub double_value: Option<f64>,
}

/// The device that the peers' forms name.
pub const DEVICE: &str = "gateway-0001";

/// One JSON object a reading.
pub fn json_readings(metrics: &[String], rows: &[Row]) -> Vec<JsonReading> {
    let mut out = Vec::new();
    for row in rows {
        for (metric, field) in metrics.iter().zip(&row.fields) {
            if let Some(field) = field {
                let device = DEVICE.to_owned();
                out.push(JsonReading {
                    device,
                    metric: metric.clone(),
                    time: row.time_ms,
                    value: field.value,
                });
            }
        }
    }
    out
}

/// One JSON object a row: `{"time":…,"metric":value,…}`.
pub fn json_rows(metrics: &[String], rows: &[Row]) -> serde_json::Value {
    let object = |row: &Row| {
        let mut object = serde_json::Map::new();
        object.insert("time".to_owned(), row.time_ms.into());
        for (metric, field) in metrics.iter().zip(&row.fields) {
            if let Some(field) = field {
                object.insert(metric.clone(), field.value.into());
            }
        }
        serde_json::Value::Object(object)
    };
    serde_json::json!({ "device": DEVICE, "rows": rows.iter().map(object).collect::<Vec<_>>() })
}

/// A protobuf message a reading.
pub fn protobuf_rows(metrics: &[String], rows: &[Row]) -> Rows {
    let mut out = Rows {
        device: DEVICE.to_owned(),
        rows: Vec::new(),
    };
    for row in rows {
        for (metric, field) in metrics.iter().zip(&row.fields) {
            if let Some(field) = field {
                let (metric, time) = (metric.clone(), row.time_ms * 1000);
                out.rows.push(RowReading {
                    metric,
                    time,
                    value: field.value,
                });
            }
        }
    }
    out
}

/// A Sparkplug B payload with aliases, all rows in one message.
pub fn sparkplug(rows: &[Row]) -> SparkplugPayload {
    let mut metrics = Vec::new();
    for row in rows {
        for (alias, field) in row.fields.iter().enumerate() {
            if let Some(field) = field {
                metrics.push(SparkplugMetric {
                    alias: Some(alias as u64),
                    timestamp: Some(row.time_ms as u64),
                    datatype: Some(10),
                    double_value: Some(field.value),
                });
            }
        }
    }
    SparkplugPayload {
        timestamp: rows.last().map(|row| row.time_ms as u64),
        metrics,
        seq: Some(200),
    }
}

/// Bytes that pco takes for the rows: the time column once, and each metric as the better of its doubles and its
/// decimals as integers.
///
/// # Errors
/// What pco says.
pub fn pco_bytes(rows: &[Row]) -> Result<usize> {
    let config = ChunkConfig::default();
    let times: Vec<i64> = rows.iter().map(|row| row.time_ms).collect();
    let mut bytes = simple_compress(&times, &config)?.len();
    for metric in 0..rows.first().map_or(0, |row| row.fields.len()) {
        let fields = || rows.iter().filter_map(|row| row.fields[metric].as_ref());
        let doubles: Vec<f64> = fields().map(|field| field.value).collect();
        if doubles.is_empty() {
            continue;
        }
        let mut least = simple_compress(&doubles, &config)?.len();
        let digits = fields().map(|field| decimals(&field.text)).max().unwrap_or(0);
        let integers: Option<Vec<i64>> = fields().map(|field| integer(&field.text, digits)).collect();
        if let Some(integers) = integers {
            least = least.min(simple_compress(&integers, &config)?.len());
        }
        bytes += least;
    }
    Ok(bytes)
}

fn decimals(text: &str) -> usize {
    text.split_once('.')
        .map_or(0, |(_, fraction)| fraction.trim_end_matches('0').len())
}

/// The text as an integer of so many decimals; `None` if it is not plain or too long.
fn integer(text: &str, digits: usize) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = fraction.trim_end_matches('0');
    format!("{whole}{fraction:0<digits$}").parse().ok()
}
