//! What networks and brokers do to a connection: silence, slowness, versions, failover; and bytes, counted on both sides.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use headwater_agent::config::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::bridge::Bridge;
use crate::library::{Running, config, wait_for};
use crate::mosquitto::Mosquitto;
use crate::port::free_port;
use crate::proxy::Proxy;

/// A listener that answers whatever comes with `answers`, one a connection's read, and then is silent.
async fn scripted(answers: &'static [&'static [u8]]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let mut answers = answers.iter();
                while let Ok(1..) = stream.read(&mut buffer).await {
                    if let Some(answer) = answers.next() {
                        stream.write_all(answer).await.unwrap();
                    }
                }
            });
        }
    });
    port
}

const CONNACK: &[u8] = &[0x20, 3, 0, 0, 0];
const TAKEN_OVER: &[u8] = &[0xe0, 2, 0x8e, 0];
const REFUSED: &[u8] = &[0x20, 8, 0, 0x87, 5, 0x1f, 0, 2, b'n', b'o'];
const SUBACK: &[u8] = &[0x90, 5, 0, 1, 0, 1, 1];

#[tokio::test]
async fn a_broker_that_falls_silent_or_ends_it_is_found_out_wherever_it_does() {
    let cases: [(&[&[u8]], &str); 6] = [
        (&[], "not answered within 1s (uplink.connect_timeout)"),
        (&[CONNACK], "has not answered the subscription within 1s"),
        (&[CONNACK, SUBACK], "the broker has not answered for 1.5s"),
        (
            &[CONNACK, TAKEN_OVER],
            "session taken over by another client with this client id (0x8e)",
        ),
        (
            &[REFUSED],
            "the broker wants credentials, not authorized (0x87): \"no\"; set uplink.user",
        ),
        (
            &[b"HTTP/1.1 400 Bad Request\r\n\r\n"],
            "what answers is no MQTT broker",
        ),
    ];
    for (answers, what) in cases {
        let mut config = config(&format!("mqtt://127.0.0.1:{}", scripted(answers).await), 10);
        config.uplink.connect_timeout = Duration::from_secs(1);
        config.uplink.keep_alive = Duration::from_secs(1);
        let agent = Running::start(config);
        let why = agent.last_error().await;
        assert!(why.contains(what), "{what:?} is not in: {why}");
        agent.stop().await;
    }
}

/// As when a cable is pulled: nobody says that it is over.
#[tokio::test]
async fn a_path_that_takes_and_gives_nothing_is_left_and_all_is_delivered_when_it_is_whole() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let proxy = Proxy::start(broker.port());
    let mut config = config(&proxy.address(), 40_000);
    config.uplink.keep_alive = Duration::from_secs(1);
    config.batch.readings = 2_000;
    let agent = Running::start(config);
    agent
        .until("some acknowledged", 20, |stats| stats.acked_readings > 0)
        .await;
    proxy.network.frozen.store(true, Ordering::Relaxed);
    let why = agent.last_error_with("for 1.5s").await;
    assert!(
        why.contains("has taken nothing") || why.contains("has not answered"),
        "{why}"
    );
    proxy.network.break_off();
    proxy.network.frozen.store(false, Ordering::Relaxed);
    agent.all_acked(80_000).await;
    agent.stop().await;
    assert_eq!(bridge.check_chains(), (80_000, 0));
}

/// One batch takes much longer to pass than a keep-alive: slow is not dead.
#[tokio::test]
async fn a_slow_path_is_not_taken_for_a_dead_one() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let proxy = Proxy::start(broker.port());
    proxy.network.rate.store(32 * 1024, Ordering::Relaxed);
    let mut config = config(&proxy.address(), 0);
    // Numbers of noise, so that one frame has about 90 KB.
    let mut text = "time_ms,a,b,c,d,e,f,g,h\n".to_string();
    let mut noise = 1u64;
    for row in 0..1_500 {
        write!(text, "{}", 1_700_000_000_000u64 + row).unwrap();
        for _ in 0..8 {
            noise = noise
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            write!(text, ",{}", f64::from_bits(noise >> 12 | 0x3ff0_0000_0000_0000)).unwrap();
        }
        text.push('\n');
    }
    let headwater_agent::config::SourceKind::Replay(replay) = &mut config.sources[0].kind else {
        unreachable!();
    };
    replay.trace = headwater_agent::config::Trace::Text(text.into());
    config.batch.readings = 12_000;
    config.batch.bytes = headwater_config::ByteSize::kib(1024);
    config.uplink.window.bytes = headwater_config::ByteSize::kib(1024);
    config.uplink.keep_alive = Duration::from_secs(2);
    config.uplink.ack_timeout = Duration::from_secs(60);
    let agent = Running::start(config);
    let stats = agent.all_acked(12_000).await;
    assert_eq!((stats.reconnects, stats.resent_batches), (0, 0));
    assert!(stats.link_sent_bytes > 50_000, "{stats:?}");
    agent.stop().await;
}

#[tokio::test]
async fn a_broker_of_mqtt_3_1_1_alone_is_spoken_to_in_it() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let proxy = Proxy::start(broker.port());
    for (protocol, only_311, level) in [
        (Protocol::Auto, false, 5),
        (Protocol::Auto, true, 4),
        (Protocol::V311, false, 4),
        (Protocol::V5, false, 5),
    ] {
        proxy.network.only_311.store(only_311, Ordering::Relaxed);
        let mut config = config(&proxy.address(), 10);
        config.uplink.protocol = protocol;
        let agent = Running::start(config);
        agent.all_acked(20).await;
        assert_eq!(proxy.network.level.load(Ordering::Relaxed), level, "{protocol:?}");
        agent.stop().await;
    }
    // One that may speak nothing but 5 says why it cannot.
    proxy.network.only_311.store(true, Ordering::Relaxed);
    let mut config = config(&proxy.address(), 10);
    config.uplink.protocol = Protocol::V5;
    let agent = Running::start(config);
    let why = agent.last_error().await;
    assert!(
        why.contains("unsupported protocol version") && why.contains("uplink.protocol"),
        "{why}"
    );
    agent.stop().await;
}

#[tokio::test]
async fn a_broker_that_grants_no_commands_does_not_stop_readings() {
    let mut broker = Mosquitto::stopped();
    let rules = [
        "topic readwrite hw1/+/+/ack",
        "topic write hw1/#",
        "topic read hw1/+/+/data",
        "topic read hw1/+/+/hello",
        "topic read hw1/+/+/series",
        "topic read hw1/+/+/status",
    ];
    let folder = tempfile::tempdir().unwrap();
    let acl = folder.path().join("acl");
    std::fs::write(&acl, rules.join("\n") + "\n").unwrap();
    broker.configure(&format!("allow_anonymous true\nacl_file {}\n", acl.display()));
    broker.start();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    for protocol in [Protocol::V5, Protocol::V311] {
        let mut config = config(&broker.address(), 10);
        config.uplink.protocol = protocol;
        let agent = Running::start(config);
        agent.all_acked(20).await;
        agent.stop().await;
    }
}

#[tokio::test]
async fn when_the_first_broker_is_away_the_second_serves_until_the_first_is_back() {
    let (mut first, second) = (Mosquitto::stopped(), Mosquitto::started());
    let bridge = Bridge::default();
    let _relays = (bridge.run(first.port()), bridge.run(second.port()));
    let mut config = config("", 10);
    config.uplink.broker = vec![first.address(), second.address()].into();
    config.uplink.return_after = Duration::from_secs(1);
    let agent = Running::start(config);
    let stats = agent.all_acked(20).await;
    agent.at(&second.address()).await;
    // Looks that find nobody cost the connection that stands nothing.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(agent.handle.stats().reconnects, stats.reconnects);
    first.start();
    agent.at(&first.address()).await;
    first.kill();
    agent.at(&second.address()).await;
    agent.stop().await;
    assert_eq!(bridge.check_chains(), (20, 0));
}

#[tokio::test]
async fn every_byte_of_the_socket_is_counted() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    for protocol in [Protocol::V5, Protocol::V311] {
        let proxy = Proxy::start(broker.port());
        let mut config = config(&proxy.address(), 500);
        config.uplink.protocol = protocol;
        let agent = Running::start(config);
        agent.all_acked(1_000).await;
        proxy.network.break_off();
        agent
            .until("connected again", 20, |stats| {
                stats.reconnects > 0 && stats.connected
            })
            .await;
        let stats = agent.stop().await;
        let seen = || {
            let network = &proxy.network;
            (
                network.sent.load(Ordering::Relaxed),
                network.received.load(Ordering::Relaxed),
            )
        };
        wait_for("the last byte through the proxy", || {
            seen().0 >= stats.link_sent_bytes
        })
        .await;
        assert_eq!(seen().0, stats.link_sent_bytes);
        // What was on its way when the connection was broken off has not arrived.
        assert!(
            stats.link_received_bytes <= seen().1 && stats.link_received_bytes + 200 > seen().1,
            "{stats:?}"
        );
        assert_eq!(stats.sent_bytes, stats.link_sent_bytes);
        assert_eq!(stats.received_bytes, stats.link_received_bytes);
        assert!(stats.payload_bytes > 0 && stats.payload_bytes < stats.sent_bytes);
    }
}

/// What a batch costs besides its payload: with MQTT 5 the topic is said once a connection.
#[tokio::test]
async fn a_topic_is_said_once() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let mut costs = Vec::new();
    for protocol in [Protocol::V5, Protocol::V311] {
        let mut config = config(&broker.address(), 2_000);
        config.uplink.protocol = protocol;
        let agent = Running::start(config);
        let stats = agent.all_acked(4_000).await;
        agent.stop().await;
        costs.push(stats.sent_bytes - stats.payload_bytes);
    }
    // 200 batches: of the 17 bytes of the topic, 4 of the alias are left.
    assert!(costs[0] + 200 * 12 < costs[1], "{costs:?}");
}

/// What hangs in the name server hangs there alone.
#[tokio::test]
async fn a_name_that_does_not_resolve_is_said_and_another_broker_serves() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let nowhere = "mqtt://no-such-host.invalid".to_string();
    let mut config = config(&nowhere, 10);
    config.uplink.connect_timeout = Duration::from_secs(1);
    // Alone, since the message ends when another broker is reached.
    let agent = Running::start(config.clone());
    let why = agent.last_error().await;
    assert!(
        why.contains("no-such-host.invalid") && why.contains("name"),
        "{why}"
    );
    agent.stop().await;
    config.uplink.broker = vec![nowhere, broker.address()].into();
    let agent = Running::start(config);
    agent.all_acked(20).await;
    agent.stop().await;
}

#[tokio::test]
async fn nobody_listening_is_said_with_the_address() {
    let agent = Running::start(config(&format!("mqtt://127.0.0.1:{}", free_port()), 10));
    let why = agent.last_error().await;
    assert!(
        why.contains("no connection to 127.0.0.1:") && why.contains("refused"),
        "{why}"
    );
    agent.stop().await;
}
