//! Ports of the loopback for servers that have to be told theirs.

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range from which the system gives ports itself (32768 and up): one of those may belong to a connection, or to
/// another test's listener, before the server that it was meant for has started. From 20000 up Kafka and Node's tests have theirs.
const PORTS: std::ops::Range<u16> = 12_000..20_000;

/// A port of 127.0.0.1 on which nobody listens, and which this process never gets again.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes at the same time begin far from each other.
    let first = std::process::id() * 64;
    for _ in PORTS {
        let next = first + u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + u16::try_from(next % PORTS.len() as u32).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port of 127.0.0.1 from {} to {}", PORTS.start, PORTS.end)
}
