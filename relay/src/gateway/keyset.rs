//! A set of keys from a URL or a file, kept up to date.
//!
//! It is fetched at the start, then every `refresh`; at a token with a key id that it does not hold at once, but no oftener than every `refetch`.
//! While it cannot be had, the keys before stay in force.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::sync::CancellationToken;

use super::jwks;
use super::token::Key;
use crate::mqtt::{settings as mqtt, tls};

/// How long fetching may take.
const FETCH: Duration = Duration::from_secs(10);
/// Where the first fetch fails, the next come after this.
const AGAIN: Duration = Duration::from_secs(2);
/// A file is looked at this often.
const FILE: Duration = Duration::from_secs(5);
/// How long a token with an unknown key id waits for the set to be fetched.
const WAIT: Duration = Duration::from_secs(3);

/// A set of keys that tokens are checked with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySetSettings {
    /// Where it is: `https://…`, or `http://` on this machine's loopback.
    pub url: Option<String>,
    /// Or the file that holds it.
    pub file: Option<PathBuf>,
    /// Certificates of the authorities that the URL's certificate may come from. `None`: those that this system trusts.
    pub ca_file: Option<PathBuf>,
    /// It is fetched this often.
    #[serde(default = "five_minutes", with = "headwater_config::duration")]
    pub refresh: Duration,
    /// At a token with an unknown key id it is fetched at once, but no oftener than this.
    #[serde(default = "ten_seconds", with = "headwater_config::duration")]
    pub refetch: Duration,
}

fn five_minutes() -> Duration {
    Duration::from_secs(300)
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

/// Why a set cannot be had. Each message is whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings do not say where it is.
    #[error("gateway.key_sets: {0}")]
    Settings(String),
    /// The file, or the server.
    #[error("gateway.key_sets: {place}: {why}")]
    Fetch {
        /// The URL or the file.
        place: String,
        /// What is wrong.
        why: String,
    },
}

/// By result.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Fetched {
    /// `ok`, `failed`.
    pub result: &'static str,
}

/// Fetches of key sets, by result.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Family<Fetched, Counter>);

impl Metrics {
    /// Registered under `headwater_gateway_`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for result in ["ok", "failed"] {
            drop(metrics.0.get_or_create(&Fetched { result }));
        }
        let registry = registry.sub_registry_with_prefix("headwater_gateway");
        registry.register("key_set_fetches", "Fetches of key sets", metrics.0.clone());
        metrics
    }
}

#[derive(Clone, Debug)]
enum Place {
    Url {
        uri: Uri,
        secure: bool,
        host: String,
        port: u16,
    },
    File(PathBuf),
}

/// A set and its keys in force.
#[derive(Debug)]
pub struct KeySet {
    place: Place,
    settings: KeySetSettings,
    keys: RwLock<Arc<Vec<Key>>>,
    fetched: Mutex<Option<Instant>>,
    wanted: Notify,
    /// Counts fetches.
    news: watch::Sender<u64>,
}

impl KeySet {
    /// Empty, until it is fetched.
    ///
    /// # Errors
    /// [`Error::Settings`].
    pub fn new(settings: &KeySetSettings) -> Result<Self, Error> {
        let wrong = |why: String| Error::Settings(why);
        for (key, value) in [("refresh", settings.refresh), ("refetch", settings.refetch)] {
            if !(Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&value) {
                return Err(wrong(format!("{key} = {value:?}: 1s to 1day is allowed")));
            }
        }
        let place = match (&settings.url, &settings.file) {
            (Some(url), None) => place(url).map_err(|why| wrong(format!("url = {url:?}: {why}")))?,
            (None, Some(file)) if settings.ca_file.is_none() => Place::File(file.clone()),
            (None, Some(_)) => return Err(wrong("ca_file is for a url, and there is none".into())),
            _ => return Err(wrong("each has a url or a file".into())),
        };
        Ok(Self {
            place,
            settings: settings.clone(),
            keys: RwLock::default(),
            fetched: Mutex::default(),
            wanted: Notify::new(),
            news: watch::Sender::new(0),
        })
    }

    /// The keys in force.
    pub fn keys(&self) -> Arc<Vec<Key>> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has it fetched for the sake of a key that is not in it, and waits a moment; not where that was done lately.
    pub async fn want(&self) {
        let mut news = self.news.subscribe();
        if self.was_fetched_lately() {
            return;
        }
        self.wanted.notify_one();
        // Late, or not at all: the token is judged by what there is.
        let _ = tokio::time::timeout(WAIT, news.changed()).await;
    }

    fn was_fetched_lately(&self) -> bool {
        let fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.is_some_and(|at| at.elapsed() < self.settings.refetch)
    }

    /// Somebody wants it, and did not only while it was being fetched.
    async fn is_wanted(&self) {
        loop {
            self.wanted.notified().await;
            if !self.was_fetched_lately() {
                return;
            }
        }
    }

    /// Fetches it, again and again, until `shutdown`.
    pub async fn follow(self: Arc<Self>, metrics: Metrics, shutdown: CancellationToken) {
        let mut failing = false;
        loop {
            let result = tokio::select! {
                result = self.fetch() => result,
                () = shutdown.cancelled() => return,
            };
            let word = if result.is_ok() { "ok" } else { "failed" };
            metrics.0.get_or_create(&Fetched { result: word }).inc();
            match result {
                Ok(keys) => {
                    if std::mem::take(&mut failing) || self.keys().is_empty() {
                        tracing::info!(keys = keys.len(), "{} is read", self.name());
                    }
                    *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        let kept = self.keys().len();
                        tracing::warn!("{error}; {kept} keys of before stay in force");
                    }
                }
            }
            *self.fetched.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            self.news.send_modify(|count| *count += 1);
            let every = match self.place {
                Place::File(_) => FILE.min(self.settings.refresh),
                Place::Url { .. } if self.keys().is_empty() => AGAIN.min(self.settings.refresh),
                Place::Url { .. } => self.settings.refresh,
            };
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = self.is_wanted() => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    fn name(&self) -> String {
        match &self.place {
            Place::Url { uri, .. } => uri.to_string(),
            Place::File(file) => file.display().to_string(),
        }
    }

    async fn fetch(&self) -> Result<Vec<Key>, Error> {
        let fetched = tokio::time::timeout(FETCH, async {
            let text = match &self.place {
                Place::File(file) => {
                    let file = file.clone();
                    let read = tokio::task::spawn_blocking(move || std::fs::read(file)).await;
                    read.map_err(|error| error.to_string())?
                        .map_err(|error| error.to_string())?
                }
                Place::Url {
                    uri,
                    secure,
                    host,
                    port,
                } => self.get(uri, *secure, host, *port).await?,
            };
            jwks::keys(&text).map_err(|error| error.to_string())
        });
        let result = fetched
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {FETCH:?}")));
        result.map_err(|why| Error::Fetch {
            place: self.name(),
            why,
        })
    }

    async fn get(&self, uri: &Uri, secure: bool, host: &str, port: u16) -> Result<Vec<u8>, String> {
        let stream = TcpStream::connect((host, port))
            .await
            .map_err(|error| error.to_string())?;
        if !secure {
            return get(stream, uri).await;
        }
        let settings = mqtt::TlsSettings {
            ca_file: self.settings.ca_file.clone(),
            ..mqtt::TlsSettings::default()
        };
        // Read anew for each fetch: authorities are renewed too.
        let config = tokio::task::spawn_blocking(move || tls::config(&settings))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let connected = TlsConnector::from(config).connect(name, stream).await;
        get(connected.map_err(|error| error.to_string())?, uri).await
    }
}

fn place(url: &str) -> Result<Place, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
    let secure = uri.scheme_str() == Some("https");
    if !secure && uri.scheme_str() != Some("http") {
        return Err("https:// is required".into());
    }
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return Err("credentials have no place in it".into());
    }
    let address = host.parse::<std::net::IpAddr>();
    let is_loopback = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    if !secure && !is_loopback {
        return Err("https:// is required: who can change the answer on its way could sign tokens (http:// is for this machine's loopback)".into());
    }
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    Ok(Place::Url {
        uri,
        secure,
        host,
        port,
    })
}

/// One GET; redirections are not followed.
async fn get<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    uri: &Uri,
) -> Result<Vec<u8>, String> {
    let told = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(64 << 10)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(told)?;
    // It ends with its response.
    let driver = tokio::spawn(connection);
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .header(
            header::USER_AGENT,
            concat!("headwater-relay/", env!("CARGO_PKG_VERSION")),
        )
        .header(header::CONNECTION, "close")
        .body(Body::empty())
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(told)?;
    let status = response.status();
    let result = if status == StatusCode::OK {
        let body = Body::new(response.into_body());
        let text = to_bytes(body, jwks::LARGEST).await;
        text.map(|bytes| bytes.to_vec())
            .map_err(|error| error.to_string())
    } else {
        Err(format!("the server answers {status}"))
    };
    driver.abort();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<KeySet, String> {
        let settings: KeySetSettings = toml::from_str(text).unwrap();
        KeySet::new(&settings).map_err(|error| error.to_string())
    }

    #[test]
    fn a_set_comes_over_tls_from_this_machine_or_from_a_file() {
        for text in [
            "url = 'https://id.example/jwks.json'",
            "url = 'https://id.example:8443/a?b=c'\nca_file = '/etc/ca.pem'",
            "url = 'http://localhost:9000/jwks'",
            "url = 'http://[::1]:9000/jwks'",
            "file = '/etc/jwks.json'\nrefresh = '1s'",
        ] {
            of(text).unwrap();
        }
        for (text, word) in [
            ("", "a url or a file"),
            ("url = 'https://a/'\nfile = '/b'", "a url or a file"),
            ("url = 'http://id.example/jwks'", "https:// is required"),
            ("url = 'ftp://id.example/jwks'", "https:// is required"),
            ("url = 'https://user:password@id.example/'", "credentials"),
            ("url = 'not a url'", "url = "),
            ("file = '/b'\nca_file = '/c'", "ca_file"),
            ("file = '/b'\nrefresh = '0s'", "refresh"),
        ] {
            let error = of(text).unwrap_err();
            assert!(
                error.starts_with("gateway.key_sets: ") && error.contains(word),
                "{text}: {error}"
            );
        }
    }
}
