//! TLS to a broker: certificates from PEM files, and errors that say what to do.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, InconsistentKeys,
    RootCertStore, SignatureScheme,
};

use super::settings::TlsSettings;

/// What is wrong with the files, before anything is sent. Each message begins with a key of the section `tls`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{key}: cannot read {}: {source}", path.display())]
    Read {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{key}: {} holds no {what} in PEM form: {why}", path.display())]
    NotPem {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is looked for.
        what: &'static str,
        /// What was found.
        why: String,
    },
    /// Certificate and key are of two renewals.
    #[error("key_file: the key in {} is not that of the certificate in {}", key_file.display(), cert_file.display())]
    KeyMismatch {
        /// The certificate.
        cert_file: PathBuf,
        /// The key.
        key_file: PathBuf,
    },
    /// rustls cannot use the certificate or its key.
    #[error("cert_file: {} cannot be used with its key: {why}", path.display())]
    Unusable {
        /// The certificate.
        path: PathBuf,
        /// What rustls says.
        why: rustls::Error,
    },
    /// No certificate is an authority's.
    #[error("ca_file: no certificate in {} can be an authority's", .0.as_ref().map_or_else(|| "this system's store".into(), |path| path.display().to_string()))]
    NoAuthority(Option<PathBuf>),
    /// The system trusts nobody.
    #[error(
        "ca_file is not set, and this system has no certificates of authorities ({0}): set it, or install them (Debian: ca-certificates)"
    )]
    NoSystemAuthorities(String),
    /// Not a name that a certificate can bear.
    #[error("server_name: {0:?} is no name that a certificate can bear")]
    Name(String),
    /// The settings do not go together.
    #[error("it cannot be set up: {0}")]
    Setup(String),
}

/// What rustls needs for a connection. Blocks on files.
///
/// # Errors
/// [`Error`].
pub fn config(settings: &TlsSettings) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let setup = |error: rustls::Error| Error::Setup(error.to_string());
    let verifier = WebPkiServerVerifier::builder_with_provider(authorities(settings)?, Arc::clone(&provider))
        .build()
        .map_err(|error| Error::Setup(error.to_string()))?;
    let name = match &settings.server_name {
        Some(name) => Some(ServerName::try_from(name.clone()).map_err(|_| Error::Name(name.clone()))?),
        None => None,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { verifier, name }));
    let config = match (&settings.cert_file, &settings.key_file) {
        (Some(cert_file), Some(key_file)) => {
            let chain = certificates("cert_file", cert_file)?;
            let key = private_key(key_file)?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| match error {
                    rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Error::KeyMismatch {
                        cert_file: cert_file.clone(),
                        key_file: key_file.clone(),
                    },
                    why => Error::Unusable {
                        path: cert_file.clone(),
                        why,
                    },
                })?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// The certificates in a file, at least one.
pub(crate) fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let wrong = |why: String| Error::NotPem {
        key,
        path: path.to_path_buf(),
        what: "certificate",
        why,
    };
    let text = read(key, path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("there is no BEGIN CERTIFICATE in it".into()));
    }
    Ok(certificates)
}

pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let text = read("key_file", path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let encrypted = text.windows(9).any(|window| window == b"ENCRYPTED");
        let why = match error {
            _ if encrypted => {
                "it is encrypted; take its password off with: openssl pkey -in KEY -out PLAIN".into()
            }
            pem::Error::NoItemsFound => "there is no BEGIN … PRIVATE KEY in it".into(),
            other => other.to_string(),
        };
        Error::NotPem {
            key: "key_file",
            path: path.to_path_buf(),
            what: "private key",
            why,
        }
    })
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read {
        key,
        path: path.to_path_buf(),
        source,
    })
}

fn authorities(settings: &TlsSettings) -> Result<Arc<RootCertStore>, Error> {
    let certificates = match &settings.ca_file {
        Some(path) => certificates("ca_file", path)?,
        None => {
            let found = rustls_native_certs::load_native_certs();
            if found.certs.is_empty() {
                let why = found
                    .errors
                    .first()
                    .map_or("there are none".into(), ToString::to_string);
                return Err(Error::NoSystemAuthorities(why));
            }
            found.certs
        }
    };
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(Error::NoAuthority(settings.ca_file.clone()));
    }
    Ok(Arc::new(store))
}

/// Looks for the name that is set in place of the host's.
#[derive(Debug)]
struct Verifier {
    verifier: Arc<WebPkiServerVerifier>,
    name: Option<ServerName<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let name = self.name.as_ref().unwrap_or(server_name);
        self.verifier
            .verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// An error of a connection that is one of TLS, for a person. `section` is where the settings stand.
pub fn explain(error: &(dyn StdError + 'static), settings: &TlsSettings, section: &str) -> Option<String> {
    Some(match cause(error)? {
        rustls::Error::InvalidCertificate(why) => {
            let what = match why {
                CertificateError::UnknownIssuer => format!(
                    "comes from an authority that is not among {}; set {section}.tls.ca_file to that authority's certificate",
                    match &settings.ca_file {
                        Some(path) => format!("those in {}", path.display()),
                        None => "those that this system trusts".into(),
                    }
                ),
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    format!("is not for the name asked for ({why}); see {section}.tls.server_name")
                }
                other => format!("cannot be accepted: {other}"),
            };
            format!("the broker's certificate {what}")
        }
        rustls::Error::AlertReceived(alert) => match (&settings.cert_file, alert) {
            (
                None,
                AlertDescription::CertificateRequired
                | AlertDescription::HandshakeFailure
                | AlertDescription::BadCertificate,
            ) => format!(
                "the broker demands a certificate ({alert:?}); set {section}.tls.cert_file and {section}.tls.key_file"
            ),
            (Some(path), AlertDescription::CertificateExpired) => {
                format!(
                    "the broker says that the certificate in {} has expired",
                    path.display()
                )
            }
            (Some(path), _) => format!(
                "the broker ended the TLS handshake ({alert:?}); does it accept the certificate in {}? Its log says why",
                path.display()
            ),
            (None, _) => format!("the broker ended the TLS handshake ({alert:?}); its log says why"),
        },
        rustls::Error::InvalidMessage(_) => {
            "what answers does not speak TLS; is the port one of the broker's TLS listeners?".into()
        }
        other => format!("TLS: {other}"),
    })
}

/// The error of rustls's in a chain. One within an [`io::Error`] is not its source.
fn cause<'a>(mut error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    loop {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        error = match within {
            Some(within) => within,
            None => error.source()?,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    /// A certificate that signs itself, and its key.
    fn pair(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_string()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let (cert_file, key_file) = (
            folder.join(format!("{name}.crt")),
            folder.join(format!("{name}.key")),
        );
        std::fs::write(&cert_file, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        (cert_file, key_file)
    }

    #[test]
    fn files_that_cannot_be_used_are_told_with_their_key() {
        let folder = tempfile::tempdir().unwrap();
        let (ca, _) = pair(folder.path(), "ca");
        let (cert, key) = pair(folder.path(), "relay");
        let (_, other) = pair(folder.path(), "other");
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "nothing").unwrap();
        let absent = folder.path().join("absent.pem");
        let encrypted = folder.path().join("encrypted.key");
        std::fs::write(
            &encrypted,
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        )
        .unwrap();
        let settings = |ca: &Path, cert: &Path, key: &Path| TlsSettings {
            ca_file: Some(ca.to_path_buf()),
            cert_file: Some(cert.to_path_buf()),
            key_file: Some(key.to_path_buf()),
            server_name: None,
        };
        config(&settings(&ca, &cert, &key)).unwrap();
        for (settings, says) in [
            (settings(&absent, &cert, &key), "ca_file: cannot read"),
            (settings(&empty, &cert, &key), "ca_file: "),
            (settings(&ca, &empty, &key), "no BEGIN CERTIFICATE"),
            (settings(&ca, &cert, &empty), "no BEGIN … PRIVATE KEY"),
            (settings(&ca, &cert, &encrypted), "openssl pkey"),
            (settings(&ca, &cert, &other), "is not that of the certificate"),
            (
                TlsSettings {
                    server_name: Some("no name".into()),
                    ..settings(&ca, &cert, &key)
                },
                "server_name: \"no name\"",
            ),
        ] {
            let error = config(&settings).unwrap_err().to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
    }

    #[test]
    fn an_error_of_tls_is_found_wherever_it_is_wrapped() {
        let alert = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        let error = rumqttc::ConnectionError::Io(io::Error::new(io::ErrorKind::InvalidData, alert));
        let told = explain(&error, &TlsSettings::default(), "mqtt").unwrap();
        assert!(told.contains("mqtt.tls.cert_file"), "{told}");
        let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let io = io::Error::new(io::ErrorKind::InvalidData, unknown);
        let error = rumqttc::ConnectionError::Tls(rumqttc::TlsError::Io(io));
        let told = explain(&error, &TlsSettings::default(), "mqtt").unwrap();
        assert!(told.contains("mqtt.tls.ca_file"), "{told}");
        let plain = rumqttc::ConnectionError::Io(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(explain(&plain, &TlsSettings::default(), "mqtt"), None);
    }
}
