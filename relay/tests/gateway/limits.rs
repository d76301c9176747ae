//! What one client, one address or one subject can ask for: past a limit it is told so, and everybody else is served.

use std::time::Duration;

use headwater_config::ByteSize;
use headwater_proto::pb;
use headwater_relay::gateway::settings::{GatewaySettings, LimitSettings};
use pb::client_frame::Frame as ClientFrame;
use pb::server_frame::Frame;
use pb::start::At;
use pb::{ErrorCode, Mode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Client, Received, from, request, subscribe, window};
use crate::kafka::{Kafka, batch, device_in};
use crate::{Gateway, settings};

fn limited(limits: LimitSettings) -> GatewaySettings {
    GatewaySettings { limits, ..settings() }
}

async fn is_served(client: &mut Client) {
    client.send(ClientFrame::Ping(pb::Ping { nonce: 3 })).await;
    loop {
        match client.frame().await {
            Frame::Pong(pong) => break assert_eq!(pong.nonce, 3),
            Frame::CaughtUp(_)
            | Frame::Data(_)
            | Frame::Series(_)
            | Frame::Latest(_)
            | Frame::Presence(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_so_many_connections_and_they_come_back() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(
        &kafka,
        limited(LimitSettings {
            per_address: 2,
            ..LimitSettings::default()
        }),
    )
    .await;
    let mut one = Client::open(gateway.address).await;
    let mut two = Client::open(gateway.address).await;
    let (code, reason) = Client::connect(gateway.address).await.close().await;
    assert_eq!((code, reason.contains("address")), (4429, true), "{reason}");
    is_served(&mut one).await;
    is_served(&mut two).await;
    one.raw(0x88, &1000u16.to_be_bytes()).await;
    one.close().await;
    // The seat is free once the gateway has seen the socket closed.
    drop(one);
    for _ in 0..500 {
        let mut three = Client::connect(gateway.address).await;
        three.send(ClientFrame::Hello(pb::ClientHello::default())).await;
        if matches!(three.next().await, Received::Frame(Frame::Welcome(_))) {
            gateway.stop().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the seat is not given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_too_much_is_closed() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(
        &kafka,
        limited(LimitSettings {
            messages: 10,
            ..LimitSettings::default()
        }),
    )
    .await;
    let mut witness = Client::open(gateway.address).await;
    let mut flood = Client::open(gateway.address).await;
    for nonce in 0..200 {
        flood.send(ClientFrame::Ping(pb::Ping { nonce })).await;
    }
    let (code, reason) = flood.close().await;
    assert_eq!((code, reason.as_str()), (4429, "over 10 messages a second"));
    // A subscription costs ten: the fourth is over what was saved.
    let mut subscriber = Client::open(gateway.address).await;
    for id in 1..=100 {
        subscriber
            .send(ClientFrame::Subscribe(subscribe(id, Mode::Latest)))
            .await;
    }
    assert_eq!(subscriber.close().await.0, 4429);
    is_served(&mut witness).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_subscriptions() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::open(gateway.address).await;
    for id in 1..=1000 {
        let mode = [Mode::All, Mode::Latest, Mode::Series, Mode::Presence][id as usize % 4];
        client.send(ClientFrame::Subscribe(subscribe(id, mode))).await;
    }
    let (mut subscribed, mut refused) = (0, 0);
    while subscribed + refused < 1000 {
        match client.frame().await {
            Frame::Subscribed(_) => subscribed += 1,
            Frame::Error(error) => {
                assert_eq!(error.code(), ErrorCode::Limit, "{}", error.message);
                refused += 1;
            }
            Frame::CaughtUp(_) | Frame::Presence(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((subscribed, refused), (64, 936));
    is_served(&mut client).await;
    assert_eq!(gateway.metric("subscriptions"), 64.0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn globs_that_match_everything_and_globs_that_are_many() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(
        &kafka,
        limited(LimitSettings {
            globs: 130,
            ..LimitSettings::default()
        }),
    )
    .await;
    let mut client = Client::open(gateway.address).await;
    let twisted = "*a".repeat(128);
    let everything: Vec<String> = [
        "*",
        "**",
        "?*",
        "{*,**,?}",
        "[!/]*",
        "*?*?*",
        "**/*",
        twisted.as_str(),
    ]
    .into_iter()
    .map(String::from)
    .collect();
    for (id, mode) in (1..).zip([Mode::All, Mode::Latest, Mode::Series]) {
        client
            .subscribe(pb::Subscribe {
                devices: everything.clone(),
                metrics: everything.clone(),
                ..subscribe(id, mode)
            })
            .await;
    }
    let many = |id, count: usize| pb::Subscribe {
        devices: (0..count)
            .map(|i| format!("{twisted}{i}").split_off(200))
            .collect(),
        ..subscribe(id, Mode::All)
    };
    client.subscribe(many(4, 64)).await;
    client.send(ClientFrame::Subscribe(many(5, 19))).await;
    let refused = loop {
        match client.frame().await {
            Frame::Error(error) => break error,
            Frame::CaughtUp(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((refused.id, refused.code()), (5, ErrorCode::Limit));
    assert!(refused.message.contains("130"), "{}", refused.message);
    // One that is replaced makes room for what comes in its place.
    client.subscribe(many(4, 60)).await;
    client.subscribe(many(5, 19)).await;
    kafka.put(&batch(&"a".repeat(128), 1, 5)).await;
    let (mut data, mut latest, mut series) = (0, 0, 0);
    while data < 1 || latest < 1 || series < 1 {
        match client.frame().await {
            Frame::Data(_) => data += 1,
            Frame::Latest(_) => latest += 1,
            Frame::Series(_) => series += 1,
            Frame::CaughtUp(_) => {}
            other => panic!("{other:?}"),
        }
    }
    gateway.stop().await;
}

/// Connections that send their request as slowly as they can, or nothing, or too much.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_its_time_and_size() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(
        &kafka,
        GatewaySettings {
            hello_timeout: Duration::from_secs(2),
            ..settings()
        },
    )
    .await;
    let text = request(gateway.address, &["Sec-WebSocket-Protocol: headwater.v1"]);
    let trickle = async {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        for byte in text.as_bytes() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
        let mut answer = Vec::new();
        // Reset or closed: it has been let go before it came to its end.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(
            !answer.starts_with(b"HTTP/1.1 101"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    };
    let silent = async {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    let half = async {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(&text.as_bytes()[..60]).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    let great = async {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let line = format!("X-Long: {}\r\n", "x".repeat(1000));
        let _ = stream.write_all(&text.as_bytes()[..text.len() - 2]).await;
        for _ in 0..10_000 {
            if stream.write_all(line.as_bytes()).await.is_err() {
                break;
            }
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(
            !answer.starts_with(b"HTTP/1.1 101"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    };
    let all = async { tokio::join!(trickle, silent, half, great) };
    tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .expect("all of them are let go");
    is_served(&mut Client::open(gateway.address).await).await;
    gateway.stop().await;
}

/// Sockets that one end has left, with a word and without; and one that stops in the middle of a message.
#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_are_half_open() {
    let kafka = Kafka::start();
    let short = GatewaySettings {
        keep_alive: Duration::from_secs(1),
        ..settings()
    };
    let gateway = Gateway::start(&kafka, short).await;
    let mut witness = Client::open(gateway.address).await;
    witness.subscribe(subscribe(1, Mode::All)).await;
    witness.caught_up().await;
    let mut others = vec![];
    for _ in 0..4 {
        let mut client = Client::open(gateway.address).await;
        client.subscribe(subscribe(1, Mode::All)).await;
        others.push(client);
    }
    assert_eq!(gateway.metric("connections"), 5.0);
    let [ended, reset, silent, broken] = &mut others[..] else {
        panic!()
    };
    // Says that it writes no more, and would still read.
    ended.stream.shutdown().await.unwrap();
    // Is gone without a word of WebSocket's.
    reset.stream.set_zero_linger().unwrap();
    drop(std::mem::replace(
        &mut reset.stream,
        TcpStream::connect(gateway.address).await.unwrap(),
    ));
    // Takes what comes and answers nothing, as a peer behind a line that was cut; and one whose message never ends.
    broken.bytes(&[0x82, 0xfe, 0x40]).await;
    let served = async {
        for seq in 1.. {
            kafka.put(&batch("gw-1", seq, 3)).await;
            witness.data().await;
            if gateway.metric("connections") == 1.0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), served)
        .await
        .expect("all four are let go");
    for client in [ended, silent, broken] {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(60), client.stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "the gateway's end is closed too");
    }
    is_served(&mut witness).await;
    gateway.stop().await;
}

/// A client that reads a byte now and then holds its window, answers no ping in time, and is let go.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_byte_by_byte() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(
        &kafka,
        GatewaySettings {
            window_bytes: ByteSize::mib(64),
            log: ByteSize::mib(1),
            keep_alive: Duration::from_secs(1),
            ..settings()
        },
    )
    .await;
    let mut witness = Client::open(gateway.address).await;
    witness.subscribe(subscribe(1, Mode::All)).await;
    witness.caught_up().await;
    let mut slow = Client::with(gateway.address, &["Sec-WebSocket-Protocol: headwater.v1"]).await;
    slow.hello(window(u32::MAX, u64::MAX)).await;
    slow.subscribe(subscribe(1, Mode::All)).await;
    slow.caught_up().await;
    let big = batch("gw-1", 1, 5000);
    for _ in 0..1000 {
        kafka.put(&big).await;
        witness.data().await;
    }
    let closed = async {
        while gateway.metric("connections") > 1.0 {
            let _ = tokio::time::timeout(Duration::from_millis(100), slow.stream.read_u8()).await;
            // What has come already is read without waiting, and the witness may not say much more a second than others.
            tokio::time::sleep(Duration::from_millis(20)).await;
            // Whoever answers pings stays.
            witness.send(ClientFrame::Ping(pb::Ping { nonce: 1 })).await;
            while !matches!(witness.frame().await, Frame::Pong(_)) {}
        }
    };
    tokio::time::timeout(Duration::from_secs(60), closed)
        .await
        .expect("it is let go");
    drop(witness);
    is_served(&mut Client::open(gateway.address).await).await;
    gateway.stop().await;
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Connected,
    Greeted,
    Subscribed,
    /// Waits for the offsets of a time.
    Resolving,
    /// With frames to send and no window.
    Closed,
}

/// Every frame in every state: an answer, silence, or its close code; never a panic, and others are served on.
#[tokio::test(flavor = "multi_thread")]
async fn every_frame_in_every_state() {
    let kafka = Kafka::start();
    let device = device_in(1);
    for seq in 1..=20 {
        kafka.put(&batch(&device, seq, 5)).await;
    }
    let gateway = Gateway::start(
        &kafka,
        GatewaySettings {
            log_backfill: 1,
            ..settings()
        },
    )
    .await;
    let cursor = |partition, offset| {
        let positions = vec![pb::PartitionOffset { partition, offset }];
        from(At::Cursor(pb::Cursor { positions }))
    };
    let started = |mode, start| {
        ClientFrame::Subscribe(pb::Subscribe {
            start,
            ..subscribe(1, mode)
        })
    };
    let ack = |frames_total, bytes_total, window| {
        ClientFrame::Ack(pb::ClientAck {
            frames_total,
            bytes_total,
            window,
        })
    };
    let frames = [
        (
            "hello",
            ClientFrame::Hello(pb::ClientHello::default()),
            Some(4400),
        ),
        ("subscribe", started(Mode::All, from(At::TimeUs(1))), None),
        (
            "subscribe",
            started(Mode::Series, from(At::TimeUs(i64::MIN))),
            None,
        ),
        (
            "subscribe",
            started(Mode::Series, from(At::TimeUs(i64::MAX))),
            None,
        ),
        ("the future", started(Mode::Series, cursor(1, i64::MAX)), None),
        ("the future", started(Mode::All, cursor(1, i64::MAX)), None),
        ("other partitions", started(Mode::Series, cursor(77, 1)), None),
        (
            "unsubscribe",
            ClientFrame::Unsubscribe(pb::Unsubscribe { id: 1 }),
            None,
        ),
        (
            "unsubscribe",
            ClientFrame::Unsubscribe(pb::Unsubscribe { id: 0 }),
            None,
        ),
        ("ack", ack(0, 0, None), None),
        ("window", ack(0, 0, window(u32::MAX, u64::MAX)), None),
        ("window", ack(0, 0, window(0, 0)), None),
        ("beyond", ack(u64::MAX, u64::MAX, None), Some(4409)),
        ("token", ClientFrame::Token(pb::Token::default()), None),
        (
            "token",
            ClientFrame::Token(pb::Token {
                token: "a.b.c".into(),
            }),
            None,
        ),
        ("command", ClientFrame::Command(pb::Command::default()), None),
        ("ping", ClientFrame::Ping(pb::Ping { nonce: u64::MAX }), None),
    ];
    for state in [
        State::Connected,
        State::Greeted,
        State::Subscribed,
        State::Resolving,
        State::Closed,
    ] {
        for (name, frame, code) in &frames {
            let mut client = Client::connect(gateway.address).await;
            let window = if state == State::Closed {
                window(0, 0)
            } else {
                None
            };
            if state != State::Connected {
                client.hello(window).await;
            }
            match state {
                State::Connected | State::Greeted => {}
                State::Subscribed => drop(client.subscribe(subscribe(1, Mode::Series)).await),
                State::Resolving => client.send(started(Mode::All, from(At::TimeUs(1)))).await,
                State::Closed => client.send(started(Mode::Series, cursor(1, 0))).await,
            }
            client.send(frame.clone()).await;
            let code = match state {
                State::Connected if *name == "hello" => None,
                State::Connected => Some(4400),
                _ => *code,
            };
            if let Some(code) = code {
                assert_eq!(client.close().await.0, code, "{state:?} {name}");
                continue;
            }
            client.send(ClientFrame::Ping(pb::Ping { nonce: 3 })).await;
            loop {
                match client.next().await {
                    Received::Frame(Frame::Pong(pong)) if pong.nonce == 3 => break,
                    Received::Frame(_) => {}
                    other => panic!("{state:?} {name}: {other:?}"),
                }
            }
        }
    }
    is_served(&mut Client::open(gateway.address).await).await;
    gateway.stop().await;
}
