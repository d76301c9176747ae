//! The settings of the sources. They are part of every build, so that one that leaves a source out can say so.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use headwater_config::Duration;
use serde::{Deserialize, Deserializer};

/// Where readings come from.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Source {
    /// This machine's own figures.
    System(SystemSource),
    /// A recorded trace.
    Replay(ReplaySource),
    /// Made-up sensors.
    Simulated(SimulatedSource),
}

/// This machine's own figures: CPU, memory, load, disks, network, temperatures.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct SystemSource {
    /// Put before every metric's name. Default empty.
    pub prefix: String,
    /// Time between samples. Default 10 s.
    #[serde(with = "headwater_config::duration")]
    pub interval: Duration,
    /// What is sampled. Default all.
    pub groups: Vec<SystemGroup>,
}

impl Default for SystemSource {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            interval: Duration::from_secs(10),
            groups: SystemGroup::ALL.to_vec(),
        }
    }
}

/// A group of this machine's figures.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum SystemGroup {
    /// `cpu.usage`.
    Cpu,
    /// `memory.used`, `memory.available`, `swap.used`.
    Memory,
    /// `load.1m`, `load.5m`, `load.15m`, `uptime`.
    Load,
    /// `disk.<mount>.used`, `disk.<mount>.free`.
    Disks,
    /// `net.<interface>.rx`, `net.<interface>.tx`.
    Network,
    /// `temperature.<sensor>`.
    Temperatures,
}

impl SystemGroup {
    /// Every group.
    pub const ALL: [Self; 6] = [
        Self::Cpu,
        Self::Memory,
        Self::Load,
        Self::Disks,
        Self::Network,
        Self::Temperatures,
    ];
}

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

/// Made-up sensors: seeded random walks at the resolution of real parts.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct SimulatedSource {
    /// Put before every metric's name. Default empty.
    pub prefix: String,
    /// Time between samples. Default 1 s.
    #[serde(with = "headwater_config::duration")]
    pub interval: Duration,
    /// How many sensors. Default 8; 1 to 10,000.
    pub sensors: usize,
    /// The same seed walks the same way. `None`: made from the device's name.
    pub seed: Option<u64>,
    /// The step between neighbouring values, a decimal of at most 6 digits such as 0.01. `None`: each kind of sensor
    /// its own.
    pub resolution: Option<f64>,
    /// Mean time between a sensor's outages; 0: none. Default 0.
    #[serde(with = "headwater_config::duration")]
    pub outage_every: Duration,
    /// Mean length of an outage. Default 30 s.
    #[serde(with = "headwater_config::duration")]
    pub outage_for: Duration,
}

impl Default for SimulatedSource {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            interval: Duration::from_secs(1),
            sensors: 8,
            seed: None,
            resolution: None,
            outage_every: Duration::ZERO,
            outage_for: Duration::from_secs(30),
        }
    }
}
