//! The port: TLS 1.2 and 1.3, `POST /v1/enroll` with a token and `POST /v1/renew` with a certificate. A body is a signing request in DER or PEM;
//! an answer is JSON: `{"certificate", "authorities"}`, or `{"error"}` for the field engineer.
//!
//! Nobody has a connection for longer than [`LONGEST`], nor more than a small body and head; and one address has a share of the connections,
//! and a number of requests a minute. Of IPv6 it is the network that counts: whoever has one has 2^64 addresses.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::authority::Authority;
use super::desk::{Desk, Refusal, Signed};
use super::limits::{CONNECTIONS_EACH, Connected, Minute, network};
use super::settings::EnrollSettings;
use crate::admin::Monitor;
use crate::mqtt::tls as pem;

/// The longest signing request, bytes.
const BODY: usize = 16 << 10;
/// Connections at a time.
const CONNECTIONS: usize = 256;
/// Handshake, request and answer together.
const LONGEST: Duration = Duration::from_secs(30);
const HEAD: Duration = Duration::from_secs(10);
/// The files are looked at this often.
const LOOK: Duration = Duration::from_secs(10);

/// What can be asked for, and what can come of it: all of them are counted from 0, so that the first one shows as one more.
const OUTCOMES: [(&str, &[&str]); 2] = [
    (
        "enroll",
        &[
            "issued", "repeated", "token", "revoked", "request", "failed", "limited",
        ],
    ),
    (
        "renew",
        &[
            "issued", "repeated", "token", "revoked", "request", "early", "failed", "limited",
        ],
    ),
];

/// What was asked for, and what came of it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    /// `enroll`, `renew`.
    request: &'static str,
    /// `issued`, `repeated`, `token`, `revoked`, `request`, `early`, `failed`, `limited`.
    outcome: &'static str,
}

/// The endpoint's certificate, whom it lets in, and what devices shall trust: of files, which are read again when they change.
#[derive(Debug)]
pub(super) struct Tls {
    settings: EnrollSettings,
    files: [PathBuf; 5],
    now: RwLock<Loaded>,
}

#[derive(Clone, Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    /// In PEM.
    authorities: Arc<str>,
}

impl Tls {
    /// Blocks on files.
    ///
    /// # Errors
    /// [`Error`].
    pub(super) fn load(settings: &EnrollSettings) -> Result<Self, Error> {
        let files = [
            settings.file("enroll.cert_file", &settings.cert_file)?,
            settings.file("enroll.key_file", &settings.key_file)?,
            settings.file("enroll.ca_cert_file", &settings.ca_cert_file)?,
            settings.file("enroll.trust_file", &settings.trust_file)?,
            settings.file("enroll.ca_key_file", &settings.ca_key_file)?,
        ];
        let files = files.map(Clone::clone);
        Ok(Self {
            now: RwLock::new(read(&files)?),
            settings: settings.clone(),
            files,
        })
    }

    fn now(&self) -> Loaded {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn content(&self) -> Content {
        self.files.each_ref().map(|path| std::fs::read(path).ok())
    }
}

/// What is in the files.
type Content = [Option<Vec<u8>>; 5];

/// The authority's key is read where it signs.
fn read([cert, key, ca, trust, _]: &[PathBuf; 5]) -> Result<Loaded, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let setup = |error: String| Error::Pem(pem::Error::Setup(error));
    let mut devices = RootCertStore::empty();
    devices.add_parsable_certificates(pem::certificates("ca_cert_file", ca)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(devices), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| setup(error.to_string()))?;
    let mut chain = pem::certificates("cert_file", cert)?;
    // Who knows the authority by its fingerprint alone has to see it.
    for authority in pem::certificates("trust_file", trust)? {
        if !chain.contains(&authority) {
            chain.push(authority);
        }
    }
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| setup(error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, pem::private_key(key)?)
        .map_err(|why| pem::Error::Unusable {
            path: cert.clone(),
            why,
        })?;
    let authorities = std::fs::read_to_string(trust).map_err(|error| Error::File {
        key: "enroll.trust_file",
        path: trust.clone(),
        why: error.to_string(),
    })?;
    Ok(Loaded {
        config: Arc::new(config),
        authorities: authorities.into(),
    })
}

/// Who asks.
#[derive(Clone, Debug)]
struct Caller {
    address: SocketAddr,
    /// That TLS has verified.
    certificate: Option<Arc<[u8]>>,
}

#[derive(Debug)]
struct Endpoint {
    desk: Desk,
    tls: Tls,
    minute: Mutex<Minute>,
    outcomes: Family<Outcome, Counter>,
}

/// Serves until `shutdown`.
pub(super) async fn serve(
    settings: EnrollSettings,
    desk: Desk,
    tls: Tls,
    monitor: &Monitor,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let outcomes = Family::<Outcome, Counter>::default();
    for (request, all) in OUTCOMES {
        for outcome in all {
            drop(outcomes.get_or_create(&Outcome { request, outcome }));
        }
    }
    let of = outcomes.clone();
    monitor.register(|registry| {
        registry.register(
            "headwater_enroll_requests",
            "Requests for certificates, and what came of them",
            of,
        );
    });
    let shutdown = shutdown.child_token();
    let _stop = shutdown.clone().drop_guard();
    let endpoint = Arc::new(Endpoint {
        desk,
        minute: Mutex::new(Minute::new(tls.settings.per_address, Instant::now())),
        tls,
        outcomes,
    });
    tokio::spawn(Arc::clone(&endpoint).follow(shutdown.clone()));
    tracing::info!(state = %settings.state.display(), "devices are enrolled on https://{}", listener.local_addr().map_err(Error::Listen)?);
    let router = Router::new()
        .route("/v1/enroll", post(enroll))
        .route("/v1/renew", post(renew))
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(Arc::clone(&endpoint));
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let connected = Arc::new(Connected::default());
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else {
            return Ok(());
        };
        let (stream, address) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("enroll: a connection could not be accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = shutdown.cancelled() => break,
        };
        let Some(place) = connected.take(network(address.ip())) else {
            tracing::debug!(%address, "enroll: one connection more than {CONNECTIONS_EACH}");
            continue;
        };
        let (router, config) = (router.clone(), endpoint.tls.now().config);
        tokio::spawn(async move {
            if tokio::time::timeout(LONGEST, connection(stream, address, config, router))
                .await
                .is_err()
            {
                tracing::debug!(%address, "enroll: a connection took longer than {LONGEST:?}");
            }
            drop((place, permit));
        });
    }
    // Whoever is being served may end.
    let _ = tokio::time::timeout(Duration::from_secs(5), free.acquire_many(CONNECTIONS as u32)).await;
    Ok(())
}

async fn connection(stream: TcpStream, address: SocketAddr, config: Arc<ServerConfig>, router: Router) {
    let stream = match tokio::time::timeout(HEAD, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::info!(%address, "enroll: no TLS: {error}"),
        Err(_) => return tracing::debug!(%address, "enroll: no TLS within {HEAD:?}"),
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let certificate = certificates
        .and_then(|all| all.first())
        .map(|first| Arc::from(first.as_ref()));
    let router = router.layer(Extension(Caller { address, certificate }));
    // What a client does wrong in HTTP is between hyper and the client.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
}

async fn enroll(
    State(endpoint): State<Arc<Endpoint>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let token = given
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or("")
        .trim()
        .to_string();
    endpoint
        .answer("enroll", caller, move |desk, _, now_s| {
            desk.enroll(&token, &body, now_s)
        })
        .await
}

async fn renew(
    State(endpoint): State<Arc<Endpoint>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    let decide = move |desk: &Desk, shown: Option<&[u8]>, now_s| match shown {
        Some(shown) => desk.renew(shown, &body, now_s),
        None => Err(Refusal::Token(
            "a certificate is renewed with that certificate, and none was shown".into(),
        )),
    };
    endpoint.answer("renew", caller, decide).await
}

impl Endpoint {
    /// Reads the files again whenever they have changed.
    async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        let mut known = self.tls.content();
        while shutdown
            .run_until_cancelled(tokio::time::sleep(LOOK))
            .await
            .is_some()
        {
            self.look(&mut known);
        }
    }

    fn look(&self, known: &mut Content) {
        let content = self.tls.content();
        if content == *known {
            return;
        }
        *known = content;
        // All of them or none: who is let in and who signs belong together.
        let read = read(&self.tls.files);
        match read.and_then(|loaded| Ok((loaded, Authority::load(&self.tls.settings)?))) {
            Ok((loaded, authority)) => {
                *self.tls.now.write().unwrap_or_else(PoisonError::into_inner) = loaded;
                self.desk.exchange(authority);
                tracing::info!("enroll: new certificates are in force");
            }
            Err(error) => tracing::warn!("{error}; the certificates before go on"),
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: &'static str,
        caller: Caller,
        decide: impl FnOnce(&Desk, Option<&[u8]>, i64) -> Result<Signed, Refusal> + Send + 'static,
    ) -> Response {
        let address = caller.address;
        let is_free = self
            .minute
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(network(address.ip()), Instant::now());
        if !is_free {
            self.count(request, "limited");
            let why = "too many requests from this address in a minute";
            return refuse(StatusCode::TOO_MANY_REQUESTS, why, Some(60));
        }
        let this = Arc::clone(&self);
        let deciding = tokio::task::spawn_blocking(move || {
            let now_s = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs() as i64;
            decide(&this.desk, caller.certificate.as_deref(), now_s)
        });
        let decided = deciding
            .await
            .unwrap_or_else(|error| Err(Refusal::Failed(error.to_string())));
        match decided {
            Ok(Signed {
                device,
                issued,
                repeated,
            }) => {
                let outcome = if repeated { "repeated" } else { "issued" };
                self.count(request, outcome);
                tracing::info!(
                    request, outcome, %device, %address, serial = %issued.serial, key = %issued.key, until_s = issued.until_s,
                    "a certificate was given"
                );
                let authorities = &*self.tls.now().authorities;
                let body =
                    serde_json::json!({ "certificate": issued.certificate, "authorities": authorities });
                axum::Json(body).into_response()
            }
            Err(refusal) => {
                let (outcome, status, why, after) = match refusal {
                    Refusal::Token(why) => ("token", StatusCode::UNAUTHORIZED, why, None),
                    Refusal::Revoked(why) => ("revoked", StatusCode::FORBIDDEN, why, None),
                    Refusal::Request(why) => ("request", StatusCode::BAD_REQUEST, why, None),
                    Refusal::Early(why) => ("early", StatusCode::TOO_MANY_REQUESTS, why, Some(3_600)),
                    Refusal::Failed(why) => {
                        tracing::error!(request, %address, "no certificate could be given: {why}");
                        let told = "the endpoint cannot sign just now; its log says why".to_string();
                        ("failed", StatusCode::SERVICE_UNAVAILABLE, told, Some(60))
                    }
                };
                self.count(request, outcome);
                tracing::warn!(request, outcome, %address, "no certificate was given: {why}");
                refuse(status, &why, after)
            }
        }
    }

    fn count(&self, request: &'static str, outcome: &'static str) {
        self.outcomes.get_or_create(&Outcome { request, outcome }).inc();
    }
}

fn refuse(status: StatusCode, why: &str, after: Option<u32>) -> Response {
    let mut response = (status, axum::Json(serde_json::json!({ "error": why }))).into_response();
    if let Some(after) = after {
        response.headers_mut().insert(header::RETRY_AFTER, after.into());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_authority_signs_from_the_moment_its_files_are_there_and_only_whole() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name);
        // Certificate and key, each replaced as a whole.
        let authority = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
        };
        let write = |name: &str, text: &str| {
            crate::enroll::register::place(&path(name), 0o600, text.as_bytes()).unwrap();
        };
        let [(old, old_key), (new, new_key)] = ["Old", "New"].map(authority);
        let server = rcgen::generate_simple_self_signed(["localhost".to_string()]).unwrap();
        write("ca.crt", &old);
        write("ca.key", &old_key);
        write("server.crt", &server.cert.pem());
        write("server.key", &server.signing_key.serialize_pem());
        let settings = EnrollSettings {
            state: path("state"),
            cert_file: Some(path("server.crt")),
            key_file: Some(path("server.key")),
            ca_cert_file: Some(path("ca.crt")),
            ca_key_file: Some(path("ca.key")),
            trust_file: Some(path("server.crt")),
            ..EnrollSettings::default()
        };
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
            let token = crate::enroll::register::Token {
                device: format!("gw-{n}"),
                expires_s: now_s + 60,
                made_s: now_s,
            };
            let hash = crate::enroll::desk::hash(&token.device);
            endpoint.desk.register.put_token(&hash, &token).unwrap();
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, &*token.device);
            let key = rcgen::KeyPair::generate().unwrap();
            let request = params.serialize_request(&key).unwrap();
            let signed = endpoint.desk.enroll(&token.device, request.der(), now_s).unwrap();
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
}
