//! The peers, as their documents say that they are set up for throughput without loss, and what they are sent.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};

use super::kafka::Watch;
use crate::agent::process::Process;
use crate::trace::{Row, Trace};

/// Messages that are published and not yet in Kafka.
const UNDERWAY: u64 = 1_600;

/// A peer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    /// `mqtt_consumer` reads Influx line protocol, `outputs.kafka` writes it, a record a line.
    Telegraf,
    /// `mqtt` to `kafka_franz`: a message is handed on as it came, unread.
    Connect,
    /// No peer: the relay, with an entry `[[foreign]]` that reads line protocol. A record is a batch of what was gathered.
    Foreign,
}

impl Peer {
    /// Kafka's topic, of what is called so.
    pub(super) fn topic(self, into: &str) -> String {
        match self {
            Self::Telegraf | Self::Connect => into.to_string(),
            Self::Foreign => format!("{into}.telemetry"),
        }
    }

    /// Starts it, to carry `topic` (MQTT) to `into` (Kafka).
    pub(super) fn start(
        self,
        program: &Path,
        work: &Path,
        mqtt: u16,
        bootstrap: &str,
        topic: &str,
        into: &str,
    ) -> Result<Process> {
        let file = work.join(format!("{into}.conf"));
        let mut command = Command::new(program);
        let text = match self {
            Self::Telegraf => {
                command.arg("--config").arg(&file);
                telegraf(mqtt, bootstrap, topic, into)
            }
            Self::Connect => {
                command.arg("run").arg(&file);
                connect(mqtt, bootstrap, topic, into)
            }
            Self::Foreign => {
                command.arg("bridge").arg("--config").arg(&file);
                foreign(mqtt, bootstrap, topic, into)
            }
        };
        fs::write(&file, text)?;
        Process::start(&mut command, &work.join(format!("{into}.log")))
    }
}

fn telegraf(mqtt: u16, bootstrap: &str, topic: &str, into: &str) -> String {
    format!(
        r#"[agent]
interval = "1s"
flush_interval = "100ms"
flush_jitter = "0s"
metric_batch_size = 10000
metric_buffer_limit = 400000
omit_hostname = true
quiet = true
[[inputs.mqtt_consumer]]
servers = ["tcp://127.0.0.1:{mqtt}"]
topics = ["{topic}"]
topic_tag = ""
qos = 1
client_id = "{into}"
persistent_session = true
max_undelivered_messages = 100000
data_format = "influx"
[[outputs.kafka]]
brokers = ["{bootstrap}"]
topic = "{into}"
routing_tag = "device"
compression_codec = 3
required_acks = -1
idempotent_writes = true
data_format = "influx"
"#
    )
}

fn connect(mqtt: u16, bootstrap: &str, topic: &str, into: &str) -> String {
    format!(
        r#"http: {{ enabled: false }}
logger: {{ level: WARN }}
input:
  mqtt:
    urls: ["tcp://127.0.0.1:{mqtt}"]
    topics: ["{topic}"]
    client_id: "{into}"
    qos: 1
    clean_session: false
output:
  kafka_franz:
    seed_brokers: ["{bootstrap}"]
    topic: "{into}"
    key: ${{! meta("mqtt_topic") }}
    compression: lz4
    idempotent_write: true
    max_in_flight: 64
    batching: {{ count: 500, period: 5ms }}
"#
    )
}

fn foreign(mqtt: u16, bootstrap: &str, topic: &str, into: &str) -> String {
    format!(
        r#"[admin]
listen = "127.0.0.1:0"
[kafka]
bootstrap = "{bootstrap}"
prefix = "{into}"
[mqtt]
broker = "mqtt://127.0.0.1:{mqtt}"
[[foreign]]
id = "lines"
topics = ["{topic}"]
device = "{{2}}"
[foreign.map]
format = "influx"
"#
    )
}

/// What peers are sent: the readings of some rows, a line a row, all fields in it.
pub(super) fn lines(trace: &Trace, rows: &[Row], device: &str) -> String {
    let mut text = String::new();
    for row in rows {
        let fields = trace.metrics.iter().zip(&row.fields);
        let fields: Vec<String> = fields
            .filter_map(|(metric, field)| Some(format!("{metric}={}", field.as_ref()?.text)))
            .collect();
        text += &format!(
            "readings,device={device} {} {}\n",
            fields.join(","),
            row.time_ms * 1_000_000
        );
    }
    text
}

/// The same with a number in every line, that tells when it came.
pub(super) fn numbered(lines: &str, number: u64) -> String {
    let lines = lines.lines().map(|line| match line.rsplit_once(' ') {
        Some((fields, time)) => format!("{fields},n={number}i {time}\n"),
        None => String::new(),
    });
    lines.collect()
}

/// Publishes at QoS 1.
pub(super) struct Publisher {
    client: Client,
}

impl Publisher {
    /// Connects.
    pub(super) fn start(port: u16, id: &str) -> Self {
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options
            .set_max_packet_size(1 << 24, 1 << 24)
            .set_keep_alive(Duration::from_secs(60))
            .set_inflight(1_000);
        let (client, mut connection) = Client::new(options, 100);
        std::thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) | Err(_) => return,
                    Ok(Event::Incoming(Packet::Disconnect)) => return,
                    Ok(_) => {}
                }
            }
        });
        Self { client }
    }

    /// Publishes `messages`, over and over, for so long; so many of each are records. Never more than [`UNDERWAY`] are not in Kafka.
    pub(super) fn flood(
        &self,
        messages: &[(String, Vec<u8>)],
        records: u64,
        time: Duration,
        watch: &Watch,
        published: &mut u64,
    ) -> Result<()> {
        let begun = Instant::now();
        let before = watch.records();
        let mut sent = 0;
        while begun.elapsed() < time {
            if sent * records >= watch.records() - before + UNDERWAY * records {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            let (topic, payload) = &messages[sent as usize % messages.len()];
            self.publish(topic, payload.clone())?;
            sent += 1;
        }
        *published += sent;
        watch.reach(before + sent * records)
    }

    /// Publishes one message.
    pub(super) fn publish(&self, topic: &str, payload: Vec<u8>) -> Result<()> {
        ensure!(!payload.is_empty(), "an empty message");
        Ok(self.client.publish(topic, QoS::AtLeastOnce, false, payload)?)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.client.try_disconnect();
    }
}
