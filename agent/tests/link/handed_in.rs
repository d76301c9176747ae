//! What other programs hand in, from their end to the relay's; and a flood that costs the others nothing.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headwater_agent::Config;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};

use crate::bridge::Bridge;
use crate::library::Running;
use crate::mosquitto::Mosquitto;
use crate::port::free_port;

fn config(broker: &Mosquitto, sources: &str) -> Config {
    let text = format!(
        "device = 'gw-01'\nbatch.age = '100ms'\nhealth.interval = '0s'\nuplink.broker = '{}'\n{sources}",
        broker.address()
    );
    toml::from_str(&text).unwrap()
}

/// Tries until it works: nobody knows when a source listens.
async fn again<T>(what: &str, mut attempt: impl FnMut() -> std::io::Result<T>) -> T {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(error) => assert!(Instant::now() < until, "{what}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_in_leads_to_the_relay() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    std::fs::write(&log, "").unwrap();
    let (http, tcp, udp) = (free_port(), free_port(), free_port());
    let (path, local) = (log.display(), broker.address());
    let sources = format!(
        r#"
        [[source]]
        type = "http"
        listen = "127.0.0.1:{http}"

        [[source]]
        type = "socket"
        listen = "tcp://127.0.0.1:{tcp}"
        map = {{ format = "influx" }}

        [[source]]
        type = "socket"
        listen = "udp://127.0.0.1:{udp}"
        map = {{ format = "pairs" }}

        [[source]]
        type = "exec"
        command = ["/bin/echo", '{{"exec": 1.5}}']
        interval = "500ms"
        timeout = "500ms"

        [[source]]
        type = "file"
        path = "{path}"
        from = "beginning"
        poll = "50ms"

        # The same broker, as where a gateway has but one.
        [[source]]
        type = "mqtt"
        broker = "{local}"
        [[source.subscription]]
        topic = "zigbee2mqtt/+"
        map = {{ name = "{{2}}.{{key}}" }}
        "#
    );
    let agent = Running::start(config(&broker, &sources));

    let mut file = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
    file.write_all(b"{\"file\": 2.5, \"time\": 1}\n").unwrap();
    let mut stream = again("tcp", || TcpStream::connect(("127.0.0.1", tcp))).await;
    stream.write_all(b"tcp v=3.5\n").unwrap();
    let mut request = again("http", || TcpStream::connect(("127.0.0.1", http))).await;
    let body = r#"{"metrics": {"http": 4.5}}"#;
    let length = body.len();
    write!(
        request,
        "POST /v1/readings HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    tokio::task::block_in_place(|| request.read_to_string(&mut answer)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");

    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (client, mut eventloop) =
        AsyncClient::new(MqttOptions::new("zigbee", "127.0.0.1", broker.port()), 10);
    let expected = [
        ("exec", "1.5"),
        ("file", "2.5"),
        ("tcp.v", "3.5"),
        ("http", "4.5"),
        ("udp", "5.5"),
        ("lamp.power", "6.5"),
    ];
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let missing: Vec<_> = expected
            .iter()
            .filter(|(metric, value)| !bridge.readings(metric).iter().any(|(_, got)| got == value))
            .collect();
        if missing.is_empty() {
            break;
        }
        assert!(Instant::now() < until, "{missing:?} did not come");
        // Again and again, since who is not there yet hears nothing.
        let _ = datagrams.send_to(b"udp 5.5", ("127.0.0.1", udp));
        let publish = client.publish("zigbee2mqtt/lamp", QoS::AtLeastOnce, false, r#"{"power": 6.5}"#);
        publish.await.unwrap();
        while !matches!(
            eventloop.poll().await.unwrap(),
            Event::Incoming(Packet::PubAck(_))
        ) {}
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_datagrams_keeps_no_other_source_waiting() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let udp = free_port();
    let sources = format!(
        r#"
        [[source]]
        type = "socket"
        listen = "udp://127.0.0.1:{udp}"
        rate = 50
        map = {{ format = "pairs", name = "flood" }}

        [[source]]
        type = "simulated"
        prefix = "calm."
        interval = "100ms"
        sensors = 1
        "#
    );
    let agent = Running::start(config(&broker, &sources));
    let flooding = Arc::new(AtomicBool::new(true));
    let flood = {
        let flooding = flooding.clone();
        std::thread::spawn(move || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            while flooding.load(Ordering::Relaxed) {
                for number in 0..100 {
                    let _ = socket.send_to(format!("n {number}").as_bytes(), ("127.0.0.1", udp));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        })
    };
    // The flood is on when its first reading has come; from then on the calm one goes on beside it.
    agent
        .until("the flood", 30, |_| bridge.readings("flood").len() >= 500)
        .await;
    let calm = || {
        let names = bridge.metrics();
        let name = names.into_iter().find(|name| name.starts_with("calm."));
        name.map_or(0, |name| bridge.readings(&name).len())
    };
    let before = calm();
    agent
        .until("the calm source goes on", 60, |_| calm() >= before + 30)
        .await;
    flooding.store(false, Ordering::Relaxed);
    flood.join().unwrap();
    let flooded = bridge.readings("flood").len();
    let stats = agent.handle.status().await;
    let source = &stats.sources[0];
    assert!(source.dropped_readings > 1_000, "{source:?}");
    assert!(flooded < 5_000, "{flooded} of the flood");
    agent.stop().await;
}
