//! The connection to Kafka: its settings, and the topics that bridge and gateway share.

mod context;
mod topics;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::ClientConfig;
use serde::Deserialize;

pub use context::Context;
pub use topics::{Topics, await_topics, ensure_topics};

/// How Kafka is reached, and what the topics are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaSettings {
    /// `host:port` of some brokers, separated by commas.
    pub bootstrap: String,
    /// What the topics' names begin with: `headwater` makes `headwater.telemetry`.
    pub prefix: String,
    /// Partitions of telemetry, devices and commands where they are created: a power of two ≤ 256.
    pub partitions: u32,
    /// Copies of each partition where topics are created.
    pub replication: u16,
    /// Whether topics that are missing are created.
    pub create_topics: bool,
    /// How long a request for metadata or a topic's creation may take.
    #[serde(with = "headwater_config::duration")]
    pub timeout: Duration,
    /// Any property of librdkafka, laid over what Headwater sets (`security.protocol`, `sasl.username`, …).
    pub properties: BTreeMap<String, String>,
    /// Properties whose values are read from files (`sasl.password`, `ssl.key.password`).
    pub secrets: BTreeMap<String, PathBuf>,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            bootstrap: "localhost:9092".into(),
            prefix: "headwater".into(),
            partitions: 8,
            replication: 1,
            create_topics: true,
            timeout: Duration::from_secs(10),
            properties: BTreeMap::new(),
            secrets: BTreeMap::new(),
        }
    }
}

impl KafkaSettings {
    /// The topics' names.
    pub fn topics(&self) -> Topics {
        Topics::new(&self.prefix)
    }

    /// What every client of ours begins with; the caller adds what its kind of client needs *before* the operator's
    /// properties, so that those have the last word.
    ///
    /// # Errors
    /// [`Error::Secret`] where a secret's file cannot be read.
    pub fn client_config(&self, own: &[(&str, &str)]) -> Result<ClientConfig, Error> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config.set("client.id", "headwater-relay");
        // Kafka that comes back is found within a second, not within librdkafka's ten.
        config.set("reconnect.backoff.max.ms", "1000");
        // Every idle minute the broker closes connections; that is no event.
        config.set("log.connection.close", "false");
        for (key, value) in own {
            config.set(*key, *value);
        }
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        for (key, path) in &self.secrets {
            config.set(key, headwater_config::secret(path)?);
        }
        Ok(config)
    }
}

/// What can be wrong between us and Kafka.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The secret of a property cannot be read.
    #[error("kafka.secrets: {0}")]
    Secret(#[from] headwater_config::Error),
    /// A setting is out of range.
    #[error("kafka.{key}: {why}")]
    Setting {
        /// The key in the section `kafka`.
        key: &'static str,
        /// What is wrong, and what is allowed.
        why: String,
    },
    /// A client cannot be made of the settings.
    #[error("no Kafka client can be made of these settings: {0} (look at kafka.properties)")]
    Client(rdkafka::error::KafkaError),
    /// No broker answers, for now.
    #[error("no answer from Kafka at {bootstrap}: {source}")]
    Unreachable {
        /// What was tried.
        bootstrap: String,
        /// What librdkafka says.
        source: rdkafka::error::KafkaError,
    },
    /// A topic is missing and is not to be created, or creating it failed.
    #[error("topic {topic}: {why}")]
    Topic {
        /// Its name.
        topic: String,
        /// What is wrong, and what to do.
        why: String,
    },
}

impl Error {
    /// Whether trying again later can help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}
