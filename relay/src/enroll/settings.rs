//! The section `enroll` of the settings.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

/// The endpoint where devices get and renew their certificates. It runs where `listen` is set, once for a fleet.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EnrollSettings {
    /// Where it listens, for TLS alone. `None`: there is no endpoint in this process.
    pub listen: Option<SocketAddr>,
    /// The directory of tokens, issued certificates and revocations.
    pub state: PathBuf,
    /// The endpoint's certificate, and those that lead from it to its authority.
    pub cert_file: Option<PathBuf>,
    /// The private key of `cert_file`.
    pub key_file: Option<PathBuf>,
    /// The certificate of the authority that signs devices' certificates; behind it, those of others whose certificates may be renewed.
    pub ca_cert_file: Option<PathBuf>,
    /// Its private key: PKCS #8, without a password. Behind it, those of other authorities in `ca_cert_file`, which sign lists of what is revoked.
    pub ca_key_file: Option<PathBuf>,
    /// Whom devices shall trust: the authorities of the MQTT broker and of this endpoint.
    pub trust_file: Option<PathBuf>,
    /// Where the list of revoked certificates is written, for the MQTT broker.
    pub crl_file: Option<PathBuf>,
    /// How long a certificate is good. Default 365 days; 10 s to 10 years.
    #[serde(with = "headwater_config::duration")]
    pub lifetime: Duration,
    /// Requests of one address in a minute. Default 120; 1 to 100,000.
    pub per_address: u32,
    /// By which address devices reach the endpoint: for `fleet provision`.
    pub url: Option<String>,
    /// By which address devices reach the broker: for `fleet provision`.
    pub broker: Option<String>,
    /// Whose releases devices install (`update.keys` of an agent): for `fleet provision`. Default none: they cannot be updated over the air.
    pub update_keys: Vec<String>,
}

impl Default for EnrollSettings {
    fn default() -> Self {
        Self {
            listen: None,
            state: "/var/lib/headwater-relay/enroll".into(),
            cert_file: None,
            key_file: None,
            ca_cert_file: None,
            ca_key_file: None,
            trust_file: None,
            crl_file: None,
            lifetime: Duration::from_secs(365 * 86_400),
            per_address: 120,
            url: None,
            broker: None,
            update_keys: Vec::new(),
        }
    }
}

impl EnrollSettings {
    /// A file that has to be set.
    ///
    /// # Errors
    /// It is not.
    pub fn file<'a>(
        &self,
        key: &'static str,
        path: &'a Option<PathBuf>,
    ) -> Result<&'a PathBuf, super::Error> {
        path.as_ref().ok_or(super::Error::Missing { key })
    }
}
