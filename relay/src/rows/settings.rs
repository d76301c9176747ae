//! The section `rows` of the settings.

use std::time::Duration;

use serde::Deserialize;

/// Kafka → Kafka: one record a reading.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RowsSettings {
    /// Whether `headwater-relay run` makes rows too; `headwater-relay rows` does in any case.
    pub enabled: bool,
    /// What a record's value is.
    pub format: Format,
    /// With protobuf: the id of `reading.proto` in a Confluent Schema Registry, which then stands before each value.
    pub schema_id: Option<u32>,
    /// Rows become visible, all or none, this often.
    #[serde(with = "headwater_config::duration")]
    pub commit_interval: Duration,
    /// Who gives Kafka no sign of life for this long is replaced by another.
    #[serde(with = "headwater_config::duration")]
    pub session_timeout: Duration,
}

impl Default for RowsSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            format: Format::Json,
            schema_id: None,
            commit_interval: Duration::from_millis(500),
            session_timeout: Duration::from_secs(10),
        }
    }
}

/// What the value of a row's record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One flat JSON object.
    Json,
    /// `headwater.v1.Reading`.
    Protobuf,
}
