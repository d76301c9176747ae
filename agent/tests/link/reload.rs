//! Settings that change while an agent runs: nothing that is buffered is lost, and what is wrong is refused.

use std::time::Duration;

use headwater_agent::Config;
use headwater_agent::config::{SimulatedSource, Source, SourceKind};

use crate::bridge::Bridge;
use crate::library::{Running, config, wait_for};
use crate::mosquitto::Mosquitto;

fn simulated(prefix: &str, interval: u64) -> Source {
    SourceKind::Simulated(SimulatedSource {
        prefix: prefix.into(),
        interval: Duration::from_millis(interval),
        sensors: 1,
        ..Default::default()
    })
    .into()
}

/// Two sources, and a replay that has ended by the time of a reload.
fn settings(broker: &str) -> Config {
    let mut config = config(broker, 500);
    config.sources.push(simulated("kept.", 20));
    config.sources.push(simulated("changed.", 50));
    config
}

#[tokio::test]
async fn a_reload_keeps_what_waits_and_leaves_alone_what_is_the_same() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let agent = Running::start(settings(&broker.address()));
    // No relay yet: all of it waits in the agent.
    let before = agent
        .until("a backlog", 10, |stats| stats.waiting_readings > 1_100)
        .await;
    let mut next = settings(&broker.address());
    next.sources[2] = simulated("changed.", 10);
    next.sources.push(simulated("new.", 10));
    next.batch.age = Duration::from_millis(50);
    agent.handle.reload(next.clone()).await.unwrap();
    let sources = agent.handle.sources();
    assert_eq!(sources.len(), 4);
    assert_eq!((sources[0].readings, &*sources[0].name), (1_000, "replay"));
    assert!(sources[1].readings > 10, "it was not started again: {sources:?}");
    let stats = agent.handle.stats();
    assert!(
        stats.waiting_readings >= before.waiting_readings && stats.lost_readings == 0,
        "{stats:?}"
    );
    let _relay = bridge.run(broker.port());
    agent
        .until("the backlog acknowledged", 20, |stats| {
            stats.acked_readings > before.waiting_readings
        })
        .await;
    wait_for("the new source", || {
        bridge.readings(&format!("new.{}", first_sensor(&bridge))).len() > 3
    })
    .await;
    let stats = agent.stop().await;
    assert_eq!((stats.waiting_readings, stats.lost_readings), (0, 0));
    assert_eq!(bridge.check_chains(), (stats.acked_readings, 0));
    assert_eq!(bridge.readings("a").len(), 500, "the replay did not start again");
    let streams = bridge.state(|state| {
        let streams: std::collections::BTreeSet<u64> = state.taken.iter().map(|batch| batch.1).collect();
        streams.len()
    });
    assert_eq!(streams, 1, "a reload opens no stream");
}

/// What the simulated sensor is called, without its prefix.
fn first_sensor(bridge: &Bridge) -> String {
    use headwater_proto::Body;
    bridge.state(|state| {
        let names = state.taken.iter().filter_map(|(.., body)| match body {
            Body::Readings(readings) => Some(&readings.columns),
            Body::Loss(_) => None,
        });
        names
            .flatten()
            .find_map(|column| column.metric.strip_prefix("kept."))
            .unwrap_or_default()
            .to_string()
    })
}

#[tokio::test]
async fn hello_tells_the_settings_in_force_and_the_connection_stays() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let agent = Running::start(settings(&broker.address()));
    agent.until("connected", 10, |stats| stats.connected).await;
    let mut next = settings(&broker.address());
    next.batch.readings = 30;
    agent.handle.reload(next.clone()).await.unwrap();
    wait_for("another hello", || bridge.state(|state| state.hellos.len() == 2)).await;
    let (first, second) = bridge.state(|state| (state.hellos[0].1.clone(), state.hellos[1].1.clone()));
    assert_eq!(first.session, second.session);
    let hash = |hello: headwater_proto::pb::Hello| hello.agent.unwrap().config_hash;
    assert_ne!(hash(first), hash(second.clone()));
    assert_eq!(hash(second), next.hash());
    let stats = agent.stop().await;
    assert_eq!((stats.reconnects, stats.lost_readings), (0, 0));
}

#[tokio::test]
async fn another_broker_gets_what_the_first_never_got() {
    let silent = Mosquitto::stopped();
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let agent = Running::start(settings(&silent.address()));
    agent
        .until("a backlog", 10, |stats| stats.waiting_readings > 1_000)
        .await;
    agent.handle.reload(settings(&broker.address())).await.unwrap();
    agent
        .until("acknowledged by the other", 20, |stats| {
            stats.acked_readings > 1_000
        })
        .await;
    let stats = agent.stop().await;
    assert_eq!((stats.waiting_readings, stats.lost_readings), (0, 0));
    assert_eq!(bridge.check_chains(), (stats.acked_readings, 0));
}

#[tokio::test]
async fn what_is_wrong_is_refused_and_the_old_settings_go_on() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let agent = Running::start(settings(&broker.address()));
    agent.until("connected", 10, |stats| stats.connected).await;
    let good = settings(&broker.address());
    let mut wrong = Vec::new();
    let mut config = good.clone();
    config.batch.readings = 0;
    wrong.push((config, "setting `batch.readings`: 0"));
    let mut config = good.clone();
    config.device = Some("gw-02".into());
    wrong.push((config, "setting `device`: it cannot change"));
    let mut config = good.clone();
    config.state_dir = Some("/nonexistent".into());
    wrong.push((config, "setting `state_dir`: it cannot change"));
    let mut config = good.clone();
    config.sources[2] = SourceKind::Simulated(SimulatedSource {
        sensors: 0,
        ..Default::default()
    })
    .into();
    wrong.push((config, "source 3 (simulated): setting `sensors`"));
    for (config, part) in wrong {
        let error = agent.handle.reload(config).await.unwrap_err().to_string();
        assert!(error.starts_with(part), "{error}");
    }
    let sources = agent.handle.sources();
    assert_eq!(sources.len(), 3, "{sources:?}");
    let readings = sources[2].readings;
    wait_for("the source that was to be changed goes on", || {
        agent.handle.sources()[2].readings > readings + 3
    })
    .await;
    let stats = agent.stop().await;
    assert_eq!((stats.waiting_readings, stats.lost_readings), (0, 0));
    assert_eq!(
        bridge.state(|state| state.hellos.len()),
        1,
        "nothing changed, so nothing is told"
    );
}
