//! The way to the endpoint that is written onto cards, judged before it is: a card that no endpoint answers is found out at a pole.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::Uri;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier as _;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{ServerName, UnixTime};
use tokio_rustls::rustls::{self, CertificateError, RootCertStore};

use super::Error;
use super::settings::EnrollSettings;
use crate::mqtt::tls as pem;

/// Looks at `enroll.url`, and, where the endpoint's certificate lies here, whether devices will take it: for the name in the address, from an authority
/// in `enroll.trust_file`, today.
///
/// # Errors
/// What is wrong, and where to set it right.
pub(super) fn check(settings: &EnrollSettings, url: &str) -> Result<(), Error> {
    let host = host(url).map_err(|why| Error::Argument(format!("enroll.url: {url:?} {why}")))?;
    // Cards may be made on a machine where the endpoint does not run.
    let here = settings.cert_file.as_ref().filter(|path| path.exists());
    let (Some(cert_file), Some(trust_file)) = (here, &settings.trust_file) else {
        return Ok(());
    };
    let wrong = |why: String| Error::File {
        key: "enroll.cert_file",
        path: cert_file.clone(),
        why,
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(pem::certificates("trust_file", trust_file)?);
    let chain = pem::certificates("cert_file", cert_file)?;
    let Some((own, others)) = chain.split_first() else {
        return Err(wrong("it holds no certificate".into()));
    };
    let trusted = format!("enroll.trust_file ({})", trust_file.display());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()))
            .build()
            .map_err(|error| wrong(format!("nothing leads from it to {trusted}: {error}")))?;
    let now = UnixTime::since_unix_epoch(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    let verified = verifier.verify_server_cert(own, others, &host, &[], now);
    let why = match verified {
        Ok(_) => return Ok(()),
        Err(rustls::Error::InvalidCertificate(why)) => why,
        Err(error) => return Err(wrong(error.to_string())),
    };
    Err(wrong(match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "devices would not trust it: it comes from no authority in {trusted}; have the certificates between them in this file, too"
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!(
                "devices would not take it: it is not for {}, where enroll.url sends them",
                host.to_str()
            )
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired: have it issued anew".to_string()
        }
        other => format!("devices would not take it: {other}"),
    }))
}

/// The name or address in it.
fn host(url: &str) -> Result<ServerName<'static>, &'static str> {
    let form = "is no address; write it as https://host:8443";
    let uri: Uri = url.parse().map_err(|_| form)?;
    match uri.scheme_str() {
        Some("https") => {}
        Some(_) => {
            return Err("is not https; devices would give their token away: write it as https://host:8443");
        }
        None => return Err("has no scheme; write it as https://host:8443"),
    }
    let host = uri.host().ok_or(form)?;
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = plain.parse::<IpAddr>() {
        return Ok(ServerName::IpAddress(address.into()));
    }
    ServerName::try_from(host.to_string()).map_err(|_| form)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    #[test]
    fn an_address_is_https_and_has_a_host() {
        for (url, said) in [
            ("localhost:8443", "no scheme"),
            ("http://relay:8443", "not https"),
            ("https://", "no address"),
            ("", "no address"),
        ] {
            let why = check(&EnrollSettings::default(), url).unwrap_err().to_string();
            assert!(why.contains("enroll.url") && why.contains(said), "{url}: {why}");
        }
        for url in [
            "https://relay.example:8443",
            "https://10.1.2.3",
            "https://[::1]:8443/x",
        ] {
            check(&EnrollSettings::default(), url).unwrap();
        }
    }

    #[test]
    fn the_endpoints_certificate_is_one_that_devices_take() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuers = ["right", "wrong"].map(|name| {
            let key = KeyPair::generate().unwrap();
            let certificate = authority.self_signed(&key).unwrap();
            fs::write(path(name), certificate.pem()).unwrap();
            Issuer::new(authority.clone(), key)
        });
        let key = KeyPair::generate().unwrap();
        let mut own = CertificateParams::new(["relay.example".to_string(), "10.1.2.3".to_string()]).unwrap();
        fs::write(path("cert"), own.signed_by(&key, &issuers[0]).unwrap().pem()).unwrap();
        own.not_after = rcgen::date_time_ymd(2001, 1, 1);
        own.not_before = rcgen::date_time_ymd(2000, 1, 1);
        fs::write(path("old"), own.signed_by(&key, &issuers[0]).unwrap().pem()).unwrap();
        let said = |cert: &str, trust: &str, url: &str| {
            let settings = EnrollSettings {
                cert_file: Some(path(cert)),
                trust_file: Some(path(trust)),
                ..EnrollSettings::default()
            };
            check(&settings, url).err().map(|error| error.to_string())
        };
        assert_eq!(said("cert", "right", "https://relay.example:8443"), None);
        assert_eq!(said("cert", "right", "https://10.1.2.3:8443"), None);
        assert_eq!(said("elsewhere", "right", "https://typo.example"), None);
        for (cert, trust, url, part) in [
            (
                "cert",
                "right",
                "https://typo.example",
                "it is not for typo.example",
            ),
            (
                "cert",
                "wrong",
                "https://relay.example",
                "no authority in enroll.trust_file",
            ),
            ("old", "right", "https://relay.example", "it has expired"),
        ] {
            let why = said(cert, trust, url).unwrap_or_default();
            assert!(
                why.contains(part) && why.contains("enroll.cert_file"),
                "{part}: {why}"
            );
        }
    }
}
