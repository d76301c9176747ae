//! The agent in a box of its own at the end of a real cable: the cable is pulled, the interface goes down, packets are lost and late.
//! Nobody closes a connection: there is silence, and the agent has to find out by itself.
//!
//! Root is needed, and a test that does not have it fails.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use headwater_agent::Status;

use crate::bridge::{self, Bridge};
use crate::library::{expected, trace};
use crate::mosquitto::Mosquitto;
use crate::netns::Namespace;

/// Broker and relay at this end, the agent's program at the other.
struct Site {
    _broker: Mosquitto,
    bridge: Bridge,
    _relay: bridge::Running,
    namespace: Namespace,
    rows: usize,
}

impl Site {
    /// The agent reads a trace of `rows`, of which a hundred take a second, and looks for a sign of life every 2 s.
    fn start(mut namespace: Namespace, rows: usize) -> Self {
        let mut broker = Mosquitto::stopped();
        broker.configure(&namespace.listener());
        broker.start();
        let bridge = Bridge::default();
        let relay = bridge.run(broker.port());
        let folder = namespace.folder().to_path_buf();
        std::fs::write(folder.join("trace.csv"), trace(rows)).unwrap();
        let mut settings = format!(
            "device = 'gw-01'\nstate_dir = '{0}/state'\n[health]\ninterval = '0s'\n[clock]\ntrust = 'always'\n\
             [batch]\nage = '100ms'\n[[source]]\ntype = 'replay'\npath = '{0}/trace.csv'\ntimes = 'original'\n\
             at_end = 'stop'\nspeed = 0.1\n",
            folder.display()
        );
        write!(
            settings,
            "[uplink]\nbroker = '{}'\nkeep_alive = '2s'\nconnect_timeout = '3s'\nack_timeout = '3s'\ndrain = 'in-order'\n\
             [uplink.backoff]\nmin = '100ms'\nmax = '500ms'\n",
            namespace.broker()
        )
        .unwrap();
        namespace.run(&settings);
        Self {
            _broker: broker,
            bridge,
            _relay: relay,
            namespace,
            rows,
        }
    }

    async fn until(&self, what: &str, seconds: u64, reached: impl Fn(&Status) -> bool) -> Status {
        let until = Instant::now() + Duration::from_secs(seconds);
        loop {
            let status = self.namespace.status().await;
            if let Some(status) = status.as_ref().filter(|status| reached(status)) {
                return status.clone();
            }
            assert!(
                Instant::now() < until,
                "{what}: not within {seconds} s: {status:?}\n{}",
                self.namespace.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The agent notices, as it says, that there is nobody any more; and goes on reading.
    async fn notices(&self) {
        let cut = self
            .until("cut off", 20, |status| status.link.since_us == 0)
            .await;
        let why = cut.link.last_error.unwrap_or_default();
        // A first attempt to connect may have failed meanwhile.
        let log = self.namespace.log();
        assert!(
            log.contains("for 3s; next attempt"),
            "by its keep-alive: {why}\n{log}"
        );
        let sampled = cut.stats.sampled_readings;
        self.until("goes on reading", 20, |status| {
            status.stats.sampled_readings >= sampled + 100 && status.stats.waiting_readings >= 100
        })
        .await;
    }

    /// All is there, in order, once; and each connection began at the relay's position.
    async fn delivers_all(&self, seconds: u64) -> Status {
        let readings = 2 * self.rows as u64;
        let status = self
            .until("everything acknowledged", seconds, |status| {
                status.stats.acked_readings == readings && status.stats.waiting_readings == 0
            })
            .await;
        assert_eq!(self.bridge.check_chains(), (readings, 0));
        assert_eq!(self.bridge.readings("a"), expected(self.rows, "a"));
        assert_eq!(self.bridge.readings("b"), expected(self.rows, "b"));
        self.bridge.state(|state| {
            assert!(state.firsts.len() > 1, "more than one connection");
            for (position, seq) in &state.firsts {
                assert_eq!(*seq, position + 1, "goes back to what is not acknowledged");
            }
        });
        status
    }
}

#[tokio::test]
async fn a_cable_that_is_pulled_is_noticed_and_when_it_is_back_nothing_is_lost_or_repeated() {
    let site = Site::start(Namespace::with_veth(), 3_000);
    for round in 1..=2 {
        site.until("acknowledged", 20, |status| {
            status.stats.connected && status.stats.acked_readings > round * 200
        })
        .await;
        site.namespace.pull(true);
        site.notices().await;
        site.namespace.pull(false);
        let status = site
            .until("connected again", 20, |status| status.stats.connected)
            .await;
        assert_eq!(status.stats.reconnects, round);
    }
    site.delivers_all(60).await;
}

#[tokio::test]
async fn an_interface_that_is_taken_down_in_the_box_is_no_other_thing() {
    let site = Site::start(Namespace::with_veth(), 1_500);
    site.until("acknowledged", 20, |status| status.stats.acked_readings > 200)
        .await;
    site.namespace.take_down(true);
    site.notices().await;
    site.namespace.take_down(false);
    site.delivers_all(60).await;
}

/// Every tenth packet lost in each direction and a tenth of a second under way: slow, and nothing else.
#[tokio::test]
async fn a_link_that_loses_and_delays_packets_loses_and_repeats_no_reading() {
    let mut namespace = Namespace::with_wire();
    namespace.wire(10, 100, 50);
    let mut site = Site::start(namespace, 2_000);
    site.until("acknowledged", 30, |status| status.stats.acked_readings > 200)
        .await;
    // None gets through at all.
    site.namespace.wire(100, 0, 0);
    site.notices().await;
    site.namespace.wire(10, 100, 50);
    site.delivers_all(120).await;
}
