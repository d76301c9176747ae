//! Brokers that are away, die, refuse or say nothing.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use headwater_agent::config::{SourceKind, Speed};

use crate::bridge::Bridge;
use crate::library::{Running, config, expected, wait_for};
use crate::mosquitto::Mosquitto;

#[tokio::test]
async fn a_broker_that_is_absent_then_killed_and_started_again_loses_and_repeats_nothing() {
    let mut broker = Mosquitto::stopped();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let mut config = config(&broker.address(), 600);
    if let SourceKind::Replay(replay) = &mut config.sources[0].kind {
        replay.speed = Speed::Factor(0.15);
    }
    let agent = Running::start(config);
    agent
        .until("a backlog while there is no broker", 10, |stats| {
            stats.waiting_batches > 2
        })
        .await;
    for _ in 0..3 {
        broker.start();
        agent.until("connected", 10, |stats| stats.connected).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        broker.kill();
        agent.until("cut off", 10, |stats| !stats.connected).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    broker.start();
    let stats = agent.all_acked(1_200).await;
    assert_eq!((stats.lost_readings, stats.reconnects), (0, 3));
    assert_eq!(bridge.readings("a"), expected(600, "a"));
    assert_eq!(bridge.check_chains(), (1_200, 0));
    agent.stop().await;
}

#[tokio::test]
async fn the_last_will_says_offline_when_the_agent_dies() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let agent = Running::start(config(&broker.address(), 10));
    agent.all_acked(20).await;
    assert!(bridge.state(|state| state.statuses.last().unwrap().1.online));
    agent.task.abort();
    wait_for("the Last Will", || {
        bridge.state(|state| !state.statuses.last().unwrap().1.online)
    })
    .await;
    let (will, hello) = bridge.state(|state| {
        (
            state.statuses.last().unwrap().1,
            state.hellos.last().unwrap().1.clone(),
        )
    });
    assert_eq!(will.session, hello.session);
}

#[tokio::test]
async fn credentials_that_are_refused_are_tried_again_until_they_are_taken() {
    let broker = Mosquitto::with_user("gw-01", "right");
    let bridge = Bridge::default();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "wrong\n").unwrap();
    let mut config = config(&broker.address(), 10);
    config.uplink.user = Some("gw-01".into());
    config.uplink.password_file = Some(file.clone());
    let agent = Running::start(config.clone());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stats = agent.handle.stats();
    assert!(!stats.connected && stats.waiting_readings == 20, "{stats:?}");
    let stats = agent.stop().await;
    // They were in memory alone, and ended with it.
    assert_eq!((stats.waiting_readings, stats.lost_readings), (0, 20));
    // The bridge of these tests has no credentials: that the broker takes the agent's is seen on the agent alone.
    assert_eq!(bridge.check_chains(), (0, 0));
    std::fs::write(&file, "right\n").unwrap();
    let agent = Running::start(config);
    agent.until("hello sent", 10, |stats| stats.sent_bytes > 0).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_peer_that_accepts_and_says_nothing_costs_nothing_but_patience() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let agent = Running::start(config(&format!("mqtt://127.0.0.1:{port}"), 1_000));
    // Sampling goes on while the handshake hangs.
    let stats = agent
        .until("all sampled", 10, |stats| stats.sampled_readings == 2_000)
        .await;
    assert!(!stats.connected);
    // It gives up on that one and tries again.
    silent.set_nonblocking(true).unwrap();
    let mut connections = Vec::new();
    let until = Instant::now() + Duration::from_secs(30);
    while connections.len() < 2 {
        assert!(Instant::now() < until, "no second attempt within 30 s");
        match silent.accept() {
            Ok((connection, _)) => connections.push(connection),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    let began = Instant::now();
    agent.stop().await;
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "a stop must not wait for a broker that is away"
    );
}
