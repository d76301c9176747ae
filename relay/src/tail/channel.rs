//! The WebSocket to a gateway.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode, Uri, header};
use futures_util::{SinkExt as _, StreamExt as _};
use headwater_proto::{Message as _, pb};
use hyper_util::rt::TokioIo;
use pb::client_frame::Frame as ClientFrame;
use pb::server_frame::Frame;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use super::Error;
use crate::gateway::deflate::inflate::inflate;
use crate::gateway::deflate::shim::Shim;

/// Each message stands alone, both ways: that is what our inflater does, and what a gateway offers.
const DEFLATE: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
const PROTOCOL: &str = "headwater.v1";
/// How long it may take until the channel is open.
const TIME: std::time::Duration = std::time::Duration::from_secs(10);
/// The greatest message, as it comes and inflated, bytes.
const MESSAGE: usize = 16 << 20;
/// Of a refusal, bytes.
const REFUSAL: usize = 4096;

/// Where the gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) tls: bool,
    host: String,
    port: u16,
    path: String,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let wrong = |why: &str| Error::Url {
            url: url.into(),
            why: why.into(),
        };
        let uri: Uri = url
            .parse()
            .map_err(|_| wrong("it is no address; ws://HOST:PORT is"))?;
        let tls = match uri.scheme_str() {
            Some("ws" | "http") => false,
            Some("wss" | "https") => true,
            _ => return Err(wrong("it must begin with ws:// or wss://")),
        };
        let authority = uri
            .authority()
            .filter(|authority| !authority.host().is_empty())
            .ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("user and password mean nothing to a gateway; give a token"));
        }
        let path = uri
            .path_and_query()
            .map(ToString::to_string)
            .filter(|path| path != "/");
        Ok(Self {
            tls,
            host: authority.host().into(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            path: path.unwrap_or_else(|| "/v1/live".into()),
        })
    }

    fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.path)
    }
}

/// What came.
#[derive(Debug)]
pub(super) enum Event {
    /// A frame, and its decoded bytes.
    Frame(Frame, usize),
    /// A sign of life.
    Quiet,
    /// The gateway has closed.
    Closed(u16, String),
    /// The connection is gone, or what comes cannot be understood.
    Lost(String),
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// An open WebSocket.
pub(super) struct Channel {
    stream: WebSocketStream<Shim<TokioIo<hyper::upgrade::Upgraded>>>,
}

impl Channel {
    /// Connects, and asks for the live channel.
    pub(super) async fn open(address: &Address, tls: Option<&Arc<ClientConfig>>) -> Result<Self, Error> {
        match tokio::time::timeout(TIME, Self::try_open(address, tls)).await {
            Ok(result) => result,
            Err(_) => Err(Error::Connect {
                address: address.to_string(),
                why: format!("no answer within {TIME:?}"),
            }),
        }
    }

    async fn try_open(address: &Address, tls: Option<&Arc<ClientConfig>>) -> Result<Self, Error> {
        let failed = |why: String| Error::Connect {
            address: address.to_string(),
            why,
        };
        let refused = |why: String| Error::Refused {
            address: address.to_string(),
            why,
        };
        // An IPv6 address stands in brackets in a URL, and is looked up without.
        let host = address
            .host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_string();
        let tcp = TcpStream::connect((host.as_str(), address.port))
            .await
            .map_err(|error| failed(error.to_string()))?;
        let _ = tcp.set_nodelay(true);
        let transport: Box<dyn Io> = match tls {
            Some(config) => {
                let name = ServerName::try_from(host).map_err(|error| failed(error.to_string()))?;
                let connected = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await;
                Box::new(connected.map_err(|error| failed(format!("TLS: {error}")))?)
            }
            None => Box::new(tcp),
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(transport))
            .await
            .map_err(|error| failed(error.to_string()))?;
        // It ends with the connection, and what is wrong with it shows here.
        tokio::spawn(async move { drop(connection.with_upgrades().await) });
        let key = generate_key();
        let request = Request::builder()
            .uri(&address.path)
            .header(header::HOST, address.authority())
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key)
            .header(header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL)
            .header(header::SEC_WEBSOCKET_EXTENSIONS, DEFLATE)
            .body(Body::empty())
            .map_err(|error| failed(error.to_string()))?;
        let mut response = sender
            .send_request(request)
            .await
            .map_err(|error| failed(error.to_string()))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = response.status();
            let body = axum::body::to_bytes(Body::new(response.into_body()), REFUSAL).await;
            let text = String::from_utf8_lossy(&body.unwrap_or_default())
                .trim()
                .to_string();
            return Err(refused(if text.is_empty() {
                format!("it answers {status}")
            } else {
                format!("{text} ({status})")
            }));
        }
        let headers = response.headers();
        let says = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if says(header::SEC_WEBSOCKET_ACCEPT) != Some(&derive_accept_key(key.as_bytes()))
            || says(header::SEC_WEBSOCKET_PROTOCOL) != Some(PROTOCOL)
        {
            return Err(refused(format!("it speaks WebSocket, but not {PROTOCOL}")));
        }
        let extensions = says(header::SEC_WEBSOCKET_EXTENSIONS);
        if extensions.is_some_and(|extensions| !extensions.contains("server_no_context_takeover")) {
            return Err(refused(
                "it would compress in a way that was not offered".to_string(),
            ));
        }
        let deflated = extensions.is_some();
        let upgraded = hyper::upgrade::on(&mut response)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(16 << 10)
            .max_message_size(Some(MESSAGE))
            .max_frame_size(Some(MESSAGE));
        let shim = Shim::new(TokioIo::new(upgraded), deflated);
        let stream = WebSocketStream::from_raw_socket(shim, Role::Client, Some(config)).await;
        Ok(Self { stream })
    }

    /// Sends a frame.
    pub(super) async fn send(&mut self, frame: ClientFrame) -> Result<(), String> {
        let bytes = pb::ClientFrame { frame: Some(frame) }.encode_to_vec();
        let sent = self.stream.send(Message::Binary(bytes.into())).await;
        sent.map_err(|error| format!("the connection is lost: {error}"))
    }

    /// What comes next. May be dropped at any time: nothing is lost.
    pub(super) async fn next(&mut self) -> Event {
        let body = match self.stream.next().await {
            None => return Event::Lost("the connection is lost".into()),
            Some(Err(error)) => return Event::Lost(format!("the connection is lost: {error}")),
            Some(Ok(Message::Close(frame))) => {
                let (code, reason) = frame.map_or((1005, String::new()), |frame| {
                    (frame.code.into(), frame.reason.to_string())
                });
                return Event::Closed(code, reason);
            }
            Some(Ok(Message::Binary(body))) => body,
            // Tungstenite answers pings; text is none of this protocol.
            Some(Ok(_)) => return Event::Quiet,
        };
        let lost = |why: String| Event::Lost(format!("what the gateway sends cannot be understood: {why}"));
        let kind = self.stream.get_mut().take_kind(false);
        let body = match kind.deflated {
            true => match inflate(&body, MESSAGE) {
                Ok(inflated) => inflated.into(),
                Err(error) => return lost(error.to_string()),
            },
            false => body,
        };
        match pb::ServerFrame::decode(&body[..]) {
            Ok(pb::ServerFrame { frame: Some(frame) }) => Event::Frame(frame, body.len()),
            // Of a kind that a later gateway knows. Were it one that counts, the counts would tell.
            Ok(_) => Event::Quiet,
            Err(error) => lost(error.to_string()),
        }
    }

    /// Says goodbye, and waits for the answer.
    pub(super) async fn close(&mut self) {
        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        if self.stream.close(Some(frame)).await.is_ok() {
            while let Some(Ok(_)) = self.stream.next().await {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (url, shown) in [
            ("ws://127.0.0.1:8080", "ws://127.0.0.1:8080/v1/live"),
            ("http://gw/", "ws://gw:80/v1/live"),
            ("wss://gw.example/x?y=1", "wss://gw.example:443/x?y=1"),
            ("https://[::1]:9", "wss://[::1]:9/v1/live"),
        ] {
            assert_eq!(Address::parse(url).unwrap().to_string(), shown);
        }
        for (url, fact) in [
            ("mqtt://x", "must begin with ws://"),
            ("gateway", "must begin with ws://"),
            ("ws://a b", "no address"),
            ("ws://user:x@gw", "give a token"),
        ] {
            let said = Address::parse(url).unwrap_err().to_string();
            assert!(said.contains(fact), "{said}");
        }
    }
}
