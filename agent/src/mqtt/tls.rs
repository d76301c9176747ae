//! TLS: certificates from files, read again when they have changed; errors that say what to do; and a clock that may be wrong.
//!
//! **The clock.** A box without a battery starts in 1970, where every certificate is *not yet valid*, and needs the link before it can
//! learn the time from it. So while the clock is not known to be right, a certificate counts as proof that its own beginning has passed: its
//! issuer signed it then. Expiry is checked all the same, at the latest time known; and once the clock is right, both
//! bounds hold.
//!
//! **Memory.** Where `ca_file` is not set, the system's authorities (about 150) are loaded for the handshake and dropped after it.
//!
//! **Resumption.** The settings of TLS are kept from one connection to the next while the files stay as they are: a connection that
//! resumes a session sends a few hundred bytes in place of all certificates.

mod error;
mod files;
mod verifier;

use std::io;
#[cfg(feature = "enroll")]
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::ServerName;
#[cfg(feature = "enroll")]
use tokio_rustls::rustls::pki_types::pem::PemObject;
#[cfg(feature = "enroll")]
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::sign::CertifiedKey;
#[cfg(feature = "enroll")]
use tokio_rustls::rustls::sign::SigningKey;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SignatureScheme};

use super::socket::Stream;
use crate::clock::Clock;
use crate::config;
use crate::task;
use error::Error;
use files::Mark;
use verifier::Verifier;

/// What rustls may hold that the socket has not taken.
const BUFFER: usize = 16 * 1024;

/// TLS as the settings ask for it; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Tls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: config::Tls,
    clock: Clock,
    provider: Arc<CryptoProvider>,
    /// Of the last connection.
    kept: Mutex<Option<Kept>>,
    /// Whether the broker has asked for a certificate in the last handshake.
    asked: Arc<AtomicBool>,
}

#[derive(Clone, Debug)]
struct Kept {
    marks: Vec<Mark>,
    config: Arc<ClientConfig>,
    verifier: Arc<Verifier>,
}

impl Tls {
    pub(crate) fn new(settings: &config::Tls, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            settings: settings.clone(),
            clock,
            provider: Arc::new(ring::default_provider()),
            kept: Mutex::default(),
            asked: Arc::default(),
        }))
    }

    /// Speaks TLS on a socket to `host`.
    ///
    /// # Errors
    /// For a person: what is wrong, and what to do.
    pub(super) async fn connect(
        &self,
        host: &str,
        socket: Box<dyn Stream>,
    ) -> Result<Box<dyn Stream>, String> {
        self.0.asked.store(false, Ordering::Relaxed);
        let inner = self.0.clone();
        // Files may be on a disk that hangs, and the system's authorities are many.
        let kept = match task::blocking(move || inner.prepare()).await {
            Ok(kept) => kept.map_err(|error| error.to_string())?,
            Err(error) => return Err(error.to_string()),
        };
        let name = self
            .0
            .settings
            .server_name
            .as_deref()
            .unwrap_or(host)
            .trim_matches(['[', ']']);
        let name =
            ServerName::try_from(name.to_string()).map_err(|_| Error::Name(name.to_string()).to_string())?;
        let connector = TlsConnector::from(kept.config);
        let stream = connector
            .connect_with(name, socket, |connection| {
                connection.set_buffer_limit(Some(BUFFER));
            })
            .await;
        if self.0.settings.ca_file.is_none() {
            kept.verifier.forget_authorities();
        }
        match stream {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => {
                // Should a session that was to be resumed be at fault, the next handshake is a whole one.
                *self.0.kept() = None;
                Err(self.explain(&error).unwrap_or_else(|| {
                    let hint = match self.hint() {
                        "" => "; is the port one of the broker's TLS listeners?",
                        hint => hint,
                    };
                    format!(
                        "the TLS handshake failed: {}{hint}",
                        super::socket::explain(&error)
                    )
                }))
            }
        }
    }

    /// An error of the socket's that is one of TLS, for a person.
    pub(super) fn explain(&self, error: &io::Error) -> Option<String> {
        error::explain(error, &self.0.settings, &self.0.clock)
    }

    /// What is worth knowing when a broker closes in place of answering.
    pub(super) fn hint(&self) -> &'static str {
        match (self.0.asked.load(Ordering::Relaxed), &self.0.settings.cert_file) {
            (true, None) => {
                "; it asks for a certificate, and this agent has none: set uplink.tls.cert_file and uplink.tls.key_file"
            }
            (true, Some(_)) => {
                "; it has asked for a certificate, and may not accept that in uplink.tls.cert_file: expired, revoked, or of an \
                 authority that it does not know; its log says which"
            }
            (false, _) => "",
        }
    }

    /// Ends when the files have changed, and what they hold now is good. What is not good is told, and the connection that stands is
    /// better than none.
    pub(super) async fn renewed(&self) {
        let mut bad = None;
        loop {
            tokio::time::sleep(self.0.settings.look_every).await;
            let inner = self.0.clone();
            let Ok(changed) = task::blocking(move || inner.changed()).await else {
                continue;
            };
            match changed {
                None => bad = None,
                Some(Ok(())) => return,
                Some(Err(why)) => {
                    let why = why.to_string();
                    if bad.as_ref() != Some(&why) {
                        log::warn!(
                            "the TLS files have changed, and cannot be used: {why}. The connection that stands goes on"
                        );
                    }
                    bad = Some(why);
                }
            }
        }
    }
}

impl Inner {
    fn kept(&self) -> std::sync::MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the next connection needs; blocks on files.
    fn prepare(&self) -> Result<Kept, Error> {
        let marks = files::marks(&self.settings);
        let kept = self.kept().clone().filter(|kept| kept.marks == marks);
        let kept = match kept {
            Some(kept) => kept,
            None => self.load(marks)?,
        };
        if !kept.verifier.has_authorities() {
            kept.verifier.set_authorities(self.authorities()?);
        }
        *self.kept() = Some(kept.clone());
        Ok(kept)
    }

    /// Whether the files have changed since the last connection, and if they have, whether what they hold can be used.
    fn changed(&self) -> Option<Result<(), Error>> {
        let marks = files::marks(&self.settings);
        if self.kept().as_ref().is_none_or(|kept| kept.marks == marks) {
            return None;
        }
        Some(self.load(marks).map(|_| ()))
    }

    fn load(&self, marks: Vec<Mark>) -> Result<Kept, Error> {
        let pin = self.settings.pin;
        let verifier = Arc::new(Verifier::new(self.provider.clone(), self.clock.clone(), pin));
        if self.settings.ca_file.is_some() {
            verifier.set_authorities(self.authorities()?);
        }
        let identity = match (&self.settings.cert_file, &self.settings.key_file) {
            (Some(cert_file), Some(key_file)) => {
                let identity = files::identity(cert_file, key_file, &self.provider)?;
                verifier::check_dates(&identity, &self.provider, &self.clock).map_err(|why| Error::Own {
                    path: cert_file.clone(),
                    why,
                })?;
                Some(Arc::new(identity))
            }
            _ => None,
        };
        let resolver = Arc::new(Identity {
            identity,
            asked: self.asked.clone(),
        });
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(Error::Setup)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(resolver);
        config.resumption = Resumption::in_memory_sessions(2);
        Ok(Kept {
            marks,
            config: Arc::new(config),
            verifier,
        })
    }

    fn authorities(&self) -> Result<Arc<WebPkiServerVerifier>, Error> {
        let mut store = RootCertStore::empty();
        let certificates = match &self.settings.ca_file {
            Some(path) => files::certificates(path)?,
            None => files::system_authorities()?,
        };
        let (added, ignored) = store.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(Error::NoAuthority(self.settings.ca_file.clone()));
        }
        if let Some(path) = self.settings.ca_file.as_ref().filter(|_| ignored > 0) {
            log::warn!("{ignored} certificates in {} cannot be used", path.display());
        }
        WebPkiServerVerifier::builder_with_provider(Arc::new(store), self.provider.clone())
            .build()
            .map_err(|error| Error::Verifier(error.to_string()))
    }
}

/// This agent's certificate, for when the broker asks.
#[derive(Debug)]
struct Identity {
    identity: Option<Arc<CertifiedKey>>,
    asked: Arc<AtomicBool>,
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.identity.clone()
    }

    // Not only where there is one: else it would not be told that the broker asks.
    fn has_certs(&self) -> bool {
        true
    }
}

/// From when to when the certificate in a file is valid, seconds since the Unix epoch, if it is that of the key in the other.
///
/// # Errors
/// For a person: what keeps them from being used.
#[cfg(feature = "enroll")]
pub(crate) fn own(cert_file: &Path, key_file: &Path) -> Result<(i64, i64), String> {
    let provider = ring::default_provider();
    let identity = files::identity(cert_file, key_file, &provider).map_err(|error| error.to_string())?;
    verifier::dates(&identity, &provider).ok_or_else(|| {
        format!(
            "the certificate in {} does not tell its dates",
            cert_file.display()
        )
    })
}

/// The key in a file.
///
/// # Errors
/// For a person.
#[cfg(feature = "enroll")]
pub(crate) fn key(key_file: &Path) -> Result<Arc<dyn SigningKey>, String> {
    files::key(key_file, &ring::default_provider()).map_err(|error| error.to_string())
}

/// Whether a text in PEM holds nothing but certificates that can be read, one at least.
///
/// # Errors
/// For a person: what is wrong.
#[cfg(feature = "enroll")]
pub(crate) fn check_certificates(pem: &[u8]) -> Result<(), String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| error.to_string())?;
    match RootCertStore::empty().add_parsable_certificates(certificates) {
        (0, _) => Err("there is no certificate in PEM form in it".into()),
        (_, 0) => Ok(()),
        (_, bad) => Err(format!("{bad} certificates in it cannot be read")),
    }
}

/// The day of a time in seconds since the Unix epoch, as `2026-11-22`.
#[cfg(feature = "enroll")]
pub(crate) fn day_of(seconds: i64) -> String {
    error::day(UnixTime::since_unix_epoch(std::time::Duration::from_secs(
        seconds.max(0).unsigned_abs(),
    )))
}

#[cfg(test)]
mod tests;
