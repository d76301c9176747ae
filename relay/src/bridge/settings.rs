//! The section `bridge` of the settings.

use std::time::Duration;

use headwater_config::ByteSize;
use serde::Deserialize;

/// MQTT → Kafka.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BridgeSettings {
    /// Whether no other bridge runs on the topics: it then owns every partition at once, in no group, and without transactions
    /// (which librdkafka's in-process cluster lacks). Two bridges of which one is alone write batches twice.
    pub alone: bool,
    /// A bridge of which the group hears nothing for this long has its partitions taken away. Kafka allows 6 s to 30 min unless told
    /// otherwise.
    #[serde(with = "headwater_config::duration")]
    pub session_timeout: Duration,
    /// Bytes handed to Kafka and not yet reported as delivered. What comes beyond is dropped unacknowledged, and the
    /// agents send it again.
    pub in_flight: ByteSize,
    /// A device gets at most one ack in this time.
    #[serde(with = "headwater_config::duration")]
    pub ack_interval: Duration,
    /// Device states that changed are written to Kafka this often (a device going on or off line: at once).
    #[serde(with = "headwater_config::duration")]
    pub state_interval: Duration,
    /// So many states are written a second at most.
    pub state_rate: u32,
    /// A checkpoint is written this often: it bounds what a bridge scans when it starts.
    #[serde(with = "headwater_config::duration")]
    pub checkpoint_interval: Duration,
    /// What is accepted from agents.
    pub limits: LimitSettings,
    /// Commands to devices.
    pub commands: CommandSettings,
}

impl Default for BridgeSettings {
    fn default() -> Self {
        Self {
            alone: false,
            session_timeout: Duration::from_secs(10),
            in_flight: ByteSize::mib(64),
            ack_interval: Duration::from_millis(20),
            state_interval: Duration::from_secs(2),
            state_rate: 500,
            checkpoint_interval: Duration::from_secs(10),
            limits: LimitSettings::default(),
            commands: CommandSettings::default(),
        }
    }
}

/// Commands to devices: how long they wait, and how many.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CommandSettings {
    /// A command that names no time of its own expires so long after it was written.
    #[serde(with = "headwater_config::duration")]
    pub expiry: Duration,
    /// No command waits longer for its device, whatever time it names.
    #[serde(with = "headwater_config::duration")]
    pub longest_wait: Duration,
    /// Commands of one device without a reply. More are refused.
    pub per_device: usize,
    /// Commands of one partition without a reply. While devices are there, further ones wait to be read; three quarters are for devices that
    /// are away, and more are refused. All of them are listed in the metadata of the partition's committed offset.
    pub per_partition: usize,
    /// Bytes of commands and replies that are held.
    pub memory: ByteSize,
}

impl Default for CommandSettings {
    fn default() -> Self {
        Self {
            expiry: Duration::from_secs(60),
            longest_wait: Duration::from_secs(24 * 3600),
            per_device: 64,
            per_partition: 1000,
            memory: ByteSize::mib(16),
        }
    }
}

/// What is accepted from agents; anything beyond is refused with a reason.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Readings in a batch, over all columns.
    pub readings: usize,
    /// Columns in a batch, and series in a series set.
    pub columns: usize,
    /// Bytes of an MQTT payload.
    pub frame: ByteSize,
    /// Bytes of a batch after decompression, and in Kafka.
    pub body: ByteSize,
    /// Bytes of all string values of a batch.
    pub strings: ByteSize,
    /// Devices.
    pub devices: usize,
    /// Streams of one device that may still drain.
    pub streams: usize,
    /// Series sets of one device that are kept.
    pub series_sets: usize,
}

impl Default for LimitSettings {
    fn default() -> Self {
        let limits = headwater_proto::Limits::default();
        Self {
            readings: limits.readings,
            columns: limits.columns,
            frame: ByteSize::b(limits.frame_bytes as u64),
            body: ByteSize::b(limits.body_bytes as u64),
            strings: ByteSize::b(limits.string_bytes as u64),
            devices: 100_000,
            streams: 64,
            series_sets: 16,
        }
    }
}

impl LimitSettings {
    /// As the codec takes them.
    pub fn codec(&self) -> headwater_proto::Limits {
        headwater_proto::Limits {
            readings: self.readings,
            columns: self.columns,
            frame_bytes: self.frame.as_u64() as usize,
            body_bytes: self.body.as_u64() as usize,
            string_bytes: self.strings.as_u64() as usize,
        }
    }
}
