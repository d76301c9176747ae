//! A broker, a Kafka, and agents that do exactly what a test says.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headwater_proto::frame::{Compression, Encoding, open_control, seal, seal_control};
use headwater_proto::topic::{Kind, topic};
use headwater_proto::{
    Batch, Body, Column, Limits, Loss, LossReason, Message as _, Readings, Series, SeriesSet, ValueType,
    Values, pb,
};
use headwater_relay::admin::{Check, Monitor};
use headwater_relay::bridge::scan::CHECKPOINT;
use headwater_relay::bridge::settings::BridgeSettings;
use headwater_relay::bridge::{self, reader};
use headwater_relay::demo::broker;
use headwater_relay::demo::cluster::Cluster;
use headwater_relay::kafka::KafkaSettings;
use headwater_relay::mqtt::MqttSettings;
use rdkafka::Message as _;
use rdkafka::message::Headers as _;
use rumqttc::{AsyncClient, LastWill, MqttOptions, Packet, QoS};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The session that agents here name in their hello.
pub(crate) const SESSION: u64 = 0x5e55;
const PATIENCE: Duration = Duration::from_secs(20);

/// A broker and a Kafka.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) kafka: KafkaSettings,
    pub(crate) mqtt: MqttSettings,
    pub(crate) monitor: Monitor,
}

/// A dead letter.
pub(crate) struct Letter {
    pub(crate) topic: String,
    pub(crate) reason: String,
    pub(crate) payload: Vec<u8>,
}

impl World {
    pub(crate) async fn start() -> Self {
        // RUST_LOG=headwater_relay=debug shows what goes on.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_test_writer()
            .try_init();
        let cluster = Cluster::start(4).unwrap();
        let mqtt = MqttSettings {
            broker: format!("mqtt://{}", broker::start(100).unwrap()).into(),
            ..MqttSettings::default()
        };
        Self {
            kafka: cluster.settings(),
            cluster,
            mqtt,
            monitor: Monitor::new(),
        }
    }

    pub(crate) fn bridge(&self) -> Bridge {
        let quick = Duration::from_millis(100);
        self.bridge_with(BridgeSettings {
            alone: true,
            state_interval: quick,
            ..BridgeSettings::default()
        })
    }

    pub(crate) fn bridge_with(&self, settings: BridgeSettings) -> Bridge {
        let stop = CancellationToken::new();
        let task = tokio::spawn(bridge::run(
            settings,
            self.mqtt.clone(),
            Vec::new(),
            self.kafka.clone(),
            self.monitor.clone(),
            stop.clone(),
        ));
        Bridge { stop, task }
    }

    pub(crate) async fn await_ready(&self) {
        let start = Instant::now();
        while !self.monitor.readiness().0 {
            assert!(start.elapsed() < PATIENCE, "{}", self.monitor.readiness().1);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn await_not_ready(&self, reason: &str) {
        let start = Instant::now();
        loop {
            let (ready, text) = self.monitor.readiness();
            if !ready
                && text
                    .lines()
                    .any(|line| line.contains(reason) && !line.ends_with(": ready"))
            {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn read(
        &self,
        topic: &str,
        partitions: u32,
        mut each: impl FnMut(&str, &rdkafka::message::BorrowedMessage<'_>),
    ) {
        let check: Check = Monitor::new().check("test", "reading");
        let from: Vec<(u32, i64)> = (0..partitions).map(|partition| (partition, 0)).collect();
        let stop = CancellationToken::new();
        reader::read(&self.kafka, topic, &from, &check, &stop, |_, message| {
            each(std::str::from_utf8(message.key().unwrap()).unwrap(), message);
        })
        .unwrap();
    }

    /// Everything of a device in the log.
    pub(crate) fn telemetry(&self, device: &str) -> Vec<Batch> {
        let mut batches = Vec::new();
        self.read(&self.kafka.topics().telemetry, 4, |key, message| {
            if key == device {
                let batch = headwater_proto::protobuf::decode(message.payload().unwrap(), &Limits::default());
                batches.push(batch.unwrap());
            }
        });
        batches
    }

    pub(crate) fn dead_letters(&self) -> Vec<Letter> {
        let mut letters = Vec::new();
        self.read(&self.kafka.topics().deadletter, 1, |_, message| {
            let headers = message.headers().unwrap();
            let text = |key: &str| {
                let header = headers.iter().find(|header| header.key == key).unwrap();
                String::from_utf8(header.value.unwrap().to_vec()).unwrap()
            };
            letters.push(Letter {
                topic: text("hw-topic"),
                reason: text("hw-reason"),
                payload: message.payload().unwrap_or_default().to_vec(),
            });
        });
        letters
    }

    fn states(&self) -> Vec<(String, i32, pb::DeviceState)> {
        let mut states = Vec::new();
        self.read(&self.kafka.topics().devices, 4, |key, message| {
            let state = pb::DeviceState::decode(message.payload().unwrap()).unwrap();
            states.push((key.to_string(), message.partition(), state));
        });
        states
    }

    pub(crate) async fn await_state(
        &self,
        device: &str,
        is: impl Fn(&pb::DeviceState) -> bool,
    ) -> pb::DeviceState {
        let start = Instant::now();
        loop {
            let last = self.states().into_iter().rev().find(|(key, ..)| key == device);
            if let Some((_, _, state)) = last.filter(|(_, _, state)| is(state)) {
                return state;
            }
            assert!(start.elapsed() < PATIENCE, "{:?}", self.states());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) fn checkpoints(&self) -> BTreeMap<u32, i64> {
        let states = self.states().into_iter().filter(|(key, ..)| key == CHECKPOINT);
        states
            .map(|(_, partition, state)| {
                let checkpoint = state.checkpoint.unwrap();
                assert_eq!(checkpoint.partition, partition as u32);
                (checkpoint.partition, checkpoint.telemetry_offset)
            })
            .collect()
    }
}

/// A running bridge.
pub(crate) struct Bridge {
    stop: CancellationToken,
    task: JoinHandle<Result<(), bridge::Error>>,
}

impl Bridge {
    /// As SIGKILL would: nothing is flushed or said.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// As SIGTERM does.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        let stopped = tokio::time::timeout(Duration::from_secs(4), self.task).await;
        stopped.expect("it stops in time").unwrap().unwrap();
    }
}

/// An agent that does what it is told.
pub(crate) struct Agent {
    device: String,
    client: AsyncClient,
    acks: mpsc::UnboundedReceiver<pb::Ack>,
    poller: JoinHandle<()>,
    /// Do not publish the series set before frames.
    pub(crate) withhold_series: bool,
    series_sent: bool,
}

impl Agent {
    pub(crate) async fn connect(world: &World, device: &str) -> Self {
        let broker = world.mqtt.broker.to_string();
        let (_, port) = broker.rsplit_once(':').unwrap();
        let mut options = MqttOptions::new(device, "127.0.0.1", port.parse().unwrap());
        options.set_max_packet_size(1 << 20, 1 << 20);
        let will = pb::Status {
            online: false,
            session: SESSION,
            waiting: None,
        };
        options.set_last_will(LastWill::new(
            topic(device, Kind::Status),
            seal_control(&will),
            QoS::AtLeastOnce,
            true,
        ));
        let (client, mut events) = AsyncClient::new(options, 100);
        client
            .subscribe(topic(device, Kind::Ack), QoS::AtLeastOnce)
            .await
            .unwrap();
        let (tell, acks) = mpsc::unbounded_channel();
        let (up, is_up) = tokio::sync::oneshot::channel();
        let poller = tokio::spawn(async move {
            let mut up = Some(up);
            loop {
                match events.poll().await {
                    Ok(rumqttc::Event::Incoming(Packet::Publish(publish))) => {
                        let _ = tell.send(open_control("ack", &publish.payload).unwrap());
                    }
                    Ok(rumqttc::Event::Incoming(Packet::SubAck(_))) => {
                        let _ = up.take().map(|up| up.send(()));
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        is_up.await.unwrap();
        Self {
            device: device.into(),
            client,
            acks,
            poller,
            withhold_series: false,
            series_sent: false,
        }
    }

    /// Without a word: the broker publishes its will.
    pub(crate) async fn vanish(self) {
        self.poller.abort();
        let _ = self.poller.await;
    }

    pub(crate) async fn raw(&self, topic: &str, payload: Vec<u8>) {
        self.client
            .publish(topic, QoS::AtMostOnce, false, payload)
            .await
            .unwrap();
    }

    /// Streams: id, short number, acknowledged.
    pub(crate) async fn hello(&self, streams: &[(u64, u32, u64)]) {
        let streams = streams.iter().map(|&(stream, short, acked_seq)| pb::HelloStream {
            stream,
            short,
            first_seq: acked_seq + 1,
            last_seq: acked_seq,
            acked_seq,
            torn: false,
        });
        let hello = pb::Hello {
            session: SESSION,
            streams: streams.collect(),
            agent: None,
        };
        let topic = topic(&self.device, Kind::Hello);
        self.client
            .publish(topic, QoS::AtLeastOnce, true, seal_control(&hello))
            .await
            .unwrap();
    }

    pub(crate) async fn publish_series(&mut self) {
        let topic = topic(&self.device, Kind::Series);
        let payload = seal_control(&series().to_pb());
        self.client
            .publish(topic, QoS::AtLeastOnce, true, payload)
            .await
            .unwrap();
        self.series_sent = true;
    }

    pub(crate) async fn send(&mut self, short: u32, seq: u64, body: &Body) {
        if !self.withhold_series && !self.series_sent {
            self.publish_series().await;
        }
        self.send_bytes(frame(short, seq, body)).await;
    }

    pub(crate) async fn send_bytes(&self, frame: Vec<u8>) {
        self.raw(&topic(&self.device, Kind::Data), frame).await;
    }

    /// The first ack from now on of which this is true.
    pub(crate) async fn await_ack(&mut self, is: impl Fn(&pb::Ack) -> bool) -> pb::Ack {
        let mut seen = Vec::new();
        loop {
            match tokio::time::timeout(PATIENCE, self.acks.recv()).await {
                Ok(Some(ack)) if is(&ack) => return ack,
                Ok(Some(ack)) => seen.push(ack),
                _ => panic!("no such ack; instead {seen:?}"),
            }
        }
    }

    pub(crate) async fn await_hello_ack(&mut self) {
        self.await_ack(|ack| ack.session == SESSION).await;
    }

    pub(crate) async fn await_position(&mut self, stream: u64, seq: u64) {
        let position = pb::StreamPosition { stream, seq };
        self.await_ack(|ack| ack.positions.contains(&position)).await;
    }
}

/// The series of the readings here.
pub(crate) fn series() -> SeriesSet {
    let series = Series {
        metric: "temperature".into(),
        unit: "Cel".into(),
        value_type: ValueType::F64,
    };
    SeriesSet::new(vec![series], 0)
}

/// So many of them.
pub(crate) fn readings(count: usize) -> Body {
    Body::Readings(Readings {
        times: vec![
            (0..count as i64)
                .map(|i| 1_700_000_000_000_000 + i * 1_000_000)
                .collect(),
        ],
        columns: vec![Column {
            metric: "temperature".into(),
            unit: "Cel".into(),
            times: 0,
            values: Values::F64((0..count).map(|i| 20.0 + i as f64 / 4.0).collect()),
            suspect: Vec::new(),
        }],
        ..Readings::default()
    })
}

/// A loss record.
pub(crate) fn loss(through: u64, readings: u64) -> Body {
    Body::Loss(Loss {
        through,
        readings,
        reason: LossReason::JournalFull,
    })
}

/// A frame of the link.
pub(crate) fn frame(short: u32, seq: u64, body: &Body) -> Vec<u8> {
    let sealed = seal(
        body,
        &series(),
        Encoding::Postcard,
        Compression::None,
        &Limits::default(),
    );
    sealed.unwrap().frame(short, seq)
}
