//! A section of the settings that says how an MQTT broker is reached: `[mqtt]`, and others of the same keys.

use std::path::PathBuf;
use std::time::Duration;

use headwater_config::Brokers;
use serde::Deserialize;

use crate::settings::Error;

const SECOND: Duration = Duration::from_secs(1);

/// How an MQTT broker is reached.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttSettings {
    /// One address, or several in order of preference: `mqtt://host:port`, `mqtts://` for TLS. The port may be left out (1883, 8883).
    /// Default `mqtt://localhost:1883`.
    pub broker: Brokers,
    /// How long another broker than the first is kept before it is tried to go back to the first. Default 10 min; at least 1 s.
    #[serde(with = "headwater_config::duration")]
    pub return_after: Duration,
    /// TLS, for addresses that ask for it.
    pub tls: TlsSettings,
    /// How long an attempt to connect may take. Default 5 s; whole seconds, 1 s to 5 min.
    #[serde(with = "headwater_config::duration")]
    pub connect_timeout: Duration,
    /// The client id, unique at the broker. Empty: `headwater-relay-` and a random number.
    pub client_id: String,
    /// The MQTT user name. Empty: no credentials are sent.
    pub user: String,
    /// File with the password of `user`, read anew for each connection. `None`: an empty one.
    pub password_file: Option<PathBuf>,
    /// The broker is pinged this often. Default 15 s; whole seconds, 1 s to 18 h.
    #[serde(with = "headwater_config::duration")]
    pub keep_alive: Duration,
}

impl Default for MqttSettings {
    fn default() -> Self {
        Self {
            broker: "mqtt://localhost:1883".into(),
            return_after: Duration::from_secs(600),
            tls: TlsSettings::default(),
            connect_timeout: Duration::from_secs(5),
            client_id: String::new(),
            user: String::new(),
            password_file: None,
            keep_alive: Duration::from_secs(15),
        }
    }
}

/// TLS. All files are PEM, and read anew for each connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// Certificates of the authorities that the broker's certificate may come from. `None`: those that this system trusts.
    pub ca_file: Option<PathBuf>,
    /// The relay's certificate, and those that lead from it to its authority, for a broker that asks for one.
    pub cert_file: Option<PathBuf>,
    /// The private key of `cert_file`: PKCS #8, PKCS #1 or SEC 1, without a password.
    pub key_file: Option<PathBuf>,
    /// The name that the broker's certificate must bear. `None`: the host in the broker's address.
    pub server_name: Option<String>,
}

impl MqttSettings {
    /// Checks what the types cannot say, and what needs no file: `section` is where these settings stand, as `mqtt`.
    ///
    /// # Errors
    /// [`Error::Value`], which names the key, its value and what is allowed.
    pub fn check(&self, section: &str) -> Result<(), Error> {
        let refused = |key: &str, value: String, why: &str| {
            Err(Error::Value {
                key: format!("{section}.{key}"),
                value,
                why: why.to_string(),
            })
        };
        let path = |path: &PathBuf| format!("{:?}", path.display().to_string());
        let text = |value: Duration| humantime::format_duration(value).to_string();
        for (key, value, longest) in [
            // The protocol's field has 16 bits.
            ("keep_alive", self.keep_alive, 65_535 * SECOND),
            ("connect_timeout", self.connect_timeout, 300 * SECOND),
        ] {
            if value.subsec_nanos() != 0 {
                return refused(key, text(value), "write whole seconds");
            }
            if !(SECOND..=longest).contains(&value) {
                let why = format!("allowed is 1s to {}", text(longest));
                return refused(key, text(value), &why);
            }
        }
        if self.return_after < SECOND {
            return refused("return_after", text(self.return_after), "allowed is 1s or more");
        }
        if self.broker.addresses().is_empty() {
            return refused("broker", "[]".into(), "give at least one address");
        }
        if let (Some(file), "") = (&self.password_file, self.user.as_str()) {
            let why = format!("there is no {section}.user whose password it is");
            return refused("password_file", path(file), &why);
        }
        match (&self.tls.cert_file, &self.tls.key_file) {
            (Some(file), None) => {
                let why = format!("its key is missing: set {section}.tls.key_file");
                return refused("tls.cert_file", path(file), &why);
            }
            (None, Some(file)) => {
                let why = format!("its certificate is missing: set {section}.tls.cert_file");
                return refused("tls.key_file", path(file), &why);
            }
            _ => {}
        }
        // Who names an authority believes to be safe.
        let encrypted = |address: &String| address.starts_with("mqtts://");
        if self.tls != TlsSettings::default() && !self.broker.addresses().iter().any(encrypted) {
            let why = format!("there is no TLS to a broker of {section}.tls; write mqtts://host:8883");
            return refused("broker", format!("{:?}", self.broker.to_string()), &why);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MqttSettings, String> {
        headwater_config::parse(text, "relay.toml", "HEADWATER_RELAY_", []).map_err(|error| error.to_string())
    }

    #[test]
    fn a_broker_is_one_address_or_a_list() {
        let one = parse("broker = 'mqtt://a'").unwrap();
        assert_eq!(one.broker, "mqtt://a".into());
        let two = parse("broker = ['mqtts://a', 'mqtts://b']").unwrap();
        assert_eq!(two.broker.addresses(), ["mqtts://a", "mqtts://b"]);
        assert_eq!(two.broker.to_string(), "mqtts://a, mqtts://b");
        let error = parse("broker = 7").unwrap_err();
        assert!(error.contains("a broker's address, or a list of them"), "{error}");
    }

    #[test]
    fn what_is_not_allowed_is_refused_with_key_value_and_reason() {
        for (text, key, says) in [
            ("broker = []", "s.broker = []", "at least one"),
            ("keep_alive = '0s'", "s.keep_alive = 0s", "1s to 18h 12m 15s"),
            (
                "keep_alive = '1500ms'",
                "s.keep_alive = 1s 500ms",
                "whole seconds",
            ),
            ("connect_timeout = '1h'", "s.connect_timeout = 1h", "1s to 5m"),
            ("return_after = '0s'", "s.return_after = 0s", "1s or more"),
            ("password_file = '/p'", "s.password_file = \"/p\"", "no s.user"),
            (
                "broker = 'mqtts://a'\ntls.cert_file = '/c'",
                "s.tls.cert_file = \"/c\"",
                "s.tls.key_file",
            ),
            (
                "broker = 'mqtts://a'\ntls.key_file = '/k'",
                "s.tls.key_file = \"/k\"",
                "s.tls.cert_file",
            ),
            ("tls.ca_file = '/ca'", "s.broker = \"mqtt://localhost", "mqtts://"),
        ] {
            let error = parse(text).unwrap().check("s").unwrap_err().to_string();
            assert!(error.starts_with(key) && error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn defaults_and_all_of_tls_are_allowed() {
        MqttSettings::default().check("mqtt").unwrap();
        let all = "broker = ['mqtts://a', 'mqtt://b']\nuser = 'relay'\npassword_file = '/p'\n\
                   tls = { ca_file = '/ca', cert_file = '/c', key_file = '/k', server_name = 'broker' }";
        parse(all).unwrap().check("mqtt").unwrap();
    }
}
