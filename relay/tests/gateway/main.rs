//! The gateway over real sockets, against librdkafka's in-process cluster as Kafka.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod all;
mod budget;
mod client;
mod commands;
mod flood;
mod fresh;
mod hostile;
mod kafka;
mod keysets;
mod limits;
mod load;
mod merged;
mod rates;
mod series;
mod starts;
mod tail;
mod tenants;
mod tls;
mod tokens;
mod watched;

use std::net::SocketAddr;
use std::time::Duration;

use headwater_relay::admin::Monitor;
use headwater_relay::gateway;
use headwater_relay::gateway::settings::GatewaySettings;
use headwater_relay::kafka::KafkaSettings;
use tokio_util::sync::CancellationToken;

/// A gateway that runs.
struct Gateway {
    address: SocketAddr,
    monitor: Monitor,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), gateway::Error>>,
}

impl Gateway {
    /// Started, and ready.
    async fn start(kafka: &kafka::Kafka, settings: GatewaySettings) -> Self {
        Self::with(kafka.settings(), settings).await
    }

    /// With these settings of Kafka.
    async fn with(kafka: KafkaSettings, settings: GatewaySettings) -> Self {
        let gateway = Self::begin(kafka, settings).await;
        for _ in 0..1000 {
            if gateway.monitor.readiness() == (true, "gateway kafka: ready\n".into()) {
                return gateway;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not ready: {}", gateway.monitor.readiness().1);
    }

    async fn begin(kafka: KafkaSettings, settings: GatewaySettings) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (monitor, shutdown) = (Monitor::new(), CancellationToken::new());
        let (of_gateway, stop) = (monitor.clone(), shutdown.clone());
        let task = tokio::spawn(async move {
            gateway::run(settings, kafka, of_gateway, axum::Router::new(), listener, stop).await
        });
        Self {
            address,
            monitor,
            shutdown,
            task,
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// The sum of a metric over its labels, as the admin port shows it.
    fn metric(&self, name: &str) -> f64 {
        let name = format!("headwater_gateway_{name}");
        let text = self.monitor.metrics();
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(&name)?;
            let exact = rest.starts_with([' ', '{']);
            rest.rsplit(' ').next()?.parse::<f64>().ok().filter(|_| exact)
        });
        values.sum()
    }
}

/// Small where tests want to see an edge.
fn settings() -> GatewaySettings {
    GatewaySettings {
        drain: Duration::ZERO,
        ..GatewaySettings::default()
    }
}
