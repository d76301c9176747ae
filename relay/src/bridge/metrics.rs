//! The bridge's metrics, `headwater_bridge_…`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

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
    /// Bytes handed to Kafka's client and not reported.
    pub in_flight_bytes: Gauge,
    /// Partitions owned.
    pub partitions: Gauge,
    /// Times that partitions were given or taken.
    pub rebalances: Counter,
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
        let partitions = gauge("partitions", "Partitions that this bridge owns");
        let devices = gauge("devices", "Devices known");
        let devices_online = gauge("devices_online", "Devices on line");
        let mqtt_connected = gauge("mqtt_connected", "Whether the MQTT connection stands");
        let mut family = |name: &str, help: &str| {
            let family = Family::<Reason, Counter>::default();
            registry.register(name, help, family.clone());
            family
        };
        let refusals = family("refusals", "Messages refused");
        let dropped = family("dropped", "Frames dropped unacknowledged, to come again");
        let delivery_seconds = Histogram::new(exponential_buckets(0.000_5, 2.0, 16));
        registry.register(
            "delivery_seconds",
            "From arrival to Kafka's delivery report",
            delivery_seconds.clone(),
        );
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
            in_flight_bytes,
            partitions,
            rebalances,
            recoveries,
            devices,
            devices_online,
            mqtt_connected,
            mqtt_connects,
        }
    }

    /// Counts a refusal.
    pub fn refuse(&self, reason: &'static str) {
        self.refusals.get_or_create(&Reason { reason }).inc();
    }

    /// Counts what was dropped.
    pub fn drop(&self, reason: &'static str) {
        self.dropped.get_or_create(&Reason { reason }).inc();
    }
}
