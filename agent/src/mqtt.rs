//! MQTT to a broker: the connection and what it needs, for whoever publishes or subscribes. It knows nothing of readings.
//!
//! The packets are read and written here and not by a library: a connection has to count its bytes, give up on what hangs, verify
//! certificates against a clock that may be wrong, and keep nothing from one connection to the next, in both versions of MQTT alike; a
//! client library's own event loop stands in the way of each. What is left to write is nine packets (`packet`).

pub(crate) mod connection;
pub(crate) mod names;
mod packet;
mod reason;
pub(crate) mod session;
pub(crate) mod socket;
#[cfg(feature = "tls")]
mod tls;
pub(crate) mod traffic;

pub(crate) use connection::Connection;
pub(crate) use packet::Version;
pub(crate) use session::{Cause, End, Event, Message, Options};
