//! The settings of `socket`.

use headwater_config::Duration;
use serde::Deserialize;

use super::Mapping;

/// A port on which local programs hand in readings, by lines over TCP or by datagrams over UDP.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct SocketSource {
    /// `tcp://address:port` or `udp://address:port`. Default `tcp://127.0.0.1:8094`.
    pub listen: String,
    /// Whether `listen` may be an address that other machines reach: whoever does can hand in readings. Default false.
    pub remote: bool,
    /// Most connections at a time (TCP). Default 16; 1 to 1,000.
    pub connections: usize,
    /// A connection that is silent for so long is closed (TCP). Default 10 m.
    #[serde(with = "headwater_config::duration")]
    pub idle_timeout: Duration,
    /// How a line, or a datagram, is read; `max_payload` is the longest.
    pub map: Mapping,
}

impl Default for SocketSource {
    fn default() -> Self {
        Self {
            listen: "tcp://127.0.0.1:8094".into(),
            remote: false,
            connections: 16,
            idle_timeout: Duration::from_secs(600),
            map: Mapping::default(),
        }
    }
}
