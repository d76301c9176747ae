//! The settings of `replay`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

/// A recorded trace: CSV with a column `time_ms` (Unix epoch, milliseconds) and a column per metric; an empty field
/// is no reading.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct ReplaySource {
    /// Put before every metric's name. Default empty.
    pub prefix: String,
    /// The trace; in the file the key is `path`.
    #[serde(rename = "path")]
    pub trace: Trace,
    /// How fast. Default its own speed.
    pub speed: Speed,
    /// What follows the last row. Default `loop`.
    pub at_end: AtEnd,
    /// How readings are stamped. Default `now`.
    pub times: ReplayTimes,
    /// Units by column name (UCUM); a column that is not named has none.
    pub units: BTreeMap<String, String>,
}

/// Where a trace is.
#[derive(Clone, PartialEq)]
pub enum Trace {
    /// In a file.
    File(PathBuf),
    /// In memory: only for programs that embed the agent.
    Text(Cow<'static, str>),
}

impl Default for Trace {
    fn default() -> Self {
        Self::File(PathBuf::new())
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
        }
    }
}

impl<'de> Deserialize<'de> for Trace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        PathBuf::deserialize(deserializer).map(Self::File)
    }
}

/// How fast a trace is replayed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// As many times its own speed; in the file a number.
    Factor(f64),
    /// As fast as the agent takes it; in the file `"max"`.
    Max,
}

impl Default for Speed {
    fn default() -> Self {
        Self::Factor(1.0)
    }
}

impl<'de> Deserialize<'de> for Speed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Speed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number greater than 0 or \"max\"")
            }

            fn visit_f64<E: serde::de::Error>(self, factor: f64) -> Result<Speed, E> {
                if factor.is_finite() && factor > 0.0 {
                    Ok(Speed::Factor(factor))
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Float(factor), &self))
                }
            }

            fn visit_i64<E: serde::de::Error>(self, factor: i64) -> Result<Speed, E> {
                self.visit_f64(factor as f64)
            }

            fn visit_u64<E: serde::de::Error>(self, factor: u64) -> Result<Speed, E> {
                self.visit_f64(factor as f64)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Speed, E> {
                match text {
                    "max" => Ok(Speed::Max),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// What follows the last row of a trace.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum AtEnd {
    /// Its first row.
    #[default]
    Loop,
    /// Nothing.
    Stop,
}

/// How replayed readings are stamped.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ReplayTimes {
    /// From now on, at the trace's own spacing divided by the speed (at speed `max`: at its own spacing, so they
    /// run ahead of the clock).
    #[default]
    Now,
    /// As in the trace.
    Original,
}
