//! How much all connections of one address, or of one subject, may ask together in a second.

use std::time::Duration;

use headwater_proto::pb;
use headwater_relay::gateway::settings::{GatewaySettings, LimitSettings};
use pb::client_frame::Frame as ClientFrame;
use pb::server_frame::Frame;
use pb::{ErrorCode, Mode};

use crate::client::{Client, Received, subscribe};
use crate::kafka::{Kafka, batch};
use crate::tokens::{connect, hello, key_file, keyed, token};
use crate::{Gateway, settings};

fn limited(limits: LimitSettings) -> GatewaySettings {
    GatewaySettings { limits, ..settings() }
}

/// Connects and says hello until it is refused: how many were welcome, and what the last was told.
async fn welcomed(gateway: &Gateway) -> (usize, u16, String) {
    for count in 0..100 {
        let mut client = Client::connect(gateway.address).await;
        client.send(ClientFrame::Hello(pb::ClientHello::default())).await;
        match client.next().await {
            Received::Frame(Frame::Welcome(_)) => {}
            Received::Close(code, reason) => return (count, code, reason),
            other => panic!("{other:?}"),
        }
    }
    panic!("a hundred were welcome");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_begins_so_many_connections_a_second() {
    let kafka = Kafka::start();
    let limits = LimitSettings {
        connects_per_address: 1,
        ..LimitSettings::default()
    };
    let gateway = Gateway::start(&kafka, limited(limits)).await;
    // Four at once, and one more for each second that goes by meanwhile.
    let (count, code, reason) = welcomed(&gateway).await;
    assert!(count >= 4, "{count}");
    assert_eq!(
        (code, reason.as_str()),
        (4429, "over 1 connections a second of your address")
    );
    // It comes back.
    for _ in 0..1000 {
        let mut client = Client::connect(gateway.address).await;
        client.send(ClientFrame::Hello(pb::ClientHello::default())).await;
        if matches!(client.next().await, Received::Frame(Frame::Welcome(_))) {
            assert!(gateway.metric("refusals_total") >= 1.0);
            return gateway.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the address is never let in again");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_address_share_a_rate_of_messages() {
    let kafka = Kafka::start();
    let limits = LimitSettings {
        messages_per_address: 20,
        ..LimitSettings::default()
    };
    let gateway = Gateway::start(&kafka, limited(limits)).await;
    let mut one = Client::open(gateway.address).await;
    let mut two = Client::open(gateway.address).await;
    // Each far below what a connection may, both together above. Subscriptions beyond are refused, alone.
    for id in 1..=20 {
        let client = if id % 2 == 0 { &mut one } else { &mut two };
        client
            .send(ClientFrame::Subscribe(subscribe(id, Mode::Presence)))
            .await;
    }
    let (mut subscribed, mut refused) = (0, 0);
    while subscribed + refused < 20 {
        let client = if subscribed + refused < 10 {
            &mut one
        } else {
            &mut two
        };
        match client.frame().await {
            Frame::Subscribed(_) => subscribed += 1,
            Frame::Error(error) => {
                assert_eq!(error.code(), ErrorCode::Limit);
                let why = "over 20 messages a second of all connections of your address";
                assert_eq!(error.message, why);
                refused += 1;
            }
            Frame::Presence(_) => {}
            other => panic!("{other:?}"),
        }
        // Acknowledgements are messages too.
        (one.acks, two.acks) = (false, false);
    }
    assert!(subscribed >= 7 && refused >= 1, "{subscribed} {refused}");
    for nonce in 0..1000 {
        two.send(ClientFrame::Ping(pb::Ping { nonce })).await;
    }
    let (code, reason) = two.close().await;
    assert_eq!((code, reason.contains("your address")), (4429, true), "{reason}");
    gateway.stop().await;
}

/// What a command may carry fits: an agent takes configurations of 128 KiB.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_may_carry_a_whole_configuration_and_no_more() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    let apply = |bytes: usize| {
        ClientFrame::Command(pb::Command {
            id: "one".into(),
            device: "gw-1".into(),
            name: "apply".into(),
            arguments: vec!["x".repeat(bytes)],
            ..Default::default()
        })
    };
    client.send(apply(128 << 10)).await;
    client.send(ClientFrame::Ping(pb::Ping { nonce: 3 })).await;
    // No agent is there to answer the command.
    while !matches!(client.frame().await, Frame::Pong(_)) {}
    client.send(apply(256 << 10)).await;
    assert_eq!(client.close().await.0, 1009);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_begins_so_many_connections_a_second_and_shares_a_rate_of_messages() {
    let (kafka, file) = (Kafka::start(), key_file());
    let settings = GatewaySettings {
        limits: LimitSettings {
            connects_per_subject: 1,
            messages_per_subject: 20,
            ..LimitSettings::default()
        },
        ..keyed(&file)
    };
    let gateway = Gateway::start(&kafka, settings).await;
    let welcomed = async |subject: &str| {
        let mut client = connect(&gateway, &token(subject, 60, &["*"])).await;
        client.send(hello(String::new())).await;
        client
    };
    let mut anns = Vec::new();
    let (code, reason) = loop {
        let mut ann = welcomed("ann").await;
        match ann.next().await {
            Received::Frame(Frame::Welcome(_)) => anns.push(ann),
            Received::Close(code, reason) => break (code, reason),
            other => panic!("{other:?}"),
        }
    };
    assert!(anns.len() >= 4, "{}", anns.len());
    let why = "over 1 connections a second with this token's subject";
    assert_eq!((code, reason.as_str()), (4429, why));
    let mut bob = welcomed("bob").await;
    assert!(matches!(bob.frame().await, Frame::Welcome(_)));
    // Two of hers spend what all of hers have; his is his own.
    for ann in anns.iter_mut().take(2) {
        for nonce in 0..500 {
            ann.send(ClientFrame::Ping(pb::Ping { nonce })).await;
        }
        let (code, reason) = ann.close().await;
        let why = "over 20 messages a second of all connections of your token's subject";
        assert_eq!((code, reason.as_str()), (4429, why));
    }
    bob.send(ClientFrame::Ping(pb::Ping { nonce: 7 })).await;
    assert!(matches!(bob.frame().await, Frame::Pong(pong) if pong.nonce == 7));
    gateway.stop().await;
}

/// A long message may take long on a link that has not shown to be quick: it is told of before. Once the link is known nothing is.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_message_is_told_of_until_the_link_is_known_to_be_quick() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    client.subscribe(subscribe(1, Mode::All)).await;
    client.caught_up().await;
    kafka.put(&batch("gw-1", 1, 1)).await;
    client.data().await;
    assert_eq!(client.coming, 0, "a short one");
    kafka.put(&batch("gw-1", 2, 5000)).await;
    client.data().await;
    assert_eq!(client.coming, 1);
    // As much as the link takes: its share grows.
    let mut seq = 2;
    let mut before = usize::MAX;
    while client.coming != before {
        before = client.coming;
        for _ in 0..50 {
            seq += 1;
            kafka.put(&batch("gw-1", seq, 5000)).await;
        }
        for _ in 0..50 {
            client.data().await;
        }
        assert!(seq < 5000, "a link on this machine is a quick one");
    }
    gateway.stop().await;
}
