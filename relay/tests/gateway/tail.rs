//! `headwater-relay tail`: the program, against gateways over real sockets.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use headwater_relay::gateway::settings::{Algorithm, GatewaySettings, KeySettings};
use serde_json::Value;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::kafka::{Kafka, batch};
use crate::{Gateway, settings};

const PATIENCE: Duration = Duration::from_secs(20);

struct Tail {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    said: Arc<Mutex<Vec<String>>>,
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(source: impl std::io::Read + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let into = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            into.lock().unwrap().push(line);
        }
    });
    lines
}

fn command(address: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater-relay"));
    command
        .args(["tail", "--url", &format!("ws://{address}")])
        .args(arguments)
        .env_remove("HEADWATER_TOKEN")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Tail {
    fn start(address: SocketAddr, arguments: &[&str]) -> Self {
        let mut child = command(address, arguments).spawn().unwrap();
        let out: ChildStdout = child.stdout.take().unwrap();
        let err: ChildStderr = child.stderr.take().unwrap();
        Self {
            child,
            lines: collect(out),
            said: collect(err),
        }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    async fn until(&self, what: &str, is: impl Fn(&[String]) -> bool) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let lines = self.lines();
            if is(&lines) {
                return lines;
            }
            let said = self.said.lock().unwrap().clone();
            assert!(
                begun.elapsed() < PATIENCE,
                "{what}: {} lines, {lines:?}; {said:?}",
                lines.len()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn ended(mut self) -> (Option<i32>, String) {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                tokio::time::sleep(Duration::from_millis(50)).await;
                return (status.code(), self.said.lock().unwrap().join("\n"));
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What a line in JSON says of the metric `temp`.
fn temps(lines: &[String]) -> Vec<f64> {
    let object = |line: &String| serde_json::from_str::<Value>(line).unwrap();
    lines
        .iter()
        .map(object)
        .filter(|object| object["metric"] == "temp")
        .map(|object| object["value"].as_f64().unwrap())
        .collect()
}

async fn subscribed(gateway: &Gateway) {
    let begun = Instant::now();
    while gateway.metric("subscriptions") < 1.0 {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Lets connections through to a gateway, and cuts them.
struct Link {
    address: SocketAddr,
    cut: tokio::sync::watch::Sender<u32>,
}

impl Link {
    async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, cuts) = tokio::sync::watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut inside, _)) = listener.accept().await {
                let mut cuts = cuts.clone();
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    let mut outside = TcpStream::connect(target).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut inside, &mut outside) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self { address, cut }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn history_and_live_join_over_cut_connections_without_hole_or_repeat() {
    let kafka = Kafka::start();
    for seq in 0..20 {
        kafka.put(&batch("gw-01", seq, 1)).await;
    }
    let gateway = Gateway::start(&kafka, settings()).await;
    let link = Link::to(gateway.address).await;
    let tail = Tail::start(
        link.address,
        &[
            "--device", "gw-0*", "--metric", "temp", "--since", "10m", "--json",
        ],
    );
    tail.until("history", |lines| lines.len() >= 20).await;
    for seq in 20..320 {
        kafka.put(&batch("gw-01", seq, 1)).await;
        kafka.put(&batch("other", seq, 1)).await;
        if seq % 75 == 0 {
            link.cut.send_modify(|count| *count += 1);
        }
    }
    let lines = tail.until("all of it", |lines| lines.len() >= 320).await;
    let expected: Vec<f64> = (0..320).map(f64::from).collect();
    assert_eq!(temps(&lines), expected);
    assert!(
        tail.said
            .lock()
            .unwrap()
            .iter()
            .any(|line| line.contains("connecting again"))
    );
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_compressed_acknowledged_and_readable() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let tail = Tail::start(gateway.address, &[]);
    subscribed(&gateway).await;
    for seq in 0..40 {
        kafka.put(&batch("gw-01", seq, 50)).await;
    }
    // Two metrics, fifty readings each: far beyond a window of 64 frames it would not come without acknowledgements.
    let lines = tail.until("all", |lines| lines.len() >= 4000).await;
    assert_eq!(lines.len(), 4000);
    assert!(
        lines
            .iter()
            .all(|line| line.contains("Z  gw-01  ")
                && (line.contains("  temp  ") || line.contains("  door  ")))
    );
    let begun = Instant::now();
    while gateway.metric("acks_total") < 1.0 {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(gateway.metric("wire_bytes_total") < gateway.metric("decoded_bytes_total"));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_values_are_shown_once() {
    let kafka = Kafka::start();
    kafka.put(&batch("gw-01", 7, 3)).await;
    let gateway = Gateway::start(&kafka, settings()).await;
    let link = Link::to(gateway.address).await;
    let tail = Tail::start(
        link.address,
        &[
            "--mode",
            "latest",
            "--interval",
            "50ms",
            "--metric",
            "temp",
            "--json",
        ],
    );
    tail.until("the snapshot", |lines| !lines.is_empty()).await;
    link.cut.send_modify(|count| *count += 1);
    let connected = gateway.metric("closes_total");
    let begun = Instant::now();
    while gateway.metric("closes_total") <= connected && gateway.metric("connections") < 1.0 {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    kafka.put(&batch("gw-02", 9, 1)).await;
    let lines = tail.until("the new device", |lines| lines.len() >= 2).await;
    assert_eq!(temps(&lines), [7.02, 9.0]);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_and_a_closed_pipe_end_it_well() {
    let kafka = Kafka::start();
    let gateway = Gateway::start(&kafka, settings()).await;
    let tail = Tail::start(gateway.address, &[]);
    subscribed(&gateway).await;
    let pid = tail.child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(tail.ended().await, (Some(0), String::new()));
    let begun = Instant::now();
    while gateway.metric("connections") > 0.0 {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut child = command(gateway.address, &["--json"]).spawn().unwrap();
    subscribed(&gateway).await;
    let mut out = BufReader::new(child.stdout.take().unwrap());
    kafka.put(&batch("gw-01", 1, 1)).await;
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert!(line.contains("gw-01"), "{line}");
    drop(out);
    let begun = Instant::now();
    let status = loop {
        kafka.put(&batch("gw-01", 2, 1)).await;
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((status.code(), said.as_str()), (Some(0), ""));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_to_do() {
    let ended = |address, arguments: &[&str]| {
        let tail = Tail::start(address, arguments);
        tail.ended()
    };
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let (code, said) = ended(nobody, &[]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("Is a gateway running there"), "{said}");
    let (code, said) = ended(nobody, &["--token-file", "/nonexistent/token"]).await;
    assert_eq!(code, Some(2));
    assert!(
        said.contains("--token-file: cannot read /nonexistent/token"),
        "{said}"
    );
    let (code, said) = ended(nobody, &["--since", "yesterday"]).await;
    assert_eq!(code, Some(2));
    assert!(said.contains("neither a duration"), "{said}");
    let kafka = Kafka::start();
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "a secret of thirty-two bytes, or a little more").unwrap();
    let settings = GatewaySettings {
        keys: vec![KeySettings {
            algorithm: Algorithm::HS256,
            file: secret,
            id: String::new(),
        }],
        ..settings()
    };
    let gateway = Gateway::start(&kafka, settings).await;
    let (code, said) = ended(gateway.address, &[]).await;
    assert_eq!(code, Some(1));
    assert!(
        said.contains("does not take the token") && said.contains("--token-file"),
        "{said}"
    );
    gateway.stop().await;
    let gateway = Gateway::start(&kafka, crate::settings()).await;
    let (code, said) = ended(gateway.address, &["--device", "gw-[z-a"]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("refuses the subscription"), "{said}");
    gateway.stop().await;
}
