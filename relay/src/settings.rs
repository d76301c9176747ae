//! The relay's settings: one file, `deploy/relay.toml`, which is also their reference.

mod range;

use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::bridge::foreign::settings::ForeignSettings;
use crate::bridge::settings::BridgeSettings;
use crate::enroll::settings::EnrollSettings;
use crate::gateway::settings::GatewaySettings;
use crate::kafka::KafkaSettings;
use crate::mqtt::MqttSettings;
use crate::rows::settings::RowsSettings;

/// The environment variables that override the file begin so: `HEADWATER_RELAY_KAFKA__BOOTSTRAP`.
pub const PREFIX: &str = "HEADWATER_RELAY_";

/// What a level can be.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Everything that `deploy/relay.toml` holds.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What is logged, and how.
    pub log: LogSettings,
    /// The port for health and metrics.
    pub admin: AdminSettings,
    /// The connection to Kafka, and the topics.
    pub kafka: KafkaSettings,
    /// The connection to the MQTT broker.
    pub mqtt: MqttSettings,
    /// MQTT → Kafka.
    pub bridge: BridgeSettings,
    /// Foreign devices → Kafka.
    pub foreign: Vec<ForeignSettings>,
    /// Kafka → WebSocket.
    pub gateway: GatewaySettings,
    /// Devices' certificates.
    pub enroll: EnrollSettings,
    /// Kafka → Kafka, one record a reading.
    pub rows: RowsSettings,
}

impl Settings {
    /// Reads `path` (only the environment where it is `None`), and checks what it says.
    ///
    /// # Errors
    /// Whatever is wrong in the file or the environment, with its place.
    pub fn load(path: Option<&Path>) -> Result<Self, Error> {
        let settings: Self = headwater_config::load(path, PREFIX)?;
        settings.check()?;
        Ok(settings)
    }
}

/// What can be wrong with the settings. Each message is whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file or the environment.
    #[error(transparent)]
    Config(#[from] headwater_config::Error),
    /// A value that is not allowed.
    #[error("{key} = {value}: {why}")]
    Value {
        /// The key, with its section: `gateway.keep_alive`.
        key: String,
        /// What it is.
        value: String,
        /// What is allowed.
        why: String,
    },
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// A level (`off`, `error`, `warn`, `info`, `debug`, `trace`), or directives per module as in
    /// `info,headwater_relay::bridge=debug`.
    pub level: String,
    /// Text for people or JSON for machines.
    pub format: LogFormat,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: LogFormat::Text,
        }
    }
}

impl LogSettings {
    /// `level` as the subscriber takes it.
    ///
    /// # Errors
    /// What is wrong with it, and what is allowed. The subscriber alone would take a misspelt level for a module of that
    /// name, and log nothing else.
    pub fn filter(level: &str) -> Result<EnvFilter, String> {
        let wrong = level.split(',').find(|directive| {
            let is_level = LEVELS.iter().any(|known| known.eq_ignore_ascii_case(directive));
            !is_level && !directive.contains('=')
        });
        if let Some(wrong) = wrong {
            return Err(format!("{wrong:?} is not a level; {}", levels()));
        }
        EnvFilter::try_new(level).map_err(|error| format!("{error}; {}", levels()))
    }
}

fn levels() -> String {
    format!(
        "write one of {}, or per module: info,headwater_relay::bridge=debug",
        LEVELS.join(", ")
    )
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The port for health and metrics.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSettings {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9464)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_file_parses_to_the_defaults() {
        let text = include_str!("../../deploy/relay.toml");
        let settings: Settings = headwater_config::parse(text, "relay.toml", PREFIX, []).unwrap();
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn a_word_that_is_no_level_is_refused_with_those_that_are() {
        for level in [
            "off",
            "INFO",
            "error,rumqttd=off",
            "info,headwater_relay::bridge=debug",
        ] {
            assert!(LogSettings::filter(level).is_ok(), "{level}");
        }
        for level in ["loud", "info,loud", "", "headwater_relay", "headwater_relay=loud"] {
            let why = LogSettings::filter(level).unwrap_err();
            assert!(
                why.contains("off, error, warn, info, debug, trace"),
                "{level}: {why}"
            );
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_what_was_meant() {
        let error = headwater_config::parse::<Settings>("[kafka]\nbootstap = 'x'", "relay.toml", PREFIX, [])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 2") && error.contains("did you mean `bootstrap`"),
            "{error}"
        );
    }
}
