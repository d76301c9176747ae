//! A WebSocket echo server on the gateway's own handshake of permessage-deflate, shim, inflater and deflater, for the Autobahn test suite (see
//! CONTRIBUTING.md) and browsers (tests/e2e/browsers.test.js). What it echoes goes out as the gateway's frames do: through the shim's queue, past
//! tungstenite, whose pongs and close frames go behind it.
//!
//! Usage: echo PORT (0: a free one; the address is printed)

use std::future::poll_fn;
use std::io::Write as _;

use futures_util::{SinkExt as _, StreamExt as _};
use headwater_relay::gateway::deflate::{inflate, negotiation::negotiate, prepared::deflate, shim::Shim};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

/// The largest message: the suite sends 16 MiB.
const LARGEST: usize = 64 << 20;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::args()
        .nth(1)
        .and_then(|port| port.parse().ok())
        .unwrap_or(0);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // What a client does wrong ends its connection only.
        tokio::spawn(async move { serve(stream).await.ok() });
    }
}

async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let values = |name: &'static str| {
        head.lines().filter_map(move |line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let key = values("sec-websocket-key").next().unwrap_or_default();
    let accept = derive_accept_key(key.as_bytes());
    let agreed = negotiate(values("sec-websocket-extensions"));
    let mut answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"
    );
    if let Some(agreed) = &agreed {
        answer += &format!("Sec-WebSocket-Extensions: {agreed}\r\n");
    }
    stream.write_all((answer + "\r\n").as_bytes()).await?;
    echo(stream, agreed.is_some()).await;
    Ok(())
}

async fn echo(stream: TcpStream, deflated: bool) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(LARGEST))
        .max_frame_size(Some(LARGEST));
    let shim = Shim::new(stream, deflated);
    let mut socket = WebSocketStream::from_raw_socket(shim, Role::Server, Some(config)).await;
    let code = loop {
        let message = match socket.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => match told(&error) {
                Some(code) => break code,
                None => return,
            },
            None => return,
        };
        let was_text = message.is_text();
        let body = match message {
            Message::Binary(_) | Message::Text(_) => message.into_data(),
            // Tungstenite answers pings and close frames.
            _ => continue,
        };
        let kind = socket.get_mut().take_kind(was_text);
        let body = if kind.deflated {
            match inflate::inflate(&body, LARGEST) {
                Ok(body) => body,
                Err(inflate::Error::Damaged(_)) => break CloseCode::Invalid,
                Err(inflate::Error::TooBig { .. }) => break CloseCode::Size,
            }
        } else {
            body.to_vec()
        };
        if kind.text && std::str::from_utf8(&body).is_err() {
            break CloseCode::Invalid;
        }
        let opcode = OpCode::Data(if kind.text { Data::Text } else { Data::Binary });
        let mut frame = Frame::message(if deflated { deflate(&body) } else { body }, opcode, true);
        frame.header_mut().rsv1 = deflated;
        let mut bytes = Vec::with_capacity(frame.len());
        if frame.format(&mut bytes).is_err() {
            return;
        }
        let transport = socket.get_mut();
        transport.queue(bytes.into());
        if poll_fn(|cx| transport.poll_drain(cx)).await.is_err() {
            return;
        }
    };
    // As the gateway does: the close frame, and then the rest of what comes is read, so that the connection is not reset.
    let reason = "".into();
    if socket
        .send(Message::Close(Some(CloseFrame { code, reason })))
        .await
        .is_ok()
    {
        let transport = socket.get_mut();
        let _ = transport.shutdown().await;
        let mut rest = [0; 1024];
        while matches!(transport.read(&mut rest).await, Ok(count) if count > 0) {}
    }
}

fn told(error: &Error) -> Option<CloseCode> {
    match error {
        Error::Protocol(
            tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
        ) => None,
        Error::Protocol(_) => Some(CloseCode::Protocol),
        Error::Utf8(_) => Some(CloseCode::Invalid),
        Error::Capacity(CapacityError::MessageTooLong { .. }) => Some(CloseCode::Size),
        _ => None,
    }
}
