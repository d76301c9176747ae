//! Health and metrics, on a port of their own: `/healthz`, `/readyz`, `/metrics`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::kafka;

/// Which check.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    check: String,
}

/// Where every part of the relay registers what can be seen from outside: metrics and checks.
#[derive(Clone, Debug)]
pub struct Monitor {
    registry: Arc<Mutex<Registry>>,
    checks: Arc<Mutex<BTreeMap<String, Option<String>>>>,
    ready: Family<Named, Gauge>,
}

impl Default for Monitor {
    fn default() -> Self {
        Self::new()
    }
}

impl Monitor {
    /// With the process's own metrics registered.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let ready = Family::<Named, Gauge>::default();
        registry.register(
            "headwater_ready",
            "Whether a check of /readyz is passed: 1, or 0",
            ready.clone(),
        );
        registry.register(
            "headwater_kafka_errors",
            "Errors that Kafka's client tells of, by their name in librdkafka",
            kafka::ERRORS.clone(),
        );
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("headwater_build", "The version of this relay", version);
        Self {
            registry: Arc::new(Mutex::new(registry)),
            checks: Arc::default(),
            ready,
        }
    }

    /// Registers metrics. Their names begin with `headwater_bridge_`, `headwater_gateway_` or `headwater_rows_`.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut lock(&self.registry))
    }

    /// A check of this name (`bridge mqtt`), which is not ready for this reason until told otherwise.
    pub fn check(&self, name: &str, reason: &str) -> Check {
        lock(&self.checks).insert(name.to_string(), Some(reason.to_string()));
        let named = Named {
            check: name.to_string(),
        };
        Check {
            name: name.to_string(),
            checks: Arc::clone(&self.checks),
            // At 0 from the beginning.
            ready: self.ready.get_or_create(&named).clone(),
        }
    }

    /// Whether all checks are ready, and a line for each.
    pub fn readiness(&self) -> (bool, String) {
        let checks = lock(&self.checks);
        let mut text = String::new();
        for (name, reason) in checks.iter() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name}: {}", reason.as_deref().unwrap_or("ready"));
        }
        // Before the first part has told what it waits for, nothing is ready.
        (!checks.is_empty() && checks.values().all(Option::is_none), text)
    }

    /// All metrics in the OpenMetrics text form.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &lock(&self.registry));
        text
    }
}

/// One thing that must be in order before this process should be given work.
///
/// Logs once per change of state, so that its owner can report at every attempt.
#[derive(Clone, Debug)]
pub struct Check {
    name: String,
    checks: Arc<Mutex<BTreeMap<String, Option<String>>>>,
    ready: Gauge,
}

impl Check {
    /// It is in order.
    pub fn ready(&self) {
        if self.set(None).is_some() {
            tracing::info!("{}: ready", self.name);
        }
    }

    /// It is not, for this reason.
    pub fn failing(&self, reason: impl Into<String>) {
        let reason = reason.into();
        let before = self.set(Some(reason.clone()));
        if before.as_ref() != Some(&reason) {
            tracing::warn!("{}: {reason}", self.name);
        }
    }

    fn set(&self, state: Option<String>) -> Option<String> {
        self.ready.set(i64::from(state.is_none()));
        lock(&self.checks).insert(self.name.clone(), state).flatten()
    }
}

/// Serves until `shutdown`.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: tokio::net::TcpListener,
    monitor: Monitor,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(monitor);
    axum::serve(listener, router)
        .with_graceful_shutdown(async move { shutdown.cancelled().await })
        .await
}

async fn readyz(State(monitor): State<Monitor>) -> impl IntoResponse {
    let (ready, text) = monitor.readiness();
    (
        if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        },
        text,
    )
}

async fn metrics(State(monitor): State<Monitor>, headers: HeaderMap) -> impl IntoResponse {
    let text = monitor.metrics();
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    if accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        return ([(header::CONTENT_TYPE, kind)], text);
    }
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], classic(&text))
}

/// The form of before OpenMetrics, for who does not ask for that: a counter and an info are called in their head as in their samples,
/// and there are neither units nor an end.
fn classic(text: &str) -> String {
    let (mut out, mut help) = (String::with_capacity(text.len()), "");
    for line in text.lines() {
        if line.starts_with("# HELP ") {
            help = line;
        } else if let Some(head) = line.strip_prefix("# TYPE ") {
            let (name, kind) = head.split_once(' ').unwrap_or((head, ""));
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            let words = help.strip_prefix("# HELP ").and_then(|help| help.split_once(' '));
            if let Some((_, words)) = words {
                let _ = writeln!(out, "# HELP {name}{suffix} {words}");
            }
            let _ = writeln!(out, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while registering leaves nothing half done that a later reader could trip over.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_ask_for_openmetrics_gets_the_form_before_it() {
        let monitor = Monitor::new();
        monitor.check("bridge mqtt", "connecting").ready();
        let of_bridge = monitor.register(crate::bridge::metrics::Metrics::new);
        of_bridge.delivery_seconds.observe(1.0);
        let text = classic(&monitor.metrics());
        for line in [
            "# HELP headwater_bridge_readings_total Readings in Kafka.",
            "# TYPE headwater_bridge_readings_total counter",
            "headwater_bridge_readings_total 0",
            "# TYPE headwater_build_info gauge",
            "# TYPE headwater_bridge_delivery_seconds histogram",
            "headwater_bridge_delivery_seconds_count 1",
            "headwater_ready{check=\"bridge mqtt\"} 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
    }

    #[test]
    fn readiness_names_what_is_not() {
        let monitor = Monitor::new();
        assert!(!monitor.readiness().0, "nobody has said anything yet");
        let mqtt = monitor.check("bridge mqtt", "connecting");
        let kafka = monitor.check("bridge kafka", "connecting");
        kafka.ready();
        assert_eq!(
            monitor.readiness(),
            (false, "bridge kafka: ready\nbridge mqtt: connecting\n".into())
        );
        mqtt.ready();
        assert!(monitor.readiness().0);
        mqtt.failing("connection refused");
        assert_eq!(
            monitor.readiness(),
            (
                false,
                "bridge kafka: ready\nbridge mqtt: connection refused\n".into()
            )
        );
    }
}
