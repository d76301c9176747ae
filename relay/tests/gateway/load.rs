//! Measurements, run by hand:
//!
//! ```text
//! cargo test -p headwater-relay --test gateway -- --ignored --nocapture --test-threads 1 load
//! ```

use std::io::BufRead;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headwater_proto::pb;
use pb::{Mode, server_frame::Frame};
use tokio::io::AsyncReadExt;

use crate::client::{Client, subscribe, window};
use crate::kafka::{Kafka, batch};

/// `headwater-relay gateway` in a process of its own, so that its memory and time are its own.
struct Relay {
    child: Child,
    address: std::net::SocketAddr,
    admin: std::net::SocketAddr,
}

impl Relay {
    async fn start(kafka: &Kafka) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_headwater-relay"))
            .arg("gateway")
            .env("HEADWATER_RELAY_KAFKA__BOOTSTRAP", kafka.settings().bootstrap)
            .env("HEADWATER_RELAY_ADMIN__LISTEN", "127.0.0.1:0")
            .env("HEADWATER_RELAY_GATEWAY__LISTEN", "127.0.0.1:0")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
        let mut find = |before: &str| loop {
            let line = lines.next().unwrap().unwrap();
            if let Some((_, address)) = line.split_once(before) {
                return address.trim().parse().unwrap();
            }
        };
        let admin = find("health and metrics on http://");
        let address = find("dashboards on http://");
        std::thread::spawn(move || lines.for_each(drop));
        let relay = Self {
            child,
            address,
            admin,
        };
        while !relay.get("/readyz").await.contains("gateway kafka: ready") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        relay
    }

    async fn get(&self, path: &str) -> String {
        let text = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut client = Client::request(self.admin, &text).await;
        let mut body = String::new();
        client.stream.read_to_string(&mut body).await.unwrap();
        client.head + &body
    }

    async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await;
        let name = format!("headwater_gateway_{name}");
        let lines = text.lines().filter(|line| {
            line.strip_prefix(&name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    fn rss_kib(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// User and system time, seconds.
    fn cpu_s(&self) -> f64 {
        let stat = self.proc("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn idle_connections() {
    let kafka = Kafka::start();
    let relay = Relay::start(&kafka).await;
    let mut clients = vec![];
    for _ in 0..50 {
        clients.push(Client::open(relay.address).await);
    }
    let before = relay.rss_kib();
    for _ in 0..2000 {
        let mut client = Client::open(relay.address).await;
        client.subscribe(subscribe(1, Mode::All)).await;
        clients.push(client);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = relay.rss_kib();
    println!(
        "2000 idle connections with a subscription: {:.1} KiB each",
        (after - before) as f64 / 2000.0
    );
    println!("the process: {before} KiB before, {after} KiB after");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn fan_out_to_200() {
    const SUBSCRIBERS: usize = 200;
    let kafka = Kafka::start();
    let relay = Relay::start(&kafka).await;
    let received = Arc::new(AtomicU64::new(0));
    for _ in 0..SUBSCRIBERS {
        let mut client = Client::connect(relay.address).await;
        client.acks = false;
        client.hello(window(1024, 16 << 20)).await;
        client.subscribe(subscribe(1, Mode::All)).await;
        let received = Arc::clone(&received);
        tokio::spawn(async move {
            // All batches are alike, so one is decoded and the others are counted: the client is to be cheap.
            let size = loop {
                if let Frame::Data(data) = client.frame().await {
                    break prost::Message::encoded_len(&pb::ServerFrame {
                        frame: Some(Frame::Data(data)),
                    });
                }
            };
            let mut frames = 1;
            let mut skipped = vec![0; 64 << 10];
            loop {
                received.fetch_add(1, Ordering::Relaxed);
                if frames % 64 == 0 {
                    // A little less than it is, as offsets grow; that is no breach.
                    client.ack(frames, frames * size as u64, None).await;
                }
                let Ok(first) = client.stream.read_u8().await else {
                    return;
                };
                let length = match client.stream.read_u8().await.unwrap() {
                    126 => usize::from(client.stream.read_u16().await.unwrap()),
                    length => usize::from(length),
                };
                client.stream.read_exact(&mut skipped[..length]).await.unwrap();
                // Caught-up frames are short.
                frames += u64::from(first & 0xf == 2 && length > 100);
            }
        });
    }
    let sample = batch("gw-1", 1, 100);
    println!(
        "a batch of 200 readings: {} bytes",
        headwater_proto::protobuf::encode(&sample).len()
    );
    kafka.put(&sample).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (began, cpu, base) = (Instant::now(), relay.cpu_s(), received.load(Ordering::Relaxed));
    while began.elapsed() < Duration::from_secs(10) {
        let batch = batch("gw-1", 1, 100);
        futures_util::future::join_all((0..8).map(|_| kafka.put(&batch))).await;
        // No faster than they are taken.
        let records = relay_records(&received, SUBSCRIBERS);
        while relay.metric("records_total").await > records() + 200.0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let deliveries = (received.load(Ordering::Relaxed) - base) as f64;
    let cpu = relay.cpu_s() - cpu;
    let (wire, decoded) = (
        relay.metric("wire_bytes_total").await,
        relay.metric("decoded_bytes_total").await,
    );
    println!(
        "{:.0} deliveries/s to {SUBSCRIBERS} subscribers, {:.1} µs of the gateway's CPU each ({:.0} % of a core)",
        deliveries / seconds,
        cpu * 1e6 / deliveries,
        100.0 * cpu / seconds
    );
    println!(
        "wire {:.1} MB, decoded {:.1} MB: {:.2} of it",
        wire / 1e6,
        decoded / 1e6,
        wire / decoded
    );
    println!(
        "shared frames: {} of {} deliveries; closes: {}",
        relay.metric("shared_frames_total").await,
        relay.metric("deliveries_total").await,
        relay.metric("closes_total").await
    );
    println!("the process: {} KiB", relay.rss_kib());
}

fn relay_records(received: &Arc<AtomicU64>, subscribers: usize) -> impl Fn() -> f64 + use<> {
    let received = Arc::clone(received);
    move || received.load(Ordering::Relaxed) as f64 / subscribers as f64
}
