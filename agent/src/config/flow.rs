//! The settings of what flows when: backlog beside live data, and a month's data budget.

use headwater_config::ByteSize;
use serde::Deserialize;

/// What is sent first after an outage.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Drain {
    /// The backlog, then live data: everything in the order in which it was taken.
    #[default]
    InOrder,
    /// Live data at once, in a new stream; the backlog beside it, in its own.
    LiveFirst,
}

/// What may pass the link in a month.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct DataBudget {
    /// Bytes a month, both directions, MQTT and TLS included, TCP and IP not (about 40 bytes a packet). Default 500 MiB.
    pub bytes: ByteSize,
    /// The day on which a month begins, at 00:00 UTC. Default 1; 1 to 28.
    pub reset_day: u8,
    /// A share of the budget that is worth a warning. Default 0.8; 0 to 1.
    pub warn_at: f64,
    /// The coarsest thinning: one reading of so many. Default 10; 1 to 1000. 1: never thinned.
    pub thin_max: u32,
}

impl Default for DataBudget {
    fn default() -> Self {
        Self {
            bytes: ByteSize::mib(500),
            reset_day: 1,
            warn_at: 0.8,
            thin_max: 10,
        }
    }
}

impl DataBudget {
    /// The key that is wrong, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if self.bytes.as_u64() < 1024 * 1024 {
            return Err(("bytes", format!("{} is less than 1 MiB", self.bytes)));
        }
        if !(1..=28).contains(&self.reset_day) {
            return Err((
                "reset_day",
                format!(
                    "{} is not in 1..=28, the days that every month has",
                    self.reset_day
                ),
            ));
        }
        if !(self.warn_at > 0.0 && self.warn_at <= 1.0) {
            return Err((
                "warn_at",
                format!("{} is not above 0 and at most 1", self.warn_at),
            ));
        }
        if !(1..=1000).contains(&self.thin_max) {
            return Err(("thin_max", format!("{} is not in 1..=1000", self.thin_max)));
        }
        Ok(())
    }
}
