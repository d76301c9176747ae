//! A network of the tests' own between agent and broker: it counts, and can freeze, crawl, or break.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What the network does, and what it has seen.
#[derive(Default)]
pub(crate) struct Network {
    /// Nothing is taken any more, in neither direction; connections stay open.
    pub(crate) frozen: AtomicBool,
    /// Bytes a second towards the broker; 0: as fast as may be.
    pub(crate) rate: AtomicU64,
    /// Every MQTT 5 CONNECT is refused in the manner of a broker that knows 3.1.1 alone.
    pub(crate) only_311: AtomicBool,
    /// The protocol level in the last connection's CONNECT.
    pub(crate) level: AtomicU16,
    /// Bytes from the agent, and to it.
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) connections: AtomicU64,
    broken: Notify,
}

impl Network {
    /// Ends all connections. What the agent has written until it notices is counted, and goes no further.
    pub(crate) fn break_off(&self) {
        self.broken.notify_waiters();
    }
}

/// A proxy that runs until it is dropped.
pub(crate) struct Proxy {
    pub(crate) network: Arc<Network>,
    port: u16,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// In front of `port`.
    pub(crate) fn start(port: u16) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // Small, as a real path is: what does not fit waits at the sender.
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(16).unwrap();
        let own = listener.local_addr().unwrap().port();
        let network = Arc::new(Network::default());
        let shared = network.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(carry(stream, port, shared.clone()));
            }
        });
        Self {
            network,
            port: own,
            task,
        }
    }

    #[cfg(feature = "tls")]
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn address(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }
}

async fn carry(agent: TcpStream, port: u16, network: Arc<Network>) {
    let Ok(broker) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    agent.set_nodelay(true).unwrap();
    broker.set_nodelay(true).unwrap();
    // Where a CONNECT of less than 128 bytes has its protocol level.
    let mut first = [0; 9];
    while matches!(agent.peek(&mut first).await, Ok(1..9)) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    network.level.store(first[8].into(), Ordering::Relaxed);
    let (mut from_agent, mut to_agent) = agent.into_split();
    let (mut from_broker, to_broker) = broker.into_split();
    if network.only_311.load(Ordering::Relaxed) && first[8] == 5 {
        let _ = to_agent.write_all(&[0x20, 2, 0, 1]).await;
        return;
    }
    let broken = {
        let up = pump(&mut from_agent, to_broker, &network, &network.sent, true);
        let down = pump(&mut from_broker, to_agent, &network, &network.received, false);
        tokio::select! {
            () = up => false,
            () = down => false,
            () = network.broken.notified() => true,
        }
    };
    // The agent has been told the end: its side of the socket says how much it had written.
    let mut rest = [0; 512];
    while broken && let Ok(length @ 1..) = from_agent.read(&mut rest).await {
        network.sent.fetch_add(length as u64, Ordering::Relaxed);
    }
}

async fn pump(
    from: &mut OwnedReadHalf,
    mut to: OwnedWriteHalf,
    network: &Network,
    count: &AtomicU64,
    up: bool,
) {
    let mut buffer = vec![0; 512];
    loop {
        while network.frozen.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        count.fetch_add(length as u64, Ordering::Relaxed);
        let rate = network.rate.load(Ordering::Relaxed);
        if up && rate > 0 {
            tokio::time::sleep(Duration::from_secs_f64(length as f64 / rate as f64)).await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
