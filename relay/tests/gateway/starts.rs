//! Where a subscription starts: at a cursor, at a time, behind what Kafka still holds, at a log that is another by now.

use std::collections::BTreeMap;

use headwater_proto::pb;
use headwater_relay::gateway::settings::GatewaySettings;
use pb::start::At;
use pb::{Mode, server_frame::Frame};

use crate::all::seq;
use crate::client::{Client, from, subscribe};
use crate::kafka::{Kafka, batch, device_in, now_us};
use crate::{Gateway, settings};

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_resumes_on_another_gateway_without_hole_or_repeat() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    let mut cursor: BTreeMap<u32, i64> = BTreeMap::new();
    let take = |cursor: &mut BTreeMap<u32, i64>, from: Option<pb::Cursor>| {
        for position in from.into_iter().flat_map(|cursor| cursor.positions) {
            cursor.insert(position.partition, position.offset);
        }
    };
    take(
        &mut cursor,
        client.subscribe(subscribe(1, Mode::All)).await.cursor,
    );
    client.caught_up().await;
    let mut seen = vec![];
    for i in 1..=40 {
        kafka.put(&batch(&device_in(i as u32 % 4), i, 5)).await;
    }
    for _ in 0..25 {
        let data = client.data().await;
        cursor.insert(data.partition, data.offset + 1);
        seen.push(seq(&data).1);
    }
    gateway.stop().await;
    for i in 41..=60 {
        kafka.put(&batch(&device_in(i as u32 % 4), i, 5)).await;
    }
    // Its log begins too late for most of that.
    let gateway = Gateway::start(
        &kafka,
        GatewaySettings {
            log_backfill: 2,
            ..settings()
        },
    )
    .await;
    let mut client = Client::open(gateway.address).await;
    let positions = cursor
        .iter()
        .map(|(&partition, &offset)| pb::PartitionOffset { partition, offset })
        .collect();
    let start = from(At::Cursor(pb::Cursor { positions }));
    client
        .subscribe(pb::Subscribe {
            start,
            ..subscribe(9, Mode::All)
        })
        .await;
    for _ in 0..35 {
        seen.push(seq(&client.data().await).1);
    }
    client.caught_up().await;
    seen.sort_unstable();
    assert_eq!(seen, (1..=60).collect::<Vec<_>>());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_at_a_time_misses_nothing_after_it() {
    let kafka = Kafka::start();
    let now = now_us() / 1000 * 1000;
    for i in 1..=40 {
        kafka
            .put_at(
                &batch(&device_in(i as u32 % 4), i, 5),
                now - (41 - i as i64) * 1_000_000,
            )
            .await;
    }
    // Some of it in memory, some only in Kafka, which here has no index of times.
    for backfill in [0, 3, 1000] {
        let gateway = Gateway::start(
            &kafka,
            GatewaySettings {
                log_backfill: backfill,
                ..settings()
            },
        )
        .await;
        let mut client = Client::open(gateway.address).await;
        let start = from(At::TimeUs(now - 15_000_000));
        client
            .subscribe(pb::Subscribe {
                start,
                ..subscribe(1, Mode::All)
            })
            .await;
        let mut seen = vec![];
        for _ in 0..15 {
            seen.push(seq(&client.data().await).1);
        }
        client.caught_up().await;
        seen.sort_unstable();
        assert_eq!(
            seen,
            (26..=40).collect::<Vec<_>>(),
            "with a backfill of {backfill}"
        );
        // And one of the future is now.
        let start = from(At::TimeUs(now + 3_600_000_000));
        client
            .subscribe(pb::Subscribe {
                start,
                ..subscribe(1, Mode::All)
            })
            .await;
        client.caught_up().await;
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_took_is_a_gap() {
    let kafka = Kafka::start();
    let device = device_in(1);
    // The in-process cluster keeps about 5 MB of a partition.
    let noise: Vec<f64> = (0..100_000).map(|i| f64::from(i).sin()).collect();
    let mut big = batch(&device, 1, 1);
    if let headwater_proto::Body::Readings(readings) = &mut big.body {
        readings.times = vec![(0..noise.len() as i64).collect()];
        readings.columns.truncate(1);
        readings.columns[0].values = headwater_proto::Values::F64(noise);
    }
    for seq in 1..=12 {
        big.seq = seq;
        kafka.put(&big).await;
    }
    let gateway = Gateway::start(
        &kafka,
        GatewaySettings {
            log_backfill: 1,
            ..settings()
        },
    )
    .await;
    let mut client = Client::open(gateway.address).await;
    let positions = vec![pb::PartitionOffset {
        partition: 1,
        offset: 0,
    }];
    let start = from(At::Cursor(pb::Cursor { positions }));
    client
        .subscribe(pb::Subscribe {
            start,
            ..subscribe(5, Mode::All)
        })
        .await;
    let Frame::Gap(gap) = client.frame().await else {
        panic!()
    };
    assert_eq!((gap.id, gap.partition, gap.from_offset), (5, 1, 0));
    assert_eq!(gap.reason(), pb::GapReason::Retention);
    let first = client.data().await;
    assert_eq!(first.offset, gap.to_offset, "the gap ends where the log begins");
    for offset in first.offset + 1..12 {
        assert_eq!(client.data().await.offset, offset);
    }
    client.caught_up().await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_another_log_is_a_reset() {
    let kafka = Kafka::start();
    let device = device_in(2);
    for i in 1..=3 {
        kafka.put(&batch(&device, i, 5)).await;
    }
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    let positions = vec![pb::PartitionOffset {
        partition: 2,
        offset: 5000,
    }];
    let start = from(At::Cursor(pb::Cursor { positions }));
    client
        .subscribe(pb::Subscribe {
            start,
            ..subscribe(5, Mode::All)
        })
        .await;
    let Frame::Gap(gap) = client.frame().await else {
        panic!()
    };
    assert_eq!(
        (gap.from_offset, gap.to_offset, gap.reason()),
        (5000, 0, pb::GapReason::Reset)
    );
    for i in 1..=3 {
        assert_eq!(seq(&client.data().await).1, i);
    }
    client.caught_up().await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_is_a_gap_for_those_who_watch_its_device() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    client
        .subscribe(pb::Subscribe {
            devices: vec!["gw-1".into()],
            ..subscribe(3, Mode::All)
        })
        .await;
    client.caught_up().await;
    kafka.raw("gw-2", &[0xff; 10], now_us()).await;
    let (partition, offset) = kafka.raw("gw-1", &[0xff; 10], now_us()).await;
    let Frame::Gap(gap) = client.frame().await else {
        panic!()
    };
    assert_eq!(
        (gap.partition, gap.from_offset, gap.to_offset),
        (partition, offset, offset + 1)
    );
    assert_eq!(gap.reason(), pb::GapReason::Unreadable);
    kafka.put(&batch("gw-1", 8, 1)).await;
    assert_eq!(seq(&client.data().await).1, 8);
    assert_eq!(gateway.metric("unreadable_records_total"), 2.0);
    gateway.stop().await;
}
