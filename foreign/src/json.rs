//! JSON of any shape.

use serde_json::Value;

use crate::mapping::{Mapped, Mapping};
use crate::refusal::Refusal;
use crate::scalar::Scalar;
use crate::template::Naming;
use crate::time;

/// Keys longer than this are in no name that is allowed, so what lies below them is not even walked.
const KEY_MAX: usize = headwater_proto::name::METRIC_MAX;

/// Maps a document.
pub(crate) fn map(mapping: &Mapping, naming: Naming<'_>, text: &str, mapped: &mut Mapped) {
    // The parser's own bound on nesting is 128. As bytes, like everything that is read as JSON: of texts there would be a second parser.
    let document: Value = match serde_json::from_slice(text.as_bytes()) {
        Ok(document) => document,
        Err(error) => {
            return mapped.refuse(|| Refusal::Json {
                why: error.to_string(),
            });
        }
    };
    let Some(records) = document.pointer(&mapping.each) else {
        return mapped.refuse(|| nothing(&mapping.each));
    };
    match records {
        Value::Array(records) => {
            for record in records {
                map_record(mapping, naming, record, &document, mapped);
            }
        }
        record => map_record(mapping, naming, record, &document, mapped),
    }
}

/// Maps a document a line.
pub(crate) fn map_lines(mapping: &Mapping, naming: Naming<'_>, text: &str, mapped: &mut Mapped) {
    for (line, number) in text.lines().zip(1..) {
        if line.trim().is_empty() {
            continue;
        }
        let first = mapped.refusal.is_none();
        map(mapping, naming, line, mapped);
        if first && let Some(Refusal::Json { why }) = &mapped.refusal {
            let why = format!("not JSON: {why}");
            mapped.refusal = Some(Refusal::Line { number, why });
        }
    }
}

fn nothing(pointer: &str) -> Refusal {
    Refusal::Nothing {
        pointer: pointer.to_string(),
    }
}

fn map_record<'a>(
    mapping: &'a Mapping,
    naming: Naming<'a>,
    record: &'a Value,
    document: &'a Value,
    mapped: &mut Mapped,
) {
    let naming = Naming {
        record: Some((record, document)),
        ..naming
    };
    let Some(value) = record.pointer(&mapping.value) else {
        return mapped.refuse(|| nothing(&mapping.value));
    };
    let at = |pointer: &Option<String>| pointer.as_deref().and_then(|pointer| naming.at(pointer));
    let (time, unit) = (at(&mapping.time), at(&mapping.unit));
    let time_us = time.and_then(|time| match time {
        Value::Number(number) => match number.as_i64() {
            Some(number) => time::of_integer(number, mapping.time_format),
            None => time::of_number(number.as_f64()?, mapping.time_format),
        },
        Value::String(text) => time::of_text(text, mapping.time_format, mapping.utc_offset),
        _ => None,
    });
    let before = mapped.readings.len();
    let mut walk = Walk {
        mapping,
        naming,
        time_us,
        unit: unit.and_then(Value::as_str),
        // What says the time, the unit or the name is not a reading.
        apart: [time, unit].into_iter().flatten().collect(),
        key: String::new(),
        mapped,
    };
    walk.apart
        .extend(mapping.naming_pointers().filter_map(|pointer| naming.at(pointer)));
    walk.value(value);
    if mapping.time.is_some() && time_us.is_none() {
        mapped.untimed += (mapped.readings.len() - before) as u64;
    }
}

/// A walk down to a record's scalars.
struct Walk<'a, 'm> {
    mapping: &'a Mapping,
    naming: Naming<'a>,
    time_us: Option<i64>,
    unit: Option<&'a str>,
    apart: Vec<&'a Value>,
    key: String,
    mapped: &'m mut Mapped,
}

impl Walk<'_, '_> {
    fn value(&mut self, value: &Value) {
        if self.apart.iter().any(|apart| std::ptr::eq(*apart, value)) {
            return;
        }
        let scalar = match value {
            Value::Null => return,
            Value::Bool(truth) => Scalar::Bool(*truth),
            Value::Number(number) => Scalar::Number(number),
            Value::String(text) => Scalar::Text(text),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.below(&index.to_string(), item);
                }
                return;
            }
            Value::Object(members) => {
                for (key, member) in members {
                    self.below(key, member);
                }
                return;
            }
        };
        if self.mapping.has_room(self.mapped) {
            self.mapping.reading(
                &self.naming,
                &self.key,
                scalar,
                self.time_us,
                self.unit,
                self.mapped,
            );
        }
    }

    fn below(&mut self, key: &str, value: &Value) {
        let length = self.key.len();
        if length + key.len() > KEY_MAX {
            return self.mapped.refuse(|| Refusal::Name {
                why: format!(
                    "a key of more than {KEY_MAX} bytes, which begins with {:?}, names no metric",
                    self.key.chars().chain(key.chars()).take(64).collect::<String>()
                ),
            });
        }
        if length > 0 {
            self.key.push_str(&self.mapping.separator);
        }
        self.key.push_str(key);
        self.value(value);
        self.key.truncate(length);
    }
}
