//! A broker's address.

use std::fmt;

use crate::Error;
use crate::config::Brokers;

/// Where a broker listens, and what it speaks beneath MQTT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broker {
    /// Name or address, an IPv6 address in its brackets.
    pub(crate) host: String,
    /// TCP port.
    pub(crate) port: u16,
    pub(crate) tls: bool,
    pub(crate) websocket: bool,
    /// Of the WebSocket, with its slash; else empty.
    pub(crate) path: String,
}

/// What each scheme means: its name, TLS, WebSocket, the port where none is said.
const SCHEMES: [(&str, bool, bool, u16); 4] = [
    ("mqtt", false, false, 1883),
    ("mqtts", true, false, 8883),
    ("ws", false, true, 80),
    ("wss", true, true, 443),
];

/// The path that brokers' WebSocket listeners have unless they are told otherwise.
const PATH: &str = "/mqtt";

impl Broker {
    /// Reads the addresses of a setting.
    pub(crate) fn all(brokers: &Brokers) -> Result<Vec<Self>, Error> {
        brokers
            .addresses()
            .iter()
            .map(|address| Self::parse(address))
            .collect()
    }

    /// Reads `mqtt://host[:port]`, `mqtts://…`, `ws://host[:port][/path]`, `wss://…`.
    pub(crate) fn parse(address: &str) -> Result<Self, Error> {
        let wrong = |why| Error::Broker {
            address: address.to_string(),
            why,
        };
        let Some((scheme, rest)) = address.split_once("://") else {
            return Err(wrong("has no scheme; write it as mqtt://host:1883"));
        };
        let Some((_, tls, websocket, default)) = SCHEMES.into_iter().find(|(name, ..)| *name == scheme)
        else {
            return Err(wrong(
                "has an unknown scheme; write it as mqtt://host:1883 or mqtts://host:8883",
            ));
        };
        if tls && !cfg!(feature = "tls") {
            return Err(wrong(
                "asks for TLS, which this build leaves out; build with the feature `tls`",
            ));
        }
        if websocket && !cfg!(feature = "websocket") {
            return Err(wrong(
                "asks for WebSocket, which this build leaves out; build with the feature `websocket`, or use mqtt:// or mqtts://",
            ));
        }
        let (rest, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if rest.contains('@') {
            return Err(wrong(
                "holds credentials; use uplink.user and uplink.password_file",
            ));
        }
        if rest.contains(['?', '#']) || !(path.is_empty() || path == "/" || websocket) {
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
            None => default,
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| wrong("has a port that is not a number in 1..=65535"))?,
        };
        let path = match path {
            _ if !websocket => "",
            "" | "/" => PATH,
            path => path,
        };
        Ok(Self {
            host: host.to_string(),
            port,
            tls,
            websocket,
            path: path.to_string(),
        })
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mine =
            |(_, tls, websocket, _): &&(_, bool, bool, _)| (*tls, *websocket) == (self.tls, self.websocket);
        let scheme = SCHEMES.iter().find(mine).map_or("mqtt", |(name, ..)| name);
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_may_be_left_out() {
        for (address, shown) in [
            ("mqtt://broker", "mqtt://broker:1883"),
            ("mqtt://10.0.0.1:2883/", "mqtt://10.0.0.1:2883"),
            ("mqtt://[::1]:1884", "mqtt://[::1]:1884"),
            ("mqtt://[fe80::1]", "mqtt://[fe80::1]:1883"),
            #[cfg(feature = "tls")]
            ("mqtts://broker", "mqtts://broker:8883"),
            #[cfg(feature = "websocket")]
            ("ws://broker", "ws://broker:80/mqtt"),
            #[cfg(all(feature = "tls", feature = "websocket"))]
            ("wss://broker/a/b", "wss://broker:443/a/b"),
        ] {
            assert_eq!(Broker::parse(address).unwrap().to_string(), shown, "{address}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_what_to_do() {
        for (address, part) in [
            ("broker:1883", "has no scheme"),
            ("http://broker", "unknown scheme"),
            #[cfg(not(feature = "tls"))]
            ("mqtts://broker", "feature `tls`"),
            #[cfg(not(feature = "websocket"))]
            ("ws://broker", "feature `websocket`"),
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
