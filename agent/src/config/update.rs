//! The settings of updates over the air.

use headwater_config::{ByteSize, Duration};
use serde::Deserialize;

use super::Tls;
use crate::Error;

/// Updates over the air: the command `update`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Update {
    /// Public keys (minisign), one of which has to have signed a release. Several, so that a key can be changed for another. Default none:
    /// nothing is installed.
    pub keys: Vec<String>,
    /// How long a new version has to reach the relay, and to have a batch acknowledged if there are readings; otherwise the one before comes
    /// back. Default 10 min; 1 s to 1 day.
    #[serde(with = "headwater_config::duration")]
    pub confirm_within: Duration,
    /// How fast a release is downloaded, bytes a second on average. Default 64 KiB; at least 1 KiB.
    pub rate: ByteSize,
    /// TLS to the server of releases, where its address says https.
    pub tls: Tls,
}

impl Default for Update {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            confirm_within: Duration::from_secs(600),
            rate: ByteSize::kib(64),
            tls: Tls::default(),
        }
    }
}

impl Update {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub(super) fn check(&self) -> Result<(), Error> {
        let setting = |key: &str, why: String| {
            Err(Error::Setting {
                key: format!("update.{key}"),
                why,
            })
        };
        #[cfg(not(feature = "update"))]
        if !self.keys.is_empty() {
            return setting(
                "keys",
                "this build leaves updates out; build with the feature `update`".into(),
            );
        }
        #[cfg(feature = "update")]
        for key in &self.keys {
            if crate::update::signature::Key::parse(key).is_none() {
                return setting(
                    "keys",
                    format!(
                        "{key:?} is no public key; give the line of a minisign .pub file that begins with RW"
                    ),
                );
            }
        }
        if !(1..=86_400).contains(&self.confirm_within.as_secs()) {
            return setting(
                "confirm_within",
                format!("{:?} is not in 1s..=1d", self.confirm_within),
            );
        }
        if self.rate.as_u64() < 1024 {
            return setting("rate", format!("{} a second is less than 1 KiB", self.rate));
        }
        self.tls.check().or_else(|(key, why)| setting(key, why.into()))
    }
}
