//! The section `gateway` of the settings.

use std::net::SocketAddr;

use serde::Deserialize;

/// Kafka → WebSocket.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewaySettings {
    /// Where dashboards connect.
    pub listen: SocketAddr,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
        }
    }
}
