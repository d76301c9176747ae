//! The latency that is seen: what `/metrics` says of each part is what this test measured itself, with the same clock, around it.

use std::time::{Duration, Instant};

use headwater_proto::{Batch, Body, Loss, LossReason, pb};
use pb::Mode;

use crate::client::{Client, subscribe, window};
use crate::kafka::{Kafka, batch, now_us};
use crate::{Gateway, settings};

const SECOND: i64 = 1_000_000;

/// A histogram as the admin port shows it.
#[derive(Debug, PartialEq)]
struct Histogram {
    count: f64,
    /// Seconds.
    sum: f64,
    /// Upper bound in seconds, as it is written, and how many lie in this bucket and in no lower one.
    buckets: Vec<(String, f64)>,
}

impl Histogram {
    fn of(gateway: &Gateway, part: &str) -> Self {
        let (mut buckets, mut below) = (vec![], 0.0);
        let name = format!("headwater_gateway_{part}_seconds_bucket{{le=\"");
        for line in gateway.monitor.metrics().lines() {
            if let Some((bound, count)) = line.strip_prefix(&name).and_then(|rest| rest.split_once("\"} ")) {
                let count: f64 = count.parse().unwrap();
                if count > below {
                    buckets.push((bound.to_string(), count - below));
                }
                below = count;
            }
        }
        Self {
            count: gateway.metric(&format!("{part}_seconds_count")),
            sum: gateway.metric(&format!("{part}_seconds_sum")),
            buckets,
        }
    }

    fn in_buckets(&self) -> Vec<(&str, f64)> {
        self.buckets
            .iter()
            .map(|(bound, count)| (bound.as_str(), *count))
            .collect()
    }

    /// Whether its sum lies between these, microseconds each, but for the rounding of a sum of doubles.
    fn is_between(&self, least_us: i64, most_us: i64) -> bool {
        let us = self.sum * 1e6;
        us >= least_us as f64 - 1.0 && us <= most_us as f64 + 1.0
    }
}

/// With its newest reading at this time.
fn sampled(seq: u64, newest_us: i64) -> Batch {
    let mut batch = batch("gw-1", seq, 3);
    if let Body::Readings(readings) = &mut batch.body {
        readings.times = vec![(0..3).map(|at| newest_us - (2 - at) * SECOND).collect()];
    }
    batch
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_of_the_way_takes_what_it_is_said_to_take() {
    let kafka = Kafka::start();
    // What stood in Kafka before anybody watched is no latency of anybody's.
    let long_ago = now_us() / 1000 * 1000 - 3600 * SECOND;
    kafka.put_at(&sampled(1, long_ago), long_ago).await;
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    client.subscribe(subscribe(1, Mode::All)).await;
    client.caught_up().await;
    let parts = || {
        ["sample_to_kafka", "kafka_to_socket", "sample_to_socket"].map(|part| Histogram::of(&gateway, part))
    };
    for part in parts() {
        assert_eq!((part.count, part.sum), (0.0, 0.0), "{part:?}");
    }

    // Forty seconds to the bridge, and five more since then.
    let arrival = now_us() / 1000 * 1000 - 5 * SECOND;
    let before = now_us();
    kafka.put_at(&sampled(2, arrival - 40 * SECOND), arrival).await;
    client.data().await;
    let [to_kafka, to_socket, whole] = parts();
    let (least, most) = (before - arrival, now_us() - arrival);
    assert_eq!((to_kafka.count, to_kafka.sum), (1.0, 40.0));
    assert_eq!(to_kafka.in_buckets(), [("65.536", 1.0)], "beyond 32.768 s");
    assert_eq!(to_socket.count, 1.0);
    assert!(
        to_socket.is_between(least, most),
        "{to_socket:?} is not {least}..{most}"
    );
    assert_eq!(whole.count, 1.0);
    assert!(
        whole.is_between(40 * SECOND + least, 40 * SECOND + most),
        "{whole:?} is not 40 s more than {least}..{most}"
    );

    // A clock that is ahead is no latency; a loss has no newest reading, and is on its way like others.
    let arrivals = [now_us() / 1000 * 1000, now_us() / 1000 * 1000];
    let before = now_us();
    kafka
        .put_at(&sampled(3, arrivals[0] + 3600 * SECOND), arrivals[0])
        .await;
    let loss = Loss {
        through: 9,
        readings: 100,
        reason: LossReason::JournalFull,
    };
    let lost = Batch {
        body: Body::Loss(loss),
        ..sampled(4, 0)
    };
    kafka.put_at(&lost, arrivals[1]).await;
    for _ in 0..2 {
        client.data().await;
    }
    let after = now_us();
    let (least, most) = (
        least + 2 * before - arrivals[0] - arrivals[1],
        most + 2 * after - arrivals[0] - arrivals[1],
    );
    let [to_kafka, to_socket, whole] = parts();
    assert_eq!((to_kafka.count, to_kafka.sum), (2.0, 40.0));
    assert_eq!(to_kafka.in_buckets(), [("0.001", 1.0), ("65.536", 1.0)]);
    assert_eq!(to_socket.count, 3.0);
    assert!(
        to_socket.is_between(least, most),
        "{to_socket:?} is not {least}..{most}"
    );
    assert_eq!(whole.count, 2.0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_gives_the_round_trip_of_the_frame_it_covers() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::connect(gateway.address).await;
    client.acks = false;
    client.hello(window(10, 1 << 20)).await;
    client.subscribe(subscribe(1, Mode::All)).await;
    client.caught_up().await;
    let began = Instant::now();
    for seq in 1..=3 {
        kafka.put(&batch("gw-1", seq, 3)).await;
    }
    client.data().await;
    let (first_frames, first_bytes, received) = (client.frames, client.bytes, Instant::now());
    for _ in 0..2 {
        client.data().await;
    }
    // The client takes its time to handle them.
    tokio::time::sleep(Duration::from_millis(600)).await;
    // One that covers nothing new tells nothing.
    client.ack(0, 0, None).await;
    let least = received.elapsed();
    client.ack(first_frames, first_bytes, None).await;
    let round_trip = loop {
        // The sum is written last: then all of it is there.
        if Histogram::of(&gateway, "round_trip").sum > 0.0 {
            break Histogram::of(&gateway, "round_trip");
        }
        assert!(began.elapsed() < Duration::from_secs(60), "no round trip");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let most = began.elapsed();
    assert_eq!(round_trip.count, 1.0, "one frame at a time");
    let us = |time: Duration| i64::try_from(time.as_micros()).unwrap();
    assert!(
        round_trip.is_between(us(least), us(most)),
        "{round_trip:?} is not {least:?}..{most:?}"
    );
    // Six hundred milliseconds and more are beyond the bound of 512.
    assert!(
        round_trip.buckets[0].0.parse::<f64>().unwrap() >= 1.024,
        "{round_trip:?}"
    );
    gateway.stop().await;
}
