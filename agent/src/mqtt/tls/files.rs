//! PEM files, and how to tell that they have changed.

use std::path::{Path, PathBuf};
#[cfg(feature = "enroll")]
use std::sync::Arc;
use std::time::SystemTime;

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
#[cfg(feature = "enroll")]
use tokio_rustls::rustls::sign::SigningKey;
use tokio_rustls::rustls::{self, InconsistentKeys};

use super::error::Error;
use crate::config;

/// The largest file that is read: many authorities are less.
const FILE_MAX: u64 = 4 * 1024 * 1024;

/// What tells one content of a file from another, without reading it: path, length, time of change, inode (a renewal replaces the file).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark(PathBuf, Option<(u64, Option<SystemTime>, u64)>);

/// The marks of all files that the settings name.
pub(super) fn marks(settings: &config::Tls) -> Vec<Mark> {
    let files = [&settings.ca_file, &settings.cert_file, &settings.key_file];
    files
        .into_iter()
        .flatten()
        .map(|path| {
            let about = std::fs::metadata(path).ok();
            let about = about.map(|about| (about.len(), about.modified().ok(), inode(&about)));
            Mark(path.clone(), about)
        })
        .collect()
}

fn inode(about: &std::fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    about.ino()
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let wrong = |source| Error::Read {
        path: path.to_path_buf(),
        source,
    };
    let length = std::fs::metadata(path).map_err(wrong)?.len();
    if length > FILE_MAX {
        return Err(Error::NotPem {
            path: path.to_path_buf(),
            what: "certificate or key",
            why: format!("it has {length} bytes"),
        });
    }
    std::fs::read(path).map_err(wrong)
}

/// The certificates in a file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read(path)?;
    let wrong = |why: String| Error::NotPem {
        path: path.to_path_buf(),
        what: "certificate",
        why,
    };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("there is no BEGIN CERTIFICATE in it".into()));
    }
    Ok(certificates)
}

/// The authorities that this system trusts.
pub(super) fn system_authorities() -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found
            .errors
            .first()
            .map_or_else(|| "there are none".to_string(), ToString::to_string);
        return Err(Error::NoSystemAuthorities(why));
    }
    Ok(found.certs)
}

/// A certificate with what leads to its authority, and its key.
pub(super) fn identity(
    cert_file: &Path,
    key_file: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, Error> {
    let chain = certificates(cert_file)?;
    let key = private_key(key_file)?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Error::KeyMismatch {
            cert_file: cert_file.to_path_buf(),
            key_file: key_file.to_path_buf(),
        },
        rustls::Error::InvalidCertificate(why) => Error::Unusable {
            path: cert_file.to_path_buf(),
            why,
        },
        other => Error::Key {
            path: key_file.to_path_buf(),
            why: other.to_string(),
        },
    })
}

/// A private key, ready to sign.
#[cfg(feature = "enroll")]
pub(super) fn key(key_file: &Path, provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, Error> {
    let key = private_key(key_file)?;
    provider
        .key_provider
        .load_private_key(key)
        .map_err(|error| Error::Key {
            path: key_file.to_path_buf(),
            why: error.to_string(),
        })
}

fn private_key(key_file: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let text = read(key_file)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let encrypted = text.windows(9).any(|window| window == b"ENCRYPTED");
        Error::NotPem {
            path: key_file.to_path_buf(),
            what: "private key",
            why: if encrypted {
                "it is encrypted; take its password off with: openssl pkey -in KEY -out PLAIN".into()
            } else {
                match error {
                    rustls::pki_types::pem::Error::NoItemsFound => {
                        "there is no BEGIN … PRIVATE KEY in it".into()
                    }
                    other => other.to_string(),
                }
            },
        }
    })
}
