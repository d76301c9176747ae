//! TLS for dashboards: certificate and key from PEM files, read again when they change.
//!
//! A connection keeps the certificate that it began with; a new one holds for connections from then on. Where the files cannot be used
//! (half of a renewal, a key of another certificate), the certificate before goes on, and the log says why once for each change.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, InconsistentKeys, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::mqtt::tls as pem;

/// The files are looked at this often.
const LOOK: Duration = Duration::from_secs(2);

/// The section `gateway.tls` of the settings: both files, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// The gateway's certificate, and those that lead from it to its authority.
    pub cert_file: Option<PathBuf>,
    /// The private key of `cert_file`: PKCS #8, PKCS #1 or SEC 1, without a password.
    pub key_file: Option<PathBuf>,
}

/// Why there can be no TLS. Each message is whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of the files is not set.
    #[error("gateway.tls.{missing} is missing: certificate and key are set both, or none of them")]
    Half {
        /// The key that is not set.
        missing: &'static str,
    },
    /// A file, or what it holds.
    #[error("gateway.tls.{0}")]
    Pem(#[from] pem::Error),
}

#[derive(Debug)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
}

impl Files {
    fn of(settings: &TlsSettings) -> Result<Option<Self>, Error> {
        match (&settings.cert_file, &settings.key_file) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => Ok(Some(Self {
                cert: cert.clone(),
                key: key.clone(),
            })),
            (Some(_), None) => Err(Error::Half { missing: "key_file" }),
            (None, Some(_)) => Err(Error::Half { missing: "cert_file" }),
        }
    }

    /// What they hold, to be told from what they held; `None` for one that cannot be read.
    fn content(&self) -> [Option<Vec<u8>>; 2] {
        [&self.cert, &self.key].map(|path| std::fs::read(path).ok())
    }

    fn config(&self) -> Result<Arc<ServerConfig>, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let setup = |error: rustls::Error| pem::Error::Setup(error.to_string());
        let chain = pem::certificates("cert_file", &self.cert)?;
        let key = pem::private_key(&self.key)?;
        // The safe default is TLS 1.2 and 1.3.
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(setup)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => pem::Error::KeyMismatch {
                    cert_file: self.cert.clone(),
                    key_file: self.key.clone(),
                },
                why => pem::Error::Unusable {
                    path: self.cert.clone(),
                    why,
                },
            })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// The certificate in force.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files; `None` where none are set. Blocks on files.
    ///
    /// # Errors
    /// [`Error`].
    pub fn load(settings: &TlsSettings) -> Result<Option<Arc<Self>>, Error> {
        let Some(files) = Files::of(settings)? else {
            return Ok(None);
        };
        let config = RwLock::new(files.config()?);
        Ok(Some(Arc::new(Self { files, config })))
    }

    /// Shakes hands on a connection, with the certificate in force.
    ///
    /// # Errors
    /// What the client did wrong, or that it left.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> std::io::Result<TlsStream<S>> {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        TlsAcceptor::from(config).accept(stream).await
    }

    /// Reads the files again whenever they have changed, until `shutdown`.
    pub async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        let mut known = self.files.content();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = shutdown.cancelled() => return,
            }
            let this = Arc::clone(&self);
            let look = tokio::task::spawn_blocking(move || this.reload(known)).await;
            let Ok(content) = look else { return };
            known = content;
        }
    }

    fn reload(&self, known: [Option<Vec<u8>>; 2]) -> [Option<Vec<u8>>; 2] {
        let content = self.files.content();
        if content == known {
            return known;
        }
        match self.files.config() {
            Ok(config) => {
                *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
                tracing::info!(file = %self.files.cert.display(), "a new certificate is in force");
            }
            Err(error) => tracing::warn!("{error}; the certificate before goes on"),
        }
        content
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(settings: &TlsSettings) -> String {
        Tls::load(settings).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_used_leaves_the_certificate_before_in_force() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let renew = || {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
            std::fs::write(path("crt"), made.cert.pem()).unwrap();
            std::fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
        };
        renew();
        let settings = TlsSettings {
            cert_file: Some(path("crt")),
            key_file: Some(path("key")),
        };
        let tls = Tls::load(&settings).unwrap().unwrap();
        let in_force = || Arc::clone(&tls.config.read().unwrap());
        let (first, mut known) = (in_force(), tls.files.content());
        // Nothing new, half a renewal, none at all.
        known = tls.reload(known);
        for text in ["-----BEGIN CERTIFICATE-----", ""] {
            std::fs::write(path("crt"), text).unwrap();
            known = tls.reload(known);
        }
        std::fs::remove_file(path("key")).unwrap();
        known = tls.reload(known);
        assert!(Arc::ptr_eq(&first, &in_force()));
        renew();
        tls.reload(known);
        assert!(!Arc::ptr_eq(&first, &in_force()));
    }

    #[test]
    fn bad_files_are_named_with_what_is_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let of = |cert: &str, key: &str| TlsSettings {
            cert_file: Some(path(cert)),
            key_file: Some(path(key)),
        };
        for name in ["a", "b"] {
            let made = rcgen::generate_simple_self_signed(vec![name.to_string()]).unwrap();
            std::fs::write(path(&format!("{name}.crt")), made.cert.pem()).unwrap();
            std::fs::write(path(&format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
        }
        std::fs::write(path("junk"), "junk").unwrap();
        assert!(Tls::load(&TlsSettings::default()).unwrap().is_none());
        assert!(Tls::load(&of("a.crt", "a.key")).unwrap().is_some());
        let half = TlsSettings {
            cert_file: Some(path("a.crt")),
            key_file: None,
        };
        assert!(load(&half).contains("gateway.tls.key_file"));
        for (settings, words) in [
            (of("absent", "a.key"), ["gateway.tls.cert_file", "absent"]),
            (
                of("junk", "a.key"),
                ["gateway.tls.cert_file", "BEGIN CERTIFICATE"],
            ),
            (of("a.crt", "junk"), ["gateway.tls.key_file", "PRIVATE KEY"]),
            (
                of("a.crt", "b.key"),
                ["gateway.tls.key_file", "not that of the certificate"],
            ),
        ] {
            let error = load(&settings);
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
    }
}
