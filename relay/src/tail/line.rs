//! What is printed, as text for a person or as JSON.

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use headwater_proto::pb;
use pb::reading::Value;
use serde_json::json;

use crate::rows::row;

/// A line.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    /// A reading, or readings that were lost.
    Reading(Box<pb::Reading>),
    /// A bucket of a series.
    Bucket(Box<Bucket>),
    /// What could not be delivered.
    Gap(pb::Gap),
    /// A record that cannot be decoded here.
    Unreadable {
        partition: u32,
        offset: i64,
        why: String,
    },
}

/// A bucket of a series.
#[derive(Debug, PartialEq)]
pub(super) struct Bucket {
    pub(super) device: String,
    pub(super) metric: String,
    pub(super) unit: String,
    pub(super) start_us: i64,
    pub(super) bucket_us: i64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) last: f64,
    pub(super) count: u32,
}

/// Columns are no wider than this for the sake of those that come.
const WIDEST: usize = 32;

/// How lines look; columns are as wide as the widest so far.
#[derive(Debug)]
pub(super) struct Form {
    json: bool,
    device: usize,
    metric: usize,
}

impl Form {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            device: 0,
            metric: 0,
        }
    }

    /// Writes one line.
    pub(super) fn write(&mut self, line: &Line, out: &mut impl Write) -> io::Result<()> {
        match (line, self.json) {
            (Line::Reading(reading), true) => {
                let mut object = row::json(reading);
                object["time"] = time(reading.time_us).into();
                writeln!(out, "{object}")
            }
            (Line::Reading(reading), false) => self.reading(reading, out),
            (Line::Bucket(bucket), true) => {
                let object = json!({
                    "device": bucket.device, "metric": bucket.metric, "unit": bucket.unit,
                    "time": time(bucket.start_us), "time_us": bucket.start_us, "bucket_us": bucket.bucket_us,
                    "min": bucket.min, "max": bucket.max, "last": bucket.last, "count": bucket.count,
                });
                writeln!(out, "{object}")
            }
            (Line::Bucket(bucket), false) => {
                self.head(bucket.start_us, &bucket.device, &bucket.metric, out)?;
                write!(out, "{}", bucket.last)?;
                unit(&bucket.unit, out)?;
                writeln!(out, "  ({} … {}, {})", bucket.min, bucket.max, bucket.count)
            }
            (Line::Gap(gap), true) => {
                let object = json!({ "gap": {
                    "partition": gap.partition, "from_offset": gap.from_offset, "to_offset": gap.to_offset,
                    "reason": gap.reason().as_str_name().trim_start_matches("GAP_REASON_").to_lowercase(),
                } });
                writeln!(out, "{object}")
            }
            (Line::Gap(gap), false) => {
                let why = match gap.reason() {
                    pb::GapReason::Retention => "Kafka has deleted them by their age",
                    pb::GapReason::Unreadable => "the record cannot be decoded",
                    pb::GapReason::Reset => "the topic was made anew",
                    pb::GapReason::Unspecified => "no reason is given",
                };
                let (partition, from, to) = (gap.partition, gap.from_offset, gap.to_offset);
                writeln!(
                    out,
                    "-- gap: offsets {from} to {to} (exclusive) of partition {partition} are missing: {why}"
                )
            }
            (
                Line::Unreadable {
                    partition,
                    offset,
                    why,
                },
                true,
            ) => {
                let object =
                    json!({ "unreadable": { "partition": partition, "offset": offset, "why": why } });
                writeln!(out, "{object}")
            }
            (
                Line::Unreadable {
                    partition,
                    offset,
                    why,
                },
                false,
            ) => writeln!(
                out,
                "-- partition {partition}, offset {offset} cannot be read: {why}"
            ),
        }
    }

    fn head(&mut self, time_us: i64, device: &str, metric: &str, out: &mut impl Write) -> io::Result<()> {
        self.device = self.device.max(device.chars().count().min(WIDEST));
        self.metric = self.metric.max(metric.chars().count().min(WIDEST));
        let (time, wide, wider) = (time(time_us), self.device, self.metric);
        write!(out, "{time}  {device:wide$}  {metric:wider$}  ")
    }

    fn reading(&mut self, reading: &pb::Reading, out: &mut impl Write) -> io::Result<()> {
        if reading.metric == row::LOST {
            let why = match reading.loss() {
                pb::LossReason::JournalFull => "the agent's journal was full",
                pb::LossReason::Corrupt => "the journal was damaged",
                pb::LossReason::Retention => "older than the journal keeps",
                pb::LossReason::Refused => "refused by the relay",
                pb::LossReason::Unspecified => "the batches' records in mode all say why",
            };
            let count = match reading.value {
                Some(Value::Int(count)) => count,
                _ => 0,
            };
            let (time, device) = (time(reading.time_us), &reading.device);
            return writeln!(out, "{time}  {device}: {count} readings are lost: {why}");
        }
        self.head(reading.time_us, &reading.device, &reading.metric, out)?;
        match &reading.value {
            Some(Value::Double(value)) => write!(out, "{value}")?,
            Some(Value::Int(value)) => write!(out, "{value}")?,
            Some(Value::Bool(value)) => write!(out, "{value}")?,
            // Text of a sensor must not steer the terminal.
            Some(Value::String(value)) => write!(out, "{value:?}")?,
            None => write!(out, "-")?,
        }
        unit(&reading.unit, out)?;
        if reading.suspect {
            write!(out, "  (suspect)")?;
        }
        if reading.clock() == pb::Clock::Uncertain {
            write!(out, "  (clock uncertain)")?;
        }
        writeln!(out)
    }
}

fn unit(unit: &str, out: &mut impl Write) -> io::Result<()> {
    let unit = match unit {
        "" => return Ok(()),
        "Cel" => "°C",
        // As in UCUM, but for control characters.
        other => other,
    };
    write!(out, " {}", unit.replace(char::is_control, "�"))
}

/// RFC 3339, to the millisecond or microsecond.
fn time(us: i64) -> String {
    let since = Duration::from_micros(us.unsigned_abs());
    let time = if us < 0 {
        UNIX_EPOCH.checked_sub(since)
    } else {
        UNIX_EPOCH.checked_add(since)
    };
    // Before 1970 and after 9999 there is no RFC 3339 by humantime: then the number says it.
    match time {
        Some(time) if (0..253_402_300_800_000_000).contains(&us) && us % 1000 == 0 => {
            humantime::format_rfc3339_millis(time).to_string()
        }
        Some(time) if (0..253_402_300_800_000_000).contains(&us) => {
            humantime::format_rfc3339_micros(time).to_string()
        }
        _ => format!("{us} µs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(time_us: i64, value: Value) -> pb::Reading {
        pb::Reading {
            device: "gw-1".into(),
            metric: "temp".into(),
            unit: "Cel".into(),
            time_us,
            value: Some(value),
            ..pb::Reading::default()
        }
    }

    fn text(json: bool, lines: &[Line]) -> Vec<String> {
        let (mut form, mut out) = (Form::new(json), Vec::new());
        for line in lines {
            form.write(line, &mut out).unwrap();
        }
        let text = String::from_utf8(out).unwrap();
        text.lines().map(str::to_string).collect()
    }

    #[test]
    fn text_is_for_reading() {
        let mut lost = reading(0, Value::Int(12));
        lost.metric = row::LOST.into();
        lost.loss = pb::LossReason::JournalFull.into();
        let gap = pb::Gap {
            partition: 3,
            from_offset: 5,
            to_offset: 9,
            reason: pb::GapReason::Retention.into(),
            ..pb::Gap::default()
        };
        let mut suspect = reading(1_500, Value::String("a\u{1b}[2J".into()));
        (suspect.suspect, suspect.device) = (true, "gw-100".into());
        let lines = [
            Line::Reading(Box::new(reading(1_700_000_000_250_000, Value::Double(21.5)))),
            Line::Reading(Box::new(suspect)),
            Line::Reading(Box::new(reading(-1, Value::Bool(true)))),
            Line::Reading(Box::new(lost)),
            Line::Gap(gap),
        ];
        assert_eq!(
            text(false, &lines),
            [
                "2023-11-14T22:13:20.250Z  gw-1  temp  21.5 °C",
                r#"1970-01-01T00:00:00.001500Z  gw-100  temp  "a\u{1b}[2J" °C  (suspect)"#,
                "-1 µs  gw-1    temp  true °C",
                "1970-01-01T00:00:00.000Z  gw-1: 12 readings are lost: the agent's journal was full",
                "-- gap: offsets 5 to 9 (exclusive) of partition 3 are missing: Kafka has deleted them by their age",
            ]
        );
    }

    #[test]
    fn json_is_for_programs() {
        let bucket = Bucket {
            device: "gw-1".into(),
            metric: "temp".into(),
            unit: String::new(),
            start_us: 1_000_000,
            bucket_us: 10,
            min: 1.0,
            max: 2.0,
            last: 1.5,
            count: 7,
        };
        let lines = [
            Line::Reading(Box::new(reading(1_700_000_000_250_000, Value::Double(21.5)))),
            Line::Bucket(Box::new(bucket)),
            Line::Gap(pb::Gap {
                to_offset: 4,
                reason: pb::GapReason::Reset.into(),
                ..pb::Gap::default()
            }),
        ];
        let objects: Vec<serde_json::Value> = text(true, &lines)
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(objects[0]["value"], 21.5);
        assert_eq!(objects[0]["time"], "2023-11-14T22:13:20.250Z");
        assert_eq!(objects[1]["count"], 7);
        assert_eq!(objects[2]["gap"]["reason"], "reset");
    }
}
