//! The port: TLS 1.2 and 1.3, `POST /v1/enroll` with a token and `POST /v1/renew` with a certificate. A body is a signing request in DER or PEM;
//! an answer is JSON: `{"certificate", "authorities"}`, or `{"error"}` for the field engineer.
//!
//! Nobody has a connection for longer than [`LONGEST`], nor more than a small body and head; and one address has a number of requests a
//! minute.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
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
use super::desk::{Desk, Refusal, Signed};
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
/// Addresses whose requests are counted at a time.
const ADDRESSES: usize = 65_536;

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
    files: [PathBuf; 4],
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

    fn content(&self) -> [Option<Vec<u8>>; 4] {
        self.files.each_ref().map(|path| std::fs::read(path).ok())
    }

    /// Reads the files again whenever they have changed.
    async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        let mut known = self.content();
        while shutdown
            .run_until_cancelled(tokio::time::sleep(LOOK))
            .await
            .is_some()
        {
            let content = self.content();
            if content == known {
                continue;
            }
            known = content;
            match read(&self.files) {
                Ok(loaded) => {
                    *self.now.write().unwrap_or_else(PoisonError::into_inner) = loaded;
                    tracing::info!("enroll: new certificates are in force");
                }
                Err(error) => tracing::warn!("{error}; the certificates before go on"),
            }
        }
    }
}

fn read([cert, key, ca, trust]: &[PathBuf; 4]) -> Result<Loaded, Error> {
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

/// Requests of addresses in this minute.
#[derive(Debug)]
struct Minute {
    most: u32,
    began: Instant,
    counts: HashMap<IpAddr, u32>,
}

impl Minute {
    fn new(most: u32, now: Instant) -> Self {
        Self {
            most,
            began: now,
            counts: HashMap::new(),
        }
    }

    /// Whether this address may ask once more.
    fn take(&mut self, address: IpAddr, now: Instant) -> bool {
        if now.saturating_duration_since(self.began) >= Duration::from_secs(60) {
            (self.began, self.counts) = (now, HashMap::new());
        }
        if self.counts.len() >= ADDRESSES && !self.counts.contains_key(&address) {
            return false;
        }
        let count = self.counts.entry(address).or_default();
        *count = count.saturating_add(1);
        *count <= self.most
    }
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
    tls: Arc<Tls>,
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
    let tls = Arc::new(tls);
    tokio::spawn(Arc::clone(&tls).follow(shutdown.clone()));
    let endpoint = Arc::new(Endpoint {
        desk,
        minute: Mutex::new(Minute::new(tls.settings.per_address, Instant::now())),
        tls,
        outcomes,
    });
    tracing::info!(state = %settings.state.display(), "devices are enrolled on https://{}", listener.local_addr().map_err(Error::Listen)?);
    let router = Router::new()
        .route("/v1/enroll", post(enroll))
        .route("/v1/renew", post(renew))
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(Arc::clone(&endpoint));
    let free = Arc::new(Semaphore::new(CONNECTIONS));
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
        let (router, config) = (router.clone(), endpoint.tls.now().config);
        tokio::spawn(async move {
            if tokio::time::timeout(LONGEST, connection(stream, address, config, router))
                .await
                .is_err()
            {
                tracing::debug!(%address, "enroll: a connection took longer than {LONGEST:?}");
            }
            drop(permit);
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
            .take(address.ip().to_canonical(), Instant::now());
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
    fn an_address_has_so_many_requests_a_minute() {
        let began = Instant::now();
        let mut minute = Minute::new(2, began);
        let (one, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let taken: Vec<bool> = [one, one, one, other]
            .map(|address| minute.take(address, began))
            .to_vec();
        assert_eq!(taken, [true, true, false, true]);
        assert!(!minute.take(one, began + Duration::from_secs(59)));
        assert!(minute.take(one, began + Duration::from_secs(60)));
        for n in 0..ADDRESSES as u32 {
            minute.take(IpAddr::from(n.to_be_bytes()), began + Duration::from_secs(61));
        }
        assert!(minute.counts.len() <= ADDRESSES);
    }
}
