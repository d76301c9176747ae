//! What is done to a running agent's state directory, and what comes in strange names.

use std::process::{Child, Output, Stdio};
use std::time::Duration;

use headwater_agent::config::{SourceKind, Speed, Trace};

use crate::agent;
use crate::bridge::Bridge;
use crate::library::{Running, config, expected};
use crate::mosquitto::Mosquitto;

/// Killed when a test ends.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_second_agent_on_one_journal_is_refused_with_the_process_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    let state = folder.path().join("state");
    let text = format!(
        "device = 'gw-01'\nstate_dir = '{}'\n[uplink]\nbroker = 'mqtt://127.0.0.1:1'\n[[source]]\ntype = 'simulated'\n",
        state.display()
    );
    std::fs::write(&path, text).unwrap();
    let run = || {
        let mut command = agent::program();
        command
            .args(["run", "--config"])
            .arg(&path)
            .stderr(Stdio::piped());
        command
    };
    let first = Agent(run().spawn().unwrap());
    let until = std::time::Instant::now() + Duration::from_secs(20);
    // It answers at its socket once it runs.
    while std::os::unix::net::UnixStream::connect(state.join("agent.sock")).is_err() {
        assert!(std::time::Instant::now() < until, "the first does not run");
        std::thread::sleep(Duration::from_millis(10));
    }
    let Output { status, stderr, .. } = run().output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(!status.success());
    for part in [
        &*format!("another agent (process {})", first.0.id()),
        &state.display().to_string(),
        "stop it, or give each its own `state_dir`",
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    // The first is none the worse for it; and when it is killed, the next may have it.
    assert!(std::os::unix::net::UnixStream::connect(state.join("agent.sock")).is_ok());
    drop(first);
    let mut next = Agent(run().spawn().unwrap());
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while std::os::unix::net::UnixStream::connect(state.join("agent.sock")).is_err() {
        assert!(next.0.try_wait().unwrap().is_none() && std::time::Instant::now() < until);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
async fn a_journal_that_is_deleted_under_a_running_agent_costs_what_only_it_held_and_is_told() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&broker.address(), 3_000);
    config.state_dir = Some(folder.path().join("state"));
    config.journal.sync_after = headwater_agent::config::SyncAfter::After(Duration::ZERO);
    if let SourceKind::Replay(replay) = &mut config.sources[0].kind {
        replay.speed = Speed::Factor(1.0);
    }
    let agent = Running::start(config);
    agent
        .until("a backlog on flash", 20, |stats| {
            stats.waiting_readings > 1_000 && stats.journal.flash_bytes > 0
        })
        .await;
    std::fs::remove_dir_all(folder.path().join("state/journal")).unwrap();
    let sampled = agent.handle.stats().sampled_readings;
    agent
        .until("it goes on", 20, |stats| stats.sampled_readings > sampled + 1_000)
        .await;
    let _relay = bridge.run(broker.port());
    let stats = agent.all_acked(6_000).await;
    agent.stop().await;
    // Each reading is there, or told as lost, once.
    assert_eq!(bridge.check_chains(), (stats.acked_readings, stats.lost_readings));
    assert_eq!(stats.acked_readings + stats.lost_readings, 6_000);
    assert!(
        stats.lost_readings > 0,
        "what only the deleted files held cannot have come"
    );
    let came = bridge.readings("a");
    let all = expected(3_000, "a");
    assert_eq!(came.last(), all.last());
    assert!(came.iter().all(|reading| all.contains(reading)));
}

#[tokio::test]
async fn names_with_spaces_and_emoji_arrive_as_they_are() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let names = [
        "küche oben 🌡️",
        "a b",
        "温度",
        "\u{1F468}\u{200D}\u{1F469}\u{200D}\u{1F467} count",
    ];
    let mut config = config(&broker.address(), 1);
    let SourceKind::Replay(replay) = &mut config.sources[0].kind else {
        unreachable!();
    };
    let text = format!("time_ms,{}\n1700000000000,1,2,3,4\n", names.join(","));
    replay.trace = Trace::Text(text.into());
    let agent = Running::start(config);
    agent.all_acked(4).await;
    agent.stop().await;
    for (number, name) in (1..).zip(names) {
        let value: i64 = number;
        assert_eq!(
            bridge.readings(name),
            [(1_700_000_000_000_000, value.to_string())],
            "{name}"
        );
    }
    assert_eq!(bridge.metrics().len(), 4);
}
