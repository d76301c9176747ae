//! The link of one agent to the broker: a TCP proxy on loopback that can be cut.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A link. Clones are the same one; it lives as long as the runtime.
#[derive(Clone, Debug)]
pub struct Link {
    address: SocketAddr,
    up: watch::Sender<bool>,
}

impl Link {
    /// A link to `broker` (`host:port`), up.
    ///
    /// # Errors
    /// If no loopback port can be had.
    pub async fn new(broker: String) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (up, state) = watch::channel(true);
        tokio::spawn(accept(listener, broker, state));
        Ok(Self { address, up })
    }

    /// Where the agent connects.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// Cuts it (connections end, new ones are closed at once) or restores it.
    pub fn set(&self, up: bool) {
        self.up.send_replace(up);
    }
}

async fn accept(listener: TcpListener, broker: String, state: watch::Receiver<bool>) {
    loop {
        let Ok((agent, _)) = listener.accept().await else {
            continue;
        };
        if *state.borrow() {
            tokio::spawn(carry(agent, broker.clone(), state.clone()));
        }
    }
}

async fn carry(mut agent: TcpStream, broker: String, mut state: watch::Receiver<bool>) {
    let Ok(mut broker) = TcpStream::connect(broker).await else {
        return;
    };
    let _ = (agent.set_nodelay(true), broker.set_nodelay(true));
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut agent, &mut broker) => {}
        _ = state.wait_for(|up| !up) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_cut_ends_connections_refuses_new_ones_and_can_be_mended() {
        let broker = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = Link::new(broker.local_addr().unwrap().to_string()).await.unwrap();
        let mut agent = TcpStream::connect(link.address()).await.unwrap();
        agent.write_all(b"hi").await.unwrap();
        let (mut far, _) = broker.accept().await.unwrap();
        let mut two = [0; 2];
        far.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"hi");

        link.set(false);
        assert!(!link.is_up());
        assert_eq!(agent.read(&mut two).await.unwrap_or(0), 0);
        assert_eq!(far.read(&mut two).await.unwrap_or(0), 0);
        let mut again = TcpStream::connect(link.address()).await.unwrap();
        assert_eq!(again.read(&mut two).await.unwrap_or(0), 0);

        link.set(true);
        let mut agent = TcpStream::connect(link.address()).await.unwrap();
        agent.write_all(b"yo").await.unwrap();
        let (mut far, _) = broker.accept().await.unwrap();
        far.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"yo");
    }
}
