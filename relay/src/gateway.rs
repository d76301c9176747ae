//! Kafka → WebSocket, and the dashboard page.

pub mod settings;

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admin::Monitor;
use crate::kafka::{self, KafkaSettings};
use settings::GatewaySettings;

/// What ends the gateway.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kafka, where only an operator can help.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
    /// The listener failed.
    #[error("the gateway's listener: {0}")]
    Listen(#[from] std::io::Error),
}

/// Serves dashboards on `listener` until `shutdown`; `extra_routes` are served beside (the demo's controls).
///
/// # Errors
/// Where only an operator can help; an absent Kafka is waited for.
pub async fn run(
    _settings: GatewaySettings,
    kafka: KafkaSettings,
    monitor: Monitor,
    extra_routes: Router,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let check = monitor.check("gateway kafka", "connecting");
    let Some(_partitions) = kafka::await_topics(&kafka, &check, &shutdown).await? else {
        return Ok(());
    };
    check.ready();
    axum::serve(listener, extra_routes)
        .with_graceful_shutdown(async move { shutdown.cancelled().await })
        .await?;
    Ok(())
}
