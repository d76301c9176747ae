//! Clears RSV1 beneath tungstenite, which would refuse it, and remembers which message had it. And sends prepared frames past it.
//!
//! The shim walks the frame headers of the inbound byte stream, however it is cut. On the first frame of a data message
//! RSV1 means "compressed" (RFC 7692 §6); there it is cleared and noted, in the order of the messages. Everywhere else
//! (control and continuation frames, a connection without the extension) it stays, and tungstenite refuses it.

//!
//! A prepared frame is the same bytes for every connection, so it is queued here as it is, and written with others in one call; nothing
//! is copied, and no connection has a buffer for it. What tungstenite writes itself (pings, pongs, the close frame) goes behind what is
//! queued, and is taken whole, so frames never mix.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Frames written in one call.
const TOGETHER: usize = 32;
/// Frames that an empty queue has room for.
const QUIET: usize = 8;

const RSV1: u8 = 0x40;
const OPCODE: u8 = 0x0f;
const TEXT: u8 = 0x01;
const BINARY: u8 = 0x02;

/// How a data message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Compressed.
    pub deflated: bool,
    /// A text message (a compressed one is handed up as binary, since its bytes are no UTF-8).
    pub text: bool,
}

/// The pure part: finds frame headers in a stream that arrives in any pieces.
#[derive(Debug, Default)]
struct Walker {
    /// Header bytes after the first two still to come: extended length and mask.
    header: [u8; 14],
    have: usize,
    need: usize,
    /// Payload bytes still to come.
    skip: u64,
    kinds: VecDeque<Kind>,
}

impl Walker {
    fn walk(&mut self, mut bytes: &mut [u8]) {
        loop {
            let skipped = usize::try_from(self.skip).map_or(bytes.len(), |skip| skip.min(bytes.len()));
            self.skip -= skipped as u64;
            bytes = &mut bytes[skipped..];
            let Some((first, rest)) = bytes.split_first_mut() else {
                return;
            };
            if self.have == 0 {
                self.need = 2;
                self.first_byte(first);
            }
            self.header[self.have] = *first;
            self.have += 1;
            if self.have == 2 {
                let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
                self.need = 2 + mask + extended(self.header[1]);
            }
            if self.have == self.need {
                self.skip = match extended(self.header[1]) {
                    2 => u64::from(u16::from_be_bytes([self.header[2], self.header[3]])),
                    8 => self.header[2..10]
                        .iter()
                        .fold(0, |length, &byte| length << 8 | u64::from(byte)),
                    _ => u64::from(self.header[1] & 0x7f),
                };
                self.have = 0;
            }
            bytes = rest;
        }
    }

    fn first_byte(&mut self, byte: &mut u8) {
        let opcode = *byte & OPCODE;
        if opcode != TEXT && opcode != BINARY {
            return;
        }
        let kind = Kind {
            deflated: *byte & RSV1 != 0,
            text: opcode == TEXT,
        };
        if kind.deflated {
            *byte = *byte & !(RSV1 | OPCODE) | BINARY;
        }
        self.kinds.push_back(kind);
    }
}

/// Bytes of the extended length that follow this second header byte.
fn extended(second: u8) -> usize {
    match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    }
}

/// The transport, seen through the walker.
#[derive(Debug)]
pub struct Shim<S> {
    transport: S,
    /// `None` on a connection without the extension.
    walker: Option<Walker>,
    /// What is still to be written.
    queue: VecDeque<Bytes>,
    queued: usize,
    /// The transport has taken something that it may not have sent yet, as TLS does.
    unflushed: bool,
}

impl<S> Shim<S> {
    /// Over a transport; `deflated`: the extension was agreed.
    pub fn new(transport: S, deflated: bool) -> Self {
        Self {
            transport,
            walker: deflated.then(Walker::default),
            queue: VecDeque::new(),
            queued: 0,
            unflushed: false,
        }
    }

    /// How the data message came that tungstenite has just handed up; once per message, in order.
    pub fn take_kind(&mut self, text: bool) -> Kind {
        let noted = self.walker.as_mut().and_then(|walker| walker.kinds.pop_front());
        noted.unwrap_or(Kind {
            deflated: false,
            text,
        })
    }

    /// Whole frames, to be written when [`Shim::poll_drain`] is called.
    pub fn queue(&mut self, frame: Bytes) {
        if !frame.is_empty() {
            self.queued += frame.len();
            self.queue.push_back(frame);
        }
    }

    /// Bytes that are still to be written.
    pub fn queued(&self) -> usize {
        self.queued
    }
}

impl<S: AsyncWrite + Unpin> Shim<S> {
    /// Writes what is queued; ready when nothing is left, here or in the transport.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.queued > 0 {
            let mut slices = [IoSlice::new(&[]); TOGETHER];
            let mut count = 0;
            for (slice, frame) in slices.iter_mut().zip(&self.queue) {
                *slice = IoSlice::new(frame);
                count += 1;
            }
            let slices = &slices[..count];
            let mut written = match Pin::new(&mut self.transport).poll_write_vectored(cx, slices) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            };
            self.queued -= written;
            self.unflushed = true;
            while let Some(frame) = self.queue.front_mut() {
                if written < frame.len() {
                    frame.advance(written);
                    break;
                }
                written -= frame.len();
                self.queue.pop_front();
            }
        }
        // A quiet connection keeps no room for a busy one's frames.
        if self.queue.capacity() > QUIET {
            self.queue = VecDeque::new();
        }
        if self.unflushed {
            std::task::ready!(Pin::new(&mut self.transport).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Shim<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = Pin::new(&mut this.transport).poll_read(cx, buf);
        if let (Some(walker), Poll::Ready(Ok(()))) = (&mut this.walker, &result) {
            walker.walk(&mut buf.filled_mut()[before..]);
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Shim<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.poll_drain(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
        let written = match Pin::new(&mut self.transport).poll_write(cx, bytes) {
            Poll::Ready(Ok(written @ 1..)) => written,
            other => return other,
        };
        self.unflushed = true;
        // What is begun is ended before the next prepared frame: tungstenite would come with the rest after that.
        self.queue(Bytes::copy_from_slice(&bytes[written..]));
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_drain(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.transport).poll_flush(cx),
            other => other,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_drain(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.transport).poll_shutdown(cx),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A masked client frame.
    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![first];
        match length {
            0..126 => bytes.push(0x80 | length as u8),
            126..65_536 => {
                bytes.push(0x80 | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        // Mask and payload full of what looks like headers with RSV1.
        bytes.extend(std::iter::repeat_n(0xc2, 4 + length));
        bytes
    }

    fn kind(deflated: bool, text: bool) -> Kind {
        Kind { deflated, text }
    }

    #[test]
    fn rsv1_is_cleared_on_first_frames_alone() {
        let frames = [
            (0xc2, 5),
            (0x82, 5),
            (0xc1, 5),
            (0x81, 0),
            (0x42, 3),
            (0x89, 2),
            (0x40, 3),
            (0xc9, 1),
            (0xd2, 1),
        ];
        let mut bytes: Vec<u8> = frames
            .iter()
            .flat_map(|&(first, length)| frame(first, length))
            .collect();
        let mut walker = Walker::default();
        walker.walk(&mut bytes);
        let after = [
            (0x82, 5),
            (0x82, 5),
            (0x82, 5),
            (0x81, 0),
            (0x02, 3),
            (0x89, 2),
            (0x40, 3),
            (0xc9, 1),
            (0x92, 1),
        ];
        let expected: Vec<u8> = after
            .iter()
            .flat_map(|&(first, length)| frame(first, length))
            .collect();
        assert_eq!(bytes, expected);
        let kinds = [
            (true, false),
            (false, false),
            (true, true),
            (false, true),
            (true, false),
            (true, false),
        ];
        assert_eq!(walker.kinds, kinds.map(|(deflated, text)| kind(deflated, text)));
    }

    /// Passes on what it has taken only when it is flushed, as TLS does.
    #[derive(Default)]
    struct Held {
        taken: Vec<u8>,
        passed: Vec<u8>,
    }

    impl AsyncWrite for Held {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.taken.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            let taken = std::mem::take(&mut self.taken);
            self.passed.extend(taken);
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.poll_flush(cx)
        }
    }

    #[tokio::test]
    async fn what_is_queued_has_left_the_transport_too_when_the_queue_is_empty() {
        let mut shim = Shim::new(Held::default(), true);
        shim.queue(Bytes::from_static(b"prepared"));
        std::future::poll_fn(|cx| shim.poll_drain(cx)).await.unwrap();
        assert_eq!(shim.transport.passed, b"prepared");
        // What tungstenite writes goes with the next drain, though nothing is queued.
        tokio::io::AsyncWriteExt::write(&mut shim, b"pong").await.unwrap();
        std::future::poll_fn(|cx| shim.poll_drain(cx)).await.unwrap();
        assert_eq!(shim.transport.passed, b"preparedpong");
    }

    proptest! {
        /// Frames of ours and what tungstenite writes keep their order and stay whole, however little the transport takes at a time.
        #[test]
        fn frames_never_mix(
            pieces in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..300)), 0..80),
            room in 1usize..400,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (sent, expected) = runtime.block_on(async {
                let (near, mut far) = tokio::io::duplex(room);
                let reader = tokio::spawn(async move {
                    let mut sent = Vec::new();
                    tokio::io::AsyncReadExt::read_to_end(&mut far, &mut sent).await.unwrap();
                    sent
                });
                let (mut shim, mut expected) = (Shim::new(near, true), Vec::new());
                for (queued, bytes) in pieces {
                    expected.extend_from_slice(&bytes);
                    if queued {
                        shim.queue(bytes.into());
                    } else {
                        // Once alone: what is queued next must not stand before the rest.
                        let taken = tokio::io::AsyncWriteExt::write(&mut shim, &bytes).await.unwrap();
                        assert_eq!(taken, bytes.len());
                    }
                }
                std::future::poll_fn(|cx| shim.poll_drain(cx)).await.unwrap();
                assert_eq!(shim.queued(), 0);
                drop(shim);
                (reader.await.unwrap(), expected)
            });
            prop_assert_eq!(sent, expected);
        }

        #[test]
        fn however_the_stream_is_cut(
            frames in proptest::collection::vec((0u8..16, prop_oneof![0usize..200, 65_530usize..65_540]), 1..8),
            cuts in proptest::collection::vec(1usize..50_000, 1..50),
        ) {
            let stream: Vec<u8> = frames.iter().flat_map(|&(opcode, length)| frame(0xc0 | opcode, length)).collect();
            let mut whole = (Walker::default(), stream.clone());
            whole.0.walk(&mut whole.1);
            let mut pieces = (Walker::default(), stream);
            let mut rest = &mut pieces.1[..];
            for cut in cuts.iter().cycle() {
                let (piece, tail) = rest.split_at_mut((*cut).min(rest.len()));
                pieces.0.walk(piece);
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(&whole.1, &pieces.1);
            prop_assert_eq!(&whole.0.kinds, &pieces.0.kinds);
            let data = frames.iter().filter(|(opcode, _)| *opcode == 1 || *opcode == 2).count();
            prop_assert_eq!(whole.0.kinds.len(), data);
        }
    }
}
