//! The connection to Kafka: its settings, and the topics that bridge and gateway share.

mod context;
pub mod delivery;
pub mod properties;
pub mod replies;
pub mod token;
mod topics;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use serde::Deserialize;

pub(crate) use context::as_context;
pub use context::{Context, ERRORS};
pub use topics::{Topics, await_topics, ensure_audit, ensure_topic, ensure_topics};

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
    /// File with the token for `sasl.mechanism = OAUTHBEARER`, a JWT; read again before it expires.
    pub token_file: Option<PathBuf>,
    /// Properties of librdkafka, laid over what Headwater sets (`security.protocol`, `sasl.username`, …); not those that
    /// would break a promise: see [`properties::refusal`].
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
            token_file: None,
            properties: BTreeMap::new(),
            secrets: BTreeMap::new(),
        }
    }
}

/// The longest prefix: Kafka's topic names have at most 249 characters, and the longest of ours adds `.deadletter`.
const LONGEST_PREFIX: usize = 249 - ".deadletter".len();

/// How long a consumer may take to ask for its token; it does so as soon as it runs.
const TOKEN: Duration = Duration::from_secs(5);
/// How long is listened for why there is no connection.
const REASON: Duration = Duration::from_millis(200);

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
        self.consumer(&config)?;
        match self.mechanism() {
            Some("OAUTHBEARER") => token::read(self.token_file.as_deref())
                .map(drop)
                .map_err(Error::Token),
            _ if self.token_file.is_some() => {
                let why =
                    "there is no `sasl.mechanism` = \"OAUTHBEARER\" in kafka.properties that it would be for";
                wrong("token_file", why.into())
            }
            _ => Ok(()),
        }
    }

    /// How clients authenticate, where they do.
    fn mechanism(&self) -> Option<&str> {
        let given = |key: &str| self.properties.get(key).map(String::as_str);
        given("sasl.mechanism").or_else(|| given("sasl.mechanisms"))
    }

    /// What a client of ours logs, and where it gets its token.
    pub fn context(&self) -> Context {
        Context::new(self.token_file.as_ref())
    }

    /// A consumer that can be asked for metadata and offsets at once.
    ///
    /// # Errors
    /// [`Error::Client`].
    pub fn consumer(&self, config: &ClientConfig) -> Result<BaseConsumer<Context>, Error> {
        let consumer: BaseConsumer<Context> = config
            .create_with_context(self.context())
            .map_err(Error::Client)?;
        if self.mechanism() == Some("OAUTHBEARER") {
            // It asks for its token only when polled; before that, every request would wait for a connection in vain.
            let deadline = Instant::now() + TOKEN;
            while !consumer.context().token_asked() && Instant::now() < deadline {
                drop(consumer.poll(Duration::from_millis(5)));
            }
        }
        Ok(consumer)
    }

    /// No answer came. The connection itself may have said why: its errors wait to be polled.
    pub(crate) fn unreachable(&self, consumer: &BaseConsumer<Context>, error: &KafkaError) -> Error {
        let deadline = Instant::now() + REASON;
        while consumer.context().reason().is_none() && Instant::now() < deadline {
            drop(consumer.poll(Duration::from_millis(5)));
        }
        Error::Unreachable {
            bootstrap: self.bootstrap.clone(),
            why: consumer.context().reason().unwrap_or_else(|| error.to_string()),
        }
    }

    /// The topics' names.
    pub fn topics(&self) -> Topics {
        Topics::new(&self.prefix)
    }

    /// The group of bridges, and what their transactional ids begin with.
    pub fn group(&self) -> String {
        format!("{}.bridge", self.prefix)
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
    /// There is no token for SASL OAUTHBEARER.
    #[error(transparent)]
    Token(token::Error),
    /// A client cannot be made of the settings.
    #[error("no Kafka client can be made of these settings: {0} (look at kafka.properties)")]
    Client(KafkaError),
    /// Kafka lets this bridge write no transactions.
    #[error(
        "no transactions with Kafka: {0} (the bridge needs the transactional ids that begin with <kafka.prefix>.bridge, and the group of \
         that name; a Kafka without transactions takes one bridge only, with bridge.alone = true)"
    )]
    Transactions(KafkaError),
    /// The system gives no thread.
    #[error("no thread for Kafka's client: {0}")]
    Thread(std::io::Error),
    /// There are more partitions than there were at the start.
    #[error(
        "topic {topic} has a partition {partition} now, and had {count} in all when this bridge started: partitions are added while no \
         bridge runs (see deploy/relay.toml, kafka.partitions)"
    )]
    Grown {
        /// The topic.
        topic: String,
        /// The partition that is new.
        partition: u32,
        /// How many there were.
        count: u32,
    },
    /// No broker answers, for now.
    #[error("no answer from Kafka at {bootstrap}: {why}")]
    Unreachable {
        /// What was tried.
        bootstrap: String,
        /// What librdkafka says, the most telling that it has said.
        why: String,
    },
    /// A topic is missing, for now.
    #[error("topic {topic} {why}")]
    Missing {
        /// Its name.
        topic: String,
        /// Why it is not created, and what to do.
        why: String,
    },
    /// A topic is not as it has to be.
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
        matches!(self, Self::Unreachable { .. } | Self::Missing { .. })
    }
}
