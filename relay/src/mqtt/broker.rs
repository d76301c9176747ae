//! A broker's address.

use std::fmt;

use super::Error;

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Name or address, an IPv6 address without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether it is spoken to over TLS.
    pub tls: bool,
}

impl Broker {
    /// Reads `mqtt://host[:port]` or `mqtts://host[:port]`; without a scheme it is `mqtt`. `section` is where it stands.
    ///
    /// # Errors
    /// [`Error::Broker`].
    pub fn parse(address: &str, section: &str) -> Result<Self, Error> {
        let wrong = |why: &str| Error::Broker {
            section: section.to_string(),
            address: address.to_string(),
            why: why.to_string(),
        };
        let (tls, rest) = match address.split_once("://") {
            Some(("mqtt" | "tcp", rest)) => (false, rest),
            Some(("mqtts", rest)) => (true, rest),
            None => (false, address),
            Some((scheme @ ("ws" | "wss"), _)) => {
                return Err(wrong(&format!(
                    "{scheme}:// is not supported, agents alone speak it; write mqtt://host:1883 or mqtts://host:8883"
                )));
            }
            Some((scheme, _)) => {
                return Err(wrong(&format!(
                    "{scheme}:// is not supported; write mqtt://host:1883 or mqtts://host:8883"
                )));
            }
        };
        let rest = rest.trim_end_matches('/');
        if rest.contains(['/', '?', '@']) {
            // It may hold a password, which is told to nobody.
            let shown = match address.rsplit_once('@') {
                Some((_, host)) => format!("…@{host}"),
                None => address.to_string(),
            };
            return Err(Error::Broker {
                section: section.to_string(),
                address: shown,
                why: format!(
                    "write mqtt://host:port; the user goes to {section}.user, the password to {section}.password_file"
                ),
            });
        }
        // A port follows the last colon, but not one inside the brackets of an IPv6 address.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (
                host,
                port.parse()
                    .map_err(|_| wrong(&format!("{port:?} is not a port")))?,
            ),
            _ => (rest, if tls { 8883 } else { 1883 }),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || port == 0 {
            return Err(wrong("write mqtt://host:port"));
        }
        Ok(Self {
            host: host.to_string(),
            port,
            tls,
        })
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_may_be_left_out() {
        for (address, shown) in [
            ("mqtt://broker", "mqtt://broker:1883"),
            ("mqtts://broker", "mqtts://broker:8883"),
            ("mqtt://10.0.0.1:2883/", "mqtt://10.0.0.1:2883"),
            ("tcp://broker", "mqtt://broker:1883"),
            ("broker:2883", "mqtt://broker:2883"),
            ("mqtts://[::1]:2883", "mqtts://[::1]:2883"),
            ("mqtt://[::1]", "mqtt://[::1]:1883"),
        ] {
            let broker = Broker::parse(address, "mqtt").unwrap();
            assert_eq!(broker.to_string(), shown, "{address}");
            assert!(!broker.host.contains(['[', ']']), "{address}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_what_to_do() {
        for (address, part) in [
            ("http://broker", "http:// is not supported"),
            ("wss://broker", "agents alone speak it"),
            ("mqtt://broker:99999", "is not a port"),
            ("mqtt://", "mqtt://host:port"),
            ("mqtt://broker:0", "mqtt://host:port"),
            ("mqtt://broker/path", "mqtt://host:port"),
        ] {
            let error = Broker::parse(address, "mqtt").unwrap_err().to_string();
            assert!(
                error.starts_with("mqtt.broker") && error.contains(part),
                "{address}: {error}"
            );
        }
        let error = Broker::parse("mqtt://me:secret@broker", "mqtt")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("mqtt.user") && !error.contains("secret"),
            "{error}"
        );
    }
}
