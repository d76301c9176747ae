//! Mode SERIES: every reading in one bucket of one frame, whatever the window, the log and the connection do.

use headwater_config::ByteSize;
use headwater_proto::{Batch, Body, Column, Readings, Values, pb};
use headwater_relay::gateway::settings::GatewaySettings;
use pb::start::At;
use pb::{Mode, server_frame::Frame};

use crate::client::{Client, from, subscribe, window};
use crate::kafka::{Kafka, batch, device_in, now_us};
use crate::{Gateway, settings};

/// One reading of `v` at each of these seconds, the second its value.
fn at_seconds(device: &str, seq: u64, seconds: &[i64]) -> Batch {
    let column = Column {
        metric: "v".into(),
        unit: "Cel".into(),
        times: 0,
        values: Values::I64(seconds.to_vec()),
        suspect: vec![],
    };
    let body = Body::Readings(Readings {
        times: vec![seconds.iter().map(|second| second * 1_000_000).collect()],
        columns: vec![column],
        ..Readings::default()
    });
    Batch {
        device: device.into(),
        stream: 7,
        seq,
        body,
    }
}

/// What a client has been told, one metric.
#[derive(Default)]
struct Told {
    count: u32,
    merged: u32,
    frames: usize,
    buckets: usize,
    widest: i64,
    cursor: std::collections::BTreeMap<u32, i64>,
    gaps: Vec<pb::Gap>,
    /// Value by value, where a bucket holds one.
    values: Vec<f64>,
}

impl Told {
    /// Until the subscription is caught up.
    async fn history(&mut self, client: &mut Client) {
        while !self.take(client.frame().await) {}
    }

    async fn until(&mut self, client: &mut Client, count: u32) {
        while self.count < count {
            self.take(client.frame().await);
        }
    }

    /// Returns whether it is caught up.
    fn take(&mut self, frame: Frame) -> bool {
        let moved = match frame {
            Frame::Series(series) => {
                self.frames += 1;
                self.merged += series.merged;
                for column in &series.columns {
                    assert_eq!((column.metric.as_str(), column.unit.as_str()), ("v", "Cel"));
                    self.widest = self.widest.max(column.bucket_us);
                    self.buckets += column.bucket.len();
                    self.count += column.count.iter().sum::<u32>();
                    for i in 0..column.bucket.len() {
                        let start = column.start_us + i64::from(column.bucket[i]) * column.bucket_us;
                        let last = column.last[i] * 1e6;
                        assert_eq!(
                            last,
                            (start + column.last_us[i] as i64) as f64,
                            "values are seconds"
                        );
                        assert!(column.min[i] <= column.last[i] && column.last[i] <= column.max[i]);
                        if column.count[i] == 1 {
                            self.values.push(column.last[i]);
                        }
                    }
                }
                series.cursor
            }
            Frame::Gap(gap) => {
                self.gaps.push(gap);
                None
            }
            Frame::CaughtUp(caught_up) => {
                for position in caught_up.cursor.unwrap().positions {
                    self.cursor.insert(position.partition, position.offset);
                }
                return true;
            }
            other => panic!("{other:?}"),
        };
        for position in moved.unwrap_or_default().positions {
            self.cursor.insert(position.partition, position.offset);
        }
        false
    }

    fn cursor(&self) -> pb::Cursor {
        let position = |(&partition, &offset)| pb::PartitionOffset { partition, offset };
        pb::Cursor {
            positions: self.cursor.iter().map(position).collect(),
        }
    }
}

fn series(device: &str, interval_ms: u32, start: Option<pb::Start>) -> pb::Subscribe {
    pb::Subscribe {
        devices: vec![device.into()],
        metrics: vec!["v".into()],
        interval_ms,
        start,
        ..subscribe(1, Mode::Series)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn history_from_kafka_comes_as_buckets_and_goes_on_live() {
    let kafka = Kafka::start();
    // A log that holds next to nothing: history comes from Kafka.
    let small = GatewaySettings {
        log: ByteSize::kib(16),
        log_backfill: 5,
        ..settings()
    };
    // An hour of a reading a second, others between them.
    for minute in 0..60 {
        let seconds: Vec<i64> = (minute * 60..minute * 60 + 60).collect();
        kafka.put(&at_seconds("gw-1", minute as u64 + 1, &seconds)).await;
        kafka.put(&batch("gw-other", minute as u64 + 1, 50)).await;
    }
    let gateway = Gateway::start(&kafka, small).await;
    let mut client = Client::open(gateway.address).await;
    let subscribed = client
        .subscribe(series("gw-1", 60_000, from(At::TimeUs(1))))
        .await;
    assert_eq!(subscribed.filter, 0);
    let mut told = Told::default();
    told.history(&mut client).await;
    assert_eq!((told.count, told.merged, told.widest), (3600, 60, 60_000_000));
    assert_eq!(told.buckets, 60, "a bucket a minute, not a batch");
    assert!(gateway.metric("catch_up_reads_total") >= 1.0);
    // Live, and late: a backlog of long ago.
    kafka.put(&at_seconds("gw-1", 61, &[3600, 30])).await;
    told.until(&mut client, 3602).await;
    assert_eq!(told.buckets, 62);
    assert_eq!(gateway.metric("subscriptions"), 1.0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_window_is_closed_buckets_widen_and_nothing_is_missing() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::connect(gateway.address).await;
    client.acks = false;
    client.hello(window(1, 1 << 20)).await;
    client.subscribe(series("gw-*", 1000, None)).await;
    let mut told = Told::default();
    told.history(&mut client).await;
    kafka.put(&at_seconds("gw-1", 1, &[0])).await;
    told.until(&mut client, 1).await;
    for seq in 0..20 {
        let seconds: Vec<i64> = (seq * 100..seq * 100 + 100).collect();
        kafka.put(&at_seconds("gw-1", seq as u64 + 2, &seconds)).await;
    }
    assert!(client.soon().await.is_none(), "the window is closed");
    client.ack(client.frames, client.bytes, window(1, 1 << 20)).await;
    told.take(client.frame().await);
    assert_eq!(told.frames, 2);
    client.acks = true;
    client
        .ack(client.frames, client.bytes, window(100, 1 << 20))
        .await;
    told.until(&mut client, 2001).await;
    assert_eq!((told.count, told.merged), (2001, 21));
    assert!(told.widest >= 16_000_000, "{}", told.widest);
    assert!(told.buckets < 300, "{}", told.buckets);
    // As narrow as asked for again.
    let before = told.buckets;
    kafka.put(&at_seconds("gw-1", 22, &[5000, 5001, 5002])).await;
    told.until(&mut client, 2004).await;
    assert_eq!(told.buckets, before + 3);
    gateway.stop().await;
}

/// Clients that break off anywhere and go on elsewhere, while readings keep coming: each is told once.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_goes_on_at_another_gateway_in_the_middle_of_a_bucket() {
    let kafka = Kafka::start();
    let small = GatewaySettings {
        log: ByteSize::kib(16),
        ..settings()
    };
    let gateways = [
        Gateway::start(&kafka, small.clone()).await,
        Gateway::start(&kafka, small).await,
    ];
    let devices = [device_in(0), device_in(1), device_in(3)];
    let writing = async {
        for seq in 0..300 {
            for device in &devices {
                kafka.put(&at_seconds(device, seq as u64 + 1, &[seq])).await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    let mut told = Told::default();
    let mut start = from(At::TimeUs(now_us() - 60_000_000));
    let mut round = 0;
    let reading = async {
        while told.count < 900 {
            let mut client = Client::open(gateways[round % 2].address).await;
            let interval_ms = if round % 3 == 0 { 100 } else { 60_000 };
            let subscribed = client.subscribe(series("gw-*", interval_ms, start.clone())).await;
            told.cursor.extend(
                subscribed
                    .cursor
                    .unwrap()
                    .positions
                    .iter()
                    .map(|p| (p.partition, p.offset)),
            );
            for _ in 0..=round % 4 {
                if told.count < 900 {
                    told.take(client.frame().await);
                }
            }
            start = from(At::Cursor(told.cursor()));
            round += 1;
        }
    };
    tokio::join!(writing, reading);
    assert!(round > 1, "{round}");
    // Nothing comes twice.
    let mut client = Client::open(gateways[0].address).await;
    client.subscribe(series("gw-*", 1000, start)).await;
    told.history(&mut client).await;
    assert_eq!((told.count, told.merged), (900, 900));
    for gateway in gateways {
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_a_gap_in_its_place() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let device = device_in(2);
    let mut client = Client::open(gateway.address).await;
    client.subscribe(series(&device, 1000, None)).await;
    let mut told = Told::default();
    told.history(&mut client).await;
    kafka.put(&at_seconds(&device, 1, &[1])).await;
    let (partition, offset) = kafka.raw(&device, &[0xff; 9], now_us()).await;
    kafka.put(&at_seconds(&device, 3, &[3])).await;
    told.until(&mut client, 2).await;
    let gap = &told.gaps[0];
    assert_eq!(told.gaps.len(), 1);
    assert_eq!(
        (
            gap.id,
            gap.partition,
            gap.from_offset,
            gap.to_offset,
            gap.reason()
        ),
        (1, partition, offset, offset + 1, pb::GapReason::Unreadable)
    );
    assert_eq!(told.values, [1.0, 3.0]);
    gateway.stop().await;
}
