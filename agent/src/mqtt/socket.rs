//! The way to a broker: name, TCP, and where the address says so TLS and WebSocket.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Duration, Instant, timeout_at};

use super::names::Names;
#[cfg(feature = "tls")]
use super::tls::Tls;
use super::traffic::{Counted, Traffic};
use crate::broker::Broker;
use crate::clock::Clock;
use crate::config;

/// What the kernel may hold that the other side has not acknowledged (Linux doubles it for its own bookkeeping). Small on purpose: a ping
/// waits behind it, and it tells of progress only by thirds of it, so on a slow link it decides how long a sign of life takes; and it is
/// memory. On a path of 100 ms it lets 160 KB/s through.
const SEND_BUFFER: u32 = 16 * 1024;

/// What bytes go through.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// All that is needed for the way to any broker; clones share what they know and count.
#[derive(Clone, Debug)]
pub(crate) struct Ways {
    clock: Clock,
    names: Names,
    pub(crate) traffic: Arc<Traffic>,
    #[cfg(feature = "tls")]
    tls: Tls,
}

#[cfg_attr(not(feature = "tls"), allow(unused_variables, clippy::unused_self))]
impl Ways {
    /// As the settings say.
    pub(crate) fn new(tls: &config::Tls, clock: Clock) -> Self {
        Self {
            names: Names::default(),
            traffic: Arc::default(),
            #[cfg(feature = "tls")]
            tls: Tls::new(tls, clock.clone()),
            clock,
        }
    }

    /// Goes on by other settings; what is known and counted stays.
    pub(crate) fn reload(&mut self, tls: &config::Tls) {
        let names = self.names.clone();
        let traffic = self.traffic.clone();
        *self = Self {
            names,
            traffic,
            ..Self::new(tls, self.clock.clone())
        };
    }

    /// Connects, by `by`.
    ///
    /// # Errors
    /// For a person: what failed, and what to do.
    pub(crate) async fn connect(&self, broker: &Broker, by: Instant) -> Result<Box<dyn Stream>, String> {
        let addresses = self.names.resolve(&broker.host, broker.port, by).await?;
        let socket = Counted {
            socket: tcp(&addresses, by).await?,
            traffic: self.traffic.clone(),
        };
        let stream: Box<dyn Stream> = Box::new(socket);
        #[cfg(feature = "tls")]
        let stream = if broker.tls {
            match timeout_at(by, self.tls.connect(&broker.host, stream)).await {
                Ok(stream) => stream?,
                Err(_) => {
                    return Err(
                        "the TLS handshake was not answered in time; is the port one for TLS?".into(),
                    );
                }
            }
        } else {
            stream
        };
        #[cfg(feature = "websocket")]
        let stream = if broker.websocket {
            match timeout_at(by, super::websocket::connect(broker, stream)).await {
                Ok(stream) => stream?,
                Err(_) => return Err("the WebSocket handshake was not answered in time".into()),
            }
        } else {
            stream
        };
        Ok(stream)
    }

    /// An error of a stream's that is one of TLS, for a person.
    pub(super) fn of_tls(&self, error: &io::Error) -> Option<String> {
        #[cfg(feature = "tls")]
        return self.tls.explain(error);
        #[cfg(not(feature = "tls"))]
        None
    }

    /// An error of a stream's, for a person.
    pub(crate) fn explain(&self, error: &io::Error) -> String {
        self.of_tls(error).unwrap_or_else(|| explain(error))
    }

    /// What is worth knowing when a broker closes a TLS connection in place of answering.
    pub(crate) fn hint(&self) -> &'static str {
        #[cfg(feature = "tls")]
        return self.tls.hint();
        #[cfg(not(feature = "tls"))]
        ""
    }

    /// Ends when a connection is to be made anew because the TLS files have changed.
    pub(super) async fn renewed(&self, tls: bool) {
        #[cfg(feature = "tls")]
        if tls {
            return self.tls.renewed().await;
        }
        std::future::pending::<()>().await;
    }
}

/// Tries the addresses in their order; each may have an equal part of what time is left.
async fn tcp(addresses: &[SocketAddr], by: Instant) -> Result<TcpStream, String> {
    let mut why = String::new();
    for (at, address) in addresses.iter().enumerate() {
        let left = by.saturating_duration_since(Instant::now());
        let part = left / (addresses.len() - at) as u32;
        match timeout_at(Instant::now() + part, open(*address)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => why = format!("no connection to {address}: {error}"),
            Err(_) => {
                let waited = part.max(Duration::from_secs(1));
                why = format!("no connection to {address}: no answer within {waited:.0?}");
            }
        }
    }
    Err(why)
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

/// An error of the socket's, for a person.
pub(super) fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            "the broker, or the network, broke the connection".into()
        }
        io::ErrorKind::UnexpectedEof => "the broker closed the connection".into(),
        _ => error.to_string(),
    }
}
