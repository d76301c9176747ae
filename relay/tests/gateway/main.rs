//! The gateway over real sockets, against librdkafka's in-process cluster as Kafka.
//!
//! What it is given that no good client would send, and which test does it (`.js`: in `tests/e2e`, on Apache Kafka):
//!
//! | bad input | test |
//! |---|---|
//! | every frame type in every state | `limits::every_frame_in_every_state`, `bad-clients.test.js` "each bad client is closed with its code" |
//! | frames that are none: bytes, reserved bits, lengths, pieces, bombs | `hostile` (all of it), `bad-clients.test.js` |
//! | acks beyond what was sent | `hostile::an_ack_for_frames_never_sent` |
//! | acks backwards, and repeated | `all::the_window_holds_frames_back_and_nothing_is_lost`, the properties in `window.rs` |
//! | acks never | `hostile::too_late_and_too_many`, `clients.test.js` "a client that does not acknowledge" |
//! | windows of 0 and 2^64 - 1 | `all::the_window_holds_frames_back_and_nothing_is_lost`, `hostile::a_client_that_never_reads_costs_what_a_connection_begins_with` |
//! | 1,000 subscriptions | `limits::a_thousand_subscriptions`; replaced without end: `flood` |
//! | globs that match everything, and many | `limits::globs_that_match_everything_and_globs_that_are_many` |
//! | cursors of a deleted topic | `cursors.test.js` "the topic is deleted under the gateway", `starts::a_cursor_of_another_log_is_a_reset` |
//! | cursors of the future, of other partitions, of what retention took | `cursors.test.js` "cursors of what retention took", `starts::what_retention_took_is_a_gap`, `hostile::wrong_subscriptions_are_answered_and_the_connection_goes_on` |
//! | half-open sockets | `limits::sockets_that_are_half_open`, `limits::a_request_has_its_time_and_size` |
//! | a client that reads one byte a second, or nothing | `limits::a_client_that_reads_byte_by_byte`, `hostile::a_client_that_never_reads_costs_what_a_connection_begins_with` |
//! | tokens swapped mid-session | `tenants::tokens_swapped_mid_session`, `fresh` |
//! | commands to foreign devices | `commands::what_is_not_allowed_is_refused_in_the_same_words_audited_and_not_written` |
//! | a gateway whose Kafka is away | `all::kafka_that_goes_away_and_comes_back`, `all::without_kafka_the_page_is_served_and_the_channel_says_why_not`, `commands::while_kafka_is_away_a_command_is_neither_taken_nor_forgotten`, `cursors.test.js` "Kafka is away" |

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
mod latency;
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
