//! Health and metrics, on a port of their own: `/healthz`, `/readyz`, `/metrics`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

/// Where every part of the relay registers what can be seen from outside: metrics and checks.
#[derive(Clone, Debug, Default)]
pub struct Monitor {
    registry: Arc<Mutex<Registry>>,
    checks: Arc<Mutex<BTreeMap<String, Option<String>>>>,
}

impl Monitor {
    /// With the process's own metrics registered.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers metrics. Their names begin with `headwater_bridge_` or `headwater_gateway_`.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut lock(&self.registry))
    }

    /// A check of this name (`bridge mqtt`), which is not ready for this reason until told otherwise.
    pub fn check(&self, name: &str, reason: &str) -> Check {
        lock(&self.checks).insert(name.to_string(), Some(reason.to_string()));
        Check {
            name: name.to_string(),
            checks: Arc::clone(&self.checks),
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

async fn metrics(State(monitor): State<Monitor>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], monitor.metrics())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while registering leaves nothing half done that a later reader could trip over.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

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
