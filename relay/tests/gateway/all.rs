//! Mode ALL: every batch in order, nothing lost, nothing twice.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_config::ByteSize;
use headwater_proto::{Limits, pb, protobuf};
use headwater_relay::gateway::settings::GatewaySettings;
use pb::start::At;
use pb::{Mode, server_frame::Frame};

use crate::client::{Client, Received, from, subscribe, window};
use crate::kafka::{Kafka, batch, device_in, now_us};
use crate::{Gateway, settings};

pub(crate) fn seq(data: &pb::Data) -> (String, u64) {
    let batch = protobuf::decode(&data.batch, &Limits::default()).unwrap();
    (batch.device, batch.seq)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_into_kafka_comes_out_as_it_stands() {
    let kafka = Kafka::start();
    kafka.put(&batch("gw-old", 1, 5)).await;
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    assert!(
        client
            .head
            .to_lowercase()
            .contains("sec-websocket-protocol: headwater.v1"),
        "{}",
        client.head
    );
    let subscribed = client.subscribe(subscribe(1, Mode::All)).await;
    assert_eq!(subscribed.filter, 0);
    assert_eq!(subscribed.cursor.as_ref().unwrap().positions.len(), 4);
    assert_eq!(client.caught_up().await.cursor, subscribed.cursor);
    let put = batch("gw-01", 1, 200);
    let before = now_us();
    let (partition, offset) = kafka.put_at(&put, before).await;
    let data = client.data().await;
    assert_eq!((data.filter, data.partition, data.offset), (0, partition, offset));
    assert_eq!(data.arrival_us, before / 1000 * 1000);
    assert_eq!(data.batch, protobuf::encode(&put));
    assert!(client.deflated);
    // A client that did not offer compression gets the same, plain.
    let mut plain = Client::with(gateway.address, &["Sec-WebSocket-Protocol: headwater.v1"]).await;
    plain.hello(None).await;
    plain.subscribe(subscribe(1, Mode::All)).await;
    plain.caught_up().await;
    kafka.put(&put).await;
    assert_eq!(plain.data().await.batch, client.data().await.batch);
    assert!(!plain.deflated && client.deflated);
    assert!(gateway.metric("shared_frames_total") >= 2.0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn globs_and_metric_filters() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    let only = pb::Subscribe {
        devices: vec!["a-*".into()],
        metrics: vec!["temp".into()],
        ..subscribe(1, Mode::All)
    };
    let filter = client.subscribe(only.clone()).await.filter;
    assert_ne!(filter, 0);
    client.caught_up().await;
    // A second one of the same filter in the connection has another number.
    let second = client.subscribe(pb::Subscribe { id: 2, ..only }).await.filter;
    assert!(second != 0 && second != filter);
    client.caught_up().await;
    kafka.put(&batch("b-1", 1, 3)).await;
    kafka.put(&batch("a-1", 2, 3)).await;
    let mut filters = vec![];
    for _ in 0..2 {
        let data = client.data().await;
        filters.push(data.filter);
        let batch = protobuf::decode(&data.batch, &Limits::default()).unwrap();
        assert_eq!((batch.device.as_str(), batch.seq, batch.stream), ("a-1", 2, 77));
        let headwater_proto::Body::Readings(readings) = batch.body else {
            panic!()
        };
        assert_eq!(readings.columns.len(), 1);
        assert_eq!(readings.columns[0].metric, "temp");
    }
    filters.sort_unstable();
    let mut expected = vec![filter, second];
    expected.sort_unstable();
    assert_eq!(filters, expected);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_holds_frames_back_and_nothing_is_lost() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::connect(gateway.address).await;
    client.acks = false;
    let welcome = client.hello(window(2, 1 << 20)).await;
    assert_eq!(welcome.window.unwrap(), window(2, 1 << 20).unwrap());
    client.subscribe(subscribe(1, Mode::All)).await;
    client.caught_up().await;
    for i in 1..=10 {
        kafka.put(&batch("gw-01", i, 5)).await;
    }
    for i in 1..=2 {
        assert_eq!(seq(&client.data().await).1, i);
    }
    assert!(client.soon().await.is_none(), "the window is closed");
    // An ack that repeats, or goes back, does nothing.
    client.ack(0, 0, None).await;
    assert!(client.soon().await.is_none());
    client.ack(client.frames, client.bytes, None).await;
    for i in 3..=4 {
        assert_eq!(seq(&client.data().await).1, i);
    }
    assert!(client.soon().await.is_none());
    // Pause, then a large window.
    client.ack(client.frames, client.bytes, window(0, 0)).await;
    assert!(client.soon().await.is_none());
    client.ack(client.frames, client.bytes, window(100, 1)).await;
    assert_eq!(seq(&client.data().await).1, 5);
    assert!(client.soon().await.is_none(), "one byte is one frame");
    client
        .ack(client.frames, client.bytes, window(100, 1 << 20))
        .await;
    for i in 6..=10 {
        assert_eq!(seq(&client.data().await).1, i);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_reads_on_from_kafka_when_the_log_has_moved_on() {
    let kafka = Kafka::start();
    let small = GatewaySettings {
        log: ByteSize::kb(20),
        ..settings()
    };
    let gateway = Gateway::start(&kafka, small).await;
    let mut slow = Client::connect(gateway.address).await;
    slow.acks = false;
    slow.hello(window(1, 1 << 20)).await;
    slow.subscribe(subscribe(1, Mode::All)).await;
    slow.caught_up().await;
    let mut quick = Client::open(gateway.address).await;
    quick.subscribe(subscribe(1, Mode::All)).await;
    quick.caught_up().await;
    let mut last = BTreeMap::new();
    for i in 1..=300 {
        kafka.put(&batch(&device_in(i as u32 % 4), i, 20)).await;
        let (device, seq) = seq(&quick.data().await);
        assert!(last.insert(device, seq).is_none_or(|last| last + 4 == seq));
    }
    assert_eq!(
        gateway.metric("catch_up_reads_total"),
        0.0,
        "a quick client reads from memory"
    );
    slow.acks = true;
    let first = slow.data().await;
    slow.ack(slow.frames, slow.bytes, window(100, 1 << 20)).await;
    let mut last = BTreeMap::from([seq(&first)]);
    for _ in 1..300 {
        let (device, seq) = seq(&slow.data().await);
        assert!(
            last.insert(device, seq).is_none_or(|last| last + 4 == seq),
            "{last:?}"
        );
    }
    assert_eq!(last.values().max(), Some(&300));
    assert!(gateway.metric("catch_up_reads_total") > 0.0);
    slow.caught_up().await;
    assert!(slow.soon().await.is_none(), "nothing twice");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_joins_the_live_data_under_load() {
    let kafka = Kafka::start();
    for seq in 1..=3 {
        for device in 0..50 {
            kafka.put(&batch(&format!("dev-{device}"), seq, 3)).await;
        }
    }
    let gateway = Gateway::start(&kafka, settings()).await;
    let address = gateway.address;
    let load = async {
        for seq in 4..=13 {
            for device in 0..50 {
                kafka.put(&batch(&format!("dev-{device}"), seq, 3)).await;
            }
        }
    };
    let watch = async {
        let mut results = vec![];
        for round in 0..5 {
            let mut client = Client::open(address).await;
            let start = from(At::Snapshot(true));
            client
                .subscribe(pb::Subscribe {
                    start,
                    ..subscribe(1, Mode::All)
                })
                .await;
            // The highest seq of each device: from the snapshot, then on without hole or repeat.
            let mut last: BTreeMap<String, u64> = BTreeMap::new();
            while last.len() < 50 || last.values().any(|&seq| seq < 13) {
                match client.frame().await {
                    Frame::Latest(latest) => {
                        assert!(latest.snapshot);
                        for batch in latest.batches {
                            assert!(
                                last.insert(batch.device, batch.seq).is_none(),
                                "twice in the snapshot"
                            );
                        }
                    }
                    Frame::Data(data) => {
                        let (device, seq) = seq(&data);
                        if let Some(before) = last.insert(device.clone(), seq) {
                            assert_eq!(before + 1, seq, "{device} in round {round}");
                        }
                    }
                    Frame::CaughtUp(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            results.push(last.len());
        }
        results
    };
    let ((), results) = tokio::join!(load, watch);
    assert_eq!(results, [50; 5]);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cursor_moves_on_where_nothing_matches() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    let start = client
        .subscribe(pb::Subscribe {
            devices: vec!["none*".into()],
            ..subscribe(1, Mode::All)
        })
        .await;
    client.caught_up().await;
    let (partition, offset) = kafka.put(&batch("gw-1", 1, 1)).await;
    let later = client.caught_up().await.cursor.unwrap();
    assert_ne!(Some(&later), start.cursor.as_ref());
    assert!(later.positions.contains(&pb::PartitionOffset {
        partition,
        offset: offset + 1
    }));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_says_goodbye() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    client.subscribe(subscribe(1, Mode::All)).await;
    client.caught_up().await;
    let began = std::time::Instant::now();
    let (_, stopped) = tokio::join!(gateway.stop(), async {
        let Frame::Goodbye(goodbye) = client.frame().await else {
            panic!()
        };
        assert!(goodbye.retry_after_ms > 0);
        client.close().await
    });
    assert_eq!(stopped.0, 1001);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert!(matches!(client.next().await, Received::End));
}

#[tokio::test(flavor = "multi_thread")]
async fn unsubscribing_and_replacing() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    client.subscribe(subscribe(1, Mode::All)).await;
    client.caught_up().await;
    client
        .subscribe(pb::Subscribe {
            devices: vec!["gw-2".into()],
            ..subscribe(1, Mode::All)
        })
        .await;
    client.caught_up().await;
    kafka.put(&batch("gw-1", 1, 1)).await;
    kafka.put(&batch("gw-2", 2, 1)).await;
    assert_eq!(seq(&client.data().await).1, 2);
    client
        .send(pb::client_frame::Frame::Unsubscribe(pb::Unsubscribe { id: 1 }))
        .await;
    client
        .send(pb::client_frame::Frame::Unsubscribe(pb::Unsubscribe { id: 1 }))
        .await;
    client
        .send(pb::client_frame::Frame::Ping(pb::Ping { nonce: 4 }))
        .await;
    let pong = loop {
        match client.frame().await {
            Frame::Pong(pong) => break pong,
            Frame::CaughtUp(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(pong.nonce, 4);
    assert!(
        pong.wire_bytes >= client.wire as u64 / 2 && pong.wire_bytes <= client.wire as u64,
        "{pong:?}"
    );
    kafka.put(&batch("gw-2", 3, 1)).await;
    assert!(client.soon().await.is_none());
    assert_eq!(gateway.metric("subscriptions"), 0.0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_that_goes_away_and_comes_back() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(
        &kafka,
        GatewaySettings {
            log_backfill: 0,
            ..settings()
        },
    )
    .await;
    let mut client = Client::open(gateway.address).await;
    client.subscribe(subscribe(1, Mode::All)).await;
    client.caught_up().await;
    kafka.put(&batch("gw-1", 1, 1)).await;
    assert_eq!(seq(&client.data().await).1, 1);
    kafka.cluster.broker_down(1).unwrap();
    let failing = |ready: bool| {
        let monitor = gateway.monitor.clone();
        async move {
            for _ in 0..1500 {
                if monitor.readiness().0 == ready {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("{}", monitor.readiness().1);
        }
    };
    failing(false).await;
    // Connections stand, and new ones are served what is in memory.
    client
        .send(pb::client_frame::Frame::Ping(pb::Ping { nonce: 1 }))
        .await;
    while !matches!(client.frame().await, Frame::Pong(_)) {}
    let mut other = Client::open(gateway.address).await;
    other
        .subscribe(pb::Subscribe {
            start: from(At::Snapshot(true)),
            ..subscribe(1, Mode::All)
        })
        .await;
    let Frame::Latest(snapshot) = other.frame().await else {
        panic!()
    };
    assert_eq!(snapshot.batches.len(), 1);
    kafka.cluster.broker_up(1).unwrap();
    failing(true).await;
    kafka.put(&batch("gw-1", 2, 1)).await;
    for client in [&mut client, &mut other] {
        assert_eq!(seq(&client.data().await).1, 2);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kafka_the_page_is_served_and_the_channel_says_why_not() {
    let kafka = Kafka::start();
    kafka.cluster.broker_down(1).unwrap();
    let gateway = Gateway::begin(kafka.settings(), settings()).await;
    let text = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.address);
    assert!(
        Client::request(gateway.address, &text)
            .await
            .head
            .starts_with("HTTP/1.1 200")
    );
    let mut client = Client::connect(gateway.address).await;
    let Frame::Goodbye(goodbye) = client.frame().await else {
        panic!()
    };
    assert!(goodbye.reason.contains("Kafka") && goodbye.retry_after_ms > 0);
    assert_eq!(client.close().await.0, 1001);
    kafka.cluster.broker_up(1).unwrap();
    for _ in 0..2000 {
        if gateway.monitor.readiness().0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Client::open(gateway.address)
        .await
        .subscribe(subscribe(1, Mode::All))
        .await;
    gateway.stop().await;
}
