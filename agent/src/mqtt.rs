//! MQTT to a broker: the connection and what it needs, for whoever publishes or subscribes. It knows nothing of readings.
//!
//! Packets are read and written by rumqttc's codecs (`packet`); its event loop is not used. A connection here counts its bytes at the
//! socket, gives up on whatever hangs (in MQTT 5, too), verifies certificates against a clock that may be wrong, shortens the topic
//! it uses most by an alias, and keeps nothing from one connection to the next: in both versions of MQTT, by the same code.

#[cfg(all(test, feature = "tls"))]
#[path = "../tests/link/authority.rs"]
#[allow(
    clippy::unwrap_used,
    reason = "in the tests' own parts too, a panic is the report"
)]
pub(crate) mod authority;
pub(crate) mod connection;
pub(crate) mod names;
mod packet;
mod reason;
pub(crate) mod session;
pub(crate) mod socket;
#[cfg(feature = "tls")]
pub(crate) mod tls;
pub(crate) mod traffic;
#[cfg(feature = "websocket")]
mod websocket;

pub(crate) use connection::Connection;
pub(crate) use packet::Version;
pub(crate) use session::{Cause, End, Event, Message, Options};
