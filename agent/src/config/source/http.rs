//! The settings of `http`.

use std::path::PathBuf;

use headwater_config::{ByteSize, Duration};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::Mapping;

/// An HTTP server for local programs: JSON at `/v1/readings`, Influx line protocol at `/write` and `/api/v2/write`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSource {
    /// Address and port. Default `127.0.0.1:8086`, which is InfluxDB's port. An address that other machines reach needs `token_file`.
    pub listen: String,
    /// File with a token that requests must bring (`Authorization: Bearer …` or `Token …`). `None`: anybody on this machine may
    /// hand in readings.
    pub token_file: Option<PathBuf>,
    /// Largest request body, also after it is inflated. Default 256 KiB; at most 16 MiB.
    pub max_body: ByteSize,
    /// Most readings of one request. Default 5,000.
    pub max_readings: usize,
    /// Most connections at a time. Default 16; 1 to 1,000.
    pub connections: usize,
    /// How long a request's head, and then its body, may take to come; and how long a connection may wait for another. Default 10 s.
    #[serde(with = "headwater_config::duration")]
    pub timeout: Duration,
    /// How line protocol is read (`name`, `skip`, `units`, …); `format` is `influx`, and limits are `max_body` and `max_readings`.
    #[serde(deserialize_with = "line_protocol")]
    pub map: Mapping,
}

impl Default for HttpSource {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8086".into(),
            token_file: None,
            max_body: ByteSize::kib(256),
            max_readings: 5_000,
            connections: 16,
            timeout: Duration::from_secs(10),
            map: Mapping {
                format: headwater_foreign::Format::Influx,
                ..Mapping::default()
            },
        }
    }
}

/// A mapping whose format is line protocol's unless it says otherwise.
fn line_protocol<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mapping, D::Error> {
    let mut table = toml::Table::deserialize(deserializer)?;
    table.entry("format").or_insert_with(|| "influx".into());
    headwater_config::from_table(table).map_err(D::Error::custom)
}
