//! MQTT → Kafka, with acknowledgements back to the agents after Kafka's delivery report.

pub mod settings;

use tokio_util::sync::CancellationToken;

use crate::admin::Monitor;
use crate::kafka::{self, KafkaSettings};
use settings::{BridgeSettings, MqttSettings};

/// What ends the bridge.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kafka, where only an operator can help.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
}

/// Carries readings from MQTT to Kafka until `shutdown`.
///
/// # Errors
/// Where only an operator can help; an absent Kafka or MQTT broker is waited for.
pub async fn run(
    _settings: BridgeSettings,
    _mqtt: MqttSettings,
    kafka: KafkaSettings,
    monitor: Monitor,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let check = monitor.check("bridge kafka", "connecting");
    let Some(_partitions) = kafka::await_topics(&kafka, &check, &shutdown).await? else {
        return Ok(());
    };
    check.ready();
    shutdown.cancelled().await;
    Ok(())
}
