//! The embedded MQTT broker: rumqttd on a free loopback port. For trying out and for tests: all in memory.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rumqttd::{ConnectionSettings, RouterConfig, ServerSettings};

/// Payloads larger than this are refused.
const MAX_PAYLOAD: usize = 2 * 1024 * 1024;

/// The broker takes an address but does not tell which port 0 became, so it needs one that stays free until it listens: from
/// below the range that the system gives to connections, and none twice in a process.
fn free_address() -> std::io::Result<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut refused = None;
    for _ in 0..100 {
        let next = std::process::id()
            .wrapping_mul(64)
            .wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(10_000 + next % 2_000).unwrap_or(10_000);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => return listener.local_addr(),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into()))
}

/// Starts a broker that runs until the process ends, and returns where it listens.
///
/// # Errors
/// If it does not come up.
pub fn start(max_connections: usize) -> std::io::Result<SocketAddr> {
    let listen = free_address()?;
    let connections = ConnectionSettings {
        connection_timeout_ms: 10_000,
        max_payload_size: MAX_PAYLOAD,
        max_inflight_count: 100,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings {
        name: "demo".into(),
        listen,
        tls: None,
        next_connection_delay_ms: 0,
        connections,
    };
    let config = rumqttd::Config {
        router: RouterConfig {
            max_connections,
            max_outgoing_packet_count: 200,
            // Kept in memory per topic filter; what is read at once, as here, needs little.
            max_segment_size: 1024 * 1024,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("demo".to_string(), server)])),
        ..rumqttd::Config::default()
    };
    std::thread::Builder::new()
        .name("mqtt-broker".into())
        .spawn(move || {
            if let Err(error) = rumqttd::Broker::new(config).start() {
                tracing::error!("the embedded MQTT broker ended: {error}");
            }
        })?;
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        match TcpStream::connect(listen) {
            Ok(_) => return Ok(listen),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
