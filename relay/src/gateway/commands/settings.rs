//! The section `gateway.commands` of the settings.

use std::time::Duration;

use serde::Deserialize;

/// Commands from dashboards.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CommandSettings {
    /// A command that names no time of its own expires so long after it came.
    #[serde(with = "headwater_config::duration")]
    pub expiry: Duration,
    /// A command that names a later time than this expires then.
    #[serde(with = "headwater_config::duration")]
    pub longest_wait: Duration,
    /// Commands of one subject without a reply, on this gateway.
    pub per_subject: usize,
    /// Commands without a reply on this gateway.
    pub in_flight: usize,
    /// Commands of one connection in a second; twice that may come at once.
    pub rate: u32,
    /// What the audit holds of a command's arguments.
    pub audit_arguments: AuditArguments,
}

impl Default for CommandSettings {
    fn default() -> Self {
        Self {
            expiry: Duration::from_secs(60),
            longest_wait: Duration::from_secs(3600),
            per_subject: 64,
            in_flight: 1024,
            rate: 10,
            audit_arguments: AuditArguments::Hash,
        }
    }
}

/// What the audit holds of a command's arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditArguments {
    /// Their number and a hash: they may be a password, or a file that holds one.
    Hash,
    /// The arguments themselves too.
    Text,
}
