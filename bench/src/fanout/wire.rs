//! WebSocket as far as a subscriber needs it: the request, frames in, masked frames out.

use std::io;

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What browsers offer.
const DEFLATE: &str = "permessage-deflate; client_max_window_bits";

/// A frame that came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) opcode: u8,
    /// The last of its message.
    pub(super) last: bool,
    /// Compressed.
    pub(super) deflated: bool,
    pub(super) payload: &'a [u8],
    /// With its header.
    pub(super) wire: usize,
}

/// Asks for a WebSocket at `path`.
pub(super) async fn open(stream: &mut TcpStream, path: &str, protocol: Option<&str>) -> Result<()> {
    let protocol = protocol.map_or(String::new(), |name| {
        format!("Sec-WebSocket-Protocol: {name}\r\n")
    });
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: {DEFLATE}\r\n{protocol}\r\n",
        stream.peer_addr()?
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::with_capacity(512);
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
        if head.len() > 4096 {
            break;
        }
    }
    let head = String::from_utf8_lossy(&head);
    if !head.starts_with("HTTP/1.1 101") || !head.to_lowercase().contains("permessage-deflate") {
        bail!("no compressed WebSocket: {head}");
    }
    Ok(())
}

/// The first frame in `bytes`; `None`: it is not whole.
pub(super) fn frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (head, length): (usize, usize) = match second & 0x7f {
        126 => (
            4,
            usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])),
        ),
        127 => {
            let length: [u8; 8] = bytes.get(2..10)?.try_into().ok()?;
            (10, usize::try_from(u64::from_be_bytes(length)).ok()?)
        }
        length => (2, usize::from(length)),
    };
    Some(Frame {
        opcode: first & 0x0f,
        last: first & 0x80 != 0,
        deflated: first & 0x40 != 0,
        payload: bytes.get(head..head.checked_add(length)?)?,
        wire: head + length,
    })
}

/// A client's frame. The mask is nought: it is the length that costs.
pub(super) fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => out.push(0x80 | length as u8),
        length => {
            out.push(0x80 | 126);
            out.extend((length as u16).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend_from_slice(payload);
    out
}

/// Reads what is there, without waiting. 0: the server has closed.
pub(super) fn read(stream: &TcpStream, buffer: &mut [u8]) -> Result<Option<usize>, io::Error> {
    match stream.try_read(buffer) {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
