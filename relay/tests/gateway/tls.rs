//! The gateway over TLS, and a certificate that is renewed while connections are open.

use std::path::Path;
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use headwater_proto::{Message as _, pb};
use headwater_relay::gateway::settings::GatewaySettings;
use headwater_relay::gateway::tls::TlsSettings;
use pb::client_frame::Frame as ClientFrame;
use pb::server_frame::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use tokio_rustls::{TlsConnector, rustls::SupportedProtocolVersion};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::kafka::Kafka;
use crate::{Gateway, settings};

/// A certificate for `localhost` and its key, written as `gateway.crt` and `gateway.key`.
fn renew(directory: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
    std::fs::write(directory.join("gateway.key"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(directory.join("gateway.crt"), made.cert.pem()).unwrap();
    CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()
}

fn over_tls(directory: &Path) -> GatewaySettings {
    GatewaySettings {
        tls: TlsSettings {
            cert_file: Some(directory.join("gateway.crt")),
            key_file: Some(directory.join("gateway.key")),
        },
        ..settings()
    }
}

async fn shake(
    gateway: &Gateway,
    trusted: &[&CertificateDer<'static>],
    versions: &[&'static SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add((*certificate).clone()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

type Socket = WebSocketStream<TlsStream<TcpStream>>;

async fn open(stream: TlsStream<TcpStream>) -> Socket {
    let mut request = "wss://localhost/v1/live".into_client_request().unwrap();
    let protocol = "headwater.v1".parse().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    let hello = pb::ClientHello::default();
    assert!(matches!(
        ask(&mut socket, ClientFrame::Hello(hello)).await,
        Frame::Welcome(_)
    ));
    socket
}

async fn ask(socket: &mut Socket, frame: ClientFrame) -> Frame {
    let frame = pb::ClientFrame { frame: Some(frame) }.encode_to_vec();
    socket.send(Message::Binary(frame.into())).await.unwrap();
    let answer = socket.next().await.unwrap().unwrap().into_data();
    pb::ServerFrame::decode(&answer[..]).unwrap().frame.unwrap()
}

const BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

#[tokio::test(flavor = "multi_thread")]
async fn the_live_channel_and_a_renewed_certificate_over_tls() {
    let (kafka, directory) = (Kafka::start(), tempfile::tempdir().unwrap());
    let first = renew(directory.path());
    let gateway = Gateway::start(&kafka, over_tls(directory.path())).await;
    for version in BOTH {
        open(shake(&gateway, &[&first], &[version]).await.unwrap()).await;
    }
    let mut before = open(shake(&gateway, &[&first], &BOTH).await.unwrap()).await;

    let second = renew(directory.path());
    let began = std::time::Instant::now();
    let served = loop {
        assert!(
            began.elapsed().as_secs() < 60,
            "the renewed certificate is never served"
        );
        let stream = shake(&gateway, &[&first, &second], &BOTH).await.unwrap();
        let (_, connection) = stream.get_ref();
        if connection.peer_certificates().unwrap()[0] == second {
            break stream;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    open(served).await;
    assert!(
        shake(&gateway, &[&first], &BOTH).await.is_err(),
        "the old one is served no longer"
    );
    // The connection of before goes on.
    let pong = ask(&mut before, ClientFrame::Ping(pb::Ping { nonce: 7 })).await;
    assert!(matches!(pong, Frame::Pong(pong) if pong.nonce == 7));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_plain_nor_older_than_1_2() {
    let (kafka, directory) = (Kafka::start(), tempfile::tempdir().unwrap());
    renew(directory.path());
    let gateway = Gateway::start(&kafka, over_tls(directory.path())).await;
    let answer = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // A reset is an answer too.
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    let plain = answer(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(!plain.starts_with(b"HTTP"), "{plain:?}");
    // The same hello but for the version in it.
    let hello = |version: u8| {
        let mut hello = vec![0x03, version];
        hello.extend([7; 32]);
        // No session, ECDHE_ECDSA with AES_128_GCM_SHA256, no compression.
        hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
        // Group x25519, uncompressed points, ecdsa_secp256r1_sha256, extended master secret.
        let extensions = [
            0x00, 0x0a, 0, 4, 0, 2, 0x00, 0x1d, 0x00, 0x0b, 0, 2, 1, 0, 0x00, 0x0d, 0, 4, 0, 2, 0x04, 0x03,
            0x00, 0x17, 0, 0,
        ];
        hello.extend([0, extensions.len() as u8]);
        hello.extend(extensions);
        let mut record = vec![
            0x16,
            0x03,
            0x01,
            0,
            hello.len() as u8 + 4,
            1,
            0,
            0,
            hello.len() as u8,
        ];
        record.extend(hello);
        record
    };
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(&hello(0x03)).await.unwrap();
    assert_eq!(
        stream.read_u8().await.unwrap(),
        0x16,
        "1.2 is answered with a hello"
    );
    let refused = answer(&hello(0x02)).await;
    // A fatal alert: protocol_version, or handshake_failure.
    assert_eq!(
        (refused.first(), refused.get(5)),
        (Some(&0x15), Some(&2)),
        "{refused:?}"
    );
    assert!(matches!(refused.get(6), Some(40 | 70)), "{refused:?}");
    gateway.stop().await;
}

/// Who says nothing, or says it byte by byte, is let go before there is TLS; others are served meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_of_tls_has_its_time() {
    let (kafka, directory) = (Kafka::start(), tempfile::tempdir().unwrap());
    let certificate = renew(directory.path());
    let settings = GatewaySettings {
        hello_timeout: std::time::Duration::from_secs(2),
        ..over_tls(directory.path())
    };
    let gateway = Gateway::start(&kafka, settings).await;
    let silent = async {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    let trickle = async {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        // A record of the handshake, TLS 1.0, of 512 bytes that never all come.
        let hello = [22, 3, 1, 2, 0, 1, 0, 1, 252]
            .into_iter()
            .chain(std::iter::repeat(3));
        for byte in hello {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            if stream.write_all(&[byte]).await.is_err() {
                break;
            }
        }
    };
    let limit = std::time::Duration::from_secs(60);
    let both = tokio::time::timeout(limit, async { tokio::join!(silent, trickle) });
    let (ended, served) = tokio::join!(both, async {
        shake(&gateway, &[&certificate], &BOTH)
            .await
            .map(open)
            .unwrap()
            .await
    });
    assert!(
        ended.is_ok(),
        "a connection without TLS is still open after {limit:?}"
    );
    drop(served);
    gateway.stop().await;
}
