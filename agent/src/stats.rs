//! What an agent tells of itself to the program it runs in.

use std::sync::{Arc, Mutex, PoisonError};

/// Figures of a running agent. `sampled_readings = acked_readings + lost_readings + waiting_readings`, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentStats {
    /// Whether the broker is connected and the relay has answered this connection's hello.
    pub connected: bool,
    /// Closed batches that are not acknowledged; loss records count as one each.
    pub waiting_batches: u64,
    /// Readings that are not acknowledged, those of the batch still open among them.
    pub waiting_readings: u64,
    /// Encoded bytes of the closed batches that wait.
    pub waiting_bytes: u64,
    /// Time of the oldest waiting reading, microseconds since the Unix epoch; 0: nothing waits.
    pub oldest_us: i64,
    /// Readings taken from sources since the start.
    pub sampled_readings: u64,
    /// Readings that the relay has acknowledged: they are in Kafka.
    pub acked_readings: u64,
    /// Readings given up; loss records tell the relay.
    pub lost_readings: u64,
    /// Connections lost since the start.
    pub reconnects: u64,
    /// Bytes of MQTT PUBLISH packets sent, topics and headers included.
    pub sent_bytes: u64,
    /// Batches sent again because an acknowledgement did not come, or the relay asked.
    pub resent_batches: u64,
    /// Acknowledgements that were ignored: of a stream that is not ours, or beyond what was sent.
    pub ignored_acks: u64,
    /// Of so many intervals of a metric one reading is taken, to keep within the data budget; 1: all are.
    pub thinning: u32,
}

/// Looks at a running agent from outside.
#[derive(Clone, Debug)]
pub struct AgentHandle {
    device: Arc<str>,
    stats: Arc<Mutex<AgentStats>>,
}

impl AgentHandle {
    pub(crate) fn new(device: &str) -> Self {
        Self {
            device: device.into(),
            stats: Arc::default(),
        }
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The agent's figures, as of its last step.
    pub fn stats(&self) -> AgentStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, stats: AgentStats) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }
}
