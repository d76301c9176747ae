//! The metrics of commands, `headwater_bridge_command…`.

use headwater_proto::pb::ReplyStatus;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// What a reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Status {
    /// In a word or two.
    pub status: &'static str,
}

/// Why a device's reply was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// In a word or two.
    pub reason: &'static str,
}

/// All of them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Commands read.
    pub read: Counter,
    /// Commands sent to devices, again or for the first time.
    pub sent: Counter,
    /// Commands sent again.
    pub resent: Counter,
    /// Records folded into an open command of the same id.
    pub repeated: Counter,
    /// Replies in Kafka.
    pub replies: Family<Status, Counter>,
    /// Devices' replies that were not written.
    pub ignored: Family<Reason, Counter>,
    /// Records of the topic that were no commands.
    pub dead_letters: Counter,
    /// Transactions of answers that came to nothing.
    pub recoveries: Counter,
    /// Commands without an answer.
    pub open: Gauge,
    /// Bytes of commands and answers held.
    pub bytes: Gauge,
    /// From a command's reading to its reply.
    pub seconds: Histogram,
}

impl Metrics {
    /// Registers all.
    pub fn new(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("headwater_bridge");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let read = counter("commands", "Commands read from Kafka");
        let sent = counter("commands_sent", "Commands sent to devices, each time counted");
        let resent = counter("commands_resent", "Commands sent again for want of a reply");
        let repeated = counter("commands_repeated", "Commands under the id of one that was open");
        let dead_letters = counter(
            "command_dead_letters",
            "Records of the topic of commands that were none",
        );
        let recoveries = counter(
            "command_recoveries",
            "Transactions of replies that came to nothing",
        );
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let open = gauge("commands_open", "Commands without a reply yet");
        let bytes = gauge("command_bytes", "Bytes of commands and replies held");
        let replies = Family::default();
        registry.register("replies", "Replies in Kafka", replies.clone());
        let ignored = Family::default();
        registry.register(
            "replies_ignored",
            "Devices' replies that were not written",
            ignored.clone(),
        );
        let seconds = Histogram::new(exponential_buckets(0.005, 2.0, 16));
        registry.register(
            "command_seconds",
            "From a command's reading to its reply, devices' replies only",
            seconds.clone(),
        );
        Self {
            read,
            sent,
            resent,
            repeated,
            replies,
            ignored,
            dead_letters,
            recoveries,
            open,
            bytes,
            seconds,
        }
    }

    /// Counts a reply.
    pub fn reply(&self, status: ReplyStatus) {
        let status = match status {
            ReplyStatus::Unspecified => "unspecified",
            ReplyStatus::Ok => "ok",
            ReplyStatus::Failed => "failed",
            ReplyStatus::Expired => "expired",
            ReplyStatus::UnknownDevice => "unknown device",
            ReplyStatus::UnknownCommand => "unknown command",
            ReplyStatus::Refused => "refused",
        };
        self.replies.get_or_create(&Status { status }).inc();
    }

    /// Counts a device's reply that was not written.
    pub fn ignore(&self, reason: &'static str) {
        self.ignored.get_or_create(&Reason { reason }).inc();
    }
}
