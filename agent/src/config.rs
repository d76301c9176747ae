//! The agent's settings. `deploy/agent.toml` is the annotated reference; a test keeps it equal to the defaults here.

mod broker;
mod clock;
mod control;
mod enroll;
mod flow;
mod health;
mod journal;
mod metric;
mod source;
mod update;
mod uplink;

use std::path::{Path, PathBuf};

use headwater_config::{ByteSize, Duration};
use serde::Deserialize;

use crate::Error;

pub use broker::{Protocol, Tls};
pub use clock::{Clock, Trust};
pub use control::{CommandName, Control};
pub use enroll::{Enroll, Token};
pub use flow::{DataBudget, Drain};
pub use headwater_config::Brokers;
pub use health::Health;
pub use journal::{Journal, SyncAfter};
pub use metric::{Aggregate, Deadband, Implausible, Metric};
pub use source::{
    AtEnd, Begin, ExecSource, FileSource, FlowControl, HttpSource, Mapping, ModbusDevice, ModbusOrder,
    ModbusRegister, ModbusSource, ModbusTable, ModbusType, MqttSource, MqttSubscription, Parity,
    ReplaySource, ReplayTimes, SerialFormat, SerialSource, SimulatedSource, SocketSource, Source, SourceKind,
    Speed, SysfsFile, SysfsParse, SysfsPreset, SysfsSource, SystemGroup, SystemSource, Trace,
};
pub use update::Update;
pub use uplink::{Backoff, Compression, Encoding, Uplink, Window};

/// What an environment variable that overrides a key begins with: `HEADWATER_AGENT_UPLINK__BROKER`.
pub const ENVIRONMENT_PREFIX: &str = "HEADWATER_AGENT_";

/// What the status socket is called where only its directory is given.
const SOCKET: &str = "agent.sock";

/// All settings of an agent.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The device's name, as [`headwater_proto::name::check_device`] allows it. `None`: the host's name.
    pub device: Option<String>,
    /// Directory for what outlives the process: the journal, and a few small files. `None`: `$STATE_DIRECTORY`, which systemd
    /// sets; without that, everything is in memory.
    pub state_dir: Option<PathBuf>,
    /// When a batch is closed.
    pub batch: Batch,
    /// The way to the relay.
    pub uplink: Uplink,
    /// Where this agent's certificate comes from.
    pub enroll: Enroll,
    /// Where batches wait for their acknowledgement.
    pub journal: Journal,
    /// The agent's own figures.
    pub health: Health,
    /// Commands from the relay, and what shows this agent's state.
    pub control: Control,
    /// Updates over the air.
    pub update: Update,
    /// What is done to readings, metric by metric; the first that matches holds.
    #[serde(rename = "metric")]
    pub metrics: Vec<Metric>,
    /// When this machine's clock is taken to be right.
    pub clock: Clock,
    /// Where readings come from; at least one.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
}

/// A batch is closed by whichever of these is reached first.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Batch {
    /// This many readings. Default 4,000; 1 to 100,000.
    pub readings: usize,
    /// About this many bytes before encoding: 8 a number, its length a string. Default 64 KiB.
    pub bytes: ByteSize,
    /// This long after its first reading. Default 10 s.
    #[serde(with = "headwater_config::duration")]
    pub age: Duration,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            readings: 4_000,
            bytes: ByteSize::kib(64),
            age: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// Reads the settings from a file, under the environment's variables; `$STATE_DIRECTORY` and `$RUNTIME_DIRECTORY`
    /// stand in for directories that are not set.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn load(path: &Path) -> Result<Self, Error> {
        let config: Self = headwater_config::load(Some(path), ENVIRONMENT_PREFIX)?;
        Ok(config.with_directories())
    }

    /// With directories from the environment where none are set.
    pub(crate) fn with_directories(mut self) -> Self {
        self.state_dir = self.state_dir.or_else(|| directory("STATE_DIRECTORY"));
        let socket = || Some(directory("RUNTIME_DIRECTORY")?.join(SOCKET));
        self.control.socket = self.control.socket.or_else(socket);
        self
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// [`Error::Setting`], which names the key, its value and what is allowed; [`Error::Broker`].
    pub fn check(&self) -> Result<(), Error> {
        let setting = |key: &str, why: String| {
            Err(Error::Setting {
                key: key.to_string(),
                why,
            })
        };
        if self.sources.is_empty() {
            return setting("source", "there is none; add a [[source]] table".into());
        }
        Source::check(&self.sources)?;
        Metric::check(&self.metrics)?;
        if !(1..=100_000).contains(&self.batch.readings) {
            return setting(
                "batch.readings",
                format!("{} is not in 1..=100000", self.batch.readings),
            );
        }
        for (key, bytes) in [
            ("batch.bytes", self.batch.bytes),
            ("uplink.window.bytes", self.uplink.window.bytes),
            ("journal.memory", self.journal.memory),
        ] {
            if bytes.as_u64() < 1024 {
                return setting(key, format!("{bytes} is less than 1 KiB"));
            }
        }
        if let Err((key, why)) = self.journal.check() {
            return setting(key, why);
        }
        if self.uplink.window.batches == 0 {
            return setting(
                "uplink.window.batches",
                "0 would send nothing; give at least 1".into(),
            );
        }
        for (key, duration) in [
            ("batch.age", self.batch.age),
            ("uplink.ack_timeout", self.uplink.ack_timeout),
            ("uplink.backoff.min", self.uplink.backoff.min),
        ] {
            if duration.is_zero() {
                return setting(key, "0 is not allowed".into());
            }
        }
        if self.uplink.backoff.max < self.uplink.backoff.min {
            return setting("uplink.backoff.max", "it is less than uplink.backoff.min".into());
        }
        let keep_alive = self.uplink.keep_alive;
        if keep_alive.subsec_nanos() != 0 || !(1..=u64::from(u16::MAX)).contains(&keep_alive.as_secs()) {
            return setting(
                "uplink.keep_alive",
                format!("{keep_alive:?} is not whole seconds in 1..=65535"),
            );
        }
        if self.uplink.password_file.is_some() && self.uplink.user.is_none() {
            return setting(
                "uplink.password_file",
                "there is no uplink.user whose password it is".into(),
            );
        }
        if let Some(rate) = self.uplink.drain_rate
            && rate.as_u64() < 128
        {
            return setting(
                "uplink.drain_rate",
                format!("{rate} a second is less than 128 B; leave it out for no limit"),
            );
        }
        if let Some(budget) = &self.uplink.data_budget
            && let Err((key, why)) = budget.check()
        {
            return setting(&format!("uplink.data_budget.{key}"), why);
        }
        if !self.health.interval.is_zero() && self.health.interval < Duration::from_secs(1) {
            let interval = self.health.interval;
            return setting(
                "health.interval",
                format!("{interval:?} is less than 1s; 0 switches it off"),
            );
        }
        self.control.check()?;
        self.update.check()?;
        self.uplink.check_brokers()?;
        if let Err((key, why)) = self.enroll.check(&self.uplink.tls) {
            return setting(&format!("enroll.{key}"), why.into());
        }
        Ok(())
    }

    /// The socket that tells this agent's state, if there is one.
    pub fn status_socket(&self) -> Option<PathBuf> {
        let in_state = || Some(self.state_dir.as_ref()?.join(SOCKET));
        self.control.socket.clone().or_else(in_state)
    }

    /// A hash of the settings in force, so that a fleet's page can tell which boxes differ: of their values, however they are written
    /// down, and without the device's name, which differs everywhere.
    pub fn hash(&self) -> String {
        let settings = Self {
            device: None,
            ..self.clone()
        };
        let hash = format!("{settings:?}")
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        format!("{hash:016x}")
    }
}

/// A directory that systemd made for the service (`StateDirectory=`, `RuntimeDirectory=`), the first if there are several.
pub(crate) fn directory(variable: &str) -> Option<PathBuf> {
    let directories = std::env::var_os(variable)?;
    std::env::split_paths(&directories)
        .next()
        .filter(|path| !path.as_os_str().is_empty())
}
