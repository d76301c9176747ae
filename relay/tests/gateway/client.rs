//! A WebSocket client of our own on plain TCP, which can also do what no client should.

use std::net::SocketAddr;
use std::time::Duration;

use flate2::{Decompress, FlushDecompress};
use headwater_proto::{Message, pb};
use pb::client_frame::Frame as ClientFrame;
use pb::server_frame::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const DEFLATE: &str = "permessage-deflate; client_max_window_bits";

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    /// The response's head.
    pub(crate) head: String,
    /// Counted frames and their bytes.
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    /// All messages, as they came and decoded.
    pub(crate) wire: usize,
    pub(crate) decoded: usize,
    /// Whether the last message was compressed.
    pub(crate) deflated: bool,
    pub(crate) pings: usize,
    /// Long frames that were told of before.
    pub(crate) coming: usize,
    /// Acknowledge each counted frame at once.
    pub(crate) acks: bool,
}

#[derive(Debug)]
pub(crate) enum Received {
    Frame(Frame),
    Close(u16, String),
    /// The connection ended without a close frame.
    End,
}

pub(crate) fn request(address: SocketAddr, lines: &[&str]) -> String {
    let mut text = format!(
        "GET /v1/live HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    for line in lines {
        text += line;
        text += "\r\n";
    }
    text + "\r\n"
}

impl Client {
    /// With compression, hello said.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let mut client = Self::connect(address).await;
        client.hello(None).await;
        client
    }

    /// With compression, nothing said.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let offer = format!("Sec-WebSocket-Extensions: {DEFLATE}");
        Self::with(address, &["Sec-WebSocket-Protocol: headwater.v1", &offer]).await
    }

    /// With these lines in the request.
    pub(crate) async fn with(address: SocketAddr, lines: &[&str]) -> Self {
        let client = Self::request(address, &request(address, lines)).await;
        assert!(client.head.starts_with("HTTP/1.1 101"), "{}", client.head);
        client
    }

    pub(crate) async fn request(address: SocketAddr, request: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        Self {
            stream,
            head: String::from_utf8(head).unwrap(),
            frames: 0,
            bytes: 0,
            wire: 0,
            decoded: 0,
            deflated: false,
            pings: 0,
            coming: 0,
            acks: true,
        }
    }

    pub(crate) async fn hello(&mut self, window: Option<pb::Window>) -> pb::Welcome {
        self.send(ClientFrame::Hello(pb::ClientHello {
            client: "test".into(),
            token: String::new(),
            window,
        }))
        .await;
        match self.next().await {
            Received::Frame(Frame::Welcome(welcome)) => welcome,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn subscribe(&mut self, subscribe: pb::Subscribe) -> pb::Subscribed {
        let id = subscribe.id;
        self.send(ClientFrame::Subscribe(subscribe)).await;
        loop {
            match self.next().await {
                Received::Frame(Frame::Subscribed(subscribed)) => {
                    assert_eq!(subscribed.id, id);
                    return subscribed;
                }
                // A machine that is busy: Kafka is waited for.
                Received::Frame(Frame::Error(error)) if error.code() == pb::ErrorCode::Unavailable => {}
                Received::Frame(Frame::Error(error)) => panic!("{error:?}"),
                Received::Frame(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn send(&mut self, frame: ClientFrame) {
        let bytes = pb::ClientFrame { frame: Some(frame) }.encode_to_vec();
        self.raw(0x82, &bytes).await;
    }

    pub(crate) async fn ack(&mut self, frames_total: u64, bytes_total: u64, window: Option<pb::Window>) {
        self.send(ClientFrame::Ack(pb::ClientAck {
            frames_total,
            bytes_total,
            window,
        }))
        .await;
    }

    /// A masked frame with this first byte.
    pub(crate) async fn raw(&mut self, first: u8, payload: &[u8]) {
        self.bytes(&masked(first, payload)).await;
    }

    pub(crate) async fn bytes(&mut self, bytes: &[u8]) {
        // A server that has closed already is what some tests want to see.
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next message, within ten seconds.
    pub(crate) async fn next(&mut self) -> Received {
        tokio::time::timeout(Duration::from_secs(10), self.receive())
            .await
            .expect("nothing came for ten seconds")
    }

    /// The next message, if one comes soon.
    pub(crate) async fn soon(&mut self) -> Option<Received> {
        tokio::time::timeout(Duration::from_secs(1), self.receive())
            .await
            .ok()
    }

    async fn receive(&mut self) -> Received {
        loop {
            let mut head = [0; 2];
            if self.stream.read_exact(&mut head).await.is_err() {
                return Received::End;
            }
            assert_eq!(head[1] & 0x80, 0, "a server does not mask");
            let length = match head[1] {
                126 => usize::from(self.stream.read_u16().await.unwrap()),
                127 => self.stream.read_u64().await.unwrap() as usize,
                length => usize::from(length),
            };
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).await.unwrap();
            match head[0] & 0x0f {
                0x8 => {
                    let code = u16::from_be_bytes([payload[0], payload[1]]);
                    return Received::Close(code, String::from_utf8(payload[2..].to_vec()).unwrap());
                }
                0x9 => {
                    self.pings += 1;
                    self.raw(0x8a, &payload).await;
                    continue;
                }
                0xa => continue,
                opcode => assert_eq!(opcode, 0x2, "messages are binary"),
            }
            self.deflated = head[0] & 0x40 != 0;
            self.wire += payload.len() + 2;
            if self.deflated {
                payload = inflate(&payload);
            }
            self.decoded += payload.len();
            let frame = pb::ServerFrame::decode(&payload[..]).unwrap().frame.unwrap();
            let counted = matches!(
                frame,
                Frame::Data(_) | Frame::Latest(_) | Frame::Series(_) | Frame::Presence(_) | Frame::Gap(_)
            );
            if counted {
                self.frames += 1;
                self.bytes += payload.len() as u64;
                if self.acks {
                    self.ack(self.frames, self.bytes, None).await;
                }
            }
            if matches!(frame, Frame::Coming(_)) {
                self.coming += 1;
                continue;
            }
            return Received::Frame(frame);
        }
    }

    /// The next frame, however long it takes.
    pub(crate) async fn receive_frame(&mut self) -> Frame {
        match self.receive().await {
            Received::Frame(frame) => frame,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn frame(&mut self) -> Frame {
        match self.next().await {
            Received::Frame(frame) => frame,
            other => panic!("{other:?}"),
        }
    }

    /// The next data frame; `CaughtUp` is passed over.
    pub(crate) async fn data(&mut self) -> pb::Data {
        loop {
            match self.frame().await {
                Frame::Data(data) => return data,
                Frame::CaughtUp(_) => {}
                Frame::Error(error) if error.code() == pb::ErrorCode::Unavailable => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn caught_up(&mut self) -> pb::CaughtUp {
        loop {
            match self.frame().await {
                Frame::CaughtUp(caught_up) => return caught_up,
                Frame::Error(error) if error.code() == pb::ErrorCode::Unavailable => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn error(&mut self) -> pb::ServerError {
        match self.frame().await {
            Frame::Error(error) => error,
            other => panic!("{other:?}"),
        }
    }

    /// Everything up to the close frame is passed over.
    pub(crate) async fn close(&mut self) -> (u16, String) {
        loop {
            match self.next().await {
                Received::Close(code, reason) => return (code, reason),
                Received::Frame(_) => {}
                Received::End => panic!("ended without a close frame"),
            }
        }
    }
}

pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        length @ 0..126 => out.push(0x80 | length as u8),
        length @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    let mask = [0x5a, 0xc2, 0x41, 0x99];
    out.extend(mask);
    out.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    out
}

/// With a 12-bit window: what we say we keep to.
fn inflate(payload: &[u8]) -> Vec<u8> {
    let mut inflater = Decompress::new_with_window_bits(false, 12);
    let mut out = Vec::with_capacity(16 << 20);
    for part in [payload, &[0, 0, 0xff, 0xff]] {
        inflater
            .decompress_vec(part, &mut out, FlushDecompress::Sync)
            .unwrap();
    }
    out
}

pub(crate) fn subscribe(id: u32, mode: pb::Mode) -> pb::Subscribe {
    pb::Subscribe {
        id,
        mode: mode as i32,
        ..Default::default()
    }
}

pub(crate) fn from(at: pb::start::At) -> Option<pb::Start> {
    Some(pb::Start { at: Some(at) })
}

pub(crate) fn window(frames: u32, bytes: u64) -> Option<pb::Window> {
    Some(pb::Window { frames, bytes })
}
