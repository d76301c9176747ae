//! A batch as rows: one for each reading, one for a loss record.

use headwater_proto::{Batch, Body, Clock, LossReason, Message as _, Readings, Values, pb};
use serde_json::{Map, Value as Json, json};

use super::settings::{Format, RowsSettings};

/// The metric of a row that stands for lost readings. Such a row has a reason in `loss` too, which no sampled one has.
pub const LOST: &str = "headwater.lost";

/// The rows of a batch, in its order. `arrival_us`: when it came to the bridge, microseconds since the Unix epoch.
pub fn rows(batch: &Batch, arrival_us: i64) -> Vec<pb::Reading> {
    match &batch.body {
        Body::Readings(readings) => of_readings(batch, readings),
        Body::Loss(loss) => vec![pb::Reading {
            device: batch.device.clone(),
            metric: LOST.into(),
            time_us: arrival_us,
            // More than i64 has room for was never sampled.
            value: Some(pb::reading::Value::Int(
                i64::try_from(loss.readings).unwrap_or(i64::MAX),
            )),
            stream: batch.stream,
            seq: batch.seq,
            loss: reason(loss.reason).into(),
            ..pb::Reading::default()
        }],
    }
}

fn of_readings(batch: &Batch, readings: &Readings) -> Vec<pb::Reading> {
    let clock = match readings.clock {
        Clock::Synchronised => pb::Clock::Synchronised,
        Clock::Uncertain => pb::Clock::Uncertain,
    };
    let mut rows = Vec::with_capacity(readings.len());
    for column in &readings.columns {
        let times = readings
            .times
            .get(column.times as usize)
            .map_or(&[][..], Vec::as_slice);
        for (at, &time_us) in times.iter().enumerate().take(column.values.len()) {
            rows.push(pb::Reading {
                device: batch.device.clone(),
                metric: column.metric.clone(),
                unit: column.unit.clone(),
                time_us,
                value: Some(value(&column.values, at)),
                suspect: column.suspect.binary_search(&(at as u32)).is_ok(),
                clock: clock.into(),
                stream: batch.stream,
                seq: batch.seq,
                index: rows.len() as u32,
                loss: 0,
            });
        }
    }
    rows
}

fn value(values: &Values, at: usize) -> pb::reading::Value {
    match values {
        Values::F64(values) => pb::reading::Value::Double(values[at]),
        Values::I64(values) => pb::reading::Value::Int(values[at]),
        Values::Bool(values) => pb::reading::Value::Bool(values[at]),
        Values::String(values) => pb::reading::Value::String(values[at].clone()),
    }
}

fn reason(reason: LossReason) -> pb::LossReason {
    match reason {
        LossReason::JournalFull => pb::LossReason::JournalFull,
        LossReason::Corrupt => pb::LossReason::Corrupt,
        LossReason::Retention => pb::LossReason::Retention,
        LossReason::Refused => pb::LossReason::Refused,
    }
}

/// A row as the value of a Kafka record.
pub fn encode(row: &pb::Reading, settings: &RowsSettings) -> Vec<u8> {
    match settings.format {
        Format::Json => json(row).to_string().into_bytes(),
        Format::Protobuf => {
            let mut bytes = Vec::with_capacity(row.encoded_len() + 6);
            if let Some(id) = settings.schema_id {
                // Confluent's wire format: magic byte, schema id, and the path to the message in its file, 0 for the first.
                bytes.push(0);
                bytes.extend_from_slice(&id.to_be_bytes());
                bytes.push(0);
            }
            bytes.extend_from_slice(&row.encode_to_vec());
            bytes
        }
    }
}

/// One object, flat, so that every column store takes it as it is: `value` is a number or null, `text` whatever is none.
pub(crate) fn json(row: &pb::Reading) -> Json {
    let mut object = Map::new();
    let mut put = |key: &str, value: Json| drop(object.insert(key.into(), value));
    put("device", row.device.as_str().into());
    put("metric", row.metric.as_str().into());
    put("unit", row.unit.as_str().into());
    put("time_us", row.time_us.into());
    let (value, text) = match &row.value {
        // JSON has no numbers for these.
        Some(pb::reading::Value::Double(value)) if !value.is_finite() => {
            (Json::Null, json!(value.to_string()))
        }
        Some(pb::reading::Value::Double(value)) => (json!(value), Json::Null),
        Some(pb::reading::Value::Int(value)) => (json!(value), Json::Null),
        Some(pb::reading::Value::Bool(value)) => (json!(u8::from(*value)), json!(value.to_string())),
        Some(pb::reading::Value::String(value)) => (Json::Null, json!(value)),
        None => (Json::Null, Json::Null),
    };
    put("value", value);
    put("text", text);
    put("suspect", row.suspect.into());
    put("uncertain", (row.clock() == pb::Clock::Uncertain).into());
    // 64 bits are more than a double holds, and hexadecimal is how the headers of telemetry write it.
    put("stream", format!("{:016x}", row.stream).into());
    put("seq", row.seq.into());
    put("index", row.index.into());
    if row.loss() != pb::LossReason::Unspecified {
        let name = row.loss().as_str_name();
        put(
            "loss",
            name.trim_start_matches("LOSS_REASON_").to_lowercase().into(),
        );
    }
    Json::Object(object)
}

#[cfg(test)]
mod tests {
    use headwater_proto::{Column, Loss};

    use super::*;

    fn batch(body: Body) -> Batch {
        Batch {
            device: "gw-1".into(),
            stream: 0xab,
            seq: 7,
            body,
        }
    }

    fn column(metric: &str, values: Values) -> Column {
        Column {
            metric: metric.into(),
            unit: "Cel".into(),
            times: 0,
            values,
            suspect: vec![1],
        }
    }

    fn text(row: &pb::Reading) -> String {
        String::from_utf8(encode(row, &RowsSettings::default())).unwrap()
    }

    #[test]
    fn each_reading_is_a_row_with_its_place_and_its_type() {
        let readings = Readings {
            times: vec![vec![1_000_001, 2_000_002]],
            columns: vec![
                column("t", Values::F64(vec![21.5, f64::NAN])),
                column("n", Values::I64(vec![i64::MIN, i64::MAX])),
                column("on", Values::Bool(vec![true, false])),
                column("state", Values::String(vec!["a \"b\"".into(), "ü".into()])),
            ],
            clock: Clock::Uncertain,
        };
        let rows = rows(&batch(Body::Readings(readings)), 5);
        let lines: Vec<String> = rows.iter().map(text).collect();
        let start = r#""device":"gw-1""#;
        assert!(
            lines
                .iter()
                .all(|line| line.contains(start) && line.contains(r#""uncertain":true"#))
        );
        for (line, facts) in lines.iter().zip([
            [
                r#""value":21.5"#,
                r#""text":null"#,
                r#""time_us":1000001"#,
                r#""suspect":false"#,
                r#""index":0"#,
            ],
            [
                r#""value":null"#,
                r#""text":"NaN""#,
                r#""time_us":2000002"#,
                r#""suspect":true"#,
                r#""index":1"#,
            ],
            [
                r#""value":-9223372036854775808"#,
                r#""metric":"n""#,
                r#""seq":7"#,
                r#""unit":"Cel""#,
                r#""index":2"#,
            ],
            [
                r#""value":9223372036854775807"#,
                r#""stream":"00000000000000ab""#,
                "",
                "",
                r#""index":3"#,
            ],
            [r#""value":1"#, r#""text":"true""#, "", "", r#""index":4"#],
            [r#""value":0"#, r#""text":"false""#, "", "", r#""index":5"#],
            [r#""value":null"#, r#""text":"a \"b\"""#, "", "", r#""index":6"#],
            [r#""value":null"#, r#""text":"ü""#, "", "", r#""index":7"#],
        ]) {
            for fact in facts {
                assert!(line.contains(fact), "{line} has no {fact}");
            }
        }
        assert_eq!(lines.len(), 8);
    }

    #[test]
    fn a_loss_is_a_row_too() {
        let loss = Loss {
            through: 9,
            readings: 240,
            reason: LossReason::JournalFull,
        };
        let rows = rows(&batch(Body::Loss(loss)), 77);
        assert_eq!(rows.len(), 1);
        let line = text(&rows[0]);
        for fact in [
            r#""metric":"headwater.lost""#,
            r#""value":240"#,
            r#""loss":"journal_full""#,
            r#""time_us":77"#,
        ] {
            assert!(line.contains(fact), "{line} has no {fact}");
        }
    }

    #[test]
    fn protobuf_may_be_framed_for_a_schema_registry() {
        let row = pb::Reading {
            device: "gw-1".into(),
            value: Some(pb::reading::Value::Double(-0.0)),
            ..pb::Reading::default()
        };
        let mut settings = RowsSettings {
            format: Format::Protobuf,
            ..RowsSettings::default()
        };
        let plain = encode(&row, &settings);
        assert_eq!(pb::Reading::decode(&plain[..]).unwrap(), row);
        settings.schema_id = Some(0x0102_0304);
        let framed = encode(&row, &settings);
        assert_eq!(framed[..6], [0, 1, 2, 3, 4, 0]);
        assert_eq!(framed[6..], plain);
    }
}
