//! Modes LATEST and PRESENCE.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_proto::{Body, Limits, Message, Values, pb, protobuf};
use headwater_relay::gateway::settings::GatewaySettings;
use pb::start::At;
use pb::{Mode, server_frame::Frame};

use crate::client::{Client, from, subscribe, window};
use crate::kafka::{Kafka, PARTITIONS, batch, device_in, now_us};
use crate::{Gateway, settings};

async fn latest(client: &mut Client) -> pb::Latest {
    match client.frame().await {
        Frame::Latest(latest) => latest,
        other => panic!("{other:?}"),
    }
}

fn temp(batch: &pb::Batch) -> f64 {
    let batch = protobuf::decode(&batch.encode_to_vec(), &Limits::default()).unwrap();
    let Body::Readings(readings) = batch.body else {
        panic!()
    };
    let temp = readings
        .columns
        .iter()
        .find(|column| column.metric == "temp")
        .unwrap();
    match &temp.values {
        Values::F64(values) => values[0],
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_then_what_is_newest() {
    let kafka = Kafka::start();
    for device in 0..5 {
        kafka.put(&batch(&format!("gw-{device}"), 1, 4)).await;
    }
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    let start = from(At::Snapshot(true));
    client
        .subscribe(pb::Subscribe {
            start,
            interval_ms: 20,
            ..subscribe(2, Mode::Latest)
        })
        .await;
    let snapshot = latest(&mut client).await;
    assert!(snapshot.snapshot && snapshot.id == 2);
    assert_eq!((snapshot.batches.len(), snapshot.merged), (5, 5));
    assert!(
        snapshot
            .batches
            .iter()
            .all(|batch| (temp(batch) - 1.03).abs() < 1e-9 && batch.columns.len() == 2)
    );
    kafka.put(&batch("gw-3", 2, 4)).await;
    let change = latest(&mut client).await;
    assert!(!change.snapshot);
    assert_eq!((change.batches.len(), change.merged), (1, 1));
    assert_eq!(
        (change.batches[0].device.as_str(), change.batches[0].seq),
        ("gw-3", 2)
    );
    // Only what it asked for, and only what is new.
    let mut other = Client::open(gateway.address).await;
    let only = pb::Subscribe {
        metrics: vec!["door".into()],
        devices: vec!["gw-4".into()],
        ..subscribe(1, Mode::Latest)
    };
    other.subscribe(only).await;
    kafka.put(&batch("gw-3", 3, 4)).await;
    kafka.put(&batch("gw-4", 2, 4)).await;
    let change = latest(&mut other).await;
    assert_eq!(change.batches.len(), 1);
    assert_eq!(change.batches[0].columns.len(), 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_window_is_closed_values_are_overwritten_and_counted() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::connect(gateway.address).await;
    client.acks = false;
    client.hello(window(1, 1 << 20)).await;
    client
        .subscribe(pb::Subscribe {
            interval_ms: 1,
            ..subscribe(1, Mode::Latest)
        })
        .await;
    kafka.put(&batch("a", 1, 1)).await;
    assert_eq!(latest(&mut client).await.merged, 1);
    for seq in 2..=20 {
        kafka.put(&batch("a", seq, 1)).await;
        kafka.put(&batch("b", seq, 1)).await;
    }
    assert!(client.soon().await.is_none());
    client.ack(client.frames, client.bytes, window(10, 1 << 20)).await;
    let merged = latest(&mut client).await;
    assert_eq!((merged.merged, merged.batches.len()), (38, 2));
    assert!(
        merged
            .batches
            .iter()
            .all(|batch| batch.seq == 20 && temp(batch) == 20.0)
    );
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_one_frame_in_the_interval() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    client
        .subscribe(pb::Subscribe {
            interval_ms: 400,
            ..subscribe(1, Mode::Latest)
        })
        .await;
    let began = std::time::Instant::now();
    let mut merged = 0;
    let load = async {
        for seq in 1..=60 {
            kafka.put(&batch("a", seq, 1)).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let watch = async {
        let mut frames = 0;
        while merged < 60 {
            merged += latest(&mut client).await.merged;
            frames += 1;
        }
        frames
    };
    let ((), frames) = tokio::join!(load, watch);
    let most = began.elapsed().as_millis() / 400 + 1;
    assert!(frames <= most, "{frames} frames in {:?}", began.elapsed());
    gateway.stop().await;
}

/// A device's last values are known though its last batch lies far behind the log in memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_long_silent_is_in_the_snapshot() {
    let kafka = Kafka::start();
    let (partition, offset) = kafka.put(&batch("silent", 7, 2)).await;
    for seq in 1..=100 {
        kafka.put(&batch(&device_in(partition), seq, 2)).await;
    }
    kafka
        .state(&pb::DeviceState {
            device: "silent".into(),
            newest_offset_plus_1: offset + 1,
            ..Default::default()
        })
        .await;
    let small = GatewaySettings {
        log_backfill: 3,
        ..settings()
    };
    let gateway = Gateway::start(&kafka, small).await;
    let mut client = Client::open(gateway.address).await;
    // The value may be fetched after the subscription: then it is a change.
    let devices = vec!["silent".into()];
    client
        .subscribe(pb::Subscribe {
            devices,
            start: from(At::Snapshot(true)),
            ..subscribe(1, Mode::Latest)
        })
        .await;
    let found = latest(&mut client).await;
    assert_eq!(temp(&found.batches[0]), 7.01);
    gateway.stop().await;
}

/// A snapshot in mode ALL is whole, however long the newest values of silent devices take; others need not wait for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_all_waits_for_every_silent_device() {
    const SILENT: u64 = 40;
    let kafka = Kafka::start();
    let partition = 1;
    let names: Vec<String> = (0..)
        .map(|i| format!("silent-{i}"))
        .filter(|name| headwater_proto::shard::partition(name, PARTITIONS) == partition)
        .take(SILENT as usize)
        .collect();
    for (seq, name) in (1..).zip(&names) {
        let (_, offset) = kafka.put(&batch(name, seq, 2)).await;
        let state = pb::DeviceState {
            device: name.clone(),
            newest_offset_plus_1: offset + 1,
            ..Default::default()
        };
        kafka.state(&state).await;
    }
    for seq in 1..=10 {
        kafka.put(&batch(&device_in(partition), seq, 2)).await;
    }
    let small = GatewaySettings {
        log_backfill: 3,
        ..settings()
    };
    let gateway = Gateway::start(&kafka, small).await;
    // Two of them are fetched at a time, in a second or so: that is longer than anybody else waits.
    let slow = Duration::from_millis(400);
    kafka.cluster.broker_round_trip_time(1, slow).unwrap();
    let mut client = Client::open(gateway.address).await;
    let all = pb::Subscribe {
        devices: vec!["silent-*".into()],
        start: from(At::Snapshot(true)),
        ..subscribe(1, Mode::All)
    };
    client.send(pb::client_frame::Frame::Subscribe(all)).await;
    let now = pb::Subscribe {
        devices: vec!["silent-*".into()],
        ..subscribe(2, Mode::All)
    };
    client.send(pb::client_frame::Frame::Subscribe(now)).await;
    let (mut order, mut seqs) = (vec![], vec![]);
    while seqs.len() < names.len() {
        let frame = tokio::time::timeout(Duration::from_secs(60), client.receive_frame()).await;
        match frame.expect("the snapshot comes") {
            Frame::Subscribed(subscribed) => order.push(subscribed.id),
            Frame::Latest(latest) => {
                assert!(latest.snapshot && latest.id == 1);
                seqs.extend(latest.batches.iter().map(|batch| batch.seq));
            }
            Frame::CaughtUp(caught_up) => {
                assert!(
                    caught_up.id == 2 || seqs.len() == names.len(),
                    "{} devices",
                    seqs.len()
                );
            }
            // That Kafka is waited for.
            Frame::Error(error) => assert_eq!(error.code(), pb::ErrorCode::Unavailable),
            other => panic!("{other:?}"),
        }
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=SILENT).collect::<Vec<_>>());
    assert_eq!(
        order,
        [2, 1],
        "who starts now does not wait for what is long past"
    );
    gateway.stop().await;
}

async fn presence(client: &mut Client) -> pb::Presence {
    match client.frame().await {
        Frame::Presence(presence) => presence,
        other => panic!("{other:?}"),
    }
}

fn state(device: &str, online: bool) -> pb::DeviceState {
    let agent = Some(pb::AgentInfo {
        version: "0.1.0".into(),
        ..Default::default()
    });
    pb::DeviceState {
        device: device.into(),
        online,
        since_us: 5,
        last_seen_us: 9,
        agent,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fleet_as_it_stands_and_its_changes() {
    let kafka = Kafka::start();
    for device in 0..10 {
        kafka.state(&state(&format!("gw-{device}"), true)).await;
    }
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    client
        .subscribe(pb::Subscribe {
            interval_ms: 10,
            ..subscribe(4, Mode::Presence)
        })
        .await;
    let snapshot = presence(&mut client).await;
    assert!(snapshot.snapshot && snapshot.snapshot_complete && snapshot.id == 4);
    assert_eq!(snapshot.devices.len(), 10);
    let one = snapshot
        .devices
        .iter()
        .find(|device| device.device == "gw-3")
        .unwrap();
    assert!(one.online && one.since_us == 5 && one.agent.as_ref().unwrap().version == "0.1.0");
    kafka.state(&state("gw-3", false)).await;
    let change = presence(&mut client).await;
    assert!(!change.snapshot && !change.snapshot_complete);
    assert_eq!(change.devices.len(), 1);
    assert!(!change.devices[0].online);
    kafka.delete_state("gw-4").await;
    let change = presence(&mut client).await;
    assert_eq!(
        (change.devices[0].device.as_str(), change.devices[0].removed),
        ("gw-4", true)
    );
    // Rates come with the telemetry, within a second or so.
    kafka.put(&batch("gw-5", 1, 50)).await;
    let change = presence(&mut client).await;
    let one = &change.devices[0];
    assert_eq!(one.device, "gw-5");
    assert!(
        one.readings_per_s > 1.0 && one.batches_per_s > 0.0 && one.lag_us > 0,
        "{one:?}"
    );
    assert!((now_us() - one.last_seen_us).abs() < 10_000_000);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_great_fleet_comes_in_several_frames() {
    let kafka = Kafka::start();
    for chunk in 0..30 {
        let states = (0..100).map(|device| state(&format!("gateway-number-{}", chunk * 100 + device), true));
        let states: Vec<_> = states.collect();
        futures_util::future::join_all(states.iter().map(|state| kafka.state(state))).await;
    }
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    client.subscribe(subscribe(1, Mode::Presence)).await;
    let mut devices = BTreeMap::new();
    let mut frames = 0;
    loop {
        let frame = presence(&mut client).await;
        assert!(frame.snapshot && frame.encoded_len() < 70_000);
        frames += 1;
        for device in frame.devices {
            assert!(devices.insert(device.device, device.online).is_none());
        }
        if frame.snapshot_complete {
            break;
        }
    }
    assert_eq!(devices.len(), 3000);
    assert!(frames > 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_fleet_is_complete_too() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    client.subscribe(subscribe(1, Mode::Presence)).await;
    let frame = presence(&mut client).await;
    assert!(frame.snapshot_complete && frame.devices.is_empty());
    gateway.stop().await;
}
