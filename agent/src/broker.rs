//! The broker's address.

use crate::Error;

/// Where the broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broker {
    /// Name or address, an IPv6 address in its brackets: the MQTT client puts `:port` behind it as it stands.
    pub(crate) host: String,
    /// TCP port.
    pub(crate) port: u16,
}

impl Broker {
    /// Reads `mqtt://host[:port]`.
    pub(crate) fn parse(address: &str) -> Result<Self, Error> {
        let wrong = |why| Error::Broker {
            address: address.to_string(),
            why,
        };
        let Some((scheme, rest)) = address.split_once("://") else {
            return Err(wrong("has no scheme; write it as mqtt://host:1883"));
        };
        match scheme {
            "mqtt" => {}
            "mqtts" | "ssl" | "ws" | "wss" => {
                return Err(wrong(
                    "asks for TLS or WebSocket, which this build leaves out; use mqtt://host:1883",
                ));
            }
            _ => return Err(wrong("has an unknown scheme; write it as mqtt://host:1883")),
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err(wrong(
                "holds credentials; use uplink.user and uplink.password_file",
            ));
        }
        if rest.contains(['/', '?', '#']) {
            return Err(wrong("has a path; write it as mqtt://host:1883"));
        }
        let (host, port) = match rest.find(']') {
            Some(end) => {
                let (host, rest) = rest.split_at(end + 1);
                (host, rest.strip_prefix(':'))
            }
            None if rest.starts_with('[') => return Err(wrong("has a bracket that is not closed")),
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        if host.is_empty() {
            return Err(wrong("names no host; write it as mqtt://host:1883"));
        }
        let port = match port {
            None => 1883,
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| wrong("has a port that is not a number in 1..=65535"))?,
        };
        Ok(Self {
            host: host.to_string(),
            port,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_may_be_left_out() {
        for (address, host, port) in [
            ("mqtt://broker", "broker", 1883),
            ("mqtt://10.0.0.1:2883/", "10.0.0.1", 2883),
            ("mqtt://[::1]:1884", "[::1]", 1884),
            ("mqtt://[fe80::1]", "[fe80::1]", 1883),
        ] {
            assert_eq!(
                Broker::parse(address).unwrap(),
                Broker {
                    host: host.into(),
                    port
                },
                "{address}"
            );
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_what_to_do() {
        for (address, part) in [
            ("broker:1883", "has no scheme"),
            ("http://broker", "unknown scheme"),
            ("mqtts://broker", "TLS"),
            ("mqtt://", "names no host"),
            ("mqtt://broker:0", "port"),
            ("mqtt://broker:http", "port"),
            ("mqtt://me:secret@broker", "uplink.password_file"),
            ("mqtt://broker/path", "has a path"),
            ("mqtt://[::1", "not closed"),
        ] {
            let error = Broker::parse(address).unwrap_err().to_string();
            assert!(error.contains(part), "{address}: {error}");
        }
    }
}
