//! What no client should do: each ends with its close code, and everyone else is served on.

use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use headwater_config::ByteSize;
use headwater_proto::{Message, pb};
use headwater_relay::gateway::settings::{GatewaySettings, LimitSettings};
use pb::client_frame::Frame as ClientFrame;
use pb::server_frame::Frame;
use pb::{ErrorCode, Mode};
use tokio::io::AsyncWriteExt;

use crate::client::{Client, Received, masked, request, subscribe, window};
use crate::kafka::{Kafka, batch};
use crate::{Gateway, settings};

fn hello() -> Vec<u8> {
    let hello = pb::ClientHello::default();
    pb::ClientFrame {
        frame: Some(ClientFrame::Hello(hello)),
    }
    .encode_to_vec()
}

fn deflate(payload: &[u8]) -> Vec<u8> {
    let mut deflater = Compress::new(Compression::default(), false);
    let mut out = Vec::with_capacity(payload.len() + 1000);
    deflater
        .compress_vec(payload, &mut out, FlushCompress::Sync)
        .unwrap();
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
    out.truncate(out.len() - 4);
    out
}

fn assert_welcome(frame: &Frame) {
    assert!(matches!(frame, Frame::Welcome(_)), "{frame:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_breach_has_its_close_code_and_others_are_served_on() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut witness = Client::open(gateway.address).await;
    witness.subscribe(subscribe(1, Mode::All)).await;
    witness.caught_up().await;
    let bomb = deflate(&vec![0; 80 << 20]);
    assert!(bomb.len() > 64 << 10, "over the limit as it comes");
    let small_bomb = deflate(&vec![0; 1 << 20]);
    let unmasked = [&[0x82, hello().len() as u8][..], &hello()].concat();
    let late = pb::ClientFrame {
        frame: Some(ClientFrame::Unsubscribe(pb::Unsubscribe { id: 1 })),
    }
    .encode_to_vec();
    let empty = pb::ClientFrame { frame: None }.encode_to_vec();
    for (breach, bytes, code) in [
        ("text", masked(0x81, b"hello"), 1003),
        ("compressed text", masked(0xc1, &deflate(b"hello")), 1003),
        ("text that is no UTF-8", masked(0x81, &[0xff, 0xfe]), 1003),
        ("garbage in protobuf", masked(0x82, &[0xff; 20]), 4400),
        ("an empty message", masked(0x82, &[]), 4400),
        ("an empty frame", masked(0x82, &empty), 4400),
        ("a frame before hello", masked(0x82, &late), 4400),
        (
            "a second hello",
            [masked(0x82, &hello()), masked(0x82, &hello())].concat(),
            4400,
        ),
        ("garbage in deflate", masked(0xc2, &[0xff; 20]), 1007),
        ("a bomb", masked(0xc2, &bomb), 1009),
        ("a small bomb", masked(0xc2, &small_bomb), 1009),
        ("too big", masked(0x82, &vec![0; (256 << 10) + 1]), 1009),
        (
            "a length of petabytes",
            vec![0x82, 0xff, 0, 0xff, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4],
            1009,
        ),
        ("unmasked", unmasked, 1002),
        ("RSV2", masked(0xa2, &hello()), 1002),
        ("RSV3", masked(0x92, &hello()), 1002),
        (
            "RSV1 on a continuation",
            [masked(0x02, b"a"), masked(0xc0, b"b")].concat(),
            1002,
        ),
        ("RSV1 on a ping", masked(0xc9, b"a"), 1002),
        ("a continuation of nothing", masked(0x80, b"a"), 1002),
        (
            "a message within a message",
            [masked(0x02, b"a"), masked(0x82, b"b")].concat(),
            1002,
        ),
        ("an unknown opcode", masked(0x83, b"a"), 1002),
        ("a long ping", masked(0x89, &[0; 126]), 1002),
        ("a ping in pieces", masked(0x09, b"a"), 1002),
    ] {
        let mut client = Client::connect(gateway.address).await;
        client.bytes(&bytes).await;
        let (got, reason) = client.close().await;
        assert_eq!(got, code, "{breach}: {reason}");
        assert!(!reason.is_empty(), "{breach}");
        assert!(matches!(client.next().await, Received::End), "{breach}");
    }
    kafka.put(&batch("gw-1", 1, 1)).await;
    witness.data().await;
    assert!(gateway.metric("refusals_total") >= 20.0);
    assert_eq!(gateway.metric("connections"), 1.0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_messages_in_every_form() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let packed = deflate(&hello());
    // One byte at a time.
    let mut client = Client::connect(gateway.address).await;
    for byte in masked(0xc2, &packed) {
        client.bytes(&[byte]).await;
        client.stream.flush().await.unwrap();
    }
    assert_welcome(&client.frame().await);
    // In pieces, with pings and an empty piece between.
    let mut client = Client::connect(gateway.address).await;
    let (first, rest) = packed.split_at(1);
    client.raw(0x42, first).await;
    client.raw(0x89, b"are you there").await;
    client.raw(0x00, &[]).await;
    client.raw(0x89, b"still").await;
    client.raw(0x80, rest).await;
    assert_welcome(&client.frame().await);
    // A final block (RFC 7692 §7.2.3.4), and one without compression.
    let mut deflater = Compress::new(Compression::default(), false);
    let mut last = Vec::with_capacity(1000);
    deflater
        .compress_vec(&hello(), &mut last, FlushCompress::Finish)
        .unwrap();
    last.push(0);
    let plain = hello();
    let length = plain.len() as u8;
    let stored = [&[0, length, 0, !length, 0xff][..], &plain, &[0]].concat();
    for body in [last, stored] {
        let mut client = Client::connect(gateway.address).await;
        client.raw(0xc2, &body).await;
        assert_welcome(&client.frame().await);
    }
    // Plain, though compression was agreed.
    let mut client = Client::connect(gateway.address).await;
    client.raw(0x82, &hello()).await;
    assert_welcome(&client.frame().await);
    // Compressed, though it was not.
    let mut client = Client::with(gateway.address, &["Sec-WebSocket-Protocol: headwater.v1"]).await;
    client.raw(0xc2, &packed).await;
    assert_eq!(client.close().await.0, 1002);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_are_refused() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let address = gateway.address;
    let protocol = "Sec-WebSocket-Protocol: headwater.v1";
    let good = request(address, &[protocol]);
    let head = Client::request(address, &good).await.head;
    // RFC 6455 §1.3: the answer to the sample nonce.
    assert!(
        head.to_lowercase()
            .contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
        "{head}"
    );
    for (breach, text, status) in [
        ("no subprotocol", request(address, &[]), 400),
        (
            "another subprotocol",
            request(address, &["Sec-WebSocket-Protocol: mqtt"]),
            400,
        ),
        (
            "another origin",
            request(address, &[protocol, "Origin: https://evil.example"]),
            403,
        ),
        (
            "another host",
            good.replace(&format!("Host: {address}"), "Host: evil.example"),
            403,
        ),
        ("another version", good.replace("Version: 13", "Version: 8"), 426),
        ("no key", good.replace("Sec-WebSocket-Key", "X-Key"), 400),
        ("no upgrade", good.replace("Upgrade: websocket", "X: y"), 426),
        ("a post", good.replace("GET", "POST"), 426),
        ("garbage", "\u{0}\u{1}\u{2}\r\n\r\n".to_string(), 400),
    ] {
        let head = Client::request(address, &text).await.head;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}")),
            "{breach}: {head}"
        );
    }
    let own = format!("Origin: http://{address}");
    assert!(
        Client::request(address, &request(address, &[protocol, &own]))
            .await
            .head
            .starts_with("HTTP/1.1 101")
    );
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_for_frames_never_sent() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    for (frames, bytes) in [(1, 0), (0, 1), (u64::MAX, u64::MAX)] {
        let mut client = Client::open(gateway.address).await;
        client.ack(frames, bytes, None).await;
        let (code, reason) = client.close().await;
        assert_eq!(code, 4409, "{reason}");
    }
    assert_eq!(gateway.metric("closes_total"), 3.0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_subscriptions_are_answered_and_the_connection_goes_on() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    let devices = |globs: &[&str]| globs.iter().map(|glob| (*glob).to_string()).collect::<Vec<_>>();
    let cursor = pb::Cursor {
        positions: vec![pb::PartitionOffset {
            partition: 99,
            offset: 0,
        }],
    };
    let negative = pb::Cursor {
        positions: vec![pb::PartitionOffset {
            partition: 0,
            offset: -1,
        }],
    };
    let start = |at| crate::client::from(at);
    for (wrong, code) in [
        (subscribe(0, Mode::All), ErrorCode::BadRequest),
        (subscribe(7, Mode::Unspecified), ErrorCode::BadRequest),
        (
            pb::Subscribe {
                id: 7,
                mode: 99,
                ..Default::default()
            },
            ErrorCode::BadRequest,
        ),
        (
            pb::Subscribe {
                start: start(pb::start::At::Snapshot(true)),
                ..subscribe(7, Mode::Series)
            },
            ErrorCode::BadRequest,
        ),
        (
            pb::Subscribe {
                devices: devices(&["a[b"]),
                ..subscribe(7, Mode::All)
            },
            ErrorCode::BadRequest,
        ),
        (
            pb::Subscribe {
                devices: devices(&["x"; 65]),
                ..subscribe(7, Mode::All)
            },
            ErrorCode::Limit,
        ),
        (
            pb::Subscribe {
                metrics: vec!["x".repeat(257)],
                ..subscribe(7, Mode::All)
            },
            ErrorCode::Limit,
        ),
        (
            pb::Subscribe {
                start: start(pb::start::At::Cursor(cursor)),
                ..subscribe(7, Mode::All)
            },
            ErrorCode::BadRequest,
        ),
        (
            pb::Subscribe {
                start: start(pb::start::At::Cursor(negative)),
                ..subscribe(7, Mode::All)
            },
            ErrorCode::BadRequest,
        ),
    ] {
        let id = wrong.id;
        client.send(ClientFrame::Subscribe(wrong.clone())).await;
        let error = client.error().await;
        assert_eq!(
            (error.id, error.code()),
            (id, code),
            "{wrong:?}: {}",
            error.message
        );
        assert!(!error.message.is_empty());
    }
    client.send(ClientFrame::Command(pb::Command::default())).await;
    assert_eq!(client.error().await.code(), ErrorCode::BadRequest);
    for id in 1..=64 {
        client
            .subscribe(pb::Subscribe {
                devices: devices(&["none"]),
                ..subscribe(id, Mode::Latest)
            })
            .await;
    }
    client
        .send(ClientFrame::Subscribe(subscribe(65, Mode::Latest)))
        .await;
    assert_eq!(client.error().await.code(), ErrorCode::Limit);
    client.subscribe(subscribe(64, Mode::All)).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_late_and_too_many() {
    let kafka = Kafka::start();
    let short = GatewaySettings {
        hello_timeout: Duration::from_secs(2),
        keep_alive: Duration::from_millis(1500),
        ack_timeout: Duration::from_secs(5),
        limits: LimitSettings {
            connections: 2,
            ..LimitSettings::default()
        },
        ..settings()
    };
    let gateway = Gateway::start(&kafka, short).await;
    let mut silent = Client::connect(gateway.address).await;
    let (code, reason) = silent.close().await;
    assert_eq!(code, 4408, "{reason}");
    drop(silent);
    // A client that answers pings but acknowledges nothing.
    let mut client = Client::open(gateway.address).await;
    client.acks = false;
    client.subscribe(subscribe(1, Mode::All)).await;
    client.caught_up().await;
    kafka.put(&batch("gw-1", 1, 1)).await;
    client.data().await;
    let (code, reason) = client.close().await;
    assert_eq!((code, client.pings > 1), (4408, true), "{reason}");
    assert!(reason.contains("acknowledged"), "{reason}");
    drop(client);
    // One that answers nothing at all.
    let mut gone = Client::open(gateway.address).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let closed = gone.close().await;
    assert_eq!(closed, (4408, "no answer to pings".into()));
    drop(gone);
    while gateway.metric("connections") > 0.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (mut one, mut two) = (
        Client::open(gateway.address).await,
        Client::open(gateway.address).await,
    );
    let mut three = Client::connect(gateway.address).await;
    assert_eq!(three.close().await.0, 4429);
    for client in [&mut one, &mut two] {
        client.send(ClientFrame::Ping(pb::Ping { nonce: 1 })).await;
        assert!(matches!(client.frame().await, Frame::Pong(_)));
    }
    gateway.stop().await;
}

/// WebSocket's own pings are messages too: their answers would pile up for a client that reads nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_websocket_pings_is_ended() {
    let kafka = Kafka::start();
    let few = GatewaySettings {
        limits: LimitSettings {
            messages: 100,
            ..LimitSettings::default()
        },
        ..settings()
    };
    let gateway = Gateway::start(&kafka, few).await;
    let mut client = Client::open(gateway.address).await;
    client.bytes(&masked(0x89, &[7; 125]).repeat(2000)).await;
    let (code, reason) = client.close().await;
    assert_eq!(code, 4429, "{reason}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_is_answered() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    client
        .raw(0x88, &[&1000u16.to_be_bytes()[..], b"done"].concat())
        .await;
    assert_eq!(client.close().await, (1000, "done".into()));
    assert!(matches!(client.next().await, Received::End));
    gateway.stop().await;
}

/// A client that takes nothing from its socket: what is held for it is what any connection begins with, and others are served.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_costs_what_a_connection_begins_with() {
    let kafka = Kafka::start();
    let small = GatewaySettings {
        window_bytes: ByteSize::mib(1),
        log: ByteSize::mib(1),
        keep_alive: Duration::from_secs(600),
        ..settings()
    };
    let gateway = Gateway::start(&kafka, small).await;
    let mut deaf = Client::with(gateway.address, &["Sec-WebSocket-Protocol: headwater.v1"]).await;
    deaf.acks = false;
    assert_eq!(
        deaf.hello(window(u32::MAX, u64::MAX)).await.window.unwrap(),
        window(1024, 1 << 20).unwrap()
    );
    deaf.subscribe(subscribe(1, Mode::All)).await;
    deaf.caught_up().await;
    let sent_before = gateway.metric("decoded_bytes_total");
    let big = batch("gw-1", 1, 5000);
    let size = headwater_proto::protobuf::encode(&big).len() as f64;
    for _ in 0..((3 << 20) / size as usize) {
        kafka.put(&big).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let sent = gateway.metric("decoded_bytes_total") - sent_before;
    assert!(
        sent <= f64::from(32 << 10) + size + 100.0,
        "{sent} bytes were sent into the void"
    );
    assert!(sent >= size, "{sent}");
    assert!(gateway.metric("log_bytes") <= f64::from(2 << 20));
    // It wakes up, and has missed nothing.
    deaf.acks = true;
    let count = (3 << 20) / size as usize;
    for offset in 0..count {
        assert_eq!(deaf.data().await.offset, offset as i64);
    }
    gateway.stop().await;
}

/// A flood of questions without reading the answers is held back by TCP, not in memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_pings_is_held_back() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(
        &kafka,
        GatewaySettings {
            limits: LimitSettings {
                messages: 1_000_000,
                ..LimitSettings::default()
            },
            ..settings()
        },
    )
    .await;
    let mut flood = Client::connect(gateway.address).await;
    flood.hello(None).await;
    let ping = pb::ClientFrame {
        frame: Some(ClientFrame::Ping(pb::Ping { nonce: 7 })),
    }
    .encode_to_vec();
    let bytes = masked(0x82, &ping).repeat(10_000);
    let mut written = 0;
    let most = 64 << 20;
    while written < most {
        match tokio::time::timeout(Duration::from_millis(500), flood.stream.write(&bytes)).await {
            Ok(Ok(count)) => written += count,
            Ok(Err(error)) => panic!("{error}"),
            Err(_) => break,
        }
    }
    assert!(written < most, "all was taken: {written} bytes");
    let mut other = Client::open(gateway.address).await;
    other.send(ClientFrame::Ping(pb::Ping { nonce: 1 })).await;
    assert!(matches!(other.frame().await, Frame::Pong(_)));
    gateway.stop().await;
}
