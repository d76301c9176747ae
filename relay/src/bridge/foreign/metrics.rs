//! The metrics of foreign devices, `headwater_foreign_…`, each by entry.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Which entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Of {
    /// Its id.
    pub entry: String,
}

/// Which entry, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Because {
    /// Its id.
    pub entry: String,
    /// In a word or two.
    pub reason: &'static str,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Families {
    messages: Family<Of, Counter>,
    again: Family<Of, Counter>,
    readings: Family<Of, Counter>,
    batches: Family<Of, Counter>,
    dead_letters: Family<Of, Counter>,
    skipped: Family<Because, Counter>,
    dropped: Family<Of, Counter>,
    recoveries: Family<Of, Counter>,
    gaps: Family<Of, Counter>,
    rebirths: Family<Of, Counter>,
    unacknowledged: Family<Of, Gauge>,
    devices: Family<Of, Gauge>,
    connected: Family<Of, Gauge>,
}

impl Families {
    /// Registers all.
    pub fn new(registry: &mut Registry) -> Self {
        let all = Self::default();
        let registry = registry.sub_registry_with_prefix("headwater_foreign");
        let mut counter = |name: &str, help: &str, family: &Family<Of, Counter>| {
            registry.register(name, help, family.clone());
        };
        counter("messages", "MQTT messages that came", &all.messages);
        counter(
            "repeats",
            "Messages that the broker marks as sent before",
            &all.again,
        );
        counter("readings", "Readings in Kafka", &all.readings);
        counter("batches", "Batches in Kafka", &all.batches);
        counter(
            "dead_letters",
            "Messages in the dead letter topic",
            &all.dead_letters,
        );
        counter(
            "dropped",
            "Messages that found no room and were not acknowledged: of QoS 0 they are lost, of QoS 1 they come again",
            &all.dropped,
        );
        counter(
            "recoveries",
            "Times that producer and connection were made anew",
            &all.recoveries,
        );
        counter(
            "gaps",
            "Messages that Sparkplug nodes numbered and that did not come",
            &all.gaps,
        );
        counter(
            "rebirths",
            "Births that Sparkplug nodes were asked for",
            &all.rebirths,
        );
        registry.register("skipped", "What was left out, by reason", all.skipped.clone());
        let mut gauge = |name: &str, help: &str, family: &Family<Of, Gauge>| {
            registry.register(name, help, family.clone());
        };
        gauge(
            "unacknowledged",
            "Messages not acknowledged yet",
            &all.unacknowledged,
        );
        gauge("devices", "Devices known", &all.devices);
        gauge("connected", "Whether the MQTT connection stands", &all.connected);
        all
    }

    /// Those of one entry.
    pub fn of(&self, entry: &str) -> Metrics {
        let of = Of {
            entry: entry.to_owned(),
        };
        Metrics {
            entry: entry.to_owned(),
            messages: self.messages.get_or_create(&of).clone(),
            again: self.again.get_or_create(&of).clone(),
            readings: self.readings.get_or_create(&of).clone(),
            batches: self.batches.get_or_create(&of).clone(),
            dead_letters: self.dead_letters.get_or_create(&of).clone(),
            skipped: self.skipped.clone(),
            dropped: self.dropped.get_or_create(&of).clone(),
            recoveries: self.recoveries.get_or_create(&of).clone(),
            gaps: self.gaps.get_or_create(&of).clone(),
            rebirths: self.rebirths.get_or_create(&of).clone(),
            unacknowledged: self.unacknowledged.get_or_create(&of).clone(),
            devices: self.devices.get_or_create(&of).clone(),
            connected: self.connected.get_or_create(&of).clone(),
        }
    }
}

/// Those of one entry.
#[derive(Clone, Debug)]
pub struct Metrics {
    entry: String,
    /// MQTT messages that came.
    pub messages: Counter,
    /// Those that the broker marks as sent before.
    pub again: Counter,
    /// Readings in Kafka.
    pub readings: Counter,
    /// Batches in Kafka.
    pub batches: Counter,
    /// Dead letters in Kafka.
    pub dead_letters: Counter,
    skipped: Family<Because, Counter>,
    /// Messages that found no room.
    pub dropped: Counter,
    /// Times that producer and connection were made anew.
    pub recoveries: Counter,
    /// Sparkplug: messages that did not come.
    pub gaps: Counter,
    /// Sparkplug: births that were asked for.
    pub rebirths: Counter,
    /// Messages not acknowledged yet.
    pub unacknowledged: Gauge,
    /// Devices known.
    pub devices: Gauge,
    /// Whether the MQTT connection stands.
    pub connected: Gauge,
}

impl Metrics {
    /// Counts what was left out.
    pub fn skip(&self, reason: &'static str, count: u64) {
        let because = Because {
            entry: self.entry.clone(),
            reason,
        };
        self.skipped.get_or_create(&because).inc_by(count);
    }
}
