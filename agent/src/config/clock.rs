//! The settings of the clock.

use headwater_config::Duration;
use serde::Deserialize;

/// When this machine's clock is taken to be right.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Clock {
    /// What tells that it is. Default `auto`.
    pub trust: Trust,
    /// With `auto`: how long after the machine's start a clock that is set by hardware alone is taken as right. Default 2 min.
    #[serde(with = "headwater_config::duration")]
    pub wait: Duration,
    /// How long batches that were closed before it was right are held back once the relay has answered; then they are sent, flagged.
    /// Default 5 min.
    #[serde(with = "headwater_config::duration")]
    pub hold: Duration,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            trust: Trust::default(),
            wait: Duration::from_secs(120),
            hold: Duration::from_secs(300),
        }
    }
}

/// What tells that the clock is right.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// The kernel, which time daemons tell; failing that for `wait`, a clock that a battery or a host keeps: one that agrees with the
    /// real-time clock, or that of a virtual machine, if it is later than this program's making and the last time known.
    #[default]
    Auto,
    /// The kernel alone.
    Kernel,
    /// Nothing needs to.
    Always,
}
