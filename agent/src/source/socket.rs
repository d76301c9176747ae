//! A port for local programs: lines over TCP, datagrams over UDP.
//!
//! Who writes too much over TCP is slowed down: nothing is read while the source's share is used up, and the network pushes
//! back. A datagram cannot be pushed back: while the share is used up they are thrown away unread, and counted.

mod tcp;
mod udp;

use std::net::SocketAddr;
use std::time::Duration;

use super::foreign::{Foreign, Metrics};
use super::{Cadence, Output, Running, Source, listen};
use crate::config::SocketSource;
use crate::error::SourceError;

/// The source.
pub(crate) struct Socket {
    settings: SocketSource,
    foreign: Foreign,
    transport: Transport,
    address: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Transport {
    Tcp,
    Udp,
}

impl Socket {
    pub(crate) fn open(settings: &SocketSource) -> Result<Self, SourceError> {
        let wrong = |key, why: String| Err(SourceError::Setting { key, why });
        let text = &settings.listen;
        let (transport, address) = match text.split_once("://") {
            Some(("tcp", address)) => (Transport::Tcp, address),
            Some(("udp", address)) => (Transport::Udp, address),
            _ => {
                let why = format!("{text:?} does not begin with tcp:// or udp://");
                return wrong("listen", why);
            }
        };
        let address = listen::address(address, text)?;
        if listen::is_remote(&address) && !settings.remote {
            let why = format!(
                "{text:?} can be reached by other machines, any of which could hand in readings; listen on 127.0.0.1, or set remote = true"
            );
            return wrong("listen", why);
        }
        if !(1..=1_000).contains(&settings.connections) {
            return wrong(
                "connections",
                format!("{} is not in 1..=1000", settings.connections),
            );
        }
        if settings.idle_timeout < Duration::from_secs(1) {
            return wrong(
                "idle_timeout",
                format!("{:?} is less than 1s", settings.idle_timeout),
            );
        }
        Ok(Self {
            foreign: Foreign::new(&settings.map, false, &Metrics::default())?,
            settings: settings.clone(),
            transport,
            address,
        })
    }
}

impl Source for Socket {
    fn cadence(&self) -> Cadence {
        match self.transport {
            Transport::Tcp => Cadence::Fed,
            Transport::Udp => Cadence::Pushed,
        }
    }

    fn run<'a>(&'a mut self, output: &'a Output) -> Running<'a> {
        Box::pin(async move {
            let failed = |error| listen::failed(&self.settings.listen, &error);
            match self.transport {
                Transport::Tcp => {
                    let listener = tokio::net::TcpListener::bind(self.address)
                        .await
                        .map_err(failed)?;
                    log::info!("listening on {}", self.settings.listen);
                    output.alive();
                    tcp::serve(listener, &self.settings, &self.foreign, output).await
                }
                Transport::Udp => {
                    let socket = tokio::net::UdpSocket::bind(self.address).await.map_err(failed)?;
                    log::info!("listening on {}", self.settings.listen);
                    output.alive();
                    udp::receive(&socket, &self.foreign, output).await
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;
