//! The settings of the way to the relay.

use std::path::PathBuf;

use headwater_config::{ByteSize, Duration};
use headwater_proto::frame;
use serde::Deserialize;

use super::flow::{DataBudget, Drain};
use super::{Brokers, Protocol, Tls};

/// The way to the relay.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Uplink {
    /// One address, or several in order of preference: `mqtt://host:port`, `mqtts://` for TLS, `ws://` and `wss://` for WebSocket. The port
    /// may be left out (1883, 8883, 80, 443). Default `mqtt://localhost:1883`.
    pub broker: Brokers,
    /// How long another broker than the first is kept before it is tried to go back to the first. Default 10 min.
    #[serde(with = "headwater_config::duration")]
    pub return_after: Duration,
    /// The version of MQTT. Default `auto`.
    pub protocol: Protocol,
    /// TLS, for addresses that ask for it.
    pub tls: Tls,
    /// How long an attempt to connect may take, from resolving the name to the answered subscription. Default 20 s; 1 s to 5 min.
    #[serde(with = "headwater_config::duration")]
    pub connect_timeout: Duration,
    /// The MQTT client id. `None`: the device's name.
    pub client_id: Option<String>,
    /// The MQTT user name. `None`: no credentials are sent.
    pub user: Option<String>,
    /// File with the password of `user`. `None`: an empty one.
    pub password_file: Option<PathBuf>,
    /// How often the connection is probed while nothing else is sent. Default 30 s; whole seconds, 1 s to 18 h.
    #[serde(with = "headwater_config::duration")]
    pub keep_alive: Duration,
    /// What may be sent ahead of the relay's acknowledgement.
    pub window: Window,
    /// No acknowledgement for this long: go back to the last acknowledged batch and send again. Default 10 s.
    #[serde(with = "headwater_config::duration")]
    pub ack_timeout: Duration,
    /// What is sent first after an outage. Default `in-order`.
    pub drain: Drain,
    /// The backlog's bytes per second. `None`: as fast as the link takes them.
    pub drain_rate: Option<ByteSize>,
    /// The longest random pause before the first byte of a backlog, with `live-first` or a `drain_rate`. Default 10 s.
    #[serde(with = "headwater_config::duration")]
    pub drain_jitter: Duration,
    /// What waits becomes a backlog when nothing was acknowledged for this long (or when it is more than a window of
    /// batches). Default 1 min.
    #[serde(with = "headwater_config::duration")]
    pub drain_after: Duration,
    /// What may pass the link in a month. `None`: any amount.
    pub data_budget: Option<DataBudget>,
    /// Waiting time between attempts to connect.
    pub backoff: Backoff,
    /// How long a stop waits, at most, for acknowledgements of what is not on flash. Default 5 s.
    #[serde(with = "headwater_config::duration")]
    pub stop_timeout: Duration,
    /// How batches are encoded on the link. Default `postcard`.
    pub encoding: Encoding,
    /// How batches are compressed on the link. Default `none`: postcard leaves little to compress.
    pub compression: Compression,
}

impl Default for Uplink {
    fn default() -> Self {
        Self {
            broker: "mqtt://localhost:1883".into(),
            return_after: Duration::from_secs(600),
            protocol: Protocol::default(),
            tls: Tls::default(),
            connect_timeout: Duration::from_secs(20),
            client_id: None,
            user: None,
            password_file: None,
            keep_alive: Duration::from_secs(30),
            window: Window::default(),
            ack_timeout: Duration::from_secs(10),
            drain: Drain::default(),
            drain_rate: None,
            drain_jitter: Duration::from_secs(10),
            drain_after: Duration::from_secs(60),
            data_budget: None,
            backoff: Backoff::default(),
            stop_timeout: Duration::from_secs(5),
            encoding: Encoding::default(),
            compression: Compression::default(),
        }
    }
}

/// What may be sent ahead of the relay's acknowledgement. One batch may always, however large.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Window {
    /// Batches. Default 32; at least 1.
    pub batches: usize,
    /// Bytes of encoded batches. Default 256 KiB.
    pub bytes: ByteSize,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            batches: 32,
            bytes: ByteSize::kib(256),
        }
    }
}

/// Waiting time between attempts to connect: random between 0 and a bound that doubles from `min` to `max` (full
/// jitter), so that a fleet does not return all at once.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// The first bound. Default 1 s.
    #[serde(with = "headwater_config::duration")]
    pub min: Duration,
    /// The last bound. Default 60 s.
    #[serde(with = "headwater_config::duration")]
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            min: Duration::from_secs(1),
            max: Duration::from_secs(60),
        }
    }
}

/// How batches are encoded on the link.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// The open form.
    Protobuf,
    /// The dense form.
    #[default]
    Postcard,
}

impl From<Encoding> for frame::Encoding {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Protobuf => Self::Protobuf,
            Encoding::Postcard => Self::Postcard,
        }
    }
}

/// How batches are compressed on the link.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Where it shrinks them.
    Deflate,
}

impl From<Compression> for frame::Compression {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Deflate => Self::Deflate,
        }
    }
}
