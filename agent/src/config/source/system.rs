//! The settings of `system`.

use headwater_config::Duration;
use serde::Deserialize;

/// This machine's own figures: CPU, memory, load, disks, network, temperatures.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct SystemSource {
    /// Put before every metric's name. Default empty.
    pub prefix: String,
    /// Time between samples. Default 10 s.
    #[serde(with = "headwater_config::duration")]
    pub interval: Duration,
    /// What is sampled. Default all.
    pub groups: Vec<SystemGroup>,
}

impl Default for SystemSource {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            interval: Duration::from_secs(10),
            groups: SystemGroup::ALL.to_vec(),
        }
    }
}

/// A group of this machine's figures.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum SystemGroup {
    /// `cpu.usage`.
    Cpu,
    /// `memory.used`, `memory.available`, `swap.used`.
    Memory,
    /// `load.1m`, `load.5m`, `load.15m`, `uptime`.
    Load,
    /// `disk.<mount>.used`, `disk.<mount>.free`.
    Disks,
    /// `net.<interface>.rx`, `net.<interface>.tx`.
    Network,
    /// `temperature.<sensor>`.
    Temperatures,
}

impl SystemGroup {
    /// Every group.
    pub const ALL: [Self; 6] = [
        Self::Cpu,
        Self::Memory,
        Self::Load,
        Self::Disks,
        Self::Network,
        Self::Temperatures,
    ];
}
