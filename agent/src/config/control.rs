//! The settings of commands, and of what shows an agent's state.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use headwater_config::Duration;
use serde::Deserialize;

use crate::Error;

/// Commands from the relay, and what shows this agent's state on the machine it runs on.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Control {
    /// The commands that are carried out. Default all but `exec`.
    pub commands: Vec<CommandName>,
    /// What `exec` may run: a name, and the program with its arguments. No shell is involved. Default nothing.
    pub exec: BTreeMap<String, Vec<String>>,
    /// How long a program that `exec` runs may take; then it is killed with all that it started. Default 30 s.
    #[serde(with = "headwater_config::duration")]
    pub exec_timeout: Duration,
    /// Settings applied by command are rolled back unless the relay answers the agent within this time. Default 5 min.
    #[serde(with = "headwater_config::duration")]
    pub confirm: Duration,
    /// The Unix socket that `headwater-agent status` asks. `None`: `agent.sock` in `$RUNTIME_DIRECTORY`, or in the state directory;
    /// if there is neither, none.
    pub socket: Option<PathBuf>,
    /// Address of a port with figures for Prometheus. `None`: there is none.
    pub prometheus: Option<SocketAddr>,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            commands: CommandName::ALL
                .into_iter()
                .filter(|command| *command != CommandName::Exec)
                .collect(),
            exec: BTreeMap::new(),
            exec_timeout: Duration::from_secs(30),
            confirm: Duration::from_secs(300),
            socket: None,
            prometheus: None,
        }
    }
}

/// A command that an agent knows.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum CommandName {
    /// Answers.
    Ping,
    /// Tells the agent's state.
    Status,
    /// Closes the open batch, and answers when it is acknowledged.
    Flush,
    /// Changes a setting until further notice.
    Set,
    /// Tells or replaces the whole configuration.
    Config,
    /// Starts the agent anew.
    Restart,
    /// Installs another version of the agent, or tells how that goes.
    Update,
    /// Runs a program of `control.exec`.
    Exec,
}

impl CommandName {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Ping,
        Self::Status,
        Self::Flush,
        Self::Set,
        Self::Config,
        Self::Restart,
        Self::Update,
        Self::Exec,
    ];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Status => "status",
            Self::Flush => "flush",
            Self::Set => "set",
            Self::Config => "config",
            Self::Restart => "restart",
            Self::Update => "update",
            Self::Exec => "exec",
        }
    }
}

impl Control {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub(super) fn check(&self) -> Result<(), Error> {
        let setting = |key: String, why: String| Err(Error::Setting { key, why });
        for (name, program) in &self.exec {
            let path = program.first().map_or("", String::as_str);
            if !path.starts_with('/') {
                return setting(
                    format!("control.exec.{name}"),
                    format!(
                        "{path:?} is not the absolute path of a program; give [\"/path\", \"argument\", …]"
                    ),
                );
            }
        }
        if !self.exec.is_empty() && !self.commands.contains(&CommandName::Exec) {
            return setting(
                "control.exec".into(),
                "it has no effect: add \"exec\" to control.commands, or take it out".into(),
            );
        }
        let least = Duration::from_secs(1);
        for (key, duration) in [
            ("control.exec_timeout", self.exec_timeout),
            ("control.confirm", self.confirm),
        ] {
            if duration < least {
                return setting(key.into(), format!("{duration:?} is less than 1s"));
            }
        }
        if self.prometheus.is_some() && !cfg!(feature = "prometheus") {
            return setting(
                "control.prometheus".into(),
                "this build leaves it out; build with the feature `prometheus`".into(),
            );
        }
        Ok(())
    }
}
