//! Only partitions that somebody watches are read; and who comes late, or comes back, sees what anybody sees.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_proto::{Limits, pb, protobuf};
use headwater_relay::gateway::settings::GatewaySettings;
use pb::client_frame::Frame as ClientFrame;
use pb::server_frame::Frame;
use pb::start::At;
use pb::{ErrorCode, Mode};

use crate::client::{Client, from, subscribe};
use crate::kafka::{Kafka, PARTITIONS, batch, device_in, now_us};
use crate::{Gateway, settings};

fn of(device: &str, id: u32, mode: Mode, start: Option<pb::Start>) -> pb::Subscribe {
    pb::Subscribe {
        devices: vec![device.into()],
        start,
        ..subscribe(id, mode)
    }
}

/// Until the gateway reads so many partitions.
async fn reads(gateway: &Gateway, partitions: f64) {
    for _ in 0..3000 {
        if gateway.metric("partitions_read") == partitions {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} partitions are read", gateway.metric("partitions_read"));
}

fn seq(data: &pb::Data) -> u64 {
    protobuf::decode(&data.batch, &Limits::default()).unwrap().seq
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_watches_is_not_read() {
    let kafka = Kafka::start();
    for partition in 0..PARTITIONS {
        for seq in 1..=10 {
            kafka.put(&batch(&device_in(partition), seq, 5)).await;
        }
    }
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    assert_eq!(gateway.metric("partitions_read"), 0.0);
    assert_eq!(gateway.metric("records_total"), 0.0);
    // A device of partition 3 of 4 was in partition 1 of 2 once, and in the only one.
    let device = device_in(3);
    client.subscribe(of(&device, 1, Mode::All, None)).await;
    let caught_up = client.caught_up().await.cursor.unwrap();
    let told: Vec<u32> = caught_up.positions.iter().map(|place| place.partition).collect();
    assert_eq!(told, [0, 1, 3]);
    reads(&gateway, 3.0).await;
    assert_eq!(gateway.metric("records_total"), 30.0);
    for partition in 0..PARTITIONS {
        kafka.put(&batch(&device_in(partition), 11, 5)).await;
    }
    assert_eq!(seq(&client.data().await), 11);
    // Whoever comes next wants all.
    let mut other = Client::open(gateway.address).await;
    other.subscribe(subscribe(1, Mode::Latest)).await;
    reads(&gateway, 4.0).await;
    for tries in 0.. {
        if gateway.metric("records_total") == 44.0 {
            break;
        }
        assert!(tries < 3000, "{}", gateway.metric("records_total"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    gateway.stop().await;
}

/// The newest values of a device that has been silent for long, history and what comes meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_watcher_sees_snapshot_history_and_live_data_without_hole_or_repeat() {
    let kafka = Kafka::start();
    let (silent, busy) = (device_in(3), {
        let other = |name: &String| headwater_proto::shard::partition(name, PARTITIONS) == 3;
        (0..).map(|i| format!("busy-{i}")).find(other).unwrap()
    });
    let (_, newest) = kafka.put(&batch(&silent, 7, 5)).await;
    let state = pb::DeviceState {
        device: silent.clone(),
        online: true,
        newest_offset_plus_1: newest + 1,
        ..Default::default()
    };
    kafka.state(&state).await;
    for seq in 1..=30 {
        kafka.put(&batch(&busy, seq, 5)).await;
    }
    let small = GatewaySettings {
        log_backfill: 5,
        ..settings()
    };
    let gateway = Gateway::start(&kafka, small).await;
    let mut early = Client::open(gateway.address).await;
    // Partitions 0 to 2: the late one is the first in the last.
    early.subscribe(of(&device_in(2), 1, Mode::All, None)).await;
    early.caught_up().await;
    let mut late = Client::open(gateway.address).await;
    let start = from(At::Snapshot(true));
    let both = pb::Subscribe {
        devices: vec![silent.clone(), busy.clone()],
        start,
        ..subscribe(1, Mode::All)
    };
    late.send(ClientFrame::Subscribe(both)).await;
    let mut history = Client::open(gateway.address).await;
    let positions = vec![pb::PartitionOffset {
        partition: 3,
        offset: 0,
    }];
    let start = from(At::Cursor(pb::Cursor { positions }));
    history
        .send(ClientFrame::Subscribe(of(&busy, 1, Mode::All, start)))
        .await;
    // Meanwhile it goes on.
    for seq in 31..=60 {
        kafka.put(&batch(&busy, seq, 5)).await;
    }
    let mut values = BTreeMap::new();
    let mut data = Vec::new();
    let mut filter = None;
    while data.last().or(values.get(&busy)) != Some(&60) {
        match late.frame().await {
            Frame::Subscribed(subscribed) => filter = Some(subscribed.filter),
            Frame::Latest(latest) => {
                assert!(latest.snapshot && data.is_empty());
                for batch in &latest.batches {
                    assert!(values.insert(batch.device.clone(), batch.seq).is_none());
                }
            }
            Frame::Data(frame) => data.push(seq(&frame)),
            Frame::CaughtUp(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(filter, Some(0));
    assert_eq!(values.get(&silent), Some(&7), "{values:?}");
    let first = values[&busy] + 1;
    assert!(first > 26, "{values:?}");
    assert_eq!(data, (first..=60).collect::<Vec<_>>());
    let mut seen = Vec::new();
    while seen.len() < 60 {
        match history.frame().await {
            Frame::Data(frame) => seen.push(seq(&frame)),
            Frame::Subscribed(_) | Frame::CaughtUp(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, (1..=60).collect::<Vec<_>>());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_is_let_go_and_whoever_comes_back_goes_on() {
    let kafka = Kafka::start();
    let small = GatewaySettings {
        linger: Duration::from_millis(100),
        log_backfill: 10,
        ..settings()
    };
    let gateway = Gateway::start(&kafka, small).await;
    let device = device_in(3);
    let mut client = Client::open(gateway.address).await;
    let (mut expected, mut start) = (0, None);
    // Back soon, and back when far more has come than is read on coming.
    for count in [5, 5, 200, 5] {
        for seq in expected + 1..=expected + count {
            kafka.put(&batch(&device, seq, 5)).await;
        }
        if start.is_some() {
            client.subscribe(of(&device, 1, Mode::All, start)).await;
            for wanted in expected + 1..=expected + count {
                assert_eq!(seq(&client.data().await), wanted);
            }
        } else {
            client.subscribe(of(&device, 1, Mode::All, None)).await;
        }
        expected += count;
        let cursor = client.caught_up().await.cursor;
        start = from(At::Cursor(cursor.unwrap()));
        client
            .send(ClientFrame::Unsubscribe(pb::Unsubscribe { id: 1 }))
            .await;
        reads(&gateway, 0.0).await;
    }
    // Values of before stand in the newest ones still; those of meanwhile are there too.
    kafka.put(&batch(&device, expected + 1, 5)).await;
    let latest = of(&device, 2, Mode::Latest, from(At::Snapshot(true)));
    client.subscribe(latest).await;
    let Frame::Latest(latest) = client.frame().await else {
        panic!()
    };
    assert_eq!(latest.batches[0].seq, expected + 1);
    // A connection that breaks off watches no longer either.
    reads(&gateway, 3.0).await;
    drop(client);
    reads(&gateway, 0.0).await;
    gateway.stop().await;
}

/// Presence needs no telemetry to begin, and has rates once it is read.
#[tokio::test(flavor = "multi_thread")]
async fn presence_begins_at_once_and_rates_follow() {
    let kafka = Kafka::start();
    let device = device_in(2);
    let state = pb::DeviceState {
        device: device.clone(),
        online: true,
        ..Default::default()
    };
    kafka.state(&state).await;
    for seq in 1..=20 {
        kafka.put_at(&batch(&device, seq, 5), now_us() - 500_000).await;
    }
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    client.subscribe(of(&device, 1, Mode::Presence, None)).await;
    loop {
        match client.frame().await {
            Frame::Presence(presence) => {
                if presence.devices.iter().any(|device| device.readings_per_s > 0.0) {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    gateway.stop().await;
}

/// A subscription to what is not read yet can be taken back, replaced, refused; and waits for Kafka.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_waits_for_its_partitions() {
    let kafka = Kafka::start();
    let device = device_in(3);
    kafka.put(&batch(&device, 1, 5)).await;
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    let broker = kafka.cluster.broker_down(1);
    broker.unwrap();
    client
        .send(ClientFrame::Subscribe(of(&device, 1, Mode::All, None)))
        .await;
    client
        .send(ClientFrame::Subscribe(of(&device, 2, Mode::Latest, None)))
        .await;
    client
        .send(ClientFrame::Subscribe(of(&device, 1, Mode::Series, None)))
        .await;
    client
        .send(ClientFrame::Unsubscribe(pb::Unsubscribe { id: 2 }))
        .await;
    let told = tokio::time::timeout(Duration::from_secs(60), client.receive_frame()).await;
    let Frame::Error(error) = told.expect("it is told that Kafka is waited for") else {
        panic!()
    };
    assert_eq!((error.id, error.code()), (1, ErrorCode::Unavailable));
    kafka.cluster.broker_up(1).unwrap();
    let told = tokio::time::timeout(Duration::from_secs(60), client.receive_frame()).await;
    let Frame::Subscribed(subscribed) = told.expect("it begins once Kafka is back") else {
        panic!()
    };
    assert_eq!(subscribed.id, 1);
    kafka.put(&batch(&device, 2, 5)).await;
    loop {
        match client.frame().await {
            Frame::CaughtUp(_) => {}
            Frame::Series(series) => break assert!(series.columns.iter().all(|it| it.device == device)),
            other => panic!("{other:?}"),
        }
    }
    gateway.stop().await;
}
