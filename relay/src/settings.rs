//! The relay's settings: one file, `deploy/relay.toml`, which is also their reference.

use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize;

use crate::bridge::settings::{BridgeSettings, MqttSettings};
use crate::gateway::settings::GatewaySettings;
use crate::kafka::KafkaSettings;

/// The environment variables that override the file begin so: `HEADWATER_RELAY_KAFKA__BOOTSTRAP`.
pub const PREFIX: &str = "HEADWATER_RELAY_";

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
    /// Kafka → WebSocket.
    pub gateway: GatewaySettings,
}

impl Settings {
    /// Reads `path` (only the environment where it is `None`).
    ///
    /// # Errors
    /// Whatever is wrong in the file or the environment, with its place.
    pub fn load(path: Option<&Path>) -> Result<Self, headwater_config::Error> {
        headwater_config::load(path, PREFIX)
    }
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`), or directives per module as in
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
