//! The figures of a running agent, in one place: what is shown by the status socket, sent as health metrics and offered to
//! Prometheus is made from these. Each part of the agent counts its own, and the pipeline gathers them after each step.

use serde::{Deserialize, Serialize};

/// Figures of a running agent. `sampled_readings + journal.found_readings = acked_readings + lost_readings + waiting_readings`, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
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
    /// Bytes of MQTT sent, all packets whole, over all connections.
    pub sent_bytes: u64,
    /// Bytes of MQTT received, likewise.
    pub received_bytes: u64,
    /// Of `sent_bytes`, payloads of messages: readings, and what the agent says of itself.
    pub payload_bytes: u64,
    /// Bytes through the TCP socket to the broker: MQTT, and TLS and WebSocket with their handshakes. A metered link carries the headers
    /// of TCP and IP besides.
    pub link_sent_bytes: u64,
    /// Bytes through the TCP socket from the broker, likewise.
    pub link_received_bytes: u64,
    /// Batches and loss records that were sent; each time counts.
    pub sent_batches: u64,
    /// Batches sent again because an acknowledgement did not come, or the relay asked.
    pub resent_batches: u64,
    /// Acknowledgements that were ignored: of a stream that is not ours, or beyond what was sent.
    pub ignored_acks: u64,
    /// Of so many intervals of a metric one reading is taken, to keep within the data budget; 1: all are.
    pub thinning: u32,
    /// Backlogs that were sealed as streams of their own since the start.
    pub sealed_streams: u64,
    /// Other boxes that use this device's name, as the relay tells; each needs a name of its own.
    pub other_boxes: u64,
    /// The journal's own figures.
    pub journal: JournalStats,
    /// Whether readings can be stamped rightly.
    pub clock: ClockStats,
    /// What may be sent in a month.
    pub budget: BudgetStats,
}

/// Figures of the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct JournalStats {
    /// Where it keeps what waits.
    pub mode: JournalMode,
    /// Why flash cannot be used, when the settings ask for it.
    pub fault: Option<JournalFault>,
    /// Bytes of batches that it holds in memory, those read back from flash for sending among them.
    pub memory_bytes: u64,
    /// Bytes that it takes on flash.
    pub flash_bytes: u64,
    /// Bytes written to flash since the start, those of the small files in the state directory among them.
    pub flash_written_bytes: u64,
    /// Pieces of it that could not be read and were set aside since the start.
    pub quarantined: u64,
    /// Segments found since the start whose last write a power cut left unfinished. Nothing of it had been promised, and it says nothing of the
    /// medium.
    pub unfinished: u64,
    /// Readings that earlier starts left on flash, those that loss records speak of among them.
    pub found_readings: u64,
}

/// Where a journal keeps what waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JournalMode {
    /// In memory, as configured.
    #[default]
    Memory,
    /// On flash.
    Flash,
    /// In memory, because the flash cannot be written just now.
    Fallback,
}

/// Why flash cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum JournalFault {
    /// It has not been opened yet.
    Opening,
    /// No room is left.
    Full,
    /// It is mounted read-only.
    ReadOnly,
    /// The directory may not be used by this user.
    Denied,
    /// The directory is not there any more.
    Missing,
    /// Another process holds the journal.
    Held,
    /// Reading or writing fails.
    Io,
}

impl std::fmt::Display for JournalFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Opening => "it is not open yet",
            Self::Full => "no room is left",
            Self::ReadOnly => "it is mounted read-only",
            Self::Denied => "the agent's user may not",
            Self::Missing => "its directory is gone",
            Self::Held => "another process uses it",
            Self::Io => "the medium fails",
        })
    }
}

/// Clocks that are right may seem to be apart by so much, microseconds: what tells of one may be long on its way.
const APART_US: u64 = 60_000_000;

/// Figures of the clock that stamps readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct ClockStats {
    /// Whether the time is known to be right, so that readings are not flagged.
    pub synchronised: bool,
    /// What tells that it is.
    pub state: ClockState,
    /// By how much readings were last corrected, microseconds; 0: never.
    pub offset_us: i64,
    /// By how much the relay's clock is ahead of this one, as of the last time it was told, microseconds; `None`: it was not.
    pub relay_ahead_us: Option<i64>,
}

impl ClockStats {
    /// Whether this clock, taken to be right, and the relay's are so far apart that one of them is wrong.
    pub fn is_doubtful(&self) -> bool {
        let apart = self.relay_ahead_us.unwrap_or(0).unsigned_abs();
        self.synchronised && apart > APART_US
    }
}

/// What tells that the time is right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockState {
    /// Nothing: readings are flagged.
    #[default]
    Unknown,
    /// A time daemon.
    Synchronised,
    /// Hardware that keeps the time while the machine is off.
    Hardware,
    /// The settings.
    Trusted,
    /// It was known; by now nobody vouches for it, and it goes on at the rate that it had.
    Holdover,
}

/// Figures of the monthly data budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct BudgetStats {
    /// Bytes used in this month, both directions.
    pub used_bytes: u64,
    /// Bytes that may be used in a month; 0: there is no budget.
    pub limit_bytes: u64,
}

/// Figures of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct SourceStats {
    /// What logs and commands call it; see [`crate::config::Source::names`].
    pub name: String,
    /// Its type.
    pub kind: String,
    /// What it does.
    pub state: SourceState,
    /// Readings handed over since the start, or since it was last changed by a reload.
    pub readings: u64,
    /// Readings dropped because it hands over more than its `rate`.
    pub dropped_readings: u64,
    /// Values that mean that there is no sensor (`absent`): no readings.
    pub absent_readings: u64,
    /// Readings that were not plausible: flagged or dropped, as the settings say.
    pub implausible_readings: u64,
    /// Readings left out by `interval` and `deadband`.
    pub spared_readings: u64,
    /// Readings left out to keep within the data budget.
    pub thinned_readings: u64,
    /// Time of the newest sample, microseconds since the Unix epoch; 0: there is none.
    pub newest_us: i64,
    /// Errors, those that it survived among them.
    pub errors: u64,
    /// How often it failed and was started again.
    pub failures: u64,
    /// How often it gave no sign of life for several intervals.
    pub stalls: u64,
    /// What its last error was.
    pub last_error: Option<String>,
}

/// What a source does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// It has not sampled yet.
    #[default]
    Starting,
    /// It samples.
    Running,
    /// It gives no sign of life.
    Stalled,
    /// It has failed and will be started again.
    Failing,
    /// It has nothing more to give.
    Ended,
}
