//! One client that asks for more than its share: what it asks for waits in its own socket, and others are served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use headwater_proto::{Message, pb};
use headwater_relay::gateway::settings::{GatewaySettings, LimitSettings};
use pb::client_frame::Frame as ClientFrame;
use pb::start::At;
use tokio::io::AsyncWriteExt;

use crate::client::{Client, from, masked, subscribe};
use crate::kafka::{Kafka, batch, device_in};
use crate::{Gateway, settings};

/// Each replaced subscription leaves a read behind; they must not pile up, nor keep others from history.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_replaced_subscriptions_is_held_back() {
    let kafka = Kafka::start();
    let device = device_in(0);
    for seq in 1..=50 {
        kafka.put(&batch(&device, seq, 5)).await;
    }
    let settings = GatewaySettings {
        log_backfill: 1,
        catch_up_readers: 1,
        limits: LimitSettings {
            messages: 1_000_000,
            ..LimitSettings::default()
        },
        ..settings()
    };
    let gateway = Gateway::start(&kafka, settings).await;
    let mut flood = Client::connect(gateway.address).await;
    flood.hello(None).await;
    let again = pb::ClientFrame {
        frame: Some(ClientFrame::Subscribe(pb::Subscribe {
            start: from(At::TimeUs(1)),
            ..subscribe(1, pb::Mode::All)
        })),
    }
    .encode_to_vec();
    let (mut answers, mut questions) = flood.stream.into_split();
    let drain = tokio::spawn(async move { tokio::io::copy(&mut answers, &mut tokio::io::sink()).await });
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let flooding = tokio::spawn(async move {
        let frames = masked(0x82, &again).repeat(100);
        while questions.write_all(&frames).await.is_ok() {
            counter.fetch_add(100, Ordering::Relaxed);
        }
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    let taken = sent.load(Ordering::Relaxed);
    let mut other = Client::open(gateway.address).await;
    let start = from(At::TimeUs(1));
    let history = async {
        other
            .subscribe(pb::Subscribe {
                start,
                ..subscribe(1, pb::Mode::All)
            })
            .await;
        for _ in 0..50 {
            other.data().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), history)
        .await
        .unwrap_or_else(|_| panic!("no history for others while {taken} subscriptions flood"));
    flooding.abort();
    drain.abort();
    gateway.stop().await;
}
