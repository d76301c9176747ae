//! MQTT → Kafka, with acknowledgements back to the agents after Kafka's delivery report.
//!
//! What decides is plain structs with time and messages as arguments: [`stream`] (what is the next batch), [`device`]
//! (presence, positions), [`boxes`] (whether several use one name), [`ack`] (what to tell whom, coalesced), [`checkpoint`] (what to write when), [`scan`] (what an
//! earlier bridge left), [`commands`] (down to the devices, and their replies), and [`fleet`], which holds them together. What waits is thin: [`mqtt`] and [`producer`] at either
//! end, [`reader`] at the start, [`driver`] between them. There is one task for all devices.

pub mod ack;
pub mod boxes;
pub mod budget;
pub mod checkpoint;
pub mod commands;
pub mod device;
pub mod driver;
pub mod fleet;
pub mod fleets;
pub mod foreign;
pub mod group;
pub mod metrics;
pub mod mqtt;
pub mod ownership;
pub mod producer;
pub mod reader;
pub mod record;
pub mod scan;
pub mod settings;
pub mod stream;
pub mod transactions;
pub mod writer;

pub use driver::run;

use crate::kafka::{self, KafkaSettings};
use crate::mqtt::{MqttSettings, route};

/// Checks what can be wrong with its settings without anything being started.
///
/// # Errors
/// [`Error`].
pub fn check(mqtt: &MqttSettings, kafka: &KafkaSettings) -> Result<(), Error> {
    route::check(mqtt, "mqtt")?;
    Ok(kafka.check()?)
}

/// What ends the bridge. Each message is whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kafka, where only an operator can help.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
    /// The connection to the MQTT broker, before it is tried.
    #[error(transparent)]
    Mqtt(#[from] crate::mqtt::Error),
}
