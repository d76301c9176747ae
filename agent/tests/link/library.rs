//! The agent against a real broker (Mosquitto) and a small scripted relay.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use headwater_agent::config::{
    AtEnd, ReplaySource, ReplayTimes, SimulatedSource, SourceKind, Speed, Trace, Trust,
};
use headwater_agent::journal::view::{Form, View};
use headwater_agent::{Agent, AgentHandle, AgentStats, Config};
use headwater_proto::{Body, LossReason};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::bridge::Bridge;
use crate::mosquitto::Mosquitto;

/// Rows of two metrics, a millisecond apart.
pub(crate) fn trace(rows: usize) -> String {
    let mut text = "time_ms,a,b\n".to_string();
    for row in 0..rows {
        writeln!(text, "{},{},{}.25", 1_700_000_000_000 + row, row, row).unwrap();
    }
    text
}

pub(crate) fn expected(rows: usize, metric: &str) -> Vec<(i64, String)> {
    let value = |row| {
        if metric == "a" {
            format!("{row}")
        } else {
            format!("{row}.25")
        }
    };
    (0..rows)
        .map(|row| ((1_700_000_000_000 + row as i64) * 1000, value(row)))
        .collect()
}

pub(crate) fn config(address: &str, rows: usize) -> Config {
    let mut config = Config {
        device: Some("gw-01".into()),
        ..Config::default()
    };
    config.uplink.broker = address.into();
    config.uplink.ack_timeout = Duration::from_secs(1);
    config.uplink.backoff.min = Duration::from_millis(100);
    config.uplink.backoff.max = Duration::from_millis(500);
    config.uplink.keep_alive = Duration::from_secs(2);
    // Whatever this machine's clock is worth.
    config.clock.trust = Trust::Always;
    // What is counted here is what the sources give.
    config.health.interval = Duration::ZERO;
    config.batch.readings = 20;
    config.batch.age = Duration::from_millis(100);
    config.sources.push(
        SourceKind::Replay(ReplaySource {
            trace: Trace::Text(trace(rows).into()),
            at_end: AtEnd::Stop,
            speed: Speed::Max,
            times: ReplayTimes::Original,
            ..Default::default()
        })
        .into(),
    );
    config
}

pub(crate) struct Running {
    pub(crate) handle: AgentHandle,
    stop: oneshot::Sender<()>,
    pub(crate) task: JoinHandle<Result<(), headwater_agent::Error>>,
}

impl Running {
    pub(crate) fn start(config: Config) -> Self {
        let (agent, handle) = Agent::new(config).unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(agent.run(async {
            let _ = stopped.await;
        }));
        Self { handle, stop, task }
    }

    /// Why there is no connection, as soon as it is said.
    pub(crate) async fn last_error(&self) -> String {
        self.last_error_with("").await
    }

    /// As [`Running::last_error`], once it has `part` in it.
    pub(crate) async fn last_error_with(&self, part: &str) -> String {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match self.handle.status().await.link.last_error {
                Some(why) if why.contains(part) => return why,
                why => assert!(
                    Instant::now() < until,
                    "{part:?} is not said within 20 s: {why:?}"
                ),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until it is connected to this broker.
    pub(crate) async fn at(&self, address: &str) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let link = self.handle.status().await.link;
            if link.since_us > 0 && link.broker == address {
                return;
            }
            assert!(Instant::now() < until, "not at {address} within 20 s: {link:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn until(
        &self,
        what: &str,
        seconds: u64,
        reached: impl Fn(&AgentStats) -> bool,
    ) -> AgentStats {
        let until = Instant::now() + Duration::from_secs(seconds);
        loop {
            let stats = self.handle.stats();
            assert_eq!(
                stats.sampled_readings,
                stats.acked_readings + stats.lost_readings + stats.waiting_readings,
                "{stats:?}"
            );
            if reached(&stats) {
                return stats;
            }
            assert!(
                Instant::now() < until,
                "{what}: not within {seconds} s: {stats:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn all_acked(&self, readings: u64) -> AgentStats {
        self.until("everything acknowledged", 60, |stats| {
            stats.sampled_readings == readings && stats.waiting_readings == 0
        })
        .await
    }

    pub(crate) async fn stop(self) -> AgentStats {
        self.stop.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(10), self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        self.handle.stats()
    }
}

pub(crate) async fn wait_for(what: &str, reached: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !reached() {
        assert!(Instant::now() < until, "{what}: not within 20 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn every_reading_arrives_once_and_in_order() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let agent = Running::start(config(&broker.address(), 5_000));
    let stats = agent.all_acked(10_000).await;
    assert_eq!(
        (stats.lost_readings, stats.acked_readings, stats.resent_batches),
        (0, 10_000, 0)
    );
    assert!(stats.connected && stats.sent_bytes > bridge.state(|state| state.frame_bytes));
    assert_eq!(bridge.readings("a"), expected(5_000, "a"));
    assert_eq!(bridge.readings("b"), expected(5_000, "b"));
    assert_eq!(bridge.check_chains(), (10_000, 0));
    let (_, hello) = bridge.state(|state| state.hellos[0].clone());
    let info = hello.agent.unwrap();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert!(
        info.target.contains("linux") && info.boot_id.len() == 36 && info.config_hash.len() == 16,
        "{info:?}"
    );
    assert_eq!((hello.streams.len(), hello.streams[0].acked_seq), (1, 0));
    // From the random id, so that another box under this name does not speak in this stream; three bytes on the wire.
    let (stream, short) = (hello.streams[0].stream, hello.streams[0].short);
    assert_eq!(u64::from(short), (stream & 0x1f_ffff).max(1));
    agent.stop().await;
    wait_for("the goodbye", || {
        bridge.state(|state| !state.statuses.last().unwrap().1.online)
    })
    .await;
    assert!(bridge.state(|state| state.statuses[0].1.online));
}

#[tokio::test]
async fn a_link_that_loses_every_fifth_frame_costs_repetitions_and_no_reading() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    bridge.state(|state| state.script.lose_every = 5);
    let _relay = bridge.run(broker.port());
    let mut config = config(&broker.address(), 1_000);
    config.uplink.window.batches = 8;
    let agent = Running::start(config);
    let stats = agent.all_acked(2_000).await;
    assert!(stats.resent_batches > 0 && stats.lost_readings == 0, "{stats:?}");
    assert_eq!(bridge.readings("b"), expected(1_000, "b"));
    assert_eq!(bridge.check_chains(), (2_000, 0));
    agent.stop().await;
}

#[tokio::test]
async fn a_relay_that_is_away_and_then_forgets_loses_and_repeats_nothing() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let mut config = config(&broker.address(), 500);
    if let SourceKind::Replay(replay) = &mut config.sources[0].kind {
        // A row every 4 ms: two seconds.
        replay.speed = Speed::Factor(0.25);
    }
    let agent = Running::start(config);
    agent
        .until("a backlog while there is no relay", 10, |stats| {
            stats.waiting_batches > 2
        })
        .await;
    assert!(!agent.handle.stats().connected);
    for _ in 0..4 {
        let relay = bridge.run(broker.port());
        agent
            .until("the relay's answer", 10, |stats| {
                stats.connected && stats.acked_readings > 0
            })
            .await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(relay);
        bridge.forget();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let _relay = bridge.run(broker.port());
    let stats = agent.all_acked(1_000).await;
    assert_eq!(stats.lost_readings, 0);
    assert_eq!(bridge.readings("a"), expected(500, "a"));
    assert_eq!(bridge.check_chains(), (1_000, 0));
    agent.stop().await;
}

#[tokio::test]
async fn what_overflows_is_told_and_the_chain_has_no_hole() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let mut config = config(&broker.address(), 5_000);
    config.journal.memory = headwater_config::ByteSize::kib(16);
    let agent = Running::start(config);
    agent
        .until("all sampled", 20, |stats| stats.sampled_readings == 10_000)
        .await;
    let _relay = bridge.run(broker.port());
    let stats = agent.all_acked(10_000).await;
    assert!(stats.lost_readings > 1_000, "{stats:?}");
    assert_eq!(bridge.check_chains(), (stats.acked_readings, stats.lost_readings));
    let last = bridge.readings("a").pop();
    assert_eq!(last, expected(5_000, "a").pop(), "the newest are kept");
    agent.stop().await;
}

#[tokio::test]
async fn a_batch_that_is_refused_becomes_a_loss_record_and_the_rest_goes_on() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    bridge.state(|state| state.script.refuse = Some(3));
    let _relay = bridge.run(broker.port());
    let agent = Running::start(config(&broker.address(), 100));
    let stats = agent.all_acked(200).await;
    assert_eq!(stats.lost_readings, 20);
    assert_eq!(bridge.check_chains(), (180, 20));
    let loss = bridge.state(|state| state.taken[2].3.clone());
    assert!(
        matches!(loss, Body::Loss(loss) if loss.reason == LossReason::Refused && loss.through == 3),
        "{loss:?}"
    );
    agent.stop().await;
}

#[tokio::test]
async fn a_relay_that_says_nothing_is_told_what_waits_and_not_flooded() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let mut config = config(&broker.address(), 200);
    config.uplink.window.batches = 4;
    if let SourceKind::Replay(replay) = &mut config.sources[0].kind {
        replay.speed = Speed::Factor(0.1);
    }
    let agent = Running::start(config);
    agent
        .until("the first acknowledgement", 10, |stats| stats.acked_readings > 0)
        .await;
    bridge.state(|state| state.script.silent = true);
    let before = bridge.state(|state| state.frame_bytes);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (sent, waiting) = bridge.state(|state| {
        let waiting = state.statuses.last().unwrap().1.waiting.unwrap();
        (state.frame_bytes - before, waiting)
    });
    assert!(
        waiting.batches > 4 && waiting.oldest_us >= 1_700_000_000_000_000,
        "{waiting:?}"
    );
    assert!(sent < 12 * 600, "{sent} bytes to a relay that does not answer");
    bridge.state(|state| state.script.silent = false);
    agent.all_acked(400).await;
    assert_eq!(bridge.check_chains(), (400, 0));
    agent.stop().await;
}

/// [`Running::stop`] waits for ten seconds.
#[tokio::test]
async fn a_stop_with_a_relay_that_says_nothing_waits_no_longer_than_until_all_is_on_flash() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&broker.address(), 200);
    config.state_dir = Some(folder.path().join("state"));
    config.uplink.stop_timeout = Duration::from_secs(60);
    if let SourceKind::Replay(replay) = &mut config.sources[0].kind {
        replay.speed = Speed::Factor(0.1);
    }
    let agent = Running::start(config);
    agent
        .until("the first acknowledgement", 10, |stats| stats.acked_readings > 0)
        .await;
    bridge.state(|state| state.script.silent = true);
    agent
        .until("more that waits", 20, |stats| stats.waiting_batches > 2)
        .await;
    let stats = agent.stop().await;
    assert!(
        stats.waiting_readings > 0 && stats.lost_readings == 0,
        "{stats:?}"
    );
    let mut out = Vec::new();
    let mut journal = View::open(&folder.path().join("state")).unwrap();
    let exported = journal.export(Form::Csv, &mut out).unwrap();
    assert_eq!((exported.readings, exported.lost), (stats.waiting_readings, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_agents_run_in_one_runtime() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let agents: Vec<_> = (0..100)
        .map(|number| {
            let mut config = config(&broker.address(), 1);
            config.device = Some(format!("gw-{number:03}"));
            config.batch.readings = 1000;
            config.sources = vec![
                SourceKind::Simulated(SimulatedSource {
                    interval: Duration::from_millis(100),
                    ..Default::default()
                })
                .into(),
            ];
            Running::start(config)
        })
        .collect();
    for agent in &agents {
        agent
            .until("readings acknowledged", 30, |stats| stats.acked_readings > 40)
            .await;
    }
    let mut acked = 0;
    for agent in agents {
        let stats = agent.stop().await;
        assert_eq!(
            (stats.waiting_readings, stats.lost_readings),
            (0, 0),
            "a clean stop leaves nothing behind"
        );
        acked += stats.acked_readings;
    }
    assert_eq!(bridge.check_chains(), (acked, 0));
}

/// Everything that goes out counts: MQTT headers, topics, hello, series set, status. Eight sensors at 1 Hz, a batch every 10 s.
#[tokio::test]
async fn a_reading_costs_less_than_two_bytes_on_the_wire() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let mut config = config(&broker.address(), 1);
    config.batch.readings = 80;
    config.batch.age = Duration::from_secs(10);
    config.sources = vec![
        SourceKind::Replay(ReplaySource {
            trace: Trace::File(concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/data/sensors-1hz.csv").into()),
            at_end: AtEnd::Stop,
            speed: Speed::Max,
            times: ReplayTimes::Original,
            ..Default::default()
        })
        .into(),
    ];
    let agent = Running::start(config);
    let readings = 28_789;
    agent
        .until("all sampled", 20, |stats| {
            stats.sampled_readings == readings && stats.connected
        })
        .await;
    let stats = agent.stop().await;
    assert_eq!((stats.acked_readings, stats.waiting_readings), (readings, 0));
    let each = stats.sent_bytes as f64 / readings as f64;
    println!("{each:.2} bytes a reading, {} in all", stats.sent_bytes);
    assert!(each < 2.0, "{each:.2} bytes a reading");
}
