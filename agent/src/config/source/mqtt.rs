//! The settings of `mqtt`.

use std::path::PathBuf;

use headwater_config::Duration;
use serde::Deserialize;

use super::Mapping;
use crate::config::{Protocol, Tls};

/// A local broker whose messages are readings.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct MqttSource {
    /// The broker: `mqtt://host:port`, `mqtts://` for TLS, `ws://` and `wss://` for WebSocket. Default `mqtt://127.0.0.1:1883`.
    pub broker: String,
    /// The version of MQTT. Default `auto`.
    pub protocol: Protocol,
    /// TLS, where the address asks for it.
    pub tls: Tls,
    /// The client's name there. `None`: a random one, so that no two are the same.
    pub client_id: Option<String>,
    /// User. `None`: no credentials are sent.
    pub user: Option<String>,
    /// File with the user's password.
    pub password_file: Option<PathBuf>,
    /// How often a silent connection is probed. Default 30 s; whole seconds.
    #[serde(with = "headwater_config::duration")]
    pub keep_alive: Duration,
    /// How long an attempt to connect may take, from resolving the name to the answered subscription. Default 10 s; 1 s to 5 min.
    #[serde(with = "headwater_config::duration")]
    pub connect_timeout: Duration,
    /// What is subscribed to; at least one.
    pub subscription: Vec<MqttSubscription>,
}

impl Default for MqttSource {
    fn default() -> Self {
        Self {
            broker: "mqtt://127.0.0.1:1883".into(),
            protocol: Protocol::default(),
            tls: Tls::default(),
            client_id: None,
            user: None,
            password_file: None,
            keep_alive: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            subscription: Vec::new(),
        }
    }
}

/// One topic filter, and how messages under it are read.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct MqttSubscription {
    /// The filter: `zigbee2mqtt/+`. A message under several filters is read as the first of them says.
    pub topic: String,
    /// Filters of topics under it that are left out. Default none.
    pub except: Vec<String>,
    /// Whether messages that the broker kept (retained) are readings too: they are old, how old nobody knows. Default false.
    pub retained: bool,
    /// How a message is read.
    pub map: Mapping,
}
