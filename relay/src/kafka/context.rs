//! What librdkafka tells beside its results: log lines and errors of the whole client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Turns librdkafka's chatter into log lines at `debug`, and remembers what matters: whether any broker is reachable.
///
/// librdkafka repeats itself at every attempt to connect; the parts that use it log once per change of state.
/// Clones share what they remember.
#[derive(Clone, Debug, Default)]
pub struct Context {
    all_down: Arc<AtomicBool>,
}

impl Context {
    /// Whether all brokers were unreachable when librdkafka last said something about it.
    /// Cleared by the caller's [`Context::answered`].
    pub fn all_down(&self) -> bool {
        self.all_down.load(Ordering::Relaxed)
    }

    /// Some broker has answered.
    pub fn answered(&self) {
        self.all_down.store(false, Ordering::Relaxed);
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, "librdkafka: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.all_down.store(true, Ordering::Relaxed);
        }
        tracing::debug!("librdkafka: {error}: {reason}");
    }
}

impl ConsumerContext for Context {}
