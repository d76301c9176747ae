//! The port: TLS 1.2 and 1.3, `POST /v1/enroll` with a token and `POST /v1/renew` with a certificate. A body is a signing request in DER or PEM;
//! an answer is JSON: `{"certificate", "authorities"}`, or `{"error"}` for the field engineer.
//!
//! A connection is for one request. Nobody has one for longer than [`LONGEST`], nor more than a small body and head; and one address has a share of
//! the connections, which shrinks as they are taken, and a number of requests a minute. Of IPv6 it is the network that counts: whoever has one has
//! 2^64 addresses.

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
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::authority::Authority;
use super::desk::{Desk, Refusal, Signed};
use super::limits::{Connected, Minute, Place, network};
use super::settings::EnrollSettings;
use super::standing;
use crate::admin::{Check, Monitor};
use crate::certificates;
use crate::mqtt::tls as pem;

/// The longest signing request, bytes.
const BODY: usize = 16 << 10;
/// Handshake, request and answer together.
const LONGEST: Duration = Duration::from_secs(30);
const HEAD: Duration = Duration::from_secs(10);
/// The files are looked at this often.
const LOOK: Duration = Duration::from_secs(10);
/// The devices of the register are counted once in so many looks.
const COUNT: u32 = 30;
/// Why there was no TLS: the device's certificate was refused here, ours was refused there, or something else, such as silence.
const FAILURES: [&str; 3] = ["certificate", "alert", "other"];

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

/// Why there was no TLS.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Failure {
    /// One of [`FAILURES`].
    reason: &'static str,
}

impl Failure {
    fn of(error: &std::io::Error) -> Self {
        let reason = match error.get_ref().and_then(|within| within.downcast_ref()) {
            Some(rustls::Error::InvalidCertificate(_)) => "certificate",
            Some(rustls::Error::AlertReceived(_)) => "alert",
            _ => "other",
        };
        Self { reason }
    }
}

/// How devices stand with their certificates.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Standing {
    /// As `fleet list` has it.
    state: String,
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
    /// When the endpoint's own certificate ends, seconds since the Unix epoch.
    until_s: i64,
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
    let terms = certificates::terms(&chain);
    let until_s = terms.iter().map(|term| term.until_s).min().unwrap_or(i64::MAX);
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
        until_s,
    })
}

fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs() as i64
}

/// Who asks.
#[derive(Clone, Debug)]
struct Caller {
    address: SocketAddr,
    /// That TLS has verified.
    certificate: Option<Arc<[u8]>>,
    place: Arc<Place>,
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
    let failures = Family::<Failure, Counter>::default();
    for reason in FAILURES {
        drop(failures.get_or_create(&Failure { reason }));
    }
    let devices = Family::<Standing, Gauge>::default();
    let of = (failures.clone(), devices.clone());
    monitor.register(|registry| {
        registry.register(
            "headwater_enroll_handshake_failures",
            "Connections that came to no TLS",
            of.0,
        );
        registry.register(
            "headwater_enroll_certificates",
            "Devices by how they stand with their certificates",
            of.1,
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
    let check = monitor.check("enroll", "starting");
    endpoint.tell(&check, now_s());
    tokio::spawn(Arc::clone(&endpoint).follow(check, devices, shutdown.clone()));
    tracing::info!(state = %settings.state.display(), "devices are enrolled on https://{}", listener.local_addr().map_err(Error::Listen)?);
    let router = Router::new()
        .route("/v1/enroll", post(enroll))
        .route("/v1/renew", post(renew))
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(Arc::clone(&endpoint));
    let connected = Arc::new(Connected::default());
    // Nothing is ever sent: when nobody could, all have ended.
    let (serving, mut served) = mpsc::channel::<()>(1);
    loop {
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
        let Some(place) = connected.take(network(address.ip()), Instant::now()) else {
            tracing::debug!(%address, "enroll: there is no connection left for it");
            continue;
        };
        let (router, config, failures) = (router.clone(), endpoint.tls.now().config, failures.clone());
        let serving = serving.clone();
        tokio::spawn(async move {
            let end = place.end();
            let connection = connection(stream, address, place, config, router, &failures);
            match end
                .run_until_cancelled(tokio::time::timeout(LONGEST, connection))
                .await
            {
                Some(Ok(())) => {}
                Some(Err(_)) => {
                    tracing::debug!(%address, "enroll: a connection took longer than {LONGEST:?}");
                }
                None => tracing::debug!(%address, "enroll: a connection made way for another's"),
            }
            drop(serving);
        });
    }
    // Whoever is being served may end.
    drop(serving);
    let _ = tokio::time::timeout(Duration::from_secs(5), served.recv()).await;
    Ok(())
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    place: Place,
    config: Arc<ServerConfig>,
    router: Router,
    failures: &Family<Failure, Counter>,
) {
    let failed = |failure: &Failure| failures.get_or_create(failure).inc();
    let stream = match tokio::time::timeout(HEAD, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            failed(&Failure::of(&error));
            return tracing::info!(%address, "enroll: no TLS: {error}");
        }
        Err(_) => {
            failed(&Failure { reason: "other" });
            return tracing::debug!(%address, "enroll: no TLS within {HEAD:?}");
        }
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let certificate = certificates
        .and_then(|all| all.first())
        .map(|first| Arc::from(first.as_ref()));
    let place = Arc::new(place);
    let router = router.layer(Extension(Caller {
        address,
        certificate,
        place,
    }));
    // What a client does wrong in HTTP is between hyper and the client.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // Else it would be held after the answer, too.
        .keep_alive(false)
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
    /// Reads the files again whenever they have changed, and tells how its own certificate and the devices' stand.
    async fn follow(
        self: Arc<Self>,
        check: Check,
        devices: Family<Standing, Gauge>,
        shutdown: CancellationToken,
    ) {
        let mut known = self.tls.content();
        for round in (0..COUNT).cycle() {
            if round == 0 {
                let (this, devices) = (Arc::clone(&self), devices.clone());
                let _ = tokio::task::spawn_blocking(move || this.count_devices(&devices, now_s())).await;
            }
            let waited = shutdown.run_until_cancelled(tokio::time::sleep(LOOK)).await;
            if waited.is_none() {
                return;
            }
            self.look(&mut known);
            self.tell(&check, now_s());
        }
    }

    /// Whether its certificate is still good: with another, no device talks to it.
    fn tell(&self, check: &Check, now_s: i64) {
        if now_s < self.tls.now().until_s {
            return check.ready();
        }
        let file = self.tls.files[0].display();
        check.failing(format!(
            "the certificate in {file} has expired, and no device talks to the endpoint: renew it; the file is read again when it changes"
        ));
    }

    /// Blocks on files.
    fn count_devices(&self, devices: &Family<Standing, Gauge>, now_s: i64) {
        let all = match standing::all(&self.desk.register, now_s) {
            Ok(all) => all,
            Err(error) => return tracing::warn!("devices cannot be counted: {error}"),
        };
        for state in standing::STATES {
            let count = all.iter().filter(|one| one.state == state).count();
            let state = standing::label(state);
            devices.get_or_create(&Standing { state }).set(count as i64);
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
        caller.place.asked();
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
        let deciding =
            tokio::task::spawn_blocking(move || decide(&this.desk, caller.certificate.as_deref(), now_s()));
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
mod tests;
