//! What librdkafka tells beside its results: log lines and errors of the whole client.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};

use super::token;

/// Errors that librdkafka tells of, of all clients of this process: they come and go with what the parts do.
pub static ERRORS: LazyLock<Family<Code, Counter>> = LazyLock::new(|| {
    let errors = Family::default();
    // At 0 from the beginning: the first would not show as an increase.
    let error = format!("{:?}", RDKafkaErrorCode::AllBrokersDown);
    drop(errors.get_or_create(&Code { error }));
    errors
});

/// Which error: librdkafka has some hundred and fifty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Code {
    /// Its name.
    pub error: String,
}

/// Turns librdkafka's chatter into log lines at `debug`, and remembers what matters: whether any broker is reachable.
///
/// librdkafka repeats itself at every attempt to connect; the parts that use it log once per change of state.
/// Clones share what they remember.
#[derive(Clone, Debug, Default)]
pub struct Context {
    all_down: Arc<AtomicBool>,
    token_file: Option<Arc<PathBuf>>,
    token_asked: Arc<AtomicBool>,
    reason: Arc<Mutex<Option<String>>>,
}

impl Context {
    /// With the file of the token for SASL OAUTHBEARER.
    pub(super) fn new(token_file: Option<&PathBuf>) -> Self {
        Self {
            token_file: token_file.cloned().map(Arc::new),
            ..Self::default()
        }
    }

    /// Whether librdkafka has asked for a token.
    pub(super) fn token_asked(&self) -> bool {
        self.token_asked.load(Ordering::Relaxed)
    }

    /// Why there is no connection, where librdkafka has said more than that there is none: a refused password, a
    /// certificate of an unknown authority.
    pub(super) fn reason(&self) -> Option<String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

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
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    /// Called for SASL OAUTHBEARER alone; a failure is tried again every ten seconds.
    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.token_asked.store(true, Ordering::Relaxed);
        let token = token::read(self.token_file.as_ref().map(|file| file.as_path()));
        if let Err(error) = &token {
            tracing::warn!("no token for Kafka: {error}");
        }
        Ok(token?)
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, "librdkafka: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        // That a partition is read to its end is told in the same way, and is none.
        if code != Some(RDKafkaErrorCode::PartitionEOF) {
            let error = code.map_or("Unknown".into(), |code| format!("{code:?}"));
            ERRORS.get_or_create(&Code { error }).inc();
        }
        match code {
            Some(RDKafkaErrorCode::AllBrokersDown) => self.all_down.store(true, Ordering::Relaxed),
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL) => {
                *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
            }
            _ => {}
        }
        tracing::debug!("librdkafka: {error}: {reason}");
    }
}

/// Makes a type with a field `context` a client's context that logs, remembers and gets its token as that one does. Written out by hand, a
/// callback that is left out would show as a client that cannot log in, and only where it has to.
macro_rules! as_context {
    ($name:ident) => {
        impl rdkafka::ClientContext for $name {
            const ENABLE_REFRESH_OAUTH_TOKEN: bool =
                <$crate::kafka::Context as rdkafka::ClientContext>::ENABLE_REFRESH_OAUTH_TOKEN;

            fn generate_oauth_token(
                &self,
                config: Option<&str>,
            ) -> Result<rdkafka::client::OAuthToken, Box<dyn std::error::Error>> {
                self.context.generate_oauth_token(config)
            }

            fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
                self.context.log(level, facility, message);
            }

            fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
                self.context.error(error, reason);
            }
        }
    };
}
pub(crate) use as_context;

impl ConsumerContext for Context {}

/// For producers in transactions: a commit waits for the delivery of all that is in it, and fails with them.
impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}
