//! MQTT over WebSocket: a server of WebSocket, with TLS before it or not, before Mosquitto, whose Debian build has none.

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use crate::bridge::Bridge;
use crate::library::{Running, config};
use crate::mosquitto::Mosquitto;

/// Carries what comes in binary messages under `/mqtt` to `port`, cut differently on the way back.
async fn gate(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(carry(stream, port));
        }
    });
    own
}

#[allow(clippy::result_large_err, reason = "the library's type")]
fn admit(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    if request.uri().path() != "/mqtt" {
        let mut refused = ErrorResponse::new(None);
        *refused.status_mut() = tokio_tungstenite::tungstenite::http::StatusCode::NOT_FOUND;
        return Err(refused);
    }
    assert_eq!(request.headers()["Sec-WebSocket-Protocol"], "mqtt");
    response
        .headers_mut()
        .insert("Sec-WebSocket-Protocol", "mqtt".parse().unwrap());
    Ok(response)
}

async fn carry(stream: impl AsyncRead + AsyncWrite + Unpin, port: u16) {
    let Ok(socket) = tokio_tungstenite::accept_hdr_async(stream, admit).await else {
        return;
    };
    let (mut to_agent, mut from_agent) = socket.split();
    let Ok(broker) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    let (mut from_broker, mut to_broker) = broker.into_split();
    let up = async move {
        while let Some(Ok(message)) = from_agent.next().await {
            if let Message::Binary(bytes) = message
                && to_broker.write_all(&bytes).await.is_err()
            {
                return;
            }
        }
    };
    let down = async move {
        // Smaller than any packet.
        let mut buffer = [0; 3];
        while let Ok(count @ 1..) = from_broker.read(&mut buffer).await {
            let message = Message::binary(buffer[..count].to_vec());
            if to_agent.send(message).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

#[tokio::test]
async fn all_is_delivered_through_websocket() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let agent = Running::start(config(
        &format!("ws://127.0.0.1:{}", gate(broker.port()).await),
        2_000,
    ));
    agent.all_acked(4_000).await;
    let stats = agent.stop().await;
    assert_eq!((stats.reconnects, stats.lost_readings), (0, 0));
    assert!(stats.link_sent_bytes > stats.sent_bytes, "{stats:?}");
    assert_eq!(bridge.check_chains(), (4_000, 0));
}

#[tokio::test]
async fn a_wrong_path_and_a_port_of_another_kind_are_said() {
    let broker = Mosquitto::started();
    for (address, part) in [
        (
            format!("ws://127.0.0.1:{}/else", gate(broker.port()).await),
            "answered with 404",
        ),
        (format!("ws://127.0.0.1:{}", broker.port()), "WebSocket"),
    ] {
        let agent = Running::start(config(&address, 10));
        let why = agent.last_error().await;
        assert!(why.contains(part), "{why}");
        agent.stop().await;
    }
}

#[cfg(feature = "tls")]
mod tls {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use headwater_agent::config::Protocol;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::rustls::server::WebPkiClientVerifier;
    use tokio_rustls::rustls::{RootCertStore, ServerConfig};

    use super::*;
    use crate::authority::{Authority, Issued};
    use crate::library::wait_for;

    /// The certificate that each connection showed.
    type Shown = Arc<Mutex<Vec<CertificateDer<'static>>>>;

    fn certificate(issued: &Issued) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&issued.cert).unwrap()
    }

    /// A gate that speaks TLS as `localhost`, and wants a certificate of the same authority.
    async fn gate(port: u16, authority: &Authority) -> (u16, Shown) {
        let server = authority.valid("server", "localhost");
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(&authority.file).unwrap())
            .unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let settings = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(
                vec![certificate(&server)],
                PrivateKeyDer::from_pem_file(&server.key).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(settings));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let shown = Shown::default();
        let seen = shown.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), seen.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let peer = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
                    seen.lock().unwrap().push(peer.into_owned());
                    carry(stream, port).await;
                });
            }
        });
        (own, shown)
    }

    #[tokio::test]
    async fn all_is_delivered_through_websocket_and_tls_in_both_versions_of_mqtt() {
        let broker = Mosquitto::started();
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path(), "authority");
        let own = authority.valid("own", "gw-01");
        let (port, shown) = gate(broker.port(), &authority).await;
        for protocol in [Protocol::V5, Protocol::V311] {
            let bridge = Bridge::default();
            let _relay = bridge.run(broker.port());
            let mut config = config(&format!("wss://localhost:{port}"), 2_000);
            config.uplink.protocol = protocol;
            // Without the authority it is not trusted; without a certificate it does not trust.
            let untrusted = Running::start(config.clone());
            let why = untrusted.last_error().await;
            assert!(why.contains("uplink.tls.ca_file is not set"), "{why}");
            untrusted.stop().await;
            config.uplink.tls.ca_file = Some(authority.file.clone());
            config.uplink.tls.cert_file = Some(own.cert.clone());
            config.uplink.tls.key_file = Some(own.key.clone());
            let agent = Running::start(config);
            agent.all_acked(4_000).await;
            let stats = agent.stop().await;
            assert_eq!((stats.reconnects, stats.lost_readings), (0, 0));
            assert_eq!(bridge.check_chains(), (4_000, 0));
            assert_eq!(shown.lock().unwrap().pop(), Some(certificate(&own)));
        }
    }

    #[tokio::test]
    async fn a_certificate_that_is_renewed_is_used_while_connected_and_after_a_cut() {
        let mut broker = Mosquitto::started();
        let bridge = Bridge::default();
        let _relay = bridge.run(broker.port());
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path(), "authority");
        let own = authority.valid("own", "gw-01");
        let (port, shown) = gate(broker.port(), &authority).await;
        let last = || shown.lock().unwrap().last().cloned();
        let mut config = config(&format!("wss://localhost:{port}"), 500);
        config.uplink.tls.ca_file = Some(authority.file.clone());
        config.uplink.tls.cert_file = Some(own.cert.clone());
        config.uplink.tls.key_file = Some(own.key.clone());
        config.uplink.tls.look_every = Duration::from_secs(1);
        let agent = Running::start(config.clone());
        agent.all_acked(1_000).await;
        let first = certificate(&own);
        assert_eq!(last(), Some(first.clone()));
        // While connected: within a second it is connected anew, in good order.
        authority.valid("own", "gw-01");
        let second = certificate(&own);
        assert_ne!(first, second);
        wait_for("the renewed certificate", || last() == Some(second.clone())).await;
        let stats = agent
            .until("connected again", 20, |stats| {
                stats.reconnects == 1 && stats.connected
            })
            .await;
        assert_eq!((stats.resent_batches, stats.lost_readings), (0, 0));
        assert!(
            bridge.state(|state| state.statuses.iter().all(|(_, status)| status.online)),
            "its Last Will was not said"
        );
        // After a cut.
        config.uplink.tls.look_every = Duration::from_secs(3_600);
        agent.handle.reload(config).await.unwrap();
        broker.kill();
        agent.until("cut off", 20, |stats| !stats.connected).await;
        authority.valid("own", "gw-01");
        broker.start();
        agent.until("connected again", 20, |stats| stats.connected).await;
        assert_eq!(last(), Some(certificate(&own)));
        agent.stop().await;
        assert_eq!(bridge.check_chains(), (1_000, 0));
    }
}
