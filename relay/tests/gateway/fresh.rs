//! A fresh token in band that allows more, or less, than the one before.

use std::time::Duration;

use headwater_proto::pb;
use pb::client_frame::Frame as ClientFrame;
use pb::server_frame::Frame;
use pb::{Mode, start::At};

use crate::Gateway;
use crate::client::{Client, from, subscribe};
use crate::kafka::{Kafka, batch};
use crate::tokens::{connect, hello, key_file, keyed, token};

/// A connection with LATEST, PRESENCE and SERIES of what a token allows, each told what there is.
async fn watching(gateway: &Gateway, read: &[&str]) -> Client {
    let mut client = connect(gateway, &token("ann", 600, read)).await;
    client.send(hello(String::new())).await;
    assert!(matches!(client.frame().await, Frame::Welcome(_)));
    let latest = pb::Subscribe {
        start: from(At::Snapshot(true)),
        ..subscribe(1, Mode::Latest)
    };
    for subscription in [latest, subscribe(2, Mode::Presence), subscribe(3, Mode::Series)] {
        client.send(ClientFrame::Subscribe(subscription)).await;
    }
    client
}

/// Devices in a frame of newest values, of presence, or of a series.
fn devices(frame: &Frame) -> Vec<String> {
    match frame {
        Frame::Latest(latest) => latest.batches.iter().map(|it| it.device.clone()).collect(),
        Frame::Presence(presence) => presence.devices.iter().map(|it| it.device.clone()).collect(),
        Frame::Series(series) => series.columns.iter().map(|it| it.device.clone()).collect(),
        _ => Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wider_token_shows_its_devices_at_once() {
    let (kafka, file) = (Kafka::start(), key_file());
    for device in ["a-1", "b-1"] {
        let state = pb::DeviceState {
            device: device.into(),
            online: true,
            ..Default::default()
        };
        kafka.state(&state).await;
        for seq in 1..=3 {
            kafka.put(&batch(device, seq, 5)).await;
        }
    }
    let gateway = Gateway::start(&kafka, keyed(&file)).await;
    let mut client = watching(&gateway, &["a-*"]).await;
    let (mut latest, mut presence) = (false, false);
    while !latest || !presence {
        let frame = client.frame().await;
        assert!(devices(&frame).iter().all(|device| device == "a-1"), "{frame:?}");
        latest |= matches!(frame, Frame::Latest(_));
        presence |= matches!(frame, Frame::Presence(_));
    }
    let fresh = ClientFrame::Token(pb::Token {
        token: token("ann", 600, &["a-*", "b-*"]),
    });
    client.send(fresh).await;
    let (mut latest, mut presence, mut accepted) = (false, false, false);
    while !latest || !presence {
        let frame = client.frame().await;
        accepted |= matches!(frame, Frame::TokenAccepted(_));
        let told = devices(&frame);
        if let Frame::Latest(frame) = &frame {
            assert!(accepted && !frame.snapshot);
            assert_eq!(told, ["b-1"], "what was told is not told again");
            assert_eq!(
                frame.merged, 1,
                "nothing that this client could have had was overwritten"
            );
            latest = true;
        }
        presence |= told.iter().any(|device| device == "b-1") && matches!(frame, Frame::Presence(_));
    }
    gateway.stop().await;
}

/// What a series has taken in, and not told yet, of devices that the fresh token does not allow is not told.
#[tokio::test(flavor = "multi_thread")]
async fn a_narrower_token_takes_effect_on_what_waits() {
    let (kafka, file) = (Kafka::start(), key_file());
    let gateway = Gateway::start(&kafka, keyed(&file)).await;
    let mut client = watching(&gateway, &["*"]).await;
    while !matches!(client.frame().await, Frame::CaughtUp(_)) {}
    client.acks = false;
    let closed = Some(pb::Window { frames: 0, bytes: 0 });
    client.ack(client.frames, client.bytes, closed).await;
    // Each has been taken in before the next.
    let mut held = 0.0;
    for device in ["b-1", "a-1"] {
        kafka.put(&batch(device, 1, 5)).await;
        let before = held;
        for tries in 0.. {
            held = gateway.metric("held_bytes");
            if held > before {
                break;
            }
            assert!(tries < 3000, "{device} has not been taken in");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let fresh = ClientFrame::Token(pb::Token {
        token: token("ann", 600, &["a-*"]),
    });
    client.send(fresh).await;
    while !matches!(client.frame().await, Frame::TokenAccepted(_)) {}
    client.acks = true;
    let open = Some(pb::Window {
        frames: 100,
        bytes: 1 << 20,
    });
    client.ack(client.frames, client.bytes, open).await;
    let (mut series, mut latest) = (false, false);
    while !series || !latest {
        let frame = client.frame().await;
        assert!(devices(&frame).iter().all(|device| device == "a-1"), "{frame:?}");
        series |= matches!(frame, Frame::Series(_));
        latest |= matches!(frame, Frame::Latest(_));
    }
    gateway.stop().await;
}
