//! Key sets from a server that rotates its keys, answers badly, and goes away.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use headwater_proto::pb;
use headwater_relay::gateway::keyset::KeySetSettings;
use headwater_relay::gateway::settings::GatewaySettings;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use pb::client_frame::Frame as ClientFrame;
use pb::server_frame::Frame;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto::ring};

use crate::client::{Client, Received};
use crate::kafka::Kafka;
use crate::tokens::connect;
use crate::{Gateway, settings};

/// Answers every request with what it is told to.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    answer: Arc<Mutex<String>>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            answer: Arc::default(),
            requests: Arc::default(),
        };
        let this = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                match &tls {
                    None => this.answer(stream).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            this.answer(stream).await;
                        }
                    }
                }
            }
        });
        server
    }

    async fn answer(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        let answer = self.answer.lock().unwrap().clone();
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    fn says(&self, status: &str, body: &str) {
        let length = body.len();
        *self.answer.lock().unwrap() = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
    }

    fn has(&self, keys: &[Value]) {
        self.says("200 OK", &json!({ "keys": keys }).to_string());
    }
}

fn ed(kid: &str) -> Value {
    let pem = include_str!("../keys/ed.pub.pem");
    let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = STANDARD.decode(text).unwrap();
    let x = URL_SAFE_NO_PAD.encode(&der[der.len() - 32..]);
    json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": kid, "x": x})
}

fn token(kid: &str) -> String {
    let key = EncodingKey::from_ed_pem(include_bytes!("../keys/ed.pem")).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({"sub": "ann", "exp": now + 600, "hw": {"read": ["*"]}});
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some(kid.into());
    encode(&header, &claims, &key).unwrap()
}

fn of(set: KeySetSettings) -> GatewaySettings {
    GatewaySettings {
        key_sets: vec![set],
        ..settings()
    }
}

fn from_url(url: String) -> KeySetSettings {
    KeySetSettings {
        url: Some(url),
        file: None,
        ca_file: None,
        refresh: Duration::from_secs(3600),
        refetch: Duration::from_secs(1),
    }
}

/// Whether a connection with this token in its handshake is served.
async fn is_served(gateway: &Gateway, kid: &str) -> bool {
    let mut client = connect(gateway, &token(kid)).await;
    hello(&mut client, String::new()).await
}

async fn hello(client: &mut Client, token: String) -> bool {
    client
        .send(ClientFrame::Hello(pb::ClientHello {
            token,
            ..pb::ClientHello::default()
        }))
        .await;
    match client.next().await {
        Received::Frame(Frame::Welcome(_)) => true,
        Received::Close(4401, _) => false,
        other => panic!("{other:?}"),
    }
}

async fn until_served(gateway: &Gateway, kid: &str) {
    for _ in 0..100 {
        if is_served(gateway, kid).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("key {kid} is not taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_bad_answers_change_nothing_and_strangers_cause_few_fetches() {
    let (kafka, server) = (Kafka::start(), Server::start(None).await);
    server.says("503 Service Unavailable", "");
    let gateway = Gateway::start(&kafka, of(from_url(format!("http://{}/jwks", server.address)))).await;
    assert!(
        !is_served(&gateway, "a").await,
        "there is no key yet, and nobody is let in for that"
    );
    server.has(&[ed("a")]);
    until_served(&gateway, "a").await;

    // An unknown key id has the set fetched: in the handshake, and in the hello.
    server.has(&[ed("b"), json!({"kty": "unheard of"})]);
    until_served(&gateway, "b").await;
    assert!(
        !is_served(&gateway, "a").await,
        "what is no longer in the set is no key"
    );
    server.has(&[ed("b"), ed("c")]);
    let mut tries = 0;
    while !hello(&mut Client::connect(gateway.address).await, token("c")).await {
        tries += 1;
        assert!(tries < 100);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    // What is no answer, or none that can be used, leaves the keys of before.
    let large = format!("{{\"keys\": [{}]}}", " ".repeat(300 << 10));
    let redirected = format!("302 Found\r\nLocation: http://{}/elsewhere", server.address);
    for (status, body) in [
        ("500 Internal Server Error", ""),
        ("200 OK", "<html>"),
        ("200 OK", r#"{"keys": []}"#),
        ("200 OK", large.as_str()),
        (redirected.as_str(), ""),
    ] {
        server.says(status, body);
        let before = server.requests.load(Ordering::Relaxed);
        // Until it has been asked for once more.
        while server.requests.load(Ordering::Relaxed) == before {
            assert!(!is_served(&gateway, "unknown").await);
        }
        assert!(
            is_served(&gateway, "b").await && is_served(&gateway, "c").await,
            "{status}"
        );
    }
    assert!(gateway.metric("key_set_fetches_total") >= 8.0);
    gateway.stop().await;
}

/// An authority whose keys have no ids: a token of its next key fits the one of before, until the signature is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_an_id_rotates() {
    let (kafka, server) = (Kafka::start(), Server::start(None).await);
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let x = URL_SAFE_NO_PAD.encode(other.public_key_raw());
    server.has(&[json!({"kty": "OKP", "crv": "Ed25519", "x": x})]);
    let gateway = Gateway::start(&kafka, of(from_url(format!("http://{}/jwks", server.address)))).await;
    let signed = |pem: &str| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({"sub": "ann", "exp": now + 600, "hw": {"read": ["*"]}});
        let key = EncodingKey::from_ed_pem(pem.as_bytes()).unwrap();
        encode(&Header::new(Algorithm::EdDSA), &claims, &key).unwrap()
    };
    let (before, next) = (
        signed(&other.serialize_pem()),
        signed(include_str!("../keys/ed.pem")),
    );
    let served = async |token: &str| hello(&mut connect(&gateway, token).await, String::new()).await;
    for _ in 0..100 {
        if served(&before).await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(served(&before).await && !served(&next).await);
    let mut key = ed("");
    key.as_object_mut().unwrap().remove("kid");
    server.has(&[key]);
    // The token has it fetched, as soon as that may be again.
    for _ in 0..100 {
        if served(&next).await {
            assert!(!served(&before).await);
            return gateway.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the next key is not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_want_a_key_at_once_cause_one_fetch() {
    let (kafka, server) = (Kafka::start(), Server::start(None).await);
    server.has(&[ed("a")]);
    let mut set = from_url(format!("http://{}/jwks", server.address));
    set.refetch = Duration::from_secs(3);
    let gateway = Gateway::start(&kafka, of(set.clone())).await;
    until_served(&gateway, "a").await;
    tokio::time::sleep(set.refetch).await;
    let (before, began) = (server.requests.load(Ordering::Relaxed), std::time::Instant::now());
    let tries = (0..20).map(|number| {
        let gateway = &gateway;
        async move { is_served(gateway, &format!("unknown {number}")).await }
    });
    let served = futures_util::future::join_all(tries).await;
    assert!(served.iter().all(|served| !served));
    let fetched = server.requests.load(Ordering::Relaxed) - before;
    let most = 1 + (began.elapsed().as_secs_f64() / set.refetch.as_secs_f64()) as usize;
    assert!((1..=most).contains(&fetched), "{fetched} fetches");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_makes_key_ids_up_does_not_make_the_gateway_fetch() {
    let (kafka, server) = (Kafka::start(), Server::start(None).await);
    server.has(&[ed("a")]);
    let mut set = from_url(format!("http://{}/jwks", server.address));
    set.refetch = Duration::from_secs(3600);
    let gateway = Gateway::start(&kafka, of(set)).await;
    until_served(&gateway, "a").await;
    let before = server.requests.load(Ordering::Relaxed);
    for number in 0..20 {
        assert!(!is_served(&gateway, &format!("made up {number}")).await);
    }
    assert_eq!(server.requests.load(Ordering::Relaxed), before);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_from_an_authority_of_its_own_only() {
    let (kafka, directory) = (Kafka::start(), tempfile::tempdir().unwrap());
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, made.cert.pem()).unwrap();
    let certificate = CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let server = Server::start(Some(TlsAcceptor::from(Arc::new(config)))).await;
    server.has(&[ed("a")]);
    let url = format!("https://localhost:{}/jwks", server.address.port());
    let trusting = KeySetSettings {
        ca_file: Some(ca_file),
        ..from_url(url.clone())
    };
    let gateway = Gateway::start(&kafka, of(trusting)).await;
    until_served(&gateway, "a").await;
    gateway.stop().await;
    // Another authority's certificate.
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
    let other_file = directory.path().join("other.pem");
    std::fs::write(&other_file, other.cert.pem()).unwrap();
    let doubting = KeySetSettings {
        ca_file: Some(other_file),
        ..from_url(url)
    };
    let gateway = Gateway::start(&kafka, of(doubting)).await;
    let requests = server.requests.load(Ordering::Relaxed);
    assert!(!is_served(&gateway, "a").await);
    assert_eq!(
        server.requests.load(Ordering::Relaxed),
        requests,
        "nothing is asked of it"
    );
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_file_that_changes() {
    let (kafka, directory) = (Kafka::start(), tempfile::tempdir().unwrap());
    let file = directory.path().join("jwks.json");
    std::fs::write(&file, json!({"keys": [ed("a")]}).to_string()).unwrap();
    let set = KeySetSettings {
        url: None,
        file: Some(file.clone()),
        ..from_url(String::new())
    };
    let gateway = Gateway::start(&kafka, of(set)).await;
    until_served(&gateway, "a").await;
    std::fs::write(&file, json!({"keys": [ed("b")]}).to_string()).unwrap();
    until_served(&gateway, "b").await;
    assert!(!is_served(&gateway, "a").await);
    gateway.stop().await;
}
