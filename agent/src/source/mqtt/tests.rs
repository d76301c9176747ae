//! Against a real Mosquitto, with payloads as the programs' documents show them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use headwater_foreign::{Format, Settings};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};

use super::super::probe::Probe;
use super::*;
use crate::config::MqttSubscription;
use mosquitto::Mosquitto;
use proxy::Proxy;

#[path = "../../../tests/link/mosquitto.rs"]
mod mosquitto;
#[allow(dead_code, reason = "other tests ask more of it")]
#[path = "../../../tests/link/proxy.rs"]
mod proxy;

/// A publisher with a connection of its own.
struct Publisher {
    client: AsyncClient,
    eventloop: EventLoop,
}

impl Publisher {
    fn new(broker: &Mosquitto) -> Self {
        let mut options = MqttOptions::new("publisher", "127.0.0.1", broker.port());
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, eventloop) = AsyncClient::new(options, 10);
        Self { client, eventloop }
    }

    /// Publishes, and waits until the broker has it.
    async fn publish(&mut self, topic: &str, retain: bool, payload: impl Into<Vec<u8>>) {
        let payload = payload.into();
        self.client
            .publish(topic, QoS::AtLeastOnce, retain, payload)
            .await
            .unwrap();
        let acknowledged = async {
            while !matches!(
                self.eventloop.poll().await.unwrap(),
                Event::Incoming(Packet::PubAck(_))
            ) {}
        };
        tokio::time::timeout(Duration::from_secs(20), acknowledged)
            .await
            .unwrap();
    }
}

fn settings(broker: &Mosquitto, subscriptions: &str) -> MqttSource {
    let text = format!("broker = '{}'\n{subscriptions}", broker.address());
    toml::from_str(&text).unwrap()
}

/// Runs the source and waits until it is subscribed.
async fn subscribed(settings: &MqttSource, rate: Option<u32>) -> Probe {
    let probe = Probe::limited(Mqtt::open(settings).unwrap(), rate);
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    while probe.output.meter().stats().state != crate::stats::SourceState::Running {
        assert!(tokio::time::Instant::now() < until, "not subscribed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    probe
}

const ZIGBEE2MQTT: &str = r#"
    [[subscription]]
    topic = "zigbee2mqtt/+"
    map = { name = "{2}.{key}", skip = ["linkquality", "update*"], units = { temperature = "Cel" } }

    [[subscription]]
    topic = "zigbee2mqtt/+/availability"
    map = { name = "{2}.available", booleans = { online = true, offline = false } }
"#;

#[tokio::test]
async fn zigbee2mqtt() {
    let broker = Mosquitto::started();
    let mut probe = subscribed(&settings(&broker, ZIGBEE2MQTT), None).await;
    let mut publisher = Publisher::new(&broker);
    publisher
        .publish("zigbee2mqtt/bridge/state", false, r#"{"state":"online"}"#)
        .await;
    publisher
        .publish("zigbee2mqtt/kitchen/availability", false, r#"{"state":"online"}"#)
        .await;
    let payload =
        r#"{"battery":97.5,"linkquality":134,"temperature":21.37,"update":{"state":"idle"},"action":null}"#;
    publisher.publish("zigbee2mqtt/kitchen", false, payload).await;
    assert_eq!(
        probe.readings(3).await,
        [
            "kitchen.available=true",
            "kitchen.battery=97.5",
            "kitchen.temperature=21.37"
        ]
    );
    assert_eq!(probe.output.meter().stats().errors, 0);
}

#[tokio::test]
async fn tasmota_and_raw_values() {
    let broker = Mosquitto::started();
    let subscriptions = r#"
        [[subscription]]
        topic = "tele/+/SENSOR"
        map = { name = "{2}.{key}", time = "/Time", utc_offset = "+01:00", skip = ["TempUnit", "*.Id"] }

        [[subscription]]
        topic = "home/#"
        except = ["home/secret/#"]
        map = { format = "value", name = "{2..}" }
    "#;
    let mut probe = subscribed(&settings(&broker, subscriptions), None).await;
    let mut publisher = Publisher::new(&broker);
    let payload =
        r#"{"Time":"2023-11-14T23:13:20","DS18B20":{"Id":"01131B","Temperature":20.6},"TempUnit":"C"}"#;
    publisher.publish("tele/plug/SENSOR", false, payload).await;
    publisher.publish("home/secret/pin", false, "1234").await;
    publisher.publish("home/boiler/flow temp", false, "61.5").await;
    let readings = probe.timed(2).await;
    assert_eq!(
        readings[0],
        (1_700_000_000_000_000, "plug.DS18B20.Temperature=20.6".to_string())
    );
    assert_eq!(readings[1].1, "boiler.flow temp=61.5");
    publisher.publish("home/boiler/state", false, "heating").await;
    probe
        .reports(
            1,
            "\"home/boiler/state\": \"boiler.state\": \"heating\" is not a number",
        )
        .await;
}

#[tokio::test]
async fn retained_messages_are_old_and_left_out_unless_they_are_asked_for() {
    let broker = Mosquitto::started();
    let mut publisher = Publisher::new(&broker);
    publisher.publish("a/kept", true, "1").await;
    publisher.publish("b/kept", true, "2").await;
    let subscriptions = r#"
        [[subscription]]
        topic = "a/+"
        map = { format = "value" }

        [[subscription]]
        topic = "b/+"
        retained = true
        map = { format = "value" }
    "#;
    let mut probe = subscribed(&settings(&broker, subscriptions), None).await;
    assert_eq!(probe.readings(1).await, ["b.kept=2"]);
    // News that are kept as well come as news to who listens already.
    publisher.publish("a/kept", true, "3").await;
    assert_eq!(probe.readings(1).await, ["a.kept=3"]);
    publisher.publish("a/kept", true, "").await;
    publisher.publish("a/kept", false, "4").await;
    assert_eq!(probe.readings(1).await, ["a.kept=4"]);
    assert_eq!(probe.output.meter().stats().errors, 0);
}

#[tokio::test]
async fn hostile_messages_cost_themselves_only() {
    let broker = Mosquitto::started();
    let subscriptions = "[[subscription]]\ntopic = '#'\nmap = { name = '{1}.{key}', max_payload = '4 KiB' }";
    let mut probe = subscribed(&settings(&broker, subscriptions), None).await;
    let mut publisher = Publisher::new(&broker);
    for (errors, topic, payload, part) in [
        (
            1,
            "x",
            vec![b'['; 100_000],
            "100000 bytes is longer than max_payload",
        ),
        (2, "x", vec![b'['; 1_000], "recursion limit"),
        (3, "x", vec![0xff, 0xfe], "UTF-8"),
        (4, "x", b"{\"a\":1".to_vec(), "not JSON: EOF"),
        (5, "x", b"{\"a\\u0007\":1}".to_vec(), "control characters"),
    ] {
        publisher.publish(topic, false, payload).await;
        probe.reports(errors, part).await;
    }
    publisher.publish("🌡️ é/x", false, r#"{"ü":1}"#).await;
    publisher.publish(&"deep/".repeat(200), false, "{}").await;
    publisher.publish("ok", false, r#"{"v":2}"#).await;
    assert_eq!(probe.readings(2).await, ["🌡️ é.ü=1", "ok.v=2"]);
}

#[tokio::test]
async fn a_flood_is_dropped_beyond_the_share_and_counted() {
    let broker = Mosquitto::started();
    let subscriptions = "[[subscription]]\ntopic = 'n'\nmap = { format = 'value' }";
    let mut probe = subscribed(&settings(&broker, subscriptions), Some(10)).await;
    let mut publisher = Publisher::new(&broker);
    for number in 0..300 {
        publisher.publish("n", false, number.to_string()).await;
        probe.drain();
    }
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let stats = probe.output.meter().stats();
        if stats.readings + stats.dropped_readings == 300 {
            assert!(stats.readings >= 100 && stats.dropped_readings > 0, "{stats:?}");
            break;
        }
        assert!(tokio::time::Instant::now() < until, "{stats:?}");
        probe.drain();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_broker_that_goes_away_is_a_failure_that_the_agent_tries_again() {
    let mut broker = Mosquitto::started();
    let settings = settings(&broker, ZIGBEE2MQTT);
    let mut probe = subscribed(&settings, None).await;
    broker.kill();
    let failure = probe.failure().await;
    assert!(
        failure.starts_with(&format!("{}: ", broker.address())),
        "{failure}"
    );
    let failure = Probe::start(Mqtt::open(&settings).unwrap()).failure().await;
    assert!(failure.contains("onnection refused"), "{failure}");
    broker.start();
    let mut probe = subscribed(&settings, None).await;
    Publisher::new(&broker)
        .publish("zigbee2mqtt/x", false, r#"{"v":1}"#)
        .await;
    assert_eq!(probe.readings(1).await, ["x.v=1"]);
}

#[tokio::test]
async fn credentials_are_sent_and_a_refusal_says_what_to_do() {
    let broker = Mosquitto::with_user("agent", "secret");
    let password_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password_file.path(), "secret\n").unwrap();
    let mut settings = settings(&broker, ZIGBEE2MQTT);
    let failure = Probe::start(Mqtt::open(&settings).unwrap()).failure().await;
    assert!(
        failure.contains("the broker wants credentials") && failure.contains("set user and password_file"),
        "{failure}"
    );
    settings.user = Some("agent".into());
    settings.password_file = Some(password_file.path().into());
    subscribed(&settings, None).await;
    std::fs::write(password_file.path(), "wrong\n").unwrap();
    let failure = Probe::start(Mqtt::open(&settings).unwrap()).failure().await;
    assert!(
        failure.contains("the broker refuses user \"agent\"")
            && failure.contains("check user and password_file"),
        "{failure}"
    );
}

#[tokio::test]
async fn both_versions_of_mqtt_are_spoken_and_the_older_with_a_broker_that_knows_no_other() {
    let broker = Mosquitto::started();
    let mut publisher = Publisher::new(&broker);
    for (protocol, only_311, level) in [
        (Protocol::Auto, false, 5),
        (Protocol::Auto, true, 4),
        (Protocol::V311, false, 4),
        (Protocol::V5, false, 5),
    ] {
        let proxy = Proxy::start(broker.port());
        proxy.network.only_311.store(only_311, Ordering::Relaxed);
        let mut settings = settings(&broker, ZIGBEE2MQTT);
        settings.broker = proxy.address();
        settings.protocol = protocol;
        let mut probe = subscribed(&settings, None).await;
        publisher.publish("zigbee2mqtt/x", false, r#"{"v":1}"#).await;
        assert_eq!(probe.readings(1).await, ["x.v=1"]);
        assert_eq!(proxy.network.level.load(Ordering::Relaxed), level, "{protocol:?}");
    }
    let proxy = Proxy::start(broker.port());
    proxy.network.only_311.store(true, Ordering::Relaxed);
    let mut settings = settings(&broker, ZIGBEE2MQTT);
    settings.broker = proxy.address();
    settings.protocol = Protocol::V5;
    let failure = Probe::start(Mqtt::open(&settings).unwrap()).failure().await;
    assert!(
        failure.contains("unsupported protocol version") && failure.contains("see protocol"),
        "{failure}"
    );
}

#[tokio::test]
async fn a_broker_that_falls_silent_is_found_out_by_the_keep_alive() {
    let broker = Mosquitto::started();
    let proxy = Proxy::start(broker.port());
    let mut settings = settings(&broker, ZIGBEE2MQTT);
    settings.broker = proxy.address();
    settings.keep_alive = Duration::from_secs(1);
    let mut probe = subscribed(&settings, None).await;
    proxy.network.frozen.store(true, Ordering::Relaxed);
    let failure = probe.failure().await;
    assert!(failure.contains("has not answered for 1.5s"), "{failure}");
    // And one that never answers.
    settings.connect_timeout = Duration::from_secs(1);
    let failure = Probe::start(Mqtt::open(&settings).unwrap()).failure().await;
    assert!(
        failure.contains("not answered within 1s (connect_timeout)"),
        "{failure}"
    );
}

/// A gateway's local broker that goes by certificates, of which the source's is renewed while it listens.
#[cfg(feature = "tls")]
#[tokio::test]
async fn certificates_on_both_sides_are_used_and_used_anew_when_they_are_renewed() {
    use crate::mqtt::authority::Authority;
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let (server, own) = (
        authority.valid("server", "localhost"),
        authority.valid("own", "first"),
    );
    let mut broker = Mosquitto::stopped();
    let port = crate::port::free_port();
    let log = folder.path().join("log");
    broker.configure(&format!(
        "allow_anonymous true\nlog_dest file {}\nlistener {port} 127.0.0.1\nuse_identity_as_username true\n\
         certfile {}\nkeyfile {}\ncafile {}\nrequire_certificate true\n",
        log.display(),
        server.cert.display(),
        server.key.display(),
        authority.file.display()
    ));
    broker.start();
    let mut settings = settings(&broker, ZIGBEE2MQTT);
    settings.broker = format!("mqtts://localhost:{port}");
    let failure = Probe::start(Mqtt::open(&settings).unwrap()).failure().await;
    assert!(
        failure.contains("authority") && failure.contains("set tls.ca_file"),
        "{failure}"
    );
    settings.tls.ca_file = Some(authority.file.clone());
    let failure = Probe::start(Mqtt::open(&settings).unwrap()).failure().await;
    assert!(
        failure.contains("set tls.cert_file and tls.key_file"),
        "{failure}"
    );
    (settings.tls.cert_file, settings.tls.key_file) = (Some(own.cert), Some(own.key));
    settings.tls.look_every = Duration::from_secs(1);
    let mut probe = subscribed(&settings, None).await;
    let mut publisher = Publisher::new(&broker);
    publisher.publish("zigbee2mqtt/x", false, r#"{"v":1}"#).await;
    assert_eq!(probe.readings(1).await, ["x.v=1"]);
    // So the broker names clients.
    let connected = |name: &str| {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        log.lines()
            .any(|line| line.contains("New client connected") && line.contains(&format!("u'{name}'")))
    };
    assert!(connected("first") && !connected("second"));
    authority.valid("own", "second");
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    while !connected("second") {
        assert!(
            tokio::time::Instant::now() < until,
            "the new certificate is not used"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Subscribed again, without a failure in between.
    let again = async {
        loop {
            publisher.publish("zigbee2mqtt/x", false, r#"{"v":2}"#).await;
            if !probe.is_silent() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), again)
        .await
        .unwrap();
    assert_eq!(probe.output.meter().stats().failures, 0);
}

#[test]
fn settings_that_make_no_sense_are_refused_by_key() {
    let subscription = |topic: &str, map: Settings| MqttSubscription {
        topic: topic.into(),
        map,
        ..MqttSubscription::default()
    };
    let with = |subscription| MqttSource {
        subscription,
        ..MqttSource::default()
    };
    let one = || vec![subscription("a", Settings::default())];
    for (settings, part) in [
        (with(Vec::new()), "`subscription`: there is none"),
        (
            with(vec![subscription("a/#/b", Settings::default())]),
            "`subscription`: \"a/#/b\" is not a topic filter",
        ),
        (
            with([one(), one()].concat()),
            "`subscription`: \"a\" stands there twice",
        ),
        (
            with(vec![subscription(
                "a",
                Settings {
                    name: Some("{tags}".into()),
                    format: Format::Json,
                    ..Settings::default()
                },
            )]),
            "`subscription`: \"a\": setting `map`: `name`",
        ),
        (
            MqttSource {
                broker: "tcp://x".into(),
                ..with(one())
            },
            "`broker`: \"tcp://x\" has an unknown scheme",
        ),
        (
            MqttSource {
                tls: config::Tls {
                    ca_file: Some("ca.pem".into()),
                    ..config::Tls::default()
                },
                ..with(one())
            },
            "`tls`: \"mqtt://127.0.0.1:1883\" does not ask for TLS",
        ),
        (
            MqttSource {
                tls: config::Tls {
                    cert_file: Some("own.pem".into()),
                    ..config::Tls::default()
                },
                ..with(one())
            },
            "`tls.cert_file`: its key is missing",
        ),
        (
            MqttSource {
                connect_timeout: Duration::from_millis(10),
                ..with(one())
            },
            "`connect_timeout`: 10ms is not in 1s..=5m",
        ),
        (
            MqttSource {
                keep_alive: Duration::from_millis(10),
                ..with(one())
            },
            "`keep_alive`",
        ),
        (
            MqttSource {
                password_file: Some("/nonexistent".into()),
                ..with(one())
            },
            "`password_file`: there is no user",
        ),
    ] {
        let error = Mqtt::open(&settings).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    }
}
