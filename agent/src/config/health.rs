//! The settings of the agent's own figures.

use headwater_config::Duration;
use serde::Deserialize;

/// The agent's own figures, sent as ordinary metrics `agent.*`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// Time between samples; 0: none are taken. Default 5 min.
    #[serde(with = "headwater_config::duration")]
    pub interval: Duration,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(300),
        }
    }
}
