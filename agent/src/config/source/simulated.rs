//! The settings of `simulated`.

use headwater_config::Duration;
use serde::Deserialize;

/// Made-up sensors: seeded random walks at the resolution of real parts.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct SimulatedSource {
    /// Put before every metric's name. Default empty.
    pub prefix: String,
    /// Time between samples. Default 1 s.
    #[serde(with = "headwater_config::duration")]
    pub interval: Duration,
    /// How many sensors. Default 8; 1 to 10,000.
    pub sensors: usize,
    /// The same seed walks the same way. `None`: made from the device's name.
    pub seed: Option<u64>,
    /// The step between neighbouring values, a decimal of at most 6 digits such as 0.01. `None`: each kind of sensor
    /// its own.
    pub resolution: Option<f64>,
    /// Mean time between a sensor's outages; 0: none. Default 0.
    #[serde(with = "headwater_config::duration")]
    pub outage_every: Duration,
    /// Mean length of an outage. Default 30 s.
    #[serde(with = "headwater_config::duration")]
    pub outage_for: Duration,
}

impl Default for SimulatedSource {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            interval: Duration::from_secs(1),
            sensors: 8,
            seed: None,
            resolution: None,
            outage_every: Duration::ZERO,
            outage_for: Duration::from_secs(30),
        }
    }
}
