//! What subscriptions hold for clients that do not take their frames is bounded, for one connection and for all.

use headwater_config::ByteSize;
use headwater_proto::pb;
use headwater_relay::gateway::settings::{GatewaySettings, LimitSettings};
use pb::client_frame::Frame as ClientFrame;
use pb::server_frame::Frame;
use pb::{ErrorCode, Mode};

use crate::client::{Client, subscribe, window};
use crate::kafka::{Kafka, batch};
use crate::{Gateway, settings};

const SUBSCRIPTIONS: u32 = 64;
const DEVICES: u64 = 300;
/// Of numbers and truth values, in each batch.
const READINGS: u32 = 2 * 40;

fn holding(of_one: ByteSize, of_all: ByteSize) -> GatewaySettings {
    GatewaySettings {
        held: of_all,
        limits: LimitSettings {
            held: of_one,
            ..LimitSettings::default()
        },
        ..settings()
    }
}

/// A client whose subscriptions are live, and that takes nothing any more.
async fn closed(gateway: &Gateway) -> Client {
    let mut client = Client::open(gateway.address).await;
    for id in 1..=SUBSCRIPTIONS {
        client
            .send(ClientFrame::Subscribe(subscribe(id, Mode::Series)))
            .await;
    }
    let mut live = 0;
    while live < SUBSCRIPTIONS {
        live += u32::from(matches!(client.frame().await, Frame::CaughtUp(_)));
    }
    client.acks = false;
    client.ack(client.frames, client.bytes, window(0, 0)).await;
    client
}

async fn until(gateway: &Gateway, metric: &str, is: impl Fn(f64) -> bool) {
    for _ in 0..3000 {
        if is(gateway.metric(metric)) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{metric}: {}", gateway.metric(metric));
}

/// Sixty-four series of one connection, of three hundred devices each, would hold some 25 MB.
#[tokio::test(flavor = "multi_thread")]
async fn many_series_of_one_connection_hold_what_it_may_and_lose_nothing() {
    let (of_one, of_all) = (ByteSize::kib(256), ByteSize::mib(1));
    held(1, of_one.as_u64(), holding(of_one, of_all)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_hold_together_what_all_may() {
    let (of_one, of_all) = (ByteSize::mib(8), ByteSize::kib(256));
    held(3, of_all.as_u64(), holding(of_one, of_all)).await;
}

async fn held(connections: usize, most: u64, settings: GatewaySettings) {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings).await;
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(closed(&gateway).await);
    }
    for device in 0..DEVICES {
        kafka.put(&batch(&format!("held-{device}"), 1, 40)).await;
    }
    until(&gateway, "records_total", |records| records >= DEVICES as f64).await;
    until(&gateway, "held_bytes", |held| held > most as f64 / 2.0).await;
    // A batch more for each connection: it is known how much it takes once it has been taken in.
    let bound = most as f64 + connections as f64 * 16_384.0;
    for _ in 0..100 {
        let held = gateway.metric("held_bytes");
        assert!(held <= bound, "{held}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for client in &mut clients {
        client.acks = true;
        client
            .ack(client.frames, client.bytes, window(1000, 1 << 24))
            .await;
        let (mut counts, mut full) = (vec![0; SUBSCRIPTIONS as usize + 1], 0);
        while full < SUBSCRIPTIONS {
            match client.frame().await {
                Frame::Series(series) => {
                    let readings: u32 = series.columns.iter().flat_map(|column| &column.count).sum();
                    let count = &mut counts[series.id as usize];
                    *count += readings;
                    assert!(*count <= DEVICES as u32 * READINGS, "{} twice", series.id);
                    full += u32::from(readings > 0 && *count == DEVICES as u32 * READINGS);
                }
                Frame::CaughtUp(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    // What is told is held no longer, and who leaves gives back what is left.
    drop(clients);
    until(&gateway, "held_bytes", |held| held == 0.0).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn newest_values_are_refused_where_nothing_more_may_be_held() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, holding(ByteSize::kib(1), ByteSize::mib(1))).await;
    let mut client = Client::open(gateway.address).await;
    for device in 0..DEVICES {
        kafka.put(&batch(&format!("held-{device}"), 1, 1)).await;
    }
    // What was told of each device is 8 bytes.
    client.subscribe(subscribe(1, Mode::Latest)).await;
    client
        .send(ClientFrame::Subscribe(subscribe(2, Mode::Latest)))
        .await;
    let error = client.error().await;
    assert_eq!((error.id, error.code()), (2, ErrorCode::Limit));
    assert!(error.message.contains("gateway.limits.held"), "{}", error.message);
    // Another connection has its own, and this one gets it back.
    Client::open(gateway.address)
        .await
        .subscribe(subscribe(1, Mode::Latest))
        .await;
    client
        .send(ClientFrame::Unsubscribe(pb::Unsubscribe { id: 1 }))
        .await;
    client.subscribe(subscribe(2, Mode::Latest)).await;
    gateway.stop().await;
}
