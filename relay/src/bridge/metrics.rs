//! The bridge's metrics, `headwater_bridge_…`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// At most this often a line of the log sums up what was refused and dropped.
const SUMMARY: Duration = Duration::from_secs(60);

/// Why messages are refused. At 0 from the beginning: the first of a kind would not show as an increase.
const REFUSALS: [&str; 12] = [
    "control message",
    "envelope",
    "frame",
    "limit",
    "malformed",
    "name",
    "series set",
    "too many devices",
    "too many streams",
    "topic",
    "truncated",
    "unfit for Kafka",
];
/// Why frames are dropped.
const DROPS: [&str; 4] = [
    "in flight",
    "partition of another bridge",
    "queue full",
    "recovering",
];

/// Why something was refused or dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// In a word or two.
    pub reason: &'static str,
}

/// All of them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Readings in Kafka.
    pub readings: Counter,
    /// Batches in Kafka, loss records included.
    pub batches: Counter,
    /// Readings that loss records report.
    pub lost_readings: Counter,
    /// Bytes of MQTT payloads that came.
    pub bytes_in: Counter,
    /// Bytes of record values in Kafka.
    pub bytes_out: Counter,
    /// Acks sent.
    pub acks: Counter,
    /// Batches that came again.
    pub duplicates: Counter,
    /// Batches that came with one missing before them.
    pub gaps: Counter,
    /// Frames of streams not known: the agent was asked for hello.
    pub unknown_streams: Counter,
    /// Frames with a series set not known: the agent was asked for it.
    pub unknown_series: Counter,
    /// Devices' names found to be used by several boxes; counted anew every ten minutes while it is so.
    pub shared_names: Counter,
    /// Streams of agents that ended without a clean stop.
    pub torn_streams: Counter,
    /// What was refused.
    pub refusals: Family<Reason, Counter>,
    /// What was dropped unacknowledged, to come again.
    pub dropped: Family<Reason, Counter>,
    /// Records put to the dead letters.
    pub dead_letters: Counter,
    /// Records that Kafka did not take.
    pub delivery_failures: Counter,
    /// From arrival to Kafka's delivery report.
    pub delivery_seconds: Histogram,
    /// From a batch's newest reading, by the device's clock, to Kafka's delivery report.
    pub lag_seconds: Histogram,
    /// Bytes handed to Kafka's client and not reported.
    pub in_flight_bytes: Gauge,
    /// What they may be.
    pub in_flight_limit_bytes: Gauge,
    /// Partitions owned.
    pub partitions: Gauge,
    /// Partitions that all bridges share.
    pub topic_partitions: Gauge,
    /// Times that partitions were given or taken.
    pub rebalances: Counter,
    /// Partitions whose positions were read when they were given to this bridge.
    pub takeovers: Counter,
    /// How long reading the positions of what was given took.
    pub takeover_seconds: Histogram,
    /// Transactions that came to nothing, and producers that failed.
    pub recoveries: Counter,
    /// Devices known.
    pub devices: Gauge,
    /// Devices on line.
    pub devices_online: Gauge,
    /// Whether the MQTT connection stands.
    pub mqtt_connected: Gauge,
    /// Connections to the MQTT broker that were made.
    pub mqtt_connects: Counter,
    tally: Arc<Mutex<Tally>>,
}

/// What was refused and dropped since the log said so last.
#[derive(Debug, Default)]
struct Tally {
    counts: BTreeMap<(&'static str, &'static str), u64>,
    told: Option<Instant>,
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
        let readings = counter("readings", "Readings in Kafka");
        let batches = counter("batches", "Batches in Kafka, loss records included");
        let lost_readings = counter("lost_readings", "Readings that agents report as lost");
        let bytes_in = counter("in_bytes", "Bytes of MQTT payloads that came");
        let bytes_out = counter("out_bytes", "Bytes of record values in Kafka");
        let acks = counter("acks", "Acks sent to agents");
        let duplicates = counter("duplicates", "Batches that came again, not produced again");
        let gaps = counter(
            "gaps",
            "Batches that came with one missing before them, not produced",
        );
        let unknown_streams = counter(
            "unknown_streams",
            "Frames of unknown streams: hello was asked for",
        );
        let unknown_series = counter("unknown_series", "Frames with unknown series sets: asked for");
        let dead_letters = counter("dead_letters", "Records in the dead letter topic");
        let delivery_failures = counter("delivery_failures", "Records that Kafka did not take");
        let mqtt_connects = counter("mqtt_connects", "Connections to the MQTT broker that were made");
        let shared_names = counter("shared_names", "Devices' names found to be used by several boxes");
        let torn_streams = counter(
            "torn_streams",
            "Agents' streams that ended by a power cut or a kill: their last seconds may be lost",
        );
        let rebalances = counter(
            "rebalances",
            "Times that partitions were given to this bridge or taken",
        );
        let takeovers = counter(
            "takeovers",
            "Partitions whose positions were read when they were given to this bridge",
        );
        let recoveries = counter(
            "recoveries",
            "Transactions that came to nothing, producers that failed",
        );
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let in_flight_bytes = gauge(
            "in_flight_bytes",
            "Bytes handed to Kafka's client and not reported",
        );
        let in_flight_limit_bytes = gauge(
            "in_flight_limit_bytes",
            "What headwater_bridge_in_flight_bytes may be: bridge.in_flight",
        );
        let partitions = gauge("partitions", "Partitions that this bridge owns");
        let topic_partitions = gauge("topic_partitions", "Partitions that all bridges share");
        let devices = gauge("devices", "Devices known");
        let devices_online = gauge("devices_online", "Devices on line");
        let mqtt_connected = gauge("mqtt_connected", "Whether the MQTT connection stands");
        let mut family = |name: &str, help: &str, reasons: &[&'static str]| {
            let family = Family::<Reason, Counter>::default();
            for reason in reasons {
                drop(family.get_or_create(&Reason { reason }));
            }
            registry.register(name, help, family.clone());
            family
        };
        let refusals = family("refusals", "Messages refused", &REFUSALS);
        let dropped = family("dropped", "Frames dropped unacknowledged, to come again", &DROPS);
        let mut histogram = |name: &str, help: &str, first: f64, factor: f64, count: u16| {
            let histogram = Histogram::new(exponential_buckets(first, factor, count));
            registry.register(name, help, histogram.clone());
            histogram
        };
        let help = "From arrival to Kafka's delivery report; with transactions: to the commit";
        let delivery_seconds = histogram("delivery_seconds", help, 0.000_5, 2.0, 16);
        // 10 ms to 13 hours: a backlog that drains is late by as much as the outage was long.
        let help = "From a batch's newest reading, by the device's clock, to Kafka's delivery report";
        let lag_seconds = histogram("lag_seconds", help, 0.01, 3.0, 15);
        let help = "How long it took to read the positions of partitions given to this bridge";
        let takeover_seconds = histogram("takeover_seconds", help, 0.05, 2.0, 12);
        Self {
            readings,
            batches,
            lost_readings,
            bytes_in,
            bytes_out,
            acks,
            duplicates,
            gaps,
            unknown_streams,
            unknown_series,
            shared_names,
            torn_streams,
            refusals,
            dropped,
            dead_letters,
            delivery_failures,
            delivery_seconds,
            lag_seconds,
            in_flight_bytes,
            in_flight_limit_bytes,
            partitions,
            topic_partitions,
            rebalances,
            takeovers,
            takeover_seconds,
            recoveries,
            devices,
            devices_online,
            mqtt_connected,
            mqtt_connects,
            tally: Arc::default(),
        }
    }

    /// Counts a refusal.
    pub fn refuse(&self, reason: &'static str) {
        self.refusals.get_or_create(&Reason { reason }).inc();
        self.tally("refused", reason);
    }

    /// Counts what was dropped.
    pub fn drop(&self, reason: &'static str) {
        self.dropped.get_or_create(&Reason { reason }).inc();
        self.tally("dropped", reason);
    }

    fn tally(&self, what: &'static str, reason: &'static str) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        *tally.counts.entry((what, reason)).or_default() += 1;
    }

    /// One line for all that was refused and dropped, where there was something, and not more often than once a minute: messages
    /// come by the thousand, and so may bad ones. What each was is in the dead letters.
    pub fn summary(&self, now: Instant) -> Option<String> {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let early = tally.told.is_some_and(|told| now < told + SUMMARY);
        if tally.counts.is_empty() || early {
            return None;
        }
        tally.told = Some(now);
        let counts = std::mem::take(&mut tally.counts);
        let counts = counts
            .iter()
            .map(|((what, reason), count)| format!("{count} {what} ({reason})"));
        Some(counts.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_by_the_thousand_is_one_line_a_minute() {
        let metrics = Metrics::new(&mut Registry::default());
        let begun = Instant::now();
        assert_eq!(metrics.summary(begun), None, "nothing happened");
        for _ in 0..1000 {
            metrics.refuse("malformed");
            metrics.drop("in flight");
        }
        let line = metrics.summary(begun).unwrap();
        assert_eq!(line, "1000 dropped (in flight), 1000 refused (malformed)");
        metrics.refuse("limit");
        assert_eq!(
            metrics.summary(begun + Duration::from_secs(59)),
            None,
            "too early"
        );
        let line = metrics.summary(begun + SUMMARY).unwrap();
        assert_eq!(line, "1 refused (limit)");
        assert_eq!(metrics.summary(begun + 3 * SUMMARY), None, "and nothing since");
    }
}
