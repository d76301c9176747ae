//! The bytes of the link, counted where they pass.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes since the start, over all connections.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Through the TCP socket: TLS and WebSocket, handshakes included. Headers of TCP and IP are not, nor what names took to resolve.
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
    /// Of MQTT alone: all packets, whole.
    pub(crate) mqtt_sent: AtomicU64,
    pub(crate) mqtt_received: AtomicU64,
    /// Payloads of published messages.
    pub(crate) payload_sent: AtomicU64,
}

/// [`Traffic`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bytes {
    /// Through the TCP socket, see [`Traffic::sent`].
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Of MQTT alone.
    pub(crate) mqtt_sent: u64,
    pub(crate) mqtt_received: u64,
    /// Payloads of published messages.
    pub(crate) payload_sent: u64,
}

impl Traffic {
    pub(crate) fn bytes(&self) -> Bytes {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Bytes {
            sent: read(&self.sent),
            received: read(&self.received),
            mqtt_sent: read(&self.mqtt_sent),
            mqtt_received: read(&self.mqtt_received),
            payload_sent: read(&self.payload_sent),
        }
    }
}

pub(super) fn add(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(bytes as u64, Ordering::Relaxed);
}

/// A socket whose bytes are counted.
#[derive(Debug)]
pub(super) struct Counted<S> {
    pub(super) socket: S,
    pub(super) traffic: Arc<Traffic>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.socket).poll_read(cx, buf);
        add(&self.traffic.received, buf.filled().len() - before);
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = result {
            add(&self.traffic.sent, count);
        }
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(count)) = result {
            add(&self.traffic.sent, count);
        }
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
