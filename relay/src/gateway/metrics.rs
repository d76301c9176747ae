//! What can be seen of the gateway from outside.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::latency::Latency;

/// A counter by one label.
pub type By<L> = Family<L, Counter>;

/// By mode of subscription.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Mode {
    /// `all`, `latest`, `presence`.
    pub mode: &'static str,
}

/// By form on the wire.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Form {
    /// `deflated`, `plain`.
    pub form: &'static str,
}

/// By close code.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Code {
    /// 1000 to 4999; 0: the connection broke off; 4000: a code of the client's own.
    pub code: u32,
}

/// By reason.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Reason {
    /// What was wrong.
    pub reason: &'static str,
}

/// The gateway's metrics.
#[derive(Debug)]
pub struct Metrics {
    /// WebSocket connections.
    pub connections: Gauge,
    /// Subscriptions by mode.
    pub subscriptions: Family<Mode, Gauge>,
    /// Messages sent compressed.
    pub deflated: Counter,
    /// Messages sent as they are.
    pub plain: Counter,
    /// Bytes of messages sent, with their WebSocket headers.
    pub wire_bytes: Counter,
    /// The same messages before compression.
    pub decoded_bytes: Counter,
    /// Data frames sent.
    pub deliveries: Counter,
    /// Data frames sent that had been made for somebody else before.
    pub shared: Counter,
    /// Acks received.
    pub acks: Counter,
    /// Seconds that connections had something to send and a closed window.
    pub window_closed: Counter<f64, AtomicU64>,
    /// Reads from Kafka for subscribers behind the log.
    pub catch_up_reads: Counter,
    /// Gaps told.
    pub gaps: Counter,
    /// Connections closed, by code.
    pub closes: By<Code>,
    /// Connections and messages refused, by reason.
    pub refusals: By<Reason>,
    /// Partitions of the telemetry that are read, since somebody watches them.
    pub partitions_read: Gauge,
    /// Telemetry records read.
    pub records: Counter,
    /// Telemetry records that could not be decoded.
    pub unreadable: Counter,
    /// Bytes of the log in memory.
    pub log_bytes: Gauge,
    /// Bytes of the cache of newest values, roughly.
    pub cache_bytes: Gauge,
    /// Bytes that LATEST and SERIES subscriptions hold, roughly.
    pub held_bytes: Gauge,
    /// Values that found no room in the cache.
    pub cache_refused: Gauge,
    /// Devices known.
    pub devices: Gauge,
    /// Devices online.
    pub devices_online: Gauge,
    /// From the newest reading of a batch to its frame's hand-over to the socket, live frames.
    pub sample_to_socket: Latency,
    /// From the newest reading of a batch to its arrival at the bridge (the record's timestamp), records read live.
    pub sample_to_kafka: Latency,
    /// From a batch's arrival at the bridge to its frame's hand-over to the socket, live frames.
    pub kafka_to_socket: Latency,
    /// From a frame's hand-over to the socket to its client's acknowledgement: one frame at a time of each connection.
    pub round_trip: Latency,
}

impl Metrics {
    /// Registered under `headwater_gateway_`.
    pub fn new(registry: &mut Registry) -> Self {
        let frames = By::<Form>::default();
        let form = |form| frames.get_or_create_owned(&Form { form });
        let metrics = Self {
            connections: Gauge::default(),
            subscriptions: Family::default(),
            deflated: form("deflated"),
            plain: form("plain"),
            wire_bytes: Counter::default(),
            decoded_bytes: Counter::default(),
            deliveries: Counter::default(),
            shared: Counter::default(),
            acks: Counter::default(),
            window_closed: Counter::default(),
            catch_up_reads: Counter::default(),
            gaps: Counter::default(),
            closes: Family::default(),
            refusals: Family::default(),
            partitions_read: Gauge::default(),
            records: Counter::default(),
            unreadable: Counter::default(),
            log_bytes: Gauge::default(),
            cache_bytes: Gauge::default(),
            held_bytes: Gauge::default(),
            cache_refused: Gauge::default(),
            devices: Gauge::default(),
            devices_online: Gauge::default(),
            sample_to_socket: Latency::default(),
            sample_to_kafka: Latency::default(),
            kafka_to_socket: Latency::default(),
            round_trip: Latency::default(),
        };
        // At 0 from the beginning: the first of a kind would not show as an increase.
        for mode in ["all", "latest", "series", "presence"] {
            drop(metrics.subscriptions.get_or_create(&Mode { mode }));
        }
        for code in [0, 1000] {
            drop(metrics.closes.get_or_create(&Code { code }));
        }
        let registry = registry.sub_registry_with_prefix("headwater_gateway");
        registry.register(
            "connections",
            "WebSocket connections",
            metrics.connections.clone(),
        );
        registry.register(
            "subscriptions",
            "Subscriptions by mode",
            metrics.subscriptions.clone(),
        );
        registry.register("frames", "Messages sent, by form on the wire", frames);
        let help = "Messages sent, with their WebSocket headers";
        registry.register_with_unit("wire", help, Unit::Bytes, metrics.wire_bytes.clone());
        let help = "Messages sent, before compression";
        registry.register_with_unit("decoded", help, Unit::Bytes, metrics.decoded_bytes.clone());
        registry.register("deliveries", "Data frames sent", metrics.deliveries.clone());
        registry.register(
            "shared_frames",
            "Data frames sent that had been made before",
            metrics.shared.clone(),
        );
        registry.register("acks", "Acks received", metrics.acks.clone());
        let help = "Time that connections waited for a closed window";
        registry.register_with_unit(
            "window_closed",
            help,
            Unit::Seconds,
            metrics.window_closed.clone(),
        );
        let help = "Reads from Kafka for subscribers behind the log in memory";
        registry.register("catch_up_reads", help, metrics.catch_up_reads.clone());
        registry.register("gaps", "Gaps told to subscribers", metrics.gaps.clone());
        let help = "Connections closed, by code; 0: broken off";
        registry.register("closes", help, metrics.closes.clone());
        registry.register(
            "refusals",
            "Connections and messages refused",
            metrics.refusals.clone(),
        );
        let help = "Partitions of the telemetry that are read, since somebody watches them";
        registry.register("partitions_read", help, metrics.partitions_read.clone());
        registry.register("records", "Telemetry records read", metrics.records.clone());
        let help = "Telemetry records that could not be decoded";
        registry.register("unreadable_records", help, metrics.unreadable.clone());
        let help = "The log in memory";
        registry.register_with_unit("log", help, Unit::Bytes, metrics.log_bytes.clone());
        let help = "The newest values in memory, roughly";
        registry.register_with_unit("cache", help, Unit::Bytes, metrics.cache_bytes.clone());
        let help = "What LATEST and SERIES subscriptions hold, roughly";
        registry.register_with_unit("held", help, Unit::Bytes, metrics.held_bytes.clone());
        let help = "Values that found no room in the cache (gateway.cache)";
        registry.register("cache_refused", help, metrics.cache_refused.clone());
        registry.register("devices", "Devices known", metrics.devices.clone());
        registry.register("devices_online", "Devices online", metrics.devices_online.clone());
        let help = "From a batch's newest reading to its frame's hand-over to the socket, live frames";
        let latency = metrics.sample_to_socket.clone();
        registry.register_with_unit("sample_to_socket", help, Unit::Seconds, latency);
        let help = "From a batch's newest reading to its arrival at the bridge, records read live";
        let latency = metrics.sample_to_kafka.clone();
        registry.register_with_unit("sample_to_kafka", help, Unit::Seconds, latency);
        let help = "From a batch's arrival at the bridge to its frame's hand-over to the socket, live frames";
        let latency = metrics.kafka_to_socket.clone();
        registry.register_with_unit("kafka_to_socket", help, Unit::Seconds, latency);
        let help = "From a frame's hand-over to the socket to its acknowledgement, one frame at a time of each connection";
        registry.register_with_unit("round_trip", help, Unit::Seconds, metrics.round_trip.clone());
        metrics
    }

    /// Something was refused.
    pub fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&Reason { reason }).inc();
    }
}
