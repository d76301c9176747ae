use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;

use super::*;
use crate::enroll::limits::CONNECTIONS_EACH;
use crate::enroll::register::{Token, place};

/// Certificate and key of an authority of devices.
fn authority(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::CommonName, name);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// Settings of an endpoint on localhost, and their files.
fn files(folder: &Path, (certificate, key): &(String, String)) -> EnrollSettings {
    let server = rcgen::generate_simple_self_signed(["localhost".to_string()]).unwrap();
    let write = |name: &str, text: &str| {
        place(&folder.join(name), 0o600, text.as_bytes()).unwrap();
        Some(folder.join(name))
    };
    EnrollSettings {
        state: folder.join("state"),
        cert_file: write("server.crt", &server.cert.pem()),
        key_file: write("server.key", &server.signing_key.serialize_pem()),
        ca_cert_file: write("ca.crt", certificate),
        ca_key_file: write("ca.key", key),
        trust_file: Some(folder.join("server.crt")),
        ..EnrollSettings::default()
    }
}

/// Lets a device in by its name as token; returns its signing request.
fn request(desk: &Desk, device: &str, now_s: i64) -> Vec<u8> {
    let token = Token {
        device: device.into(),
        expires_s: now_s + 60,
        made_s: now_s,
    };
    let hash = crate::enroll::desk::hash(device);
    desk.register.put_token(&hash, &token).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, device);
    let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
    request.der().to_vec()
}

#[test]
fn another_authority_signs_from_the_moment_its_files_are_there_and_only_whole() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    let write = |name: &str, text: &str| place(&path(name), 0o600, text.as_bytes()).unwrap();
    // Certificate and key, each replaced as a whole.
    let (before, after) = (authority("Old"), authority("New"));
    let settings = files(temp.path(), &before);
    let ((old, _), (new, new_key)) = (before, after);
    let tls = Tls::load(&settings).unwrap();
    let mut known = tls.content();
    let endpoint = Endpoint {
        desk: Desk::open(&settings).unwrap(),
        minute: Mutex::new(Minute::new(1, Instant::now())),
        tls,
        outcomes: Family::default(),
    };
    let now_s = 1_900_000_000;
    let enroll = |n: u32| {
        let device = format!("gw-{n}");
        let request = request(&endpoint.desk, &device, now_s);
        let signed = endpoint.desk.enroll(&device, &request, now_s).unwrap();
        write("device.crt", &signed.issued.certificate);
        let verify = |authority: &str| {
            write("authority.crt", authority);
            let output = std::process::Command::new("openssl")
                .args(["verify", "-no_check_time", "-CAfile"])
                .args([path("authority.crt"), path("device.crt")])
                .output();
            output
                .expect("openssl is installed (Debian: openssl)")
                .status
                .success()
        };
        (verify(&old), verify(&new))
    };
    assert_eq!(enroll(1), (true, false));
    // Who was let in by the old one still is: it stands behind the new one.
    write("ca.crt", &(new.clone() + &old));
    endpoint.look(&mut known);
    assert_eq!(enroll(2), (true, false), "the key is not there yet");
    write("ca.key", &new_key);
    endpoint.look(&mut known);
    assert_eq!(enroll(3), (false, true));
}

/// A connection that comes from 127.0.0.`n`.
async fn connect(n: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, n], 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// Whether the other end has ended it.
fn is_closed(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// What an endpoint answers to a request to enrol, from 127.0.0.`n`.
async fn ask(n: u8, to: SocketAddr, settings: &EnrollSettings, token: &str, body: &[u8]) -> String {
    let mut roots = RootCertStore::empty();
    let file = settings.cert_file.as_ref().unwrap();
    roots.add_parsable_certificates(pem::certificates("cert_file", file).unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = connect(n, to).await;
    let name = "localhost".try_into().unwrap();
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    let head = format!(
        "POST /v1/enroll HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let mut answer = String::new();
    // To the end: a connection is for one request, whatever its head says.
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn eight_addresses_that_hold_all_connections_and_say_nothing_keep_nobody_out() {
    let temp = tempfile::tempdir().unwrap();
    let settings = files(temp.path(), &authority("Devices"));
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let desk = Desk::open(&settings).unwrap();
    let body = request(&desk, "gw-01", now_s);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let (monitor, stop) = (Monitor::new(), CancellationToken::new());
    let (tls, serving) = (Tls::load(&settings).unwrap(), stop.clone());
    let of = settings.clone();
    let server = tokio::spawn(async move { serve(of, desk, tls, &monitor, listener, serving).await });
    let began = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_EACH {
        for n in 1..=8 {
            silent.push(connect(n, to).await);
        }
    }
    // One more of an address that has its share is not taken, and takes nothing from others.
    let mut more = connect(1, to).await;
    assert_eq!(more.read(&mut [0]).await.unwrap(), 0);
    assert!(!silent.iter().any(is_closed));
    let answer = ask(9, to, &settings, "gw-01", &body).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.contains("BEGIN CERTIFICATE"),
        "{answer}"
    );
    // None of them had ended by itself.
    assert!(began.elapsed() < HEAD, "it took {:?}", began.elapsed());
    let closed: Vec<usize> = (0..silent.len()).filter(|at| is_closed(&silent[*at])).collect();
    assert_eq!(closed, [0], "the oldest has made way, and no other");
    drop(silent);
    stop.cancel();
    server.await.unwrap().unwrap();
}

/// A certificate of `localhost` that signs itself, and its key.
fn server(until_s: i64) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["localhost".to_string()]).unwrap();
    let at = |seconds: i64| (UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs())).into();
    (params.not_before, params.not_after) = (at(until_s - 86_400), at(until_s));
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[tokio::test]
async fn an_endpoint_whose_certificate_has_expired_is_not_ready_until_it_has_another() {
    let temp = tempfile::tempdir().unwrap();
    let settings = files(temp.path(), &authority("Devices"));
    let put = |(certificate, key): (String, String)| {
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            place(&temp.path().join(name), 0o600, text.as_bytes()).unwrap();
        }
    };
    put(server(now_s() - 1));
    let tls = Tls::load(&settings).unwrap();
    let mut known = tls.content();
    let endpoint = Endpoint {
        desk: Desk::open(&settings).unwrap(),
        minute: Mutex::new(Minute::new(1, Instant::now())),
        tls,
        outcomes: Family::default(),
    };
    let monitor = Monitor::new();
    let check = monitor.check("enroll", "starting");
    endpoint.tell(&check, now_s());
    let (is_ready, text) = monitor.readiness();
    assert!(!is_ready && text.contains("server.crt has expired"), "{text}");
    put(server(now_s() + 3_600));
    endpoint.look(&mut known);
    endpoint.tell(&check, now_s());
    assert!(monitor.readiness().0, "{}", monitor.readiness().1);
    // And when that ends, without any file having changed.
    endpoint.tell(&check, now_s() + 3_600);
    assert!(!monitor.readiness().0);
}

#[tokio::test]
async fn devices_are_counted_by_state_and_handshakes_that_fail_by_reason() {
    let temp = tempfile::tempdir().unwrap();
    let settings = EnrollSettings {
        crl_file: Some(temp.path().join("devices.crl")),
        ..files(temp.path(), &authority("Devices"))
    };
    let desk = Desk::open(&settings).unwrap();
    let day = 86_400;
    // When each was signed: they are good for a year.
    for (device, ago) in [
        ("a", 0),
        ("b", 300),
        ("c", 340),
        ("d", 364),
        ("e", 366),
        ("f", 0),
        ("g", 0),
    ] {
        let then_s = now_s() - ago * day;
        let body = request(&desk, device, then_s);
        desk.enroll(device, &body, then_s).unwrap();
    }
    desk.revoke("f", now_s()).unwrap();
    desk.revoke("g", now_s()).unwrap();
    desk.register.allow("g").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let (monitor, stop) = (Monitor::new(), CancellationToken::new());
    let (tls, serving) = (Tls::load(&settings).unwrap(), stop.clone());
    let (of, seen) = (settings.clone(), monitor.clone());
    let server = tokio::spawn(async move { serve(of, desk, tls, &monitor, listener, serving).await });
    let until = async |line: String| {
        let began = Instant::now();
        while !seen.metrics().lines().any(|other| other == line) {
            assert!(began.elapsed() < HEAD, "{line}\n{}", seen.metrics());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    for (state, count) in [
        ("enrolled", 2),
        ("ends_soon", 2),
        ("expired", 1),
        ("revoked", 1),
        ("without_a_certificate", 1),
    ] {
        until(format!(
            "headwater_enroll_certificates{{state=\"{state}\"}} {count}"
        ))
        .await;
    }
    let failures = |reason: &str, count: u32| {
        format!("headwater_enroll_handshake_failures_total{{reason=\"{reason}\"}} {count}")
    };
    // Who does not trust the endpoint says so; who speaks no TLS says something else.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let stream = connect(1, to).await;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap_err();
    until(failures("alert", 1)).await;
    connect(2, to)
        .await
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    until(failures("other", 1)).await;
    until(failures("certificate", 0)).await;
    stop.cancel();
    server.await.unwrap().unwrap();
}
