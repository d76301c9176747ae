//! librdkafka's in-process cluster, and records of our own in it.

use std::time::Duration;

use headwater_proto::{Batch, Body, Column, Message, Readings, Values, pb, protobuf, shard};
use headwater_relay::kafka::KafkaSettings;
use rdkafka::ClientConfig;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};

pub(crate) const PARTITIONS: u32 = 4;

pub(crate) struct Kafka {
    pub(crate) cluster: MockCluster<'static, DefaultProducerContext>,
    producer: FutureProducer,
}

impl Kafka {
    pub(crate) fn start() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        for (topic, partitions) in [
            ("telemetry", PARTITIONS),
            ("devices", PARTITIONS),
            ("commands", PARTITIONS),
            ("replies", 1),
            ("deadletter", 1),
            ("audit", 1),
        ] {
            cluster
                .create_topic(&format!("headwater.{topic}"), partitions as i32, 1)
                .unwrap();
        }
        let producer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("linger.ms", "0")
            .create()
            .unwrap();
        Self { cluster, producer }
    }

    pub(crate) fn settings(&self) -> KafkaSettings {
        KafkaSettings {
            bootstrap: self.cluster.bootstrap_servers(),
            ..KafkaSettings::default()
        }
    }

    /// Puts a batch into the telemetry and returns its place.
    pub(crate) async fn put(&self, batch: &Batch) -> (u32, i64) {
        self.put_at(batch, now_us()).await
    }

    pub(crate) async fn put_at(&self, batch: &Batch, arrival_us: i64) -> (u32, i64) {
        self.raw(&batch.device, &protobuf::encode(batch), arrival_us)
            .await
    }

    pub(crate) async fn raw(&self, device: &str, payload: &[u8], arrival_us: i64) -> (u32, i64) {
        let partition = shard::partition(device, PARTITIONS);
        let record = FutureRecord::to("headwater.telemetry")
            .key(device)
            .payload(payload)
            .partition(partition as i32)
            .timestamp(arrival_us / 1000);
        let delivery = self.producer.send(record, Duration::from_secs(10)).await.unwrap();
        (partition, delivery.offset)
    }

    pub(crate) async fn state(&self, state: &pb::DeviceState) {
        let partition = shard::partition(&state.device, PARTITIONS);
        let payload = state.encode_to_vec();
        let record = FutureRecord::to("headwater.devices")
            .key(&state.device)
            .partition(partition as i32);
        self.producer
            .send(record.payload(&payload), Duration::from_secs(10))
            .await
            .unwrap();
    }

    pub(crate) async fn reply(&self, reply: &pb::Reply) {
        let payload = reply.encode_to_vec();
        let record = FutureRecord::to("headwater.replies").key(&reply.device);
        self.producer
            .send(record.payload(&payload), Duration::from_secs(10))
            .await
            .unwrap();
    }

    pub(crate) async fn delete_state(&self, device: &str) {
        let partition = shard::partition(device, PARTITIONS);
        let record = FutureRecord::<str, [u8]>::to("headwater.devices")
            .key(device)
            .partition(partition as i32);
        self.producer.send(record, Duration::from_secs(10)).await.unwrap();
    }
}

pub(crate) fn now_us() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_micros() as i64
}

/// Two metrics, some readings: `temp` counts up from `seq`, `door` is a truth value.
pub(crate) fn batch(device: &str, seq: u64, readings: usize) -> Batch {
    let times = (0..readings as i64)
        .map(|i| now_us() - 1_000_000 + i * 1000)
        .collect();
    let column = |metric: &str, values| Column {
        metric: metric.into(),
        unit: String::new(),
        times: 0,
        values,
        suspect: vec![],
    };
    let columns = vec![
        column(
            "temp",
            Values::F64((0..readings).map(|i| seq as f64 + i as f64 / 100.0).collect()),
        ),
        column("door", Values::Bool((0..readings).map(|i| i % 3 == 0).collect())),
    ];
    let body = Body::Readings(Readings {
        times: vec![times],
        columns,
        ..Readings::default()
    });
    Batch {
        device: device.into(),
        stream: 77,
        seq,
        body,
    }
}

/// A device's name in that partition.
pub(crate) fn device_in(partition: u32) -> String {
    (0..)
        .map(|i| format!("gw-{i:02}"))
        .find(|name| shard::partition(name, PARTITIONS) == partition)
        .unwrap()
}
