//! The embedded Kafka: librdkafka's own in-process cluster. For trying out and for tests: all in memory, and no more than
//! the newest 5 MB or so of each partition.

use rdkafka::error::KafkaResult;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::kafka::KafkaSettings;

/// A running cluster; it ends when this is dropped.
pub struct Cluster {
    inner: MockCluster<'static, DefaultProducerContext>,
    partitions: u32,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("bootstrap", &self.inner.bootstrap_servers())
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Starts one with our topics in it.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(partitions: u32) -> KafkaResult<Self> {
        let inner = MockCluster::new(1)?;
        let topics = KafkaSettings::default().topics();
        for (index, topic) in topics.all().into_iter().enumerate() {
            // Its admin API does not create topics; this does.
            let sharded = index < crate::kafka::Topics::SHARDED;
            inner.create_topic(topic, if sharded { partitions as i32 } else { 1 }, 1)?;
        }
        inner.create_topic(&topics.audit, 1, 1)?;
        Ok(Self { inner, partitions })
    }

    /// How to reach it.
    pub fn settings(&self) -> KafkaSettings {
        // A fetch there waits its whole time even when records come: keep it short.
        let properties = [("fetch.wait.max.ms", "5")];
        KafkaSettings {
            bootstrap: self.inner.bootstrap_servers(),
            partitions: self.partitions,
            create_topics: false,
            properties: properties
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .into(),
            ..KafkaSettings::default()
        }
    }

    /// The cluster itself, for what tests do to it.
    pub fn inner(&self) -> &MockCluster<'static, DefaultProducerContext> {
        &self.inner
    }
}
