//! How payloads are read, as it stands in a configuration.

use std::collections::BTreeMap;

use headwater_config::ByteSize;
use serde::Deserialize;

use crate::time::UtcOffset;

/// How a payload becomes readings.
///
/// Patterns (`only`, `skip`, `units`, `types`) have `*` for any characters and `?` for one; each stands for a reading's key in
/// the payload (`SI7021.Temperature`; in line protocol `measurement.field`) or for the whole name of its metric. Of several in one
/// table the longest that fits counts.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What a payload is. Default `json`.
    pub format: Format,
    /// The metrics' names: text with `{key}`, `{topic}`, `{2}` (the topic's second segment), `{-1}` (its last), `{2..}` (from the second
    /// on), `{/pointer}` (a text of the JSON record), `{measurement}`, `{tags}`, `{tag:host}`. A placeholder that is empty takes a separator
    /// beside it along. `None`: `{topic}.{key}`; without a topic `{key}`; of line protocol `{measurement}.{tags}.{key}`.
    pub name: Option<String>,
    /// Between the keys of nested JSON objects, and between a topic's segments, in a name. Default `.`.
    pub separator: String,
    /// JSON: where the records are; an array's items are a record each. Default empty: the whole payload.
    pub each: String,
    /// JSON: what of a record is taken, a scalar or all that it holds. Default empty: the whole record.
    pub value: String,
    /// JSON: the time of a record; looked for in it and then in the whole payload. `None`: readings have the time they come at.
    pub time: Option<String>,
    /// JSON: the unit of a record's readings; looked for as the time is. `None`: that of `units`.
    pub unit: Option<String>,
    /// How numbers and texts are read as times. Default `auto`.
    pub time_format: TimeFormat,
    /// The offset of times that do not tell theirs: `Z`, `+01:00`. `None`: such a time is none.
    pub utc_offset: Option<UtcOffset>,
    /// Columns: the key of each, from the first to the last; an empty one leaves its column out.
    pub columns: Vec<String>,
    /// Columns: what stands between them. Default `,`.
    pub delimiter: char,
    /// Form: a line with `{key}` in the place of each value, `{}` in the place of text that is left out: `T={temperature}C {}%`.
    pub form: String,
    /// If not empty: only these are taken. Default empty.
    pub only: Vec<String>,
    /// These are left out. Default empty.
    pub skip: Vec<String>,
    /// Line protocol: tags that stand in no name. Default `["host"]`: that is what the device is for.
    pub skip_tags: Vec<String>,
    /// Units (UCUM) by pattern.
    pub units: BTreeMap<String, String>,
    /// What values are read as. `None`: `number` where a payload is text (`pairs`, `fields`, `columns`,
    /// `form`, `value`), otherwise `auto`.
    #[serde(rename = "type")]
    pub value_type: Option<Type>,
    /// What values are read as, by pattern, where `type` does not fit all.
    pub types: BTreeMap<String, Type>,
    /// Texts that are truth values: `{ ON = true, OFF = false }`. Default none.
    pub booleans: BTreeMap<String, bool>,
    /// Largest payload. Default 64 KiB.
    pub max_payload: ByteSize,
    /// Most readings of one payload. Default 1,000.
    pub max_readings: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            format: Format::Json,
            name: None,
            separator: ".".into(),
            each: String::new(),
            value: String::new(),
            time: None,
            unit: None,
            time_format: TimeFormat::Auto,
            utc_offset: None,
            columns: Vec::new(),
            delimiter: ',',
            form: String::new(),
            only: Vec::new(),
            skip: Vec::new(),
            skip_tags: vec!["host".into()],
            units: BTreeMap::new(),
            value_type: None,
            types: BTreeMap::new(),
            booleans: BTreeMap::new(),
            max_payload: ByteSize::kib(64),
            max_readings: 1_000,
        }
    }
}

/// What a payload is.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One JSON document.
    #[default]
    Json,
    /// A JSON document a line.
    JsonLines,
    /// Influx line protocol.
    Influx,
    /// Lines `name value`, or `name value time` as in Graphite's plaintext protocol.
    Pairs,
    /// Lines `name=value name=value …`; `:` does for `=`, and commas and semicolons for spaces.
    Fields,
    /// Lines of values in columns.
    Columns,
    /// Lines of a fixed form.
    Form,
    /// One value, as text.
    Value,
}

/// What a value is read as.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// As the format types it: JSON numbers as doubles, JSON truth values, texts; line protocol as it says; text as a number if it
    /// is one.
    Auto,
    /// A double, of a number or of a text that is one.
    Number,
    /// A 64-bit integer, of a whole number or of a text that is one.
    Integer,
    /// A truth value, of one, of 0 and 1, and of the texts on/off, true/false, yes/no in any case.
    Boolean,
    /// A text; numbers and truth values as they are written.
    Text,
}

/// How times are written.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum TimeFormat {
    /// A text as of RFC 3339; a number since the epoch, in seconds, milliseconds, microseconds or nanoseconds, whichever
    /// puts it between 1973 and 5138. Line protocol: nanoseconds.
    #[default]
    Auto,
    /// Seconds since the epoch.
    S,
    /// Milliseconds since the epoch.
    Ms,
    /// Microseconds since the epoch.
    Us,
    /// Nanoseconds since the epoch.
    Ns,
    /// A date and a time as text, as of RFC 3339.
    Rfc3339,
}
