//! The settings of the way to a broker.

use std::path::PathBuf;

use headwater_config::Duration;
use serde::Deserialize;

use crate::Error;
use crate::broker::Broker;

/// The version of MQTT.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 5, and 3.1.1 with a broker that does not speak it.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// MQTT 5 alone.
    #[serde(rename = "5")]
    V5,
    /// MQTT 3.1.1 alone.
    #[serde(rename = "3.1.1")]
    V311,
}

/// TLS. All files are PEM, and read again when they have changed.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Certificates of the authorities that the broker's certificate may come from. `None`: those that this system trusts.
    pub ca_file: Option<PathBuf>,
    /// This agent's certificate, and those that lead from it to its authority, for a broker that asks for one.
    pub cert_file: Option<PathBuf>,
    /// The private key of `cert_file`: PKCS #8, PKCS #1 or SEC 1, without a password.
    pub key_file: Option<PathBuf>,
    /// The name that the broker's certificate must bear. `None`: the host in the broker's address.
    pub server_name: Option<String>,
    /// The SHA-256 of the only authority that is trusted; in place of `ca_file`, and set by the program alone.
    #[serde(skip)]
    pub pin: Option<[u8; 32]>,
    /// How often it is looked, while a connection stands, whether the files have changed. Default 5 min; 1 s to 1 day.
    #[serde(with = "headwater_config::duration")]
    pub look_every: Duration,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            ca_file: None,
            cert_file: None,
            key_file: None,
            server_name: None,
            pin: None,
            look_every: Duration::from_secs(300),
        }
    }
}

impl Tls {
    /// Checks what the types cannot say: the key that is wrong, and why.
    pub(crate) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => Err(("tls.cert_file", "its key is missing: set tls.key_file")),
            (None, Some(_)) => Err(("tls.key_file", "its certificate is missing: set tls.cert_file")),
            _ if !(1..=86_400).contains(&self.look_every.as_secs()) => {
                Err(("tls.look_every", "it is not in 1s..=1d"))
            }
            _ => Ok(()),
        }
    }
}

impl super::Uplink {
    /// Checks what the types cannot say of the way to a broker.
    pub(super) fn check_brokers(&self) -> Result<(), Error> {
        let setting = |key: &str, why: &str| {
            Err(Error::Setting {
                key: key.to_string(),
                why: why.to_string(),
            })
        };
        let brokers = Broker::all(&self.broker)?;
        if brokers.is_empty() {
            return setting("uplink.broker", "the list is empty; give at least one address");
        }
        if !(1..=300).contains(&self.connect_timeout.as_secs()) {
            return setting("uplink.connect_timeout", "it is not in 1s..=5m");
        }
        if self.return_after < Duration::from_secs(1) {
            return setting("uplink.return_after", "it is less than 1s");
        }
        self.tls
            .check()
            .or_else(|(key, why)| setting(&format!("uplink.{key}"), why))
    }
}
