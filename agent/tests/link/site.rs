//! A box in the field, for the tests of commands.

use std::path::{Path, PathBuf};
use std::process::Child;

use headwater_agent::Status;
use headwater_proto::pb::ReplyStatus;

use crate::agent;
use crate::bridge::{Bridge, Running};
use crate::library::wait_for;
use crate::mosquitto::Mosquitto;
use crate::operator::{DEVICE, Operator};
use crate::status::read_status;

/// A box in the field: a broker, a relay, and a device's program with a state directory.
pub(crate) struct Site {
    pub(crate) broker: Mosquitto,
    pub(crate) bridge: Bridge,
    _relay: Running,
    pub(crate) operator: Operator,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) child: Option<Child>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Site {
    pub(crate) async fn start(rest: &str) -> Self {
        let broker = Mosquitto::started();
        let bridge = Bridge::default();
        let relay = bridge.run(broker.port());
        let operator = Operator::start(broker.port()).await;
        let mut site = Self {
            broker,
            bridge,
            _relay: relay,
            operator,
            folder: tempfile::tempdir().unwrap(),
            child: None,
        };
        std::fs::write(site.config(), site.text(rest)).unwrap();
        site.run().await;
        site
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("agent.toml")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("state/agent.sock")
    }

    /// A whole configuration.
    pub(crate) fn text(&self, rest: &str) -> String {
        self.text_to(&self.broker.address(), rest)
    }

    pub(crate) fn text_to(&self, broker: &str, rest: &str) -> String {
        format!(
            "device = '{DEVICE}'\nstate_dir = '{}/state'\n[uplink]\nbroker = '{broker}'\nack_timeout = '1s'\n\
             [uplink.backoff]\nmin = '50ms'\nmax = '200ms'\n[health]\ninterval = '0s'\n{rest}\n\
             [[source]]\ntype = 'simulated'\nname = 'sim'\ninterval = '100ms'\n",
            self.folder.path().display()
        )
    }

    /// Starts the program, and waits until the relay has answered it.
    pub(crate) async fn run(&mut self) {
        let hellos = self.hellos();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .unwrap();
        let child = agent::program()
            .args(["run", "--config"])
            .arg(self.config())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
        wait_for("hello", || self.hellos() > hellos).await;
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn hellos(&self) -> usize {
        self.bridge.state(|state| state.hellos.len())
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub(crate) async fn status(&self) -> Status {
        read_status(self.socket()).await.unwrap()
    }

    pub(crate) fn in_state(&self, name: &str) -> bool {
        Path::new(&self.folder.path().join("state").join(name)).exists()
    }

    /// The reply's status and text.
    pub(crate) async fn ask(&self, name: &str, arguments: &[&str]) -> (ReplyStatus, String) {
        let reply = self.operator.ask(name, arguments).await;
        (reply.status(), reply.output)
    }
}
