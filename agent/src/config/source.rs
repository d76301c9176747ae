//! The settings of the sources. They are part of every build, so that one that leaves a source out can say so.

mod exec;
mod file;
mod http;
mod line;
mod modbus;
mod mqtt;
mod replay;
mod serial;
mod simulated;
mod socket;
mod sysfs;
mod system;

use std::collections::HashSet;
use std::fmt;

use headwater_config::{Mistake, from_table};
use headwater_proto::name;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::Error;

pub use exec::ExecSource;
pub use file::{Begin, FileSource};
pub use headwater_foreign::Settings as Mapping;
pub use http::HttpSource;
pub use line::{FlowControl, Parity};
pub use modbus::{ModbusDevice, ModbusOrder, ModbusRegister, ModbusSource, ModbusTable, ModbusType};
pub use mqtt::{MqttSource, MqttSubscription};
pub use replay::{AtEnd, ReplaySource, ReplayTimes, Speed, Trace};
pub use serial::{SerialFormat, SerialSource};
pub use simulated::SimulatedSource;
pub use socket::SocketSource;
pub use sysfs::{SysfsFile, SysfsParse, SysfsPreset, SysfsSource};
pub use system::{SystemGroup, SystemSource};

/// The longest name of a source, bytes.
const NAME_MAX: usize = 64;

/// Where readings come from: a `[[source]]` table. Beside the keys of its type it has these, whatever its type.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// What logs, figures and commands call it: 1 to 64 of `A-Z a-z 0-9 . _ : -`, unique. `None`: its type, or `type-2`, `type-3`, …
    /// where there are several; see [`Source::names`].
    pub name: Option<String>,
    /// The most readings a second, on average over ten seconds; beyond it a source that asks waits, who can be slowed
    /// down is, and what is pushed (MQTT, UDP) is dropped and counted. `None`: 1,000 for those that are handed readings, no bound for those that ask. At least 1.
    pub rate: Option<u32>,
    /// The rest, by type.
    pub kind: SourceKind,
}

/// The settings of each type of source.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceKind {
    /// This machine's own figures.
    System(SystemSource),
    /// Devices that answer Modbus.
    Modbus(ModbusSource),
    /// A serial line on which somebody sends readings.
    Serial(SerialSource),
    /// A recorded trace.
    Replay(ReplaySource),
    /// Sensors that the kernel shows as files.
    Sysfs(SysfsSource),
    /// Made-up sensors.
    Simulated(SimulatedSource),
    /// A local broker's messages.
    Mqtt(MqttSource),
    /// An HTTP server for local programs.
    Http(HttpSource),
    /// A TCP or UDP port for local programs.
    Socket(SocketSource),
    /// A program's output.
    Exec(ExecSource),
    /// A file that grows.
    File(FileSource),
}

/// The values of `type`.
const TYPES: [&str; 11] = [
    "system",
    "modbus",
    "serial",
    "replay",
    "sysfs",
    "simulated",
    "mqtt",
    "http",
    "socket",
    "exec",
    "file",
];

impl SourceKind {
    /// Of a table with a `type`. Not by serde's own tagged enums, which read everything by a second deserializer.
    fn read(mut table: toml::Table) -> Result<Self, Mistake> {
        let kind = match table.remove("type") {
            Some(toml::Value::String(kind)) => kind,
            Some(other) => {
                let what = format!("invalid type: {}, expected a string as `type`", other.type_str());
                return Err(Mistake::custom(what));
            }
            None => return Err(Mistake::missing_field("type")),
        };
        match kind.as_str() {
            "system" => from_table(table).map(Self::System),
            "modbus" => from_table(table).map(Self::Modbus),
            "serial" => from_table(table).map(Self::Serial),
            "replay" => from_table(table).map(Self::Replay),
            "sysfs" => from_table(table).map(Self::Sysfs),
            "simulated" => from_table(table).map(Self::Simulated),
            "mqtt" => from_table(table).map(Self::Mqtt),
            "http" => from_table(table).map(Self::Http),
            "socket" => from_table(table).map(Self::Socket),
            "exec" => from_table(table).map(Self::Exec),
            "file" => from_table(table).map(Self::File),
            other => Err(Mistake::unknown_variant(other, &TYPES)),
        }
    }

    /// The value of `type`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::System(_) => "system",
            Self::Sysfs(_) => "sysfs",
            Self::Modbus(_) => "modbus",
            Self::Serial(_) => "serial",
            Self::Replay(_) => "replay",
            Self::Simulated(_) => "simulated",
            Self::Mqtt(_) => "mqtt",
            Self::Http(_) => "http",
            Self::Socket(_) => "socket",
            Self::Exec(_) => "exec",
            Self::File(_) => "file",
        }
    }
}

impl From<SourceKind> for Source {
    fn from(kind: SourceKind) -> Self {
        Self {
            name: None,
            rate: None,
            kind,
        }
    }
}

impl Source {
    /// What each source is called, in their order: its `name`, else its type with a number from the second on.
    pub fn names(sources: &[Self]) -> Vec<String> {
        let mut taken: HashSet<String> = sources.iter().filter_map(|source| source.name.clone()).collect();
        let name = |source: &Self| match &source.name {
            Some(name) => name.clone(),
            None => {
                let kind = source.kind.name();
                let mut name = kind.to_string();
                let mut number = 1;
                while !taken.insert(name.clone()) {
                    number += 1;
                    name = format!("{kind}-{number}");
                }
                name
            }
        };
        sources.iter().map(name).collect()
    }

    /// Checks the keys that all sources have in common.
    pub(super) fn check(sources: &[Self]) -> Result<(), Error> {
        let setting = |key: &str, why: String| {
            Err(Error::Setting {
                key: key.to_string(),
                why,
            })
        };
        let mut taken = HashSet::new();
        for source in sources {
            if let Some(name) = &source.name {
                if name.len() > NAME_MAX || name::check_device(name).is_err() {
                    let why = format!(
                        "{name:?} is not 1 to {NAME_MAX} of A-Z a-z 0-9 . _ : - that begin with a letter or a digit"
                    );
                    return setting("source.name", why);
                }
                if !taken.insert(name) {
                    return setting("source.name", format!("{name:?} is the name of two sources"));
                }
            }
            if source.rate == Some(0) {
                return setting("source.rate", "0 would let nothing pass; give at least 1".into());
            }
        }
        Ok(())
    }
}

/// The keys that are common to all sources are taken out; the rest is its type's, where unknown ones are refused.
impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;

        impl<'de> Visitor<'de> for Table {
            type Value = Source;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a [[source]] table")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Source, A::Error> {
                let (mut name, mut rate, mut rest) = (None, None, toml::Table::new());
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "name" => name = Some(map.next_value()?),
                        "rate" => rate = Some(map.next_value()?),
                        _ => {
                            rest.insert(key, map.next_value()?);
                        }
                    }
                }
                let kind =
                    SourceKind::read(rest).map_err(|mistake| A::Error::custom(with_common(&mistake)))?;
                Ok(Source { name, rate, kind })
            }
        }

        deserializer.deserialize_map(Table)
    }
}

/// What is wrong, with the common keys among those that an unknown one may have meant.
fn with_common(mistake: &Mistake) -> String {
    let message = mistake.message().trim();
    if message.starts_with("unknown field") {
        format!("{message}, `name`, `rate`")
    } else {
        message.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: Option<&str>, kind: SourceKind) -> Source {
        Source {
            name: name.map(Into::into),
            ..kind.into()
        }
    }

    #[test]
    fn names_are_given_or_made_and_never_come_twice() {
        let simulated = || SourceKind::Simulated(SimulatedSource::default());
        let system = || SourceKind::System(SystemSource::default());
        let sources = [
            source(None, simulated()),
            source(Some("boiler"), simulated()),
            source(None, system()),
            source(None, simulated()),
            source(Some("simulated-3"), system()),
            source(None, simulated()),
        ];
        assert_eq!(
            Source::names(&sources),
            [
                "simulated",
                "boiler",
                "system",
                "simulated-2",
                "simulated-3",
                "simulated-4"
            ]
        );
        Source::check(&sources).unwrap();
    }

    #[test]
    fn a_name_that_cannot_stand_or_comes_twice_is_refused() {
        for (names, part) in [
            (vec!["a b"], "\"a b\" is not 1 to 64"),
            (vec![""], "\"\" is not 1 to 64"),
            (vec!["a", "a"], "\"a\" is the name of two sources"),
        ] {
            let sources: Vec<_> = names
                .into_iter()
                .map(|name| source(Some(name), SourceKind::System(SystemSource::default())))
                .collect();
            let error = Source::check(&sources).unwrap_err().to_string();
            assert!(
                error.starts_with("setting `source.name`") && error.contains(part),
                "{error}"
            );
        }
    }

    #[test]
    fn common_keys_stand_beside_those_of_the_type() {
        let source: Source =
            toml::from_str("name = 'walks'\ntype = 'simulated'\nrate = 20\nsensors = 3\ninterval = '2s'")
                .unwrap();
        assert_eq!((source.name.as_deref(), source.rate), (Some("walks"), Some(20)));
        assert_eq!(
            source.kind,
            SourceKind::Simulated(SimulatedSource {
                sensors: 3,
                interval: headwater_config::Duration::from_secs(2),
                ..Default::default()
            })
        );
    }
}
