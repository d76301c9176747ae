//! What an agent tells of itself: health as metrics, and its status socket.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use headwater_agent::Status;
use headwater_agent::config::{ReplaySource, SourceKind, Trace};

use crate::agent;
use crate::bridge::Bridge;
use crate::library::{Running, config, wait_for};
use crate::mosquitto::Mosquitto;
use crate::port::free_port;

/// As `headwater-agent status` does: exit code, standard output, standard error.
async fn ask(arguments: &[&str]) -> (Option<i32>, String, String) {
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let asked =
        tokio::task::spawn_blocking(move || agent::program().arg("status").args(arguments).output().unwrap());
    let output = asked.await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// What an agent tells at its socket; `None` if nobody answers there.
pub(crate) async fn read_status(socket: PathBuf) -> Option<Status> {
    let read = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        let mut stream = UnixStream::connect(socket).ok()?;
        stream.read_to_string(&mut text).ok()?;
        Status::from_json(&text).ok()
    });
    read.await.unwrap()
}

#[tokio::test]
async fn the_socket_tells_link_streams_sources_and_what_waits() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let mut config = config(&broker.address(), 100);
    config.control.socket = Some(socket.clone());
    config.sources.push(
        SourceKind::Replay(ReplaySource {
            trace: Trace::Text("time_ms,a\n1,1\n".into()),
            prefix: "other.".into(),
            ..Default::default()
        })
        .into(),
    );
    let hash = config.hash();
    // A killed agent leaves its socket behind.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let agent = Running::start(config);
    agent
        .until("all sampled", 10, |stats| stats.waiting_readings > 200)
        .await;
    wait_for("connected", || agent.handle.stats().sent_bytes > 0).await;
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let path = socket.to_str().unwrap();
    let (code, json, _) = ask(&["--json", "--socket", path]).await;
    assert_eq!(code, Some(0));
    let status = Status::from_json(&json).unwrap();
    assert!(status.answering && status.rss_bytes > 0, "{json}");
    assert_eq!((&*status.device, &status.settings.hash), ("gw-01", &hash));
    assert!(
        status.link.since_us > 0 && !status.stats.connected,
        "no relay yet: {json}"
    );
    assert_eq!(status.streams.len(), 1);
    assert_eq!(status.streams[0].first_seq, 1);
    assert_eq!(status.sources[0].readings, 200);
    assert!(
        status.stats.waiting_batches > 5 && status.stats.oldest_us > 0,
        "{json}"
    );
    let _relay = bridge.run(broker.port());
    agent.until("an answer", 10, |stats| stats.connected).await;
    let (code, text, _) = ask(&["--socket", path]).await;
    assert_eq!(code, Some(0));
    for part in ["gw-01", "the relay has answered", "replay: ", "stream"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    agent.stop().await;
    assert!(!socket.exists());
    let (code, text, error) = ask(&["--socket", path]).await;
    assert_eq!((code, text.as_str()), (Some(1), ""));
    assert!(
        error.contains("no agent answers") && error.contains(path),
        "{error}"
    );
}

#[tokio::test]
async fn readers_that_do_not_read_keep_nobody_from_asking() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&broker.address(), 100);
    config.state_dir = Some(folder.path().to_path_buf());
    let agent = Running::start(config);
    agent.all_acked(200).await;
    let socket = folder.path().join("agent.sock");
    let idle: Vec<UnixStream> = (0..50).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let text = ask(&["--socket", socket.to_str().unwrap()]).await.1;
    assert!(text.contains("gw-01"), "{text}");
    drop(idle);
    agent.stop().await;
}

#[tokio::test]
async fn a_second_agent_leaves_the_socket_to_the_first_and_a_file_is_left_alone() {
    let broker = Mosquitto::started();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("precious");
    std::fs::write(&file, "content").unwrap();
    let start = |device: &str, socket: &Path| {
        let mut config = config(&broker.address(), 1);
        config.device = Some(device.into());
        config.control.socket = Some(socket.to_path_buf());
        Running::start(config)
    };
    let socket = folder.path().join("agent.sock");
    let first = start("gw-01", &socket);
    wait_for("the socket", || socket.exists()).await;
    let second = start("gw-02", &socket);
    let third = start("gw-03", &file);
    second
        .until("it runs", 10, |stats| stats.sampled_readings == 2)
        .await;
    third
        .until("it runs", 10, |stats| stats.sampled_readings == 2)
        .await;
    second.stop().await;
    third.stop().await;
    let read = tokio::task::spawn_blocking(move || {
        let mut answer = String::new();
        UnixStream::connect(&socket)
            .unwrap()
            .read_to_string(&mut answer)
            .unwrap();
        answer
    });
    assert_eq!(Status::from_json(&read.await.unwrap()).unwrap().device, "gw-01");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "content");
    first.stop().await;
}

#[tokio::test]
async fn health_travels_the_way_of_readings() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let mut config = config(&broker.address(), 100);
    config.health.interval = Duration::from_secs(1);
    let agent = Running::start(config);
    wait_for("three samples", || bridge.readings("agent.cpu").len() >= 2).await;
    assert!(
        bridge
            .readings("agent.acked")
            .iter()
            .any(|(_, value)| value != "0")
    );
    let memory = bridge.readings("agent.memory");
    assert!(
        memory.iter().all(|(time, _)| time % 1_000_000 == 0),
        "on the tick: {memory:?}"
    );
    let mut off = crate::library::config(&broker.address(), 100);
    off.health.interval = Duration::ZERO;
    agent.handle.reload(off).await.unwrap();
    let sampled = agent.handle.stats().sampled_readings;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(
        agent.handle.stats().sampled_readings,
        sampled,
        "it is switched off"
    );
    agent.stop().await;
}

#[cfg(feature = "prometheus")]
#[tokio::test]
async fn prometheus_is_told_on_a_port_that_a_reload_opens_and_closes() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let agent = Running::start(config(&broker.address(), 100));
    agent.all_acked(200).await;
    let mut with = config(&broker.address(), 100);
    with.control.prometheus = Some(address);
    agent.handle.reload(with).await.unwrap();
    let get = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = get("/metrics").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("version=0.0.4"),
        "{answer}"
    );
    assert!(
        answer.contains("\nheadwater_agent_readings_acknowledged_total 200\n"),
        "{answer}"
    );
    assert!(get("/").await.starts_with("HTTP/1.1 404"));
    agent.handle.reload(config(&broker.address(), 100)).await.unwrap();
    wait_for("the port is closed", || {
        std::net::TcpStream::connect(address).is_err()
    })
    .await;
    agent.stop().await;
}
