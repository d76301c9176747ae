//! The Headwater relay: the cloud side between an MQTT broker, Kafka and dashboards.
//!
//! - [`bridge`]: MQTT → Kafka, with acknowledgements back to the agents after Kafka's delivery report.
//! - [`certificates`]: when those end that this process goes by.
//! - [`command`]: one command to a device from the command line.
//! - [`deadletter`]: looks at what could not be taken in, and tries it again.
//! - [`enroll`]: devices' certificates: the endpoint that signs them, and the operator's commands.
//! - [`fleet`]: what is done to many devices at a time; [`release`]: signs what is installed on them.
//! - [`gateway`]: Kafka → WebSocket, and the dashboard page.
//! - [`mint`]: tokens and keys for trying out.
//! - `demo`: both with an embedded broker, an embedded Kafka and agents, for trying out (feature `demo`).
//! - [`kafka`]: the connection's settings, and the topics both of them use.
//! - [`mqtt`]: how connections to MQTT brokers are made.
//! - [`admin`]: health and metrics on a port of their own.
//! - [`serve`]: runs the parts of one process until it is told to stop.
//! - [`tail`]: the live channel in a terminal.
//! - [`settings`]: the one configuration file, `deploy/relay.toml`.

pub mod admin;
pub mod bridge;
pub mod certificates;
pub mod command;
pub mod deadletter;
#[cfg(feature = "demo")]
pub mod demo;
pub mod enroll;
pub mod fleet;
pub mod gateway;
pub mod kafka;
mod log;
pub mod mint;
pub mod mqtt;
pub mod release;
pub mod rows;
pub mod serve;
pub mod settings;
pub mod tail;
