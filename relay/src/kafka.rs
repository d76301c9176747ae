//! The connection to Kafka: its settings, and the topics that bridge and gateway share.

mod context;
mod topics;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
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

/// The longest prefix: Kafka's topic names have at most 249 characters, and the longest of ours adds `.deadletter`.
const LONGEST_PREFIX: usize = 249 - ".deadletter".len();

impl KafkaSettings {
    /// Checks what can be checked without Kafka: values, secrets, and whether librdkafka takes the properties.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Secret`], [`Error::Client`].
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |key: &'static str, why: String| Err(Error::Setting { key, why });
        if self.bootstrap.trim().is_empty() {
            return wrong("bootstrap", "it is empty; write host:port".into());
        }
        if !self.partitions.is_power_of_two() || self.partitions > headwater_proto::shard::SHARDS {
            let why = format!("{} is not a power of two from 1 to 256", self.partitions);
            return wrong("partitions", why);
        }
        // Kafka's protocol has 16 bits for it, with a sign.
        if !(1..=i16::MAX as u16).contains(&self.replication) {
            let why = format!("{} is not in 1..=32767", self.replication);
            return wrong("replication", why);
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=LONGEST_PREFIX).contains(&self.prefix.len()) || !self.prefix.bytes().all(allowed) {
            let why = format!(
                "{:?} is no beginning of a topic's name: 1 to {LONGEST_PREFIX} of the characters A-Z a-z 0-9 . _ -",
                self.prefix
            );
            return wrong("prefix", why);
        }
        // Some properties are judged only by a client; without brokers it connects to nothing.
        let mut config = self.client_config(&[])?;
        config.remove("bootstrap.servers");
        config
            .create_with_context::<_, BaseConsumer<Context>>(Context::default())
            .map_err(Error::Client)?;
        Ok(())
    }

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
            config.set(key, headwater_config::secret(path).map_err(Error::Secret)?);
        }
        Ok(config)
    }
}

/// What can be wrong between us and Kafka. Each message is whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The secret of a property cannot be read.
    #[error("kafka.secrets: {0}")]
    Secret(headwater_config::Error),
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
    #[error("no answer from Kafka at {bootstrap}: {why}")]
    Unreachable {
        /// What was tried.
        bootstrap: String,
        /// What librdkafka says.
        why: rdkafka::error::KafkaError,
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
